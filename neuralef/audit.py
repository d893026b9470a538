r"""What label gradients would do to psi: three trainings that differ in one gradient (see notebook 30).

The official code trains psi together with a linear head (``online_head``) that learns the classes of the training
photographs by a cross-entropy over pixels. Early versions in its public history give the head a detached copy of psi's
features; the versions with the published method, up to the last commit (October 2024), give it the hidden features as
they are, so that its loss reaches psi's blocks; that commit detaches them again. The three variants:

- ``none``: no head. This is :func:`neuralef.training.train`, the training of everything else in this package.
- ``detached``: the head reads detached features. psi is bit-identical to ``none``; the head is a linear probe.
- ``gradient``: the head's gradient enters psi.

No other module trains psi with a label in reach, and none imports this one but :mod:`neuralef.audit_study`, which runs
it on request.

**Weight.** The official loss is the sum, both with weight 1, of the eigenfunction loss and the cross-entropy. The
module :mod:`neuralef.objective` leaves out the overall factor t of the former:

.. math:: L_\mathrm{official} = t \, L_\mathrm{ours} + H = t \, (L_\mathrm{ours} + H / t).

Adam does not feel the factor in front, but psi feels the ratio inside: beside our loss, the cross-entropy weighs
:math:`1 / t`, 100 for the official t = 0.01 (:func:`official_label_weight`). In ``detached`` the weight is without
effect, since only the probe feels it.

**Departures.** The official code up-samples the head's logits bilinearly to pixels. Here every pixel has the logits of
its patch (nearest neighbour), and the sum over pixels is taken as a sum over the class counts of each patch, which is
the same number; ``patch_stride`` leaves out patches here as it does in the objective. Pixels to ignore are left out in
both. Where psi is trained on random crops, labels are cropped with their photographs (:class:`CroppedLabels`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from neuralef.augmentation import AugmentedPhotographs, View, placed, view_at
from neuralef.clustering import ClusterHead, hidden_features
from neuralef.config import Config
from neuralef.datasets.base import IGNORE_LABEL, Dataset
from neuralef.datasets.crops import crop_label
from neuralef.eigenfunctions import Eigenfunctions
from neuralef.evaluation import image_counts
from neuralef.features import FeatureStore
from neuralef.precision import Precision, autocast
from neuralef.training import (
    Batch,
    Step,
    batch_at,
    check_sizes,
    descend,
    new_optimizer,
    new_psi,
    objective_of,
    run_steps,
    set_learning_rate,
    total_steps,
    training_identity,
)

Variant = Literal["none", "detached", "gradient"]
WithHead = Literal["detached", "gradient"]

VARIANTS: tuple[Variant, ...] = get_args(Variant)


@dataclass(frozen=True)
class ProbedStep(Step):
    """A step with the head's loss; ``loss`` stays that of the eigenfunctions alone."""

    cross_entropy: float


@dataclass(frozen=True)
class ProbedTraining:
    """A finished run: psi and its linear head in evaluation mode, every step, and the seconds it took."""

    psi: Eigenfunctions
    probe: nn.Linear
    history: tuple[ProbedStep, ...]
    train_s: float


class Probed(nn.Module):
    """psi and a linear head on its hidden features; the head's initial weights come from a generator of their own.

    Of :func:`train_probed` it has psi's seed: the first numbers that psi's first weights are made of, at another scale.
    """

    def __init__(self, psi: Eigenfunctions, num_classes: int, *, generator: torch.Generator):
        super().__init__()
        self.psi = psi
        self.probe = nn.Linear(psi.head.in_features, num_classes)
        nn.init.trunc_normal_(self.probe.weight, std=psi.head.in_features**-0.5, generator=generator)
        nn.init.zeros_(self.probe.bias)


@dataclass(frozen=True)
class LinearProbe(ClusterHead):
    """The head's own segmentation: its logits are of classes, so "cluster" j is class j and needs no matching."""

    psi: Eigenfunctions
    probe: nn.Linear
    precision: Precision = "float32"

    @torch.inference_mode()
    def logits(self, levels: Tensor) -> Tensor:  # noqa: D102 (inherited)
        return self.probe(hidden_features(self.psi, levels, self.precision)).cpu()

    @property
    def num_clusters(self) -> int:  # noqa: D102
        return self.probe.out_features


def official_label_weight(config: Config) -> float:
    """Weight of the cross-entropy beside our loss that keeps the official ratio, 1 / t; see the module's derivation."""
    return 1 / config.trace_scale


def patch_label_counts(label: np.ndarray, grid: tuple[int, int], num_classes: int) -> np.ndarray:
    """How many pixels of each class every patch has; ignored pixels are in no class.

    Args:
        label: Class of every pixel of a crop, shape ``(h * P, w * P)``.
        grid: Patches down and across, ``(h, w)``.
        num_classes: Number of classes, C.

    Returns:
        Pixels of each class in every patch, shape ``(h, w, C)``, uint16.
    """
    h, w = grid
    patch = np.ones((label.shape[0] // h, label.shape[1] // w), dtype=np.int64)
    patch_of = np.kron(np.arange(h * w).reshape(h, w), patch)
    return image_counts(patch_of, label, h * w, num_classes).reshape(h, w, num_classes).astype(np.uint16)


def training_label_counts(dataset: Dataset, store: FeatureStore, *, progress: bool = True) -> np.ndarray:
    """:func:`patch_label_counts` of every image of a store.

    Args:
        dataset: Dataset that holds the labels.
        store: Features of a split of ``dataset``.
        progress: Whether to show a progress bar.

    Returns:
        Pixels of each class in every patch, shape ``(images, h, w, C)``, uint16; for 5000 crops of 20 x 20 patches and
        59 classes 240 MB.

    Raises:
        InputError: If an image has no label.
    """
    counts = np.zeros((len(store), *store.grid, len(dataset.classes)), dtype=np.uint16)
    ids = tqdm(store.ids, desc=f"labels {dataset.name}", unit="image", disable=not progress)
    for index, image_id in enumerate(ids):
        label = crop_label(dataset.label(image_id), store.crop_size)
        counts[index] = patch_label_counts(label, store.grid, len(dataset.classes))
    return counts


@dataclass(frozen=True)
class StoredLabels:
    """Labels of the images whose features a store holds.

    Attributes:
        counts: Pixels of each class in every patch, from :func:`training_label_counts`, shape ``(images, h, w, C)``.
    """

    counts: np.ndarray

    @property
    def num_classes(self) -> int:
        """Number of classes, C."""
        return self.counts.shape[-1]

    def of(self, batch: Batch, *, seed: int) -> np.ndarray:
        """Pixels of each class in the patches of a batch, shape ``(images, h, w, C)``; the same for every seed."""
        return self.counts[:, batch.rows, batch.columns][batch.images]


@dataclass(frozen=True)
class CroppedLabels:
    """Labels of the random crops that psi is trained on, resized by nearest neighbour; padding has none.

    Attributes:
        read: Function from an image's id to its label, shape ``(H, W)``, uint8.
        crops: The photographs as random crops.
        num_classes: Number of classes, C.
    """

    read: Callable[[str], np.ndarray]
    crops: AugmentedPhotographs
    num_classes: int

    def of(self, batch: Batch, *, seed: int) -> np.ndarray:
        """Pixels of each class in the patches of a batch, shape ``(images, h, w, C)``."""
        short_side, side = self.crops.short_side, self.crops.crop_size
        views = [view_at(seed, batch.step, place) for place in range(len(batch.images))]
        labels = (self.read(self.crops.ids[image]) for image in batch.images)
        cropped = (view_label(label, view, short_side, side) for label, view in zip(labels, views, strict=True))
        counts = np.stack([patch_label_counts(label, self.crops.grid, self.num_classes) for label in cropped])
        return counts[:, batch.rows, batch.columns]


Labels = StoredLabels | CroppedLabels


def view_label(label: np.ndarray, view: View, short_side: int, crop_size: int) -> np.ndarray:
    """A label as :func:`neuralef.augmentation.apply_view` shows its photograph, padded to the whole crop.

    Args:
        label: Class of every pixel, shape ``(H, W)``, uint8.
        view: Changes to make, those of colours left out.
        short_side: Length in pixels to which ratio 1 resizes the shorter side.
        crop_size: Side of the square crop in pixels.

    Returns:
        Class of every pixel of the crop, shape ``(crop_size, crop_size)``, uint8; ``IGNORE_LABEL`` in the padding.
    """
    size, rows, columns = placed(label.shape, view, short_side, crop_size)
    resized = F.interpolate(torch.tensor(label)[None, None], size=size, mode="nearest-exact")[0, 0].numpy()
    seen = resized[rows, columns]
    padded = np.full((crop_size, crop_size), IGNORE_LABEL, dtype=np.uint8)
    padded[: seen.shape[0], : seen.shape[1]] = seen[:, ::-1] if view.flip else seen
    return padded


def pixel_cross_entropy(logits: Tensor, counts: Tensor) -> Tensor:
    r"""Mean over labelled pixels of the cross-entropy, every pixel with the logits of its patch.

    .. math:: H = -\frac{\sum_{p,c} n_{pc} \log \mathrm{softmax}(z_p)_c}{\sum_{p,c} n_{pc}}

    Args:
        logits: Logits z of every patch, shape ``(..., C)``.
        counts: Pixels n of each class in every patch, shape ``(..., C)``.

    Returns:
        Cross-entropy, a scalar; 0 where no pixel has a label.
    """
    return -(counts * logits.log_softmax(dim=-1)).sum() / counts.sum().clamp_min(1)


def train_probed(
    store: FeatureStore,
    labels: Labels,
    config: Config,
    *,
    num_eigenfunctions: int,
    seed: int,
    variant: WithHead,
    label_weight: float | None = None,
    folder: Path | None = None,
    checkpoint_every: int = 100,
    progress: bool = True,
) -> ProbedTraining:
    """Fit psi as :func:`neuralef.training.train` does, and a linear head on its hidden features beside it.

    Args:
        store: Features and patch colours of the training images.
        labels: Labels of the images of ``store``, or of the random crops of them that psi is trained on.
        config: Hyper-parameters of kernel, psi, quantisation, objective and schedule.
        num_eigenfunctions: Number of eigenfunctions, the paper's K.
        seed: Seed of initial weights, batches and Gumbel noise.
        variant: Whether the head's gradient stops before psi or enters it.
        label_weight: Weight of the cross-entropy beside our loss; default: :func:`official_label_weight`.
        folder: Folder of the checkpoints, its own for every training and its labels, which a checkpoint does not know;
            an interrupted one continues from what is there.
        checkpoint_every: Number of steps between checkpoints.
        progress: Whether to show a progress bar.

    Raises:
        InputError: If K or the number of neighbours exceeds what the patches of a batch allow, a GPU is asked for and
            there is none, or the folder has a checkpoint of another training.
        ValueError: If the variant has no head, or the labels are not of these images, or not of what is trained on.
    """
    if variant not in get_args(WithHead):
        raise ValueError(f"variant {variant!r} trains no head; there are {', '.join(get_args(WithHead))}")
    crops = labels.crops if isinstance(labels, CroppedLabels) else None
    if config.augment != (crops is not None):
        raise ValueError(f"augment is {config.augment}, but the labels are {type(labels).__name__}")
    if crops is None and labels.counts.shape[:3] != (len(store), *store.grid):
        raise ValueError(f"label counts have shape {labels.counts.shape}, the store {(len(store), *store.grid)}")
    check_sizes(crops.grid if crops else store.grid, len(store), config, num_eigenfunctions)
    network = Probed(
        new_psi(store, config, num_eigenfunctions, seed),
        labels.num_classes,
        generator=torch.Generator().manual_seed(seed),
    )
    network = network.to(config.device).train()
    optimizer = new_optimizer(network, config)
    weight = official_label_weight(config) if label_weight is None else label_weight
    history, seconds = run_steps(
        network,
        optimizer,
        partial(_train_step, network, optimizer, store, labels, config, variant, weight, seed=seed),
        total_steps(len(store), config),
        description=f"training psi, label head {variant}, seed {seed}",
        identity=training_identity(store, config, num_eigenfunctions, seed, variant, weight),
        step_type=ProbedStep,
        folder=folder,
        checkpoint_every=checkpoint_every,
        progress=progress,
    )
    network.eval()
    return ProbedTraining(psi=network.psi, probe=network.probe, history=tuple(history), train_s=seconds)


def _train_step(
    network: Probed,
    optimizer: torch.optim.Optimizer,
    store: FeatureStore,
    labels: Labels,
    config: Config,
    variant: WithHead,
    label_weight: float,
    *,
    seed: int,
    step: int,
) -> ProbedStep:
    crops = labels.crops if isinstance(labels, CroppedLabels) else None
    batch = batch_at(store, config, crops, seed=seed, step=step)
    set_learning_rate(optimizer, batch.learning_rate)
    with autocast(config.precision, batch.levels.device):
        hidden = network.psi.hidden(batch.levels.flatten(1, 2))  # (images, T, width)
        logits = network.psi.head(hidden)
    objective = objective_of(
        logits, batch.kappa, config, temperature=batch.temperature, noise=batch.noise, kept=batch.kept
    )
    counts = labels.of(batch, seed=seed).astype(np.float32)  # (images, h, w, C)
    pixels = torch.from_numpy(counts).flatten(1, 2).to(config.device)
    seen = hidden.detach() if variant == "detached" else hidden
    cross_entropy = pixel_cross_entropy(network.probe(seen.float()), pixels)
    descend(optimizer, objective.loss + label_weight * cross_entropy)
    return ProbedStep(**vars(batch.report(objective)), cross_entropy=cross_entropy.item())
