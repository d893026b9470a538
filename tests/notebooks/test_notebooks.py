"""Every notebook: its form, its parameters, and what it does where something cannot be had."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import papermill
import pytest
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from neuralef import notebooks
from neuralef.config import load_profile
from neuralef.errors import InputError

SOURCES = notebooks.sources()


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook_has_the_form_of_the_style_guide(source):
    notebook = nbformat.read(source, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    parameters = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    assert len(parameters) == 1
    assert code.index(parameters[0]) == 1, "imports first, then parameters"
    for line in parameters[0].source.splitlines():
        assert "#" in line, f"a parameter without help: {line}"
        assert ":" in line.split("=")[0], f"a parameter without type: {line}"
    for cell in code:
        assert not cell.outputs
        assert cell.execution_count is None
        assert len(cell.source.splitlines()) <= 15, cell.source
        assert not any(line.startswith(("def ", "class ")) for line in cell.source.splitlines()), cell.source
    headings = [line for cell in notebook.cells for line in cell.source.splitlines() if line.startswith("## ")]
    for needed in ("Objectives", "Summary", "Notation"):
        assert any(needed in heading for heading in headings), f"no section {needed}"


def test_parameters_show_their_help():
    known = papermill.inspect_notebook(str(SOURCES[0]))
    assert known["profile"]["help"]


def test_unknown_parameter_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(InputError, match="flavour"):
        notebooks.execute(SOURCES[0], {"flavour": 1}, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "parameter", "message"),
    [
        ("32", {"datasets": "camvid"}, r"datasets is 'camvid'; write a list, as -p 'datasets=\[camvid\]'"),
        ("30", {"seeds": 3}, r"seeds is 3; write a list, as -p 'seeds=\[3\]'"),
        ("30", {"seeds": None}, r"'seeds=\[\]'"),
        ("18", {"gpu": 3090}, "gpu is 3090; write text in quotes, as -p 'gpu=\"3090\"'"),
        ("37", {"film": None}, "'film=\"\"'"),
        ("17", {"draws": "many"}, "draws is 'many'; write a whole number, as -p 'draws=1000'"),
        ("17", {"draws": True}, "draws is True"),
        ("17", {"draws": 10.5}, "draws is 10.5"),
        ("32", {"memory": 1}, "memory is 1; write true or false, as -p 'memory=True'"),
        # What YAML reads as a string.
        ("31", {"graph_rate": "3e-3"}, "graph_rate is '3e-3'; write a number, as -p 'graph_rate=0.003'"),
    ],
)
def test_parameter_of_another_kind_is_refused_with_the_remedy(number, parameter, message):
    (source,) = notebooks.sources(number)
    with pytest.raises(InputError, match=message):
        notebooks.check_parameters(source, parameter)


def test_whole_numbers_are_taken_for_any():
    notebooks.check_parameters(*notebooks.sources("18"), {"memory_gb": 80})


def test_datasets_a_notebook_reads_are_those_it_is_given_or_its_own():
    (source,), (film,), (plain,) = (notebooks.sources(number) for number in ("35", "37", "13"))
    assert notebooks.datasets_read(source, {}, "own") == ("own", "camvid")
    assert notebooks.datasets_read(source, {"datasets": ["a", "b"], "tuned_on": "b"}, "own") == ("a", "b")
    assert notebooks.datasets_read(film, {}, "own") == ("own", "camvid")
    assert notebooks.datasets_read(plain, {}, "own") == ("own",)
    with pytest.raises(InputError, match='dataset 5 is no text; write it in quotes, as "5"'):
        notebooks.datasets_read(source, {"datasets": [5]}, "own")


def test_unknown_notebook_is_refused():
    with pytest.raises(InputError, match="no notebook matches"):
        notebooks.sources("77*")


def test_a_notebook_chosen_by_number_or_glob():
    assert notebooks.sources(SOURCES[0].name[:2]) == notebooks.sources(SOURCES[0].stem) == [SOURCES[0]]


def copy(source, target, *_, **__):
    Path(target).write_text(Path(source).read_text())


def failure(name, value):
    """What papermill raises for a cell that ended in an exception of this name."""
    return PapermillExecutionError(0, 1, "", name, value, [])


@pytest.fixture
def unexecuted(monkeypatch):
    """Papermill's executions are copies."""
    monkeypatch.setattr(notebooks.papermill, "execute_notebook", copy)


@pytest.mark.parametrize(
    ("error", "for_the_user"),
    [
        (failure("InputError", "no dataset is called 'moon'"), True),
        (failure("OSError", "[Errno 28] No space left on device: 'x.png'"), True),
        (failure("PermissionError", "[Errno 13] Permission denied: 'x.png'"), True),
        (failure("OutOfMemoryError", "CUDA out of memory. Tried to allocate 40 GiB"), True),
        (failure("MemoryError", ""), True),
        (failure("FileNotFoundError", "[Errno 2] No such file or directory: 'x.png'"), False),
        (failure("RuntimeError", "shapes do not fit"), False),
    ],
)
def test_what_a_user_can_mend_ends_in_one_line_and_leaves_the_notebook(tmp_path, monkeypatch, error, for_the_user):
    def fail(source, target, *_, **__):
        Path(target).write_text(Path(source).read_text())
        raise error

    (report,) = notebooks.sources("90*")
    parameters = {"profile": "smoke", "results": str(tmp_path)}
    monkeypatch.setattr(notebooks.papermill, "execute_notebook", fail)
    with pytest.raises(InputError if for_the_user else PapermillExecutionError) as raised:
        notebooks.execute(report, parameters, tmp_path)
    assert not for_the_user or str(raised.value).startswith(f"{report.name}: {error.evalue or 'out of memory'}")
    failed = tmp_path / "notebooks" / f"{report.stem}.failed.ipynb"
    assert failed.is_file()
    monkeypatch.setattr(notebooks.papermill, "execute_notebook", copy)
    notebooks.execute(report, parameters, tmp_path)
    assert not failed.exists()


def test_a_process_that_is_killed_ends_in_one_line(tmp_path, monkeypatch):
    def die(*_, **__):
        raise DeadKernelError("Kernel died")

    (report,) = notebooks.sources("90*")
    monkeypatch.setattr(notebooks.papermill, "execute_notebook", die)
    with pytest.raises(InputError, match=f"{report.name}: its process was killed, most likely because memory ran out"):
        notebooks.execute(report, {"profile": "smoke", "results": str(tmp_path)}, tmp_path)


@pytest.mark.usefixtures("unexecuted")
def test_a_notebook_that_another_process_runs_into_the_same_folder_is_left_to_it(tmp_path):
    (report,) = notebooks.sources("90*")
    folder = tmp_path / "notebooks"
    folder.mkdir()
    hold = (
        "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); "
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(folder / f".{report.stem}.lock")]
    parameters = {"profile": "smoke", "results": str(tmp_path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=rf"another process is running {report.name} into {tmp_path}; .*--out"):
            notebooks.execute(report, parameters, tmp_path)
        assert not list(folder.glob("*.ipynb"))
        other.kill()
    assert notebooks.execute(report, parameters, tmp_path)  # what a killed process held is free
    assert notebooks.execute(report, parameters, tmp_path, force=True)


def test_a_notebook_whose_rows_or_tables_are_lost_runs_again(tmp_path, monkeypatch):
    def write(source, target, *_, **__):
        number = Path(source).name[:2]
        for name in ("results.csv", f"tables/{number}_table.csv", "figures/14_odd_name.png"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(number)
        Path(target).write_text(Path(source).read_text())

    monkeypatch.setattr(notebooks.papermill, "execute_notebook", write)
    parameters = {"profile": "smoke", "results": str(tmp_path)}
    first, second = notebooks.sources("13", "20")
    for source in (first, second):
        assert notebooks.execute(source, parameters, tmp_path)
        assert not notebooks.execute(source, parameters, tmp_path)
    for lost in ("results.csv", "tables/20_table.csv", "figures/14_odd_name.png"):
        (tmp_path / lost).unlink()
        assert notebooks.execute(second, parameters, tmp_path)
    (tmp_path / "tables" / "20_table.csv").unlink()
    assert not notebooks.execute(first, parameters, tmp_path)  # whose that is not


def test_the_report_has_another_key_when_anything_it_shows_changes(tmp_path):
    keys = {notebooks.report_key(tmp_path)}
    for name in ("results.csv", "tables/13_table.csv", "figures/13_figure.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        for text in ("new", "other"):
            (tmp_path / name).write_text(text)
            keys.add(notebooks.report_key(tmp_path))
    assert len(keys) == 1 + 2 * 3
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("what it writes itself")
    assert notebooks.report_key(tmp_path) in keys


@pytest.mark.usefixtures("unexecuted")
def test_a_changed_profile_runs_its_notebooks_again(tmp_path, monkeypatch):
    (report,) = notebooks.sources("90*")
    parameters = {"profile": "smoke", "results": str(tmp_path)}
    assert notebooks.execute(report, parameters, tmp_path)
    assert not notebooks.execute(report, parameters, tmp_path)
    changed = replace(load_profile("smoke"), seeds=(7,))
    monkeypatch.setattr(notebooks, "load_profile", lambda name: changed)
    assert notebooks.execute(report, parameters, tmp_path)


def test_bad_input_inside_a_notebook_is_one_error(tmp_path, monkeypatch):
    monkeypatch.setenv("NEURALEF_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="leisurely"):
        notebooks.execute(SOURCES[0], {"profile": "leisurely", "results": str(tmp_path)}, tmp_path)
    assert not (tmp_path / "notebooks" / SOURCES[0].name).exists()


def test_figures_of_the_paper_are_said_not_to_be_run_where_nothing_can_be_had(tmp_path, monkeypatch):
    (source,) = notebooks.sources("17")
    monkeypatch.setenv("NEURALEF_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nothing answers
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert notebooks.execute(source, {"profile": "standard", "results": str(tmp_path / "out")}, tmp_path / "out")
    page = (tmp_path / "out" / "notebooks" / f"{source.stem}.html").read_text()
    assert page.count("could not be fetched") >= 3
    assert "in both halves of <code>val</code>: <strong>not run</strong>" in page
    assert not list((tmp_path / "out").glob("figures/*.png"))
