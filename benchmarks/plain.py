"""The other side of the comparisons: the method as its formulas stand, in dense arithmetic, with no trick.

Written from the paper's equations and from what is known of the official code's constants, not from its source: a whole
B x B similarity matrix, a scatter of the k largest of each row, one block for each image, and both products of Eqs. 6
and 7 with the dense kernel.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from neuralef.config import Config
from neuralef.eigenfunctions import Eigenfunctions, l2_batch_norm


def dense_kernel(features: Tensor, colours: Tensor, config: Config, neighbours: Tensor | None = None) -> Tensor:
    """Eq. 4: ``(images, h, w, C)`` and ``(images, h, w, 3)`` to ``(B, B)``.

    ``neighbours``, ``(B, k)``, take the place of the k nearest: exact searches may choose differently between patches
    that are equally near up to rounding. In the pixel graph the first of such patches is then taken, as ours does.
    """
    unit = F.normalize(features.flatten(0, 2), dim=1)
    similarity = unit @ unit.T
    similarity.fill_diagonal_(-math.inf)
    if neighbours is None:
        cosines, indices = similarity.topk(config.feature_neighbors, dim=1)
    else:
        cosines, indices = similarity.gather(1, neighbours), neighbours
    directed = torch.zeros_like(similarity).scatter_(1, indices, cosines.clamp_min(0))
    kernel = dense_normalized((directed + directed.T) / 2)
    return kernel + config.pixel_weight * dense_normalized(
        dense_pixel_graph(colours, config, first_of_equals=neighbours is not None)
    )


def dense_pixel_graph(colours: Tensor, config: Config, *, first_of_equals: bool = False) -> Tensor:
    """Eq. 3, one dense block for each image.

    On even ground many patches are equally near, and ``cdist`` decides between them by the rounding of a product;
    ``first_of_equals`` takes differences instead, and the first.
    """
    _, h, w, _ = colours.shape
    y, x = torch.meshgrid(torch.linspace(0, 1, h), torch.linspace(0, 1, w), indexing="ij")
    position = torch.stack([x, y], dim=-1).flatten(0, 1).to(colours.device)
    blocks = []
    for image in colours.flatten(1, 2):
        links = torch.zeros(h * w, h * w, device=colours.device)
        for k, weight in zip(config.pixel_neighbors, config.coordinate_weights, strict=True):
            points = torch.cat([image, weight * position], dim=1)
            if first_of_equals:
                distance = sum((column[:, None] - column[None, :]) ** 2 for column in points.T)
                nearest = distance.fill_diagonal_(math.inf).sort(dim=1, stable=True).indices[:, :k]
            else:
                distance = torch.cdist(points, points).fill_diagonal_(math.inf)
                nearest = distance.topk(k, dim=1, largest=False).indices
            links.scatter_(1, nearest, 1.0)
        blocks.append(torch.maximum(links, links.T))
    return torch.block_diag(*blocks)


def dense_normalized(affinity: Tensor) -> Tensor:
    """D^-1/2 A D^-1/2."""
    scale = affinity.sum(dim=1).rsqrt()
    return scale[:, None] * affinity * scale[None, :]


def dense_objective(psi: Tensor, kernel: Tensor, *, orthogonality_weight: float, trace_scale: float) -> Tensor:
    """Minus Eq. 5 in the constants of :func:`neuralef.objective.neural_eigenfunction_objective`; Eqs. 6 and 7 apart."""
    B, K = psi.shape
    R = psi.T @ kernel @ psi / B
    R_hat = psi.detach().T @ kernel @ psi / B
    return (-R.diagonal().sum() + orthogonality_weight * trace_scale * R_hat.triu(1).square().sum()) / K


def plain_psi(channels: int, clusters: int, config: Config, seed: int) -> Eigenfunctions:
    """psi with torch's own orthogonal parametrisation of the head, in float32."""
    psi = Eigenfunctions.of(config, channels, clusters, seed=seed)
    psi.head = orthogonal(nn.Linear(psi.head.in_features, clusters, bias=config.head_bias))
    return psi


def training_step(
    psi: Eigenfunctions,
    optimizer: torch.optim.Optimizer,
    levels: Tensor,
    colours: Tensor,
    config: Config,
    *,
    orthogonality_weight: float,
    trace_scale: float,
) -> float:
    """Kernel, psi, Gumbel-Softmax, L2 batch norm, objective and Adam on one batch; returns the loss."""
    kernel = dense_kernel(levels[..., -(levels.shape[-1] // 3) :], colours, config)
    values = F.gumbel_softmax(psi(levels.flatten(1, 2)).flatten(0, 1), tau=1.0)
    loss = dense_objective(
        l2_batch_norm(values), kernel, orthogonality_weight=orthogonality_weight, trace_scale=trace_scale
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()
