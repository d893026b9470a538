"""Exact eigenvectors and classical spectral clustering against scikit-learn's, on the same graph."""

from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score

from benchmarks import inputs
from benchmarks.harness import Row, less_is_better, measure, more_is_better
from neuralef.graph import feature_graph, normalized_adjacency
from neuralef.spectral import spectral_clustering

NAME = "eigen"
NODES = 10_000
PLANTED = 10  # clusters of the planted graph
PATCH_CLUSTERS = 8
NEIGHBORS = 10


def run() -> Iterator[Row]:
    """Seconds, and the adjusted Rand index of the two partitions (and of ours with the planted one)."""
    with TemporaryDirectory() as folder:
        graphs = {"planted": (planted(), PLANTED), "patches of photographs": (patches(), PATCH_CLUSTERS)}
        for name, (affinity, K) in graphs.items():
            sp.save_npz(f"{folder}/graph.npz", sp.csr_matrix(affinity))
            theirs, ours = (measure(side, f"{folder}/graph.npz", K, repeats=1) for side in (scikit_learn, exact))
            case = f"{name}, {NODES:,} nodes, {affinity.nnz // NODES} neighbours, K = {K}"
            yield less_is_better(
                NAME, case, "time, s", "SpectralClustering (arpack)", (theirs.seconds, ours.seconds), 10
            )
            agreement = adjusted_rand_score(theirs.result, ours.result)
            asked = 1 if name == "planted" else float("nan")
            yield more_is_better(NAME, case, "adjusted Rand index of both", "same partition", (1, agreement), asked)


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


def planted() -> sp.csr_array:
    """Points around ``PLANTED`` directions, and their nearest neighbours."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(PLANTED, 64, generator=generator)
    points = centres.repeat_interleave(NODES // PLANTED, dim=0) + torch.randn(NODES, 64, generator=generator)
    return feature_graph(points, NEIGHBORS)


def patches() -> sp.csr_array:
    """Patches of photographs and their nearest neighbours, the largest connected part."""
    levels, _ = inputs.patches(40, 16)
    return feature_graph(torch.from_numpy(levels[..., -384:]).flatten(0, 2)[:NODES], NEIGHBORS)
