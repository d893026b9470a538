r"""Fitting psi on stored features (paper, 3.4, 3.5 and 4.1): the loop, its schedules, checkpoints and resume.

Adam without weight decay, learning rate falling to 0 and Gumbel temperature from 1 to 0.3, both along half a cosine.
The kernel of each mini-batch is built from its own patches and has no gradient.

Training takes features and colours: stored ones, or those of random crops (:mod:`neuralef.augmentation`). Nothing here
has an argument through which a label could come: what label gradients, which the public code passed into psi until its
last commit, would change is measured in :mod:`neuralef.audit`, which puts steps of its own together from these parts.

All randomness is a function of ``(seed, step)``, so a run resumed from a checkpoint continues bit-identically; on a GPU
it does so to rounding, since sums there are added in no fixed order, and its noise is drawn by another generator.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from neuralef import graph, graph_torch
from neuralef.augmentation import AugmentedPhotographs
from neuralef.config import CLUSTERING_PREFIXES, EVALUATION_FIELDS, Config
from neuralef.eigenfunctions import Eigenfunctions, gumbel_softmax, l2_batch_norm
from neuralef.errors import InputError
from neuralef.features import FeaturePlan, FeatureStore
from neuralef.files import ensure_writable_folder, read_checked_tensors, write_checked_tensors
from neuralef.objective import Kernel, Objective, neural_eigenfunction_objective
from neuralef.precision import Device, autocast, require
from neuralef.provenance import digest

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"

CHECKPOINT_SECONDS = 60
"""A checkpoint is written after so long at the latest: a step on random crops takes seconds without a GPU."""

SEED_STRIDE = 0x9E3779B9
"""2**32 over the golden ratio, whose multiples modulo 2**32 lie far apart: of ten seeds, 200 million steps and more."""


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
    """A finished run: psi in evaluation mode, one :class:`Step` for each step, and the seconds it took."""

    psi: Eigenfunctions
    history: tuple[Step, ...]
    train_s: float


@dataclass(frozen=True)
class Batch:
    """What one optimisation step works on; a function of seed and step.

    Attributes:
        step: Number of the step, from 0.
        epoch: Number of the epoch, from 0.
        images: Positions of the images in the store, ascending, shape ``(images,)``.
        rows: Rows of the patch grid that are read.
        columns: Columns of the patch grid that are read.
        levels: All levels of the patches that are read, shape ``(images, h, w, sum C)``.
        kappa: Kernel over the patches that are read, shape ``(B, B)`` with ``B = images * h * w``, or over the kept
            among them.
        kept: Patches that take part, bool ``(images, h, w)``; ``None``: all.
        temperature: Temperature of the Gumbel-Softmax.
        learning_rate: Learning rate of Adam.
        noise: Source of the Gumbel noise.
    """

    step: int
    epoch: int
    images: np.ndarray
    rows: slice
    columns: slice
    levels: Tensor
    kappa: Kernel
    kept: Tensor | None
    temperature: float
    learning_rate: float
    noise: torch.Generator

    def report(self, objective: Objective) -> Step:
        """The line of the history for this batch."""
        return Step(
            step=self.step,
            epoch=self.epoch,
            loss=objective.loss.item(),
            mean_rayleigh=objective.rayleigh.mean().item(),
            penalty=objective.penalty.item(),
            temperature=self.temperature,
            learning_rate=self.learning_rate,
        )


def half_cosine(progress: float, start: float, end: float) -> float:
    """From ``start`` at progress 0 to ``end`` at progress 1 along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def new_psi(store: FeatureStore | FeaturePlan, config: Config, num_eigenfunctions: int, seed: int) -> Eigenfunctions:
    """psi with the initial weights that ``seed`` determines, on the device of the configuration."""
    require(config.device)
    statistics = store.channel_statistics if config.standardise_inputs else None
    psi = Eigenfunctions.of(config, sum(store.channels), num_eigenfunctions, seed=seed, input_statistics=statistics)
    return psi.to(config.device)


def new_optimizer(network: nn.Module, config: Config) -> torch.optim.Optimizer:
    """Adam without weight decay, as in the paper."""
    return torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)


def train(
    store: FeatureStore | FeaturePlan,
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
        store: Features and patch colours of the training images. Their plan is enough where ``augmented`` takes their
            place and channels are not standardised.
        config: Hyper-parameters of kernel, psi, quantisation, objective and schedule.
        num_eigenfunctions: Number of eigenfunctions, the paper's K.
        seed: Seed of initial weights, batches and Gumbel noise.
        folder: Folder of the checkpoints, its own for every training; an interrupted one continues from what is there.
        checkpoint_every: Number of steps between checkpoints.
        progress: Whether to show a progress bar.
        augmented: Source of the patches of every batch in place of the store, which then says which images there are
            and, if at all, how their channels are standardised.

    Raises:
        InputError: If K or the number of neighbours exceeds what the patches of a batch allow, random crops are asked
            for and not given, a GPU is asked for and there is none, or the folder has a checkpoint of another
            training.
    """
    if config.augment and augmented is None:
        raise InputError("augment is true, but this training has stored features alone; set augment=false")
    check_sizes(augmented.grid if augmented else store.grid, len(store), config, num_eigenfunctions)
    psi = new_psi(store, config, num_eigenfunctions, seed).train()
    optimizer = new_optimizer(psi, config)
    history, seconds = run_steps(
        psi,
        optimizer,
        partial(_train_step, psi, optimizer, store, config, augmented, seed=seed),
        total_steps(len(store), config),
        description=f"training psi, seed {seed}",
        identity=training_identity(store, config, num_eigenfunctions, seed),
        folder=folder,
        checkpoint_every=checkpoint_every,
        progress=progress,
    )
    return Training(psi=psi.eval(), history=tuple(history), train_s=seconds)


def run_steps(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    take_step: Callable[..., Step],
    total: int,
    *,
    description: str,
    identity: str = "",
    step_type: type[Step] = Step,
    folder: Path | None = None,
    checkpoint_every: int = 100,
    progress: bool = True,
) -> tuple[list[Step], float]:
    """Take the steps that a checkpoint does not already hold.

    Args:
        network: Network that is trained; its weights are changed.
        optimizer: Optimizer of the network's parameters.
        take_step: Function that takes a step, called with ``step=0 .. total - 1``; must change ``network`` as a
            function of the step alone.
        total: Number of steps.
        description: Label of the progress bar.
        identity: What a checkpoint must be of to be continued, as :func:`training_identity` says it.
        step_type: Class of what ``take_step`` returns.
        folder: Folder of the checkpoints; ``None``: none are kept.
        checkpoint_every: Number of steps between checkpoints.
        progress: Whether to show a progress bar.

    Returns:
        All steps, and the seconds they took.

    Raises:
        InputError: If a loss, or a weight in the end, is not finite: what such a network gives is not a result. Also if
            the checkpoint is damaged or of another training.
    """
    history, seconds_before = _resume(folder, identity, network, optimizer, step_type) if folder else ([], 0.0)
    if folder and len(history) < total:
        ensure_writable_folder(folder)  # now, not after the first hundred steps
    if 0 < len(history) < total:
        log.info("continuing after step %d of %d from %s", len(history), total, folder)
    began, seconds, saved = perf_counter(), seconds_before, seconds_before
    bar = tqdm(range(len(history), total), desc=description, unit="step", disable=not progress or len(history) == total)
    for step in bar:
        done = take_step(step=step)
        if not math.isfinite(done.loss) or (step + 1 == total and not _is_finite(network)):
            raise InputError(
                f"{description}: diverged, step {step + 1} of {total} has loss {done.loss} or leaves weights that are "
                "not finite; lower learning_rate, or move settings that are far from their defaults back towards them"
            )
        history.append(done)
        bar.set_postfix(loss=f"{done.loss:.4f}", rayleigh=f"{done.mean_rayleigh:.3f}", refresh=False)
        seconds = seconds_before + perf_counter() - began
        due = (step + 1) % checkpoint_every == 0 or seconds - saved > CHECKPOINT_SECONDS or step + 1 == total
        if folder and due:
            _save(folder, identity, network, optimizer, history, seconds)
            saved = seconds
    return history, seconds


def _is_finite(network: nn.Module) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in network.parameters())


def total_steps(images: int, config: Config) -> int:
    """Steps of a whole training on so many images; those left over at the end of an epoch wait for another order."""
    return config.epochs * (images // min(config.batch_images, images))


def training_settings(config: Config) -> dict[str, Any]:
    """The hyper-parameters psi depends on; ``short_side``, though it counts only with augmentation, is among them."""
    settings = {
        name: value
        for name, value in asdict(config).items()
        if not name.startswith(CLUSTERING_PREFIXES) and name not in EVALUATION_FIELDS
    }
    settings["train_crop"] = config.train_crop if config.augment else None
    return settings


def training_identity(
    store: FeaturePlan, config: Config, num_eigenfunctions: int, seed: int, *further: str | float
) -> str:
    """Digest of what a training is made from, and of what ``further`` says of it; code does not count."""
    settings = training_settings(config) | ({} if config.augment else {"short_side": None})
    return digest(store.key, settings, num_eigenfunctions, seed, *further)


def batch_at(
    store: FeatureStore | FeaturePlan,
    config: Config,
    augmented: AugmentedPhotographs | None = None,
    *,
    seed: int,
    step: int,
) -> Batch:
    """The batch, schedules and noise of one step; features and colours come from ``augmented`` where it is given."""
    epoch, images = _images_at(len(store), config, seed, step)
    down, right = np.random.default_rng([seed, step, 1]).integers(config.patch_stride, size=2)
    rows, columns = slice(down, None, config.patch_stride), slice(right, None, config.patch_stride)
    if augmented is None:
        levels, colours, kept = store.levels(images, rows, columns), store.colours(images, rows, columns), None
    else:
        levels, colours, kept = augmented.batch(images, rows, columns, seed=seed, step=step)
        if step + 1 < total_steps(len(store), config):
            augmented.begin(_images_at(len(store), config, seed, step + 1)[1], seed=seed, step=step + 1)
    levels, colours = levels.to(config.device), colours.to(config.device)
    kept = None if kept is None else kept.to(config.device)
    temperature, learning_rate = schedules(config, step / total_steps(len(store), config))
    return Batch(
        step=step,
        epoch=epoch,
        images=images,
        rows=rows,
        columns=columns,
        levels=levels,
        kappa=kernel_of(levels[..., -store.channels[-1] :], colours, config, kept),
        kept=kept,
        temperature=temperature,
        learning_rate=learning_rate,
        noise=noise_of(seed, step, config.device),
    )


def _train_step(
    psi: Eigenfunctions,
    optimizer: torch.optim.Optimizer,
    store: FeatureStore | FeaturePlan,
    config: Config,
    augmented: AugmentedPhotographs | None,
    *,
    seed: int,
    step: int,
) -> Step:
    batch = batch_at(store, config, augmented, seed=seed, step=step)
    set_learning_rate(optimizer, batch.learning_rate)
    objective = optimise(
        psi,
        optimizer,
        batch.levels,
        batch.kappa,
        config,
        temperature=batch.temperature,
        noise=batch.noise,
        kept=batch.kept,
    )
    return batch.report(objective)


def schedules(config: Config, progress: float) -> tuple[float, float]:
    """Temperature of the Gumbel-Softmax (3.5) and learning rate (4.1) when a share of all steps, 0 to 1, is taken.

    The paper names no last learning rate; it is 0 here, 1e-5 in the official ``train.py``.
    """
    temperature = half_cosine(progress, config.temperature_start, config.temperature_end)
    return temperature, half_cosine(progress, config.learning_rate, 0.0)


def noise_of(seed: int, step: int, device: Device = "cpu") -> torch.Generator:
    """Source of the Gumbel noise of one step, the same however many steps came before it in this process."""
    # A generator on the processor takes no more than the lowest 32 bits of what it is given.
    return torch.Generator(device).manual_seed((seed * SEED_STRIDE + step) % 2**32)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def kernel_of(features: Tensor, colours: Tensor, config: Config, kept: Tensor | None = None) -> Kernel:
    """:func:`neuralef.graph.kernel` with the settings of a configuration; on a GPU that of :mod:`graph_torch`."""
    build = graph.kernel if features.device.type == "cpu" else graph_torch.kernel
    return build(
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
    kappa: Kernel,
    config: Config,
    *,
    temperature: float,
    noise: torch.Generator,
    kept: Tensor | None = None,
) -> Objective:
    """One step on one batch: psi, Gumbel-Softmax and L2 batch norm (3.5), objective (Eq. 5), Adam.

    psi, batch and noise are on one device.

    Args:
        psi: psi in training mode; its weights are changed.
        optimizer: Optimizer of psi's parameters.
        levels: All levels of the batch, shape ``(images, h, w, sum C)``.
        kappa: Kernel over the B patches that take part, shape ``(B, B)``.
        config: Hyper-parameters of quantisation, objective and precision.
        temperature: Temperature of the Gumbel-Softmax.
        noise: Source of the Gumbel noise.
        kept: Patches that take part, bool ``(images, h, w)``; ``None``: all. psi reads the others as tokens.
    """
    with autocast(config.precision, levels.device):
        logits = psi(levels.flatten(1, 2))
    objective = objective_of(logits, kappa, config, temperature=temperature, noise=noise, kept=kept)
    descend(optimizer, objective.loss)
    return objective


def objective_of(
    logits: Tensor,
    kappa: Kernel,
    config: Config,
    *,
    temperature: float,
    noise: torch.Generator,
    kept: Tensor | None = None,
) -> Objective:
    """From psi's logits to Eq. 5: Gumbel-Softmax, L2 batch norm (3.5), objective.

    Args:
        logits: Logits of psi, shape ``(images, T, K)``.
        kappa: Kernel over the patches, shape ``(B, B)`` with ``B = images * T``, or over the kept among them.
        config: Hyper-parameters of quantisation and objective.
        temperature: Temperature of the Gumbel-Softmax.
        noise: Source of the Gumbel noise.
        kept: Patches that take part, bool of ``images * T`` entries; ``None``: all.
    """
    values = logits.float().flatten(0, 1)  # (B, K)
    if kept is not None:
        values = values[kept.flatten()]
    if config.quantise:
        values = gumbel_softmax(values, temperature=temperature, generator=noise)
    return neural_eigenfunction_objective(
        l2_batch_norm(values),
        kappa,
        orthogonality_weight=config.orthogonality_weight_for(values.shape[1]),
        trace_scale=config.trace_scale,
    )


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Backward pass and one step of the optimizer."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def epoch_order(images: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch takes the images, a permutation of ``0 .. images - 1``."""
    return np.random.default_rng([seed, epoch]).permutation(images)


def _images_at(images: int, config: Config, seed: int, step: int) -> tuple[int, np.ndarray]:
    """Epoch of a step, and the positions of the images it takes, ascending."""
    size = min(config.batch_images, images)
    epoch, position = divmod(step, images // size)
    return epoch, np.sort(epoch_order(images, seed, epoch)[position * size :][:size])


def check_sizes(grid: tuple[int, int], images: int, config: Config, num_eigenfunctions: int) -> None:
    """Raise ``InputError`` if a batch may hold fewer patches than K, no more than ``feature_neighbors``, or none.

    Args:
        grid: Patches down and across an image, or a crop.
        images: Number of training images.
        config: Hyper-parameters.
        num_eigenfunctions: Number of eigenfunctions, the paper's K.
    """
    if config.patch_stride > min(grid):
        raise InputError(f"patch_stride is {config.patch_stride}, but an image has {grid} patches; lower it")
    of_image = math.prod(side // config.patch_stride for side in grid)  # what the worst offset leaves
    patches = min(config.batch_images, images) * of_image
    if num_eigenfunctions > patches:
        raise InputError(
            f"{num_eigenfunctions} clusters were asked of {patches} patches a batch; lower the number of clusters or "
            + ("raise batch_images" if config.batch_images < images else "patch_stride, or take more photographs")
        )
    masked = config.augment and config.mask_padding  # how many patches are padding, only the crops say
    if not masked:  # a batch of larger offsets would be met by chance, some hours into a training
        graph.check_feature_neighbors(patches, config.feature_neighbors)
    wanted = max(config.pixel_neighbors, default=0)
    if config.pixel_weight and not masked and wanted >= of_image:
        raise InputError(
            f"pixel_neighbors {config.pixel_neighbors} need more than {wanted} patches an image; with patch_stride "
            f"{config.patch_stride} there may be {of_image}; lower patch_stride, or raise image_size"
        )


def _save(
    folder: Path,
    identity: str,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    history: list[Step],
    seconds: float,
) -> None:
    names = [name for name, _ in network.named_parameters()]
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{names[index]}.{key}": value for key, value in state.items()}
    document = {"identity": identity, "history": [asdict(step) for step in history], "train_s": seconds}
    write_checked_tensors(folder / CHECKPOINT, tensors, document)


def _resume(
    folder: Path, identity: str, network: nn.Module, optimizer: torch.optim.Optimizer, step_type: type[Step]
) -> tuple[list[Step], float]:
    path = folder / CHECKPOINT
    if not path.is_file():
        return [], 0.0
    tensors, document = read_checked_tensors(path)
    if document.get("identity") != identity:
        raise InputError(
            f"{path} is of another training (other features, settings, number of eigenfunctions or seed); choose "
            "another folder, or delete it"
        )
    network.load_state_dict({name[8:]: tensor for name, tensor in tensors.items() if name.startswith("network.")})
    state = optimizer.state_dict()
    for index, (name, _) in enumerate(network.named_parameters()):
        prefix = f"adam.{name}."
        state["state"][index] = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
    optimizer.load_state_dict(state)
    return [step_type(**entry) for entry in document["history"]], document["train_s"]
