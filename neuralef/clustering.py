r"""From patch features to cluster logits: K-means, psi and exact eigenvectors, behind one interface (paper, 3.6, 4.1).

Every method ends in logits that are up-sampled bilinearly before the argmax. For K-means the logit of centroid c is
:math:`2 x^\top c - \|c\|^2`: minus the squared distance up to a term common to all clusters, and linear in x, so that
up-sampling the logits is up-sampling the features.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from neuralef.config import Config
from neuralef.eigenfunctions import Eigenfunctions
from neuralef.errors import InputError
from neuralef.features import FeatureStore
from neuralef.kmeans import Centroids, fit_kmeans
from neuralef.precision import Precision, autocast
from neuralef.spectral import RESTARTS, LandmarkEigenvectors, landmark_eigenvectors, unit_rows
from neuralef.upsampling import Guide

Method = Literal[
    "kmeans",
    "kmeans_centred",
    "kmeans_pca",
    "kmeans_plus",
    "deep_spectral",
    "spectral",
    "ours",
    "ours_star",
    "ours_plus",
]

SAMPLED_NUMBERS = 2_000_000_000
"""Numbers, patches times channels, that K-means is fitted to at most: the official code's limit, 8 GB of them."""

IMAGES_PER_PASS = 4
"""Images whose features pass psi together: their activations stay in the cache, a quarter faster than 16 at once."""


class ClusterHead(ABC):
    """What turns a backbone's features into cluster logits.

    Attributes:
        views: Number of shifted views along each side of an image whose features the head reads
            (:func:`neuralef.features.shifted_levels`).
        guide: Guide by which the image helps to bring the logits to pixels; ``None``: they are up-sampled bilinearly.
        softmax_temperature: Divisor of the logits before a softmax, where windows are merged or a CRF follows.
    """

    views: int = 1
    guide: Guide | None = None
    softmax_temperature: float = 1.0

    @abstractmethod
    def logits(self, levels: Tensor) -> Tensor:
        """All levels ``(images, h, w, sum C)`` to logits ``(images, h, w, K)``, float32, both in host memory."""

    def image_logits(self, levels: Tensor, colours: Tensor) -> Tensor:
        """:meth:`logits`, for heads that look at the images as well.

        Args:
            levels: Features of all levels, shape ``(images, h, w, sum C)``.
            colours: The images at patch resolution, shape ``(images, h, w, 3)``, in [0, 1].
        """
        return self.logits(levels)

    @property
    @abstractmethod
    def num_clusters(self) -> int:
        """Number of clusters, the paper's K."""


class FittedHead(ClusterHead):
    """A head that is kept on disk as tensors and comes back from them."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All that fitting found, psi aside, by name."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], psi: Eigenfunctions | None, config: Config) -> Self:
        """The head whose :meth:`tensors` these are."""


class KMeansHead(FittedHead):
    """A head whose clusters are those of K-means; a subclass keeps what else it needs beside the centroids.

    Attributes:
        centroids: Centroids of the features that the head makes, shape ``(K, C)``.
    """

    centroids: Centroids

    @property
    def num_clusters(self) -> int:  # noqa: D102 (inherited)
        return len(self.centroids.values)

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        return {"centroids": torch.from_numpy(self.centroids.values)}


@dataclass(frozen=True)
class FeatureKMeans(KMeansHead):
    """K-means on the high level of the backbone: raw (the paper's baseline) or centred and of unit length.

    Attributes:
        centroids: Centroids of the prepared features, shape ``(K, C)``.
        channels: Width of the high level.
        mean: Training mean, shape ``(C,)``, removed before scaling to unit length; ``None``: features as they are.
    """

    centroids: Centroids
    channels: int
    mean: Tensor | None

    def logits(self, levels: Tensor) -> Tensor:  # noqa: D102 (inherited)
        return self.centroids.logits(prepare_features(levels[..., -self.channels :], self.mean))

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        return super().tensors() | ({} if self.mean is None else {"mean": self.mean})

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], psi: Eigenfunctions | None, config: Config) -> Self:  # noqa: D102
        centroids = tensors["centroids"]
        return cls(Centroids(centroids.numpy()), centroids.shape[1], tensors.get("mean"))


@dataclass(frozen=True)
class PCAKMeans(KMeansHead):
    """K-means on principal components of the centred high level of unit length.

    Attributes:
        centroids: Centroids of the projected features, shape ``(K, components)``.
        mean: Training mean of the high level, shape ``(C,)``.
        components: Principal components as orthonormal rows, shape ``(components, C)``.
        offset: Mean of the prepared features, projected, shape ``(components,)``.
    """

    centroids: Centroids
    mean: Tensor
    components: Tensor
    offset: Tensor

    def logits(self, levels: Tensor) -> Tensor:  # noqa: D102
        prepared = prepare_features(levels[..., -len(self.mean) :], self.mean)
        return self.centroids.logits(prepared @ self.components.T - self.offset)

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        return super().tensors() | {"mean": self.mean, "components": self.components, "offset": self.offset}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], psi: Eigenfunctions | None, config: Config) -> Self:  # noqa: D102
        return cls(
            Centroids(tensors["centroids"].numpy()), *(tensors[name] for name in ("mean", "components", "offset"))
        )


@dataclass(frozen=True)
class SpectralHead(KMeansHead):
    """Spectral clustering of landmark patches, extended to all others ("spectral").

    The embedding of a patch is the unit-length row of its eigenfunctions (Ng, Jordan and Weiss); the logits are those
    of K-means on it, linear in the embedding.

    Attributes:
        landmarks: Landmark patches and their eigenvectors, over the centred high level of unit length.
        centroids: Centroids of the embedding, shape ``(K, K)``.
        mean: Training mean of the high level, shape ``(C,)``.
    """

    landmarks: LandmarkEigenvectors
    centroids: Centroids
    mean: Tensor

    @torch.inference_mode()
    def logits(self, levels: Tensor) -> Tensor:  # noqa: D102
        prepared = prepare_features(levels[..., -len(self.mean) :], self.mean)
        embedding = unit_rows(self.landmarks.extend(prepared.flatten(0, 2)))
        return self.centroids.logits(torch.from_numpy(embedding)).unflatten(0, levels.shape[:3])

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        landmarks = self.landmarks
        return super().tensors() | {
            "landmarks": landmarks.features,
            "eigenvalues": torch.from_numpy(landmarks.eigenvalues),
            "eigenvectors": torch.from_numpy(landmarks.eigenvectors),
            "degrees": torch.from_numpy(landmarks.degrees),
            "neighbors": torch.tensor(landmarks.neighbors),
            "mean": self.mean,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], psi: Eigenfunctions | None, config: Config) -> Self:  # noqa: D102
        landmarks = LandmarkEigenvectors(
            tensors["landmarks"],
            *(tensors[name].numpy() for name in ("eigenvalues", "eigenvectors", "degrees")),
            int(tensors["neighbors"]),
        )
        return cls(landmarks, Centroids(tensors["centroids"].numpy()), tensors["mean"])


@dataclass(frozen=True)
class EigenfunctionHead(FittedHead):
    """Argmax of psi ("Ours").

    Attributes:
        psi: The trained network.
        precision: Precision of its blocks.
        softmax_temperature: The last temperature of its training, as in the official code.
    """

    psi: Eigenfunctions
    precision: Precision
    softmax_temperature: float

    @torch.inference_mode()
    def logits(self, levels: Tensor) -> Tensor:  # noqa: D102
        hidden = hidden_features(self.psi, levels, self.precision)
        return F.linear(hidden, self._weight, self.psi.head.bias).cpu()

    @cached_property
    def _weight(self) -> Tensor:
        """The orthonormal rows of psi's last layer, ``(K, width)``, which itself decomposes a matrix at every call."""
        return self.psi.head.weight.detach()

    @property
    def num_clusters(self) -> int:  # noqa: D102
        return self.psi.head.out_features

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        return {}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], psi: Eigenfunctions | None, config: Config) -> Self:  # noqa: D102
        return cls(psi, config.precision, config.temperature_end)


@dataclass(frozen=True)
class HiddenKMeans(KMeansHead):
    """K-means on the hidden features that feed psi's head ("Ours*")."""

    psi: Eigenfunctions
    centroids: Centroids
    precision: Precision = "float32"

    @torch.inference_mode()
    def logits(self, levels: Tensor) -> Tensor:  # noqa: D102
        return self.centroids.logits(hidden_features(self.psi, levels, self.precision).cpu())

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], psi: Eigenfunctions | None, config: Config) -> Self:  # noqa: D102
        return cls(psi, Centroids(tensors["centroids"].numpy()), config.precision)


@torch.inference_mode()
def hidden_features(psi: Eigenfunctions, levels: Tensor, precision: Precision) -> Tensor:
    """What feeds psi's head, float32: ``(images, h, w, sum C)`` to ``(images, h, w, width)``.

    ``precision`` is that of the blocks; logits and distances are left to float32, whose rounding decides no argmax.
    They are on psi's device, wherever the levels lie.
    """
    with autocast(precision, psi.device):
        hidden = psi.hidden(levels.flatten(1, 2))
    return hidden.float().unflatten(1, levels.shape[1:3])


def prepare_features(features: Tensor, mean: Tensor | None) -> Tensor:
    """Centre and scale to unit length; with no mean, the features as they are. ``(..., C)`` to the same shape."""
    return features if mean is None else F.normalize(features - mean, dim=-1)


def fit_feature_kmeans(
    store: FeatureStore,
    config: Config,
    *,
    num_clusters: int,
    seed: int,
    centred: bool,
    restarts: int = 1,
    progress: bool = True,
) -> FeatureKMeans:
    """The K-means baseline, fitted on training features: as they are, or ``centred`` and of unit length."""
    mean = high_mean(store) if centred else None
    points = _sample_prepared(store, config.kmeans_patches, seed, mean, progress=progress)
    centroids = fit_kmeans(points, num_clusters, seed=seed, iterations=config.kmeans_iterations, restarts=restarts)
    return FeatureKMeans(centroids, store.channels[-1], mean)


def fit_pca_kmeans(
    store: FeatureStore, config: Config, *, num_clusters: int, seed: int, progress: bool = True
) -> PCAKMeans:
    """K-means on the first ``pca_channels`` principal components of the centred training features of unit length.

    Raises:
        InputError: If there are fewer channels or patches than components.
    """
    from sklearn.decomposition import PCA  # takes a second or two, and only this needs it

    mean = high_mean(store)
    points = _sample_prepared(store, config.kmeans_patches, seed, mean, progress=progress)
    if config.pca_channels > min(points.shape):
        raise InputError(
            f"pca_channels is {config.pca_channels}, but {len(points)} patches of {points.shape[1]} channels have "
            f"{min(points.shape)} principal components; lower pca_channels"
        )
    pca = PCA(config.pca_channels, random_state=seed).fit(points)
    components = torch.from_numpy(pca.components_.astype(np.float32))
    offset = torch.from_numpy(pca.mean_.astype(np.float32)) @ components.T
    projected = (torch.from_numpy(points) @ components.T - offset).numpy()
    centroids = fit_kmeans(projected, num_clusters, seed=seed, iterations=config.kmeans_iterations)
    return PCAKMeans(centroids, mean, components, offset)


def fit_spectral(
    store: FeatureStore, config: Config, *, num_clusters: int, seed: int, progress: bool = True
) -> SpectralHead:
    """Spectral clustering with as many eigenvectors as clusters, over ``spectral_landmarks`` training patches."""
    mean = high_mean(store)
    points = torch.from_numpy(_sample_prepared(store, config.spectral_landmarks, seed, mean, progress=progress))
    landmarks = landmark_eigenvectors(points, num_clusters, neighbors=config.spectral_neighbors)
    centroids = fit_kmeans(
        unit_rows(landmarks.eigenvectors),
        num_clusters,
        seed=seed,
        iterations=config.kmeans_iterations,
        restarts=RESTARTS,
    )
    return SpectralHead(landmarks, centroids, mean)


def fit_hidden_kmeans(
    store: FeatureStore, psi: Eigenfunctions, config: Config, *, num_clusters: int, seed: int, progress: bool = True
) -> HiddenKMeans:
    """ "Ours*": K-means on psi's hidden features, fitted on training data."""
    points = sample_hidden(store, psi, config, seed, progress=progress)
    centroids = fit_kmeans(points, num_clusters, seed=seed, iterations=config.kmeans_iterations)
    return HiddenKMeans(psi, centroids, config.precision)


def sample_hidden(store: FeatureStore, psi: Eigenfunctions, config: Config, seed: int, *, progress: bool) -> np.ndarray:
    """psi's hidden features of at most ``kmeans_patches`` patches of a store, shape ``(N, width)``, float32."""
    return _sample(
        store,
        config.kmeans_patches,
        seed,
        lambda rows: hidden_features(psi, store.levels(rows), config.precision),
        progress=progress,
    )


def high_mean(store: FeatureStore) -> Tensor:
    """Mean of the high level over all patches of a store, shape ``(C,)``."""
    return store.channel_statistics[0][-store.channels[-1] :]


def _passes(images: np.ndarray) -> list[np.ndarray]:
    return [images[start : start + IMAGES_PER_PASS] for start in range(0, len(images), IMAGES_PER_PASS)]


def _sample_prepared(
    store: FeatureStore, patches: int, seed: int, mean: Tensor | None, *, progress: bool
) -> np.ndarray:
    return _sample(store, patches, seed, lambda rows: prepare_features(store.high(rows), mean), progress=progress)


def _sample(store: FeatureStore, patches: int, seed: int, features_of, *, progress: bool) -> np.ndarray:
    """Features of at most ``patches`` patches, evenly many from each image, shape ``(N, C)``, float32.

    Wide features are of fewer patches, :data:`SAMPLED_NUMBERS` numbers in all, but of one from each image. Of more
    images than ``patches``, as many are taken at even distances, and a patch from each.
    """
    per_image = store.grid[0] * store.grid[1]
    images = np.arange(min(len(store), patches)) * len(store) // min(len(store), patches)
    rng = np.random.default_rng(seed)
    points, kept, filled = np.empty((0, 0), dtype=np.float32), 0, 0
    for rows in tqdm(_passes(images), desc="patches to cluster", unit="batch", disable=not progress):
        features = features_of(rows).flatten(1, -2).cpu().numpy()  # (images, T, C)
        if not filled:
            kept = min(per_image, max(1, min(patches, SAMPLED_NUMBERS // features.shape[-1]) // len(images)))
            points = np.empty((len(images) * kept, features.shape[-1]), dtype=np.float32)
        for image in features:
            chosen = np.sort(rng.choice(per_image, kept, replace=False))
            points[filled : filled + kept] = image[chosen]
            filled += kept
    return points
