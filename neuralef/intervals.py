r"""Percentile bootstrap of scores that a whole set of images decides at once (Efron, 1979).

mIoU under a matching is not a mean over images: the matching and every IoU derive from the table that all images add up
to. So images are what is drawn: with the table of each image kept, shape ``(N, K, C)``, a resample is
:math:`\sum_n w_n \, \mathrm{counts}_n` with multinomial weights :math:`w`, and clusters are matched anew in each. Runs
that differ in their seed share the images; a resample draws images once for all of them, and with them the runs.

Two things to know when reading such an interval. A resample holds about 63 % of the images, some of them twice, so a
matching fits it otherwise than the whole set, as a rule a little better, and the interval does not lie evenly about the
estimate: ``Interval.bias`` says how far resamples are off. (Where few images hold a class, a resample without them
averages over the others, which shifts it as well.) What both sides share of such shifts drops out of a difference;
what one of them has alone does not. Of differences to K-means on Stanford Background resamples lie up to 1.4 points
above the estimates on average (column ``shift`` of table ``32_differences``): an end nearer to 0 than that decides
nothing. And few
runs show little of the spread between runs: the variance of a resampled mean of S runs is (S - 1) / S of the unbiased
one, and quantiles do not widen for small S as Student's do. Where runs alone decide, an interval of 95 % is 0.6 times
as wide as Student's with five runs and holds the mean in 84 % of cases, with three 0.4 times and in 75 % (20,000
simulated normal samples; notebook ``30`` has a simulation of its own).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from neuralef.evaluation import score

Statistic = Callable[[np.ndarray], float]

CELLS_AT_ONCE = 2**23
"""Entries of the resampled tables held at a time, 64 MB of float64."""


@dataclass(frozen=True)
class Interval:
    """An estimate and where it may lie.

    Attributes:
        estimate: Value on the images and runs as they are.
        low: Lower end of the interval.
        high: Upper end of the interval.
        bias: Mean of the resamples minus the estimate.
    """

    estimate: float
    low: float
    high: float
    bias: float = 0.0

    def overlaps(self, other: "Interval") -> bool:
        """Whether both have a point in common."""
        return self.low <= other.high and other.low <= self.high

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies in it, ends included."""
        return self.low <= value <= self.high

    @property
    def unshifted(self) -> "Interval":
        """The same with what resampling shifts taken off."""
        return Interval(self.estimate, self.low - self.bias, self.high - self.bias)

    def excludes(self, value: float) -> bool:
        """Whether ``value`` lies on one side of it, both as it is and with what resampling shifts taken off."""
        return value < min(self.low, self.unshifted.low) or value > max(self.high, self.unshifted.high)

    def says_of(self, value: float) -> str:
        """In words whether it includes ``value`` or excludes it, and whether the shift of resampling undoes that."""
        if self.holds(value):
            return f"includes {value:g}"
        undone = "" if self.excludes(value) else ", but not with what resampling shifts taken off"
        return f"excludes {value:g}{undone}"


def max_iou_score(counts: np.ndarray) -> float:
    """mIoU of a table ``(K, C)`` under ``max_iou``: the statistic of most uses."""
    return score(counts, "max_iou").mean_iou


def bootstrap_interval(
    runs: Sequence[np.ndarray],
    statistic: Statistic = max_iou_score,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Interval of the mean of a statistic over runs, drawing images and runs.

    Args:
        runs: Tables of the images of each run, shape ``(N, K, C)``, integer; the same images in the same order. A
            single run is kept as it is, and images alone are drawn.
        statistic: Function of a table ``(K, C)`` that gives the statistic.
        draws: Number of resamples.
        seed: Seed of the draws; equal seeds, images and numbers of runs give equal draws.
        level: Confidence level: share of the resamples inside the interval, 0 to 1.

    Raises:
        ValueError: If there is no run, the runs differ in their images, or there is no draw.
    """
    runs = _labelled(runs)
    image_weights, run_weights = _weights(len(runs[0]), len(runs), draws, seed)
    values = _mean_over_runs(_resampled(runs, statistic, image_weights), run_weights)
    return _interval(float(np.mean(_estimates(runs, statistic))), values, level)


def paired_difference_interval(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    block: int = 1,
) -> Interval:
    """Interval of the mean difference ``second - first`` in mIoU over paired runs, drawing images and pairs.

    Both sides of every resample have the same images and the same pairs of runs, so what they share drops out.

    Args:
        first: Tables of the runs under one treatment, as for :func:`bootstrap_interval`.
        second: Tables of the same runs under the other treatment, in the same order.
        draws: Number of resamples.
        seed: Seed of the draws.
        level: Confidence level: share of the resamples inside the interval, 0 to 1.
        block: Number of images in a row that are drawn together, the first following on the last (the circular block
            bootstrap of Politis and Romano, 1992): for frames of a film, whose neighbours tell little that is new.

    Raises:
        ValueError: If the numbers of runs differ, there is none, they differ in their images, there is no draw, or
            ``block`` is not between 1 and the number of images.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} runs cannot be paired with {len(second)}")
    tables = _labelled([*first, *second])
    first, second = tables[: len(first)], tables[len(first) :]
    image_weights, run_weights = _weights(len(tables[0]), len(first), draws, seed, block)
    before, after = (_resampled(runs, max_iou_score, image_weights) for runs in (first, second))
    estimate = np.mean(_estimates(second)) - np.mean(_estimates(first))
    return _interval(float(estimate), _mean_over_runs(after - before, run_weights), level)


def student_interval(values: Sequence[float]) -> Interval:
    """Interval of 95 % of a mean by Student's t, from independent values such as runs; of a single one, anywhere."""
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Interval(mean, -math.inf, math.inf)
    half = stdtrit(n - 1, 0.975) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def paired_gains(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> tuple[float, ...]:
    """What each run gains from ``first`` to ``second``; arguments as for :func:`paired_difference_interval`."""
    scores = (_estimates(runs) for runs in (first, second))
    return tuple(after - before for before, after in zip(*scores, strict=True))


def _labelled(runs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The tables of the images that have a labelled pixel: others add nothing, but a resample of them has no score."""
    numbers = {len(run) for run in runs}
    if len(numbers) != 1:
        raise ValueError(f"an interval needs runs on the same images; there are runs on {sorted(numbers) or 'none'}")
    labelled = np.logical_or.reduce([run.any(axis=(1, 2)) for run in runs])
    return [run[labelled] for run in runs]


def _weights(images: int, runs: int, draws: int, seed: int, block: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """How often each image and each run enters each resample, shapes ``(draws, N)`` and ``(draws, S)``."""
    if draws < 1:
        raise ValueError(f"draws is {draws}; an interval needs at least one")
    if not 1 <= block <= images:
        raise ValueError(f"block is {block}; of {images} images 1 to {images} can be drawn together")
    rng = np.random.default_rng(seed)
    if block == 1:
        image_weights = rng.multinomial(images, np.full(images, 1 / images), size=draws)
    else:
        starts = rng.integers(images, size=(draws, -(-images // block)))
        drawn = ((starts[..., None] + np.arange(block)) % images).reshape(draws, -1)[:, :images]
        image_weights = np.stack([np.bincount(row, minlength=images) for row in drawn])
    return image_weights, rng.multinomial(runs, np.full(runs, 1 / runs), size=draws)


def _estimates(runs: Sequence[np.ndarray], statistic: Statistic = max_iou_score) -> list[float]:
    return [statistic(run.sum(axis=0, dtype=np.int64)) for run in runs]


def _resampled(runs: Sequence[np.ndarray], statistic: Statistic, image_weights: np.ndarray) -> np.ndarray:
    """The statistic of every run on every resample of the images, shape ``(S, draws)``."""
    return np.array([[statistic(table) for table in _tables(run, image_weights)] for run in runs])


def _tables(run: np.ndarray, image_weights: np.ndarray) -> Iterator[np.ndarray]:
    # Pixels stay far below 2 ** 53, so that float64, which BLAS multiplies, counts them exactly.
    flat = run.reshape(len(run), -1).astype(np.float64)
    at_once = max(1, CELLS_AT_ONCE // flat.shape[1])
    for start in range(0, len(image_weights), at_once):
        totals = image_weights[start : start + at_once] @ flat
        yield from totals.astype(np.int64).reshape(-1, *run.shape[1:])


def _mean_over_runs(values: np.ndarray, run_weights: np.ndarray) -> np.ndarray:
    """``(S, draws)`` to ``(draws,)``."""
    return (run_weights.T * values).sum(axis=0) / len(values)


def _interval(estimate: float, values: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), float(values.mean()) - estimate)
