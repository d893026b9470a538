import csv
import multiprocessing
from dataclasses import fields

import pytest

from neuralef import results
from neuralef.config import Config
from neuralef.errors import InputError
from neuralef.paths import reference_root
from neuralef.results import append_classes, append_rows, parameter_columns, read_results, read_rows, select

IDENTITY = [
    "experiment_id", "dataset", "trained_on", "split", "images", "backbone", "method", "clusters", "classes",
    "matching", "protocol", "crf", "seed",
]  # fmt: skip
METRICS = ["accuracy", "mean_iou", "clusters_used"]
PROVENANCE = [
    "git_sha", "dirty", "versions", "device", "threads", "extract_s", "train_s", "cluster_s", "eval_s", "peak_rss_mb",
    "created",
]  # fmt: skip


def row(experiment_id="0123", *, method="ours", matching="max_iou", config=None, **changes):
    return {
        "experiment_id": experiment_id,
        "dataset": "synthetic_scenes",
        "trained_on": "synthetic_scenes",
        "split": "val",
        "images": 3,
        "backbone": "colour_patches",
        "method": method,
        "clusters": 12,
        "classes": 8,
        "matching": matching,
        "protocol": "crop320",
        "crf": "none",
        "seed": 0,
        "accuracy": 0.1 + 0.2,
        "mean_iou": 1 / 3,
        "clusters_used": 11,
        "git_sha": "0000000000111111111122222222223333333333",
        "dirty": True,
        "versions": "python 3.11.7; numpy 2.0",
        "device": 'a "processor", 2 threads used',
        "threads": 2,
        "extract_s": 1.5,
        "train_s": 0.0,
        "cluster_s": 0.25,
        "eval_s": 0.125,
        "peak_rss_mb": 512.0,
        "created": "2024-01-01T00:00:00+00:00",
        **parameter_columns(config or Config(blocks=(0, 4, 8), width=384)),
        **changes,
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out" / "results.csv"


def test_columns_come_in_the_groups_of_the_contract():
    assert list(results.COLUMNS) == [*IDENTITY, *METRICS, *(f"p_{field.name}" for field in fields(Config)), *PROVENANCE]


def test_rows_come_back_with_their_types(path):
    written = row()
    assert append_rows(path, [written]) == 1
    (read,) = read_results(path).to_dict("records")
    assert list(read) == list(results.COLUMNS)
    assert read == written
    assert read["accuracy"] == 0.1 + 0.2  # to the last bit
    for name, kind in results.ResultRow.__annotations__.items():
        assert isinstance(read[name], kind), name


@pytest.mark.parametrize("experiment_id", ["0123456789012345", "00000000000000e5", "1234e567", "nan", "None"])
def test_ids_that_look_like_something_else_stay_text(path, experiment_id):
    append_rows(path, [row(experiment_id)])
    assert read_results(path)["experiment_id"].tolist() == [experiment_id]
    assert append_rows(path, [row(experiment_id)]) == 0


def test_parameters_are_one_cell_each():
    cells = parameter_columns(Config(blocks=(0, 4, 8)))
    assert cells["p_blocks"] == "0;4;8"
    assert cells["p_coordinate_weights"] == "2.0;0.1"
    assert cells["p_width"] == "default"
    assert cells["p_learning_rate"] == 1e-3
    assert cells["p_quantise"] is True
    assert cells.keys() == {f"p_{field.name}" for field in fields(Config)}


def test_parameters_come_back_as_the_configuration_they_came_from(path):
    config = Config(blocks=(0, 4, 8), epochs=3, quantise=False, pixel_weight=0.0)
    append_rows(path, [row(config=config)])
    (read,) = read_results(path).to_dict("records")
    cells = {name: read[f"p_{name}"] for name in (field.name for field in fields(Config))}
    given = {name: None if isinstance(value, str) and value == "default" else value for name, value in cells.items()}
    assert Config().updated(given) == config


def test_rows_are_added_in_order_and_never_changed(path):
    append_rows(path, [row("a"), row("a", matching="majority")])
    before = path.read_text()
    append_rows(path, [row("b")])
    assert path.read_text().startswith(before)
    assert read_results(path)["experiment_id"].tolist() == ["a", "a", "b"]


def test_a_row_that_is_there_already_is_left_as_it_is(path):
    append_rows(path, [row("a")])
    before = path.read_text()
    assert append_rows(path, [row("a", accuracy=0.9)]) == 0
    assert path.read_text() == before
    assert append_rows(path, [row("a"), row("a", method="kmeans"), row("a", matching="hungarian"), row("b")]) == 3


def test_of_equal_rows_given_together_the_first_is_kept(path):
    assert append_rows(path, [row("a", accuracy=0.1), row("b"), row("a", accuracy=0.9)]) == 2
    read = read_results(path)
    assert read["experiment_id"].tolist() == ["a", "b"]
    assert read["accuracy"][0] == 0.1


def test_no_rows_make_no_file(path):
    assert append_rows(path, []) == 0
    assert not path.exists()


@pytest.mark.parametrize("line_end", ["", "\r\n"])
def test_a_file_that_an_editor_saved_is_continued(path, line_end):
    append_rows(path, [row("a"), row("b")])
    lines = path.read_text().splitlines()
    path.write_bytes((line_end or "\n").join(lines).encode() + line_end.encode())
    assert append_rows(path, [row("b"), row("c")]) == 1
    read = read_results(path)
    assert read["experiment_id"].tolist() == ["a", "b", "c"]
    assert read["created"].nunique() == 1


@pytest.mark.parametrize(
    "header",
    [
        lambda names: names[:-1],
        lambda names: [*names, "p_new"],
        lambda names: names[::-1],
        lambda names: ["id", *names[1:]],
    ],
    ids=["fewer", "more", "reordered", "renamed"],
)
def test_a_file_with_other_columns_is_refused_and_left(path, header):
    path.parent.mkdir()
    text = ",".join(header(list(results.COLUMNS))) + "\n"
    path.write_text(text)
    with pytest.raises(InputError, match=f"{path} has other columns than this version writes"):
        append_rows(path, [row()])
    with pytest.raises(InputError, match=f"{path} has other columns than this version reads"):
        read_results(path)
    assert path.read_text() == text


def test_the_committed_results_read_as_trained_where_they_are_evaluated():
    frame = read_results(reference_root("quick") / "results.csv")
    assert len(frame)
    assert (frame["trained_on"] == frame["dataset"]).all()


def test_a_file_from_before_a_column_reads_as_its_default(path):
    append_rows(path, [row("a"), row("b")])
    newest = ["trained_on", *[f"p_{field.name}" for field in fields(Config)][-6:]]
    with path.open(newline="") as file:
        lines = [{name: cell for name, cell in line.items() if name not in newest} for line in csv.DictReader(file)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    read = read_results(path)
    assert list(read) == list(results.COLUMNS)
    assert read.to_dict("records") == [row("a"), row("b")]


def test_a_half_row_is_named_when_read_and_mended_when_its_experiment_runs_again(path, caplog):
    append_rows(path, [row("a"), row("b"), row("c")])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][: len(lines[2]) // 2] + "\n" + lines[3])
    with pytest.raises(InputError, match="rows that are not whole; run its experiments again"):
        read_results(path)
    assert append_rows(path, [row("a"), row("b"), row("c")]) == 1
    assert "one row is not whole" in caplog.text
    assert list(read_results(path)["experiment_id"]) == ["a", "c", "b"]


def test_a_row_of_commas_that_a_spreadsheet_left_is_no_row(path, caplog):
    append_rows(path, [row("a")])
    path.write_text(path.read_text() + "," * (len(results.COLUMNS) - 1) + "\n")
    with pytest.raises(InputError, match="rows that are not whole"):
        read_results(path)
    assert append_rows(path, [row("b")]) == 1
    assert "one row is not whole" in caplog.text
    assert read_results(path)["seed"].tolist() == [0, 0]  # numbers, not text


def test_a_byte_order_mark_is_no_other_column(path):
    append_rows(path, [row("a")])
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert append_rows(path, [row("a"), row("b")]) == 1
    assert list(read_results(path)["experiment_id"]) == ["a", "b"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_file_in_another_encoding_is_named_and_left(path, encoding):
    append_rows(path, [row("a", dataset="folder:Straßen")])
    path.write_text(path.read_text(), encoding=encoding)
    content = path.read_bytes()
    for use in (read_results, lambda path: append_rows(path, [row("b")])):
        with pytest.raises(InputError, match=f"{path} is not UTF-8 text"):
            use(path)
    assert path.read_bytes() == content


def test_rows_must_have_exactly_the_columns(path):
    incomplete = row()
    del incomplete["train_s"]
    for wrong in (incomplete, row(p_colour="red")):
        differing = "train_s" if wrong is incomplete else "p_colour"
        with pytest.raises(ValueError, match=f"columns of results.csv; differing: \\['{differing}'\\]"):
            append_rows(path, [row("good"), wrong])
    assert not path.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=f"cannot write to folder {tmp_path}/file/out"):
        append_rows(tmp_path / "file" / "out" / "results.csv", [row()])


def test_missing_results_say_what_to_run(path):
    with pytest.raises(InputError, match=f"no results in {path}; run `neuralef reproduce`"):
        read_results(path)


def test_select_keeps_the_order_in_which_rows_were_written(path):
    append_rows(path, [row(name) for name in "cabd"])
    assert select(read_results(path), ["a", "b", "c"])["experiment_id"].tolist() == ["c", "a", "b"]
    assert select(read_results(path), (name for name in "x")).empty


def test_classes_are_known_by_experiment_method_matching_and_class(path):
    base = {"experiment_id": "a", "method": "ours", "matching": "max_iou"}
    assert append_classes(path, [{**base, "class": name, "iou": 0.5} for name in ("sky", "tree")]) == 2
    assert append_classes(path, [{**base, "class": name, "iou": 0.6} for name in ("tree", "road")]) == 1
    with path.open(newline="") as file:
        found = [(line["class"], line["iou"]) for line in csv.DictReader(file)]
    assert found == [("sky", "0.5"), ("tree", "0.5"), ("road", "0.6")]


PROCESSES, ROUNDS = 4, 12


def add_rows(path, process):
    """Every row of its own, and in every round one that all processes add."""
    for number in range(ROUNDS):
        append_rows(path, [row(f"{process}-{number}"), row(f"shared-{number}")])


def test_processes_that_write_together_lose_nothing_and_leave_no_half_row(path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=add_rows, args=(path, process)) for process in range(PROCESSES)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        if path.is_file():
            lines = path.read_text().splitlines()  # a reader at any time finds whole rows
            assert all(len(cells) == len(results.COLUMNS) for cells in csv.reader(lines))
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    expected = {f"{process}-{number}" for process in (*range(PROCESSES), "shared") for number in range(ROUNDS)}
    found = read_results(path)["experiment_id"].tolist()
    assert len(found) == len(expected)
    assert set(found) == expected


def test_an_empty_line_that_an_editor_left_is_no_half_row(path):
    append_rows(path, [row("a"), row("b")])
    path.write_text(path.read_text() + "\n")
    assert list(read_results(path)["experiment_id"]) == ["a", "b"]


def test_rows_of_other_files_come_back_with_their_text(tmp_path):
    columns, path = ("id", "name", "value"), tmp_path / "rows.csv"
    assert read_rows(path, columns, text=["id"]).columns.tolist() == list(columns)
    assert read_rows(path, columns, text=["id"]).empty
    rows = [{"id": "0012", "name": "none", "value": 0.5}, {"id": "13", "name": "NA", "value": ""}]
    append_rows(path, rows, columns=columns, key=["id"])
    found = read_rows(path, columns, text=["id"])
    assert found.drop(columns="value").to_numpy().tolist() == [["0012", "none"], ["13", "NA"]]
    assert found["value"].fillna(-1).tolist() == [0.5, -1]
    with pytest.raises(InputError, match=r"rows\.csv has other columns than this version writes"):
        read_rows(path, columns[1:], text=[])
