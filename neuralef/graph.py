r"""The graph kernel over patches (paper, Eqs. 2-4), as one sparse symmetric matrix.

.. math::
    \kappa = D^{-1/2} A D^{-1/2} + \alpha\, \tilde D^{-1/2} \tilde A \tilde D^{-1/2}

with the feature graph :math:`A` (Eq. 2) and the pixel graph :math:`\tilde A` (Eq. 3). Training, the exact eigensolver
and the plots all use this one matrix; a dense ``(B, B)`` array is never kept: similarities are computed and reduced to
their nearest neighbours a block at a time.

Where the paper is silent the official code decides (paper facts, section 4, items 4 and 5): no patch is its own
neighbour, negative cosines count as 0, and the pixel graph joins two neighbour searches that weigh colour against
position differently.

References:
    Deng and Luo, *Learning Neural Eigenfunctions for Unsupervised Semantic Segmentation*, arXiv:2304.02841;
    official code ``model/segmenter.py`` of thudzj/NeuralEigenfunctionSegmentor.
    Shi and Malik, *Normalized Cuts and Image Segmentation*, PAMI 2000.
    von Luxburg, *A Tutorial on Spectral Clustering*, arXiv:0711.0189.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from neuralef import loops
from neuralef.errors import InputError
from neuralef.precision import onednn_is_faster, product_by_onednn

BLOCK = (512, 1024)
"""Rows and columns of the similarity matrix held at once: 2 MB, which stay in the processor's cache."""

SAMPLE_EVERY = 32
"""One patch in so many gives the first guess of how near a neighbour must be."""


def nearest_neighbors(features: Tensor, neighbors: int, *, block: tuple[int, int] = BLOCK) -> tuple[Tensor, Tensor]:
    """The nearest other patches by cosine similarity, exactly.

    The similarity matrix is symmetric, so only blocks on and above its diagonal are computed, and each is offered to
    the patches of its rows and to those of its columns. A patch keeps the candidates above a threshold that a sample of
    the patches suggests; where that was too high, the row is computed again by itself.

    Args:
        features: Features of the patches, shape ``(N, C)``, of any scale.
        neighbors: Number of neighbours to find for each patch, ``1 .. N - 1``.
        block: Rows and columns of the similarity matrix held at once.

    Returns:
        Indices, int32 ``(N, neighbors)``, in no particular order, and their cosines, float32 ``(N, neighbors)``.

    Raises:
        InputError: Unless ``1 <= neighbors < N``, or if a feature is not finite.
    """
    N, _ = features.shape
    check_feature_neighbors(N, neighbors)
    unit = F.normalize(features.float(), dim=1)
    check_finite(unit)
    multiply = _multiplier(unit, block)
    capacity = 2 * neighbors  # about as many pass the first thresholds
    values = np.empty((N, capacity), dtype=np.float32)
    indices = np.empty((N, capacity), dtype=np.int32)
    lengths = np.zeros(N, dtype=np.int64)
    candidates = (values, indices, lengths, _first_thresholds(unit, neighbors))
    rows, columns = block
    for top in range(0, N, rows):
        bottom = min(top + rows, N)
        starts = [top, *range(bottom, N, columns)]
        for left, right in zip(starts, [*starts[1:], N], strict=True):
            similarity = multiply(slice(top, bottom), slice(left, right)).numpy()
            loops.offer_block(similarity, top, left, *candidates, neighbors)
            if left > top:
                loops.offer_block_transposed(similarity, top, left, *candidates, neighbors)
    short = np.flatnonzero(lengths < neighbors)
    transposed = unit.T.contiguous() if len(short) else None  # as torch.mm has it, so that equal sums stay equal
    for u in short:
        similarity = transposed.T @ unit[u]
        similarity[u] = -torch.inf
        values[u, :neighbors], indices[u, :neighbors] = similarity.topk(neighbors)
        lengths[u] = neighbors
    loops.keep_largest_of_rows(values, indices, lengths, neighbors)
    return torch.from_numpy(indices[:, :neighbors].copy()), torch.from_numpy(values[:, :neighbors].copy())


def _multiplier(unit: Tensor, block: tuple[int, int]) -> Callable[[slice, slice], Tensor]:
    """What multiplies some rows of ``(N, C)`` by others, to ``(R, S)``; a product may overwrite the one before it."""
    if onednn_is_faster():
        return lambda rows, columns: product_by_onednn(unit[rows], unit[columns])
    transposed = unit.T.contiguous()
    memory = torch.empty(block[0] * max(block))  # fresh memory for every block would cost a tenth of the time

    def multiply(rows: slice, columns: slice) -> Tensor:
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        out = memory[: shape[0] * shape[1]].view(shape)
        return torch.mm(unit[rows], transposed[:, columns], out=out)

    return multiply


def check_feature_neighbors(patches: int, neighbors: int) -> None:
    """Raise ``InputError`` unless ``1 <= neighbors < patches``."""
    if patches < 2:  # of crops, all may be padding
        raise InputError(
            f"a graph of {patches} patches has no links; raise image_size, train_crop or short_side, or put more "
            "images in a batch"
        )
    if not 1 <= neighbors < patches:
        raise InputError(
            f"feature_neighbors is {neighbors}, but a graph of {patches} patches allows 1..{patches - 1}; "
            "lower feature_neighbors or put more images in a batch"
        )


def check_finite(features: Tensor) -> None:
    """Raise ``InputError`` if a feature is not finite."""
    if not features.isfinite().all():
        raise InputError("features are not all finite; delete the feature cache and compute them again")


def check_pixel_neighbors(patches: int, neighbors: Sequence[int]) -> None:
    """Raise ``InputError`` unless every image has more patches than the largest search has neighbours."""
    wanted = max(neighbors, default=0)
    if wanted >= patches:
        raise InputError(
            f"pixel_neighbors {tuple(neighbors)} need more than {wanted} patches an image; there are {patches}; lower "
            "them or raise image_size"
        )


def _first_thresholds(unit: Tensor, neighbors: int) -> np.ndarray:
    """A cosine that most likely at least ``neighbors`` patches exceed, for each of ``(N, C)``, shape ``(N,)``."""
    # Patches at equal distances in the list would all come from one column of a grid.
    drawn = np.random.default_rng(0).choice(len(unit), len(unit) // SAMPLE_EVERY, replace=False)
    sample = unit[torch.from_numpy(drawn)]
    expected = neighbors / SAMPLE_EVERY  # of the nearest neighbours lie in the sample, with a Poisson spread
    rank = math.ceil(expected + 2.5 * math.sqrt(expected) + 2)
    if rank >= len(sample):
        return np.full(len(unit), -np.inf, dtype=np.float32)
    multiply = product_by_onednn if onednn_is_faster() else lambda part, others: part @ others.T
    parts = [multiply(part, sample).topk(rank, dim=1, sorted=False).values.amin(dim=1) for part in unit.split(BLOCK[1])]
    return torch.cat(parts).numpy()


def feature_graph(features: Tensor, neighbors: int) -> sp.csr_array:
    r"""Symmetrised k-nearest-neighbour graph of cosine similarities (Eq. 2).

    :math:`A = (W + W^\top) / 2` with :math:`W_{uv} = \max(\cos(F_u, F_v), 0)` where v is among the nearest
    ``neighbors`` of u, else 0.

    Args:
        features: High-level features, shape ``(N, C)``.
        neighbors: Number of neighbours of a patch, the paper's k.

    Returns:
        Affinity, shape ``(N, N)``, float32, symmetric, zero diagonal, at most ``2 * N * neighbors`` entries.

    Raises:
        InputError: Unless ``1 <= neighbors < N``, if a feature is not finite, or if there are more entries than 32-bit
            indices can count.
    """
    N, _ = features.shape
    indices, cosines = nearest_neighbors(features, neighbors)
    rows = np.arange(0, N * neighbors + 1, neighbors, dtype=np.int32)
    halves = cosines.clamp_min(0).mul_(0.5).numpy().ravel()
    links = sp.csr_array((halves, indices.numpy().ravel(), rows), shape=(N, N))
    starts, columns, entries = loops.transposed(links.indptr, links.indices, links.data)
    affinity = _sum(links, sp.csr_array((entries, columns, starts), shape=(N, N)))
    if (cosines <= 0).any():
        affinity.eliminate_zeros()
    return affinity


def pixel_graph(
    colours: Tensor,
    *,
    neighbors: Sequence[int] = (10, 5),
    coordinate_weights: Sequence[float] = (2.0, 0.1),
    kept: Tensor | None = None,
) -> sp.csr_array:
    """Binary nearest-neighbour graph of colour and position within each image (Eq. 3).

    A patch is (red, green, blue, w x, w y) with all five in [0, 1] before the weight w. For each pair of ``neighbors``
    and ``coordinate_weights`` a patch is linked to its L2-nearest patches of the same image; the searches and both
    directions are joined by OR.

    Args:
        colours: Images down-sampled to the patch grid, shape ``(images, h, w, 3)``, values in [0, 1].
        neighbors: Number of neighbours in each search; a search for 0 is left out.
        coordinate_weights: Weight of the coordinates in each search.
        kept: Patches that take part, bool ``(images, h, w)``; ``None``: all. The others are not nodes, and an image
            with fewer than a search wants links all it has.

    Returns:
        Affinity of the N patches that take part, image by image, shape ``(N, N)``, float32 of zeros and ones,
        symmetric, zero diagonal, block-diagonal over images.

    Raises:
        InputError: Unless every image has more patches than the largest search has neighbours; not with ``kept``.
    """
    nodes = patch_nodes(colours)
    if kept is None:
        check_pixel_neighbors(nodes.shape[1], neighbors)
        return _nearest_links(nodes, neighbors, coordinate_weights)
    images = [of_image[real] for of_image, real in zip(nodes, kept.flatten(1), strict=True)]
    blocks = [_nearest_links(of_image[None], neighbors, coordinate_weights) for of_image in images if len(of_image)]
    return sp.csr_array(sp.block_diag(blocks, format="csr"))


def patch_nodes(colours: Tensor) -> Tensor:
    """Colour and position (red, green, blue, x, y) of every patch, all in [0, 1]: ``(M, h, w, 3)`` to ``(M, T, 5)``."""
    M, h, w, _ = colours.shape
    y, x = torch.meshgrid(torch.linspace(0, 1, h), torch.linspace(0, 1, w), indexing="ij")
    positions = torch.stack([x, y], dim=-1).to(colours.device)
    return torch.cat([colours.float(), positions.expand(M, h, w, 2)], dim=-1).flatten(1, 2)


def _nearest_links(nodes: Tensor, neighbors: Sequence[int], coordinate_weights: Sequence[float]) -> sp.csr_array:
    """Links within each of M images of T patches, colour and position ``(M, T, 5)``, to ``(M * T, M * T)``."""
    M, T, _ = nodes.shape
    links = sp.csr_array((M * T, M * T), dtype=np.float32)
    for wanted, weight in zip(neighbors, coordinate_weights, strict=True):
        k = min(wanted, T - 1)
        if k == 0:
            continue
        points = torch.cat([nodes[..., :3], weight * nodes[..., 3:]], dim=-1)  # (M, T, 5)
        nearest = loops.nearest_points(points.numpy(), k)
        rows = np.arange(0, M * T * k + 1, k, dtype=np.int32)
        ones = np.ones(M * T * k, dtype=np.float32)
        links = links + sp.csr_array((ones, nearest.ravel(), rows), shape=links.shape)
    links = links + links.T.tocsr()
    links.data[:] = 1.0
    return links


def normalized_adjacency(affinity: sp.csr_array) -> sp.csr_array:
    r"""Symmetric normalisation :math:`D^{-1/2} A D^{-1/2}` (Eq. 4).

    Args:
        affinity: Affinity, shape ``(N, N)``, symmetric and non-negative.

    Returns:
        Normalised affinity, shape ``(N, N)``, eigenvalues in [-1, 1]. The row and column of a patch without neighbours
        stay zero.

    Raises:
        ValueError: If the affinity is not square or has a negative entry.
    """
    if affinity.shape[0] != affinity.shape[1] or (affinity.nnz and affinity.data.min() < 0):
        raise ValueError(f"affinity must be square and non-negative; got {affinity.shape}, minimum {affinity.min()}")
    degree = np.asarray(affinity.sum(axis=1)).ravel()
    scale = np.divide(1.0, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0).astype(affinity.dtype)
    normalised = affinity.tocsr(copy=True)
    loops.scale_rows_and_columns(normalised.indptr, normalised.indices, normalised.data, scale)
    return normalised


def kernel(
    features: Tensor,
    colours: Tensor,
    *,
    feature_neighbors: int = 256,
    pixel_weight: float = 0.3,
    pixel_neighbors: Sequence[int] = (10, 5),
    coordinate_weights: Sequence[float] = (2.0, 0.1),
    kept: Tensor | None = None,
) -> sp.csr_array:
    r"""The kernel :math:`\kappa` of Eq. 4 over the patches of a mini-batch.

    Args:
        features: High-level features, shape ``(images, h, w, C)``; neighbours are searched over all images.
        colours: The images at patch resolution, shape ``(images, h, w, 3)``, values in [0, 1].
        feature_neighbors: Number of neighbours in the feature graph, the paper's k.
        pixel_weight: Weight of the pixel graph, the paper's alpha (the official ``pixelwise_weight``); 0 leaves it out.
        pixel_neighbors: Number of neighbours in each search of :func:`pixel_graph`, the paper's k-tilde.
        coordinate_weights: Weight of the coordinates in each search of :func:`pixel_graph`.
        kept: Patches that take part, bool ``(images, h, w)``; ``None``: all. Where fewer are left than
            ``feature_neighbors`` asks for, each is linked to all others.

    Returns:
        The kernel over the B patches that take part (``images * h * w`` where all do), shape ``(B, B)``, float32,
        symmetric, eigenvalues in ``[-1 - pixel_weight, 1 + pixel_weight]``.

    Raises:
        InputError: If fewer than two patches take part, ``feature_neighbors`` is below 1, a feature is not finite, or
            there are more entries than 32-bit indices can count; without ``kept`` also unless ``feature_neighbors`` is
            below B, or where :func:`pixel_graph` raises one.
    """
    nodes = features.flatten(0, 2) if kept is None else features[kept]
    if kept is not None:
        feature_neighbors = min(feature_neighbors, len(nodes) - 1)
    combined = normalized_adjacency(feature_graph(nodes, feature_neighbors))
    if pixel_weight:
        pixels = pixel_graph(colours, neighbors=pixel_neighbors, coordinate_weights=coordinate_weights, kept=kept)
        combined = _sum(combined, np.float32(pixel_weight) * normalized_adjacency(pixels))
    return combined


def _sum(A: sp.csr_array, B: sp.csr_array) -> sp.csr_array:
    """``A + B`` of square float32 matrices on all threads; scipy's own has one, and wants sorted rows to be quick."""
    if A.nnz + B.nnz > np.iinfo(np.int32).max:
        raise InputError(
            f"a graph of {A.shape[0]} patches with {A.nnz + B.nnz} entries is asked for, which 32-bit indices cannot "
            "count; lower feature_neighbors or the number of patches"
        )
    starts, columns, entries = loops.sparse_sum(A.indptr, A.indices, A.data, B.indptr, B.indices, B.data)
    return sp.csr_array((entries, columns, starts), shape=A.shape)
