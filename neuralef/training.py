r"""Fitting psi on stored features (paper, 3.4, 3.5 and 4.1): the loop, its schedules, checkpoints and resume.

Adam without weight decay, learning rate falling to 0 and Gumbel temperature from 1 to 0.3, both along half a cosine.
The kernel of each mini-batch is built from its own patches and has no gradient.

This loop takes features and colours: stored ones, or those of random crops (:mod:`neuralef.augmentation`). It has no
argument through which a label could come: label gradients, which the
public code passed into psi until its last commit, belong to an experiment of their own.

All randomness is a function of ``(seed, step)``, so a run resumed from a checkpoint continues bit-identically.
"""

import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from tqdm.auto import tqdm

from neuralef.augmentation import AugmentedPhotographs
from neuralef.config import Config
from neuralef.eigenfunctions import Eigenfunctions, gumbel_softmax, l2_batch_norm
from neuralef.errors import InputError
from neuralef.features import FeatureStore
from neuralef.files import read_checked_tensors, write_checked_tensors
from neuralef.graph import kernel
from neuralef.objective import Objective, neural_eigenfunction_objective

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Step:
    """What one optimisation step reports; one line of the training history."""

    step: int
    epoch: int
    loss: float
    mean_rayleigh: float
    penalty: float
    temperature: float
    learning_rate: float


@dataclass(frozen=True)
class Training:
    """A finished run: psi in evaluation mode, one :class:`Step` for each optimisation step, seconds it all took."""

    psi: Eigenfunctions
    history: tuple[Step, ...]
    train_s: float


def half_cosine(progress: float, start: float, end: float) -> float:
    """From ``start`` at progress 0 to ``end`` at progress 1 along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def new_psi(store: FeatureStore, config: Config, num_eigenfunctions: int, seed: int) -> Eigenfunctions:
    """psi with the initial weights that ``seed`` determines."""
    return Eigenfunctions(
        sum(store.channels),
        num_eigenfunctions,
        width=config.width,
        depth=config.depth,
        mlp_ratio=config.mlp_ratio,
        input_statistics=store.channel_statistics if config.standardise_inputs else None,
        generator=torch.Generator().manual_seed(seed),
    )


def new_optimizer(psi: Eigenfunctions, config: Config) -> torch.optim.Optimizer:
    """Adam without weight decay, as in the paper."""
    return torch.optim.Adam(psi.parameters(), lr=config.learning_rate, fused=True)


def train(
    store: FeatureStore,
    config: Config,
    *,
    num_eigenfunctions: int,
    seed: int,
    folder: Path | None = None,
    checkpoint_every: int = 100,
    progress: bool = True,
    augmented: AugmentedPhotographs | None = None,
) -> Training:
    """Fit psi to the principal eigenfunctions of the batch kernels of ``store``.

    Args:
        store: Features and patch colours of the training images.
        config: Kernel, psi, quantisation, objective and schedule.
        num_eigenfunctions: The paper's K.
        seed: Determines initial weights, batches and Gumbel noise.
        folder: Where checkpoints are kept; an interrupted run that finds its own there continues from it.
        checkpoint_every: Steps between checkpoints.
        progress: Whether to show a bar.
        augmented: Gives the patches of every batch in place of the store, which then says which images there are and
            how their channels are standardised.

    Raises:
        InputError: If K or the number of neighbours exceeds what the patches of a batch allow.
    """
    _check_sizes(store, config, num_eigenfunctions)
    psi = new_psi(store, config, num_eigenfunctions, seed).train()
    optimizer = new_optimizer(psi, config)
    batch = min(config.batch_images, len(store))
    steps_per_epoch = len(store) // batch
    total = config.epochs * steps_per_epoch
    history, seconds_before = _resume(folder, psi, optimizer) if folder else ([], 0.0)
    if 0 < len(history) < total:
        log.info("continuing after step %d of %d from %s", len(history), total, folder)
    began, seconds = perf_counter(), seconds_before

    bar = tqdm(
        range(len(history), total),
        desc=f"training psi, seed {seed}",
        unit="step",
        disable=not progress or len(history) == total,
    )
    for step in bar:
        epoch, position = divmod(step, steps_per_epoch)
        chosen = epoch_order(len(store), seed, epoch)[position * batch :][:batch]
        report = _train_step(
            psi, optimizer, store, np.sort(chosen), config, augmented, seed=seed, step=step, epoch=epoch, total=total
        )
        history.append(report)
        bar.set_postfix(loss=f"{report.loss:.4f}", rayleigh=f"{report.mean_rayleigh:.3f}", refresh=False)
        seconds = seconds_before + perf_counter() - began
        if folder and ((step + 1) % checkpoint_every == 0 or step + 1 == total):
            _save(folder, psi, optimizer, history, seconds)
    return Training(psi=psi.eval(), history=tuple(history), train_s=seconds)


def _train_step(
    psi: Eigenfunctions,
    optimizer: torch.optim.Optimizer,
    store: FeatureStore,
    chosen: np.ndarray,
    config: Config,
    augmented: AugmentedPhotographs | None,
    *,
    seed: int,
    step: int,
    epoch: int,
    total: int,
) -> Step:
    temperature = half_cosine(step / total, config.temperature_start, config.temperature_end)
    rate = half_cosine(step / total, config.learning_rate, 0.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    down, right = np.random.default_rng([seed, step, 1]).integers(config.patch_stride, size=2)
    rows, columns = slice(down, None, config.patch_stride), slice(right, None, config.patch_stride)
    if augmented is None:
        levels = store.levels(chosen, rows, columns)  # (images, h, w, 3C)
        colours = store.colours(chosen, rows, columns)  # (images, h, w, 3)
        kept = None
    else:
        levels, colours, kept = augmented.batch(chosen, rows, columns, seed=seed, step=step)
    noise = torch.Generator().manual_seed((seed + 1) << 32 | step)
    kappa = kernel_of(levels[..., -store.channels[-1] :], colours, config, kept)
    objective = optimise(psi, optimizer, levels, kappa, config, temperature=temperature, noise=noise, kept=kept)
    return Step(
        step=step,
        epoch=epoch,
        loss=objective.loss.item(),
        mean_rayleigh=objective.rayleigh.mean().item(),
        penalty=objective.penalty.item(),
        temperature=temperature,
        learning_rate=rate,
    )


def kernel_of(features: Tensor, colours: Tensor, config: Config, kept: Tensor | None = None) -> sp.csr_array:
    """:func:`neuralef.graph.kernel` with the settings of a configuration."""
    return kernel(
        features,
        colours,
        feature_neighbors=config.feature_neighbors,
        pixel_weight=config.pixel_weight,
        pixel_neighbors=config.pixel_neighbors,
        coordinate_weights=config.coordinate_weights,
        kept=kept,
    )


def optimise(
    psi: Eigenfunctions,
    optimizer: torch.optim.Optimizer,
    levels: Tensor,
    kappa: sp.csr_array,
    config: Config,
    *,
    temperature: float,
    noise: torch.Generator,
    kept: Tensor | None = None,
) -> Objective:
    """One step on one batch: psi, Gumbel-Softmax and L2 batch norm (3.5), objective (Eq. 5), Adam.

    Args:
        psi: In training mode; its weights are changed.
        optimizer: Of psi's parameters.
        levels: All levels of the batch, shape ``(images, h, w, sum C)``.
        kappa: Its kernel, shape ``(B, B)``, over the B patches that take part.
        config: Quantisation, objective and precision.
        temperature: Of the Gumbel-Softmax.
        noise: Source of its noise.
        kept: Patches that take part, bool ``(images, h, w)``; ``None``: all. psi reads the others as tokens.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16"):
        logits = psi(levels.flatten(1, 2))
    values = logits.float().flatten(0, 1)  # (B, K)
    if kept is not None:
        values = values[kept.flatten()]
    if config.quantise:
        values = gumbel_softmax(values, temperature=temperature, generator=noise)
    objective = neural_eigenfunction_objective(
        l2_batch_norm(values),
        kappa,
        orthogonality_weight=config.orthogonality_weight_for(values.shape[1]),
        trace_scale=config.trace_scale,
    )
    optimizer.zero_grad(set_to_none=True)
    objective.loss.backward()
    optimizer.step()
    return objective


def epoch_order(images: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch takes the images, a permutation of ``0 .. images - 1``."""
    return np.random.default_rng([seed, epoch]).permutation(images)


def _check_sizes(store: FeatureStore, config: Config, num_eigenfunctions: int) -> None:
    if config.patch_stride > min(store.grid):
        raise InputError(f"patch_stride is {config.patch_stride}, but an image has {store.grid} patches; lower it")
    patches = min(config.batch_images, len(store)) * math.prod(side // config.patch_stride for side in store.grid)
    if num_eigenfunctions > patches:
        raise InputError(
            f"{num_eigenfunctions} clusters were asked of {patches} patches a batch; lower the number of clusters "
            "or raise batch_images"
        )


def _save(
    folder: Path, psi: Eigenfunctions, optimizer: torch.optim.Optimizer, history: list[Step], seconds: float
) -> None:
    names = [name for name, _ in psi.named_parameters()]
    tensors = {f"psi.{name}": tensor for name, tensor in psi.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{names[index]}.{key}": value for key, value in state.items()}
    write_checked_tensors(
        folder / CHECKPOINT, tensors, {"history": [asdict(step) for step in history], "train_s": seconds}
    )


def _resume(folder: Path, psi: Eigenfunctions, optimizer: torch.optim.Optimizer) -> tuple[list[Step], float]:
    if not (folder / CHECKPOINT).is_file():
        return [], 0.0
    tensors, document = read_checked_tensors(folder / CHECKPOINT)
    psi.load_state_dict({name[4:]: tensor for name, tensor in tensors.items() if name.startswith("psi.")})
    state = optimizer.state_dict()
    for index, (name, _) in enumerate(psi.named_parameters()):
        prefix = f"adam.{name}."
        state["state"][index] = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
    optimizer.load_state_dict(state)
    history = [Step(**entry) for entry in document["history"]]
    return history, document["train_s"]
