"""A whole training: the paper's recipe in dense arithmetic against that of profile ``quick``.

Both are timed over some steps in the same run and multiplied by their number of steps. What each recipe reaches comes
from whole runs kept in ``results/reference``: ``quick/results.csv``, and ``bench/faithful/results.csv``, which the
command in ``benchmarks/README.md`` makes. The second was trained by this package, whose loss and gradients are those of
the dense formulas (benchmark ``training_step``).
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
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
PLAIN_STEPS, STEPS = 3, 150
METHODS = ("ours", "ours_star")


def run() -> Iterator[Row]:
    """Seconds of a step and of a training, and mean IoU of both recipes."""
    study = inputs.study()
    photographs, K = len(study.bench.train), study.profile.clusters
    steps = {config: config.epochs * (photographs // config.batch_images) for config in (FAITHFUL, QUICK)}
    ours = measure(quick, K, repeats=1).result
    for width in (QUICK.width, None):
        theirs = measure(faithful, K, width, repeats=1).result
        case = f"{photographs} photographs, K = {K}; paper's recipe with width {width or '3C'}"
        yield less_is_better(NAME, case, "s a step", "dense, float32", (theirs, ours))
        whole = (theirs * steps[FAITHFUL], ours * steps[QUICK])
        yield less_is_better(NAME, case, "s a training", "dense, float32", whole, 4)
    kept = reference_root("bench") / "faithful" / "results.csv"
    if kept.is_file():
        tables = [read_results(path) for path in (kept, reference_root("quick") / "results.csv")]
        for method in METHODS:
            chosen = [table[(table["method"] == method) & (table["matching"] == "max_iou")] for table in tables]
            scores = tuple(table["mean_iou"].mean() for table in chosen)
            seeds = " and ".join(str(table["seed"].nunique()) for table in chosen)
            case = f"val of {chosen[0]['dataset'].iloc[0]}, {method}, mean of {seeds} seeds"
            yield more_is_better(NAME, case, "mean IoU (max_iou)", "paper's recipe", scores, 1)


def quick(K: int) -> Callable[[], float]:
    """Seconds a step of :func:`neuralef.training.train` with the profile's recipe."""
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
