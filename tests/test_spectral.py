import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.cluster import SpectralClustering
from sklearn.metrics import normalized_mutual_info_score

from neuralef import graph, spectral
from neuralef.errors import InputError


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


def test_laplacian_and_kernel_share_their_eigenvectors():
    kappa, _ = planted_kernel()
    values, _ = spectral.principal_eigenvectors(kappa, 5)
    laplacian = np.eye(kappa.shape[0]) - kappa.toarray().astype(np.float64)
    np.testing.assert_allclose(
        spectral.laplacian_eigenvalues(values, pixel_weight=0.0), np.linalg.eigvalsh(laplacian)[:5], atol=1e-6
    )


def test_planted_clusters_are_recovered_exactly():
    kappa, labels = planted_kernel()
    found = spectral.spectral_clustering(kappa, 3, seed=0)
    assert normalized_mutual_info_score(labels, found) == pytest.approx(1.0)


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
