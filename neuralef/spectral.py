"""The exact answer: eigenvectors of the same sparse kernel, and classical spectral clustering with them.

References:
    Ng, Jordan and Weiss, *On Spectral Clustering*, NIPS 2001 (row-normalised eigenvectors, then K-means).
    von Luxburg, *A Tutorial on Spectral Clustering*, arXiv:0711.0189.
"""

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, eigsh

from neuralef.errors import InputError
from neuralef.kmeans import fit_kmeans


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
    starts = np.random.default_rng(0).standard_normal((2, N))  # ARPACK's own start is random
    kernel = kernel.astype(np.float64)
    values, vectors = eigsh(kernel, k=num_eigenvectors, which="LA", v0=starts[0])
    while (missed := _missed(kernel, values, vectors, starts[1])) is not None:
        least = values.argmin()
        values[least], vectors[:, least] = missed
    order = np.argsort(-values)
    values, vectors = values[order], vectors[:, order]
    largest = np.abs(vectors).argmax(axis=0)
    return values, vectors * np.sign(vectors[largest, np.arange(num_eigenvectors)])


def _missed(
    kernel: sp.csr_array, values: np.ndarray, vectors: np.ndarray, start: np.ndarray
) -> tuple[float, np.ndarray] | None:
    """An eigenpair above the least of ``values`` that is not among them, or ``None``.

    A Krylov space holds one direction of the eigenspace of a multiple eigenvalue (as 1 is for a graph in several
    parts); the others enter by rounding alone. With all known pairs moved down to the least of them, a missed one is
    the largest that is left.
    """
    least = values.min()
    rest = LinearOperator(
        kernel.shape, lambda x: kernel @ x - vectors @ ((values - least) * (vectors.T @ x)), dtype=np.float64
    )
    (value,), vector = eigsh(rest, k=1, which="LA", v0=start, tol=1e-4)
    if value <= least + 1e-4 * abs(values).max():
        return None
    (value,), vector = eigsh(rest, k=1, which="LA", v0=start)
    return value, vector[:, 0]


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
    rows = unit_rows(vectors)
    return fit_kmeans(rows, num_clusters, seed=seed, restarts=5).assign(rows)


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Every row at unit length (Ng, Jordan and Weiss), float32; a row of zeros stays one."""
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).astype(np.float32)
