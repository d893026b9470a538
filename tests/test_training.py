from dataclasses import replace

import numpy as np
import pytest
import torch

from neuralef import training
from neuralef.config import Config
from neuralef.eigenfunctions import Eigenfunctions
from neuralef.errors import InputError

CONFIG = Config(width=16, feature_neighbors=8, epochs=4, batch_images=2, pixel_neighbors=(4, 2))


def weights_of(result):
    return {name: tensor.clone() for name, tensor in result.psi.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


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
def test_a_killed_run_continues_bit_identically(store, tmp_path, monkeypatch, killed_after):
    whole = training.train(store, CONFIG, num_eigenfunctions=4, seed=0, progress=False)
    step = training._train_step

    def dies(*arguments, **keywords):
        if keywords["step"] == killed_after:
            raise KeyboardInterrupt
        return step(*arguments, **keywords)

    monkeypatch.setattr(training, "_train_step", dies)
    with pytest.raises(KeyboardInterrupt):
        training.train(store, CONFIG, num_eigenfunctions=4, seed=0, folder=tmp_path, checkpoint_every=2, progress=False)
    monkeypatch.setattr(training, "_train_step", step)
    resumed = training.train(
        store, CONFIG, num_eigenfunctions=4, seed=0, folder=tmp_path, checkpoint_every=2, progress=False
    )
    assert same(weights_of(whole), weights_of(resumed))
    assert resumed.history == whole.history


def test_a_finished_run_is_taken_from_its_checkpoint(store, tmp_path, monkeypatch):
    finished = training.train(store, CONFIG, num_eigenfunctions=4, seed=0, folder=tmp_path, progress=False)
    monkeypatch.setattr(training, "_train_step", lambda *_, **__: pytest.fail("a step was repeated"))
    loaded = training.train(store, CONFIG, num_eigenfunctions=4, seed=0, folder=tmp_path, progress=False)
    assert same(weights_of(finished), weights_of(loaded))
    assert loaded.train_s == finished.train_s > 0


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
    result = training.train(
        store, replace(CONFIG, patch_stride=2, feature_neighbors=4), num_eigenfunctions=4, seed=0, progress=False
    )
    assert all(np.isfinite(step.loss) for step in result.history)


def test_standardised_inputs_make_psi_blind_to_scale_and_offset_of_a_channel(store):
    config = replace(CONFIG, standardise_inputs=True)
    mean, deviation = store.channel_statistics
    scale, offset = torch.rand_like(mean) + 0.5, torch.randn_like(mean)
    psi = training.new_psi(store, config, 4, seed=0)
    moved = Eigenfunctions(
        len(mean),
        4,
        width=config.width,
        input_statistics=(scale * mean + offset, scale * deviation),
        generator=torch.Generator().manual_seed(0),
    )
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


def test_more_neighbours_than_patches_are_refused(store):
    with pytest.raises(InputError, match="feature_neighbors"):
        training.train(store, replace(CONFIG, feature_neighbors=10_000), num_eigenfunctions=4, seed=0, progress=False)


def test_fewer_images_than_a_batch_are_one_batch(store):
    config = replace(CONFIG, batch_images=1000, epochs=3)
    assert len(training.train(store, config, num_eigenfunctions=4, seed=0, progress=False).history) == 3
