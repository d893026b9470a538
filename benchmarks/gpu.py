"""The kernel, a training step and the backbone at the paper's own sizes on a GPU, where there is one.

The other side is the method as its formulas stand (:mod:`benchmarks.plain`), on the same GPU, and the roofline of
:mod:`neuralef.costs`. Photographs come from profile ``quick``; the backbone has random weights, which cost what the
published ones cost. Peak memory is what PyTorch's allocator held at most, above what was there before.
"""

from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks import inputs, plain
from benchmarks.harness import Row, less_is_better, more_is_better
from benchmarks.paper_step import CROP, PAPER, training_step, whole_training
from neuralef import backbones, costs, sizing
from neuralef.config import Config
from neuralef.eigenfunctions import gumbel_softmax, l2_batch_norm
from neuralef.features import patch_colours, to_tensor
from neuralef.objective import neural_eigenfunction_objective
from neuralef.precision import Precision
from neuralef.protocols import PAPER_SLIDING
from neuralef.training import kernel_of, noise_of

NAME = "gpu"
COMPUTED_ON = "cuda"
CROPS = {"Pascal Context": CROP, "Cityscapes": PAPER_SLIDING["cityscapes"].window}  # pixels of a side
CALLS = 5


def run() -> Iterator[Row]:
    """Time and peak memory of both sides; nothing where PyTorch sees no GPU."""
    if not torch.cuda.is_available():
        tqdm.write("gpu: not run, since PyTorch sees no NVIDIA GPU here")
        return
    for dataset, crop in CROPS.items():
        yield from _kernel_and_objective(dataset, crop)
    for precision in ("float32", "bfloat16"):
        yield from _step(precision)


def _measured(work: Callable[[], Any]) -> tuple[float, float]:
    """Median seconds of a call and the most megabytes it held, one call to warm up left out."""
    work()
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(CALLS):
        began = perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(perf_counter() - began)
    return median(seconds), (torch.cuda.max_memory_allocated() - held) / 1e6


def _pictures(crop: int) -> Tensor:
    return to_tensor(inputs.photographs(PAPER.config.batch_images, crop))


def _kernel_and_objective(dataset: str, crop: int) -> Iterator[Row]:
    """Forward and backward, psi excluded."""
    backbone, pictures = backbones.build(PAPER.backbone, pretrained=False).to("cuda"), _pictures(crop)
    features = backbone(pictures)[..., -backbone.channels[-1] :].clone()
    colours = patch_colours(pictures, features.shape[1:3]).to("cuda")
    B, K, config = features[..., 0].numel(), PAPER.clusters, PAPER.config
    outputs = torch.randn(B, K, generator=torch.Generator("cuda").manual_seed(0), device="cuda")
    outputs = gumbel_softmax(outputs, temperature=1.0, generator=noise_of(0, 0, "cuda")).requires_grad_()
    weights = {"orthogonality_weight": config.orthogonality_weight_for(K), "trace_scale": config.trace_scale}

    def dense() -> float:
        return _backward(
            plain.dense_objective(l2_batch_norm(outputs), plain.dense_kernel(features, colours, config), **weights)
        )

    def ours() -> float:
        kappa = kernel_of(features, colours, config)
        return _backward(neural_eigenfunction_objective(l2_batch_norm(outputs), kappa, **weights).loss)

    def _backward(loss: Tensor) -> float:
        outputs.grad = None
        loss.backward()
        return loss.item()

    losses = dense(), ours()
    if abs(losses[0] - losses[1]) > 1e-3 * abs(losses[0]):
        raise RuntimeError(f"the two sides disagree: losses {losses}")
    (dense_s, dense_mb), (ours_s, ours_mb) = _measured(dense), _measured(ours)
    case = f"{dataset}: kernel and objective, forward and backward, B = {B}, K = {K}, k = {config.feature_neighbors}"
    yield less_is_better(NAME, case, "time, s", "dense formulas, same GPU", (dense_s, ours_s))
    yield less_is_better(NAME, case, "peak memory, MB", "dense formulas, same GPU", (dense_mb, ours_mb))


def _step(precision: Precision) -> Iterator[Row]:
    """Features, kernel, psi, objective and Adam on a batch of Pascal Context, and the hours of its training."""
    config, K = PAPER.config.updated({"precision": precision, "device": "cuda"}), PAPER.clusters
    batch = config.batch_images
    vit, machine = costs.transformer_of(PAPER.backbone), sizing.this_machine("cuda", precision)
    backbone, pictures = backbones.build(PAPER.backbone, pretrained=False).to("cuda"), _pictures(CROP)
    step = training_step(backbone, pictures, K, config)
    seconds, _ = _measured(lambda: backbone(pictures, precision=precision))
    case = f"features of {batch} crops, {precision}"
    cost = costs.backbone_cost(vit, (CROP, CROP), batch, backbones.IMAGES_AT_ONCE_CUDA)
    yield less_is_better(NAME, case, "time, s", "roofline of this GPU", (machine.seconds(cost), seconds))
    rates = machine.operations / 1e12, cost.operations / seconds / 1e12
    yield more_is_better(NAME, case, "1e12 operations a second", "a product of 8192 x 8192", rates)
    seconds, megabytes = _measured(step)
    case = f"step of profile paper, B = {batch * vit.patches((CROP, CROP))}, K = {K}, {precision}"
    cost = costs.step_cost(vit, CROP, K, config, form="gpu")
    yield less_is_better(NAME, case, "time, s", "roofline of this GPU", (machine.seconds(cost), seconds))
    memory = (cost.memory - held_before(vit, K, config)) / 1e6, megabytes
    yield less_is_better(NAME, case, "peak memory, MB", "sum over tensors", memory)
    yield whole_training(NAME, seconds)


def held_before(vit: costs.Transformer, K: int, config: Config) -> float:
    """Bytes that a step finds there: all weights, and psi's gradients and Adam's two moments of the step before."""
    return costs.SINGLE * (vit.parameters + 4 * costs.psi_parameters(3 * vit.channels, K, config))
