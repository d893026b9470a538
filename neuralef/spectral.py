"""The exact answer: eigenvectors of the same sparse kernel, and classical spectral clustering with them.

References:
    Ng, Jordan and Weiss, *On Spectral Clustering*, NIPS 2001 (row-normalised eigenvectors, then K-means).
    von Luxburg, *A Tutorial on Spectral Clustering*, arXiv:0711.0189.
"""

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import eigsh

from neuralef.clustering import fit_kmeans
from neuralef.errors import InputError


def principal_eigenvectors(kernel: sp.csr_array, num_eigenvectors: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues of a symmetric kernel and their eigenvectors, by Lanczos iteration.

    Args:
        kernel: Symmetric, shape ``(N, N)``.
        num_eigenvectors: How many, below N.

    Returns:
        Eigenvalues, descending, shape ``(num_eigenvectors,)``, and orthonormal eigenvectors as columns, shape
        ``(N, num_eigenvectors)``; the entry of largest magnitude of each is positive.

    Raises:
        InputError: If that many cannot be had.
    """
    N = kernel.shape[0]
    if not 1 <= num_eigenvectors < N:
        raise InputError(f"{num_eigenvectors} eigenvectors were asked of a kernel over {N} patches; ask for 1..{N - 1}")
    start = np.random.default_rng(0).standard_normal(N)  # ARPACK's own start is random
    values, vectors = eigsh(kernel.astype(np.float64), k=num_eigenvectors, which="LA", v0=start)
    order = np.argsort(-values)
    values, vectors = values[order], vectors[:, order]
    largest = np.abs(vectors).argmax(axis=0)
    return values, vectors * np.sign(vectors[largest, np.arange(num_eigenvectors)])


def laplacian_eigenvalues(kernel_eigenvalues: np.ndarray, pixel_weight: float) -> np.ndarray:
    r"""Eigenvalues of the summed normalised Laplacian that belong to eigenvalues of kappa.

    :math:`(I - D^{-1/2} A D^{-1/2}) + \alpha (I - \tilde D^{-1/2} \tilde A \tilde D^{-1/2}) = (1 + \alpha) I - \kappa`:
    its smallest eigenvalues are kappa's largest.
    """
    return 1 + pixel_weight - kernel_eigenvalues


def spectral_clustering(kernel: sp.csr_array, num_clusters: int, *, seed: int) -> np.ndarray:
    """Partition a graph: K-means on the unit-length rows of the principal eigenvectors.

    Args:
        kernel: Normalised adjacency or Eq. 4's kernel, shape ``(N, N)``.
        num_clusters: Number of parts and of eigenvectors.
        seed: Of K-means.

    Returns:
        Part of each node, shape ``(N,)``, int64.
    """
    _, vectors = principal_eigenvectors(kernel, num_clusters)
    rows = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return fit_kmeans(rows.astype(np.float32), num_clusters, seed=seed, restarts=5).assign(rows.astype(np.float32))
