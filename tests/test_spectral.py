import numpy as np
import pytest
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import ArpackNoConvergence
from sklearn.cluster import SpectralClustering
from sklearn.metrics import normalized_mutual_info_score

from neuralef import graph, spectral
from neuralef.errors import InputError
from neuralef.kmeans import fit_kmeans


def planted_kernel(sizes=(30, 40, 50), seed=0):
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    inside = labels[:, None] == labels[None, :]
    links = np.triu(generator.random(inside.shape) < np.where(inside, 0.4, 0.01), 1).astype(np.float32)
    return graph.normalized_adjacency(sp.csr_array(links + links.T)), labels


def test_eigenvectors_are_those_of_a_dense_solver():
    kappa, _ = planted_kernel()
    values, vectors = spectral.principal_eigenvectors(kappa, 6)
    exact_values, exact_vectors = torch.linalg.eigh(torch.from_numpy(kappa.toarray().astype(np.float64)))
    np.testing.assert_allclose(values, exact_values.flip(0)[:6].numpy(), atol=1e-8)
    cosines = np.abs((vectors * exact_vectors.flip(1)[:, :6].numpy()).sum(axis=0))
    np.testing.assert_allclose(cosines, 1, atol=1e-6)


def test_eigenvectors_are_orthonormal_with_a_fixed_sign():
    kappa, _ = planted_kernel()
    _, vectors = spectral.principal_eigenvectors(kappa, 6)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(6), atol=1e-8)
    assert (vectors[np.abs(vectors).argmax(axis=0), range(6)] > 0).all()
    np.testing.assert_array_equal(vectors, spectral.principal_eigenvectors(kappa, 6)[1])


@pytest.mark.parametrize(("parts", "number"), [(12, 12), (12, 5), (40, 45)])
def test_no_copy_of_a_multiple_eigenvalue_is_missed(parts, number):
    # Complete graphs of three nodes: eigenvalue 1 once for each, -1/2 for the rest.
    triangle = (np.ones((3, 3)) - np.eye(3)) / 2
    values, vectors = spectral.principal_eigenvectors(sp.csr_array(sp.block_diag([triangle] * parts)), number)
    np.testing.assert_allclose(values, np.where(np.arange(number) < parts, 1.0, -0.5), atol=1e-8)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(number), atol=1e-7)


@pytest.mark.parametrize("seed", range(8))
def test_no_part_of_a_graph_is_missed(seed):
    """Eight parts of unlike blocks: whatever is left of the eigenspace has to be found by a start of its own."""
    groups = np.repeat(np.arange(8), 15)
    points = 4 * np.eye(16)[groups] + 0.3 * np.random.default_rng(seed).standard_normal((120, 16))
    landmarks = spectral.landmark_eigenvectors(torch.from_numpy(points.astype(np.float32)), 8, neighbors=8)
    np.testing.assert_allclose(landmarks.eigenvalues, 1.0, atol=1e-8)


def test_eigenvalues_that_rounding_moves_apart_end_in_one_sentence(monkeypatch):
    def stuck(*_, **__):
        raise ArpackNoConvergence("ARPACK error -1: No convergence", np.empty(0), np.empty((0, 0)))

    monkeypatch.setattr(spectral, "eigsh", stuck)
    with pytest.raises(InputError, match="5 eigenvectors of a kernel over 120 patches cannot be told from the next"):
        spectral.principal_eigenvectors(planted_kernel()[0], 5)


@pytest.mark.parametrize("pixel_weight", [0.0, 0.3])
def test_largest_eigenvalues_of_the_kernel_are_the_smallest_of_the_summed_laplacian(pixel_weight):
    of_features, of_pixels = (planted_kernel(seed=seed)[0].astype(np.float64) for seed in (0, 1))
    values, _ = spectral.principal_eigenvectors(of_features + pixel_weight * of_pixels, 5)
    one = np.eye(of_features.shape[0])
    laplacian = (one - of_features) + pixel_weight * (one - of_pixels)
    expected = np.linalg.eigvalsh(laplacian)[:5]
    np.testing.assert_allclose(spectral.laplacian_eigenvalues(values, pixel_weight), expected, atol=1e-6)


def test_planted_clusters_are_recovered_exactly():
    kappa, labels = planted_kernel()
    found = spectral.spectral_clustering(kappa, 3, seed=0)
    assert normalized_mutual_info_score(labels, found) == pytest.approx(1.0)


def test_partition_is_kmeans_on_rows_of_unit_length():
    kappa, _ = planted_kernel(sizes=(5, 10, 60), seed=3)
    _, vectors = spectral.principal_eigenvectors(kappa, 6)
    rows = np.stack([row / np.sqrt((row**2).sum()) for row in vectors]).astype(np.float32)
    np.testing.assert_allclose(spectral.unit_rows(vectors), rows, rtol=1e-6)
    expected = fit_kmeans(rows, 6, seed=2, restarts=spectral.RESTARTS).assign(rows)
    np.testing.assert_array_equal(spectral.spectral_clustering(kappa, 6, seed=2), expected)


def test_partition_agrees_with_scikit_learn_on_a_real_kernel_shape():
    features = torch.randn(120, 6, generator=torch.Generator().manual_seed(0)).abs()
    features[:60, :3] += 4
    features[60:, 3:] += 4
    affinity = graph.feature_graph(features, 15)
    ours = spectral.spectral_clustering(graph.normalized_adjacency(affinity), 2, seed=0)
    theirs = SpectralClustering(2, affinity="precomputed", random_state=0).fit_predict(affinity.toarray())
    assert normalized_mutual_info_score(ours, theirs) == pytest.approx(1.0)


@pytest.mark.parametrize("number", [0, 120, 500])
def test_impossible_number_of_eigenvectors_is_named(number):
    with pytest.raises(InputError, match=f"{number} eigenvectors"):
        spectral.principal_eigenvectors(planted_kernel()[0], number)


def directions(labels, seed, *, noise=0.15, channels=12):
    """Features of planted clusters: one direction each, plus noise."""
    generator = torch.Generator().manual_seed(seed)
    return torch.eye(5, channels)[labels] + noise * torch.randn(len(labels), channels, generator=generator)


@pytest.fixture(scope="module")
def landmarks():
    labels = torch.arange(300) % 5
    features = directions(labels, 0, noise=0.35)
    return spectral.landmark_eigenvectors(features, 6, neighbors=9), features, labels


def test_rows_of_the_landmarks_graph_give_back_its_eigenvectors(landmarks):
    found, features, _ = landmarks
    affinity = graph.feature_graph(features, 9).astype(np.float64)
    np.testing.assert_allclose(found.extend_rows(affinity), found.eigenvectors, atol=1e-10)
    some = [7, 3, 200]
    np.testing.assert_allclose(found.extend_rows(affinity[some]), found.eigenvectors[some], atol=1e-10)
    values, _ = spectral.principal_eigenvectors(graph.normalized_adjacency(affinity), 6)
    np.testing.assert_allclose(found.eigenvalues, values, atol=1e-12)


def test_a_row_counts_by_its_proportions_alone(landmarks):
    found, features, _ = landmarks
    affinity = graph.feature_graph(features, 9)
    # k / sqrt(d(x) d(v)) grows with the square root of a row's scale
    np.testing.assert_allclose(found.extend_rows(affinity * 4), 2 * found.eigenvectors, atol=1e-6)


def nystroem(found, patch):
    """The formula of the module, one sum at a time."""
    cosines = [float(F.cosine_similarity(patch, landmark, dim=0)) for landmark in found.features]
    nearest = np.argsort(cosines)[-found.neighbors :]
    k = {v: max(cosines[v], 0.0) for v in nearest}
    d = sum(k.values())
    values = []
    for j, eigenvalue in enumerate(found.eigenvalues):
        terms = [k[v] / np.sqrt(d * found.degrees[v]) * found.eigenvectors[v, j] for v in nearest]
        values.append(sum(terms) / eigenvalue)
    return values


def test_extension_is_the_formula_summed_term_by_term(landmarks, monkeypatch):
    found, _, labels = landmarks
    new = directions(labels[:11], 1)
    expected = np.array([nystroem(found, patch) for patch in new])
    np.testing.assert_allclose(found.extend(new), expected, atol=1e-6)
    monkeypatch.setattr(spectral, "PATCHES_AT_ONCE", 4)
    np.testing.assert_allclose(found.extend(new), expected, atol=1e-6)
    np.testing.assert_allclose(found.extend(3 * new), expected, atol=1e-6)


def test_nearest_landmarks_that_point_the_other_way_have_no_affinity():
    labels = torch.arange(60) % 5
    found = spectral.landmark_eigenvectors(directions(labels, 0, noise=0.35), 4, neighbors=50)
    new = directions(labels[:7], 1, noise=0.35)
    assert (found.nearest_rows(new).toarray() > 0).sum(axis=1).max() < 50
    np.testing.assert_allclose(found.extend(new), [nystroem(found, patch) for patch in new], atol=1e-6)


def test_new_patches_join_their_planted_cluster():
    labels = torch.arange(300) % 5
    found = spectral.landmark_eigenvectors(directions(labels, 0), 5, neighbors=9)
    centroids = fit_kmeans(spectral.unit_rows(found.eigenvectors), 5, seed=0, restarts=5)
    of_landmarks = centroids.assign(spectral.unit_rows(found.eigenvectors))
    truth = torch.arange(40) % 5
    of_new = centroids.assign(spectral.unit_rows(found.extend(directions(truth, 1))))
    assert normalized_mutual_info_score(labels, of_landmarks) == pytest.approx(1.0)
    np.testing.assert_array_equal(of_new, of_landmarks[truth])


def test_a_patch_unlike_every_landmark_has_no_eigenfunctions():
    found = spectral.landmark_eigenvectors(directions(torch.arange(60) % 5, 0, noise=0.01).abs(), 5, neighbors=4)
    assert (found.extend(-torch.ones(2, 12)) == 0).all()
    assert (spectral.unit_rows(np.zeros((2, 5))) == 0).all()


def test_rows_over_other_landmarks_are_refused(landmarks):
    with pytest.raises(ValueError, match="over 300 landmarks"):
        landmarks[0].extend_rows(sp.csr_array((2, 299)))


@pytest.mark.parametrize(("alike", "value"), [(2, r"-1, and"), (4, r"-0\.33, and")])
def test_eigenfunctions_that_cannot_be_extended_are_refused(alike, value):
    # Four complete graphs of n equal patches: eigenvalue 1 for each graph, then -1 / (n - 1)
    features = torch.eye(4).repeat_interleave(alike, dim=0)
    with pytest.raises(InputError, match=f"eigenvalue 5 of the landmarks' graph is {value}"):
        spectral.landmark_eigenvectors(features, 5, neighbors=alike - 1)


def test_an_eigenpair_is_missed_if_it_lies_but_little_above_the_least():
    values = np.array([1.0, 0.95, 0.9, *np.linspace(0, 0.8, 9)])
    start = np.ones(len(values))
    known = np.eye(len(values))[:, [0, 2]]
    value, vector = spectral._missed(np.diag(values), values[[0, 2]], known, start)
    assert value == pytest.approx(0.95) and abs(vector[1]) == pytest.approx(1)
    assert spectral._missed(np.diag(values), values[:3], np.eye(len(values))[:, :3], start) is None


def test_landmarks_of_which_no_two_are_alike_are_refused():
    with pytest.raises(InputError, match="the graph of 20 landmarks has no edge"):
        spectral.landmark_eigenvectors(torch.zeros(20, 4), 5, neighbors=3)
