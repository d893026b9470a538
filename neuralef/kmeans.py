"""K-means on patches, by scikit-learn, in memory that does not grow with their number."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

from neuralef.errors import InputError

LLOYD_PATCHES = 50_000
"""Points that Lloyd's iterations see at most; the others enter by one pass of updates."""

PATCHES_PER_UPDATE = 16_384


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

    Of more than :data:`LLOYD_PATCHES` points, that many are drawn for it; one pass of online mean updates over all
    points follows, as in the official code. Memory beyond ``features`` does not grow with their number.

    Args:
        features: Shape ``(N, C)``, of any floating type, in memory or mapped; worked on in float32.
        num_clusters: The paper's K.
        seed: Of the start and of the draw.
        iterations: Lloyd iterations at most.
        restarts: Starts, of which the one of least inertia is kept.
        threads: One is the faster for a few hundred points.

    Raises:
        InputError: If there are fewer points than clusters.
    """
    if len(features) < num_clusters:
        raise InputError(f"{num_clusters} clusters were asked of {len(features)} patches; lower --clusters")
    drawn = features
    if len(features) > LLOYD_PATCHES:
        drawn = features[np.sort(np.random.default_rng(seed).choice(len(features), LLOYD_PATCHES, replace=False))]
    drawn = np.asarray(drawn, dtype=np.float32)
    model = KMeans(num_clusters, n_init=restarts, max_iter=iterations, random_state=seed)
    # Threads add their partial sums in the order they finish. With two the sum does not depend on it, so that equal
    # seeds give equal clusters on every machine.
    with threadpool_limits(limits=threads, user_api="openmp"):
        model.fit(drawn)
        if len(drawn) < len(features):
            start = model.cluster_centers_
            model = MiniBatchKMeans(num_clusters, init=start, n_init=1, reassignment_ratio=0, random_state=seed)
            for first in range(0, len(features), PATCHES_PER_UPDATE):
                model.partial_fit(np.asarray(features[first : first + PATCHES_PER_UPDATE], dtype=np.float32))
    return Centroids(model.cluster_centers_.astype(np.float32))
