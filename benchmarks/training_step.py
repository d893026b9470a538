"""Kernel and objective, forward and backward, against the dense formulas; then the same with psi around them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import inputs, plain
from benchmarks.harness import Row, less_is_better, measure, more_is_better
from neuralef.config import PSI_FIELDS, Config, load_profile
from neuralef.eigenfunctions import Eigenfunctions, l2_batch_norm
from neuralef.graph import nearest_neighbors
from neuralef.measuring import Measured
from neuralef.objective import neural_eigenfunction_objective
from neuralef.training import kernel_of, new_optimizer, optimise

NAME = "training_step"
PAPER = Config()
QUICK = load_profile("quick").config
CHANNELS = 384  # of the high level, the last of three

# Patches of a batch: images, patches of a side. The last is the paper's: 16 crops of 480 x 480, patches of 16 pixels.
BATCHES = {2048: (8, 16), 4096: (16, 16), 8192: (32, 16), 14400: (16, 30)}
CLUSTERS = (64, 256)
TARGETS = {8192: (6, 8), 14400: (8, float("nan"))}
MEMORY_LIMIT_MB = 400  # of the largest batch


def run() -> Iterator[Row]:
    """Time and peak memory at each batch and K, the agreement of losses and gradients, and the growth of memory."""
    with TemporaryDirectory() as folder:
        for B, (images, side) in BATCHES.items():
            levels, colours = inputs.patches(images, side)
            np.save(f"{folder}/levels-{B}.npy", levels)
            np.save(f"{folder}/colours-{B}.npy", colours)
        peaks = {}
        for B in BATCHES:
            found = measure(neighbours, folder, B, repeats=0).result
            np.save(f"{folder}/neighbours-{B}.npy", found.astype(np.int64))
            yield _same_neighbours(B, found, measure(dense_neighbours, folder, B, repeats=0).result)
            for K in CLUSTERS:
                theirs, ours = _by_turns((dense_step, sparse_step), folder, B, K)
                case = f"kernel and objective, B = {B}, K = {K}"
                faster, smaller = TARGETS.get(B, (float("nan"), float("nan")))
                yield less_is_better(NAME, case, "time, s", "dense", (theirs.seconds, ours.seconds), faster)
                yield less_is_better(NAME, case, "peak memory, MB", "dense", (theirs.peak_mb, ours.peak_mb), smaller)
                literal = measure(dense_step_on_ours, folder, B, K, repeats=0).result
                yield from _agreement(case, literal, ours.result)
                peaks[B, K] = ours.peak_mb
        least, most = min(BATCHES), max(BATCHES)
        for K in CLUSTERS:
            case = f"kernel and objective, B = {most}, K = {K}"
            yield less_is_better(NAME, case, "peak memory, MB", "limit", (MEMORY_LIMIT_MB, peaks[most, K]), 1)
            growth = (most / least, peaks[most, K] / peaks[least, K])
            yield less_is_better(NAME, f"B = {least} to {most}, K = {K}", "growth of memory", "growth of B", growth, 1)
        for B in BATCHES:
            theirs, ours = _by_turns((plain_whole_step, whole_step), folder, B, 64)
            case = f"whole step with psi of profile quick, B = {B}, K = 64"
            yield less_is_better(NAME, case, "time, s", "dense, float32", (theirs.seconds, ours.seconds))
            yield less_is_better(NAME, case, "peak memory, MB", "dense, float32", (theirs.peak_mb, ours.peak_mb))


def _by_turns(sides: Sequence[Callable[..., Callable[[], Any]]], *arguments: Any) -> list[Measured]:
    """Each side twice, in turn, at its best: a shared machine is faster or slower by a sixth from minute to minute."""
    rounds = [[measure(side, *arguments) for side in sides] for _ in range(2)]
    return [min(of_side, key=lambda measured: measured.seconds) for of_side in zip(*rounds, strict=True)]


def neighbours(folder: str, B: int) -> Callable[[], np.ndarray]:
    """Nearest neighbours as this package finds them."""
    features = _batch(folder, B, 1)[0][..., -CHANNELS:].flatten(0, 2)
    return lambda: nearest_neighbors(features, PAPER.feature_neighbors)[0].numpy()


def dense_neighbours(folder: str, B: int) -> Callable[[], np.ndarray]:
    """Nearest neighbours by the k largest of each row of the whole similarity matrix."""
    unit = torch.nn.functional.normalize(_batch(folder, B, 1)[0][..., -CHANNELS:].flatten(0, 2), dim=1)
    return lambda: (unit @ unit.T).fill_diagonal_(-math.inf).topk(PAPER.feature_neighbors, dim=1).indices.numpy()


def dense_step_on_ours(folder: str, B: int, K: int) -> Callable[[], tuple[float, np.ndarray]]:
    """:func:`dense_step` with the neighbours that this package finds."""
    return dense_step(folder, B, K, torch.from_numpy(np.load(f"{folder}/neighbours-{B}.npy")))


def dense_step(folder: str, B: int, K: int, neighbours: Tensor | None = None) -> Callable[[], tuple[float, np.ndarray]]:
    """The literal side: loss and gradient with respect to psi's outputs."""
    levels, colours, outputs = _batch(folder, B, K)
    features = levels[..., -CHANNELS:]

    def step() -> tuple[float, np.ndarray]:
        kernel = plain.dense_kernel(features, colours, PAPER, neighbours)
        loss = plain.dense_objective(l2_batch_norm(outputs), kernel, **_weights(K))
        return loss.item(), torch.autograd.grad(loss, outputs)[0].numpy()

    return step


def sparse_step(folder: str, B: int, K: int) -> Callable[[], tuple[float, np.ndarray]]:
    """Our side: loss and gradient with respect to psi's outputs."""
    levels, colours, outputs = _batch(folder, B, K)
    features = levels[..., -CHANNELS:]
    _compile()

    def step() -> tuple[float, np.ndarray]:
        kernel = kernel_of(features, colours, PAPER)
        loss = neural_eigenfunction_objective(l2_batch_norm(outputs), kernel, **_weights(K)).loss
        return loss.item(), torch.autograd.grad(loss, outputs)[0].numpy()

    return step


def plain_whole_step(folder: str, B: int, K: int) -> Callable[[], float]:
    """A training step with the dense formulas, psi in float32 and Adam as they come."""
    levels, colours, _ = _batch(folder, B, K)
    psi = plain.plain_psi(levels.shape[-1], K, QUICK, seed=0)
    optimizer = torch.optim.Adam(psi.parameters(), lr=PAPER.learning_rate)
    return lambda: plain.training_step(psi, optimizer, levels, colours, PAPER, **_weights(K))


def whole_step(folder: str, B: int, K: int) -> Callable[[], float]:
    """Ours: the same psi as ``quick`` trains it, in bfloat16 where the processor has it."""
    levels, colours, _ = _batch(folder, B, K)
    config = replace(PAPER, **{name: getattr(QUICK, name) for name in (*PSI_FIELDS, "precision")})
    psi = Eigenfunctions.of(config, levels.shape[-1], K, seed=0)
    optimizer = new_optimizer(psi, config)
    _compile()

    def step() -> float:
        kappa = kernel_of(levels[..., -CHANNELS:], colours, config)
        noise = torch.Generator().manual_seed(0)
        return optimise(psi, optimizer, levels, kappa, config, temperature=1.0, noise=noise).loss.item()

    return step


def _batch(folder: str, B: int, K: int) -> tuple[Tensor, Tensor, Tensor]:
    levels, colours = (torch.from_numpy(np.load(f"{folder}/{name}-{B}.npy")) for name in ("levels", "colours"))
    outputs = torch.randn(B, K, generator=torch.Generator().manual_seed(0)).softmax(dim=1).requires_grad_()
    return levels, colours, outputs


def _weights(K: int) -> dict[str, float]:
    return {"orthogonality_weight": PAPER.orthogonality_weight_for(K), "trace_scale": PAPER.trace_scale}


def _compile() -> None:
    generator = torch.Generator().manual_seed(0)
    kappa = kernel_of(torch.rand(2, 30, 30, 8, generator=generator), torch.rand(2, 30, 30, 3), PAPER)
    neural_eigenfunction_objective(torch.rand(1800, 4, generator=generator), kappa, **_weights(4))


def _same_neighbours(B: int, ours: np.ndarray, theirs: np.ndarray) -> Row:
    """Share of links that both searches have; the others are equally near up to rounding."""
    shared = sum(len(np.intersect1d(mine, other)) for mine, other in zip(ours, theirs, strict=True)) / ours.size
    return more_is_better(NAME, f"nearest neighbours, B = {B}", "share of equal links", "dense", (0.99999, shared), 1)


def _agreement(case: str, theirs: tuple[float, np.ndarray], ours: tuple[float, np.ndarray]) -> Iterator[Row]:
    loss = abs(ours[0] / theirs[0] - 1)
    gradient = np.abs(ours[1] - theirs[1]).max() / np.abs(theirs[1]).max()
    yield less_is_better(NAME, case, "relative difference of the loss", "allowed", (1e-5, max(loss, 1e-12)), 1)
    yield less_is_better(NAME, case, "largest difference of a gradient", "allowed", (1e-5, max(gradient, 1e-12)), 1)
