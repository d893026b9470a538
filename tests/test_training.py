import itertools
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from interruptions import interrupted_at
from small import same

from neuralef import graph, training
from neuralef.config import Config
from neuralef.eigenfunctions import Eigenfunctions, gumbel_softmax, l2_batch_norm
from neuralef.errors import InputError
from neuralef.files import read_checked_tensors
from neuralef.objective import neural_eigenfunction_objective

CONFIG = Config(width=16, feature_neighbors=8, epochs=4, batch_images=2, pixel_neighbors=(4, 2))


def weights_of(result):
    return {name: tensor.clone() for name, tensor in result.psi.state_dict().items()}


def test_half_cosine_starts_ends_and_halves():
    assert training.half_cosine(0.0, 1.0, 0.3) == 1.0
    assert training.half_cosine(1.0, 1.0, 0.3) == pytest.approx(0.3)
    assert training.half_cosine(0.5, 1.0, 0.3) == pytest.approx(0.65)


def test_equal_seeds_give_equal_weights_and_others_do_not(store):
    first = weights_of(training.train(store, CONFIG, num_eigenfunctions=4, seed=3, progress=False))
    torch.manual_seed(99)
    np.random.seed(99)
    again = weights_of(training.train(store, CONFIG, num_eigenfunctions=4, seed=3, progress=False))
    other = weights_of(training.train(store, CONFIG, num_eigenfunctions=4, seed=4, progress=False))
    assert same(first, again)
    assert not same(first, other)


def test_gumbel_noise_depends_on_seed_and_step():
    draws = {
        torch.rand(1, generator=training.noise_of(seed, step)).item() for seed in (0, 1, 2, 255) for step in range(25)
    }
    assert len(draws) == 100
    again = [torch.rand(4, generator=training.noise_of(2, 7)) for _ in range(2)]
    assert torch.equal(*again)


@pytest.mark.parametrize("killed_after", [1, 5, 6])
def test_a_killed_run_continues_bit_identically(store, tmp_path, killed_after):
    whole = training.train(store, CONFIG, num_eigenfunctions=4, seed=0, progress=False)
    with interrupted_at(training, killed_after):
        training.train(store, CONFIG, num_eigenfunctions=4, seed=0, folder=tmp_path, checkpoint_every=2, progress=False)
    resumed = training.train(
        store, CONFIG, num_eigenfunctions=4, seed=0, folder=tmp_path, checkpoint_every=2, progress=False
    )
    assert same(weights_of(whole), weights_of(resumed))
    assert resumed.history == whole.history


def test_a_folder_that_cannot_be_written_is_met_before_the_first_step(store, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_train_step", lambda *_, **__: pytest.fail("a step was made"))
    (tmp_path / "psi").touch()
    with pytest.raises(InputError, match=r"cannot write to folder .*psi"):
        training.train(store, CONFIG, num_eigenfunctions=4, seed=0, folder=tmp_path / "psi" / "key", progress=False)


def test_slow_steps_are_kept_one_by_one(store, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    with interrupted_at(training, 3):
        training.train(store, CONFIG, num_eigenfunctions=4, seed=0, folder=tmp_path, progress=False)
    assert len(read_checked_tensors(tmp_path / training.CHECKPOINT)[1]["history"]) == 3


def test_a_finished_run_is_taken_from_its_checkpoint(store, tmp_path, monkeypatch):
    finished = training.train(store, CONFIG, num_eigenfunctions=4, seed=0, folder=tmp_path, progress=False)
    monkeypatch.setattr(training, "_train_step", lambda *_, **__: pytest.fail("a step was repeated"))
    loaded = training.train(store, CONFIG, num_eigenfunctions=4, seed=0, folder=tmp_path, progress=False)
    assert same(weights_of(finished), weights_of(loaded))
    assert loaded.train_s == finished.train_s > 0


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"num_eigenfunctions": 5},
        {"config": replace(CONFIG, epochs=1)},
        {"config": replace(CONFIG, width=8)},
    ],
)
def test_a_checkpoint_of_another_training_is_refused(store, tmp_path, other):
    this = {"config": CONFIG, "num_eigenfunctions": 4, "seed": 0, "folder": tmp_path, "progress": False}
    kept = weights_of(training.train(store, **this))
    with pytest.raises(InputError, match=r"checkpoint\.safetensors is of another training .*; choose another folder"):
        training.train(store, **this | other)
    clustered_otherwise = replace(CONFIG, kmeans_iterations=CONFIG.kmeans_iterations + 1)  # of no concern to psi
    assert same(kept, weights_of(training.train(store, **this | {"config": clustered_otherwise})))


def test_a_corrupted_checkpoint_is_named(store, tmp_path):
    training.train(store, CONFIG, num_eigenfunctions=4, seed=0, folder=tmp_path, progress=False)
    path = tmp_path / training.CHECKPOINT
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"checkpoint\.safetensors"):
        training.train(store, CONFIG, num_eigenfunctions=4, seed=0, folder=tmp_path, progress=False)


def test_every_image_enters_once_an_epoch(store):
    order = training.epoch_order(len(store), seed=0, epoch=0)
    assert sorted(order) == list(range(len(store)))
    assert not np.array_equal(order, training.epoch_order(len(store), seed=0, epoch=1))


def test_psi_is_built_as_the_configuration_and_the_seed_say(store):
    psi = training.new_psi(store, replace(CONFIG, depth=3, mlp_ratio=2.5), 4, seed=0)
    assert [block.mlp[0].weight.shape for block in psi.blocks] == [(40, 16)] * 3
    assert psi.projection.weight.shape == (16, 32)
    again, other = (training.new_psi(store, CONFIG, 4, seed=seed).projection.weight for seed in (0, 1))
    assert torch.equal(psi.projection.weight, again)
    assert not torch.equal(again, other)


def test_batches_are_what_seed_and_step_say(store):
    kernel = {"feature_neighbors": 5, "pixel_weight": 0.7, "pixel_neighbors": (3, 1), "coordinate_weights": (1.0, 0.5)}
    config = replace(CONFIG, patch_stride=2, temperature_start=2.0, temperature_end=0.5, **kernel)
    total = training.total_steps(len(store), config)
    assert total == 4 * 3
    batches = [training.batch_at(store, config, seed=2, step=step) for step in range(total)]
    for step, batch in enumerate(batches):
        assert (batch.step, batch.epoch) == (step, step // 3)
        levels = store.levels(batch.images)[:, batch.rows, batch.columns]
        colours = store.colours(batch.images)[:, batch.rows, batch.columns]
        assert levels.shape[1:3] == (4, 4)
        assert torch.equal(batch.levels, levels)
        expected = graph.kernel(levels[..., -store.channels[-1] :], colours, **kernel)
        np.testing.assert_array_equal(batch.kappa.toarray(), expected.toarray())
        assert batch.temperature == training.half_cosine(step / total, 2.0, 0.5)
        assert batch.learning_rate == training.half_cosine(step / total, config.learning_rate, 0.0)
    epochs = [np.concatenate([batch.images for batch in batches[first : first + 3]]) for first in range(0, total, 3)]
    assert all(sorted(images) == list(range(6)) for images in epochs)
    assert len({tuple(images) for images in epochs}) == 4
    assert len({(batch.rows.start, batch.columns.start) for batch in batches}) == 4


@pytest.mark.parametrize("quantise", [True, False])
def test_training_is_its_steps_written_out(store, quantise):
    config = replace(CONFIG, epochs=2, quantise=quantise, orthogonality_weight=3.0, trace_scale=0.5)
    psi = training.new_psi(store, config, 4, seed=2)
    adam = torch.optim.Adam(psi.parameters(), fused=True)
    losses = []
    for step in range(6):
        batch = training.batch_at(store, config, seed=2, step=step)
        adam.param_groups[0]["lr"] = batch.learning_rate
        values = psi(batch.levels.flatten(1, 2)).flatten(0, 1)
        if quantise:
            values = gumbel_softmax(values, temperature=batch.temperature, generator=training.noise_of(2, step))
        objective = neural_eigenfunction_objective(
            l2_batch_norm(values), batch.kappa, orthogonality_weight=3.0 * 256 / 4, trace_scale=0.5
        )
        psi.zero_grad()
        objective.loss.backward()
        adam.step()
        losses.append((objective.loss.item(), objective.rayleigh.mean().item(), objective.penalty.item()))
    found = training.train(store, config, num_eigenfunctions=4, seed=2, progress=False)
    assert [(step.loss, step.mean_rayleigh, step.penalty) for step in found.history] == losses
    assert same(psi.state_dict(), found.psi.state_dict())
    assert not found.psi.training


def test_training_raises_the_rayleigh_quotients(store):
    config = replace(CONFIG, epochs=20, learning_rate=1e-2)  # sixty steps at the paper's 1e-3 are chance
    history = training.train(store, config, num_eigenfunctions=4, seed=0, progress=False).history
    first, last = (np.mean([step.mean_rayleigh for step in part]) for part in (history[:5], history[-5:]))
    assert last > first + 0.05
    assert history[0].temperature == 1.0
    assert history[-1].temperature < 0.35
    assert history[-1].learning_rate < 1e-4


def test_unquantised_psi_finds_the_leading_eigenfunctions_of_planted_clusters(planted_store):
    from neuralef.graph import kernel
    from neuralef.spectral import principal_eigenvectors

    config = Config(
        width=32,
        feature_neighbors=20,
        pixel_weight=0.0,
        epochs=600,
        batch_images=4,
        quantise=False,
        learning_rate=1e-3,
        orthogonality_weight=50.0,
    )
    psi = training.train(planted_store, config, num_eigenfunctions=4, seed=0, progress=False).psi
    everything = slice(None)
    kappa = kernel(
        planted_store.high(everything), planted_store.colours(everything), feature_neighbors=20, pixel_weight=0.0
    )
    _, exact = principal_eigenvectors(kappa, 4)
    with torch.inference_mode():
        found = psi(planted_store.levels(everything).flatten(1, 2)).flatten(0, 1).numpy()
    # The clusters' indicators span an almost degenerate eigenspace: compare subspaces, not single functions.
    basis, _ = np.linalg.qr(found)
    assert np.linalg.svd(exact.T @ basis)[1].min() > 0.96


def test_patch_stride_still_trains_every_function(store):
    config, levels = replace(CONFIG, patch_stride=2, feature_neighbors=4), store.levels(slice(None)).flatten(1, 2)
    trained = training.train(store, config, num_eigenfunctions=4, seed=0, progress=False).psi
    with torch.inference_mode():
        moved = trained(levels) - training.new_psi(store, config, 4, seed=0).eval()(levels)
    assert (moved.std(dim=(0, 1)) > 0.05).all()


@pytest.mark.parametrize("diverged", ["loss", "weights"])
def test_a_psi_that_is_no_longer_finite_is_refused_and_not_kept(tmp_path, diverged):
    network = torch.nn.Linear(2, 2)

    def take_step(step):
        loss = 0.0
        if step == 1 and diverged == "loss":
            loss = float("nan")
        elif step == 1:  # the last
            torch.nn.init.constant_(network.bias, torch.inf)
        return training.Step(step, 0, loss, 0.0, 0.0, 1.0, 1e-3)

    with pytest.raises(InputError, match="psi, seed 0: diverged, step 2 of 2"):
        training.run_steps(
            network,
            training.new_optimizer(network, CONFIG),
            take_step,
            2,
            description="psi, seed 0",
            folder=tmp_path,
            progress=False,
        )
    assert not list(tmp_path.iterdir())


def test_standardised_inputs_make_psi_blind_to_scale_and_offset_of_a_channel(store):
    config = replace(CONFIG, standardise_inputs=True)
    mean, deviation = store.channel_statistics
    scale, offset = torch.rand_like(mean) + 0.5, torch.randn_like(mean)
    psi = training.new_psi(store, config, 4, seed=0)
    statistics = (scale * mean + offset, scale * deviation)
    moved = Eigenfunctions.of(config, len(mean), 4, seed=0, input_statistics=statistics)
    levels = store.levels(slice(0, 2)).flatten(1, 2)
    torch.testing.assert_close(moved(scale * levels + offset), psi(levels), rtol=1e-3, atol=1e-3)


def test_a_checkpoint_keeps_the_input_statistics(store, tmp_path):
    config = replace(CONFIG, standardise_inputs=True, epochs=1)
    trained = training.train(store, config, num_eigenfunctions=4, seed=0, folder=tmp_path, progress=False)
    loaded = training.train(store, config, num_eigenfunctions=4, seed=0, folder=tmp_path, progress=False)
    assert "standardise.mean" in weights_of(loaded)
    assert same(weights_of(trained), weights_of(loaded))


def test_more_clusters_than_patches_are_refused(store):
    with pytest.raises(InputError, match="clusters were asked of"):
        training.train(store, replace(CONFIG, batch_images=1), num_eigenfunctions=1000, seed=0, progress=False)


def test_batches_of_crops_are_checked_beforehand_unless_padding_may_leave_them():
    config = replace(CONFIG, augment=True, mask_padding=False, pixel_weight=0.3, pixel_neighbors=(4, 2))
    for changes in ({"feature_neighbors": 10_000}, {"pixel_neighbors": (64, 2)}):
        with pytest.raises(InputError, match=next(iter(changes))):
            training.check_sizes((8, 8), 6, replace(config, **changes), 4)
        training.check_sizes((8, 8), 6, replace(config, mask_padding=True, **changes), 4)
    training.check_sizes((8, 8), 6, config, 4)


def test_more_neighbours_than_patches_are_refused(store):
    with pytest.raises(InputError, match="feature_neighbors"):
        training.train(store, replace(CONFIG, feature_neighbors=10_000), num_eigenfunctions=4, seed=0, progress=False)


def test_fewer_images_than_a_batch_are_one_batch(store):
    config = replace(CONFIG, batch_images=1000, epochs=3)
    assert len(training.train(store, config, num_eigenfunctions=4, seed=0, progress=False).history) == 3


def test_the_noise_of_ten_seeds_lies_200_million_steps_apart():
    starts = sorted(training.noise_of(seed, 0).initial_seed() for seed in range(10))
    assert np.diff([*starts, starts[0] + 2**32]).min() > 200_000_000
    assert training.noise_of(3, 7).initial_seed() == training.noise_of(3, 0).initial_seed() + 7


def test_seconds_before_an_interruption_count(store, tmp_path, monkeypatch):
    clock = itertools.count(step=10)
    monkeypatch.setattr(training, "perf_counter", lambda: next(clock))
    keep = {"num_eigenfunctions": 4, "seed": 0, "folder": tmp_path, "checkpoint_every": 2, "progress": False}
    with interrupted_at(training, 3):
        training.train(store, CONFIG, **keep)
    assert training.train(store, CONFIG, **keep).train_s == 20 + 10 * 10  # two steps were kept, ten were left


def test_psi_is_trained_in_the_precision_of_the_configuration(store, monkeypatch):
    asked = set()
    monkeypatch.setattr(training, "autocast", lambda precision, _: nullcontext(asked.add(precision)))
    training.train(store, replace(CONFIG, precision="bfloat16"), num_eigenfunctions=4, seed=0, progress=False)
    assert asked == {"bfloat16"}
