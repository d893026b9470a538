import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from neuralef import clustering, training
from neuralef.config import Config
from neuralef.errors import InputError

CONFIG = Config(width=16, feature_neighbors=8, epochs=1, batch_images=2, kmeans_patches=200)


def test_centroid_logits_choose_the_nearest_centroid():
    generator = np.random.default_rng(0)
    points, centroids = generator.random((50, 3), dtype=np.float32), generator.random((6, 3), dtype=np.float32)
    distance = ((points[:, None] - centroids[None]) ** 2).sum(-1)
    np.testing.assert_array_equal(clustering.Centroids(centroids).assign(points), distance.argmin(1))


def test_logits_of_upsampled_features_are_upsampled_logits():
    generator = torch.Generator().manual_seed(0)
    grid = torch.randn(1, 3, 4, 4, generator=generator)
    centroids = clustering.Centroids(torch.randn(5, 3, generator=generator).numpy())

    def up(x):
        return torch.nn.functional.interpolate(x, size=(13, 13), mode="bilinear")

    of_features = centroids.logits(up(grid).permute(0, 2, 3, 1))
    of_logits = up(centroids.logits(grid.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(of_features, of_logits, rtol=1e-4, atol=1e-5)


def test_kmeans_is_scikit_learns_and_repeats_exactly():
    points = np.random.default_rng(0).random((500, 4), dtype=np.float32)
    ours = clustering.fit_kmeans(points, 7, seed=3)
    theirs = KMeans(7, n_init=1, max_iter=100, random_state=3).fit(points)
    np.testing.assert_allclose(ours.values, theirs.cluster_centers_, atol=1e-5)
    np.testing.assert_array_equal(ours.values, clustering.fit_kmeans(points, 7, seed=3).values)


def test_many_points_are_as_well_clustered_as_by_lloyd_alone(monkeypatch):
    rng = np.random.default_rng(0)
    centres = 4 * rng.standard_normal((6, 5), dtype=np.float32)
    points = centres[rng.integers(0, 6, 4000)] + rng.standard_normal((4000, 5), dtype=np.float32)
    before = points.copy()
    lloyd = KMeans(6, n_init=1, random_state=0).fit(points).inertia_
    monkeypatch.setattr(clustering, "LLOYD_PATCHES", 500)
    monkeypatch.setattr(clustering, "PATCHES_PER_UPDATE", 300)
    found = clustering.fit_kmeans(points, 6, seed=0)
    inertia = ((points - found.values[found.assign(points)]) ** 2).sum()
    assert inertia < 1.01 * lloyd
    np.testing.assert_array_equal(points, before)
    np.testing.assert_array_equal(found.values, clustering.fit_kmeans(points, 6, seed=0).values)


def test_more_clusters_than_patches_are_refused():
    with pytest.raises(InputError, match="8 clusters were asked of 5 patches"):
        clustering.fit_kmeans(np.zeros((5, 2), np.float32), 8, seed=0)


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


def test_kmeans_patches_limits_the_sample_evenly(store):
    points = clustering._sample(store, CONFIG, 0, lambda rows: store.high(rows), progress=False)
    assert points.shape == (200 // len(store) * len(store), store.channels[-1])
