"""All methods beside each other on one dataset: scores, training cost, cost of a new image, memory (notebook 32).

Scores and training seconds are those of ``results.csv``. What is measured here for itself goes to ``costs.csv``, where
it is found the next time:

- ``image_s``: a new image, from its features to its clusters, and the backbone's passes beyond the first
  (:meth:`neuralef.workbench.Workbench.seconds_per_image`);
- ``peak_mb``: peak memory of the fit above the training features, in a process of its own. psi trains one epoch there;
  further ones repeat its steps (notebook 33).

Methods are compared seed by seed, with bootstrap intervals over images (see :mod:`neuralef.intervals`) that draw from
the counts which :func:`neuralef.experiments.run_experiment` keeps for every image.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from neuralef import provenance
from neuralef.clustering import Method
from neuralef.config import Config
from neuralef.errors import InputError
from neuralef.evaluation import score
from neuralef.experiments import read_image_tables
from neuralef.features import FeatureStore
from neuralef.intervals import Interval, paired_difference_interval, paired_gains
from neuralef.measuring import measure
from neuralef.methods import REGISTRY
from neuralef.reporting import cases_won, markdown, matching_columns, mean_and_interval, mean_and_spread, method_title
from neuralef.results import append_rows, read_rows
from neuralef.scaling import fewest_images, grow, opened, portable
from neuralef.training import train
from neuralef.workbench import Experiment, Workbench

FILE = "costs.csv"
COLUMNS = (
    "experiment_id",
    "method",
    "quantity",
    "value",
    "dataset",
    "clusters",
    "seed",
    "git_sha",
    "dirty",
    "versions",
    "device",
    "threads",
    "created",
)
KEY = ("experiment_id", "method", "quantity", "device")
NOT_MEASURED = "not measured"

BASELINE: Method = "kmeans"
EXACT: Method = "spectral"
PREPARATIONS: tuple[Method, ...] = ("kmeans", "kmeans_centred", "kmeans_pca")
"""K-means on the backbone's features, however they are prepared: what Ours+ is to be above."""
PLUS: Method = "ours_plus"
RELATIVES: tuple[Method, ...] = ("ours_star", "kmeans_plus")
"""What :data:`PLUS` adds its parts to, and what has the same parts without psi."""

TIMED_IMAGES = 32


def measure_costs(
    experiment: Experiment,
    methods: Sequence[Method],
    path: Path,
    *,
    bench: Workbench,
    memory: bool = True,
    progress: bool = True,
) -> pd.DataFrame:
    """Cost of a new image and peak memory of the fit; what the file holds for this machine is not measured again.

    Args:
        experiment: Experiment of any seed; neither cost depends on it.
        methods: Methods to measure, of :data:`neuralef.methods.REGISTRY`.
        path: CSV file of :data:`COLUMNS` that keeps the costs.
        bench: Workbench with dataset, backbone and features of the experiment.
        memory: Whether to fit every method once more, in a process of its own, for its peak memory.
        progress: Whether to show a progress bar.

    Returns:
        Costs by method: ``image_s`` in seconds, and ``peak_mb`` in MB, NaN where it is not measured.

    Raises:
        InputError: If psi trains on random crops and memory is asked for, or the process of a fit was killed.
    """
    if memory and experiment.config.augment:
        raise InputError(
            "augment is True, but memory is measured on stored features; set augment=false or memory=False"
        )
    experiment_id = bench.experiment_id(experiment.clusters, experiment.seed, experiment.config)
    device = provenance.device(experiment.config.device)  # once: a method may change the number of threads it names
    quantities = {"image_s": _image_s, "peak_mb": _peak_mb} if memory else {"image_s": _image_s}
    wanted = [(method, quantity) for method in methods for quantity in quantities]
    kept = _kept(path, experiment_id, device)
    for method, quantity in tqdm(wanted, desc=f"costs on {experiment.dataset}", disable=not progress):
        if quantity not in kept.get(method, {}):
            row = {
                "experiment_id": experiment_id,
                "method": method,
                "quantity": quantity,
                "value": quantities[quantity](experiment, method, bench),
                "dataset": experiment.dataset,
                "clusters": experiment.clusters,
                "seed": experiment.seed,
                **provenance.stamp(experiment.config.device),
                "device": device,
            }
            append_rows(path, [row], columns=COLUMNS, key=KEY)
    costs = pd.DataFrame.from_dict(_kept(path, experiment_id, device), orient="index")
    return costs.reindex(index=list(methods), columns=["image_s", "peak_mb"])


def fit(content: dict[str, Any], method: Method, config: Config, clusters: int, seed: int) -> Callable[[], None]:
    """A side for :func:`neuralef.measuring.measure`: the fit of one method; psi trains one epoch.

    Args:
        content: Training features, from :func:`neuralef.scaling.portable`.
        method: Method to fit, of :data:`neuralef.methods.REGISTRY`.
        config: Hyper-parameters.
        clusters: Number of clusters, the paper's K.
        seed: Seed of psi and of the fit.
    """
    store = opened(content)
    epoch = config.updated({"epochs": 1})
    needed = max(clusters, config.feature_neighbors, config.spectral_neighbors, config.pca_channels) + 1
    fewest = fewest_images(store, needed, stride=config.patch_stride)
    # Each gives half its segments at least, as a rule, and clusters need as many.
    fewest = 1 + max(fewest, 2 * clusters // config.deep_spectral_segments)
    _fit(grow(store, fewest), method, epoch, clusters, seed)
    return lambda: _fit(store, method, epoch, clusters, seed)


def _fit(store: FeatureStore, method: Method, config: Config, clusters: int, seed: int) -> None:
    recipe = REGISTRY[method]
    psi = train(store, config, num_eigenfunctions=clusters, seed=seed, progress=False).psi if recipe.needs_psi else None
    recipe.fitted(store, psi, config, num_clusters=clusters, seed=seed, progress=False)


def _image_s(experiment: Experiment, method: Method, bench: Workbench) -> float:
    fitted = bench.fitted(method, experiment.clusters, experiment.seed, experiment.config)
    return bench.seconds_per_image(fitted.head, TIMED_IMAGES)


def _peak_mb(experiment: Experiment, method: Method, bench: Workbench) -> float:
    settings = experiment.config, experiment.clusters, experiment.seed
    measured = measure(
        fit,
        portable(bench.train),
        method,
        *settings,
        repeats=0,
        threads=torch.get_num_threads(),
        remedy=f"lower kmeans_patches or spectral_landmarks, or leave method {method} out",
    )
    return round(measured.peak_mb, 1)


def _kept(path: Path, experiment_id: str, device: str) -> dict[str, dict[str, float]]:
    """By method and quantity, the values of one experiment on one machine."""
    rows = read_rows(path, COLUMNS, text=("experiment_id", "git_sha"))
    rows = rows[(rows["experiment_id"] == experiment_id) & (rows["device"] == device)]
    return {method: dict(zip(of["quantity"], of["value"], strict=True)) for method, of in rows.groupby("method")}


@dataclass(frozen=True)
class Standing:
    """One method on one dataset.

    Attributes:
        method: Name of the method.
        accuracy: Accuracy of each seed under ``max_iou``, fractions.
        mean_iou: mIoU of each seed under ``max_iou``, fractions.
        training_s: Training seconds of each seed, psi and clustering together, features apart.
        image_s: Seconds that a new image takes, features apart.
        peak_mb: Peak memory of the fit above its features, MB; NaN where it was not measured.
    """

    method: Method
    accuracy: tuple[float, ...]
    mean_iou: tuple[float, ...]
    training_s: tuple[float, ...]
    image_s: float
    peak_mb: float

    @property
    def title(self) -> str:
        """Title of the method in Markdown."""
        return _escaped(self.method)

    def costs_and_score(self) -> tuple[float, float, float]:
        """Mean training seconds, seconds of an image, and minus mean mIoU: less is better in each."""
        return float(np.mean(self.training_s)), self.image_s, -float(np.mean(self.mean_iou))

    def beats(self, other: "Standing") -> bool:
        """Whether it is no worse in training, new image and mean mIoU, and better in one of them."""
        pairs = list(zip(self.costs_and_score(), other.costs_and_score(), strict=True))
        return all(mine <= theirs for mine, theirs in pairs) and any(mine < theirs for mine, theirs in pairs)


def standings(rows: pd.DataFrame, costs: pd.DataFrame) -> list[Standing]:
    """Every method that was run, in the order of the registry.

    Args:
        rows: Rows of ``results.csv``, of one dataset and setting.
        costs: Costs of the methods, from :func:`measure_costs`.
    """
    found = []
    for method, chosen in _by_method(rows[rows["matching"] == "max_iou"]):
        seconds = chosen["train_s"] + chosen["cluster_s"]
        scores = (tuple(column.tolist()) for column in (chosen["accuracy"], chosen["mean_iou"], seconds))
        found.append(Standing(method, *scores, *(float(value) for value in costs.loc[method, ["image_s", "peak_mb"]])))
    return found


@dataclass(frozen=True)
class PairedDifference:
    """mIoU of one method minus that of another under ``max_iou``, seed by seed.

    Attributes:
        method: Method from whose mIoU the other's is subtracted.
        other: Method whose mIoU is subtracted.
        interval: Interval of the mean difference, over images and seeds.
        gains: Difference of each seed.
        class_gains: Mean IoU of each class over seeds minus the other method's, shape ``(C,)``; NaN for a class that
            neither truth nor prediction has.
    """

    method: Method
    other: Method
    interval: Interval
    gains: tuple[float, ...]
    class_gains: tuple[float, ...]

    @property
    def verdict(self) -> str:
        """What the interval says: ``higher`` or ``lower`` where it excludes 0, else ``undecided``."""
        if not self.interval.excludes(0):
            return "undecided"
        return "higher" if self.interval.estimate > 0 else "lower"


def compare(
    rows: pd.DataFrame, out: Path, method: Method, other: Method, *, draws: int = 1000, block: int = 1
) -> PairedDifference:
    """Two methods of the same experiments.

    Args:
        rows: Rows of ``results.csv``, of one dataset and setting.
        out: Results folder, with the counts of every image.
        method: Method from whose mIoU the other's is subtracted.
        other: Method whose mIoU is subtracted.
        draws: Number of bootstrap resamples.
        block: Number of images in a row that are drawn together, for frames of a film.

    Raises:
        InputError: If the two were not run in the same experiments, or the counts of their images were not kept.
    """
    ids = [experiment_ids(rows, name) for name in (method, other)]
    if ids[0] != ids[1] or not ids[0]:
        raise InputError(
            f"{method} was run in {len(ids[0])} experiments, {other} in {len(ids[1])}, and not in the same; run both "
            "for the same seeds"
        )
    mine, theirs = ([read_image_tables(out, one, name) for one in ids[0]] for name in (method, other))
    classes = (
        np.mean([score(run.sum(axis=0, dtype=np.int64), "max_iou").class_iou for run in runs], axis=0)
        for runs in (mine, theirs)
    )
    return PairedDifference(
        method,
        other,
        paired_difference_interval(theirs, mine, draws=draws, block=block),
        paired_gains(theirs, mine),
        tuple(np.subtract(*classes).tolist()),
    )


def compare_all(rows: pd.DataFrame, out: Path, *, draws: int = 1000) -> list[PairedDifference]:
    """Every method against K-means, those on psi against exact eigenvectors, Ours+ against :data:`RELATIVES`."""
    names = [method for method, _ in _by_method(rows)]
    pairs = [(name, BASELINE) for name in names if name != BASELINE]
    pairs += [(name, EXACT) for name in names if REGISTRY[name].needs_psi]
    pairs += [(PLUS, name) for name in RELATIVES]
    return [compare(rows, out, *pair, draws=draws) for pair in pairs if {*pair} <= {*names}]


def method_table(members: Sequence[Standing], differences: Sequence[PairedDifference]) -> pd.DataFrame:
    """Methods in rows; quality and costs, strings ready to print; percent and points.

    Args:
        members: Standings of the methods on one dataset.
        differences: Differences between the methods, from :func:`compare_all`.
    """
    against = {
        found.method: mean_and_interval(found.interval, sign="+") for found in differences if found.other == BASELINE
    }
    return pd.DataFrame(
        {
            "method": method_title(one.method),
            "seeds": str(len(one.mean_iou)),
            "Acc": mean_and_spread(one.accuracy),
            "mIoU": mean_and_spread(one.mean_iou),
            f"mIoU − {method_title(BASELINE)}": against.get(
                one.method, "reference" if one.method == BASELINE else "not run"
            ),
            "training, s": _number(np.mean(one.training_s)),
            "new image, ms": _number(1000 * one.image_s),
            "peak memory, MB": _number(one.peak_mb),
        }
        for one in members
    )


def matching_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Methods in rows; accuracy and mIoU under each matching, percent, mean ± spread over seeds."""
    return pd.DataFrame(
        {"method": method_title(method), **matching_columns(chosen)} for method, chosen in _by_method(rows)
    )


def difference_table(differences: Sequence[PairedDifference]) -> pd.DataFrame:
    """Pairs of methods in rows: what the first gains on the second, points of mIoU; strings ready to print."""
    return pd.DataFrame(
        {
            "method": method_title(found.method),
            "against": method_title(found.other),
            "difference in mIoU": mean_and_interval(found.interval, sign="+"),
            "shift": f"{100 * found.interval.bias:+.1f}",
            "by its interval": found.verdict,
            "higher in seeds": cases_won(found.gains),
            "higher in classes": cases_won(found.class_gains),
        }
        for found in differences
    )


def figure_values(members: Sequence[Standing], cost: str, panel: str, *, unit: float = 1.0) -> pd.DataFrame:
    """What :func:`neuralef.plots.scores_against_costs` draws of one dataset.

    Args:
        members: Standings of the methods on the dataset.
        cost: Cost to draw, ``training_s`` or ``image_s``.
        panel: Title of the panel.
        unit: Unit of the costs in seconds.
    """
    values = []
    for one in members:
        costs, scores = np.atleast_1d(getattr(one, cost)) / unit, np.array(one.mean_iou)
        values.append(
            {
                "panel": panel,
                "method": method_title(one.method),
                **{"cost": costs.mean(), "cost_low": costs.min(), "cost_high": costs.max()},
                **{"score": scores.mean(), "score_low": scores.min(), "score_high": scores.max()},
            }
        )
    return pd.DataFrame(values)


def break_even(first: Standing, second: Standing) -> float | None:
    """New images at which both have cost as much, training included; ``None`` where one is cheaper at any number."""
    (training, image), (other_training, other_image) = _costs(first, second)
    if (training - other_training) * (image - other_image) >= 0:
        return None
    return (training - other_training) / (other_image - image)


def sentences(
    members: Sequence[Standing], differences: Sequence[PairedDifference], class_names: Sequence[str]
) -> list[str]:
    """What the numbers of one dataset say, in Markdown; percent, points, seconds.

    Args:
        members: Standings of the methods on the dataset.
        differences: Differences between the methods, from :func:`compare_all`.
        class_names: Names of the dataset's classes, in label order.
    """
    by_name = {one.method: one for one in members}
    against_exact = [found for found in differences if found.other == EXACT]
    return [
        _quality_sentence(members, differences),
        _cost_sentence(members),
        _front_sentence(members),
        *(_pair_sentence(found, by_name[found.method], by_name[EXACT], class_names) for found in against_exact),
    ]


def graph_sentence(store: FeatureStore, config: Config) -> str:
    """How much of the training patches the graph of exact eigenvectors holds, in Markdown."""
    patches = len(store) * math.prod(store.grid)
    images = min(len(store), config.spectral_landmarks)
    landmarks = images * min(math.prod(store.grid), config.spectral_landmarks // images)
    text = f"The graph of {_escaped(EXACT)} holds {landmarks:,} of {patches:,} training patches"
    if landmarks == patches:
        return f"{text}: all of them."
    return (
        f"{text} ({100 * landmarks / patches:.0f} %); all others, and new images, are extended from them. More "
        "photographs make neither this graph nor a batch of psi any larger."
    )


def _quality_sentence(members: Sequence[Standing], differences: Sequence[PairedDifference]) -> str:
    best = max(members, key=lambda one: np.mean(one.mean_iou))
    text = f"**Quality.** {best.title} has the highest mIoU, {mean_and_spread(best.mean_iou)} %"
    gain = next((found for found in differences if (found.method, found.other) == (best.method, BASELINE)), None)
    if gain is not None:
        text += f", {mean_and_interval(gain.interval, sign='+')} points against {_escaped(BASELINE)}"
    undecided = [found for found in differences if found.other == BASELINE and found.verdict == "undecided"]
    if undecided:
        text += (
            f". By their intervals these cannot be told from {_escaped(BASELINE)}: "
            f"{'; '.join(_escaped(found.method) for found in undecided)}"
        )
    return text + "."


def _cost_sentence(members: Sequence[Standing]) -> str:
    parts = []
    for what, unit, seconds_of in (
        ("train", "s", lambda one: np.mean(one.training_s)),
        ("apply to a new image", "ms", lambda one: 1000 * one.image_s),
    ):
        low, high = (choose(members, key=seconds_of) for choose in (min, max))
        parts.append(
            f"cheapest to {what} is {low.title} ({_number(seconds_of(low))} {unit}), the most expensive "
            f"{high.title} ({_number(seconds_of(high))} {unit})"
        )
    return f"**Cost.** The {'; the '.join(parts)}."


def _front_sentence(members: Sequence[Standing]) -> str:
    beaten = {one.method: [other for other in members if other.beats(one)] for one in members}
    front = [one.title for one in members if not beaten[one.method]]
    text = (
        "**Worth its price.** No other method is at once as good, as cheap to train and as fast as one of these: "
        f"{'; '.join(front)}"
    )
    losers = [
        f"{one.title} (by {'; '.join(other.title for other in beaten[one.method])})"
        for one in members
        if beaten[one.method]
    ]
    return f"{text}. No better in any of the three, by their means: {'; '.join(losers)}." if losers else f"{text}."


def _pair_sentence(found: PairedDifference, mine: Standing, exact: Standing, class_names: Sequence[str]) -> str:
    (training, image), (exact_training, exact_image) = _costs(mine, exact)
    gains = np.array(found.class_gains)
    most, least = (class_names[int(choose(gains))] for choose in (np.nanargmax, np.nanargmin))
    return (
        f"**{mine.title} against {exact.title}.** {mean_and_interval(found.interval, sign='+')} points of mIoU; the "
        f"interval {found.interval.says_of(0)}. Higher in {cases_won(found.gains)} seeds and {cases_won(gains)} "
        f"classes (from {100 * np.nanmin(gains):+.1f} for {least} to {100 * np.nanmax(gains):+.1f} for {most}). "
        f"Training {_number(training)} s against {_number(exact_training)} s, a new image {_number(1000 * image)} ms "
        f"against {_number(1000 * exact_image)} ms: {_total_cost(mine, exact)}."
    )


def _total_cost(mine: Standing, other: Standing) -> str:
    (training, image), (other_training, other_image) = _costs(mine, other)
    images = break_even(mine, other)
    if images is None:
        cheaper = training <= other_training and image <= other_image
        return f"{'cheaper' if cheaper else 'more expensive'} for any number of images"
    if training > other_training:
        return f"the more expensive training is paid back after {_number(math.ceil(images))} new images"
    return f"cheaper up to {_number(math.floor(images))} new images, more expensive beyond"


def _costs(*members: Standing) -> tuple[tuple[float, float], ...]:
    return tuple(one.costs_and_score()[:2] for one in members)


def _by_method(rows: pd.DataFrame) -> list[tuple[Method, pd.DataFrame]]:
    return list(in_order(rows, "seed").groupby("method", sort=False))


def in_order(found: pd.DataFrame, *then: str) -> pd.DataFrame:
    """The rows by method, in the order of tables, and those of a method by the columns ``then``."""
    place = found["method"].map(list(REGISTRY).index)
    return found.assign(place=place).sort_values(["place", *then], kind="stable").drop(columns="place")


def gains_on_baseline(found: pd.DataFrame, within: Sequence[str]) -> pd.DataFrame:
    """The rows, with what each has in mIoU on K-means as column ``gain``, a fraction.

    Args:
        found: Rows of columns ``method``, ``mean_iou`` and those of ``within``, of one matching.
        within: Columns that a row shares with the row of K-means that it is compared with.

    Raises:
        InputError: If K-means was not run.
    """
    if BASELINE not in set(found["method"]):
        raise InputError(f"gains are on {BASELINE}, which was not run; name it among the methods")
    reference = found[found["method"] == BASELINE].set_index(list(within))["mean_iou"]
    pairs = pd.MultiIndex.from_frame(found[list(within)])
    return found.assign(gain=found["mean_iou"].to_numpy() - reference.loc[pairs].to_numpy())


def experiment_ids(rows: pd.DataFrame, method: Method) -> list[str]:
    """Ids of the experiments of rows of ``results.csv`` in which a method was run, by seed."""
    return list(dict.fromkeys(rows[rows["method"] == method].sort_values("seed")["experiment_id"]))


def _escaped(method: Method) -> str:
    return markdown(method_title(method))


def _number(value: float) -> str:
    """Three significant digits; whole numbers from a hundred on."""
    if math.isnan(value):
        return NOT_MEASURED
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"
