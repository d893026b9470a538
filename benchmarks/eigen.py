"""Exact eigenvectors and classical spectral clustering against scikit-learn's, on the same graph."""

from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.cluster import SpectralClustering
from sklearn.manifold import spectral_embedding
from sklearn.metrics import adjusted_rand_score

from benchmarks import inputs
from benchmarks.harness import Row, less_is_better, measure, more_is_better
from neuralef.graph import feature_graph, normalized_adjacency
from neuralef.kmeans import fit_kmeans
from neuralef.spectral import spectral_clustering, unit_rows

NAME = "eigen"
NODES = 10_000
PLANTED = 10  # clusters of the planted graph
NEIGHBORS = 20


def run() -> Iterator[Row]:
    """Seconds, and the adjusted Rand index of partitions.

    K-means on patches of photographs ends in another local minimum from another start. So the eigenvectors are compared
    by starting K-means on both solvers' eigenvectors alike; only on the planted graph, where one minimum is far below
    all others, must the two packages agree as they come.
    """
    with TemporaryDirectory() as folder:
        photographs = patches()
        for name, affinity, K in (
            ("planted", planted(), PLANTED),
            ("patches of photographs", photographs, 8),
            ("patches of photographs", photographs, 64),
        ):
            path = f"{folder}/graph.npz"
            sp.save_npz(path, sp.csr_matrix(affinity))
            theirs, ours = (measure(side, path, K, repeats=1) for side in (scikit_learn, exact))
            case = f"{name}, {NODES:,} nodes, {affinity.nnz // NODES} neighbours, K = {K}"
            yield less_is_better(
                NAME, case, "time, s", "SpectralClustering (arpack)", (theirs.seconds, ours.seconds), 10
            )
            agreement = adjusted_rand_score(theirs.result, ours.result)
            asked = 1 if name == "planted" else float("nan")
            yield more_is_better(
                NAME, case, "adjusted Rand index, as they come", "same partition", (1, agreement), asked
            )
            same_start = measure(from_their_eigenvectors, path, K, repeats=0).result
            agreement = adjusted_rand_score(same_start, ours.result)
            yield more_is_better(NAME, case, "adjusted Rand index, same start", "same partition", (0.999, agreement), 1)


def scikit_learn(path: str, K: int) -> Callable[[], np.ndarray]:
    """scikit-learn with its default solver."""
    affinity = sp.load_npz(path)
    return lambda: SpectralClustering(K, affinity="precomputed", eigen_solver="arpack", random_state=0).fit_predict(
        affinity
    )


def exact(path: str, K: int) -> Callable[[], np.ndarray]:
    """Ours: normalised adjacency, Lanczos from the outside of the spectrum, K-means on unit rows."""
    affinity = sp.csr_array(sp.load_npz(path))
    return lambda: spectral_clustering(normalized_adjacency(affinity), K, seed=0)


def from_their_eigenvectors(path: str, K: int) -> Callable[[], np.ndarray]:
    """Our K-means on scikit-learn's eigenvectors; their scale of a row, one over the root of its degree, cancels."""
    affinity = sp.load_npz(path)

    def partition() -> np.ndarray:
        vectors = spectral_embedding(affinity, n_components=K, eigen_solver="arpack", random_state=0, drop_first=False)
        rows = unit_rows(vectors)
        return fit_kmeans(rows, K, seed=0, restarts=5).assign(rows)

    return partition


def planted() -> sp.csr_array:
    """Nearest-neighbour graph of points around ``PLANTED`` directions, so near each other that links cross."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(PLANTED, 64, generator=generator)
    points = centres.repeat_interleave(NODES // PLANTED, dim=0) + 1.25 * torch.randn(NODES, 64, generator=generator)
    return feature_graph(points, NEIGHBORS)


def patches() -> sp.csr_array:
    """Nearest-neighbour graph of patches drawn from all training photographs of ``quick``."""
    store = inputs.study().bench.train
    flat = store.patches.reshape(-1, store.patches.shape[-1])
    chosen = np.sort(np.random.default_rng(0).choice(len(flat), NODES, replace=False))
    features = flat[chosen, -store.channels[-1] :].astype(np.float32)
    return feature_graph(torch.from_numpy(features), NEIGHBORS)
