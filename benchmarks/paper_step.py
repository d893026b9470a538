"""One training step of profile ``paper`` from photographs to new weights, at the paper's own sizes, in float32.

Sixteen crops of 480 x 480 pixels, 14,400 patches of 16 x 16 with 384 channels a level, k = 256, psi of two blocks and
1,152 channels, K = 256. The backbone has random weights, which cost what the published ones cost. Beside every number
stands what :mod:`neuralef.costs` computes for it beforehand.
"""

from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks import inputs
from benchmarks.harness import THREADS, Row, less_is_better, measure
from neuralef import backbones, costs, sizing
from neuralef.config import Config, load_profile
from neuralef.eigenfunctions import Eigenfunctions
from neuralef.features import patch_colours, to_tensor
from neuralef.training import kernel_of, new_optimizer, noise_of, optimise, schedules, total_steps

NAME = "paper_step"
PAPER = load_profile("paper")
CROP = PAPER.config.train_crop_size(16)
TRAINING_PHOTOGRAPHS = 4998  # of Pascal Context
HOURS_OF_THE_PAPER = 12  # "half a day on one RTX 3090" (paper, 4.1), loading and augmentation included


def run() -> Iterator[Row]:
    """Time and peak memory of the step and of the features alone, and the hours of a whole training."""
    torch.set_num_threads(THREADS)
    machine, vit = sizing.this_machine(), costs.transformer_of(PAPER.backbone)
    config, K, batch = PAPER.config, PAPER.clusters, PAPER.config.batch_images
    predicted = {
        features: costs.backbone_cost(vit, (CROP, CROP), batch),
        step: costs.step_cost(vit, CROP, K, config, form="sparse"),
    }
    held = costs.SINGLE * (vit.parameters + costs.psi_parameters(3 * vit.channels, K, config))
    with TemporaryDirectory() as folder:
        np.save(f"{folder}/photographs.npy", inputs.photographs(batch, CROP))
        for side, cost in predicted.items():
            found = measure(side, folder, repeats=1)
            case = f"{side.__name__} of {batch} crops, B = {batch * vit.patches((CROP, CROP))}, K = {K}"
            seconds = (machine.seconds(cost), found.seconds)
            yield less_is_better(NAME, case, "time, s", "roofline of this machine", seconds)
            memory = (cost.memory - (held if side is step else 0)) / 1e6  # the weights are there before the first call
            yield less_is_better(NAME, case, "peak memory, MB", "sum over tensors", (memory, found.peak_mb))
    yield whole_training(NAME, found.seconds)


def whole_training(benchmark: str, step_s: float) -> Row:
    """The hours of a training of profile ``paper`` whose steps take so many seconds."""
    steps = total_steps(TRAINING_PHOTOGRAPHS, PAPER.config)
    hours = (HOURS_OF_THE_PAPER, steps * step_s / 3600)
    return less_is_better(benchmark, f"a training of {steps} such steps", "hours", "paper, RTX 3090", hours)


def features(folder: str) -> Callable[[], tuple[int, ...]]:
    """The frozen backbone alone."""
    backbone, pictures = _backbone_and_pictures(folder)
    return lambda: tuple(backbone(pictures).shape)


def step(folder: str) -> Callable[[], float]:
    """Features, kernel, psi, objective and Adam."""
    one = training_step(*_backbone_and_pictures(folder), PAPER.clusters, PAPER.config)
    sizing.load_compiled_loops()
    return one


def training_step(backbone: backbones.Backbone, pictures: torch.Tensor, K: int, config: Config) -> Callable[[], float]:
    """A step of :mod:`neuralef.training` on one batch of crops, psi as wide as its input; gives the loss."""
    device = backbone.device.type
    psi = Eigenfunctions.of(config, sum(backbone.channels), K, seed=0).to(device)
    optimizer, noise = new_optimizer(psi, config), noise_of(0, 0, device)
    temperature, _ = schedules(config, progress=0.0)

    def one() -> float:
        levels = backbone(pictures, precision=config.precision)
        colours = patch_colours(pictures, levels.shape[1:3]).to(device)
        kappa = kernel_of(levels[..., -backbone.channels[-1] :], colours, config)
        return optimise(psi, optimizer, levels, kappa, config, temperature=temperature, noise=noise).loss.item()

    return one


def _backbone_and_pictures(folder: str) -> tuple[backbones.Backbone, torch.Tensor]:
    backbone = backbones.build(PAPER.backbone, pretrained=False)
    return backbone, to_tensor(np.load(f"{folder}/photographs.npy"))
