import csv
import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from small import CONFIG, EXPERIMENT, SLIDING, on_folder
from trees import SCENES, write_folder_dataset
from typer.testing import CliRunner

from neuralef import workbench
from neuralef.augmentation import AugmentedPhotographs
from neuralef.cli import app
from neuralef.datasets.folder import FolderDataset
from neuralef.datasets.synthetic import SyntheticScenes
from neuralef.errors import InputError
from neuralef.evaluation import image_counts, match_max_iou, score
from neuralef.experiments import read_counts, read_image_tables, run_experiment, run_seeds
from neuralef.features import extract
from neuralef.files import read_checked_tensors, write_checked_tensors
from neuralef.methods import REGISTRY
from neuralef.results import read_results
from neuralef.tally import Tally
from neuralef.workbench import Workbench, open_workbench

METRICS = ["experiment_id", "method", "matching", "accuracy", "mean_iou", "clusters_used"]
METHODS = tuple(REGISTRY)


pytestmark = pytest.mark.usefixtures("own_cache")


def test_rows_are_one_for_each_method_and_matching(tmp_path):
    rows = run_experiment(EXPERIMENT, METHODS, tmp_path / "out", progress=False)
    frame = read_results(tmp_path / "out" / "results.csv")
    assert len(rows) == len(frame) == len(METHODS) * 3
    assert set(zip(frame["method"], frame["matching"], strict=True)) == {
        (method, matching) for method in METHODS for matching in ("majority", "max_iou", "hungarian")
    }
    assert frame["accuracy"].between(0, 1).all()
    assert (frame["images"] == 3).all()


def test_same_seed_gives_identical_numbers_twice(tmp_path, monkeypatch):
    run_experiment(EXPERIMENT, METHODS, tmp_path / "first", progress=False)
    monkeypatch.setenv("NEURALEF_CACHE", str(tmp_path / "other-cache"))
    run_experiment(EXPERIMENT, METHODS, tmp_path / "second", progress=False)
    first, second = (read_results(tmp_path / name / "results.csv")[METRICS] for name in ("first", "second"))
    assert first.equals(second)


def test_running_again_adds_nothing(tmp_path):
    run_experiment(EXPERIMENT, ("kmeans",), tmp_path, progress=False)
    before = (tmp_path / "results.csv").read_bytes()
    run_experiment(EXPERIMENT, ("kmeans",), tmp_path, progress=False)
    assert (tmp_path / "results.csv").read_bytes() == before


def test_time_of_shifted_views_is_extraction_whether_they_are_stored_or_not(tmp_path):
    bench = open_workbench(EXPERIMENT, progress=False)
    plus, plain = bench.head("ours_plus", 5, 0), bench.head("ours_star", 5, 0)
    assert bench.extract_s("ours_plus", plus, CONFIG) == bench.train.extract_s + bench.evaluated(plus).extract_s
    assert bench.extract_s("ours", plain, CONFIG) == bench.train.extract_s + bench.val.extract_s
    assert bench.extract_s("ours_plus", plus, replace(CONFIG, protocol="sliding")) == bench.train.extract_s


def test_rows_of_a_method_are_kept_before_the_next_is_fitted(tmp_path, monkeypatch):
    fitted = Workbench.fitted

    def failing(self, method, *rest):
        if method == "ours":
            raise KeyboardInterrupt
        return fitted(self, method, *rest)

    monkeypatch.setattr(Workbench, "fitted", failing)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(EXPERIMENT, ["kmeans", "ours"], tmp_path, progress=False)
    assert set(read_results(tmp_path / "results.csv")["method"]) == {"kmeans"}


def test_lost_results_are_rebuilt_from_the_runs_without_computing(tmp_path, monkeypatch):
    run_experiment(EXPERIMENT, ("kmeans",), tmp_path, progress=False)
    before = (tmp_path / "results.csv").read_bytes()
    (tmp_path / "results.csv").unlink()
    monkeypatch.setattr(Workbench, "fitted", lambda *_: pytest.fail("computed again"))
    run_experiment(EXPERIMENT, ("kmeans",), tmp_path, progress=False)
    assert (tmp_path / "results.csv").read_bytes() == before


def test_replacing_labels_by_noise_leaves_psi_and_every_cluster_bit_identical(tmp_path):
    benches = {}
    for kind in ("true", "noise"):
        name = write_folder_dataset(tmp_path / kind, noise_labels=kind == "noise")
        experiment = on_folder(name)
        benches[kind] = open_workbench(experiment, progress=False)
        run_experiment(
            experiment, METHODS, tmp_path / f"out-{kind}", bench=benches[kind], save_maps=True, progress=False
        )
    weights = [bench.training(5, 0).psi.state_dict() for bench in benches.values()]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    for path in (tmp_path / "out-true" / "maps").rglob("*.png"):
        if path.parent.name != "truth":
            assert path.read_bytes() == (tmp_path / "out-noise" / "maps" / path.parent.name / path.name).read_bytes()
    scores = [read_results(tmp_path / f"out-{kind}" / "results.csv")["mean_iou"].max() for kind in ("true", "noise")]
    assert scores[0] > scores[1]


def test_a_dataset_without_train_labels_can_be_used(tmp_path):
    name = write_folder_dataset(tmp_path / "data")
    for path in (tmp_path / "data" / "labels" / "train").iterdir():
        path.unlink()
    rows = run_experiment(on_folder(name), ("ours",), tmp_path / "out", progress=False)
    assert len(rows) == 3


def test_scores_recomputed_from_the_saved_maps_equal_the_results(tmp_path):
    name = write_folder_dataset(tmp_path / "data")
    run_experiment(on_folder(name), ("ours_star",), tmp_path, save_maps=True, progress=False)
    counts = np.zeros((5, 8), int)
    for path in sorted((tmp_path / "maps" / "ours_star").glob("*.png")):
        clusters = np.asarray(Image.open(path))
        truth = np.asarray(Image.open(tmp_path / "maps" / "truth" / path.name))
        assert Image.open(path).mode == "I;16"
        np.add.at(counts, (clusters[truth != 255], truth[truth != 255]), 1)
    table = np.zeros((8, 8), int)
    np.add.at(table, match_max_iou(counts), counts)
    union = table.sum(0) + table.sum(1) - table.diagonal()
    mean_iou = (table.diagonal()[union > 0] / union[union > 0]).mean()
    frame = read_results(tmp_path / "results.csv").query("matching == 'max_iou'")
    assert frame["mean_iou"].item() == pytest.approx(mean_iou, abs=1e-12)
    assert frame["accuracy"].item() == pytest.approx(table.diagonal().sum() / table.sum(), abs=1e-12)


def test_sliding_windows_are_scored_at_the_resolution_of_the_labels(tmp_path, monkeypatch):
    experiment = replace(EXPERIMENT, config=SLIDING)
    splits = []

    def spy(dataset, split, *arguments, **options):
        splits.append(split)
        return extract(dataset, split, *arguments, **options)

    monkeypatch.setattr("neuralef.workbench.extract", spy)
    rows = run_experiment(experiment, METHODS, tmp_path, save_maps=True, progress=False)
    assert splits == ["train"]  # no store of square crops is made
    assert {(row["protocol"], row["crf"]) for row in rows} == {("sliding", "none")}
    scenes = SyntheticScenes(**SCENES)
    bench = open_workbench(experiment, progress=False)
    for image_id in scenes.ids("val"):
        assert np.asarray(Image.open(tmp_path / "maps" / "truth" / f"{image_id}.png")).tolist() == (
            scenes.label(image_id).tolist()
        )
        saved = np.asarray(Image.open(tmp_path / "maps" / "ours" / f"{image_id}.png"))
        np.testing.assert_array_equal(saved, bench.segmenter("ours", 5, 0)(scenes.image(image_id)))
    counted = json.loads(next(tmp_path.glob("runs/*/ours.json")).read_text())["counts"]
    assert np.array(counted).sum() == 3 * 64 * 80


def test_seeds_share_the_passes_of_sliding_windows_and_change_nothing_by_it(tmp_path, monkeypatch):
    sliding, methods = replace(EXPERIMENT, config=SLIDING), ("kmeans", "ours_star")
    apart = [run_experiment(replace(sliding, seed=s), methods, tmp_path / "apart", progress=False) for s in (0, 1, 2)]
    bench = open_workbench(sliding, progress=False)
    passes, seen = type(bench.backbone).forward, []
    monkeypatch.setattr(
        type(bench.backbone),
        "forward",
        lambda self, images, **how: seen.append(len(images)) or passes(self, images, **how),
    )
    one = run_seeds(sliding, [0], methods, tmp_path / "one", bench=bench, progress=False)
    passes_of_one, seen[:] = sum(seen), []
    # A seed that is there already is taken as it is, and those that are not share their passes.
    together = run_seeds(sliding, [0, 1, 2], methods, tmp_path / "one", bench=bench, progress=False)
    assert sum(seen) == passes_of_one > 0
    scores = [[[row["seed"], row["method"], row["mean_iou"]] for row in rows] for rows in (*apart, *together, *one)]
    assert scores[:3] == scores[3:6]
    assert scores[6] == scores[0]
    assert len(read_results(tmp_path / "one" / "results.csv")) == 3 * 2 * 3


def test_without_a_method_there_is_no_row(tmp_path):
    assert run_experiment(EXPERIMENT, (), tmp_path, progress=False) == []
    assert run_seeds(replace(EXPERIMENT, config=SLIDING), [0, 1], (), tmp_path, progress=False) == [[], []]


def test_square_crops_of_several_seeds_are_kept_one_by_one(tmp_path, monkeypatch):
    whole, calls = Workbench._of_stored, []

    def stops_at_the_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(Workbench, "_of_stored", stops_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run_seeds(EXPERIMENT, [0, 1], ("kmeans", "ours"), tmp_path, progress=False)
    found = read_results(tmp_path / "results.csv")
    assert list(zip(found["seed"], found["method"], strict=True))[::3] == [(0, "kmeans"), (0, "ours")]


def test_both_protocols_stand_beside_each_other_and_share_psi(tmp_path, monkeypatch):
    run_experiment(EXPERIMENT, ("ours",), tmp_path, progress=False)
    monkeypatch.setattr("neuralef.training._train_step", lambda *_, **__: pytest.fail("trained again"))
    run_experiment(replace(EXPERIMENT, config=SLIDING), ("ours",), tmp_path, progress=False)
    assert read_results(tmp_path / "results.csv")["protocol"].tolist() == ["crop320"] * 3 + ["sliding"] * 3


def test_windows_that_leave_pixels_out_are_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("neuralef.training._train_step", lambda *_, **__: pytest.fail("trained in vain"))
    with pytest.raises(InputError, match="window_stride is 41"):
        run_experiment(
            replace(EXPERIMENT, config=replace(SLIDING, window_stride=41)), ("ours",), tmp_path, progress=False
        )


def test_augmented_training_runs_to_its_rows(tmp_path):
    config = replace(CONFIG, augment=True, pixel_neighbors=(4, 2))
    rows = run_experiment(replace(EXPERIMENT, config=config), ("ours", "ours_star"), tmp_path, progress=False)
    assert len(rows) == 6
    assert {row["p_augment"] for row in rows} == {True}


def test_features_that_nothing_reads_are_not_computed(tmp_path, monkeypatch):
    """Ours on random crops, as Table 8 of profile ``paper`` trains it: of ImageNet they would take 1.2 TB."""
    config = replace(CONFIG, augment=True, standardise_inputs=False, pixel_neighbors=(4, 2))
    experiment = replace(EXPERIMENT, config=config)
    stored = open_workbench(experiment, progress=False)
    assert len(stored.train)
    expected = stored.training(5, 0).psi.state_dict()
    monkeypatch.setenv("NEURALEF_CACHE", str(tmp_path / "empty"))
    rows = run_experiment(experiment, ("ours",), tmp_path, progress=False)
    bench = open_workbench(experiment, progress=False)
    assert "train" not in vars(bench)
    assert [folder.name for folder in (tmp_path / "empty" / "features").iterdir()] == [bench.val.key]
    assert rows[0]["extract_s"] == pytest.approx(bench.val.extract_s, abs=1e-3)
    torch.testing.assert_close(bench.training(5, 0).psi.state_dict(), expected, rtol=0, atol=0)


def test_training_crops_may_be_larger_than_what_is_evaluated(tmp_path, monkeypatch):
    sizes = []
    crops = AugmentedPhotographs.crops

    def spy(photographs, *arguments, **options):
        found = crops(photographs, *arguments, **options)
        sizes.append(tuple(found[0].shape[-2:]))
        return found

    monkeypatch.setattr(AugmentedPhotographs, "crops", spy)
    config = replace(CONFIG, augment=True, train_crop=80, pixel_neighbors=(4, 2))
    bench = open_workbench(replace(EXPERIMENT, config=config), progress=False)
    bench.training(5, 0)
    assert set(sizes) == {(80, 80)}
    assert bench.train.crop_size == 64


def test_per_class_iou_averages_to_the_mean(tmp_path):
    run_experiment(EXPERIMENT, ("kmeans",), tmp_path, progress=False)
    with (tmp_path / "per_class.csv").open() as file:
        iou = [float(row["iou"]) for row in csv.DictReader(file) if row["matching"] == "max_iou"]
    frame = read_results(tmp_path / "results.csv").query("matching == 'max_iou'")
    assert np.nanmean(iou) == pytest.approx(frame["mean_iou"].item())


def test_maps_of_another_experiment_are_not_overwritten(tmp_path):
    run_experiment(EXPERIMENT, ("kmeans",), tmp_path, save_maps=True, progress=False)
    with pytest.raises(InputError, match="maps of another experiment"):
        run_experiment(replace(EXPERIMENT, seed=1), ("kmeans",), tmp_path, save_maps=True, progress=False)


def test_maps_of_another_fit_do_not_go_with_rows_that_are_there(tmp_path):
    run_experiment(EXPERIMENT, ("kmeans",), tmp_path, progress=False)
    (record,) = tmp_path.glob("runs/*/kmeans.json")
    document = json.loads(record.read_text())
    document["counts"] = document["counts"][::-1]  # of a fit whose clusters have other numbers
    record.write_text(json.dumps(document))
    kept_map = tmp_path / "maps" / "kmeans" / "kept.png"
    kept_map.parent.mkdir(parents=True)
    kept_map.touch()
    for kept in ({"image_tables": True}, {"save_maps": True}):
        with pytest.raises(InputError, match=r"kmeans\.json has scores of another fit of kmeans"):
            run_experiment(EXPERIMENT, ("kmeans",), tmp_path, **kept, progress=False)
    assert list((tmp_path / "maps").glob("*/*.png")) == [kept_map]
    run_experiment(EXPERIMENT, ("kmeans",), tmp_path / "other", save_maps=True, progress=False)
    assert sorted(path.name for path in (tmp_path / "other" / "maps").iterdir() if path.is_dir()) == ["kmeans", "truth"]


@pytest.mark.parametrize("mask", [(0, 255), (0, 1)])
def test_masks_whose_object_means_ignore_are_warned_of(tmp_path, caplog, mask):
    name = write_folder_dataset(tmp_path / "mine")
    for path in (tmp_path / "mine" / "labels").glob("*/*.png"):
        Image.fromarray(np.where(np.array(Image.open(path)) > 2, *mask[::-1]).astype(np.uint8)).save(path)
    (tmp_path / "mine" / "classes.csv").write_text("id,name,red,green,blue\n0,ground,0,0,0\n1,object,255,0,0\n")
    experiment = replace(EXPERIMENT, dataset=name, dataset_options={})
    for _ in range(2):  # where everything is kept as well
        caplog.clear()
        run_experiment(experiment, ("kmeans",), tmp_path / "out", progress=False)
        assert ("holds class 'object' of" in caplog.text) == (mask == (0, 255))


@contextmanager
def interrupted_after(images, monkeypatch, *, every=0):
    """Within it an evaluation is interrupted after so many images, and kept every so many seconds."""
    seen = []

    def counts(*arguments):
        if len(seen) == images:
            raise KeyboardInterrupt
        seen.append(image_counts(*arguments))
        return seen[-1]

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("neuralef.tally.KEEP_SECONDS", every)
        patched.setattr("neuralef.tally.KEEP_SHARE", 1e9)
        patched.setattr(workbench, "image_counts", counts)
        yield


def evaluated_by(monkeypatch):
    """List that every image which is segmented from now on enters."""
    seen, predictions = [], Workbench.predictions

    def watched(*arguments, **keywords):
        for image_id, maps in predictions(*arguments, **keywords):
            seen.append(image_id)
            yield image_id, maps

    monkeypatch.setattr(Workbench, "predictions", watched)
    return seen


@pytest.mark.parametrize("config", [CONFIG, SLIDING, replace(CONFIG, crf="colour")], ids=["crops", "windows", "crf"])
def test_an_interrupted_evaluation_continues(tmp_path, monkeypatch, caplog, config):
    if config.crf != "none":
        pytest.importorskip("pydensecrf", reason="the [crf] extra is not installed")
    caplog.set_level("INFO")
    experiment, method = replace(EXPERIMENT, config=config), ("ours_star",)
    whole = run_experiment(experiment, method, tmp_path / "whole", image_tables=True, progress=False)
    wanted = {"image_tables": True, "save_maps": True, "progress": False}
    with interrupted_after(2, monkeypatch):
        run_experiment(experiment, method, tmp_path / "out", **wanted)
    seen = evaluated_by(monkeypatch)
    rows = run_experiment(experiment, method, tmp_path / "out", **wanted)
    assert len(seen) == 1
    assert "continuing after image 2 of 3" in caplog.text
    assert [[row[name] for name in METRICS] for row in rows] == [[row[name] for name in METRICS] for row in whole]
    tables = [read_image_tables(tmp_path / out, rows[0]["experiment_id"], "ours_star") for out in ("whole", "out")]
    np.testing.assert_array_equal(*tables)
    assert len(list(tmp_path.glob("out/maps/ours_star/*.png"))) == 3
    assert not list(tmp_path.glob("out/runs/*/*.unfinished.safetensors"))


@pytest.mark.parametrize("changed", ["maps", "fit"])
def test_an_evaluation_whose_maps_or_fit_are_gone_begins_anew(tmp_path, monkeypatch, changed):
    wanted = {"save_maps": True, "progress": False}
    whole = run_experiment(EXPERIMENT, ("kmeans",), tmp_path / "whole", **wanted)
    with interrupted_after(2, monkeypatch):
        run_experiment(EXPERIMENT, ("kmeans",), tmp_path / "out", **wanted)
    if changed == "maps":
        next(tmp_path.glob("out/maps/.unchecked/*/kmeans/*.png")).unlink()
    else:
        (path,) = tmp_path.glob("cache/heads/*.safetensors")
        tensors, document = read_checked_tensors(path)
        write_checked_tensors(path, {name: of.flip(0) for name, of in tensors.items()}, document)  # clusters renamed
    seen = evaluated_by(monkeypatch)
    rows = run_experiment(EXPERIMENT, ("kmeans",), tmp_path / "out", **wanted)
    assert len(seen) == 3
    assert [row["mean_iou"] for row in rows] == [row["mean_iou"] for row in whole]
    assert len(list(tmp_path.glob("out/maps/kmeans/*.png"))) == 3


def test_maps_of_another_fit_are_not_taken_for_those_of_an_interrupted_one(tmp_path, monkeypatch):
    wanted = {"save_maps": True, "progress": False}
    run_experiment(EXPERIMENT, ("kmeans",), tmp_path / "whole", **wanted)
    (path,) = tmp_path.glob("cache/heads/*.safetensors")
    before, (tensors, document) = path.read_bytes(), read_checked_tensors(path)
    with interrupted_after(2, monkeypatch):
        run_experiment(EXPERIMENT, ("kmeans",), tmp_path / "out", **wanted)
    write_checked_tensors(path, {name: of.flip(0) for name, of in tensors.items()}, document)  # clusters renamed
    with interrupted_after(2, monkeypatch, every=60):
        run_experiment(EXPERIMENT, ("kmeans",), tmp_path / "out", **wanted)
    path.write_bytes(before)
    run_experiment(EXPERIMENT, ("kmeans",), tmp_path / "out", **wanted)
    maps = [sorted(tmp_path.glob(f"{out}/maps/kmeans/*.png")) for out in ("whole", "out")]
    assert len(maps[0]) == 3
    for whole, continued in zip(*maps, strict=True):
        np.testing.assert_array_equal(Image.open(whole), Image.open(continued))
    assert not (tmp_path / "out" / "maps" / ".unchecked").exists()


def test_maps_that_another_process_is_writing_are_left_to_it(tmp_path):
    run_experiment(EXPERIMENT, ("kmeans",), tmp_path, save_maps=True, progress=False)
    with FileLock(tmp_path / "maps" / ".lock"), pytest.raises(InputError, match=r"another process is writing maps to"):
        run_experiment(EXPERIMENT, ("kmeans",), tmp_path, save_maps=True, progress=False)
    run_experiment(EXPERIMENT, ("kmeans",), tmp_path, save_maps=True, progress=False)


def test_a_run_that_failed_before_its_first_map_leaves_the_folder_to_others(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("neuralef.experiments._evaluate", lambda *_, **__: 1 / 0)  # as a psi that diverges
        with pytest.raises(ZeroDivisionError):
            run_experiment(EXPERIMENT, ("kmeans",), tmp_path, save_maps=True, progress=False)
    run_experiment(replace(EXPERIMENT, seed=1), ("kmeans",), tmp_path, save_maps=True, progress=False)
    assert list((tmp_path / "maps" / "kmeans").glob("*.png"))


def test_methods_fitted_on_another_dataset_are_scored_on_this_one(tmp_path):
    elsewhere = {**SCENES, "train": 5, "seed": 1}
    experiment = replace(EXPERIMENT, trained_on="synthetic_scenes", trained_on_options=elsewhere)
    run_experiment(experiment, METHODS, tmp_path, progress=False)
    moved, at_home, there = (
        open_workbench(item, progress=False)
        for item in (experiment, EXPERIMENT, replace(EXPERIMENT, dataset_options=elsewhere))
    )
    psi = [bench.training(5, 0).psi.state_dict() for bench in (moved, there, at_home)]
    assert all(torch.equal(psi[0][name], psi[1][name]) for name in psi[0])
    assert any(not torch.equal(psi[0][name], psi[2][name]) for name in psi[0])
    assert moved.val.ids == at_home.val.ids
    assert moved.val.key == at_home.val.key
    assert moved.experiment_id(5, 0, CONFIG) not in {
        at_home.experiment_id(5, 0, CONFIG),
        there.experiment_id(5, 0, CONFIG),
    }
    expected = np.zeros((5, 8), dtype=int)
    for image_id, (clusters,) in moved.predictions([there.head("ours_star", 5, 0)], CONFIG):
        np.add.at(expected, (clusters, at_home.label(image_id)), 1)
    counted = json.loads(next(tmp_path.glob("runs/*/ours_star.json")).read_text())["counts"]
    np.testing.assert_array_equal(counted, expected)


def test_rows_name_the_dataset_that_was_trained_on(tmp_path):
    name = write_folder_dataset(tmp_path / "data")
    experiment = on_folder(name)
    run_experiment(experiment, ("kmeans",), tmp_path, progress=False)
    moved = replace(experiment, trained_on="synthetic_scenes", trained_on_options=SCENES)
    run_experiment(moved, ("kmeans",), tmp_path, progress=False)
    rows = read_results(tmp_path / "results.csv")
    assert rows["trained_on"].tolist() == [name] * 3 + ["synthetic_scenes"] * 3
    assert set(rows["dataset"]) == {name}


def test_photographs_that_occur_twice_are_segmented_alike(tmp_path):
    """Whatever their place in the split and in a pass of the backbone."""
    name = write_folder_dataset(tmp_path / "data")
    first = FolderDataset(str(tmp_path / "data")).ids("val")[0]
    for kind in ("images", "labels"):
        (found,) = (tmp_path / "data" / kind / "val").glob(f"{first}.*")
        (found.parent / f"zz-again{found.suffix}").write_bytes(found.read_bytes())
    bench = open_workbench(on_folder(name), progress=False)
    maps = {image_id: clusters for image_id, (clusters,) in bench.predictions([bench.head("ours", 5, 0)], CONFIG)}
    assert list(maps)[-1] == "zz-again"
    np.testing.assert_array_equal(maps[first], maps["zz-again"])


def test_labels_that_are_all_ignored_are_named_and_nothing_is_kept(tmp_path):
    name = write_folder_dataset(tmp_path / "data")
    for label in (tmp_path / "data" / "labels" / "val").glob("*.png"):
        Image.fromarray(np.full_like(np.asarray(Image.open(label)), 255)).save(label)
    experiment = on_folder(name)
    with pytest.raises(InputError, match="no pixel of the 3 evaluated images"):
        run_experiment(experiment, ["kmeans"], tmp_path / "out", progress=False)
    assert not list((tmp_path / "out").rglob("*.json"))


def test_unknown_method_is_named(tmp_path):
    with pytest.raises(InputError, match="magic"):
        run_experiment(EXPERIMENT, ("magic",), tmp_path, progress=False)


@pytest.mark.parametrize("name", ["results.csv", "per_class.csv"])
def test_a_file_that_cannot_be_continued_is_named_before_anything_is_computed(tmp_path, monkeypatch, name):
    monkeypatch.setattr(workbench, "extract", None)
    (tmp_path / name).write_text("a,b\n")
    with pytest.raises(InputError, match=f"{name} has other columns"):
        run_experiment(EXPERIMENT, ("kmeans",), tmp_path, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_neighbors": 192}, "a graph of 192 patches allows"),
        # 3 images of 3 x 3 or 2 x 2 patches, as the offset of a batch has it
        ({"patch_stride": 3, "feature_neighbors": 12}, "a graph of 12 patches allows"),
        ({"pixel_neighbors": (64, 5)}, "need more than 64 patches"),
    ],
)
def test_batches_too_small_for_psi_are_named_before_anything_is_computed(tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(workbench, "extract", None)
    small = replace(EXPERIMENT, config=replace(CONFIG, **changes))
    with pytest.raises(InputError, match=message):
        run_experiment(small, ("kmeans", "ours"), tmp_path, progress=False)


def test_a_killed_run_ends_with_the_same_results(tmp_path, monkeypatch):
    arguments = [
        "run", "--dataset", "synthetic_scenes", "--profile", "smoke", "--backbone", "colour_patches",
        "--methods", "kmeans,ours,ours_star", "--out",
    ]  # fmt: skip
    out = tmp_path / "killed"
    monkeypatch.setenv("NEURALEF_CACHE", str(tmp_path / "killed-cache"))
    process = subprocess.Popen(
        [sys.executable, "-m", "neuralef", *arguments, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not list(out.glob("runs/*/kmeans.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(out.glob("runs/*/*.json"))) < 3, "the process had ended before it was killed"
    assert CliRunner().invoke(app, [*arguments, str(out)]).exit_code == 0
    monkeypatch.setenv("NEURALEF_CACHE", str(tmp_path / "whole-cache"))
    assert CliRunner().invoke(app, [*arguments, str(tmp_path / "whole")]).exit_code == 0
    killed, whole = (read_results(tmp_path / name / "results.csv")[METRICS] for name in ("killed", "whole"))
    assert len(killed) == 9
    assert killed.equals(whole)


def test_run_records_hold_the_contingency_table(tmp_path):
    rows = run_experiment(EXPERIMENT, ("kmeans",), tmp_path, progress=False)
    counts = read_counts(tmp_path, rows[0]["experiment_id"], "kmeans")
    assert counts.shape == (EXPERIMENT.clusters, rows[0]["classes"])
    assert counts.sum() == 3 * 64 * 64
    assert score(counts, "max_iou").mean_iou == next(row for row in rows if row["matching"] == "max_iou")["mean_iou"]
    with pytest.raises(InputError, match="run the experiment with this method first"):
        read_counts(tmp_path, rows[0]["experiment_id"], "ours")


def test_counts_of_the_images_add_up_and_can_be_kept_later(tmp_path):
    run_experiment(EXPERIMENT, ("kmeans",), tmp_path, progress=False)
    (record,) = (tmp_path / "runs").glob("*/kmeans.json")
    before = record.read_bytes(), (tmp_path / "results.csv").read_bytes()
    with pytest.raises(InputError, match="image_tables=True"):
        read_image_tables(tmp_path, record.parent.name, "kmeans")
    run_experiment(EXPERIMENT, ("kmeans",), tmp_path, image_tables=True, progress=False)
    tables = read_image_tables(tmp_path, record.parent.name, "kmeans")
    assert tables.sum(axis=(1, 2)).tolist() == [64 * 64] * 3
    assert tables.sum(axis=0).tolist() == json.loads(record.read_text())["counts"]
    assert before == (record.read_bytes(), (tmp_path / "results.csv").read_bytes())


def test_kept_counts_are_not_computed_again(tmp_path, monkeypatch):
    run_experiment(EXPERIMENT, ("kmeans",), tmp_path, image_tables=True, progress=False)
    monkeypatch.setattr(Workbench, "fitted", lambda *_: pytest.fail("computed again"))
    run_experiment(EXPERIMENT, ("kmeans",), tmp_path, image_tables=True, progress=False)


def test_methods_that_share_passes_of_the_backbone_share_the_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(Tally, "seconds", 12.0)
    experiment = replace(EXPERIMENT, config=SLIDING)
    rows = run_experiment(experiment, ("kmeans", "kmeans_pca", "ours"), tmp_path, progress=False)
    assert {row["eval_s"] for row in rows} == {4.0}
