import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from neuralef import kmeans
from neuralef.errors import InputError


def test_centroid_logits_choose_the_nearest_centroid():
    generator = np.random.default_rng(0)
    points, centroids = generator.random((50, 3), dtype=np.float32), generator.random((6, 3), dtype=np.float32)
    distance = ((points[:, None] - centroids[None]) ** 2).sum(-1)
    np.testing.assert_array_equal(kmeans.Centroids(centroids).assign(points), distance.argmin(1))


def test_logits_of_upsampled_features_are_upsampled_logits():
    generator = torch.Generator().manual_seed(0)
    grid = torch.randn(1, 3, 4, 4, generator=generator)
    centroids = kmeans.Centroids(torch.randn(5, 3, generator=generator).numpy())

    def up(x):
        return torch.nn.functional.interpolate(x, size=(13, 13), mode="bilinear")

    of_features = centroids.logits(up(grid).permute(0, 2, 3, 1))
    of_logits = up(centroids.logits(grid.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(of_features, of_logits, rtol=1e-4, atol=1e-5)


def test_kmeans_is_scikit_learns_and_repeats_exactly():
    points = np.random.default_rng(0).random((500, 4), dtype=np.float32)
    ours = kmeans.fit_kmeans(points, 7, seed=3)
    theirs = KMeans(7, n_init=1, max_iter=100, random_state=3).fit(points)
    np.testing.assert_allclose(ours.values, theirs.cluster_centers_, atol=1e-5)
    np.testing.assert_array_equal(ours.values, kmeans.fit_kmeans(points, 7, seed=3).values)


def test_iterations_and_restarts_are_scikit_learns():
    points = np.random.default_rng(0).random((500, 4), dtype=np.float32)
    wanted = ((2, 1), (2, 6), (50, 1))
    found = [kmeans.fit_kmeans(points, 7, seed=3, iterations=i, restarts=n).values for i, n in wanted]
    for values, (i, n) in zip(found, wanted, strict=True):
        theirs = KMeans(7, n_init=n, max_iter=i, random_state=3).fit(points)
        np.testing.assert_allclose(values, theirs.cluster_centers_, atol=1e-5)
    assert all(np.abs(found[0] - other).max() > 1e-3 for other in found[1:])


def test_many_points_are_as_well_clustered_as_by_lloyd_alone(monkeypatch):
    rng = np.random.default_rng(0)
    centres = 4 * rng.standard_normal((6, 5), dtype=np.float32)
    points = centres[rng.integers(0, 6, 4000)] + rng.standard_normal((4000, 5), dtype=np.float32)
    before = points.copy()
    lloyd = KMeans(6, n_init=1, random_state=0).fit(points).inertia_
    monkeypatch.setattr(kmeans, "LLOYD_PATCHES", 500)
    monkeypatch.setattr(kmeans, "PATCHES_PER_UPDATE", 300)
    found = kmeans.fit_kmeans(points, 6, seed=0)
    inertia = ((points - found.values[found.assign(points)]) ** 2).sum()
    assert inertia < 1.01 * lloyd
    np.testing.assert_array_equal(points, before)
    np.testing.assert_array_equal(found.values, kmeans.fit_kmeans(points, 6, seed=0).values)


def test_points_that_lloyd_has_not_seen_move_the_centroids_as_running_means_do(monkeypatch):
    monkeypatch.setattr(kmeans, "LLOYD_PATCHES", 60)
    monkeypatch.setattr(kmeans, "PATCHES_PER_UPDATE", 25)
    points = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
    found = kmeans.fit_kmeans(points, 4, seed=0)
    chosen = np.sort(np.random.default_rng(0).choice(200, 60, replace=False))
    model = KMeans(4, n_init=1, max_iter=100, random_state=0).fit(points[chosen])
    members = [list(points[chosen][model.labels_ == k]) for k in range(4)]
    others = [point for row, point in enumerate(points) if row not in chosen]
    for first in range(0, len(others), 25):
        means = [np.mean(of, axis=0) for of in members]
        for point in others[first : first + 25]:
            members[np.argmin([((point - mean) ** 2).sum() for mean in means])].append(point)
    np.testing.assert_allclose(found.values, [np.mean(of, axis=0) for of in members], atol=1e-5)


def test_photographs_that_come_in_an_order_do_not_take_the_centroids_with_them(monkeypatch):
    """Frames of a video: neighbours in the file are alike. Updates that begin without weight end 9 % above Lloyd."""
    monkeypatch.setattr(kmeans, "LLOYD_PATCHES", 1000)
    monkeypatch.setattr(kmeans, "PATCHES_PER_UPDATE", 500)
    rng = np.random.default_rng(0)
    drift = np.linspace(0, 8, 10_000, dtype=np.float32)[:, None] * np.float32([1, 0, 0, 0])
    points = drift + rng.standard_normal((10_000, 4), dtype=np.float32)
    lloyd = KMeans(12, n_init=1, random_state=0).fit(points).inertia_
    found = kmeans.fit_kmeans(points, 12, seed=0)
    assert ((points - found.values[found.assign(points)]) ** 2).sum() < 1.03 * lloyd


def test_more_clusters_than_patches_are_refused():
    with pytest.raises(InputError, match=r"8 clusters were asked of 5 points, .* lower the number of clusters"):
        kmeans.fit_kmeans(np.zeros((5, 2), np.float32), 8, seed=0)
    points = np.random.default_rng(0).random((5, 2), dtype=np.float32)
    assert sorted(kmeans.fit_kmeans(points, 5, seed=0).values.tolist()) == sorted(points.tolist())


def test_clusters_that_no_point_joins_stay_where_they_are_and_are_counted(monkeypatch, caplog, recwarn):
    """As where photographs are of one colour: fewer points differ than there are clusters."""
    monkeypatch.setattr(kmeans, "LLOYD_PATCHES", 20)
    points = np.repeat(np.float32([[0, 0], [1, 0], [0, 1]]), 30, axis=0)
    found = kmeans.fit_kmeans(points, 8, seed=0)
    assert "5 of 8 clusters stay empty" in caplog.text
    assert not recwarn
    np.testing.assert_allclose(found.values[found.assign(points)], points, atol=1e-6)


def test_more_clusters_than_patches_that_start_are_refused(monkeypatch):
    monkeypatch.setattr(kmeans, "LLOYD_PATCHES", 6)
    with pytest.raises(InputError, match="8 clusters were asked of 20 points, of which at most 6 start"):
        kmeans.fit_kmeans(np.zeros((20, 2), np.float32), 8, seed=0)


def test_half_precision_on_disk_is_clustered_like_single_precision_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(kmeans, "LLOYD_PATCHES", 300)
    points = np.random.default_rng(0).random((900, 4)).astype(np.float16)
    np.save(tmp_path / "points.npy", points)
    mapped = kmeans.fit_kmeans(np.load(tmp_path / "points.npy", mmap_mode="r"), 5, seed=0)
    np.testing.assert_array_equal(mapped.values, kmeans.fit_kmeans(points.astype(np.float32), 5, seed=0).values)
