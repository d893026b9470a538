"""One psi for several datasets (notebook 38).

psi is trained on the photographs of all datasets together, K-means and whatever follows is fitted to those of one, as
it is without the others. Each score is set beside that of a psi of the dataset alone, seed by seed. All photographs
together take at most as many steps as the largest dataset alone, so that one training does the work of several.

Labels are read to score, nothing else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from neuralef import provenance
from neuralef.comparison import BASELINE
from neuralef.config import Config
from neuralef.errors import InputError
from neuralef.features import FeatureStore
from neuralef.intervals import student_interval
from neuralef.methods import REGISTRY, check_methods
from neuralef.photographs_study import COLUMNS, KEY, evaluated, read_parts, scored
from neuralef.reporting import cases_won, mean_and_interval, mean_and_spread, mean_and_wins, method_title
from neuralef.results import append_rows, check_columns
from neuralef.studies import Study
from neuralef.training import total_steps, training_settings
from neuralef.workbench import Experiment, Workbench

FILE = "together.csv"

ALONE, TOGETHER = "psi of its own", "one psi for all"


def pooled(stores: Sequence[FeatureStore]) -> FeatureStore:
    """The photographs of several stores as one store, copied into memory; ids begin with the number of their store.

    Raises:
        InputError: If crops, grids or channels differ.
    """
    shapes = sorted({(store.crop_size, store.grid, store.channels) for store in stores})
    if len(shapes) > 1:
        raise InputError(
            f"features differ in crop, grid or channels, {shapes[0]} and {shapes[1]}; psi for several datasets wants "
            "one image_size and one backbone"
        )
    return FeatureStore(
        ids=tuple(f"{number}/{image_id}" for number, store in enumerate(stores) for image_id in store.ids),
        channels=stores[0].channels,
        crop_size=stores[0].crop_size,
        key=provenance.digest([store.key for store in stores]),
        patches=np.concatenate([store.patches for store in stores]),
        patch_colours=np.concatenate([store.patch_colours for store in stores]),
        extract_s=sum(store.extract_s for store in stores),
    )


def most_epochs(images: Sequence[int], config: Config) -> int:
    """Epochs of all datasets together that take no more steps than the largest alone; at least one."""
    return max(1, total_steps(max(images), config) // total_steps(sum(images), config.updated({"epochs": 1})))


def run(members: Sequence[Study], methods: Sequence[str], path: Path) -> pd.DataFrame:
    """Train psi on all datasets with every seed, fit and score every method on each; rows that are there stay.

    Args:
        members: Studies of the datasets, at settings that are the same for psi.
        methods: Methods that psi is part of, of :data:`neuralef.methods.REGISTRY`.
        path: CSV file of :data:`neuralef.photographs_study.COLUMNS` that keeps the rows; ``photographs`` and ``steps``
            are those of psi.

    Returns:
        The rows of these datasets, methods and seeds, new or already there; none of fewer than two datasets.

    Raises:
        InputError: If a method is unknown or does without psi, settings or features differ, or the file cannot be used.
    """
    check_methods(methods)
    for method in methods:
        if not REGISTRY[method].needs_psi:
            raise InputError(f"{method} has no psi that datasets could share; name methods that have one")
    check_columns(path, COLUMNS)
    if len(members) < 2:
        return pd.DataFrame(columns=COLUMNS)
    benches = [member.bench for member in members]
    settings = [training_settings(bench.config) for bench in benches]
    if any(of != settings[0] for of in settings):
        raise InputError("the settings of psi differ between these datasets; name those of one profile that share them")
    store = pooled([bench.train for bench in benches])
    epochs = most_epochs([len(bench.train) for bench in benches], benches[0].config)
    fits = [  # seed by seed: the datasets share its psi
        (bench, replace(experiment, config=experiment.config.updated({"epochs": epochs})), method)
        for of_seed in zip(*(member.experiments() for member in members), strict=True)
        for bench, experiment in zip(benches, of_seed, strict=True)
        for method in methods
    ]
    wanted: list[tuple[str, str]] = []
    for bench, experiment, method in tqdm(fits, desc="one psi for all", unit="fit", disable=not benches[0].progress):
        experiment_id = bench.experiment_id(experiment.clusters, experiment.seed, experiment.config)
        part_id = provenance.digest(experiment_id, store.key)
        wanted.append((part_id, method))
        done = read_parts(path)
        if not ((done["part_id"] == part_id) & (done["method"] == method)).any():
            rows = [{"part_id": part_id, **row} for row in _rows(benches[0], bench, experiment, store, method)]
            append_rows(path, rows, columns=COLUMNS, key=KEY)
    rows = read_parts(path)
    return rows[pd.MultiIndex.from_frame(rows[["part_id", "method"]]).isin(wanted)].reset_index(drop=True)


def _rows(
    trainer: Workbench, bench: Workbench, experiment: Experiment, store: FeatureStore, method: str
) -> Iterator[dict[str, Any]]:
    """The rows of a method; ``trainer`` trains psi, the same for all datasets, and keeps it."""
    clusters, seed, config = experiment.clusters, experiment.seed, experiment.config
    trained = trainer.training(clusters, seed, config, part=store)
    fit, began = {"num_clusters": clusters, "seed": seed, "progress": bench.progress}, perf_counter()
    head = REGISTRY[method].fitted(bench.train, trained.psi, config, **fit)
    seconds = {"train_s": trained.train_s, "cluster_s": perf_counter() - began}
    counts, further = evaluated(bench, experiment, method, head)
    yield from scored(counts, experiment, store, method, head, seconds | further, images=len(bench.dataset.ids("val")))


def beside(rows: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    """Scores with one psi for all beside those with a psi of their own, under ``max_iou``.

    Args:
        rows: Rows of :func:`run`.
        results: Rows of ``results.csv`` of the same datasets and seeds, each dataset trained on itself, with K-means.

    Returns:
        A row for each dataset, method and seed: ``together``, ``alone`` and ``baseline``, mIoU with one psi for all,
        with one of its own, and of K-means, fractions.

    Raises:
        InputError: If ``results`` lacks one of them.
    """
    key = ["dataset", "method", "seed"]
    alone = results[results["matching"] == "max_iou"].set_index(key)["mean_iou"]
    found = rows.loc[rows["matching"] == "max_iou", [*key, "mean_iou"]].rename(columns={"mean_iou": "together"})
    for column, methods in (("alone", found["method"]), ("baseline", [BASELINE] * len(found))):
        of = pd.MultiIndex.from_arrays([found["dataset"], methods, found["seed"]])
        lacking = of[~of.isin(alone.index)]
        if len(lacking):
            dataset, method, seed = lacking[0]
            raise InputError(f"there is no score of {method} on {dataset}, seed {seed}; run it first")
        found[column] = alone.loc[of].to_numpy()
    return found.reset_index(drop=True)


def score_table(found: pd.DataFrame) -> pd.DataFrame:
    """:func:`beside` over seeds, percent and points: a row for each dataset and method."""
    columns = ("dataset", "method", ALONE, TOGETHER, "difference", f"{TOGETHER}, against {method_title(BASELINE)}")
    lines = [
        (
            dataset,
            method_title(method),
            mean_and_spread(of["alone"]),
            mean_and_spread(of["together"]),
            mean_and_wins(of["together"] - of["alone"]),
            mean_and_wins(of["together"] - of["baseline"]),
        )
        for (dataset, method), of in found.groupby(["dataset", "method"], sort=False)
    ]
    return pd.DataFrame(lines, columns=columns)


def figure_values(found: pd.DataFrame) -> pd.DataFrame:
    """What :func:`neuralef.plots.seed_strips` draws: a panel for each dataset, both kinds of psi side by side."""
    values = [
        pd.DataFrame({"panel": of["dataset"], "method": f"{method_title(method)}, {kind}", "value": of[column]})
        for method, of in found.groupby("method", sort=False)
        for column, kind in (("alone", "own"), ("together", "one for all"))
    ]
    return pd.concat(values) if values else pd.DataFrame(columns=["panel", "method", "value"])


def sentences(found: pd.DataFrame) -> list[str]:
    """What one psi for all changes on each dataset, with intervals of 95 % by Student's t over seeds."""
    said = []
    for (dataset, method), of in found.groupby(["dataset", "method"], sort=False):
        gains = of["together"] - of["alone"]
        interval = student_interval(list(gains))
        verdict = "which seeds alone may do" if interval.holds(0) else "more than seeds do"
        said.append(
            f"{dataset}: {method_title(method)} {mean_and_interval(interval, sign='+')} points, higher in "
            f"{cases_won(gains)} seeds, {verdict}."
        )
    return said
