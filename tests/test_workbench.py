"""What seeds and methods share, and the keys it is kept under."""

import ast
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from small import CONFIG, EXPERIMENT, SLIDING, on_folder
from trees import SCENES, write_folder_dataset

from neuralef import features, provenance, training, workbench
from neuralef.config import load_profile
from neuralef.datasets.synthetic import SyntheticScenes
from neuralef.errors import InputError
from neuralef.experiments import run_experiment
from neuralef.methods import REGISTRY
from neuralef.paths import PACKAGE
from neuralef.protocols import PAPER_SLIDING, Sliding
from neuralef.workbench import Experiment, open_workbench

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_workbench_of_other_features_is_refused(tmp_path):
    other = open_workbench(replace(EXPERIMENT, config=replace(CONFIG, image_size=32)), progress=False)
    with pytest.raises(ValueError, match="image_size is 64 in the experiment and 32 on the workbench"):
        run_experiment(EXPERIMENT, ["kmeans"], tmp_path / "out", bench=other, progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"dataset": "camvid"},
        {"backbone": "efficientnet_lite0"},
        {"dataset_options": {"train": 3, "val": 2, "size": (64, 64)}},
        {"trained_on": "camvid"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_workbench_of_other_photographs_or_backbone_is_refused(tmp_path, changed):
    bench = open_workbench(EXPERIMENT, progress=False)
    with pytest.raises(ValueError, match=r"in the experiment and .* on the workbench; open one for it"):
        run_experiment(replace(EXPERIMENT, **changed), ["kmeans"], tmp_path / "out", bench=bench, progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"clusters": 17}, r"17 clusters need a psi at least as wide, and its width is 16; raise width"),
        ({"clusters": 33, "config": replace(CONFIG, width=None)}, r"its width is 32"),  # 3C of colour_patches
        ({"config": replace(CONFIG, mlp_ratio=0.01)}, "no hidden channel of 16"),
        ({"config": replace(CONFIG, feature_neighbors=10_000)}, "feature_neighbors is 10000"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_psi_that_cannot_be_is_refused_before_features_are_computed(tmp_path, monkeypatch, changed, message):
    monkeypatch.setattr("neuralef.workbench.extract", lambda *_, **__: pytest.fail("features were computed"))
    with pytest.raises(InputError, match=message):
        run_experiment(replace(EXPERIMENT, **changed), ["kmeans", "ours"], tmp_path / "out", progress=False)


def test_windows_of_other_datasets_are_the_crops_that_psi_was_trained_on():
    def sliding(**settings):
        config = replace(CONFIG, protocol="sliding", **settings)
        return open_workbench(replace(EXPERIMENT, config=config), progress=False).sliding(config)

    assert sliding() == Sliding(64, 64, 42)
    assert sliding(augment=True, train_crop=96) == Sliding(96, 96, 64)
    assert sliding(train_crop=96) == Sliding(64, 64, 42)  # without random crops none has that side


@pytest.mark.parametrize("dataset", ["pascal_context_60", "cityscapes_19", "ade20k"])
@pytest.mark.parametrize(
    ("trained_on", "short_side"),
    [("pascal_context", 520), ("cityscapes_27", 1024), ("ade20k", 512), ("imagenet", 512)],
)
def test_profile_paper_crops_and_windows_each_take_their_own_dataset_s_short_side(dataset, trained_on, short_side):
    config = replace(load_profile("paper").config_for(trained_on), device="cpu", protocol="sliding")
    experiment = Experiment(
        dataset=dataset, trained_on=trained_on, backbone="colour_patches", clusters=5, seed=0, config=config
    )
    bench = open_workbench(experiment, progress=False)
    assert bench.sliding(config) == PAPER_SLIDING[dataset.removesuffix("_60").removesuffix("_19")]
    assert bench._training_short_side(config) == short_side


def test_classes_and_what_reads_labels_are_part_of_the_identity(tmp_path, monkeypatch):
    name = write_folder_dataset(tmp_path / "data")

    def identity():
        bench = open_workbench(on_folder(name), progress=False)
        return bench.experiment_id(5, 0, CONFIG)

    before = identity()
    assert identity() == before
    classes = tmp_path / "data" / "classes.csv"
    classes.write_text(classes.read_text().replace("sky", "heaven"))
    assert (renamed := identity()) != before
    digest = provenance.code_digest
    monkeypatch.setattr(
        provenance, "code_digest", lambda *of: digest(*of) + ("changed" if "datasets.folder" in of else "")
    )
    assert identity() != renamed


@pytest.mark.parametrize("module", ["methods", "experiments"])
def test_code_that_puts_fits_and_scores_together_is_part_of_their_keys(monkeypatch, module):
    bench = open_workbench(EXPERIMENT, progress=False)
    of_module = {
        "methods": lambda: bench._head_key("kmeans", REGISTRY["kmeans"], 5, 0, CONFIG),
        "experiments": lambda: bench.experiment_id(5, 0, CONFIG),
    }[module]
    before, digest = of_module(), provenance.code_digest
    monkeypatch.setattr(provenance, "code_digest", lambda *of: digest(*of) + ("changed" if module in of else ""))
    assert of_module() != before


def fitted_heads():
    bench = open_workbench(EXPERIMENT, progress=False)
    everything = slice(None)
    images = (bench.val.levels(everything), bench.val.colours(everything))
    return {method: bench.fitted(method, 5, 0) for method in REGISTRY}, images


def test_fitted_clusters_come_back_from_the_cache_unchanged(tmp_path, monkeypatch):
    first, images = fitted_heads()
    monkeypatch.setattr("neuralef.clustering.fit_kmeans", lambda *_, **__: pytest.fail("computed again"))
    again, _ = fitted_heads()
    for method in REGISTRY:
        assert torch.equal(first[method].head.image_logits(*images), again[method].head.image_logits(*images))
        assert first[method].seconds == again[method].seconds


def test_a_corrupted_cluster_file_is_named(tmp_path):
    fitted_heads()
    for path in (tmp_path / "cache" / "heads").glob("*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"heads.*\.safetensors"):
        fitted_heads()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"clusters": 6},
        {"config": replace(CONFIG, pixel_weight=0.1)},
        {"dataset_options": {**SCENES, "seed": 1}},
    ],
)
def test_every_part_of_the_specification_changes_the_identity(change):
    other = replace(EXPERIMENT, **change)
    first, second = (
        open_workbench(item, progress=False).experiment_id(item.clusters, item.seed, item.config)
        for item in (EXPERIMENT, other)
    )
    assert first != second


def test_methods_share_the_passes_of_sliding_windows_and_change_nothing_by_it(tmp_path, monkeypatch):
    sliding = replace(EXPERIMENT, config=replace(CONFIG, protocol="sliding"))
    bench = open_workbench(sliding, progress=False)
    heads = [bench.head(method, 5, 0) for method in ("kmeans", "ours", "ours_plus")]  # the last wants shifted views
    apart = [dict(bench.predictions([head], sliding.config)) for head in heads]
    seen = []
    passes = type(bench.backbone).forward
    monkeypatch.setattr(
        type(bench.backbone),
        "forward",
        lambda self, images, **how: seen.append(len(images)) or passes(self, images, **how),
    )
    for image_id, found in bench.predictions(heads, sliding.config):
        for clusters, alone in zip(found, apart, strict=True):
            np.testing.assert_array_equal(clusters, alone[image_id][0])
    together, seen[:] = sum(seen), []
    for head in heads:
        list(bench.predictions([head], sliding.config))
    views = [head.views**2 for head in heads]
    assert together * sum(views) == sum(seen) * sum({of.views: of.views**2 for of in heads}.values())


def test_only_psi_s_own_logits_are_divided_by_its_temperature():
    """Official code, mode ``our``; distances to centroids go into a softmax as they are."""
    bench = open_workbench(EXPERIMENT, progress=False)
    temperatures = {name: bench.head(name, 5, 0).softmax_temperature for name in ("kmeans", "ours", "ours_star")}
    assert temperatures == {"kmeans": 1.0, "ours": CONFIG.temperature_end, "ours_star": 1.0}


def test_a_segmenter_may_have_another_protocol_than_its_workbench():
    photograph = SyntheticScenes(**SCENES).image(SyntheticScenes(**SCENES).ids("val")[0])
    squares, windows = (
        open_workbench(item, progress=False) for item in (EXPERIMENT, replace(EXPERIMENT, config=SLIDING))
    )
    np.testing.assert_array_equal(
        squares.segmenter("ours", 5, 0, SLIDING)(photograph), windows.segmenter("ours", 5, 0)(photograph)
    )


def test_what_another_process_computes_is_waited_for_and_taken(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    ours, theirs = (open_workbench(EXPERIMENT, progress=False) for _ in range(2))
    assert len(ours.train) == len(theirs.train)
    steps, train_step = [], training._train_step
    monkeypatch.setattr(training, "_train_step", lambda *a, **k: steps.append(k["step"]) or train_step(*a, **k))
    fits = []
    recipe = REGISTRY["ours_star"]
    monkeypatch.setitem(
        REGISTRY, "ours_star", replace(recipe, fit=lambda *a, **k: fits.append(time.sleep(0.3)) or recipe.fit(*a, **k))
    )
    with ThreadPoolExecutor(2) as pool:
        heads = list(pool.map(lambda bench: bench.head("ours_star", 5, 0), (ours, theirs)))
    np.testing.assert_array_equal(*(head.centroids.values for head in heads))
    assert len(steps) == len(set(steps)) > 0
    assert len(fits) == 1
    assert "another process is training this psi (seed 0); waiting for it" in caplog.text


def test_a_cache_that_cannot_be_written_is_met_before_the_fit(tmp_path, monkeypatch):
    bench = open_workbench(EXPERIMENT, progress=False)
    assert bench.train
    (tmp_path / "cache" / "heads").touch()
    monkeypatch.setattr("neuralef.methods.Recipe.fitted", lambda *_, **__: pytest.fail("fitted"))
    with pytest.raises(InputError, match=r"cannot write to folder .*heads"):
        bench.head("kmeans", 5, 0)


def imports_of(module):
    """Modules of the package that one of its modules imports, ``datasets.crops`` for ``neuralef.datasets.crops``."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "neuralef":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("neuralef."):
            names.add(node.module.removeprefix("neuralef."))
    return names


@pytest.mark.parametrize("kind", ["extraction", "training", "evaluation"])
def test_a_digest_of_code_leaves_out_nothing_that_decides_a_number(kind):
    """``features`` and what it reads stand in the stores' keys, dataset readers too; the rest touches no number."""
    extraction, training = set(features.MODULES), set(workbench.TRAINING_MODULES)
    evaluation = training | set(workbench.EVALUATION_MODULES)
    modules = {"extraction": extraction, "training": training, "evaluation": evaluation}[kind]
    elsewhere = {"datasets", "datasets.base", "errors", "files", "paths", "provenance", "results", "allocation"}
    # A store's key holds the settings it was made with and the digest of the weights.
    elsewhere |= {"config", "weights"} if kind == "extraction" else {"features", "backbones", "augmentation"}
    for module in modules:
        assert imports_of(module) <= modules | elsewhere, module


def test_a_segmenter_has_the_precision_of_the_configuration():
    bench = open_workbench(replace(EXPERIMENT, config=replace(CONFIG, precision="bfloat16")), progress=False)
    assert bench.segmenter("kmeans", 5, 0).precision == "bfloat16"
