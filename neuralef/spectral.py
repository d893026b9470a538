"""The exact answer: eigenvectors of the same sparse kernel, their extension to new patches, and spectral clustering.

References:
    Ng, Jordan and Weiss, *On Spectral Clustering*, NIPS 2001 (row-normalised eigenvectors, then K-means).
    von Luxburg, *A Tutorial on Spectral Clustering*, arXiv:0711.0189.
    Bengio et al., *Out-of-Sample Extensions for LLE, Isomap, MDS, Eigenmaps, and Spectral Clustering*, NIPS 2003.
    Fowlkes, Belongie, Chung and Malik, *Spectral Grouping Using the Nystroem Method*, PAMI 2004.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch.nn.functional as F
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from neuralef.errors import InputError
from neuralef.graph import feature_graph, normalized_adjacency
from neuralef.kmeans import fit_kmeans

PATCHES_AT_ONCE = 256
"""New patches whose similarities to all landmarks are held at once: 25 MB at 24,000 landmarks."""

RESTARTS = 5
"""Starts of K-means on eigenvectors, of which the best is kept."""

LEAST_EIGENVALUE = 1e-6
"""An eigenfunction of a smaller eigenvalue is not extended: the formula divides by it."""


def principal_eigenvectors(kernel: sp.csr_array | np.ndarray, num_eigenvectors: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues of a symmetric kernel and their eigenvectors, by Lanczos iteration.

    Args:
        kernel: Symmetric kernel, shape ``(N, N)``, sparse or dense.
        num_eigenvectors: Number of eigenvectors, below N.

    Returns:
        Eigenvalues, descending, shape ``(num_eigenvectors,)``, and orthonormal eigenvectors as columns, shape
        ``(N, num_eigenvectors)``; the entry of largest magnitude of each is positive.

    Raises:
        InputError: If that many cannot be had, or eigenvalues lie so close together that the iteration does not end.
    """
    N = kernel.shape[0]
    if not 1 <= num_eigenvectors < N:
        raise InputError(f"{num_eigenvectors} eigenvectors were asked of a kernel over {N} patches; ask for 1..{N - 1}")
    rng = np.random.default_rng(0)  # ARPACK's own start is random
    kernel = kernel.astype(np.float64)
    try:
        values, vectors = eigsh(kernel, k=num_eigenvectors, which="LA", v0=rng.standard_normal(N))
        # A new start for every search: what is left of an eigenspace is orthogonal to the one that found a part of it.
        while (missed := _missed(kernel, values, vectors, rng.standard_normal(N))) is not None:
            least = values.argmin()
            values[least], vectors[:, least] = missed
    except ArpackNoConvergence as error:
        raise InputError(
            f"{num_eigenvectors} eigenvectors of a kernel over {N} patches cannot be told from the next ({error}); ask "
            "for another number, or give a kernel that was normalised in double precision"
        ) from error
    order = np.argsort(-values)
    values, vectors = values[order], vectors[:, order]
    largest = np.abs(vectors).argmax(axis=0)
    return values, vectors * np.sign(vectors[largest, np.arange(num_eigenvectors)])


def _missed(
    kernel: sp.csr_array | np.ndarray, values: np.ndarray, vectors: np.ndarray, start: np.ndarray
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


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to unit length (Ng, Jordan and Weiss), shape ``(N, K)``, float32; a row of zeros stays."""
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def spectral_clustering(kernel: sp.csr_array, num_clusters: int, *, seed: int) -> np.ndarray:
    """Partition a graph: K-means on the unit-length rows of the principal eigenvectors.

    Args:
        kernel: Normalised adjacency or Eq. 4's kernel, shape ``(N, N)``.
        num_clusters: Number of parts and of eigenvectors.
        seed: Seed of K-means.

    Returns:
        Part of each node, shape ``(N,)``, int64.
    """
    _, vectors = principal_eigenvectors(kernel, num_clusters)
    rows = unit_rows(vectors)
    return fit_kmeans(rows, num_clusters, seed=seed, restarts=RESTARTS).assign(rows)


@dataclass(frozen=True)
class LandmarkEigenvectors:
    r"""Eigenvectors over landmark patches, and the eigenfunctions that continue them to every other patch (Nystroem).

    .. math::
        \phi_j(x) = \frac{1}{\lambda_j} \sum_v \frac{k(x, v)}{\sqrt{d(x)\, d(v)}}\, \phi_j(v), \qquad
        d(x) = \sum_v k(x, v)

    With a landmark's own row of the symmetrised graph as :math:`k(x, \cdot)` this is the eigenvalue equation of
    :math:`D^{-1/2} A D^{-1/2}`, so :meth:`extend_rows` gives back its eigenvectors. A patch that is not a landmark has
    no row; :meth:`nearest_rows` makes one by the rule of the graph, cosine similarities to the nearest landmarks. Of
    the graph's two directions that is the one the patch itself chooses: a new patch is nobody's neighbour.

    Attributes:
        features: Features of the landmarks, of unit length, shape ``(L, C)``, float32.
        eigenvalues: Eigenvalues, descending and positive, shape ``(K,)``, float64.
        eigenvectors: Eigenvectors as orthonormal columns, shape ``(L, K)``, float64.
        degrees: Row sums of the landmarks' symmetrised graph, shape ``(L,)``, float64.
        neighbors: Number of nearest landmarks that a new patch is linked to.
    """

    features: Tensor
    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    degrees: np.ndarray
    neighbors: int

    @cached_property
    def _weights(self) -> np.ndarray:
        r"""What an affinity to each landmark counts: :math:`\phi_j(v) / (\lambda_j \sqrt{d(v)})`, shape ``(L, K)``."""
        return _inverse_root(self.degrees)[:, None] * self.eigenvectors / self.eigenvalues

    def extend_rows(self, affinity: sp.csr_array) -> np.ndarray:
        """The eigenfunctions of patches whose affinities to the landmarks are known.

        Args:
            affinity: Rows of the graph before normalisation, non-negative, shape ``(M, L)``.

        Returns:
            Eigenfunctions of the patches, shape ``(M, K)``, float64; zeros for a patch without affinities.

        Raises:
            ValueError: If the rows are not over these landmarks.
        """
        if affinity.shape[1] != len(self.degrees):
            raise ValueError(f"rows must be over {len(self.degrees)} landmarks; got shape {affinity.shape}")
        rows = affinity.astype(np.float64)
        degree = np.asarray(rows.sum(axis=1)).ravel()
        return _inverse_root(degree)[:, None] * (rows @ self._weights)

    def nearest_rows(self, features: Tensor) -> sp.csr_array:
        """Cosine similarities to the nearest landmarks, negative ones as 0: ``(M, C)`` to ``(M, L)``, float64.

        All landmarks are compared, :data:`PATCHES_AT_ONCE` patches at a time.
        """
        M, L, k = len(features), len(self.features), self.neighbors
        cosines, indices = np.empty((M, k)), np.empty((M, k), dtype=np.int32)
        transposed = self.features.T
        for start in range(0, M, PATCHES_AT_ONCE):
            block = slice(start, start + PATCHES_AT_ONCE)
            similarity = F.normalize(features[block].float(), dim=1) @ transposed
            cosines[block], indices[block] = similarity.topk(k, dim=1, sorted=False)
        return sp.csr_array((cosines.clip(min=0).ravel(), indices.ravel(), np.arange(0, M * k + 1, k)), shape=(M, L))

    def extend(self, features: Tensor) -> np.ndarray:
        """The eigenfunctions of new patches, from :meth:`nearest_rows`: ``(M, C)`` to ``(M, K)``, float64."""
        return self.extend_rows(self.nearest_rows(features))


def landmark_eigenvectors(features: Tensor, num_eigenvectors: int, *, neighbors: int) -> LandmarkEigenvectors:
    """Principal eigenvectors of the normalised k-nearest-neighbour graph (Eq. 2) over landmark patches.

    Args:
        features: Features of the landmarks, shape ``(L, C)``, of any scale.
        num_eigenvectors: Number of eigenvectors, below L.
        neighbors: Number of neighbours in the graph, its k, and of landmarks that a new patch is linked to.

    Raises:
        InputError: If the landmarks are too few for that, no two of them are alike, or an eigenvalue is not positive.
    """
    L, _ = features.shape
    if not 1 <= neighbors < L:
        raise InputError(
            f"spectral_neighbors is {neighbors}, but a graph of {L} landmarks allows 1..{L - 1}; lower it, or raise "
            "spectral_landmarks"
        )
    affinity = feature_graph(features, neighbors).astype(np.float64)
    if not affinity.sum() > 0:
        raise InputError(
            f"the graph of {L} landmarks has no edge: no cosine of two of them is positive, as where all photographs "
            "are the same and their centred features zero; give photographs that differ"
        )
    values, vectors = principal_eigenvectors(normalized_adjacency(affinity), num_eigenvectors)
    if values[-1] < LEAST_EIGENVALUE:
        raise InputError(
            f"eigenvalue {num_eigenvectors} of the landmarks' graph is {values[-1]:.2g}, and only eigenfunctions of "
            "positive eigenvalues extend to new patches; lower --clusters or raise spectral_landmarks"
        )
    degrees = np.asarray(affinity.sum(axis=1)).ravel()
    return LandmarkEigenvectors(F.normalize(features.float(), dim=1), values, vectors, degrees, neighbors)


def _inverse_root(degrees: np.ndarray) -> np.ndarray:
    """One over the square root of positive degrees; 0 for a node without neighbours."""
    return np.divide(1.0, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0)
