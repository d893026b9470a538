"""How many training photographs each method needs (notebook 36).

Every method is fitted to a part of the ``train`` split and scored on all of ``val``. The parts of a seed are drawn at
random, the smaller ones inside the larger ones, and every method sees the same. psi takes as many epochs whatever the
part, so that a small one means few steps as well as few photographs; to tell the two apart it is also trained for as
many steps as the whole split takes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from neuralef import provenance
from neuralef.clustering import ClusterHead
from neuralef.comparison import BASELINE, gains_on_baseline, in_order
from neuralef.config import Config
from neuralef.errors import InputError
from neuralef.evaluation import MATCHINGS, score
from neuralef.experiments import require_labels, score_columns
from neuralef.features import FeatureStore
from neuralef.methods import REGISTRY, check_methods
from neuralef.reporting import cases_won, mean_and_spread, mean_and_wins, method_title
from neuralef.results import COLUMNS as RUN_COLUMNS
from neuralef.results import append_rows, check_columns, read_rows
from neuralef.training import total_steps
from neuralef.workbench import Experiment, Workbench

FILE = "photographs.csv"
COLUMNS = ("part_id", "photographs", "steps", *(name for name in RUN_COLUMNS[1:] if name != "trained_on"))
KEY = ("part_id", "method", "matching")

EQUAL_STEPS = ", equal steps"
"""What the title of a method ends in whose psi was trained for as many steps as on the whole split."""


def photographs_of(store: FeatureStore, photographs: int, seed: int) -> FeatureStore:
    """That many photographs of a store, drawn at random; of a larger number with the same seed they are a part.

    Raises:
        InputError: If the store has fewer, or none is asked for.
    """
    if not 1 <= photographs <= len(store):
        raise InputError(f"{photographs} training photographs were asked for; there are 1 to {len(store)}")
    if photographs == len(store):
        return store
    drawn = np.random.default_rng([seed, len(store)]).permutation(len(store))[:photographs]
    return store.chosen(np.sort(drawn), f"{photographs}-drawn-{seed}")


def equal_epochs(photographs: int, images: int, config: Config) -> int:
    """Epochs after which that many photographs have given at least as many steps as ``images`` give."""
    of_one = total_steps(photographs, config.updated({"epochs": 1}))
    return -(-total_steps(images, config) // of_one)


def run(
    bench: Workbench,
    experiments: Sequence[Experiment],
    methods: Sequence[str],
    path: Path,
    *,
    shares: Sequence[float],
    equal_steps: Sequence[str] = (),
) -> pd.DataFrame:
    """Fit and score every method on every part; a row that the file already holds is not computed again.

    Args:
        bench: Workbench with dataset, backbone and features.
        experiments: Experiments of the dataset that differ in their seed alone.
        methods: Methods to fit, of :data:`neuralef.methods.REGISTRY`.
        path: CSV file of :data:`COLUMNS` that keeps the rows.
        shares: Sizes of the parts as shares of the ``train`` split, above 0, at most 1.
        equal_steps: Those of the methods whose psi is also trained for as many steps as on the whole split.

    Returns:
        The rows of these parts, methods and seeds, new or already there, and the ``share`` that was asked for.

    Raises:
        InputError: If a share, a method or the file cannot be used, there is no seed, or a part is too small for psi's
            batches.
    """
    check_methods([*methods, *equal_steps])
    if not experiments:
        raise InputError("there is no seed to run; name some that the profile has")
    if not shares or not all(0 < share <= 1 for share in shares):
        raise InputError(f"shares are {list(shares)}; they must be above 0 and at most 1, and there must be one")
    check_columns(path, COLUMNS)
    images = len(bench.train)
    share_of = {max(1, round(share * images)): share for share in sorted(shares)}
    wanted: list[tuple[str, str]] = []
    fits = len(experiments) * len(share_of) * len(methods)
    with tqdm(total=fits, desc=f"parts of {bench.dataset_name}", unit="fit", disable=not bench.progress) as bar:
        for experiment, photographs in product(experiments, share_of):
            store = photographs_of(bench.train, photographs, experiment.seed)
            for method in methods:
                bar.set_postfix(photographs=photographs, method=method, seed=experiment.seed, refresh=False)
                epochs = [experiment.config.epochs]
                if method in equal_steps and REGISTRY[method].needs_psi:
                    epochs.append(equal_epochs(photographs, images, experiment.config))
                for number in dict.fromkeys(epochs):
                    of_part = replace(experiment, config=experiment.config.updated({"epochs": number}))
                    experiment_id = bench.experiment_id(of_part.clusters, of_part.seed, of_part.config)
                    part_id = provenance.digest(experiment_id, store.key, store.ids)
                    wanted.append((part_id, method))
                    done = read_parts(path)
                    if not ((done["part_id"] == part_id) & (done["method"] == method)).any():
                        rows = [{"part_id": part_id, **row} for row in _rows(bench, of_part, store, method)]
                        append_rows(path, rows, columns=COLUMNS, key=KEY)
                bar.update()
    rows = read_parts(path)
    asked = pd.MultiIndex.from_frame(rows[["part_id", "method"]]).isin(wanted)
    chosen = rows[asked].reset_index(drop=True)
    return chosen.assign(share=chosen["photographs"].map(share_of))


def read_parts(path: Path) -> pd.DataFrame:
    """The rows of a file of :data:`COLUMNS`; none where there is no file."""
    return read_rows(path, COLUMNS, text=("part_id", "git_sha"))


def _rows(bench: Workbench, experiment: Experiment, store: FeatureStore, method: str) -> Iterator[dict[str, Any]]:
    head, seconds = fitted_to(store, bench, experiment, method)
    counts, further = evaluated(bench, experiment, method, head)
    yield from scored(counts, experiment, store, method, head, seconds | further, images=len(bench.dataset.ids("val")))


def evaluated(
    bench: Workbench, experiment: Experiment, method: str, head: ClusterHead
) -> tuple[np.ndarray, dict[str, float]]:
    """Pixels of all of ``val`` by cluster and class, ``(K, C)``, and the seconds ``extract_s`` and ``eval_s``."""
    extract_s = bench.extract_s(method, head, experiment.config)  # extracts what is missing: no part of eval_s
    began, counts = perf_counter(), np.zeros((head.num_clusters, len(bench.dataset.classes)), dtype=np.int64)
    for (image,) in bench.counted([head], experiment.config, title=f"evaluating {method}"):
        counts += image.counts
    require_labels(bench.dataset, counts.sum(axis=0))
    return counts, {"extract_s": extract_s, "eval_s": perf_counter() - began}


def scored(
    counts: np.ndarray,
    experiment: Experiment,
    store: FeatureStore,
    method: str,
    head: ClusterHead,
    seconds: Mapping[str, float],
    **columns: Any,
) -> Iterator[dict[str, Any]]:
    """A row for each matching, with the columns of :data:`COLUMNS` but the first.

    Args:
        counts: Pixels by cluster and class, shape ``(K, C)``.
        experiment: Experiment, with the hyper-parameters of the fit.
        store: Features that the method was fitted to.
        method: Method, of :data:`neuralef.methods.REGISTRY`.
        head: What was fitted.
        seconds: Seconds of each step, by column.
        columns: Further columns, the same in each row, or others in place of those here; ``images`` must be among them.
    """
    made = provenance.measured_stamp(experiment.config.device, **seconds)
    steps = total_steps(len(store), experiment.config) if REGISTRY[method].needs_psi else 0
    for matching in MATCHINGS:
        yield {
            "photographs": len(store),
            "steps": steps,
            "method": method,
            "matching": matching,
            **score_columns(experiment, score(counts, matching), num_clusters=head.num_clusters),
            **made,
            **columns,
        }


def fitted_to(
    store: FeatureStore, bench: Workbench, experiment: Experiment, method: str
) -> tuple[ClusterHead, dict[str, float]]:
    """A method fitted to a part of the ``train`` features, or to all of them.

    Returns:
        The fitted head, and seconds: ``train_s`` of psi, which comes from the cache if it is there, and ``cluster_s``.
    """
    clusters, seed, config, recipe = experiment.clusters, experiment.seed, experiment.config, REGISTRY[method]
    if store is bench.train:  # as everything else fits it
        found = bench.fitted(method, clusters, seed, config)
        trained = bench.training(clusters, seed, config).train_s if recipe.needs_psi else 0.0
        return found.head, {"train_s": trained, "cluster_s": found.seconds}
    training = bench.training(clusters, seed, config, part=store) if recipe.needs_psi else None
    psi, trained = (training.psi, training.train_s) if training else (None, 0.0)
    began = perf_counter()
    head = recipe.fitted(store, psi, config, num_clusters=clusters, seed=seed, progress=bench.progress)
    return head, {"train_s": trained, "cluster_s": perf_counter() - began}


def titled(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows under ``max_iou`` in the order of tables; column ``title``: the method, and how long psi trained."""
    chosen = rows[rows["matching"] == "max_iou"]
    longer = chosen["p_epochs"] > chosen["p_epochs"].min()
    titles = chosen["method"].map(method_title) + np.where(longer, EQUAL_STEPS, "")
    found = chosen.assign(title=titles, longer=longer)
    return in_order(found, "longer", "photographs", "seed").drop(columns="longer")


def figure_values(rows: pd.DataFrame, panel: str) -> pd.DataFrame:
    """What :func:`neuralef.plots.scores_by_size` draws of one dataset, ``panel`` being the title of its panel."""
    found = titled(rows)
    columns = {"method": found["title"], "size": found["photographs"], "score": found["mean_iou"]}
    return pd.DataFrame({"panel": panel, **columns})


def share_name(share: float) -> str:
    """``1/16 of train``, or ``all of train``."""
    return "all of train" if share == 1 else f"{Fraction(share).limit_denominator(64)} of train"


def score_table(rows: pd.DataFrame) -> pd.DataFrame:
    """mIoU under ``max_iou``, percent over seeds: a row for each method, a column for each part."""
    return _by_part(titled(rows), "mean_iou", mean_and_spread)


def gains(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`titled`, ``gain`` being what each has on K-means with the same photographs and seed.

    Raises:
        InputError: If K-means was not run.
    """
    return gains_on_baseline(titled(rows), ["photographs", "seed"])


def gain_table(rows: pd.DataFrame) -> pd.DataFrame:
    """:func:`gains`, points and in how many seeds they are positive: a row for each method, a column for each part."""
    found = gains(rows)
    table = _by_part(found[found["method"] != BASELINE], "gain", mean_and_wins)
    return table.rename(columns={"method": f"method, against {method_title(BASELINE)}"})


def _by_part(found: pd.DataFrame, column: str, cell: Callable[[Sequence[float]], str]) -> pd.DataFrame:
    titles, shares = list(dict.fromkeys(found["title"])), sorted(found["share"].unique())
    cells = found.groupby(["title", "share"])[column].agg(lambda values: cell(list(values)))
    table = cells.unstack().loc[titles, shares].fillna("the same" if len(shares) > 1 else "")
    table.columns = [share_name(share) for share in shares]
    return table.rename_axis("method").reset_index()


def sentences(rows: pd.DataFrame) -> list[str]:
    """What the numbers say of one dataset: what photographs are worth, who is ahead where, what steps change."""
    found = gains(rows)
    few, all_of = found["photographs"].min(), found["photographs"].max()
    usual = found[~found["title"].str.endswith(EQUAL_STEPS)]
    means = usual.groupby(["title", "photographs"], sort=False)["mean_iou"].mean()
    titles = list(dict.fromkeys(usual["title"]))
    rises = ", ".join(f"{title} {100 * (means[title, all_of] - means[title, few]):+z.1f}" for title in titles)
    said = [f"From {few} to {all_of} photographs mIoU changes by, in points: {rises}."] if few < all_of else []
    for photographs in sorted(usual["photographs"].unique()):
        order = means.xs(photographs, level="photographs").sort_values(ascending=False)
        ranking = ", ".join(f"{title} {100 * value:.1f}" for title, value in order.items())
        said.append(f"With {photographs} photographs, best first: {ranking}.")
    longer = found[found["title"].str.endswith(EQUAL_STEPS)]
    for (method, photographs), group in longer.groupby(["method", "photographs"], sort=False):
        usually = usual[(usual["method"] == method) & (usual["photographs"] == photographs)].set_index("seed")
        change = group.set_index("seed")["mean_iou"] - usually["mean_iou"]
        steps = f"{group['steps'].iloc[0]:,} steps in place of {usually['steps'].iloc[0]:,}"
        said.append(
            f"With {photographs} photographs, {steps} change {method_title(method)} by "
            f"{mean_and_spread(change, sign='+')} points, up in {cases_won(change)} seeds."
        )
    return said
