r"""What every stage of the method takes, computed beforehand: operations, bytes moved, memory.

With B patches in a batch, T in an image (N = T + the tokens before them inside the backbone), C channels of a level,
W = 3C channels of psi, K functions, k neighbours, E entries in a row of the kernel (:func:`row_entries`), L blocks, r
the hidden channels of a block's MLP over its own:

====================  ===============================================  ==========================================
stage                 operations (a multiply-add counts 2)             memory above what was there, bytes
====================  ===============================================  ==========================================
backbone, an image    :math:`L (2 (4 + 2r) N C^2 + 4 N^2 C)` + patches  :math:`4 N C (4 + 2r)` + its levels
kernel, sparse        :math:`B^2 C`, each pair once                    :math:`36 B k`
kernel, GPU           :math:`2 B^2 C`, and k of every row              :math:`160 B k`, or a block of rows
kernel, dense         :math:`2 B^2 C`, and k of every row              :math:`10 B^2`
objective, sparse     :math:`2 E B K + 4 B K^2`                        :math:`24 B K`
objective, dense      :math:`8 B^2 K`, both ways                       :math:`24 B K`
psi, forward          :math:`2 B L ((4 + 2r) W^2 + 128 W) + 2 B W K`   :math:`4 B (W (3 + 2r) + K)`
psi, a step           three times that                                 :math:`4 B W (L (10 + 2r) + 3 + 2r) + 24 B K`
                                                                       and 12 a parameter
K-means               :math:`2 K C` a patch and iteration              :math:`4 C` a patch
====================  ===============================================  ==========================================

psi is that of profile ``paper``; with attention by elu 13 stands in place of 10. *Sparse* is this package's kernel and
objective on a processor, *GPU* the kernel of :mod:`neuralef.graph_torch`; *dense* are the whole B x B matrices of the
formulas, counted for the order of steps in the official code: similarities in half precision, both graphs in single.
Time follows from operations and bytes by the roofline model, memory is a sum over tensors that live at once.

Sources: the operations of a transformer as in Kaplan et al., *Scaling Laws for Neural Language Models*,
arXiv:2001.08361, section 2.1 (a backward pass is twice the forward pass); the roofline of Williams, Waterman and
Patterson, CACM 2009; the official code's dense kernel, ``model/segmenter.py`` of thudzj/NeuralEigenfunctionSegmentor.
Constants that are counts of tensors are derived where they stand; :func:`neuralef.sizing.measured` says how far they
hold.
"""

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch

from neuralef import backbones
from neuralef.backbones import IMAGES_AT_ONCE, IMAGES_AT_ONCE_CUDA
from neuralef.config import Config
from neuralef.eigenfunctions import attention_heads
from neuralef.errors import InputError
from neuralef.graph import BLOCK
from neuralef.graph_torch import SIMILARITIES
from neuralef.kmeans import LLOYD_PATCHES

SINGLE, HALF = 4, 2
"""Bytes of a number."""

BACKWARD = 2
"""Operations of a backward pass over those of the forward pass: gradients of inputs and of weights."""

Form = Literal["sparse", "gpu", "dense"]
"""How the kernel is kept: by this package on a processor, by it on a GPU, or as the official code's whole matrices."""


@dataclass(frozen=True)
class Cost:
    """What a stage takes.

    Attributes:
        operations: Floating-point operations, a multiply-add counting 2.
        traffic: Bytes that pass between memory and processor at least.
        memory: Bytes held at the peak, above what was held before.
    """

    operations: float = 0.0
    traffic: float = 0.0
    memory: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        """One stage after the other: work adds up, memory does not."""
        return Cost(self.operations + other.operations, self.traffic + other.traffic, max(self.memory, other.memory))

    def times(self, count: float) -> "Cost":
        """The stage again and again."""
        return replace(self, operations=count * self.operations, traffic=count * self.traffic)

    def on_top_of(self, held: float) -> "Cost":
        """The stage while ``held`` bytes stay."""
        return replace(self, memory=self.memory + held)


@dataclass(frozen=True)
class Processor:
    """What a roofline needs to know of a machine.

    Attributes:
        name: Name as it is printed.
        operations: Floating-point operations a second at the peak.
        bandwidth: Bytes a second between memory and processor.
        memory: Bytes of memory.
    """

    name: str
    operations: float
    bandwidth: float
    memory: float

    def seconds(self, cost: Cost) -> float:
        """Roofline: the longer of computing and moving; nothing can be faster."""
        return max(cost.operations / self.operations, cost.traffic / self.bandwidth)

    def fits(self, memory: float) -> bool:
        """Whether so many bytes are there."""
        return memory <= self.memory


@dataclass(frozen=True)
class Transformer:
    """What the cost of a vision transformer depends on.

    Attributes:
        patch_size: Side of a patch in pixels.
        channels: Number of channels, C.
        depth: Number of blocks that run, L.
        mlp_ratio: Hidden channels of a block's MLP over its own, r.
        prefix_tokens: Number of class and register tokens.
        parameters: Number of parameters of the whole network.
    """

    patch_size: int
    channels: int
    depth: int
    mlp_ratio: float
    prefix_tokens: int
    parameters: int

    def patches(self, size: tuple[int, int]) -> int:
        """T of an image of ``(H, W)`` pixels; sides are filled up to whole patches."""
        return math.prod(-(-side // self.patch_size) for side in size)


@cache
def transformer_of(name: str) -> Transformer:
    """The sizes of a backbone, from its architecture alone: no weights are made or read.

    Args:
        name: Name of the backbone, as for :func:`neuralef.backbones.build`.

    Raises:
        InputError: If it is no vision transformer.
    """
    import timm  # takes seconds, and most of this module can do without

    known = {spec.name: spec.architecture for spec in backbones.available()}
    architecture = known.get(name, name)
    if not timm.is_model(architecture):
        raise InputError(f"backbone {name!r} is no vision transformer of timm, whose costs are known; name another")
    with torch.device("meta"):
        network = timm.create_model(architecture, num_classes=0)
    if not hasattr(network, "num_prefix_tokens"):
        raise InputError(f"backbone {name!r} is no vision transformer; name another")
    return Transformer(
        patch_size=network.patch_embed.patch_size[0],
        channels=network.embed_dim,
        depth=len(network.blocks),
        mlp_ratio=network.blocks[0].mlp.fc1.out_features / network.embed_dim,
        prefix_tokens=network.num_prefix_tokens,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
    )


def block_operations(tokens: float, channels: float, mlp_ratio: float) -> float:
    """Matrix products of a transformer block without those among tokens: ``2 (4 + 2 r) N C^2``."""
    return 2 * (4 + 2 * mlp_ratio) * tokens * channels**2


def backbone_cost(
    vit: Transformer, size: tuple[int, int], images: int, at_once: int = IMAGES_AT_ONCE["float32"]
) -> Cost:
    """The frozen backbone on images of ``size`` pixels, forward only, attention fused.

    Memory: of the images that pass together, the two levels kept, the residual stream, what a norm made of it, and the
    hidden channels before and after their activation, ``(4 + 2 r) C`` for each token, and the images; then the three
    levels of all images, twice while they are joined. The weights are read for every pass.
    """
    T = vit.patches(size)
    N, C, together = T + vit.prefix_tokens, vit.channels, min(images, at_once)
    embedding = 2 * T * 3 * vit.patch_size**2 * C
    one = embedding + vit.depth * (block_operations(N, C, vit.mlp_ratio) + 4 * N**2 * C)
    stream = SINGLE * N * C
    levels = SINGLE * images * T * 3 * C
    moved = images * vit.depth * (10 + 4 * vit.mlp_ratio) * stream
    moved += math.ceil(images / at_once) * SINGLE * vit.parameters
    pictures = 2 * SINGLE * together * 3 * math.prod(size)
    return Cost(images * one, moved, max(together * stream * (4 + 2 * vit.mlp_ratio) + pictures + levels, 2 * levels))


def sparse_kernel_cost(B: int, channels: int, neighbors: int) -> Cost:
    """The kernel of Eq. 4 by :func:`neuralef.graph.kernel`.

    Every pair is multiplied once. Memory is the larger of two moments: the end of the search, with a candidate list of
    2 k pairs (8 bytes) a patch, the k that are kept of them, features and their transpose; and the sum of Eq. 2, with
    neighbours (8 k bytes), halved cosines (4 k), a transpose (8 k) and the at most 2 k entries of the affinity (16 k).
    """
    search = B * (24 * neighbors + 2 * SINGLE * channels)
    return Cost(B**2 * channels, SINGLE * B**2 * channels / BLOCK[0], max(search, 36 * B * neighbors))


def gpu_kernel_cost(B: int, channels: int, neighbors: int) -> Cost:
    """The kernel of Eq. 4 by :func:`neuralef.graph_torch.kernel`.

    Every pair is multiplied twice. Similarities are written once, and read six times: to leave out a patch's own, and
    by the radix search for the k largest, byte by byte. The 2 k links of a patch are sorted once for Eq. 2 and once for
    the sum of both graphs, eight passes over 16 bytes each. Memory is the larger of two moments: the search by
    features, with a block of similarities; and the sort, where a link is there as rows, columns and weight (20 bytes)
    before and after, and as key and place (16 bytes) before, while and after it is sorted. The search by pixels, up to
    20 bytes a pair of patches of one image, is left out: it stays below what psi takes.
    """
    links = 2 * B * neighbors
    traffic = 7 * SINGLE * B**2 + 2 * 8 * 16 * links
    return Cost(2 * B**2 * channels, traffic, max(SINGLE * min(B**2, SIMILARITIES) + SINGLE * B * channels, 80 * links))


def dense_kernel_cost(B: int, channels: int) -> Cost:
    """The kernel of Eq. 4 as whole matrices on a GPU, as the official code has it.

    At the peak: similarities in half precision and both normalised graphs in single, 2 + 4 + 4 bytes a pair. On the way
    similarities are written, searched for their largest, scattered into a second matrix, symmetrised, scaled and
    widened: some twenty half-precision passes, and ten in single precision for the pixel graph.
    """
    return Cost(2 * B**2 * channels, (20 * HALF + 10 * SINGLE) * B**2, (HALF + 2 * SINGLE) * B**2)


def row_entries(config: Config) -> int:
    """Entries of a kernel's row at most, by the mean over rows: the links of both graphs, each in both directions."""
    return 2 * (config.feature_neighbors + sum(config.pixel_neighbors))


def sparse_objective_cost(B: int, K: int, config: Config) -> Cost:
    """Eqs. 5 to 7, forward and backward, by :func:`neuralef.objective.neural_eigenfunction_objective`.

    One product with the kernel, one K x K product forward and one backward. Six ``(B, K)`` tensors live at once: values
    before and after the L2 batch norm, a copy, the product, two gradients.
    """
    entries = row_entries(config)
    return Cost(2 * B * entries * K + 4 * B * K**2, B * entries * (8 + SINGLE), 6 * SINGLE * B * K)


def dense_objective_cost(B: int, K: int) -> Cost:
    """Eqs. 5 to 7 with dense kernels: both matrices of Eqs. 6 and 7 are products with them, forward and backward."""
    return Cost(8 * B**2 * K, 4 * SINGLE * B**2, 6 * SINGLE * B * K)


def psi_parameters(in_channels: int, K: int, config: Config) -> int:
    """Numbers that psi learns: projection, blocks, norms and head."""
    width = config.width or in_channels
    hidden = int(width * config.mlp_ratio)
    attention = 4 * width**2 + (4 if config.attention == "elu" else 1) * width
    block = attention + width * hidden * 2 + hidden + width + 4 * width
    projection = 0 if width == in_channels else (in_channels + 1) * width
    return projection + config.depth * block + 2 * width + K * (width + config.head_bias)


def psi_forward_cost(B: int, in_channels: int, K: int, config: Config) -> Cost:
    """psi on B patches without gradient, as evaluation takes it. Linear attention: two products a head."""
    W = config.width or in_channels
    attention = 4 * B * W * (W // attention_heads(W))
    projection = 0 if in_channels == W else 2 * B * in_channels * W
    operations = projection + config.depth * (block_operations(B, W, config.mlp_ratio) + attention) + 2 * B * W * K
    stream = SINGLE * B * W
    moved = config.depth * (16 + 4 * config.mlp_ratio) * stream
    return Cost(operations, moved, (3 + 2 * config.mlp_ratio) * stream + SINGLE * B * K)


def psi_step_cost(B: int, in_channels: int, K: int, config: Config) -> Cost:
    """psi in a training step: forward, backward, Gumbel-Softmax and Adam.

    Kept for the backward pass, for each patch and block, in units of W numbers: both norms' inputs and outputs (4),
    queries, keys and values (3), what attention makes of queries and keys (2 softmaxes; by elu positive features and
    their slopes, 4, and what is divided, 1), the input of its last layer (1), and the hidden channels before and after
    their activation (2 r); while a block runs backward, gradients of the widest of it (3 + 2 r) are there as well. Of
    weights: gradients and Adam's two moments, three numbers each, the weights themselves having been there before.
    """
    forward = psi_forward_cost(B, in_channels, K, config)
    stream = SINGLE * B * (config.width or in_channels)
    attention = 5 if config.attention == "elu" else 2
    kept = config.depth * (8 + attention + 2 * config.mlp_ratio) * stream + (3 + 2 * config.mlp_ratio) * stream
    learned = psi_parameters(in_channels, K, config)
    return Cost(
        (1 + BACKWARD) * forward.operations,
        (1 + BACKWARD) * forward.traffic + 7 * SINGLE * learned,
        kept + 3 * SINGLE * learned + 6 * SINGLE * B * K,
    )


def maps_cost(patches: int, pixels: int, K: int) -> Cost:
    """Up-sampling K logits of every patch to pixels and their argmax; the map is 2 bytes a pixel.

    An upper bound: :func:`neuralef.segmentation.cluster_map` leaves out the clusters that cannot win between four
    patches, and keeps no up-sampled logits.
    """
    return Cost(8 * pixels * K, SINGLE * patches * K + 2 * pixels, 2 * pixels)


def dense_maps_cost(pixels: int, K: int) -> Cost:
    """:func:`maps_cost` with all up-sampled logits at once, as on a GPU: written, then read by softmax and argmax."""
    return Cost(8 * pixels * K, 5 * SINGLE * pixels * K, 2 * SINGLE * pixels * K)


def kmeans_cost(patches: int, channels: int, K: int, *, iterations: int) -> Cost:
    """K-means of :func:`neuralef.kmeans.fit_kmeans`: Lloyd's iterations on a draw, then one pass over all patches.

    All points are held in single precision.
    """
    seen = min(LLOYD_PATCHES, patches) * iterations + patches
    return Cost(2 * seen * channels * K, SINGLE * seen * channels, SINGLE * patches * channels)


def store_bytes(images: int, patches: int, channels: int) -> int:
    """A feature store on disk: ``channels`` of all levels and three colours a patch in half precision, two headers."""
    return images * patches * (channels + 3) * HALF + 2 * 128


def step_cost(vit: Transformer, crop: int, K: int, config: Config, *, form: Form) -> Cost:
    """One training step on random crops: backbone, kernel, psi and objective, everything that one step keeps counted.

    Args:
        vit: Sizes of the backbone.
        crop: Side of the crops in pixels.
        K: Number of functions.
        config: Hyper-parameters of batch, kernel and psi.
        form: Form of the kernel and of the products with it.
    """
    size = (crop, crop)
    B = config.batch_images * vit.patches(size)
    levels = SINGLE * B * 3 * vit.channels
    weights = SINGLE * (vit.parameters + psi_parameters(3 * vit.channels, K, config))
    k = config.feature_neighbors
    if form == "dense":
        graph, objective = dense_kernel_cost(B, vit.channels), dense_objective_cost(B, K)
        kept = graph.memory
    elif form == "gpu":
        graph, objective = gpu_kernel_cost(B, vit.channels, k), sparse_objective_cost(B, K, config)
        kept = 20 * B * row_entries(config)
    else:
        graph, objective = sparse_kernel_cost(B, vit.channels, k), sparse_objective_cost(B, K, config)
        kept = 8 * B * row_entries(config)
    learning = psi_step_cost(B, 3 * vit.channels, K, config).on_top_of(objective.memory)
    together = IMAGES_AT_ONCE["float32"] if form == "sparse" else IMAGES_AT_ONCE_CUDA
    features = backbone_cost(vit, size, config.batch_images, together)
    return (
        features.on_top_of(weights)
        + graph.on_top_of(weights + levels)
        + learning.on_top_of(weights + levels + kept)
        + replace(objective, memory=0.0)
    )
