r"""The graph kernel over patches (paper, Eqs. 2-4), as one sparse symmetric matrix.

.. math::
    \kappa = D^{-1/2} A D^{-1/2} + \alpha\, \tilde D^{-1/2} \tilde A \tilde D^{-1/2}

with the feature graph :math:`A` (Eq. 2) and the pixel graph :math:`\tilde A` (Eq. 3). Training, the exact eigensolver
and the plots all use this one matrix; a dense ``(B, B)`` array is never kept: similarities are computed and reduced to
their nearest neighbours a slab of rows at a time.

Where the paper is silent the official code decides (paper facts, section 4, items 4 and 5): no patch is its own
neighbour, negative cosines count as 0, and the pixel graph joins two neighbour searches that weigh colour against
position differently.

References:
    Deng and Luo, *Learning Neural Eigenfunctions for Unsupervised Semantic Segmentation*, arXiv:2304.02841;
    official code ``model/segmenter.py`` of thudzj/NeuralEigenfunctionSegmentor.
    Shi and Malik, *Normalized Cuts and Image Segmentation*, PAMI 2000.
    von Luxburg, *A Tutorial on Spectral Clustering*, arXiv:0711.0189.
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from neuralef.errors import InputError

ROWS_PER_SLAB = 1024
"""Rows of the similarity matrix held at once: 4 MB per 1,000 patches, whatever the size of the batch."""


def nearest_neighbors(features: Tensor, neighbors: int, *, rows_per_slab: int = ROWS_PER_SLAB) -> tuple[Tensor, Tensor]:
    """The nearest other patches by cosine similarity, exactly.

    Args:
        features: Shape ``(N, C)``, any scale.
        neighbors: How many to find for each patch, ``1 .. N - 1``.
        rows_per_slab: Rows of the similarity matrix held at once.

    Returns:
        Indices, int64 ``(N, neighbors)``, in no particular order, and their cosines, float32 ``(N, neighbors)``.

    Raises:
        InputError: If there are not that many other patches.
    """
    N, _ = features.shape
    if not 1 <= neighbors < N:
        raise InputError(
            f"feature_neighbors is {neighbors}, but a graph of {N} patches allows 1..{N - 1}; "
            "lower feature_neighbors or put more images in a batch"
        )
    unit = F.normalize(features.float(), dim=1)
    indices = torch.empty(N, neighbors, dtype=torch.int64)
    cosines = torch.empty(N, neighbors)
    for start in range(0, N, rows_per_slab):
        rows = torch.arange(start, min(start + rows_per_slab, N))
        similarity = unit[rows] @ unit.T  # (rows, N); O(rows * N * C)
        similarity[rows - start, rows] = -torch.inf
        cosines[rows], indices[rows] = similarity.topk(neighbors, dim=1, sorted=False)
    return indices, cosines


def feature_graph(features: Tensor, neighbors: int) -> sp.csr_array:
    r"""Symmetrised k-nearest-neighbour graph of cosine similarities (Eq. 2).

    :math:`A = (W + W^\top) / 2` with :math:`W_{uv} = \max(\cos(F_u, F_v), 0)` where v is among the nearest
    ``neighbors`` of u, else 0.

    Args:
        features: High-level features, shape ``(N, C)``.
        neighbors: The paper's k.

    Returns:
        Affinity, shape ``(N, N)``, float32, symmetric, zero diagonal, at most ``2 * N * neighbors`` entries.
    """
    N, _ = features.shape
    indices, cosines = nearest_neighbors(features, neighbors)
    rows = np.arange(0, N * neighbors + 1, neighbors)
    directed = sp.csr_array((cosines.clamp_min(0).numpy().ravel(), indices.numpy().ravel(), rows), shape=(N, N))
    affinity = (directed + directed.T.tocsr()) * np.float32(0.5)
    affinity.eliminate_zeros()
    return affinity


def pixel_graph(
    colours: Tensor, *, neighbors: Sequence[int] = (10, 5), coordinate_weights: Sequence[float] = (2.0, 0.1)
) -> sp.csr_array:
    """Binary nearest-neighbour graph of colour and position within each image (Eq. 3).

    A patch is (red, green, blue, w x, w y) with all five in [0, 1] before the weight w. For each pair of ``neighbors``
    and ``coordinate_weights`` a patch is linked to its L2-nearest patches of the same image; the searches and both
    directions are joined by OR.

    Args:
        colours: Images down-sampled to the patch grid, shape ``(images, h, w, 3)``, values in [0, 1].
        neighbors: Neighbours in each search; a search for 0 is left out.
        coordinate_weights: Weight of the coordinates in each search.

    Returns:
        Affinity, shape ``(images * h * w,) * 2``, float32 of zeros and ones, symmetric, zero diagonal, block-diagonal
        over images.

    Raises:
        InputError: If an image has no more patches than a search wants neighbours.
    """
    M, h, w, _ = colours.shape
    T = h * w
    if max(neighbors) >= T:
        raise InputError(
            f"pixel_neighbors {tuple(neighbors)} need more than {max(neighbors)} patches an image; there are {T}"
        )
    y, x = torch.meshgrid(torch.linspace(0, 1, h), torch.linspace(0, 1, w), indexing="ij")
    position = torch.stack([x, y], dim=-1).expand(M, h, w, 2)
    links = sp.csr_array((M * T, M * T), dtype=np.float32)
    for k, weight in zip(neighbors, coordinate_weights, strict=True):
        if k == 0:
            continue
        points = torch.cat([colours.float(), weight * position], dim=-1).flatten(1, 2)  # (M, T, 5)
        distance = torch.cdist(points, points)  # (M, T, T)
        distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        nearest = distance.topk(k, dim=2, largest=False, sorted=False).indices + torch.arange(0, M * T, T).view(M, 1, 1)
        ones = np.ones(M * T * k, dtype=np.float32)
        links = links + sp.csr_array((ones, nearest.numpy().ravel(), np.arange(0, M * T * k + 1, k)), shape=links.shape)
    links = links + links.T.tocsr()
    links.data[:] = 1.0
    return links


def normalized_adjacency(affinity: sp.csr_array) -> sp.csr_array:
    r"""Symmetric normalisation :math:`D^{-1/2} A D^{-1/2}` (Eq. 4).

    Args:
        affinity: Symmetric and non-negative, shape ``(N, N)``.

    Returns:
        Shape ``(N, N)``, eigenvalues in [-1, 1]. The row and column of a patch without neighbours stay zero.

    Raises:
        ValueError: If the affinity is not square or has a negative entry.
    """
    if affinity.shape[0] != affinity.shape[1] or (affinity.nnz and affinity.data.min() < 0):
        raise ValueError(f"affinity must be square and non-negative; got {affinity.shape}, minimum {affinity.min()}")
    degree = np.asarray(affinity.sum(axis=1)).ravel()
    scale = np.divide(1.0, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0).astype(affinity.dtype)
    normalised = affinity.tocsr(copy=True)
    normalised.data *= scale[normalised.indices] * np.repeat(scale, np.diff(normalised.indptr))
    return normalised


def kernel(
    features: Tensor,
    colours: Tensor,
    *,
    feature_neighbors: int = 256,
    pixel_weight: float = 0.3,
    pixel_neighbors: Sequence[int] = (10, 5),
    coordinate_weights: Sequence[float] = (2.0, 0.1),
) -> sp.csr_array:
    r"""The kernel :math:`\kappa` of Eq. 4 over the patches of a mini-batch.

    Args:
        features: High-level features, shape ``(images, h, w, C)``; neighbours are searched over all images.
        colours: The images at patch resolution, shape ``(images, h, w, 3)``, values in [0, 1].
        feature_neighbors: The paper's k.
        pixel_weight: The paper's alpha (the official ``pixelwise_weight``); 0 leaves the pixel graph out.
        pixel_neighbors: The paper's k-tilde, one for each search of :func:`pixel_graph`.
        coordinate_weights: See :func:`pixel_graph`.

    Returns:
        Shape ``(B, B)`` with ``B = images * h * w``, float32, symmetric, eigenvalues in
        ``[-1 - pixel_weight, 1 + pixel_weight]``.
    """
    combined = normalized_adjacency(feature_graph(features.flatten(0, 2), feature_neighbors))
    if pixel_weight:
        pixels = pixel_graph(colours, neighbors=pixel_neighbors, coordinate_weights=coordinate_weights)
        combined = combined + np.float32(pixel_weight) * normalized_adjacency(pixels)
    return combined


def patch_colours(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """Down-sample images bilinearly to the patch grid, as Eq. 3 wants them.

    Args:
        images: Shape ``(B, 3, H, W)``, values in [0, 1].
        grid: Patches ``(h, w)``.

    Returns:
        Shape ``(B, h, w, 3)``, values in [0, 1].
    """
    return F.interpolate(images, size=grid, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
