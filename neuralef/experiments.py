"""One experiment is one frozen specification; running it gives rows of ``results.csv``.

Features, psi and fitted methods come from the cache that all runs share (see :mod:`neuralef.workbench`); contingency
tables are kept under ``<out>/runs/``. An interrupted run takes up what is there and computes the rest; rows are then
derived from the contingency tables, so they are the same either way.
"""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuralef import crf, datasets, provenance
from neuralef.clustering import Method
from neuralef.datasets.base import Dataset
from neuralef.errors import InputError
from neuralef.evaluation import MATCHINGS, Scores, score
from neuralef.files import (
    ensure_writable_folder,
    held_alone,
    read_checked_tensors,
    read_json,
    write_checked_tensors,
    write_json,
    write_png,
)
from neuralef.methods import REGISTRY, check_methods
from neuralef.results import CLASS_COLUMNS, ResultRow, append_classes, append_rows, check_columns, parameter_columns
from neuralef.tally import Tally
from neuralef.workbench import Experiment, Workbench, check_same_features, open_workbench

log = logging.getLogger(__name__)


def run_experiment(
    experiment: Experiment,
    methods: Sequence[Method],
    out: Path,
    *,
    bench: Workbench | None = None,
    save_maps: bool = False,
    image_tables: bool = False,
    progress: bool = True,
) -> list[ResultRow]:
    """Fit, segment and score; add the rows to ``out/results.csv`` and ``out/per_class.csv``.

    Args:
        experiment: Experiment to run.
        methods: Methods to run, of :data:`neuralef.methods.REGISTRY`.
        out: Results folder.
        bench: Workbench with the experiment's dataset, backbone and feature settings, to share features; default: a new
            one.
        save_maps: Whether to write every evaluated image's clusters and ground truth to ``out/maps``.
        image_tables: Whether to keep the counts of every evaluated image, for :func:`read_image_tables`.
        progress: Whether to show progress bars; a workbench that is given keeps its own setting.

    Returns:
        The experiment's rows, new or already there: one for each method and matching.

    Raises:
        InputError: If something in the specification, the data or the output folder cannot be used.
        ValueError: If the workbench has another dataset or backbone, or features of other settings.
    """
    (rows,) = _run([experiment], methods, out, bench, save_maps=save_maps, image_tables=image_tables, progress=progress)
    return rows


def run_seeds(
    experiment: Experiment,
    seeds: Sequence[int],
    methods: Sequence[Method],
    out: Path,
    *,
    bench: Workbench | None = None,
    progress: bool = True,
) -> list[list[ResultRow]]:
    """:func:`run_experiment` for several seeds; sliding windows pass the backbone once for all of them.

    Args:
        experiment: Experiment to run; its own seed is left out.
        seeds: Seeds, each once.
        methods: Methods to run, of :data:`neuralef.methods.REGISTRY`.
        out: Results folder.
        bench: Workbench to share features, as for :func:`run_experiment`.
        progress: Whether to show progress bars.

    Returns:
        The rows of each seed, in the order of ``seeds``.

    Raises:
        InputError: As :func:`run_experiment`.
        ValueError: As :func:`run_experiment`, and if there is no seed or one is given twice.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds are {list(seeds)}; give at least one, and each once")
    experiments = [replace(experiment, seed=seed) for seed in seeds]
    return _run(experiments, methods, out, bench, save_maps=False, image_tables=False, progress=progress)


TRUTH = "truth"
"""Folder of the ground truth beside those of the methods' maps."""

SAME_FIT = 0.001
"""Share of the pixels that may change their cluster when a fitted method is evaluated again."""


@dataclass(frozen=True)
class _Job:
    """One method of one experiment, and where its record and its counts by image are kept."""

    experiment: Experiment
    experiment_id: str
    method: Method
    record_path: Path
    tables_path: Path


def _run(
    experiments: Sequence[Experiment],
    methods: Sequence[Method],
    out: Path,
    bench: Workbench | None,
    *,
    save_maps: bool,
    image_tables: bool,
    progress: bool,
) -> list[list[ResultRow]]:
    """The rows of experiments that differ in their seed alone."""
    check_methods(methods)
    if not methods:
        return [[] for _ in experiments]
    first = experiments[0]
    if bench:
        check_same_features(first, bench)
    crf.require(first.config.crf)
    ensure_writable_folder(out)
    check_columns(out / "results.csv")  # now, not after the first fit
    check_columns(out / "per_class.csv", CLASS_COLUMNS)
    bench = bench or open_workbench(first, progress=progress)
    if any(REGISTRY[method].needs_psi for method in methods):
        bench.check_training(first.clusters, first.config)
    jobs: list[_Job] = []
    rows: dict[str, list[ResultRow]] = {}
    for experiment in experiments:
        experiment_id = bench.experiment_id(experiment.clusters, experiment.seed, experiment.config)
        rows[experiment_id] = []
        for method in dict.fromkeys(methods):
            paths = (_run_path(out, experiment_id, method, kind) for kind in ("json", "safetensors"))
            jobs.append(_Job(experiment, experiment_id, method, *paths))
    # Under sliding windows all share the backbone's passes; else the rows of each are kept before the next.
    groups = [jobs] if first.config.protocol == "sliding" else [[job] for job in jobs]
    maps = out / "maps" if save_maps else None
    with _claimed_maps(maps, jobs[0].experiment_id) if maps else nullcontext():
        for group in groups:
            _run_together(group, bench, maps=maps, image_tables=image_tables)
            for job in group:
                record = read_json(job.record_path, "experiment_id")
                rows[job.experiment_id] += _store_rows(out, job.experiment, record, bench)
    warn_of_absent_classes(bench.dataset, np.array(record["counts"]).sum(axis=0))
    return list(rows.values())


def _run_together(jobs: Sequence[_Job], bench: Workbench, *, maps: Path | None, image_tables: bool) -> None:
    """Evaluate those of the jobs of which something is not kept yet, and keep it."""
    wanted = [
        job for job in jobs if not job.record_path.is_file() or maps or (image_tables and not job.tables_path.is_file())
    ]
    if not wanted:
        return
    unchecked = maps / ".unchecked" if maps else None
    tally, records = _evaluate(wanted, bench, maps=unchecked, image_tables=image_tables)
    for job, record, tables in zip(wanted, records, tally.tables, strict=True):
        if job.record_path.is_file():
            _check_same_fit(job, np.array(record["counts"]))
        else:
            write_json(job.record_path, {"experiment_id": job.experiment_id, **record})
        if image_tables:
            write_checked_tensors(job.tables_path, {"counts": torch.from_numpy(tables)}, {"method": job.method})
        if maps:
            _take_over(unchecked / tally.identity / job.method, maps / job.method)
    if maps:
        _take_over(unchecked / tally.identity / TRUTH, maps / TRUTH)
        shutil.rmtree(unchecked)
    tally.discard()


def _take_over(source: Path, target: Path) -> None:
    """Move the maps of one folder to another, in place of those of the same name."""
    target.mkdir(exist_ok=True)
    for path in source.iterdir():
        path.replace(target / path.name)
    source.rmdir()


def _check_same_fit(job: _Job, counts: np.ndarray) -> None:
    """Raise ``InputError`` if a method that is evaluated again is not the one whose rows are there.

    The same settings give another psi on another machine; what changes where only roundings do is a few pixels.
    """
    before = _counts(job.record_path)
    if np.abs(counts - before).sum() > 2 * SAME_FIT * counts.sum():  # a pixel that moves is missed here and new there
        raise InputError(
            f"{job.record_path} has scores of another fit of {job.method} than this one, as another machine makes; "
            "choose another folder with --out, or bring the cache that the first was made with"
        )


def read_counts(out: Path, experiment_id: str, method: Method) -> np.ndarray:
    """Counts of all evaluated images together, kept by :func:`run_experiment`: shape ``(K, C)``, int64.

    Raises:
        InputError: If the experiment has not been run with the method, or the file is damaged.
    """
    path = _run_path(out, experiment_id, method, "json")
    if not path.is_file():
        raise InputError(f"there are no counts in {path}; run the experiment with this method first")
    return _counts(path)


def _counts(record: Path) -> np.ndarray:
    return np.array(read_json(record, "counts")["counts"])


def read_image_tables(out: Path, experiment_id: str, method: Method) -> np.ndarray:
    """Counts of every evaluated image, kept by :func:`run_experiment`: shape ``(N, K, C)``, int32.

    Raises:
        InputError: If they were not kept, or the file is damaged.
    """
    path = _run_path(out, experiment_id, method, "safetensors")
    if not path.is_file():
        raise InputError(f"there are no counts by image in {path}; run the experiment with image_tables=True")
    return read_checked_tensors(path)[0]["counts"].numpy()


def _run_path(out: Path, experiment_id: str, method: Method, kind: str) -> Path:
    return out / "runs" / experiment_id / f"{method}.{kind}"


def _evaluate(
    jobs: Sequence[_Job], bench: Workbench, *, maps: Path | None, image_tables: bool
) -> tuple[Tally, list[dict[str, Any]]]:
    """The counts of every job, and the records of their runs; ``eval_s`` of all of them is shared equally."""
    clusters, config = jobs[0].experiment.clusters, jobs[0].experiment.config
    fitted = [bench.fitted(job.method, clusters, job.experiment.seed, config) for job in jobs]
    heads = [of.head for of in fitted]
    extract_s = [  # extracts what is missing: no part of eval_s
        bench.extract_s(job.method, head, config) for job, head in zip(jobs, heads, strict=True)
    ]
    tally = _tally(jobs, bench, maps=maps, image_tables=image_tables)
    names = ", ".join(dict.fromkeys(job.method for job in jobs))
    for found in bench.counted(heads, config, title=f"evaluating {names}", done=tally.images):
        if maps:  # under the identity, so that none is taken for one of another fit
            for job, image in zip(jobs, found, strict=True):
                write_png(maps / tally.identity / job.method / f"{image.image_id}.png", image.clusters)
                write_png(maps / tally.identity / TRUTH / f"{image.image_id}.png", image.label)
        tally.add([image.counts for image in found])
    require_labels(bench.dataset, tally.counts[0].sum(axis=0))
    eval_s = tally.seconds / len(jobs)
    trained = [
        bench.training(clusters, job.experiment.seed, config).train_s if REGISTRY[job.method].needs_psi else 0.0
        for job in jobs
    ]
    return tally, [
        {
            "method": job.method,
            "counts": tally.counts[number].tolist(),
            "images": tally.images,
            **provenance.measured_stamp(
                config.device,
                extract_s=extract_s[number],
                train_s=trained[number],
                cluster_s=fitted[number].seconds,
                eval_s=eval_s,
            ),
        }
        for number, job in enumerate(jobs)
    ]


def _tally(jobs: Sequence[_Job], bench: Workbench, *, maps: Path | None, image_tables: bool) -> Tally:
    """What an interrupted evaluation of these jobs has counted, if its maps are there as well; else an empty one."""
    clusters, config, ids = jobs[0].experiment.clusters, jobs[0].experiment.config, bench.dataset.ids("val")
    fits = [
        (job.experiment_id, job.method, bench.fit_digest(job.method, clusters, job.experiment.seed, config))
        for job in jobs
    ]
    path, identity = jobs[0].record_path.with_suffix(".unfinished.safetensors"), provenance.digest(fits, image_tables)
    shape = (len(jobs), clusters, len(bench.dataset.classes))
    tally = Tally(path, identity, shape, tables_of=len(ids) if image_tables else 0)
    if maps:
        folders = [maps / identity / name for name in (*(job.method for job in jobs), TRUTH)]
        if not all((folder / f"{image_id}.png").is_file() for image_id in ids[: tally.images] for folder in folders):
            tally.discard()
            return _tally(jobs, bench, maps=maps, image_tables=image_tables)
        if not tally.images and maps.is_dir():  # of a run that failed
            shutil.rmtree(maps)
    if tally.images:
        log.info("continuing after image %d of %d from %s", tally.images, len(ids), tally.path)
    return tally


def require_labels(dataset: Dataset, pixels: np.ndarray) -> None:
    """Raise ``InputError`` if no evaluated pixel has a label, by labelled pixels of each class, ``(C,)``."""
    if not np.any(pixels):
        images = len(dataset.ids("val"))
        raise InputError(f"no pixel of the {images} evaluated images of {dataset.name} has a label; check them")


def warn_of_absent_classes(dataset: Dataset, pixels: np.ndarray) -> None:
    """Say which classes of one's own dataset no label holds, by labelled pixels, ``(C,)``: more often a mistake."""
    absent = [semantic.name for semantic, count in zip(dataset.classes, pixels, strict=True) if not count]
    if absent and dataset.name.startswith(datasets.PREFIX):  # one's own: others are known to be as they are
        log.warning(
            "no label that was evaluated holds class %s of %s, so scores leave it out; where masks are 0 and 255, save "
            "them as 0 and 1, since 255 means ignore",
            ", ".join(map(repr, absent)),
            dataset.name,
        )


def _store_rows(out: Path, experiment: Experiment, record: dict[str, Any], bench: Workbench) -> list[ResultRow]:
    counts = np.array(record["counts"])
    rows, class_rows = [], []
    for matching in MATCHINGS:
        scores = score(counts, matching)
        identity = {"experiment_id": record["experiment_id"], "method": record["method"], "matching": matching}
        kept = {name: value for name, value in record.items() if name in ResultRow.__annotations__}
        trained_on = experiment.trained_on or experiment.dataset
        columns = score_columns(experiment, scores, num_clusters=len(counts))
        rows.append({**kept, **identity, "trained_on": trained_on, **columns})
        class_rows += [
            {**identity, "class": semantic.name, "iou": iou}
            for semantic, iou in zip(bench.dataset.classes, scores.class_iou, strict=True)
        ]
    append_rows(out / "results.csv", rows)
    append_classes(out / "per_class.csv", class_rows)
    return rows


def score_columns(experiment: Experiment, scores: Scores, *, num_clusters: int) -> dict[str, Any]:
    """What a row of scores on ``val`` says of its experiment, by column; ``num_clusters`` is the head's."""
    config = experiment.config
    return {
        "dataset": experiment.dataset,
        "split": "val",
        "backbone": experiment.backbone,
        "clusters": num_clusters,
        "classes": len(scores.class_iou),
        "protocol": config.protocol,
        "crf": config.crf,
        "seed": experiment.seed,
        "accuracy": scores.accuracy,
        "mean_iou": scores.mean_iou,
        "clusters_used": scores.clusters_used,
        **parameter_columns(config),
    }


@contextmanager
def _claimed_maps(folder: Path, experiment_id: str) -> Iterator[None]:
    """Keep a folder of maps for one experiment, and other processes out while it is filled."""
    folder.mkdir(parents=True, exist_ok=True)
    refusal = f"another process is writing maps to {folder}; wait until it ends, or choose another --out"
    with held_alone(folder / ".lock", refusal):
        _claim_maps(folder, experiment_id)
        yield


def _claim_maps(folder: Path, experiment_id: str) -> None:
    owner = folder / "experiment.json"
    filled = any(folder.glob("*/*.png"))  # a run that failed before its first map leaves its claim alone
    if filled and owner.is_file() and read_json(owner, "experiment_id")["experiment_id"] != experiment_id:
        raise InputError(f"{folder} holds the maps of another experiment; choose another --out, or remove the folder")
    write_json(owner, {"experiment_id": experiment_id})
