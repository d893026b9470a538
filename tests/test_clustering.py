from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from sklearn.metrics import normalized_mutual_info_score

from neuralef import clustering, training
from neuralef.config import Config
from neuralef.eigenfunctions import OrthonormalRows
from neuralef.errors import InputError
from neuralef.kmeans import Centroids, fit_kmeans
from neuralef.spectral import RESTARTS

CONFIG = Config(width=16, feature_neighbors=8, epochs=1, batch_images=2, kmeans_patches=200)


def test_centred_features_do_not_see_a_common_offset(store):
    levels = store.levels(slice(0, 2))
    head = clustering.fit_feature_kmeans(store, CONFIG, num_clusters=4, seed=0, centred=True, progress=False)
    moved = clustering.FeatureKMeans(head.centroids, head.channels, head.mean + 1)
    torch.testing.assert_close(moved.logits(levels + 1), head.logits(levels), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("centred", [False, True])
def test_heads_give_k_logits_for_every_patch(store, centred):
    head = clustering.fit_feature_kmeans(store, CONFIG, num_clusters=4, seed=0, centred=centred, progress=False)
    assert head.logits(store.levels(slice(0, 2))).shape == (2, *store.grid, 4)
    assert head.num_clusters == 4


def test_hidden_kmeans_clusters_what_feeds_the_head(store):
    psi = training.train(store, CONFIG, num_eigenfunctions=4, seed=0, progress=False).psi
    head = clustering.fit_hidden_kmeans(store, psi, CONFIG, num_clusters=5, seed=0, progress=False)
    levels = store.levels(slice(0, 1))
    with torch.inference_mode():
        hidden = psi.hidden(levels.flatten(1, 2))[0].numpy()
    distance = ((hidden[:, None] - head.centroids.values[None]) ** 2).sum(-1)
    np.testing.assert_array_equal(head.logits(levels)[0].flatten(0, 1).argmax(1).numpy(), distance.argmin(1))


def sampled(features, patches, seed):
    """As many patches from each image, drawn image by image."""
    rng = np.random.default_rng(seed)
    kept = patches // len(features)
    return np.concatenate([image[np.sort(rng.choice(64, kept, replace=False))] for image in features.flatten(1, 2)])


@pytest.mark.parametrize("centred", [False, True])
def test_feature_kmeans_is_kmeans_on_the_high_level_of_a_sample(store, centred):
    config = replace(CONFIG, kmeans_iterations=3)
    settings = {"num_clusters": 5, "seed": 2, "centred": centred, "restarts": 4, "progress": False}
    head = clustering.fit_feature_kmeans(store, config, **settings)
    high = store.high(slice(None))
    mean = high.mean(dim=(0, 1, 2))
    if centred:
        torch.testing.assert_close(head.mean, mean, rtol=1e-4, atol=1e-5)
        high = F.normalize(high - head.mean, dim=-1)
    expected = fit_kmeans(sampled(high, 200, seed=2), 5, seed=2, iterations=3, restarts=4)
    np.testing.assert_allclose(head.centroids.values, expected.values, atol=1e-5)


def test_the_mean_that_is_removed_is_that_of_the_high_level(planted_store):
    expected = planted_store.high(slice(None)).mean(dim=(0, 1, 2))  # levels differ by 0.003 in it
    torch.testing.assert_close(clustering.high_mean(planted_store), expected, rtol=0, atol=1e-5)


def test_logits_of_ours_are_those_of_psi(store):
    psi = training.new_psi(store, CONFIG, 4, seed=0).eval()
    levels = store.levels(slice(0, 3))[:, :, :5]
    found = clustering.EigenfunctionHead.from_tensors({}, psi, CONFIG).logits(levels)
    assert found.shape == (3, 8, 5, 4)
    torch.testing.assert_close(found.flatten(1, 2), psi(levels.flatten(1, 2)), rtol=1e-4, atol=1e-5)


def test_ours_finds_the_rows_of_psi_s_last_layer_once_for_all_images(store, monkeypatch):
    psi = training.new_psi(store, CONFIG, 4, seed=0).eval()
    found = []
    rows = OrthonormalRows.forward
    monkeypatch.setattr(OrthonormalRows, "forward", lambda self, weight: found.append(1) or rows(self, weight))
    head = clustering.EigenfunctionHead.from_tensors({}, psi, CONFIG)
    for image in range(3):
        head.logits(store.levels(slice(image, image + 1)))
    assert len(found) == 1


def test_blocks_of_psi_run_in_the_precision_asked_for(store):
    config = replace(CONFIG, precision="bfloat16")
    psi = training.new_psi(store, config, 4, seed=0).eval()
    levels = store.levels(slice(0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        hidden = psi.hidden(levels.flatten(1, 2)).float()
    assert torch.equal(clustering.hidden_features(psi, levels, "bfloat16").flatten(1, 2), hidden)
    assert not torch.equal(clustering.hidden_features(psi, levels, "float32").flatten(1, 2), hidden)
    head = clustering.fit_hidden_kmeans(store, psi, config, num_clusters=4, seed=0, progress=False)
    assert head.precision == "bfloat16"


def test_kmeans_patches_limits_the_sample_evenly(store):
    points = clustering._sample(store, 200, 0, store.high, progress=False)
    assert points.shape == (200 // len(store) * len(store), store.channels[-1])


def test_of_wider_features_fewer_patches_are_clustered(store, monkeypatch):
    monkeypatch.setattr(clustering, "SAMPLED_NUMBERS", 3 * len(store) * store.channels[-1])
    assert len(clustering._sample(store, 200, 0, store.high, progress=False)) == 3 * len(store)
    monkeypatch.setattr(clustering, "SAMPLED_NUMBERS", 1)
    assert len(clustering._sample(store, 200, 0, store.high, progress=False)) == len(store)


def test_of_more_images_than_patches_some_give_one_each(store):
    points = clustering._sample(store, 2, 0, store.high, progress=False)
    halves = [store.high(slice(start, start + 1)).flatten(0, 2) for start in (0, 3)]
    assert len(points) == 2
    for point, patches in zip(points, halves, strict=True):
        assert (patches == torch.from_numpy(point)).all(dim=1).any()


def test_pca_keeps_what_scikit_learn_keeps(store):
    config = replace(CONFIG, pca_channels=5)
    head = clustering.fit_pca_kmeans(store, config, num_clusters=4, seed=3, progress=False)
    mean = store.channel_statistics[0][-store.channels[-1] :]
    prepared = F.normalize(store.high(slice(None)) - mean, dim=-1).flatten(0, 2).numpy()
    rng = np.random.default_rng(3)
    chosen = [64 * image + np.sort(rng.choice(64, 33, replace=False)) for image in range(6)]
    pca = PCA(5).fit(prepared[np.concatenate(chosen)])
    distance = ((pca.transform(prepared)[:, None] - head.centroids.values[None]) ** 2).sum(-1)
    found = head.logits(store.levels(slice(None))).flatten(0, 2).argmax(1).numpy()
    np.testing.assert_array_equal(found, distance.argmin(1))
    # Centroids are means of what they cluster, as far as the iterations went: in the same coordinates, not beside them.
    projected = pca.transform(prepared[np.concatenate(chosen)])
    expected = fit_kmeans(projected, 4, seed=3, iterations=config.kmeans_iterations)
    np.testing.assert_allclose(np.abs(head.centroids.values), np.abs(expected.values), atol=1e-3)


def test_all_components_are_a_rotation_that_changes_no_cluster(store):
    config = replace(CONFIG, pca_channels=store.channels[-1])
    pca = clustering.fit_pca_kmeans(store, config, num_clusters=4, seed=0, progress=False)
    back = pca.centroids.values @ pca.components.numpy() + (pca.offset @ pca.components).numpy()
    plain = clustering.FeatureKMeans(Centroids(back), store.channels[-1], pca.mean)
    levels = store.levels(slice(None))
    assert torch.equal(pca.logits(levels).argmax(-1), plain.logits(levels).argmax(-1))


def test_more_components_than_channels_are_refused(store):
    with pytest.raises(InputError, match="pca_channels is 17"):
        clustering.fit_pca_kmeans(store, replace(CONFIG, pca_channels=17), num_clusters=4, seed=0, progress=False)


def test_spectral_recovers_planted_clusters_from_a_quarter_of_the_patches(planted_store):
    config = replace(CONFIG, spectral_landmarks=64, spectral_neighbors=6)
    head = clustering.fit_spectral(planted_store, config, num_clusters=4, seed=0, progress=False)
    found = head.logits(planted_store.levels(slice(None))).argmax(-1).numpy()
    rows, columns = np.indices((8, 8)) // 4
    truth = np.broadcast_to(2 * rows + columns, found.shape)
    assert len(head.landmarks.features) == 64
    assert normalized_mutual_info_score(truth.ravel(), found.ravel()) == pytest.approx(1.0)


def test_spectral_logits_are_those_of_kmeans_on_unit_rows_of_eigenfunctions(store):
    config = replace(CONFIG, spectral_landmarks=120, spectral_neighbors=7)
    head = clustering.fit_spectral(store, config, num_clusters=4, seed=0, progress=False)
    assert len(head.landmarks.features) == 120
    of_landmarks = head.landmarks.eigenvectors / np.linalg.norm(head.landmarks.eigenvectors, axis=1, keepdims=True)
    expected = fit_kmeans(of_landmarks, 4, seed=0, iterations=config.kmeans_iterations, restarts=RESTARTS)
    np.testing.assert_allclose(head.centroids.values, expected.values, atol=1e-5)
    levels = store.levels(slice(1, 3))
    prepared = F.normalize(levels[..., -store.channels[-1] :] - head.mean, dim=-1).flatten(0, 2)
    rows = head.landmarks.extend(prepared)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    distance = ((rows[:, None] - head.centroids.values[None]) ** 2).sum(-1)
    logits = head.logits(levels)
    assert logits.shape == (2, *store.grid, 4)
    torch.testing.assert_close(
        logits.flatten(0, 2),
        torch.from_numpy((rows**2).sum(-1, keepdims=True) - distance).float(),
        rtol=1e-4,
        atol=1e-4,
    )


def test_landmarks_too_few_for_their_neighbours_are_named(store):
    config = replace(CONFIG, spectral_landmarks=12, spectral_neighbors=12)
    with pytest.raises(InputError, match="spectral_neighbors is 12, but a graph of 12 landmarks"):
        clustering.fit_spectral(store, config, num_clusters=4, seed=0, progress=False)


def test_landmarks_are_a_sample_of_centred_features_of_unit_length(store):
    config = replace(CONFIG, spectral_landmarks=120, spectral_neighbors=7)
    head = clustering.fit_spectral(store, config, num_clusters=4, seed=3, progress=False)
    high = store.high(slice(None))
    prepared = F.normalize(high - high.mean(dim=(0, 1, 2)), dim=-1)
    np.testing.assert_allclose(head.landmarks.features, sampled(prepared, 120, seed=3), atol=1e-4)
    assert head.landmarks.neighbors == 7


def test_hidden_kmeans_is_kmeans_on_a_sample_of_hidden_features(store):
    config = replace(CONFIG, kmeans_iterations=2)
    psi = training.new_psi(store, config, 4, seed=0).eval()
    head = clustering.fit_hidden_kmeans(store, psi, config, num_clusters=5, seed=2, progress=False)
    hidden = clustering.hidden_features(psi, store.levels(slice(None)), "float32")
    expected = fit_kmeans(sampled(hidden, 200, seed=2), 5, seed=2, iterations=2)
    np.testing.assert_allclose(head.centroids.values, expected.values, atol=1e-4)


def test_heads_run_the_blocks_of_psi_in_their_precision(store):
    config = replace(CONFIG, precision="bfloat16")
    psi = training.new_psi(store, config, 4, seed=0).eval()
    levels = store.levels(slice(0, 2))
    hidden = clustering.hidden_features(psi, levels, "bfloat16")
    fitted = clustering.fit_hidden_kmeans(store, psi, config, num_clusters=4, seed=0, progress=False)
    read = clustering.HiddenKMeans.from_tensors(fitted.tensors(), psi, config)
    with torch.inference_mode():
        assert torch.equal(clustering.EigenfunctionHead.from_tensors({}, psi, config).logits(levels), psi.head(hidden))
        for head in (fitted, read):
            assert torch.equal(head.logits(levels), head.centroids.logits(hidden))
