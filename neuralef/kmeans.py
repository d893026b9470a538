"""K-means on patches, by scikit-learn, in memory that hardly grows with their number."""

import logging
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits
from torch import Tensor

from neuralef.errors import InputError

log = logging.getLogger(__name__)

LLOYD_PATCHES = 50_000
"""Points that Lloyd's iterations see at most; the others enter by one pass of updates."""

PATCHES_PER_UPDATE = 16_384
"""Points that are assigned together in the pass of updates."""


@dataclass(frozen=True)
class Centroids:
    """Result of K-means: centroids of shape ``(K, C)``, float32."""

    values: np.ndarray

    def logits(self, features: Tensor) -> Tensor:
        """``(..., C)`` to ``(..., K)``; the argmax is the nearest centroid."""
        values = torch.from_numpy(self.values)
        return 2 * features @ values.T - values.square().sum(dim=1)

    def assign(self, features: np.ndarray) -> np.ndarray:
        """Nearest centroid of each row: ``(N, C)`` to ``(N,)``, int64."""
        return self.logits(torch.from_numpy(features)).argmax(dim=1).numpy()


def fit_kmeans(
    features: np.ndarray,
    num_clusters: int,
    *,
    seed: int,
    iterations: int = 100,
    restarts: int = 1,
    threads: Literal[1, 2] = 2,
) -> Centroids:
    """Lloyd's K-means from a k-means++ start, by scikit-learn.

    Of more than :data:`LLOYD_PATCHES` points, that many are drawn for it, and the others move the centroids by one pass
    of online mean updates, as in the official code. Memory beyond ``features`` grows by 17 bytes a point, for indices.

    Args:
        features: Points, shape ``(N, C)``, of any floating type, in memory or mapped; worked on in float32.
        num_clusters: Number of clusters, the paper's K.
        seed: Seed of the start and of the draw.
        iterations: Number of Lloyd iterations at most.
        restarts: Number of starts, of which the one of least inertia is kept.
        threads: Number of threads; one is faster for a few hundred points.

    Raises:
        InputError: If there are more clusters than points, or than points that Lloyd's iterations see.
    """
    from sklearn.cluster import KMeans  # takes a second or two, which every notebook would wait for
    from sklearn.exceptions import ConvergenceWarning

    if min(len(features), LLOYD_PATCHES) < num_clusters:
        raise InputError(
            f"{num_clusters} clusters were asked of {len(features)} points, of which at most {LLOYD_PATCHES} start "
            "K-means; lower the number of clusters"
        )
    drawn, others = features, np.empty(0, dtype=np.int64)
    if len(features) > LLOYD_PATCHES:
        chosen = np.sort(np.random.default_rng(seed).choice(len(features), LLOYD_PATCHES, replace=False))
        drawn, others = features[chosen], np.delete(np.arange(len(features)), chosen)
    drawn = np.asarray(drawn, dtype=np.float32)
    model = KMeans(num_clusters, n_init=restarts, max_iter=iterations, random_state=seed)
    # Threads add their partial sums in the order they finish. With two the sum does not depend on it, so that equal
    # seeds repeat exactly on one machine, however many cores it has beyond two.
    with threadpool_limits(limits=threads, user_api="openmp"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of clusters without a point, said below
        model.fit(drawn)
    members = np.bincount(model.labels_, minlength=num_clusters)
    if not members.all():
        log.warning(
            "%d of %d clusters stay empty, most likely because fewer patches differ than there are clusters",
            np.count_nonzero(members == 0),
            num_clusters,
        )
    return Centroids(_moved(model.cluster_centers_.astype(np.float32), members, features, others))


def _moved(values: np.ndarray, members: np.ndarray, features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Centroids ``(K, C)`` that are means of ``members`` points each, ``(K,)``, and of further rows of the features.

    A block of rows goes to the centroids as they are before it. They start with the weight of the points they have, so
    that the first block, which holds the patches of a few images, does not make them its own.
    """
    K = len(values)
    for first in range(0, len(rows), PATCHES_PER_UPDATE):
        block = np.asarray(features[rows[first : first + PATCHES_PER_UPDATE]], dtype=np.float32)
        nearest = Centroids(values).assign(block)
        one_hot = csr_array((np.ones(len(block), np.float32), nearest, np.arange(len(block) + 1)), (len(block), K))
        joining = np.bincount(nearest, minlength=K)
        members = members + joining
        steps = one_hot.T @ block - joining[:, None] * values
        values = values + (steps / np.maximum(members, 1)[:, None]).astype(np.float32)
    return values
