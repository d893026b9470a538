"""Clusters to classes, and scores (paper, 3.6).

One pass over a dataset adds every image to a K x C contingency table; every matching and every metric derives from it.

mIoU averages over the classes that occur in the ground truth or in the prediction of the evaluated set.

References:
    Official code ``engine.py::optimal_map`` (what it calls majority vote is the argmax of IoU, here ``max_iou``).
    Kuhn, *The Hungarian Method for the Assignment Problem*, 1955, through ``scipy.optimize``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

from neuralef.datasets.base import IGNORE_LABEL

Matching = Literal["max_iou", "majority", "hungarian"]


def image_counts(clusters: np.ndarray, labels: np.ndarray, num_clusters: int, num_classes: int) -> np.ndarray:
    """Pixels of one image by cluster and class; pixels labelled ``IGNORE_LABEL`` are left out.

    Args:
        clusters: Cluster of every pixel, shape ``(H, W)``, in ``0 .. K - 1``.
        labels: Class of every pixel, shape ``(H, W)``, in ``0 .. C - 1`` or ``IGNORE_LABEL``.
        num_clusters: Number of clusters, K.
        num_classes: Number of classes, C.

    Returns:
        Pixels by cluster and class, shape ``(K, C)``, int64.

    Raises:
        ValueError: If the shapes differ or an id is out of range.
    """
    K, C = num_clusters, num_classes
    if clusters.shape != labels.shape:
        raise ValueError(f"clusters have shape {clusters.shape}, labels {labels.shape}")
    if clusters.size and (clusters.min() < 0 or clusters.max() >= K):
        raise ValueError(f"cluster ids must be below {K}; got {clusters.min()} .. {clusters.max()}")
    # Ignored pixels get a column of their own, so that no pixel has to be picked out.
    column = np.where(labels == IGNORE_LABEL, C, labels)
    if labels.size and (column.min() < 0 or column.max() > C or (C != IGNORE_LABEL and (labels == C).any())):
        found = sorted(set(labels.ravel().tolist()))
        raise ValueError(f"class ids must be below {C}, or {IGNORE_LABEL}; got {found}")
    cells = clusters.astype(np.intp) * (C + 1) + column
    return np.bincount(cells.ravel(), minlength=K * (C + 1)).reshape(K, C + 1)[:, :C]


@dataclass(frozen=True)
class Scores:
    """Scores of one contingency table under one matching; fractions.

    Attributes:
        accuracy: Share of counted pixels whose matched class is right.
        mean_iou: Mean IoU over the classes that occur.
        class_iou: IoU of each class, shape ``(C,)``; NaN for a class in neither truth nor prediction.
        clusters_used: Number of clusters with at least one counted pixel.
        mapping: Class of each cluster, shape ``(K,)``.
    """

    accuracy: float
    mean_iou: float
    class_iou: np.ndarray
    clusters_used: int
    mapping: np.ndarray


def match_majority(counts: np.ndarray) -> np.ndarray:
    """Each cluster becomes its most frequent class: counts ``(K, C)`` to classes ``(K,)``. Maximises accuracy."""
    return counts.argmax(axis=1)


def match_max_iou(counts: np.ndarray) -> np.ndarray:
    """Each cluster becomes the class it overlaps best by IoU, the official rule: ``(K, C)`` to ``(K,)``."""
    union = counts.sum(axis=0) + counts.sum(axis=1, keepdims=True) - counts
    return (counts / np.maximum(union, 1)).argmax(axis=1)


def match_hungarian(counts: np.ndarray) -> np.ndarray:
    """One-to-one assignment with the most agreeing pixels; clusters left over become class 0 (official code)."""
    clusters, classes = linear_sum_assignment(counts, maximize=True)
    mapping = np.zeros(len(counts), dtype=np.int64)
    mapping[clusters] = classes
    return mapping


MATCHINGS: dict[Matching, Callable[[np.ndarray], np.ndarray]] = {
    "max_iou": match_max_iou,
    "majority": match_majority,
    "hungarian": match_hungarian,
}


def confusion(counts: np.ndarray, mapping: np.ndarray) -> np.ndarray:
    """Predicted by true class, ``(C, C)``: the rows of ``counts`` added up by their matched class."""
    table = np.zeros((counts.shape[1],) * 2, dtype=np.int64)
    np.add.at(table, mapping, counts)
    return table


def score(counts: np.ndarray, matching: Matching) -> Scores:
    """Scores of a contingency table ``(K, C)`` under one matching.

    Raises:
        ValueError: If no pixel was counted.
    """
    return score_mapping(counts, MATCHINGS[matching](counts))


def score_mapping(counts: np.ndarray, mapping: np.ndarray) -> Scores:
    """Scores of a contingency table ``(K, C)`` whose clusters have their classes ``(K,)`` already.

    Raises:
        ValueError: If no pixel was counted.
    """
    if not counts.sum():
        raise ValueError("no labelled pixel was counted; every label of the evaluated images is the ignore label")
    table = confusion(counts, mapping)
    right = table.diagonal()
    union = table.sum(axis=0) + table.sum(axis=1) - right
    with np.errstate(invalid="ignore"):
        iou = np.where(union > 0, right / union, np.nan)
    return Scores(
        accuracy=float(right.sum() / table.sum()),
        mean_iou=float(np.nanmean(iou)),
        class_iou=iou,
        clusters_used=int((counts.sum(axis=1) > 0).sum()),
        mapping=mapping,
    )
