"""The plain side of the benchmarks computes what ours computes, and the table says what was measured."""

import importlib
import sys
from dataclasses import replace
from time import perf_counter

import numpy as np
import pytest
import torch

from benchmarks import __main__, crf, extraction, gpu, harness, inputs, paper_step, plain
from neuralef.config import Config, load_profile
from neuralef.costs import Transformer
from neuralef.eigenfunctions import Eigenfunctions, l2_batch_norm
from neuralef.features import extract, to_tensor
from neuralef.measuring import Measured
from neuralef.objective import neural_eigenfunction_objective
from neuralef.studies import open_study
from neuralef.training import descend, kernel_of, new_optimizer

CONFIG = Config(feature_neighbors=12, pixel_neighbors=(5, 3))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 6, 7, 10, generator=generator), torch.rand(3, 6, 7, 3, generator=generator)


def test_dense_kernel_is_the_sparse_one(batch):
    dense = plain.dense_kernel(*batch, CONFIG)
    torch.testing.assert_close(torch.from_numpy(kernel_of(*batch, CONFIG).toarray()), dense)


def test_dense_objective_has_the_loss_and_the_gradient_of_ours(batch):
    weights = {"orthogonality_weight": 3.0, "trace_scale": 0.01}
    outputs = torch.randn(126, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    dense = plain.dense_objective(l2_batch_norm(outputs), plain.dense_kernel(*batch, CONFIG), **weights)
    ours = neural_eigenfunction_objective(l2_batch_norm(outputs), kernel_of(*batch, CONFIG), **weights).loss
    torch.testing.assert_close(ours, dense)
    torch.testing.assert_close(*(torch.autograd.grad(loss, outputs)[0] for loss in (ours, dense)))


def test_a_plain_training_step_lowers_the_loss(batch):
    levels = batch[0][..., :9]
    psi = plain.plain_psi(9, 4, Config(width=16), seed=0)
    optimizer = torch.optim.Adam(psi.parameters(), lr=1e-2)
    weights = {"orthogonality_weight": 0.1, "trace_scale": 0.01}
    losses = [plain.training_step(psi, optimizer, levels, batch[1], CONFIG, **weights) for _ in range(30)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_a_step_of_profile_paper_lowers_the_loss(scenes, colour_backbone):
    pictures = to_tensor(np.stack([scenes.image(image_id) for image_id in scenes.ids("val")]))
    step = paper_step.training_step(colour_backbone, pictures, 5, CONFIG)
    losses = [step() for _ in range(20)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_what_a_gpu_holds_before_a_step_is_what_the_one_before_leaves():
    psi = Eigenfunctions.of(CONFIG, 24, 5, seed=0)
    optimizer = new_optimizer(psi, CONFIG)
    descend(optimizer, psi(torch.rand(2, 9, 24)).sum())
    left = [
        (one, one.grad, *(optimizer.state[one][name] for name in ("exp_avg", "exp_avg_sq"))) for one in psi.parameters()
    ]
    vit = Transformer(patch_size=8, channels=8, depth=1, mlp_ratio=4.0, prefix_tokens=0, parameters=100)
    assert gpu.held_before(vit, 5, CONFIG) == 4 * 100 + sum(tensor.nbytes for tensors in left for tensor in tensors)


def test_hours_of_a_whole_training_are_those_of_all_its_steps():
    row = paper_step.whole_training("made_up", 36.0)
    assert row.case == "a training of 12480 such steps"  # 40 epochs of 312 batches of 16 among 4,998 photographs
    assert (row.reference_value, row.ours_value) == (12, pytest.approx(124.8))


def test_without_a_gpu_its_benchmark_says_so_and_has_no_rows(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert list(gpu.run()) == []
    assert "PyTorch sees no NVIDIA GPU" in capsys.readouterr().out


def test_without_its_library_the_benchmark_of_the_crf_says_so_and_has_no_rows(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    assert list(crf.run()) == []
    assert "crf: not run (crf: not installed" in capsys.readouterr().out


def test_rows_survive_the_file_and_the_page_shows_both_sides(tmp_path):
    rows = [
        harness.less_is_better("made_up", "B = 2", "time, s", "plain", (6.0, 2.0), 2.5),
        harness.more_is_better("made_up", "B = 2", "images a second", "backbone", (10.0, 8.0), 0.85),
        harness.less_is_better("made_up", "B = 4", "time, s", "plain", (6.0, 2.0)),
    ]
    page = harness.write_rows(tmp_path, "made_up", rows)
    read, machine = harness.read_rows(tmp_path / "made_up.csv")
    assert [row.verdict for row in read] == ["met", "missed", ""]
    assert [row.ratio for row in read] == [3.0, 0.8, 3.0]
    assert "threads" in machine
    text = page.read_text()
    assert "| B = 2" in text and "3.00" in text and "missed" in text


def test_the_first_images_of_a_dataset_are_extracted_like_all(scenes, store, colour_backbone, tmp_path):
    first = extraction._First(scenes, 2)
    found = extract(first, "train", colour_backbone, Config(image_size=64), cache=tmp_path, progress=False)
    np.testing.assert_array_equal(found.patches, store.patches[:2])


PAPER = load_profile("paper")
SMALL = {
    "training_step": {"BATCHES": {288: (2, 12), 512: (2, 16)}, "CLUSTERS": (4,), "CHANNELS": 16},
    "paper_step": {
        "PAPER": replace(
            PAPER,
            backbone="vit_tiny_patch16_224",
            clusters=8,
            config=PAPER.config.updated({"feature_neighbors": 8, "batch_images": 2, "device": "cpu"}),
        ),
        "CROP": 64,
    },
    "training": {"PLAIN_STEPS": 1, "STEPS": 2},
    "extraction": {"TURNS": 1, "PEAK_SIDE": 64},
    "inference": {"IMAGES": 2, "ROUNDS": 1},
    "sliding": {"SIZE": (768, 900), "CLUSTERS": 5},
    "crf": {
        "SIZE": (36, 48),
        "GRID": (4, 5),
        "CLUSTERS": 4,
        "OCCURRING": 3,
        "IMAGES": 2,
        "prepare_process": lambda: None,
    },
    "clustering": {"PATCHES": 2000, "MEGAPIXELS": 1},
    "eigen": {"NODES": 400},
    "scale": {"IMAGES": (20, 10), "PILOT": 5, "EPOCHS": 1},
}
"""By benchmark the sizes at which it takes a second or two."""

ALIKE = (
    "share of equal pixels",
    "share of equal links",
    "relative difference of the loss",
    "largest difference of a gradient",
)
"""Quantities that compare results and not speed: what is asked of them holds at any size."""


def measured_here(side, *arguments, **_) -> Measured:
    run = side(*arguments)
    began = perf_counter()
    result = run()
    return Measured(perf_counter() - began, 1.0, 1.0, result)


@pytest.fixture
def small_study(tmp_path, monkeypatch):
    """The benchmarks on synthetic scenes, with a psi wide enough for the K they name."""
    monkeypatch.setenv("NEURALEF_CACHE", str(tmp_path))
    study = open_study("smoke", progress=False)
    config = study.profile.config.updated({"width": 256})
    monkeypatch.setattr(inputs, "study", lambda: replace(study, profile=replace(study.profile, config=config)))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def small(name, monkeypatch):
    """The module of a benchmark, its sizes those of ``SMALL``."""
    benchmark = importlib.import_module(f"benchmarks.{name}")
    for constant, value in {"measure": measured_here, **SMALL[name]}.items():
        monkeypatch.setattr(benchmark, constant, value)
    return benchmark


@pytest.mark.parametrize("name", SMALL)
def test_every_benchmark_runs_and_results_that_are_compared_are_alike(name, small_study, monkeypatch):
    if name == "crf":
        pytest.importorskip("pydensecrf", reason="the [crf] extra is not installed")
    rows = list(small(name, monkeypatch).run())
    assert rows and np.isfinite([row.ratio for row in rows]).all()
    assert all(row.verdict == "met" for row in rows if row.quantity in ALIKE)


def test_no_benchmark_is_left_out_of_the_small_ones():
    """The two others start whole profiles, or need a GPU."""
    assert {*SMALL, "profiles", "gpu"} == set(__main__.NAMES)


def test_photographs_of_the_crf_have_clusters_that_do_not_occur(small_study, monkeypatch):
    ((_, logits, photograph),) = small("crf", monkeypatch)._pictures(1, 3)
    probabilities = logits.probabilities()
    assert probabilities.shape == (4, *photograph.shape[:2])
    assert probabilities[3].max() < 1e-5 < probabilities[:3].max(axis=(1, 2)).min()
