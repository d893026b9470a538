"""The label-gradient audit as a study: run, keep, compare (see :mod:`neuralef.audit` for what is trained).

Numbers of the audit stay apart from ``results.csv``, so that no score of a psi that saw labels ever stands among the
label-free ones::

    <out>/audit.csv                        one row for each variant, seed, method and matching
    <out>/audit/<audit id>/<variant>-<method>.safetensors
                                           counts of every validation image, (N, K, C), with checksum and provenance

The second kind of file is what bootstrap intervals draw from. Rows are derived from it, trainings are checkpointed in
the cache, so an interrupted audit takes up what is whole and computes the rest.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from neuralef import provenance
from neuralef.audit import (
    VARIANTS,
    CroppedLabels,
    Labels,
    LinearProbe,
    ProbedTraining,
    StoredLabels,
    Variant,
    official_label_weight,
    train_probed,
    training_label_counts,
)
from neuralef.clustering import ClusterHead, EigenfunctionHead, fit_hidden_kmeans
from neuralef.config import Config
from neuralef.errors import InputError
from neuralef.evaluation import MATCHINGS, Scores, score, score_mapping
from neuralef.experiments import require_labels, score_columns, warn_of_absent_classes
from neuralef.files import ensure_writable_folder, read_checked_tensors, tensors_digest, write_checked_tensors
from neuralef.intervals import Interval, bootstrap_interval, max_iou_score, paired_difference_interval, paired_gains
from neuralef.paths import cache_root
from neuralef.reporting import METHOD_TITLES, cases_won, markdown, mean_and_interval, mean_and_spread
from neuralef.results import COLUMNS, append_rows, check_columns
from neuralef.training import Training
from neuralef.workbench import Experiment, Workbench, check_same_features, open_workbench

FILE = "audit.csv"
# Variants differ in labels, never in photographs: what is trained on is always what is evaluated.
AUDIT_COLUMNS = ("audit_id", "variant", "label_weight", "psi", *(name for name in COLUMNS[1:] if name != "trained_on"))
AUDIT_KEY = ("audit_id", "variant", "method", "matching")

CLUSTERINGS = ("ours", "ours_star")
PROBE = "linear_probe"
IDENTITY = "identity"
"""Matching of the linear probe, whose outputs are classes."""

LABELS_KEPT = 1024
"""Labels of photographs at hand where crops of them are drawn, those read last: all of a small dataset."""

TITLES = {**METHOD_TITLES, PROBE: "linear probe"}


def methods_of(variant: Variant) -> tuple[str, ...]:
    """Methods that are evaluated: Ours and Ours*, and the head where there is one."""
    return CLUSTERINGS if variant == "none" else (*CLUSTERINGS, PROBE)


@dataclass
class Audit:
    """What the seeds and variants of an audit share: dataset, backbone, features, labels of the training patches.

    Attributes:
        bench: Workbench with dataset, backbone and features.
        out: Results folder.
        label_weight: Weight of the cross-entropy beside our loss; ``None``: the official ratio.
        progress: Whether to show progress bars.
    """

    bench: Workbench
    out: Path
    label_weight: float | None = None
    progress: bool = True

    @cached_property
    def stored_labels(self) -> StoredLabels:
        """Labels of the stored training images."""
        return StoredLabels(training_label_counts(self.bench.dataset, self.bench.train, progress=self.progress))

    def labels(self, config: Config) -> Labels:
        """Labels of what psi is trained on: the stored images, or random crops of them.

        Raises:
            InputError: If a training image has no label, or no pixel has one.
        """
        stored = self.stored_labels  # read whole for crops too: a missing label is to be met before the first training
        if not stored.counts.any():
            raise InputError(
                f"no pixel of the training images of {self.bench.dataset_name} has a label, so that no gradient can "
                "come from one; check them"
            )
        if not config.augment:
            return stored
        dataset = self.bench.dataset
        return CroppedLabels(lru_cache(LABELS_KEPT)(dataset.label), self.bench.augmented(config), stored.num_classes)

    def weight(self, experiment: Experiment) -> float:
        """Weight of the cross-entropy that is used."""
        return official_label_weight(experiment.config) if self.label_weight is None else self.label_weight

    def audit_id(self, experiment: Experiment) -> str:
        """Digest of all that determines the rows: those of the experiment, the training labels, the weight."""
        experiment_id = self.bench.experiment_id(experiment.clusters, experiment.seed, experiment.config)
        return provenance.digest(experiment_id, *self._label_parts(experiment))

    def trained(self, experiment: Experiment, variant: Variant) -> Training | ProbedTraining:
        """psi of one variant, with its head where there is one, from the cache if it is there."""
        identity = (experiment.clusters, experiment.seed, experiment.config)
        if variant == "none":
            return self.bench.training(*identity)
        key = provenance.digest(self.bench.training_key(*identity), variant, *self._label_parts(experiment))
        return train_probed(
            self.bench.train,
            self.labels(experiment.config),
            experiment.config,
            num_eigenfunctions=experiment.clusters,
            seed=experiment.seed,
            variant=variant,
            label_weight=self.weight(experiment),
            folder=cache_root() / "audit" / key,
            progress=self.progress,
        )

    def missing(self, experiment: Experiment, variant: Variant) -> list[str]:
        """Methods whose counts are not kept yet."""
        audit_id = self.audit_id(experiment)
        return [name for name in methods_of(variant) if not counts_path(self.out, audit_id, variant, name).is_file()]

    def run(self, experiment: Experiment, variant: Variant) -> list[dict[str, Any]]:
        """Train, evaluate and keep one variant of one seed, as far as it is not kept already.

        Returns:
            Rows of the variant, which are in ``out/audit.csv``.
        """
        audit_id = self.audit_id(experiment)
        missing = self.missing(experiment, variant)
        if missing:
            trained = self.trained(experiment, variant)
            for method in missing:
                counts, record = self._evaluate(experiment, trained, variant, method)
                path = counts_path(self.out, audit_id, variant, method)
                write_checked_tensors(path, {"counts": torch.from_numpy(counts)}, {"audit_id": audit_id, **record})
        rows = [row for method in methods_of(variant) for row in self._rows(experiment, variant, method)]
        append_rows(self.out / FILE, rows, columns=AUDIT_COLUMNS, key=AUDIT_KEY)
        return rows

    def _label_parts(self, experiment: Experiment) -> tuple[str, int, float, str]:
        data = self.bench.dataset
        labels, code = data.label_fingerprint("train"), provenance.code_digest("audit")
        return labels, len(data.classes), self.weight(experiment), code

    def _evaluate(
        self, experiment: Experiment, trained: Training | ProbedTraining, variant: Variant, method: str
    ) -> tuple[np.ndarray, dict[str, Any]]:
        bench, began = self.bench, perf_counter()
        head = self._head(experiment, trained, method)
        fitted = perf_counter()
        classes = len(bench.dataset.classes)
        counts = np.zeros((len(bench.val), head.num_clusters, classes), dtype=np.int32)
        title = f"evaluating {method}, label head {variant}"
        for index, (image,) in enumerate(bench.counted([head], experiment.config, title=title)):
            counts[index] = image.counts
        require_labels(bench.dataset, counts.sum(axis=(0, 1)))
        return counts, {
            "variant": variant,
            "method": method,
            "psi": tensors_digest(trained.psi.state_dict())[:16],
            **provenance.measured_stamp(
                experiment.config.device,
                extract_s=bench.train.extract_s + bench.val.extract_s,
                train_s=trained.train_s,
                cluster_s=fitted - began if method == "ours_star" else 0.0,
                eval_s=perf_counter() - fitted,
            ),
        }

    def _head(self, experiment: Experiment, trained: Training | ProbedTraining, method: str) -> ClusterHead:
        config = experiment.config
        if method == PROBE:
            return LinearProbe(trained.psi, trained.probe, config.precision)
        if method == "ours":
            return EigenfunctionHead.from_tensors({}, trained.psi, config)
        common = {"num_clusters": experiment.clusters, "seed": experiment.seed, "progress": self.progress}
        return fit_hidden_kmeans(self.bench.train, trained.psi, config, **common)

    def _rows(self, experiment: Experiment, variant: Variant, method: str) -> Iterator[dict[str, Any]]:
        tensors, record = read_checked_tensors(counts_path(self.out, self.audit_id(experiment), variant, method))
        counts = tensors["counts"].numpy()
        for matching, scores in _scores(counts.sum(axis=0, dtype=np.int64), method).items():
            yield {
                **record,
                "label_weight": self.weight(experiment),
                "matching": matching,
                "images": len(counts),
                **score_columns(experiment, scores, num_clusters=counts.shape[1]),
            }


def run_audit(
    experiments: Sequence[Experiment],
    out: Path,
    *,
    bench: Workbench | None = None,
    variants: Sequence[Variant] = VARIANTS,
    label_weight: float | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train every variant for every seed, evaluate, and add the rows to ``out/audit.csv``.

    Args:
        experiments: Experiments that differ in their seed alone.
        out: Results folder.
        bench: Workbench with the experiments' dataset, backbone and feature settings; default: a new one.
        variants: Variants to train, of :data:`neuralef.audit.VARIANTS`.
        label_weight: Weight of the cross-entropy beside our loss; default: the official ratio.
        progress: Whether to show progress bars.

    Returns:
        The rows of these experiments and variants, new or already there.

    Raises:
        InputError: If there is no experiment, a variant is unknown, the weight or a setting cannot be used, the dataset
            has a single class, a training image has no label, or nothing can be written to the output folder.
    """
    unknown = [variant for variant in variants if variant not in VARIANTS]
    if unknown or not variants:
        named = f"unknown variant {unknown[0]!r}" if unknown else "no variant is named"
        raise InputError(f"{named}; there are {', '.join(VARIANTS)}")
    if not experiments:
        raise InputError("an audit needs at least one seed; name some with --seeds")
    if label_weight is not None and not 0 <= label_weight < math.inf:
        raise InputError(f"label_weight is {label_weight}; it must be finite and not negative")
    if experiments[0].trained_on:
        raise InputError(f"trained_on is {experiments[0].trained_on}, but an audit trains where it evaluates; leave it")
    if bench:
        check_same_features(experiments[0], bench)
    for name, value in (("protocol", "crop320"), ("crf", "none")):
        given = getattr(experiments[0].config, name)
        if given != value:
            raise InputError(f"{name} is {given}, but an audit counts the pixels of crops; set {name}={value}")
    ensure_writable_folder(out)
    check_columns(out / FILE, AUDIT_COLUMNS)  # now, not after the first training
    audit = Audit(bench or open_workbench(experiments[0], progress=progress), out, label_weight, progress)
    if len(audit.bench.dataset.classes) < 2:
        raise InputError(f"{audit.bench.dataset.name} has a single class, whose labels have no gradient; name another")
    audit.bench.check_training(experiments[0].clusters, experiments[0].config)
    work = [(experiment, variant) for experiment in experiments for variant in dict.fromkeys(variants)]
    if any(variant != "none" and audit.missing(experiment, variant) for experiment, variant in work):
        audit.labels(experiments[0].config)  # a missing label is to be met now, not after the first training
    bar = tqdm(work, desc=f"audit of {audit.bench.dataset_name}", unit="training", disable=not progress)
    rows = [row for experiment, variant in bar for row in audit.run(experiment, variant)]
    frame = pd.DataFrame(rows, columns=AUDIT_COLUMNS)
    warn_of_absent_classes(audit.bench.dataset, counts_of(frame, out, variants[0], CLUSTERINGS[0])[0].sum(axis=(0, 1)))
    return frame


def counts_path(out: Path, audit_id: str, variant: str, method: str) -> Path:
    """Where the counts of every image are kept."""
    return out / "audit" / audit_id / f"{variant}-{method}.safetensors"


def counts_of(rows: pd.DataFrame, out: Path, variant: Variant, method: str) -> list[np.ndarray]:
    """Counts of every image for each seed, in the order of the seeds.

    Args:
        rows: Rows of ``audit.csv``, of one dataset and setting.
        out: Results folder.
        variant: One of :data:`neuralef.audit.VARIANTS`.
        method: One of :func:`methods_of`.

    Returns:
        Pixels by cluster and class of every image, for each seed an array of shape ``(N, K, C)``.
    """
    chosen = rows[(rows["variant"] == variant) & (rows["method"] == method)].sort_values("seed")
    paths = [counts_path(out, audit_id, variant, method) for audit_id in dict.fromkeys(chosen["audit_id"])]
    return [read_checked_tensors(path)[0]["counts"].numpy() for path in paths]


@dataclass(frozen=True)
class Comparison:
    """One method without a label head and with its gradient: mIoU under ``max_iou``.

    Attributes:
        method: Name of the method, ``ours`` or ``ours_star``.
        without: Interval of the mean over seeds without a label head.
        with_gradient: Interval of the mean over seeds with the head's gradient.
        difference: Interval of the paired difference, with minus without.
        gains: Difference of each seed, in the order of the seeds.
    """

    method: str
    without: Interval
    with_gradient: Interval
    difference: Interval
    gains: tuple[float, ...]

    def row(self) -> dict[str, str]:
        """A line of a table; percent and points."""
        return {
            "method": TITLES[self.method],
            "without": mean_and_interval(self.without),
            "with gradient": mean_and_interval(self.with_gradient),
            "difference": mean_and_interval(self.difference, sign="+"),
            "seeds where it is higher": cases_won(self.gains),
        }

    def sentence(self) -> str:
        """What the numbers say, in Markdown; percent and points."""
        title = markdown(TITLES[self.method])
        overlap = "overlap" if self.without.overlaps(self.with_gradient) else "do not overlap"
        without, with_gradient = mean_and_interval(self.without), mean_and_interval(self.with_gradient)
        return (
            f"**{title}**: {without} without, {with_gradient} with the label gradient; the two intervals {overlap}, "
            "which says nothing of the paired difference. "
            f"Paired difference {mean_and_interval(self.difference, sign='+')} points; its interval "
            f"{self.difference.says_of(0)}. "
            f"mIoU is higher with the gradient in {cases_won(self.gains)} seeds."
        )


def compare(rows: pd.DataFrame, out: Path, method: str, *, draws: int = 1000) -> Comparison:
    """``none`` beside ``gradient``: bootstrap intervals over images and seeds, and of their paired difference.

    Args:
        rows: Rows of one dataset and setting, as :func:`run_audit` returns them.
        out: Results folder.
        method: Name of the method, ``ours`` or ``ours_star``.
        draws: Number of bootstrap resamples.

    Raises:
        InputError: If the two variants were not run for the same seeds.
    """
    seeds = {name: sorted(set(rows.loc[rows["variant"] == name, "seed"])) for name in ("none", "gradient")}
    if seeds["none"] != seeds["gradient"] or not seeds["none"]:
        raise InputError(
            f"variant none has seeds {seeds['none']}, gradient {seeds['gradient']}; run both for the same seeds"
        )
    before, after = (counts_of(rows, out, variant, method) for variant in seeds)
    return Comparison(
        method,
        without=bootstrap_interval(before, draws=draws),
        with_gradient=bootstrap_interval(after, draws=draws),
        difference=paired_difference_interval(before, after, draws=draws),
        gains=paired_gains(before, after),
    )


def audit_table(rows: pd.DataFrame, out: Path, *, draws: int = 1000) -> pd.DataFrame:
    """Variants and methods in rows: mean ± spread over seeds, and the bootstrap interval of the mean mIoU.

    Clusterings are matched by ``max_iou``; the linear probe's outputs are classes and need no matching.

    Args:
        rows: Rows of one dataset and setting, as :func:`run_audit` returns them.
        out: Results folder.
        draws: Number of bootstrap resamples.

    Returns:
        Table of strings, ready to print; scores in percent.
    """
    table = []
    for variant in [name for name in VARIANTS if name in set(rows["variant"])]:
        for method in methods_of(variant):
            chosen = rows[(rows["variant"] == variant) & (rows["method"] == method)]
            chosen = chosen[chosen["matching"].isin(["max_iou", IDENTITY])]
            statistic = _identity_score if method == PROBE else max_iou_score
            interval = bootstrap_interval(counts_of(rows, out, variant, method), statistic, draws=draws)
            table.append(
                {
                    "label head": variant,
                    "method": TITLES[method],
                    "seeds": chosen["seed"].nunique(),
                    "matching": chosen["matching"].iloc[0],
                    "Acc": mean_and_spread(chosen["accuracy"]),
                    "mIoU": mean_and_spread(chosen["mean_iou"]),
                    "95 % interval of mIoU": f"{100 * interval.low:.1f} to {100 * interval.high:.1f}",
                }
            )
    return pd.DataFrame(table).astype(str)


def _scores(counts: np.ndarray, method: str) -> Mapping[str, Scores]:
    if method == PROBE:
        return {IDENTITY: score_mapping(counts, np.arange(len(counts)))}
    return {matching: score(counts, matching) for matching in MATCHINGS}


def _identity_score(counts: np.ndarray) -> float:
    return score_mapping(counts, np.arange(len(counts))).mean_iou
