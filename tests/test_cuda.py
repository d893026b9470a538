"""The same results on a GPU, to rounding; without one nothing here runs but what refuses to."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from interruptions import interrupted_at
from small import EXPERIMENT
from trees import SCENES

from neuralef import backbones, training
from neuralef.config import Config, load_profile
from neuralef.errors import InputError
from neuralef.experiments import run_experiment
from neuralef.features import extract
from neuralef.methods import REGISTRY
from neuralef.precision import fastest_precision, native_precisions, require
from neuralef.results import read_results
from neuralef.workbench import Workbench

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no NVIDIA GPU here")
CONFIG = Config(
    image_size=64, width=16, feature_neighbors=8, epochs=4, batch_images=3, kmeans_iterations=5, pca_channels=8
)
ON_GPU = replace(CONFIG, device="cuda")


pytestmark = pytest.mark.usefixtures("own_cache")


def experiment(config, clusters=5):
    return replace(EXPERIMENT, config=config, clusters=clusters)


def bench_of(config):
    return Workbench("synthetic_scenes", "colour_patches", config, SCENES, progress=False)


def without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: require("cuda"),
        lambda: native_precisions("cuda"),
        lambda: fastest_precision("cuda"),
        lambda: Config(device="cuda").updated({"precision": "fastest"}),
        lambda: bench_of(ON_GPU).backbone,
    ],
    ids=["require", "native", "fastest", "config", "workbench"],
)
def test_a_gpu_that_is_not_there_is_named(monkeypatch, ask):
    without_a_gpu(monkeypatch)
    with pytest.raises(InputError, match=r"device is cuda, but PyTorch sees no NVIDIA GPU .* set device=cpu"):
        ask()


def test_training_on_a_gpu_that_is_not_there_is_refused(monkeypatch, store):
    without_a_gpu(monkeypatch)
    with pytest.raises(InputError, match="set device=cpu"):
        training.train(store, ON_GPU, num_eigenfunctions=4, seed=0, progress=False)


@pytest.mark.parametrize(("there", "device"), [(False, "cpu"), (True, "cuda")])
def test_the_paper_s_profile_takes_a_gpu_where_there_is_one(monkeypatch, there, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert load_profile("paper").config.device == Config().updated({"device": "fastest"}).device == device
    assert load_profile("quick").config.device == "cpu"


def test_precisions_are_those_of_the_gpu_where_it_computes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert Config().updated({"device": "cuda", "precision": "fastest"}).precision == "bfloat16"
    assert Config().updated({"precision": "fastest"}).precision == "float32"


def test_the_device_is_part_of_what_an_experiment_is(monkeypatch):
    on_processor, on_gpu = bench_of(CONFIG), bench_of(CONFIG)
    assert on_processor.training_key(5, 0, CONFIG) != on_gpu.training_key(5, 0, ON_GPU)
    assert on_processor.experiment_id(5, 0, CONFIG) != on_gpu.experiment_id(5, 0, ON_GPU)


@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "dino_vit_s16", "dinov3_vit_s16"])
def test_features_of_a_gpu_are_those_of_the_processor(name, precision):
    torch.manual_seed(0)
    backbone = backbones.build(name, pretrained=False)
    images = torch.rand(3, 3, 100, 80)
    expected = backbone(images)
    found = backbone.to("cuda")(images, precision=precision)
    assert found.device.type == "cuda"
    likeness = torch.nn.functional.cosine_similarity(found.cpu(), expected, dim=-1)
    assert likeness.min() > (0.99999 if precision == "float32" else 0.999)


@needs_gpu
def test_every_step_is_the_processor_s_to_rounding(store, monkeypatch):
    """The noise of the processor in place of the GPU's, which another generator draws."""

    def same_noise(logits, *, temperature, generator):
        noise = torch.empty(logits.shape).exponential_(generator=torch.Generator().manual_seed(1)).log().neg()
        return ((logits + noise.to(logits.device)) / temperature).softmax(dim=-1)

    monkeypatch.setattr(training, "gumbel_softmax", same_noise)
    config = replace(CONFIG, epochs=2)
    runs = [
        training.train(store, replace(config, device=device), num_eigenfunctions=4, seed=0, progress=False)
        for device in ("cpu", "cuda")
    ]
    for processor, gpu in zip(runs[0].history, runs[1].history, strict=True):
        assert gpu.loss == pytest.approx(processor.loss, rel=1e-3)
        assert gpu.mean_rayleigh == pytest.approx(processor.mean_rayleigh, rel=1e-3)


@needs_gpu
def test_a_run_on_a_gpu_continues_from_its_checkpoint(store, tmp_path):
    common = {"num_eigenfunctions": 4, "seed": 0, "progress": False}
    whole = training.train(store, ON_GPU, **common)

    with interrupted_at(training, 5):
        training.train(store, ON_GPU, folder=tmp_path, checkpoint_every=2, **common)
    resumed = training.train(store, ON_GPU, folder=tmp_path, checkpoint_every=2, **common)
    assert len(resumed.history) == len(whole.history) == 8
    np.testing.assert_allclose([s.loss for s in resumed.history], [s.loss for s in whole.history], rtol=1e-3)
    assert resumed.psi.device.type == "cuda"


@needs_gpu
@pytest.mark.parametrize("changes", [{}, {"protocol": "sliding"}, {"augment": True}], ids=str)
def test_every_method_runs_on_a_gpu_and_scores_as_on_the_processor(tmp_path, changes):
    config = replace(ON_GPU, **changes)
    run_experiment(experiment(config), tuple(REGISTRY), tmp_path / "gpu", progress=False)
    run_experiment(experiment(replace(config, device="cpu")), tuple(REGISTRY), tmp_path / "cpu", progress=False)
    gpu, cpu = (read_results(tmp_path / name / "results.csv") for name in ("gpu", "cpu"))
    assert (gpu["method"] == cpu["method"]).all()
    assert gpu["device"].str.contains(torch.cuda.get_device_name(), regex=False).all()
    assert (gpu["p_device"] == "cuda").all()
    no_psi = ~gpu["method"].isin([name for name, recipe in REGISTRY.items() if recipe.needs_psi])
    np.testing.assert_allclose(gpu["mean_iou"][no_psi], cpu["mean_iou"][no_psi], atol=0.02)
    assert gpu["mean_iou"].between(0.05, 1).all()


@needs_gpu
def test_merged_windows_are_those_of_the_processor():
    config = replace(ON_GPU, protocol="sliding", window=48)
    bench = Workbench("synthetic_scenes", "colour_patches", config, SCENES, progress=False)
    image = bench.dataset.image(bench.dataset.ids("val")[0])
    logits = bench.segmenter("ours", 5, 0, config).logits(image)
    assert logits.device.type == "cuda"
    assert (logits.clusters() == replace(logits, device="cpu").clusters()).mean() > 0.999
    np.testing.assert_allclose(logits.probabilities(), replace(logits, device="cpu").probabilities(), atol=1e-5)


@needs_gpu
def test_stored_features_say_which_device_computed_them(scenes, colour_backbone, tmp_path):
    on_gpu = backbones.build("colour_patches").to("cuda")
    stores = [
        extract(scenes, "val", backbone, CONFIG, cache=tmp_path, progress=False)
        for backbone in (colour_backbone, on_gpu)
    ]
    assert stores[0].key != stores[1].key
    np.testing.assert_allclose(stores[0].patches, stores[1].patches, atol=2e-3)
