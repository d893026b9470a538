"""What each part of "Ours+" adds, on training images that took no part in a fit (notebook 35).

Every fourth image of a ``train`` split is held out; psi and K-means are fitted to the others, and the parts are judged
on the held-out ones by their labels. This is how the settings of :mod:`neuralef.ours_plus` were chosen, on CamVid; no
image of any ``val`` split is opened here. Where the dataset cannot be had, all of it is said to be ``not run``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from neuralef.clustering import ClusterHead, fit_hidden_kmeans
from neuralef.comparison import PREPARATIONS
from neuralef.config import load_profile
from neuralef.errors import InputError
from neuralef.evaluation import image_counts, score
from neuralef.features import FeatureStore, shifted_levels, to_tensor
from neuralef.ours_plus import fit_feature_plus, fit_plus
from neuralef.reporting import METHOD_TITLES, cases_won, mean_and_spread
from neuralef.segmentation import cluster_map
from neuralef.studies import Study, described, open_studies
from neuralef.table_study import NOT_RUN
from neuralef.upsampling import guided_map
from neuralef.workbench import Workbench

NOTHING = {"views": 1, "temperature": None, "guide": None}
"""Fields of :class:`neuralef.ours_plus.PartsHead` that leave K-means on angles alone."""

PARTS = {"views": "views", "diffusion": "temperature", "guide": "guide"}
"""The parts that act on single images, by the field of each; ``angles`` is the K-means they act on."""

REFERENCE = "Ours*"

AIM = 8
"""Points of mIoU above K-means that this project set itself for Ours+, from what label gradients had reached."""

KMEANS = "K-means, centred, best of five"
CONTROL = METHOD_TITLES["kmeans_plus"]

CANDIDATES = (
    REFERENCE,
    "angles",
    *(f"angles and {part}" for part in PARTS),
    "Ours+",
    *(f"Ours+ without {part}" for part in PARTS),
    KMEANS,
    CONTROL,
)
"""What :func:`heads` fits, in its order."""


@dataclass(frozen=True)
class Tuning:
    """The dataset whose training images judge the parts.

    Attributes:
        dataset: Name of the dataset.
        study: Study of the dataset at the profile's settings; ``None`` where it cannot be had.
        description: Line as :meth:`neuralef.studies.Study.describe` gives it; where the dataset cannot be had, with
            the reason.
        absence: ``not run: <reason>`` where the dataset cannot be had, else empty.
    """

    dataset: str
    study: Study | None
    description: str
    absence: str = ""

    @property
    def bench(self) -> Workbench | None:
        """Its dataset, backbone and features, if it can be had."""
        return self.study.bench if self.study else None


def open_tuning(profile_name: str, dataset: str, *, progress: bool = True) -> Tuning:
    """The dataset that judges the parts; where the profile's own has given way to its fallback, that does not count.

    Raises:
        InputError: If the profile or the dataset is unknown.
    """
    profile = load_profile(profile_name)
    studies = open_studies(profile_name, list(dict.fromkeys([profile.dataset, dataset])), progress=progress)
    found = {study.dataset_name: study for study in studies.members}.get(dataset)
    if found:
        return Tuning(dataset, found, found.describe())
    absence = f"{NOT_RUN}: {dataset} is not here and could not be fetched"
    return Tuning(dataset, None, f"{described(profile, f'dataset {dataset}')}; {absence}", absence)


@dataclass(frozen=True)
class HeldOut:
    """A training split in two.

    Attributes:
        fitted: Features that psi and K-means see.
        judged: Features of the images held out.
    """

    fitted: FeatureStore
    judged: FeatureStore


def hold_out(store: FeatureStore, *, every: int = 4, images: int = 100) -> HeldOut:
    """Hold out every ``every``-th image, of which at most ``images`` at even distances are judged.

    Raises:
        InputError: If nothing is left on one side.
    """
    if every < 2 or len(store) < 2:
        raise InputError(f"every is {every}; it must be 2 or more, and so must the number of images, {len(store)} here")
    if images < 1:
        raise InputError(f"{images} held-out images were asked for; judge at least one")
    numbers = np.arange(len(store))
    apart = numbers[numbers % every == 0]
    if len(apart) > images:
        apart = apart[np.arange(images) * len(apart) // images]
    return HeldOut(
        store.chosen(numbers[numbers % every != 0], f"without-every-{every}"),
        store.chosen(apart, f"{len(apart)}-of-every-{every}"),
    )


def heads(bench: Workbench, split: HeldOut, clusters: int, seed: int) -> dict[str, ClusterHead]:
    """ "Ours*", its parts one by one, "Ours+", "Ours+" without each; then K-means without psi, with no parts and all.

    psi comes from the cache if it is there.
    """
    config, psi = bench.config, bench.training(clusters, seed, part=split.fitted).psi
    fit = {"num_clusters": clusters, "seed": seed, "progress": bench.progress}
    whole = fit_plus(split.fitted, psi, config, **fit)
    found = {REFERENCE: fit_hidden_kmeans(split.fitted, psi, config, **fit), "angles": replace(whole, **NOTHING)}
    for part, name in PARTS.items():
        found[f"angles and {part}"] = replace(whole, **NOTHING | {name: getattr(whole, name)})
    found["Ours+"] = whole
    for part, name in PARTS.items():
        found[f"Ours+ without {part}"] = replace(whole, **{name: NOTHING[name]})
    control = fit_feature_plus(split.fitted, config, **fit)
    return found | {KMEANS: replace(control, **NOTHING), CONTROL: control}


def judge(bench: Workbench, judged: FeatureStore, candidates: Mapping[str, ClusterHead]) -> pd.DataFrame:
    """Score heads on the held-out images, features of shifted views being computed once for all of them.

    Returns:
        Scores by candidate: ``mean_iou`` and ``accuracy`` under ``max_iou``, fractions, and ``image_ms``, median
        milliseconds from features to clusters; passes of the backbone are not among them.
    """
    classes = len(bench.dataset.classes)
    totals = {name: np.zeros((head.num_clusters, classes), dtype=np.int64) for name, head in candidates.items()}
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for index in tqdm(range(len(judged)), desc="held-out images", unit="image", disable=not bench.progress):
        label = bench.label(judged.ids[index])
        for name, clusters in maps(bench, judged, index, candidates, taken).items():
            totals[name] += image_counts(clusters, label, *totals[name].shape)
    scores = {name: score(counts, "max_iou") for name, counts in totals.items()}
    return pd.DataFrame(
        {
            "mean_iou": {name: of.mean_iou for name, of in scores.items()},
            "accuracy": {name: of.accuracy for name, of in scores.items()},
            "image_ms": {name: 1000 * float(np.median(times)) for name, times in taken.items()},
        }
    )


def maps(
    bench: Workbench,
    store: FeatureStore,
    index: int,
    candidates: Mapping[str, ClusterHead],
    taken: Mapping[str, list[float]] | None = None,
) -> dict[str, np.ndarray]:
    """Cluster maps of one image of a store, ``(H, W)``, by candidate.

    Args:
        bench: Workbench that gives the image, and features of its shifted views where a head wants them.
        store: Features of the images as they are.
        index: Position of the image in the store.
        candidates: Heads by name.
        taken: Lists by candidate that the seconds from features to clusters are added to.
    """
    crop, levels = bench.image(store.ids[index]), {1: store.levels(slice(index, index + 1))}
    for views in {head.views for head in candidates.values()} - {1}:
        levels[views] = shifted_levels(bench.backbone, to_tensor(crop[None]), views, bench.config.precision)
    found = {}
    for name, head in candidates.items():
        began = perf_counter()
        logits = head.logits(levels[head.views])[0]
        found[name] = guided_map(logits, crop, head.guide) if head.guide else cluster_map(logits, crop.shape[:2])
        if taken is not None:
            taken[name].append(perf_counter() - began)
    return found


def ablation(bench: Workbench | None, clusters: int, seeds: Sequence[int], *, every: int, images: int) -> pd.DataFrame:
    """:func:`judge` for every seed; columns ``part``, ``seed``, and the scores. No rows where there is no bench."""
    if bench is None:
        return pd.DataFrame(columns=["part", "seed", "mean_iou", "accuracy", "image_ms"])
    split = hold_out(bench.train, every=every, images=images)
    rows = [
        judge(bench, split.judged, heads(bench, split, clusters, seed))
        .rename_axis("part")
        .reset_index()
        .assign(seed=seed)
        for seed in seeds
    ]
    return pd.concat(rows, ignore_index=True)


def examples(
    bench: Workbench | None, chosen: Sequence[str], clusters: int, seed: int, *, every: int, images: int, shown: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Held-out images at even distances, each with its cluster maps; none where there is no bench.

    Args:
        bench: Workbench with dataset, backbone and features; ``None``: there is none.
        chosen: Candidates to show, of :data:`CANDIDATES`.
        clusters: Number of clusters, K.
        seed: Seed of the fits.
        every: Distance between images held out, see :func:`hold_out`.
        images: Number of held-out images that are judged at most, see :func:`hold_out`.
        shown: Number of judged images to show at most.

    Yields:
        The image as it is evaluated, uint8 ``(H, W, 3)``, and its maps ``(H, W)`` by candidate.
    """
    if bench is None:
        return
    split = hold_out(bench.train, every=every, images=images)
    judged, fitted = split.judged, heads(bench, split, clusters, seed)
    shown = min(shown, len(judged))
    for index in np.arange(shown) * len(judged) // shown:
        yield bench.image(judged.ids[index]), maps(bench, judged, index, {name: fitted[name] for name in chosen})


def gains(rows: pd.DataFrame) -> pd.DataFrame:
    """Points of mIoU of each part over :data:`REFERENCE`, paired by seed.

    Returns:
        Gains by part: ``mean_iou``, mean in percent; ``gain``, mean in points; ``spread``, standard deviation of the
        gain over seeds (NaN for one); ``wins``, seeds that gain; and mean ``image_ms``.
    """
    gained = gains_by_seed(rows)
    scores = 100 * rows.groupby("part")["mean_iou"].mean()
    return pd.DataFrame(
        {
            "mean_iou": scores,
            "gain": gained.mean(axis=1),
            "spread": gained.std(axis=1, ddof=1),
            "wins": (gained > 0).sum(axis=1),
            "image_ms": rows.groupby("part")["image_ms"].mean(),
        }
    ).loc[gained.index]


def gains_by_seed(rows: pd.DataFrame) -> pd.DataFrame:
    """Points of mIoU over :data:`REFERENCE`, parts in rows, in the order of ``rows``, and seeds in columns."""
    scores = 100 * rows.pivot(index="part", columns="seed", values="mean_iou").loc[list(dict.fromkeys(rows["part"]))]
    return scores - scores.loc[REFERENCE]


def parts_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The ablation as a table, strings ready to print; without rows every number is ``not run``."""
    columns = ["mIoU, %", "gain, points", "seeds that gain", "ms an image"]
    if rows.empty:
        return pd.DataFrame({"part": CANDIDATES, **dict.fromkeys(columns, NOT_RUN)})
    parts, by_seed = gains(rows), gains_by_seed(rows)
    cells = [
        parts["mean_iou"].map("{:.1f}".format),
        [mean_and_spread(of.to_numpy() / 100) for _, of in by_seed.iterrows()],
        [f"{wins} of {by_seed.shape[1]}" for wins in parts["wins"]],
        parts["image_ms"].map("{:.0f}".format),
    ]
    return pd.DataFrame(dict(zip(columns, cells, strict=True)), index=parts.index).rename_axis("part").reset_index()


def parts_sentence(rows: pd.DataFrame) -> str:
    """What the parts are worth together, alone, and to the whole, in Markdown; points of mIoU."""
    parts = gains(rows)
    gain = parts["gain"]
    alone = [f"{part} {gain[f'angles and {part}']:+.1f}" for part in PARTS]
    by_seed = gains_by_seed(rows)
    lost = [f"{part} {_change(by_seed.loc['Ours+'] - by_seed.loc[f'Ours+ without {part}'])}" for part in PARTS]
    return (
        f"together the parts change Ours\\* by **{gain['Ours+']:+.1f} points** (better in {parts.loc['Ours+', 'wins']} "
        f"of {rows['seed'].nunique()} seeds). Angles alone: {gain['angles']:+.1f}; angles and one part more: "
        f"{', '.join(alone)}. What each adds to the rest: {', '.join(lost)}. Without $\\psi$, "
        f"K-means on centred features stands at {gain[KMEANS]:+.1f}, and with all parts at {gain[CONTROL]:+.1f}: what "
        f"$\\psi$ is worth beside the same parts is {gain['Ours+'] - gain[CONTROL]:+.1f}."
    )


def _change(points: pd.Series) -> str:
    return f"{mean_and_spread(points.to_numpy() / 100, sign='+')} (higher in {cases_won(points)} seeds)"


@dataclass(frozen=True)
class Aims:
    """The aims of Ours+ on one dataset; scores are means over seeds under ``max_iou``, in percent.

    Attributes:
        plus: mIoU of Ours+.
        kmeans: mIoU of K-means on the features as they are.
        best_kmeans: mIoU of the best K-means, of any preparation of the features, and its method.
        parts_alone: mIoU of K-means with the parts of Ours+ and no psi.
        spectral: mIoU of the exact spectral baseline.
        wins: Number of seeds in which Ours+ is above every K-means without its parts.
        seeds: Number of all seeds.
        over_star: What Ours+ gains on Ours*, points by seed.
    """

    plus: float
    kmeans: float
    best_kmeans: tuple[float, str]
    parts_alone: float
    spectral: float
    wins: int
    seeds: int
    over_star: tuple[float, ...]

    def sentence(self, dataset: str) -> str:
        """What Ours+ gains on Ours*, then the three aims and whether each is met, in Markdown."""
        gain, best = self.plus - self.kmeans, self.best_kmeans
        return (
            f"**{dataset}**: Ours+ {self.plus:.1f}. Against Ours\\*: {_change(pd.Series(self.over_star))}. "
            f"K-means + {AIM} would be {self.kmeans + AIM:.1f}: "
            f"{'reached' if gain >= AIM else f'missed by {AIM - gain:.1f}'} ({gain:+.1f}). The best K-means, "
            f"`{best[1]}`, has {best[0]:.1f}: {'above it' if self.plus > best[0] else 'not above it'} in the mean; "
            f"above every K-means without its parts in {self.wins} of {self.seeds} seeds. The exact spectral baseline "
            f"has {self.spectral:.1f}: {_above(self.plus, self.spectral)}. The same parts on K-means, "
            f"without $\\psi$, have {self.parts_alone:.1f}: {_above(self.plus, self.parts_alone)}."
        )


def _above(score: float, other: float) -> str:
    return f"{'above' if score >= other else 'below'} it by {abs(score - other):.1f}"


def aims(scores: pd.DataFrame) -> Aims:
    """The aims by the mIoU of one dataset, in percent, methods in rows and seeds in columns."""
    means, prepared = scores.mean(axis=1), [name for name in PREPARATIONS if name in scores.index]
    best = means[prepared].idxmax()
    return Aims(
        plus=means["ours_plus"],
        kmeans=means["kmeans"],
        best_kmeans=(means[best], best),
        parts_alone=means["kmeans_plus"],
        spectral=means["spectral"],
        wins=int((scores.loc["ours_plus"] > scores.loc[prepared].max()).sum()),
        seeds=scores.shape[1],
        over_star=tuple(scores.loc["ours_plus"] - scores.loc["ours_star"]),
    )
