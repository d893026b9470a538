"""What scores on frames of a film can say: drives left out, and frames drawn in blocks (notebook 37).

CamVid's frames come from a few drives, and the ``val`` split of the SegNet tutorial is one clip of seconds. Two things
follow, and both are measured here:

- neighbouring frames show the same street, so that an interval which draws frames one by one, as for photographs, is
  too narrow: :func:`intervals` draws blocks of them as well, and :func:`effective_sample_size` says how many frames
  there would be if each told something new;
- what holds on one street may not hold on another: :func:`run` leaves out one drive of ``train`` at a time, fits every
  method to the others, and scores it on the drive left out.

Labels are read to score, and to say how alike frames are; nothing is fitted or chosen by them. Where the dataset cannot
be had there is no workbench, and nothing is found.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from neuralef import provenance
from neuralef.clustering import ClusterHead, Method
from neuralef.comparison import (
    BASELINE,
    PLUS,
    PREPARATIONS,
    RELATIVES,
    compare,
    experiment_ids,
    gains_on_baseline,
    in_order,
)
from neuralef.datasets.base import IGNORE_LABEL
from neuralef.errors import InputError
from neuralef.evaluation import image_counts
from neuralef.experiments import read_image_tables, require_labels
from neuralef.features import FeatureStore, extract
from neuralef.intervals import student_interval
from neuralef.methods import check_methods
from neuralef.photographs_study import COLUMNS as PART_COLUMNS
from neuralef.photographs_study import fitted_to, scored
from neuralef.reporting import cases_won, mean_and_interval, mean_and_spread, mean_and_wins, method_title
from neuralef.results import append_rows, check_columns, read_rows
from neuralef.segmentation import segment_store
from neuralef.table_study import image_accuracies
from neuralef.workbench import Experiment, Workbench

FILE = "drives.csv"
COLUMNS = ("part_id", "drive", *PART_COLUMNS[1:])
KEY = ("part_id", "method", "matching")

FRAME_RATE = 30
"""Frames a second of CamVid's films, which the numbers in its ids count (Brostow, Fauqueur and Cipolla, 2009)."""

THIRDS = 3
"""Parts, of frames in a row, that a set of a single drive is left out in."""

VAL = "val"
"""Name of the ``val`` split beside those of the drives."""

MEAN = "mean of drives"

_FRAME = re.compile(r"(?P<drive>.+)[_-]f?(?P<number>\d+)")


def frame_of(image_id: str) -> tuple[str, int]:
    """Drive and number of a frame: ``0016E5_07959`` is number 7959 of ``0016E5``.

    Raises:
        InputError: If the id does not end in a number.
    """
    found = _FRAME.fullmatch(image_id)
    if not found:
        raise InputError(f"image {image_id!r} names no drive and frame; ids must be like '0016E5_07959'")
    return found["drive"], int(found["number"])


def drives(ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Positions of the frames of each drive, in the order of their numbers; of a single one, those of its thirds.

    Raises:
        InputError: If an id names no frame, or there are too few to part.
    """
    frames = [frame_of(image_id) for image_id in ids]
    order = sorted(range(len(frames)), key=frames.__getitem__)
    found: dict[str, list[int]] = {}
    for position in order:
        found.setdefault(frames[position][0], []).append(position)
    if len(found) > 1:
        return {drive: np.array(positions) for drive, positions in found.items()}
    if len(ids) < THIRDS:
        raise InputError(f"there are {len(ids)} frames of one drive; it takes {THIRDS} to leave some out in turn")
    (drive,) = found
    return {f"{drive}, {n} of {THIRDS}": part for n, part in enumerate(np.array_split(order, THIRDS), start=1)}


CLIPS = ("split", "drive", "frames", "first", "last", "seconds", "apart", "alike")


def clips(bench: Workbench | None) -> pd.DataFrame:
    """Where and when the frames of each split were taken.

    Returns:
        A row for each split and drive, columns :data:`CLIPS`: number of frames, numbers of the first and the last,
        seconds between these two, ``apart``, median seconds between neighbours (NaN for one frame), and ``alike``,
        share of the pixels labelled in a frame and in the next that have the same class in both, mean over pairs.
    """
    if bench is None:
        return pd.DataFrame(columns=CLIPS)
    rows = []
    for split in ("train", "val"):
        ids = bench.dataset.ids(split)
        frames = [(*frame_of(image_id), image_id) for image_id in ids]
        of_split = pd.DataFrame(frames, columns=["drive", "number", "id"]).sort_values("number")
        for drive, of in of_split.groupby("drive"):
            first, last = of["number"].iloc[[0, -1]]
            seconds, apart = (last - first) / FRAME_RATE, of["number"].diff().median() / FRAME_RATE
            rows.append((split, drive, len(of), first, last, seconds, apart, _alike(bench, of["id"])))
    return pd.DataFrame(rows, columns=CLIPS)


def _alike(bench: Workbench, ids: Sequence[str]) -> float:
    shares = []
    for before, after in pairwise(bench.label(image_id) for image_id in ids):
        labelled = (before != IGNORE_LABEL) & (after != IGNORE_LABEL)
        if labelled.any():
            shares.append(np.mean(before[labelled] == after[labelled]))
    return float(np.mean(shares)) if shares else float("nan")


def clip_table(found: pd.DataFrame) -> pd.DataFrame:
    """:func:`clips` as strings ready to print."""
    return pd.DataFrame(
        {
            "split": found["split"],
            "drive": found["drive"],
            "frames": found["frames"].astype(str),
            "first": found["first"].astype(str),
            "last": found["last"].astype(str),
            "seconds, first to last": _printed(found["seconds"], "{:.1f}"),
            "seconds between neighbours": _printed(found["apart"], "{:.2f}"),
            "same class in the next frame": _printed(100 * found["alike"], "{:.0f} %"),
        }
    )


def _printed(values: pd.Series, form: str) -> pd.Series:
    return values.map(lambda value: "not known" if pd.isna(value) else form.format(value))


def figure_frames(bench: Workbench | None) -> pd.DataFrame:
    """What :func:`neuralef.plots.frame_times` draws: ``split``, ``drive`` and ``seconds`` of every frame."""
    splits = {split: bench.dataset.ids(split) for split in ("train", "val")} if bench else {}
    frames = [(split, *frame_of(image_id)) for split, ids in splits.items() for image_id in ids]
    found = pd.DataFrame(frames, columns=["split", "drive", "number"])
    return found.assign(seconds=found["number"] / FRAME_RATE).sort_values(["drive", "seconds"])


def examples(bench: Workbench | None, shown: int) -> Iterator[tuple[str, str, np.ndarray]]:
    """Frames at even distances, as they are evaluated: those of ``val``, then those of ``train``.

    Args:
        bench: Workbench with the dataset; ``None``: there is none, and no frame.
        shown: Number of frames of each split, the first and the last among them; all where there are no more.

    Yields:
        Split, id, and image, uint8 ``(H, W, 3)``.
    """
    for split in ("val", "train") if bench else ():
        ids = bench.dataset.ids(split)
        for position in np.linspace(0, len(ids) - 1, min(shown, len(ids))).round().astype(int):
            yield split, ids[position], bench.image(ids[position])


def effective_sample_size(values: np.ndarray) -> float:
    r"""Number of independent values whose mean is as uncertain as that of a series.

    :math:`N / (1 + 2 \sum_k \rho_k)` with the autocorrelations :math:`\rho_k`, up to the first that is not positive
    (Geyer, 1992, has the idea of stopping there); N where all values are equal.

    Args:
        values: Series of N values in the order of time, at least two.
    """
    centred = np.asarray(values, dtype=float) - np.mean(values)
    variance = np.mean(centred**2)
    if not variance:
        return float(len(centred))
    total = 0.0
    for lag in range(1, len(centred)):
        correlation = np.sum(centred[:-lag] * centred[lag:]) / len(centred) / variance
        if correlation <= 0:
            break
        total += correlation
    return len(centred) / (1 + 2 * total)


def accuracy_gains(rows: pd.DataFrame, out: Path, method: Method) -> np.ndarray:
    """Accuracy of each image minus that of K-means, mean over runs, clusters matched over all images.

    Args:
        rows: Rows of ``results.csv``, of one dataset and setting.
        out: Results folder, with the counts of every image.
        method: Method whose accuracies are taken.

    Returns:
        Gain of each image that has a labelled pixel, shape ``(N,)``.
    """
    by_method = []
    for name in (method, BASELINE):
        runs = [read_image_tables(out, one, name) for one in experiment_ids(rows, name)]
        by_method.append(np.mean([image_accuracies(run) for run in runs], axis=0))
    gains = by_method[0] - by_method[1]
    return gains[np.isfinite(gains)]


def intervals(
    rows: pd.DataFrame, out: Path, methods: Sequence[Method], blocks: Sequence[int], *, draws: int = 1000
) -> pd.DataFrame:
    """Difference of each method to K-means in mIoU with its 95 % interval, frames drawn in blocks of several lengths.

    Args:
        rows: Rows of ``results.csv``, of one dataset and setting.
        out: Results folder, with the counts of every image.
        methods: Methods to compare; K-means itself is passed over.
        blocks: Numbers of frames that are drawn together; 1: one by one.
        draws: Number of bootstrap resamples.

    Returns:
        Strings ready to print: a row for each method, a column for each length of the blocks, and the number of frames
        and the :func:`effective_sample_size` of its gain in accuracy on K-means.

    Raises:
        InputError: If a block is longer than there are frames, or below 1.
    """
    images = int(rows["images"].min()) if len(rows) else 0
    if images and not all(1 <= block <= images for block in blocks):
        raise InputError(f"blocks are {list(blocks)}; of {images} frames 1 to {images} can be drawn together")
    table = []
    for method in [method for method in methods if method != BASELINE and images]:
        found = [compare(rows, out, method, BASELINE, draws=draws, block=block) for block in blocks]
        gains = accuracy_gains(rows, out, method)
        table.append(
            {
                "method": method_title(method),
                "frames": str(len(gains)),
                "effective sample size": f"{effective_sample_size(gains):.0f}",
                **{
                    f"in blocks of {block}" if block > 1 else "one by one": mean_and_interval(one.interval, sign="+")
                    for block, one in zip(blocks, found, strict=True)
                },
            }
        )
    return pd.DataFrame(table)


def run(bench: Workbench | None, experiments: Sequence[Experiment], methods: Sequence[str], path: Path) -> pd.DataFrame:
    """Fit every method to all drives but one and score it on that; a row that the file holds is not computed again.

    Args:
        bench: Workbench with dataset, backbone and features; ``None``: there is none, and no row.
        experiments: Experiments of the dataset that differ in their seed alone.
        methods: Methods to fit, of :data:`neuralef.methods.REGISTRY`.
        path: CSV file of :data:`COLUMNS` that keeps the rows.

    Returns:
        The rows of these methods and seeds, new or already there.

    Raises:
        InputError: If a method or the file cannot be used, there is no seed, the ids name no drives, the protocol is
            not that of square crops without a CRF, or what is left is too small for psi's batches.
    """
    check_methods(methods)
    if bench is None:
        return pd.DataFrame(columns=COLUMNS)
    if not experiments:
        raise InputError("there is no seed to run; name some that the profile has")
    config = experiments[0].config
    if (config.protocol, config.crf) != ("crop320", "none"):
        raise InputError(
            f"protocol is {config.protocol} and crf {config.crf}; drives are scored by crop320 without a CRF"
        )
    check_columns(path, COLUMNS)
    parts = drives(bench.dataset.ids("train"))
    evaluated = _Evaluated(bench)
    wanted: list[str] = []
    fits = len(experiments) * len(parts) * len(methods)
    with tqdm(total=fits, desc="drives left out", unit="fit", disable=not bench.progress) as bar:
        for experiment, (drive, judged) in product(experiments, parts.items()):
            bar.set_postfix(drive=drive, seed=experiment.seed, refresh=False)
            part_id = _part_id(bench, experiment, drive, judged)
            wanted.append(part_id)
            done = set(_read(path).query("part_id == @part_id")["method"])
            missing = [method for method in methods if method not in done]
            bar.update(len(methods) - len(missing))
            if missing:
                others = np.setdiff1d(np.arange(len(bench.train)), judged)
                store = bench.train.chosen(others, f"without-{drive}")
            for method in missing:
                rows = _rows(evaluated, experiment, store, judged, method)
                append_rows(
                    path, [{"part_id": part_id, "drive": drive, **row} for row in rows], columns=COLUMNS, key=KEY
                )
                bar.update()
    rows = _read(path)
    return rows[rows["part_id"].isin(wanted) & rows["method"].isin(methods)].reset_index(drop=True)


def _read(path: Path) -> pd.DataFrame:
    return read_rows(path, COLUMNS, text=("part_id", "drive", "git_sha"))


def _part_id(bench: Workbench, experiment: Experiment, drive: str, judged: np.ndarray) -> str:
    whole = bench.experiment_id(experiment.clusters, experiment.seed, experiment.config)
    return provenance.digest(whole, bench.dataset.label_fingerprint("train"), drive, judged.tolist())


class _Evaluated:
    """Features of the frames of ``train`` as heads want them; those of shifted views are opened once."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self._stores: dict[int, FeatureStore] = {}

    def features(self, head: ClusterHead) -> FeatureStore:
        """Of all frames: the ``train`` features, or those of shifted views."""
        bench, views = self.bench, head.views
        if views == 1:
            return bench.train
        if views not in self._stores:
            self._stores[views] = extract(
                bench.dataset, "train", bench.backbone, bench.config, views=views, progress=bench.progress
            )
        return self._stores[views]

    def counts(self, head: ClusterHead, judged: np.ndarray, title: str) -> np.ndarray:
        """Pixels by cluster and class of the frames at some positions, shape ``(K, C)``."""
        bench, store = self.bench, self.features(head).chosen(judged, "judged")
        counts = np.zeros((head.num_clusters, len(bench.dataset.classes)), dtype=np.int64)
        maps = segment_store(head, store, bench.image)
        for image_id, clusters in tqdm(maps, total=len(store), desc=title, unit="image", disable=not bench.progress):
            counts += image_counts(clusters, bench.label(image_id), *counts.shape)
        require_labels(bench.dataset, counts.sum(axis=0))
        return counts


def _rows(
    evaluated: _Evaluated, experiment: Experiment, store: FeatureStore, judged: np.ndarray, method: str
) -> Iterator[dict[str, Any]]:
    head, seconds = fitted_to(store, evaluated.bench, experiment, method)
    extract_s = evaluated.bench.train.extract_s
    if head.views > 1:
        extract_s += evaluated.features(head).extract_s
    began = perf_counter()
    counts = evaluated.counts(head, judged, f"evaluating {method}")
    seconds |= {"extract_s": extract_s, "eval_s": perf_counter() - began}
    return scored(counts, experiment, store, method, head, seconds, split="train", images=len(judged))


def beside_val(rows: pd.DataFrame, val_rows: pd.DataFrame) -> pd.DataFrame:
    """Scores under ``max_iou`` on ``val`` and on every drive: columns of :data:`CASES`, methods in the order of tables.

    Args:
        rows: Rows of :func:`run`.
        val_rows: Rows of ``results.csv`` of the same dataset, methods and seeds, fitted to all of ``train``.

    Raises:
        InputError: If K-means was not run.
    """
    if rows.empty:
        return pd.DataFrame(columns=CASES)
    found = pd.concat([val_rows.assign(drive=VAL), rows])[["drive", "matching", *CASES[1:-1]]]
    found = found[found["matching"] == "max_iou"].drop(columns="matching")
    return gains_on_baseline(in_order(found, "seed"), ["drive", "seed"]).reset_index(drop=True)


CASES = ("drive", "method", "seed", "mean_iou", "gain")
"""Columns of :func:`beside_val`; ``gain`` is in mIoU on K-means of the same drive and seed, all of them fractions."""


def score_table(found: pd.DataFrame) -> pd.DataFrame:
    """mIoU, percent over seeds: a row for each method; columns for ``val``, each drive left out, and their mean."""
    return _table(found, "mean_iou", mean_and_spread)


def gain_table(found: pd.DataFrame) -> pd.DataFrame:
    """Gain on K-means in points, and in how many seeds it is positive: rows and columns as of :func:`score_table`."""
    others = found[found["method"] != BASELINE]
    return _table(others, "gain", mean_and_wins).rename(columns={"method": f"method, against {method_title(BASELINE)}"})


def _table(found: pd.DataFrame, column: str, cell: Callable[[Sequence[float]], str]) -> pd.DataFrame:
    if found.empty:
        return pd.DataFrame(columns=["method"])
    cells = _with_means(found).groupby(["method", "drive"], sort=False)[column].agg(lambda values: cell(list(values)))
    table = cells.unstack().loc[list(dict.fromkeys(found["method"])), _order(found)]
    table.index = [method_title(method) for method in table.index]
    return table.rename_axis(columns=None).rename_axis("method").reset_index()


def _with_means(found: pd.DataFrame) -> pd.DataFrame:
    """The cases, and those of :data:`MEAN`: what each method has in the mean of the drives, seed by seed."""
    of_drives = found[found["drive"] != VAL].groupby(["method", "seed"], sort=False)
    return pd.concat([found, of_drives[["mean_iou", "gain"]].mean().reset_index().assign(drive=MEAN)])


def _order(found: pd.DataFrame) -> list[str]:
    return [VAL, *sorted(set(found["drive"]) - {VAL}), MEAN]


def figure_gains(found: pd.DataFrame) -> pd.DataFrame:
    """What :func:`neuralef.plots.seed_strips` draws: every gain, a panel for ``val``, each drive, and their mean."""
    if found.empty:
        return pd.DataFrame(columns=["panel", "method", "value"])
    others = _with_means(found[found["method"] != BASELINE])
    others = others.sort_values("drive", key=lambda names: names.map(_order(found).index), kind="stable")
    titles = others["method"].map(method_title)
    return pd.DataFrame({"panel": others["drive"], "method": titles, "value": others["gain"]})


def sentences(found: pd.DataFrame) -> list[str]:
    """What the numbers say: gains on K-means on ``val`` and on drives left out, and where Ours+ stands.

    Intervals are of 95 %, by Student's t over seeds: what other streets would give is not in them.
    """
    if found.empty:
        return []
    scores = found.pivot(index=["drive", "seed"], columns="method", values="mean_iou")
    methods = list(dict.fromkeys(found["method"]))
    said = [_against(scores, method, BASELINE) for method in methods if method != BASELINE]
    if PLUS in methods:
        said += [_against(scores, PLUS, other) for other in RELATIVES if other in methods]
        said.append(_above_every_kmeans(scores, PLUS))
    return said


def _against(scores: pd.DataFrame, method: Method, other: Method) -> str:
    gains = scores[method] - scores[other]
    left_out = gains.drop(index=VAL, level="drive")
    by_seed, by_drive = (left_out.groupby(level).mean() for level in ("seed", "drive"))
    on_val, on_drives = student_interval(gains.loc[VAL]), student_interval(by_seed)
    return (
        f"{method_title(method)} against {method_title(other)}: {mean_and_interval(on_val, sign='+')} points on val, "
        f"{mean_and_interval(on_drives, sign='+')} in the mean of the drives left out, where the interval "
        f"{on_drives.says_of(0)}; higher in {cases_won(left_out)} pairs of drive and seed, and in the mean of "
        f"{cases_won(by_drive)} drives."
    )


def _above_every_kmeans(scores: pd.DataFrame, method: Method) -> str:
    best = scores[[name for name in PREPARATIONS if name in scores]].max(axis=1)
    ahead, left_out = scores[method] - best, sorted(set(scores.index.get_level_values("drive")) - {VAL})
    where = [f"{cases_won(ahead.loc[VAL])} seeds on {VAL}"]
    where += [f"{cases_won(ahead.loc[drive])} on {drive}" for drive in left_out]
    return f"{method_title(method)} is above every K-means without its parts in {', '.join(where)}."
