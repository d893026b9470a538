from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from small import CONFIG, EXPERIMENT

from neuralef import drives_study
from neuralef.datasets.base import IGNORE_LABEL
from neuralef.drives_study import beside_val, drives, effective_sample_size, frame_of, run
from neuralef.errors import InputError
from neuralef.evaluation import image_counts, score
from neuralef.experiments import run_experiment
from neuralef.methods import REGISTRY
from neuralef.paths import reference_root
from neuralef.results import read_results, read_rows
from neuralef.segmentation import segment_store
from neuralef.workbench import open_workbench

METHODS = ["kmeans", "ours", "ours_plus"]


@pytest.fixture
def bench(own_cache):
    return open_workbench(EXPERIMENT, progress=False)


@pytest.mark.parametrize(
    ("image_id", "frame"),
    [
        ("0016E5_07959", ("0016E5", 7959)),
        ("Seq05VD_f00030", ("Seq05VD", 30)),
        ("train-000003", ("train", 3)),
        ("a_b_1", ("a_b", 1)),
    ],
)
def test_an_id_names_drive_and_frame(image_id, frame):
    assert frame_of(image_id) == frame


@pytest.mark.parametrize("image_id", ["0000047", "road_a", "_12", "0016E5_"])
def test_an_id_that_names_none_is_named(image_id):
    with pytest.raises(InputError, match=f"image '{image_id}' names no drive and frame"):
        frame_of(image_id)


def test_frames_stand_by_drive_in_the_order_of_their_numbers():
    found = drives(["b_10", "a_2", "b_9", "a_1", "b_100"])
    assert {drive: positions.tolist() for drive, positions in found.items()} == {"a": [3, 1], "b": [2, 0, 4]}


def test_a_single_drive_is_parted_in_thirds():
    found = drives([f"a_{number}" for number in range(7)])
    assert {drive: positions.tolist() for drive, positions in found.items()} == {
        "a, 1 of 3": [0, 1, 2],
        "a, 2 of 3": [3, 4],
        "a, 3 of 3": [5, 6],
    }
    with pytest.raises(InputError, match="there are 2 frames of one drive; it takes 3"):
        drives(["a_0", "a_1"])


@pytest.fixture
def film():
    """Two drives to train and one clip of another; labels of two pixels, by hand."""
    void = IGNORE_LABEL
    labels = {
        "a_0": [0, 0],
        "a_30": [0, 1],
        "a_90": [void, 1],  # seen in both: the second pixel, and there the same
        "b_5": [2, 2],
        "c_12": [0, 1],
        "c_10": [0, 0],
    }
    ids = {"train": ["a_0", "a_30", "a_90", "b_5"], "val": ["c_10", "c_12"]}
    label = {image_id: np.array([values], dtype=np.uint8) for image_id, values in labels.items()}
    image = {image_id: np.full((1, 2, 3), number, dtype=np.uint8) for number, image_id in enumerate(labels)}
    return SimpleNamespace(dataset=SimpleNamespace(ids=ids.get), label=label.get, image=image.get)


def test_clips_say_when_frames_were_taken_and_how_alike_they_are(film):
    found = drives_study.clips(film)
    assert found.to_dict("list") == {
        "split": ["train", "train", "val"],
        "drive": ["a", "b", "c"],
        "frames": [3, 1, 2],
        "first": [0, 5, 10],
        "last": [90, 5, 12],
        "seconds": [3.0, 0.0, pytest.approx(2 / 30)],
        "apart": [1.5, pytest.approx(np.nan, nan_ok=True), pytest.approx(2 / 30)],
        "alike": [0.75, pytest.approx(np.nan, nan_ok=True), 0.5],
    }
    table = drives_study.clip_table(found)
    assert table["same class in the next frame"].tolist() == ["75 %", "not known", "50 %"]
    assert table["seconds between neighbours"].tolist() == ["1.50", "not known", "0.07"]
    frames = drives_study.figure_frames(film)
    assert frames["drive"].tolist() == ["a", "a", "a", "b", "c", "c"]
    assert frames["seconds"].tolist() == pytest.approx([0, 1, 3, 1 / 6, 1 / 3, 0.4])


def test_examples_lie_at_even_distances(film):
    found = list(drives_study.examples(film, 2))
    assert [(split, image_id) for split, image_id, _ in found] == [
        ("val", "c_10"),
        ("val", "c_12"),
        ("train", "a_0"),
        ("train", "b_5"),
    ]
    assert [image.max() for *_, image in found] == [5, 4, 0, 3]
    many = [image_id for _, image_id, _ in drives_study.examples(film, 9)]
    assert many == [*film.dataset.ids("val"), *film.dataset.ids("train")]


def test_independent_values_count_whole_and_repeated_ones_once():
    values = np.random.default_rng(0).normal(size=20000)
    assert effective_sample_size(values) == pytest.approx(len(values), rel=0.1)
    assert effective_sample_size(np.repeat(values, 8)) == pytest.approx(len(values), rel=0.1)
    assert effective_sample_size(np.ones(9)) == 9


def test_a_series_that_remembers_counts_as_its_theory_says():
    rng, memory = np.random.default_rng(1), 0.9
    values = np.zeros(100000)
    for index in range(1, len(values)):
        values[index] = memory * values[index - 1] + rng.normal()
    assert effective_sample_size(values) == pytest.approx(len(values) * (1 - memory) / (1 + memory), rel=0.15)


def test_each_drive_is_scored_by_what_was_fitted_to_the_others(bench, tmp_path, monkeypatch):
    seen, fitted = [], type(REGISTRY["ours"]).fitted

    def watched(recipe, store, *arguments, **keywords):
        head = fitted(recipe, store, *arguments, **keywords)
        seen.append((store, head))
        return head

    monkeypatch.setattr(type(REGISTRY["ours"]), "fitted", watched)
    rows = run(bench, [EXPERIMENT], METHODS, tmp_path / "d.csv")
    parts = drives(bench.train.ids)
    assert rows.groupby("drive").size().to_dict() == dict.fromkeys(parts, 3 * len(METHODS))
    assert len(seen) == len(parts) * len(METHODS)
    for number, (drive, judged) in enumerate(parts.items()):
        apart = {bench.train.ids[position] for position in judged}
        for store, _ in seen[number * len(METHODS) :][: len(METHODS)]:
            assert set(store.ids) == set(bench.train.ids) - apart
        _, head = seen[number * len(METHODS) + METHODS.index("ours")]
        counts = np.zeros((head.num_clusters, len(bench.dataset.classes)), dtype=int)
        for image_id, clusters in segment_store(head, bench.train.chosen(judged, "judged"), bench.image):
            assert image_id in apart
            counts += image_counts(clusters, bench.label(image_id), *counts.shape)
        row = rows.set_index(["drive", "method", "matching"]).loc[drive, "ours", "max_iou"]
        assert row["mean_iou"] == score(counts, "max_iou").mean_iou
        assert (row["split"], row["images"], row["photographs"], row["steps"]) == ("train", 2, 4, 2)


def test_an_interrupted_study_continues_and_a_whole_one_stands(bench, tmp_path, monkeypatch):
    path, counts, calls = tmp_path / "d.csv", drives_study._Evaluated.counts, []

    def interrupted(*arguments):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(arguments)
        return counts(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(drives_study._Evaluated, "counts", interrupted)
        run(bench, [EXPERIMENT], METHODS, path)
    assert len(pd.read_csv(path)) == 4 * 3
    rows = run(bench, [EXPERIMENT], METHODS, path)
    assert len(rows) == len(pd.read_csv(path)) == 9 * 3
    monkeypatch.setattr(drives_study._Evaluated, "counts", lambda *_: pytest.fail("computed again"))
    pd.testing.assert_frame_equal(run(bench, [EXPERIMENT], METHODS, path), rows)
    assert set(run(bench, [EXPERIMENT], ["ours"], path)["method"]) == {"ours"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["kmeans", "median"]}, "unknown method 'median'"),
        ({"experiments": []}, "there is no seed to run"),
        (
            {"experiments": [replace(EXPERIMENT, config=replace(CONFIG, protocol="sliding"))]},
            "protocol is sliding and crf none; drives are scored by crop320 without a CRF",
        ),
    ],
)
def test_what_cannot_be_run_is_named_before_anything_is_computed(bench, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr("neuralef.workbench.extract", lambda *_, **__: pytest.fail("extracted"))
    given = {"experiments": [EXPERIMENT], "methods": METHODS} | changes
    with pytest.raises(InputError, match=message):
        run(bench, given["experiments"], given["methods"], tmp_path / "d.csv")


def test_without_the_dataset_there_is_nothing(tmp_path):
    found = run(None, [], METHODS, tmp_path / "d.csv")
    assert found.empty
    assert not list(tmp_path.iterdir())
    cases = beside_val(found, pd.DataFrame())
    assert drives_study.sentences(cases) == []
    for table in (drives_study.score_table(cases), drives_study.gain_table(cases), drives_study.clips(None)):
        assert table.empty
    assert drives_study.figure_frames(None).empty
    assert drives_study.figure_gains(cases).empty
    assert drives_study.intervals(pd.DataFrame(), tmp_path, METHODS, [1]).empty
    assert list(drives_study.examples(None, 3)) == []


def test_frames_that_repeat_each_other_widen_the_interval(bench, tmp_path, monkeypatch):
    rows = pd.DataFrame(run_experiment(EXPERIMENT, METHODS, tmp_path, bench=bench, image_tables=True, progress=False))
    read = drives_study.read_image_tables

    def repeated(*arguments):
        return np.repeat(read(*arguments), 10, axis=0)

    for module in ("drives_study", "comparison"):
        monkeypatch.setattr(f"neuralef.{module}.read_image_tables", repeated)
    found = drives_study.intervals(rows.assign(images=30), tmp_path, METHODS, [1, 10], draws=200)
    assert found["method"].tolist() == ["Ours", "Ours+"]
    assert found["frames"].tolist() == ["30", "30"]
    assert (found["effective sample size"].astype(int) < 10).all()
    ends = found[["one by one", "in blocks of 10"]].map(lambda cell: np.diff([float(x) for x in _ends(cell)]).item())
    assert (ends["in blocks of 10"] > ends["one by one"]).all()


def test_images_without_labels_gain_nothing(tmp_path, monkeypatch):
    tables = {
        "kmeans": np.array([[[3, 1], [0, 4]], [[0, 0], [0, 0]], [[2, 2], [1, 3]]]),
        "ours": np.array([[[4, 0], [0, 4]], [[0, 0], [0, 0]], [[1, 2], [2, 3]]]),
    }
    monkeypatch.setattr(drives_study, "read_image_tables", lambda out, one, method: tables[method])
    rows = pd.DataFrame({"method": ["kmeans", "ours"], "seed": 0, "experiment_id": "e"})
    gains = drives_study.accuracy_gains(rows, tmp_path, "ours")
    assert gains.tolist() == [1 - 7 / 8, 4 / 8 - 5 / 8]


def test_blocks_longer_than_the_film_are_named(tmp_path):
    with pytest.raises(InputError, match=r"blocks are \[1, 4\]; of 3 frames 1 to 3 can be drawn together"):
        drives_study.intervals(pd.DataFrame({"images": [3, 3]}), tmp_path, METHODS, [1, 4])


def _ends(cell):
    return cell[cell.index("(") + 1 : -1].split(" to ")


@pytest.fixture
def cases():
    """Two drives and val, two seeds; in any order."""
    scores = {
        ("val", "kmeans"): (0.40, 0.42),
        ("val", "ours"): (0.39, 0.42),
        ("a", "kmeans"): (0.30, 0.32),
        ("a", "ours"): (0.35, 0.33),
        ("b", "kmeans"): (0.20, 0.20),
        ("b", "ours"): (0.19, 0.23),
    }
    found = pd.DataFrame(
        [
            {"drive": drive, "method": method, "matching": matching, "seed": seed, "mean_iou": value}
            for (drive, method), values in scores.items()
            for seed, value in enumerate(values)
            for matching in ("max_iou", "hungarian")
        ]
    ).sample(frac=1, random_state=0)
    on_val = found["drive"] == "val"
    return beside_val(found[~on_val], found[on_val].drop(columns="drive"))


def test_scores_stand_by_method_and_drive(cases):
    assert drives_study.score_table(cases).to_dict("list") == {
        "method": ["K-means", "Ours"],
        "val": ["41.0 ± 1.4", "40.5 ± 2.1"],
        "a": ["31.0 ± 1.4", "34.0 ± 1.4"],
        "b": ["20.0 ± 0.0", "21.0 ± 2.8"],
        "mean of drives": ["25.5 ± 0.7", "27.5 ± 0.7"],
    }


def test_gains_are_those_of_the_same_drive_and_seed(cases):
    assert drives_study.gain_table(cases).to_dict("list") == {
        "method, against K-means": ["Ours"],
        "val": ["-0.5 ± 0.7 (0 of 2)"],
        "a": ["+3.0 ± 2.8 (2 of 2)"],
        "b": ["+1.0 ± 2.8 (1 of 2)"],
        "mean of drives": ["+2.0 ± 0.0 (2 of 2)"],
    }
    drawn = drives_study.figure_gains(cases)
    assert drawn["panel"].unique().tolist() == ["val", "a", "b", "mean of drives"]
    assert drawn["method"].unique().tolist() == ["Ours"]
    assert drawn.loc[drawn["panel"] == "mean of drives", "value"].tolist() == pytest.approx([0.02, 0.02])


def test_sentences_say_what_the_numbers_say(cases):
    assert drives_study.sentences(cases) == [
        "Ours against K-means: -0.5 (-6.9 to +5.9) points on val, +2.0 (+2.0 to +2.0) in the mean of the drives left "
        "out, where the interval excludes 0; higher in 3 of 4 pairs of drive and seed, and in the mean of 2 of 2 "
        "drives."
    ]


def test_where_ours_plus_is_above_every_kmeans_is_counted_by_drive(cases):
    centred = cases[cases["method"] == "kmeans"].assign(method="kmeans_centred", mean_iou=[0.31] * 3 + [0.36] * 3)
    plus = cases[cases["method"] == "ours"].assign(method="ours_plus")
    parts = cases[cases["method"] == "kmeans"].assign(method="kmeans_plus")
    parts["mean_iou"] += 0.1
    found = drives_study.sentences(pd.concat([cases, centred, parts, plus]))
    assert found[-1] == (  # parts on K-means would be above it everywhere, but are not asked here
        "Ours+ is above every K-means without its parts in 0 of 2 seeds on val, 1 of 2 on a, 0 of 2 on b."
    )
    assert found[-2].startswith("Ours+ against K-means, parts of Ours+: -10.5 (-16.9 to -4.1) points on val, -8.0 (")


def test_gains_need_kmeans(cases):
    others = cases[cases["method"] == "ours"].assign(matching="max_iou")
    with pytest.raises(InputError, match="gains are on kmeans, which was not run"):
        beside_val(others[others["drive"] != "val"], others[others["drive"] == "val"])


def test_the_committed_tables_are_those_of_the_committed_rows():
    folder = reference_root("studies")
    rows = read_rows(folder / drives_study.FILE, drives_study.COLUMNS, text=["part_id", "drive", "git_sha"])
    assert rows.groupby(["drive", "method", "matching"])["seed"].nunique().eq(5).all()
    on_val = read_results(folder / "results.csv")
    on_val = on_val[(on_val["dataset"] == "camvid") & on_val["method"].isin(rows["method"])]
    found = beside_val(rows, on_val)
    for stem, table in (("37_scores", drives_study.score_table), ("37_gains", drives_study.gain_table)):
        pd.testing.assert_frame_equal(pd.read_csv(folder / "tables" / f"{stem}.csv"), table(found), check_dtype=False)
