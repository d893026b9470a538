"""The formulas of :mod:`neuralef.costs` beside measurements on this machine, and for every run of the paper."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from time import perf_counter
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from neuralef import backbones, datasets, provenance
from neuralef.clustering import SAMPLED_NUMBERS
from neuralef.config import Config
from neuralef.costs import (
    SINGLE,
    Cost,
    Processor,
    Transformer,
    backbone_cost,
    dense_maps_cost,
    kmeans_cost,
    maps_cost,
    psi_forward_cost,
    psi_step_cost,
    sparse_kernel_cost,
    sparse_objective_cost,
    step_cost,
    transformer_of,
)
from neuralef.eigenfunctions import Eigenfunctions, l2_batch_norm
from neuralef.errors import InputError
from neuralef.measuring import measure
from neuralef.methods import REGISTRY
from neuralef.objective import neural_eigenfunction_objective
from neuralef.precision import Device, Precision, autocast
from neuralef.protocols import PAPER_SLIDING
from neuralef.segmentation import cluster_map
from neuralef.tables import TABLES, Spec, Table
from neuralef.training import kernel_of, new_optimizer, optimise, total_steps

Stage = Literal["backbone", "kernel", "objective", "psi", "maps"]
STAGES: tuple[Stage, ...] = ("backbone", "kernel", "objective", "psi", "maps")
"""What :func:`measured` measures, each in a process of its own."""


def this_machine(device: Device = "cpu", precision: Precision = "float32") -> Processor:
    """This processor, or its GPU, by what it does: the best of some large products and copies.

    Args:
        device: Device that is measured.
        precision: Precision of the products.
    """
    # With AVX2 seven products of 1,024 a side rose from 54e9 to 80e9 operations a second, those of 2,048 to 118e9.
    side, length = (2048, 2**24) if device == "cpu" else (8192, 2**28)
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

BATCH_IMAGES = {"cityscapes": 8}
"""Images of a batch where they are not the configuration's 16, from the commands of the official README."""

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
        it) and ``evaluation``. All methods share the passes of the backbone; psi is part of both stages for each
        method that needs it.
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
    psi = psi_forward_cost(T, channels, run.clusters, config)
    recipes = [REGISTRY[method] for method in run.spec.methods]
    evaluation = backbone_cost(vit, (side, side), 1)
    clustering = backbone_cost(vit, crop, 1).times(train) if any(recipe.fit for recipe in recipes) else Cost()
    for recipe in recipes:
        # Ours* asks for K distances in place of the head, which cost as much; those of K-means on features, little.
        evaluation = evaluation + dense_maps_cost(side**2, run.clusters) + (psi if recipe.needs_psi else Cost())
        if recipe.fit is not None:
            clustered = (config.width or channels) if recipe.needs_psi else vit.channels
            hidden = psi_forward_cost(vit.patches(crop), channels, 0, config) if recipe.needs_psi else Cost()
            patches = min(config.kmeans_patches, SAMPLED_NUMBERS // clustered, train * vit.patches(crop))
            fit = kmeans_cost(patches, clustered, run.clusters, iterations=config.kmeans_iterations)
            clustering = clustering + hidden.times(train) + replace(fit, memory=0.0)
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

    A batch is the configuration's, that of :data:`BATCH_IMAGES` for Cityscapes, halved where its step does not fit, as
    the paper does.

    Args:
        processor: Processor with its peak rates.
        config: The paper's hyper-parameters.
        reached: Share of the roofline that real programs reach, 0 to 1.

    Returns:
        One row a run, in the order of the tables: identity, ``batch_images``, whether the batch was ``halved`` because
        the whole did not fit, ``patches`` of a batch, ``step_s``, hours ``training_h``, ``clustering_h`` and
        ``evaluation_h``, ``full_batch_gb`` and ``peak_gb`` of a step, ``fits``, and ``training``, what identifies the
        training.

    Raises:
        InputError: If ``reached`` is no share.
    """
    if not 0 < reached <= 1:
        raise InputError(f"reached is {reached}; it must be above 0 and at most 1, the share of the peak")
    rows = []
    for run in paper_runs():
        vit = transformer_of(run.spec.backbone)
        batch = BATCH_IMAGES.get(run.photographs, config.batch_images)
        costs = full = run_costs(run, config, batch)
        halved = not processor.fits(full["step"].memory)
        if halved:
            batch //= 2
            costs = run_costs(run, config, batch)
        hours = {name: processor.seconds(cost) / reached / 3600 for name, cost in costs.items()}
        rows.append(
            {
                "table": run.table,
                "dataset": run.spec.dataset,
                "backbone": run.spec.backbone,
                "clusters": run.clusters,
                "setting": run.setting,
                "batch_images": batch,
                "halved": halved,
                "patches": batch * vit.patches((run.crop,) * 2),
                "step_s": 3600 * hours["step"],
                **{f"{stage}_h": hours[stage] for stage in ("training", "clustering", "evaluation")},
                "full_batch_gb": full["step"].memory / 1e9,
                "peak_gb": costs["step"].memory / 1e9,
                "fits": processor.fits(costs["step"].memory),
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
        trained = frame.drop_duplicates("training")
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
