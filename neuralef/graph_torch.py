"""The kernel of :mod:`neuralef.graph` by torch's operations, for GPUs: the same matrix (Eqs. 2-4), on the device.

Similarities are computed some rows at a time and reduced to their nearest neighbours, so that memory grows with the
number of patches and not with its square; the kernel is a sparse tensor. Everything here runs on a processor as well,
where :mod:`neuralef.graph` is several times faster, and where the tests compare the two.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from neuralef.graph import check_feature_neighbors, check_finite, check_pixel_neighbors, patch_nodes

SIMILARITIES = 2**26
"""Similarities or distances held at once, 256 MB of them; the keys that order distances take four times as much."""

INFINITY_BITS = 0x7F800000
"""Infinity in single precision, as an integer."""


def nearest_neighbors(features: Tensor, neighbors: int) -> tuple[Tensor, Tensor]:
    """:func:`neuralef.graph.nearest_neighbors`: ``(N, C)`` to indices, int64, and cosines, both ``(N, neighbors)``.

    Raises:
        InputError: Unless ``1 <= neighbors < N``, or if a feature is not finite.
    """
    N, _ = features.shape
    check_feature_neighbors(N, neighbors)
    unit = F.normalize(features.float(), dim=1)
    check_finite(unit)
    found = []
    for part in torch.arange(N, device=unit.device).split(max(1, SIMILARITIES // N)):
        similarity = unit[part] @ unit.T
        similarity[torch.arange(len(part)), part] = -torch.inf  # no patch is its own neighbour
        found.append(similarity.topk(neighbors, dim=1, sorted=False))
    return torch.cat([part.indices for part in found]), torch.cat([part.values for part in found])


def feature_graph(features: Tensor, neighbors: int) -> Tensor:
    """:func:`neuralef.graph.feature_graph` (Eq. 2): ``(N, C)`` to a sparse COO tensor ``(N, N)``, coalesced.

    Raises:
        InputError: Unless ``1 <= neighbors < N``, or if a feature is not finite.
    """
    N, _ = features.shape
    indices, cosines = nearest_neighbors(features, neighbors)
    rows = torch.arange(N, device=indices.device).repeat_interleave(neighbors)
    positive = cosines.flatten() > 0
    links = torch.stack([rows, indices.flatten()])[:, positive]
    return _both_ways(links, cosines.flatten()[positive] / 2, N)


def pixel_graph(
    colours: Tensor,
    *,
    neighbors: Sequence[int] = (10, 5),
    coordinate_weights: Sequence[float] = (2.0, 0.1),
    kept: Tensor | None = None,
) -> Tensor:
    """:func:`neuralef.graph.pixel_graph` (Eq. 3), on the colours' device.

    Returns:
        Affinity of the N patches that take part, sparse COO ``(N, N)``, coalesced, float32 of ones.

    Raises:
        InputError: Unless every image has more patches than the largest search has neighbours; not with ``kept``.
    """
    nodes = patch_nodes(colours)
    images, T, _ = nodes.shape
    if kept is None:
        check_pixel_neighbors(T, neighbors)
        kept = torch.ones(images, T, dtype=torch.bool, device=nodes.device)
    kept = kept.flatten(1)
    number = (kept.flatten().cumsum(0) - 1).view(images, T)  # of each patch among those that take part
    links = [torch.empty(2, 0, dtype=torch.int64, device=nodes.device)]
    for part in torch.arange(images, device=nodes.device).split(max(1, SIMILARITIES // T**2)):
        for wanted, weight in zip(neighbors, coordinate_weights, strict=True):
            nearest, found = _first_nearest(nodes[part], kept[part], weight, min(wanted, T - 1))
            rows = number[part, :, None].expand_as(nearest)
            columns = number[part].gather(1, nearest.flatten(1)).view_as(nearest)
            links.append(torch.stack([rows[found], columns[found]]))
    joined = torch.cat(links, dim=1)
    N = int(kept.sum())
    affinity = _both_ways(joined, torch.ones(joined.shape[1], device=joined.device), N)
    return _coalesced(affinity.indices(), affinity.values().clamp_max(1), N)


def _first_nearest(nodes: Tensor, kept: Tensor, weight: float, neighbors: int) -> tuple[Tensor, Tensor]:
    """The nearest other patches by colour and weighted position, of all images at once.

    Args:
        nodes: Colour and position of M images of T patches, shape ``(M, T, 5)``.
        kept: Patches that take part, bool ``(M, T)``.
        weight: Weight of the position.
        neighbors: Number of neighbours, less than T.

    Returns:
        Neighbours of every patch, int64, and which of them there are, bool, both ``(M, T, neighbors)``: a patch that
        takes part has fewer where its image has.
    """
    M, T, _ = nodes.shape
    distances = torch.zeros(M, T, T, device=nodes.device)
    for values in torch.cat([nodes[..., :3], weight * nodes[..., 3:]], dim=-1).unbind(-1):
        distances += (values[:, None] - values[:, :, None]).square()
    distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    distances.masked_fill_(~(kept[:, None] & kept[:, :, None]), torch.inf)
    # Flat colours have many patches that are equally near, of which the first are wanted: positive floats are in the
    # order of their bits, so that a bit pattern followed by a position is a number that decides.
    keys = distances.view(torch.int32).long() << 32 | torch.arange(T, device=nodes.device)
    nearest = keys.topk(neighbors, dim=-1, largest=False).values
    return nearest & 0xFFFFFFFF, nearest >> 32 < INFINITY_BITS


def normalized_adjacency(affinity: Tensor) -> Tensor:
    r"""Symmetric normalisation :math:`D^{-1/2} A D^{-1/2}` (Eq. 4) of a coalesced sparse COO tensor, to another."""
    rows, columns = affinity.indices()
    N = affinity.shape[0]
    degree = torch.zeros(N, device=affinity.device).index_add_(0, rows, affinity.values())
    scale = torch.where(degree > 0, degree.rsqrt(), 0.0)
    return _coalesced(affinity.indices(), affinity.values() * (scale[rows] * scale[columns]), N)


def kernel(
    features: Tensor,
    colours: Tensor,
    *,
    feature_neighbors: int = 256,
    pixel_weight: float = 0.3,
    pixel_neighbors: Sequence[int] = (10, 5),
    coordinate_weights: Sequence[float] = (2.0, 0.1),
    kept: Tensor | None = None,
) -> Tensor:
    r"""The kernel :math:`\kappa` of Eq. 4; arguments are those of :func:`neuralef.graph.kernel`, on one device.

    Returns:
        The kernel over the B patches that take part, sparse COO ``(B, B)``, coalesced, float32, symmetric.

    Raises:
        InputError: If fewer than two patches take part, ``feature_neighbors`` is below 1, or a feature is not finite;
            without ``kept`` also unless ``feature_neighbors`` is below B, or where :func:`pixel_graph` raises one.
    """
    nodes = features.flatten(0, 2) if kept is None else features[kept]
    if kept is not None:
        feature_neighbors = min(feature_neighbors, len(nodes) - 1)
    combined = normalized_adjacency(feature_graph(nodes, feature_neighbors))
    if pixel_weight:
        pixels = pixel_graph(colours, neighbors=pixel_neighbors, coordinate_weights=coordinate_weights, kept=kept)
        combined = (combined + pixel_weight * normalized_adjacency(pixels)).coalesce()
    return combined


def _both_ways(links: Tensor, weights: Tensor, N: int) -> Tensor:
    """The sum of links ``(2, L)`` of some weights ``(L,)`` and of the same links turned around."""
    both = torch.cat([links, links.flip(0)], dim=1)
    return torch.sparse_coo_tensor(both, weights.repeat(2), (N, N), check_invariants=False).coalesce()


def _coalesced(indices: Tensor, values: Tensor, N: int) -> Tensor:
    return torch.sparse_coo_tensor(indices, values, (N, N), is_coalesced=True, check_invariants=False)
