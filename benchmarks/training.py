"""A whole training: the paper's recipe in dense arithmetic against that of profile ``quick``.

Both are timed over some steps in the same run and multiplied by their number of steps. What each recipe reaches comes
from whole runs in ``results/reference``, both in single precision: ``quick_float32/results.csv``, and
``bench/faithful/results.csv`` from the command in ``benchmarks/README.md``. The paper's recipe was trained by this
package, whose loss and gradients are those of the dense formulas (``training_step``).
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from benchmarks import inputs, plain
from benchmarks.harness import Row, less_is_better, measure, more_is_better
from neuralef.config import Config, load_profile
from neuralef.paths import reference_root
from neuralef.results import read_results
from neuralef.training import epoch_order, train

NAME = "training"
QUICK = load_profile("quick").config
# The paper's, but for the width of psi's blocks: its 3C = 1,152 channels are timed beside it.
FAITHFUL = replace(Config(), width=QUICK.width)
PLAIN_STEPS, STEPS = 3, 70
METHODS = ("ours", "ours_star")


def run() -> Iterator[Row]:
    """Seconds of a step and of a training, and mean IoU of both recipes."""
    study = inputs.study()
    photographs, K = len(study.bench.train), study.profile.clusters
    ours = measure(fast, K, repeats=1).result
    for width in (QUICK.width, None):
        theirs = measure(faithful, K, width, repeats=1).result
        case = f"quick, {photographs} photographs, K = {K}; paper's recipe with width {width or '3C'}"
        yield less_is_better(NAME, case, "s a step", "dense, float32", (theirs, ours))
        steps = [config.epochs * (photographs // config.batch_images) for config in (FAITHFUL, QUICK)]
        whole = (theirs * steps[0], ours * steps[1])
        yield less_is_better(NAME, case, "s a training", "dense, float32", whole, 4)
    paper = _scores(reference_root("bench") / "faithful")
    for method, found in _scores(reference_root("quick_float32")).items():
        case = f"val, {method}, {len(found)} seeds; paper's recipe, {len(paper[method])} seeds"
        values = (float(np.mean(paper[method])), float(np.mean(found)))
        yield more_is_better(NAME, case, "mean IoU (max_iou)", "paper's recipe", values, 1)


def _scores(folder: Path) -> dict[str, list[float]]:
    """By method, the mean IoU of every seed of a kept run."""
    rows = read_results(folder / "results.csv")
    rows = rows[rows["matching"] == "max_iou"]
    return {method: rows.loc[rows["method"] == method, "mean_iou"].tolist() for method in METHODS}


def fast(K: int) -> Callable[[], float]:
    """Seconds a step of :func:`neuralef.training.train` as ``quick`` trains."""
    store = inputs.study().bench.train
    shorter = replace(QUICK, epochs=max(1, STEPS // (len(store) // QUICK.batch_images)))

    def seconds() -> float:
        trained = train(store, shorter, num_eigenfunctions=K, seed=0, progress=False)
        return trained.train_s / len(trained.history)

    return seconds


def faithful(K: int, width: int | None) -> Callable[[], float]:
    """Seconds a step of the paper's recipe, literally."""
    store = inputs.study().bench.train
    config = replace(FAITHFUL, width=width)
    psi = plain.plain_psi(sum(store.channels), K, config, seed=0)
    optimizer = torch.optim.Adam(psi.parameters(), lr=config.learning_rate)
    weights = {"orthogonality_weight": config.orthogonality_weight_for(K), "trace_scale": config.trace_scale}

    def seconds() -> float:
        order = epoch_order(len(store), seed=0, epoch=0)
        began = perf_counter()
        for step in range(PLAIN_STEPS):
            chosen = np.sort(order[step * config.batch_images :][: config.batch_images])
            plain.training_step(psi, optimizer, store.levels(chosen), store.colours(chosen), config, **weights)
        return (perf_counter() - began) / PLAIN_STEPS

    return seconds
