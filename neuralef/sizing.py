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
psi, a step           three times that                                 :math:`4 B W (L (13 + 2r) + 3 + 2r) + 24 B K`
                                                                       and 12 a parameter
K-means               :math:`2 K C` a patch and iteration              :math:`4 C` a patch
====================  ===============================================  ==========================================

*Sparse* is this package's kernel and objective on a processor, *GPU* the kernel of :mod:`neuralef.graph_torch`; *dense*
are the whole B x B matrices of the formulas, counted for the order of steps in the official code: similarities in half
precision, both graphs in single. Time follows from operations and bytes by the roofline model, memory is a sum over
tensors that live at once.

Sources: the operations of a transformer as in Kaplan et al., *Scaling Laws for Neural Language Models*,
arXiv:2001.08361, section 2.1 (a backward pass is twice the forward pass); the roofline of Williams, Waterman and
Patterson, CACM 2009; the official code's dense kernel, ``model/segmenter.py`` of thudzj/NeuralEigenfunctionSegmentor.
Constants that are counts of tensors are derived where they stand; :func:`measured` says how far they hold.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from time import perf_counter
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from neuralef import backbones, datasets, provenance
from neuralef.backbones import IMAGES_AT_ONCE, IMAGES_AT_ONCE_CUDA
from neuralef.clustering import SAMPLED_NUMBERS
from neuralef.config import Config
from neuralef.eigenfunctions import HEAD_CHANNELS, Eigenfunctions, l2_batch_norm
from neuralef.errors import InputError
from neuralef.graph import BLOCK
from neuralef.graph_torch import SIMILARITIES
from neuralef.kmeans import LLOYD_PATCHES
from neuralef.measuring import measure
from neuralef.methods import REGISTRY
from neuralef.objective import neural_eigenfunction_objective
from neuralef.precision import Device, Precision, autocast
from neuralef.protocols import PAPER_SLIDING
from neuralef.segmentation import cluster_map
from neuralef.tables import TABLES, Spec, Table
from neuralef.training import kernel_of, new_optimizer, optimise, total_steps

SINGLE, HALF = 4, 2
"""Bytes of a number."""

BACKWARD = 2
"""Operations of a backward pass over those of the forward pass: gradients of inputs and of weights."""

Form = Literal["sparse", "gpu", "dense"]
"""How the kernel is kept: by this package on a processor, by it on a GPU, or as the official code's whole matrices."""

Stage = Literal["backbone", "kernel", "objective", "psi", "maps"]
STAGES: tuple[Stage, ...] = ("backbone", "kernel", "objective", "psi", "maps")
"""What :func:`measured` measures, each in a process of its own."""


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
    the sum of both graphs, eight passes over 16 bytes each. Memory is the larger of two moments: the search, with a
    block of similarities; and the sort, where a link is there as rows, columns and weight (20 bytes) before and after,
    and as key and place (16 bytes) before, while and after it is sorted.
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
    block = 4 * width * (width + 1) + width * hidden * 2 + hidden + width + 4 * width
    projection = 0 if width == in_channels else (in_channels + 1) * width
    return projection + config.depth * block + 2 * width + K * width


def psi_forward_cost(B: int, in_channels: int, K: int, config: Config) -> Cost:
    """psi on B patches without gradient, as evaluation takes it. Linear attention: two products a head."""
    W = config.width or in_channels
    attention = 4 * B * W * (W // max(1, W // HEAD_CHANNELS))
    projection = 0 if in_channels == W else 2 * B * in_channels * W
    operations = projection + config.depth * (block_operations(B, W, config.mlp_ratio) + attention) + 2 * B * W * K
    stream = SINGLE * B * W
    moved = config.depth * (16 + 4 * config.mlp_ratio) * stream
    return Cost(operations, moved, (3 + 2 * config.mlp_ratio) * stream + SINGLE * B * K)


def psi_step_cost(B: int, in_channels: int, K: int, config: Config) -> Cost:
    """psi in a training step: forward, backward, Gumbel-Softmax and Adam.

    Kept for the backward pass, for each patch and block, in units of W numbers: both norms' inputs and outputs (4),
    queries, keys and values (3), positive features and their slopes (4), what attention divides (1) and the input of
    its last layer (1), and the hidden channels before and after their activation (2 r); while a block
    runs backward, gradients of the widest of it (3 + 2 r) are there as well. Of weights: gradients and Adam's two
    moments, three numbers each, the weights themselves having been there before.
    """
    forward = psi_forward_cost(B, in_channels, K, config)
    stream = SINGLE * B * (config.width or in_channels)
    kept = config.depth * (13 + 2 * config.mlp_ratio) * stream + (3 + 2 * config.mlp_ratio) * stream
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


def this_machine(device: Device = "cpu", precision: Precision = "float32") -> Processor:
    """This processor, or its GPU, by what it does: the best of some large products and copies.

    Args:
        device: Device that is measured.
        precision: Precision of the products.
    """
    side, length = (1024, 2**24) if device == "cpu" else (8192, 2**28)
    square, line = torch.rand(side, side, device=device), torch.rand(length, device=device)
    with autocast(precision, device):
        product = _fastest(lambda: square @ square, device)
    copy = _fastest(line.clone, device)
    if device == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        memory = torch.cuda.get_device_properties(0).total_memory
    return Processor(provenance.device(device), 2 * side**3 / product, 2 * SINGLE * length / copy, memory)


def _fastest(work: Callable[[], Any], device: Device) -> float:
    """Seconds of the best of seven calls."""
    seconds = []
    for _ in range(7):
        began = perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(perf_counter() - began)
    return min(seconds)


@dataclass(frozen=True)
class Shapes:
    """A small case to measure.

    Attributes:
        backbone: Name of the backbone; its weights are random, which costs the same.
        crop: Side of the crops in pixels, whole patches.
        images: Number of images in a batch.
        clusters: Number of clusters, K.
        config: Hyper-parameters of kernel and psi.
    """

    backbone: str
    crop: int
    images: int
    clusters: int
    config: Config

    @cached_property
    def vit(self) -> Transformer:
        """Sizes of the backbone; they travel with the case to the processes that measure it, which need no timm."""
        return transformer_of(self.backbone)

    @property
    def side(self) -> int:
        """Number of patches along a side."""
        return self.crop // self.vit.patch_size

    @property
    def batch(self) -> int:
        """Number of patches in a batch, B."""
        return self.images * self.side**2

    def predicted(self, stage: Stage) -> Cost:
        """What the formulas say of one stage."""
        vit, k, K = self.vit, self.config.feature_neighbors, self.clusters
        objective = sparse_objective_cost(self.batch, K, self.config)
        psi = psi_step_cost(self.batch, 3 * vit.channels, K, self.config)
        return {
            "backbone": backbone_cost(vit, (self.crop,) * 2, self.images),
            "kernel": sparse_kernel_cost(self.batch, vit.channels, k),
            "objective": objective,
            "psi": psi.on_top_of(objective.memory) + replace(objective, memory=0.0),
            "maps": maps_cost(self.side**2, self.crop**2, K),
        }[stage]


def measured(shapes: Shapes, processor: Processor, *, stages: Sequence[Stage] = STAGES) -> pd.DataFrame:
    """Every stage once for its memory and twice for its time, in a process of its own, beside the formulas.

    Args:
        shapes: Case to measure.
        processor: Processor that gives the predicted seconds.
        stages: Stages to measure.

    Returns:
        One row a stage: predicted and measured seconds and megabytes, and predicted over measured of both.

    Raises:
        InputError: If the process of a stage was killed.
    """
    rows = []
    for stage in stages:
        cost = shapes.predicted(stage)
        remedy = f"lower crop or images, or leave {stage} out of stages"
        found = measure(SIDES[stage], shapes, repeats=2, threads=torch.get_num_threads(), remedy=remedy)
        seconds, megabytes = processor.seconds(cost), cost.memory / 1e6
        rows.append(
            {
                "stage": stage,
                "operations": cost.operations,
                "predicted_s": seconds,
                "measured_s": found.seconds,
                "ratio_s": seconds / found.seconds,
                "predicted_mb": megabytes,
                "measured_mb": found.peak_mb,
                "ratio_mb": megabytes / found.peak_mb if found.peak_mb > 0 else math.nan,
            }
        )
    return pd.DataFrame(rows)


def backbone_side(shapes: Shapes) -> Callable[[], Any]:
    """The backbone on a batch of crops."""
    backbone = backbones.build(shapes.backbone, pretrained=False)
    pictures = torch.rand(shapes.images, 3, shapes.crop, shapes.crop)
    return lambda: backbone(pictures).shape


def kernel_side(shapes: Shapes) -> Callable[[], Any]:
    """The kernel of a batch."""
    features, colours = _patches(shapes)
    load_compiled_loops()
    return lambda: kernel_of(features, colours, shapes.config).nnz


def objective_side(shapes: Shapes) -> Callable[[], Any]:
    """Objective and gradient with respect to psi's outputs."""
    features, colours = _patches(shapes)
    kappa = kernel_of(features, colours, shapes.config)
    outputs = torch.rand(shapes.batch, shapes.clusters).requires_grad_()
    weight = shapes.config.orthogonality_weight_for(shapes.clusters)
    load_compiled_loops()

    def both_ways() -> float:
        loss = neural_eigenfunction_objective(
            l2_batch_norm(outputs), kappa, orthogonality_weight=weight, trace_scale=shapes.config.trace_scale
        ).loss
        return torch.autograd.grad(loss, outputs)[0].norm().item()

    return both_ways


def psi_side(shapes: Shapes) -> Callable[[], Any]:
    """A step of psi, its objective included, on features and a kernel that are there."""
    features, colours = _patches(shapes)
    levels, config = features.repeat(1, 1, 1, 3), shapes.config
    kappa = kernel_of(features, colours, config)
    psi = Eigenfunctions.of(config, levels.shape[-1], shapes.clusters, seed=0)
    optimizer, noise = new_optimizer(psi, config), torch.Generator().manual_seed(0)
    load_compiled_loops()
    return lambda: optimise(psi, optimizer, levels, kappa, config, temperature=1.0, noise=noise).loss.item()


def maps_side(shapes: Shapes) -> Callable[[], Any]:
    """The cluster map of one crop."""
    logits = torch.randn(shapes.side, shapes.side, shapes.clusters, generator=torch.Generator().manual_seed(0))
    cluster_map(logits[:2, :2], (4, 4))  # loads the compiled loop
    return lambda: cluster_map(logits, (shapes.crop, shapes.crop)).max()


SIDES: dict[Stage, Callable[[Shapes], Callable[[], Any]]] = {
    "backbone": backbone_side,
    "kernel": kernel_side,
    "objective": objective_side,
    "psi": psi_side,
    "maps": maps_side,
}


def _patches(shapes: Shapes) -> tuple[Tensor, Tensor]:
    """Random features ``(images, h, w, C)`` and colours; costs hardly depend on the numbers."""
    generator = torch.Generator().manual_seed(0)
    shape = (shapes.images, shapes.side, shapes.side)
    return torch.randn(*shape, shapes.vit.channels, generator=generator), torch.rand(*shape, 3, generator=generator)


def load_compiled_loops() -> None:
    """Load the compiled loops and torch's backward pass, which would count as memory of the first call."""
    small = Config(feature_neighbors=4, pixel_neighbors=(4, 2))
    kappa = kernel_of(torch.rand(1, 8, 8, 4), torch.rand(1, 8, 8, 3), small)
    outputs = torch.rand(64, 2).requires_grad_()
    neural_eigenfunction_objective(outputs, kappa, orthogonality_weight=1.0).loss.backward()


EPOCHS = {"ade20k": 20, "imagenet": 5}
"""Epochs of the paper where they are not the configuration's 40 (4.1)."""

IMAGENET_CROP = 512
"""Side of ImageNet's training crops in pixels, from the official ``config.yml``; the paper is silent."""

PHOTOGRAPHS = {"pascal_context": (375, 500), "cityscapes": (1024, 2048), "ade20k": (512, 683)}
"""Pixels ``(H, W)`` of a typical photograph, which the sliding windows cover."""


@dataclass(frozen=True)
class PaperRun:
    """One set-up whose numbers the paper prints: a training, or none, and the evaluation of methods that share it.

    Attributes:
        table: Number of the table in the paper.
        spec: Set-up of the table.
    """

    table: str
    spec: Spec

    @property
    def photographs(self) -> str:
        """Photographs that are trained on: ``pascal_context``, ``cityscapes``, ``ade20k`` or ``imagenet``."""
        return self.spec.trained_on or _photographs(self.spec.dataset)

    @property
    def clusters(self) -> int:
        """Number of clusters, K."""
        return _info(self.spec.dataset).classes if self.spec.clusters == "classes" else self.spec.clusters

    @property
    def setting(self) -> str:
        """Hyper-parameter that differs from its default, ``field=value``, or ``trained_on=imagenet``, or empty."""
        changes = {name: value for name, value in self.spec.changes.items() if value != getattr(Config(), name)}
        one = replace(self.spec, changes=changes, matchings=self.spec.matchings[:1])  # all are of the same training
        return one.setting(*one.matchings)

    @property
    def training(self) -> tuple[str, str, int, str] | None:
        """What identifies its training; runs of several tables may share it. ``None``: K-means alone."""
        if set(self.spec.methods) == {"kmeans"}:
            return None
        return (self.photographs, self.spec.backbone, self.clusters, self.setting)

    @property
    def crop(self) -> int:
        """Pixels of a side of the training crops: the window of the sliding protocol."""
        return IMAGENET_CROP if self.photographs == "imagenet" else PAPER_SLIDING[self.photographs].window

    def windows(self) -> tuple[int, int]:
        """How many windows an evaluated image has, and the pixels of their side."""
        if self.spec.protocol == "crop320":
            return 1, Config().image_size
        name = _photographs(self.spec.dataset)
        sliding = PAPER_SLIDING[name]
        return len(sliding.corners(sliding.resized(PHOTOGRAPHS[name]))), sliding.window


def paper_runs() -> tuple[PaperRun, ...]:
    """Every set-up of the paper's tables, but for those whose numbers a table repeats of another."""
    lines = ((table, spec) for table in TABLES.values() for spec in table.lines())
    return tuple(PaperRun(table.number, spec) for table, spec in lines if not _is_repeated(table, spec))


def _is_repeated(table: Table, spec: Spec) -> bool:
    lines = (line for number in table.references for line in TABLES[number].lines())
    return any(spec == replace(line, methods=spec.methods) for line in lines)


def _photographs(dataset: str) -> str:
    return next(name for name in PAPER_SLIDING if dataset.startswith(name))


def run_costs(run: PaperRun, config: Config, batch_images: int) -> dict[str, Cost]:
    """Every stage of one run of this package on a GPU.

    Args:
        run: Run of the paper.
        config: The paper's hyper-parameters; their batch is not read.
        batch_images: Number of images in a batch.

    Returns:
        Costs by stage: ``step``, ``training``, ``clustering`` (K-means with the features it reads, where a method needs
        it) and ``evaluation``; psi is part of both for the methods that need it.
    """
    vit = transformer_of(run.spec.backbone)
    train, val = _info(run.photographs).split_sizes["train"], _info(run.spec.dataset).split_sizes["val"]
    epochs = EPOCHS.get(run.photographs, config.epochs)
    trained = config.updated({"epochs": epochs, "batch_images": batch_images})
    step = step_cost(vit, run.crop, run.clusters, trained, form="gpu")
    steps = total_steps(train, trained) if run.training else 0
    crop = (config.image_size,) * 2
    windows, side = run.windows()
    T, channels = vit.patches((side, side)), 3 * vit.channels
    window = backbone_cost(vit, (side, side), 1) + dense_maps_cost(side**2, run.clusters)
    psi = psi_forward_cost(T, channels, run.clusters, config)
    clustering = evaluation = Cost()
    for method in run.spec.methods:
        recipe = REGISTRY[method]
        evaluation = evaluation + window
        read, clustered = backbone_cost(vit, crop, 1), vit.channels
        if recipe.needs_psi:
            # Ours* asks for K distances in place of the head, which cost as much; those of K-means on features, little.
            evaluation = evaluation + psi
            read, clustered = read + psi_forward_cost(vit.patches(crop), channels, 0, config), config.width or channels
        if recipe.fit is not None:
            patches = min(config.kmeans_patches, SAMPLED_NUMBERS // clustered, train * vit.patches(crop))
            fit = kmeans_cost(patches, clustered, run.clusters, iterations=config.kmeans_iterations)
            clustering = clustering + read.times(train) + replace(fit, memory=0.0)
    return {
        "step": step,
        "training": step.times(steps),
        "clustering": clustering,
        "evaluation": evaluation.times(windows * val),
    }


def _info(name: str) -> datasets.DatasetInfo:
    """What is known of a dataset, or of one that has these photographs."""
    known = [info for info in datasets.available() if info.name.startswith(name)]
    return min(known, key=lambda info: len(info.name))  # the dataset itself, where there is one of just this name


def paper_table(processor: Processor, config: Config, *, reached: float) -> pd.DataFrame:
    """What every run of the paper takes on one processor.

    A batch is the configuration's, halved where its step does not fit, as the paper does.

    Args:
        processor: Processor with its peak rates.
        config: The paper's hyper-parameters.
        reached: Share of the roofline that real programs reach, 0 to 1.

    Returns:
        One row a run, in the order of the tables: identity, ``batch_images``, ``patches`` of a batch, ``step_s``, hours
        ``training_h``, ``clustering_h`` and ``evaluation_h``, ``full_batch_gb`` and ``peak_gb`` of a step (of the
        clustering where nothing is trained), ``fits``, ``store_gb``, the feature store that K-means reads, and
        ``training``, what identifies the training.

    Raises:
        InputError: If ``reached`` is no share.
    """
    if not 0 < reached <= 1:
        raise InputError(f"reached is {reached}; it must be above 0 and at most 1, the share of the peak")
    rows = []
    for run in paper_runs():
        vit = transformer_of(run.spec.backbone)
        costs = full = run_costs(run, config, config.batch_images)
        batch = config.batch_images
        if not processor.fits(full["step"].memory):
            batch //= 2
            costs = run_costs(run, config, batch)
        hours = {name: processor.seconds(cost) / reached / 3600 for name, cost in costs.items()}
        train = _info(run.photographs).split_sizes["train"]
        held = costs["step" if run.training else "clustering"].memory
        rows.append(
            {
                "table": run.table,
                "dataset": run.spec.dataset,
                "backbone": run.spec.backbone,
                "clusters": run.clusters,
                "setting": run.setting,
                "batch_images": batch if run.training else 0,
                "patches": batch * vit.patches((run.crop,) * 2) if run.training else 0,
                "step_s": 3600 * hours["step"] if run.training else math.nan,
                **{f"{stage}_h": hours[stage] for stage in ("training", "clustering", "evaluation")},
                "full_batch_gb": full["step"].memory / 1e9 if run.training else math.nan,
                "peak_gb": held / 1e9,
                "fits": processor.fits(held),
                "store_gb": store_bytes(train, vit.patches((config.image_size,) * 2), 3 * vit.channels) / 1e9,
                "training": run.training,
            }
        )
    return pd.DataFrame(rows)


def hours_of_tables(runs: pd.DataFrame) -> pd.DataFrame:
    """Sums of :func:`paper_table` for each of the paper's tables, and for all with shared trainings taken once.

    Returns:
        One row a table and ``all``: ``runs``, ``trainings``, ``hours``, ``peak_gb`` and whether all of it ``fits``.
    """
    tables = runs.groupby("table", sort=False)
    rows = []
    for table, frame in [*tables, ("all", runs)]:
        trained = frame[frame["training"].notna()].drop_duplicates("training")
        hours = trained["training_h"].sum() + frame["clustering_h"].sum() + frame["evaluation_h"].sum()
        rows.append(
            {
                "table": table,
                "runs": len(frame),
                "trainings": len(trained),
                "hours": hours,
                "peak_gb": frame["peak_gb"].max(),
                "fits": bool(frame["fits"].all()),
            }
        )
    return pd.DataFrame(rows)
