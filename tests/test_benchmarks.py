"""The plain side of the benchmarks computes what ours computes, and the table says what was measured."""

import sys

import numpy as np
import pytest
import torch

from benchmarks import extraction, gpu, harness, paper_step, plain
from neuralef.config import Config
from neuralef.eigenfunctions import l2_batch_norm
from neuralef.features import extract, to_tensor
from neuralef.objective import neural_eigenfunction_objective
from neuralef.training import kernel_of

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


def test_hours_of_a_whole_training_are_those_of_all_its_steps():
    row = paper_step.whole_training("made_up", 36.0)
    assert row.case == "a training of 12480 such steps"  # 40 epochs of 312 batches of 16 among 4,998 photographs
    assert (row.reference_value, row.ours_value) == (12, pytest.approx(124.8))


def hundred_megabytes():
    return lambda: len(np.ones(100_000_000, dtype=np.uint8))


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_a_side_is_measured_in_a_process_of_its_own():
    measured = harness.measure(hundred_megabytes, repeats=1)
    assert measured.result == 100_000_000
    assert 95 < measured.peak_mb < 130
    assert measured.process_mb > measured.peak_mb
    assert measured.seconds > 0


def test_without_a_gpu_its_benchmark_says_so_and_has_no_rows(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert list(gpu.run()) == []
    assert "PyTorch sees no NVIDIA GPU" in capsys.readouterr().out


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
