r"""From patch features to cluster logits: K-means and psi, behind one interface (paper, 3.6 and 4.1).

Every method ends in logits that are up-sampled bilinearly before the argmax. For K-means the logit of centroid c is
:math:`2 x^\top c - \|c\|^2`: the squared distance up to a term common to all clusters, and linear in x, so that
up-sampling the logits is up-sampling the features.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from neuralef.backbones import Precision
from neuralef.config import Config
from neuralef.eigenfunctions import Eigenfunctions
from neuralef.features import FeatureStore
from neuralef.kmeans import Centroids, fit_kmeans

Method = Literal["kmeans", "kmeans_centred", "ours", "ours_star"]

IMAGES_PER_PASS = 16


class ClusterHead(ABC):
    """What turns a backbone's features into cluster logits."""

    @abstractmethod
    def logits(self, levels: Tensor) -> Tensor:
        """All levels ``(images, h, w, sum C)`` to logits ``(images, h, w, K)``, float32."""

    @property
    @abstractmethod
    def num_clusters(self) -> int:
        """The paper's K."""


@dataclass(frozen=True)
class FeatureKMeans(ClusterHead):
    """K-means on the high level of the backbone: raw (the paper's baseline) or centred and of unit length.

    Attributes:
        centroids: Of the prepared features.
        channels: Width of the high level.
        mean: Training mean, shape ``(C,)``, removed before scaling to unit length; ``None``: features as they are.
    """

    centroids: Centroids
    channels: int
    mean: Tensor | None

    def logits(self, levels: Tensor) -> Tensor:  # noqa: D102 (inherited)
        return self.centroids.logits(prepare_features(levels[..., -self.channels :], self.mean))

    @property
    def num_clusters(self) -> int:  # noqa: D102
        return len(self.centroids.values)


@dataclass(frozen=True)
class EigenfunctionHead(ClusterHead):
    """Argmax of psi ("Ours")."""

    psi: Eigenfunctions
    precision: Precision = "float32"

    @torch.inference_mode()
    def logits(self, levels: Tensor) -> Tensor:  # noqa: D102
        return self.psi.head(hidden_features(self.psi, levels, self.precision))

    @property
    def num_clusters(self) -> int:  # noqa: D102
        return self.psi.head.out_features


@dataclass(frozen=True)
class HiddenKMeans(ClusterHead):
    """K-means on the hidden features that feed psi's head ("Ours*")."""

    psi: Eigenfunctions
    centroids: Centroids
    precision: Precision = "float32"

    @torch.inference_mode()
    def logits(self, levels: Tensor) -> Tensor:  # noqa: D102
        return self.centroids.logits(hidden_features(self.psi, levels, self.precision))

    @property
    def num_clusters(self) -> int:  # noqa: D102
        return len(self.centroids.values)


@torch.inference_mode()
def hidden_features(psi: Eigenfunctions, levels: Tensor, precision: Precision) -> Tensor:
    """What feeds psi's head, float32: ``(images, h, w, sum C)`` to ``(images, h, w, width)``.

    ``precision`` is that of the blocks; logits and distances are left to float32, whose rounding decides no argmax.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        hidden = psi.hidden(levels.flatten(1, 2))
    return hidden.float().unflatten(1, levels.shape[1:3])


def prepare_features(features: Tensor, mean: Tensor | None) -> Tensor:
    """Centre and scale to unit length; with no mean, the features as they are. ``(..., C)`` to the same shape."""
    return features if mean is None else F.normalize(features - mean, dim=-1)


def fit_feature_kmeans(
    store: FeatureStore, config: Config, *, num_clusters: int, seed: int, centred: bool, progress: bool = True
) -> FeatureKMeans:
    """The K-means baseline, fitted on training features; ``centred`` chooses the stronger of the two forms."""
    mean = store.channel_statistics[0][-store.channels[-1] :] if centred else None
    points = _sample(store, config, seed, lambda rows: prepare_features(store.high(rows), mean), progress=progress)
    centroids = fit_kmeans(points, num_clusters, seed=seed, iterations=config.kmeans_iterations)
    return FeatureKMeans(centroids, store.channels[-1], mean)


def fit_hidden_kmeans(
    store: FeatureStore, psi: Eigenfunctions, config: Config, *, num_clusters: int, seed: int, progress: bool = True
) -> HiddenKMeans:
    """ "Ours*": K-means on psi's hidden features, fitted on training data."""

    points = _sample(
        store, config, seed, lambda rows: hidden_features(psi, store.levels(rows), config.precision), progress=progress
    )
    centroids = fit_kmeans(points, num_clusters, seed=seed, iterations=config.kmeans_iterations)
    return HiddenKMeans(psi, centroids, config.precision)


def _passes(store: FeatureStore) -> list[slice]:
    return [slice(start, start + IMAGES_PER_PASS) for start in range(0, len(store), IMAGES_PER_PASS)]


def _sample(store: FeatureStore, config: Config, seed: int, features_of, *, progress: bool) -> np.ndarray:
    """Features of at most ``kmeans_patches`` patches, evenly many from each image, shape ``(N, C)``, float32."""
    per_image = store.grid[0] * store.grid[1]
    kept = min(per_image, max(1, config.kmeans_patches // len(store)))
    rng = np.random.default_rng(seed)
    points, filled = np.empty((0, 0), dtype=np.float32), 0
    for rows in tqdm(_passes(store), desc="patches for K-means", unit="batch", disable=not progress):
        features = features_of(rows).flatten(1, -2).numpy()  # (images, T, C)
        if not filled:
            points = np.empty((len(store) * kept, features.shape[-1]), dtype=np.float32)
        for image in features:
            chosen = np.sort(rng.choice(per_image, kept, replace=False))
            points[filled : filled + kept] = image[chosen]
            filled += kept
    return points
