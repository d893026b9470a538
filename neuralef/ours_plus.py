r""" "Ours+": what helps psi's hidden features without a label and without more training, put together.

psi is the one that "Ours" trains. What is added, each measured alone in notebook ``35``, and once more without psi, on
the backbone's own features (``kmeans_plus``), to tell what the parts are worth from what psi is worth:

* **Views.** The backbone sees every image four times, shifted by half a patch, and the four grids are interleaved to
  one of twice the side (:func:`neuralef.features.shifted_levels`).
* **Angles.** K-means on centred hidden features of unit length, the best of five starts by inertia.
* **Diffusion.** Each patch takes the mean of the patches of its image, weighted by the likeness of what psi says of
  them: one step of a random walk on the image's own graph of hidden features,
  :math:`\tilde h = \mathrm{softmax}(U U^\top / \tau)\, h`.
* **Guided up-sampling** (:mod:`neuralef.upsampling`) in place of bilinear.

The settings were chosen on training frames of CamVid that took no part in any fit, by their labels; photographs of
Stanford Background had no say. What was tried and left out is in notebook ``35`` as well.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from neuralef.clustering import KMeansHead, fit_feature_kmeans, hidden_features, prepare_features, sample_hidden
from neuralef.config import Config
from neuralef.eigenfunctions import Eigenfunctions
from neuralef.features import FeatureStore
from neuralef.kmeans import Centroids, fit_kmeans
from neuralef.precision import Precision
from neuralef.spectral import RESTARTS
from neuralef.upsampling import Guide

VIEWS = 2
"""Shifted views along each side of the image."""

TEMPERATURE = 0.1
"""Temperature of the diffusion: patches whose cosines differ by this differ in weight by a factor e."""


@dataclass(frozen=True, kw_only=True)
class PartsHead(KMeansHead):
    """K-means on angles of a patch's features, with the parts of the recipe that act on a new image.

    Attributes:
        centroids: Centroids of the prepared features, shape ``(K, C)``.
        mean: Training mean of the features, shape ``(C,)``.
        views: Number of shifted views along each side of the image; 1: the image as it is.
        temperature: Temperature of the diffusion; ``None``: no diffusion.
        guide: Guide of the up-sampling; ``None``: bilinear up-sampling.
    """

    centroids: Centroids
    mean: Tensor
    views: int = VIEWS
    temperature: float | None = TEMPERATURE
    guide: Guide | None = field(default_factory=Guide)

    @abstractmethod
    def features(self, levels: Tensor) -> Tensor:
        """What is clustered: all levels ``(images, h, w, sum C)`` to ``(images, h, w, C)``, float32, in host memory."""

    @torch.inference_mode()
    def logits(self, levels: Tensor) -> Tensor:  # noqa: D102 (inherited)
        prepared = prepare_features(self.features(levels), self.mean)
        if self.temperature is not None:
            prepared = F.normalize(diffuse(prepared, self.temperature), dim=-1)
        return self.centroids.logits(prepared)

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        return super().tensors() | {"mean": self.mean}


@dataclass(frozen=True, kw_only=True)
class PlusHead(PartsHead):
    """ "Ours+": the parts on psi's hidden features.

    Attributes:
        psi: psi, trained as for "Ours".
        precision: Precision of psi's blocks.
    """

    psi: Eigenfunctions
    precision: Precision = "float32"

    def features(self, levels: Tensor) -> Tensor:  # noqa: D102
        return hidden_features(self.psi, levels, self.precision).cpu()

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], psi: Eigenfunctions | None, config: Config) -> Self:  # noqa: D102
        centroids = Centroids(tensors["centroids"].numpy())
        return cls(psi=psi, centroids=centroids, mean=tensors["mean"], precision=config.precision)


@dataclass(frozen=True, kw_only=True)
class FeaturePlusHead(PartsHead):
    """The parts on the high level of the backbone: what they are worth where there is no psi."""

    def features(self, levels: Tensor) -> Tensor:  # noqa: D102
        return levels[..., -len(self.mean) :]

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], psi: Eigenfunctions | None, config: Config) -> Self:  # noqa: D102
        return cls(centroids=Centroids(tensors["centroids"].numpy()), mean=tensors["mean"])


def diffuse(features: Tensor, temperature: float) -> Tensor:
    r"""One step of the random walk on each image's own similarity graph.

    Cosines are taken after the image's mean is removed: what all of its patches share says nothing about which of them
    belong together.

    Args:
        features: Features of the patches, shape ``(images, h, w, C)``.
        temperature: Temperature :math:`\tau`; towards 0 every patch keeps its own features.

    Returns:
        Means of the features weighted by :math:`\mathrm{softmax}(U U^\top / \tau)`, of the same shape.
    """
    patches = features.flatten(1, 2)
    directions = F.normalize(patches - patches.mean(dim=1, keepdim=True), dim=-1)
    # The softmax and the mean in one, which never holds the weights of all pairs of patches.
    mean = F.scaled_dot_product_attention(directions, directions, patches, scale=1 / temperature)
    return mean.unflatten(1, features.shape[1:3])


def fit_plus(
    store: FeatureStore, psi: Eigenfunctions, config: Config, *, num_clusters: int, seed: int, progress: bool = True
) -> PlusHead:
    """K-means on centred hidden features of unit length, fitted on training features as they are stored."""
    hidden = sample_hidden(store, psi, config, seed, progress=progress)
    mean = torch.from_numpy(hidden.mean(axis=0))
    prepared = prepare_features(torch.from_numpy(hidden), mean).numpy()
    centroids = fit_kmeans(prepared, num_clusters, seed=seed, iterations=config.kmeans_iterations, restarts=RESTARTS)
    return PlusHead(psi=psi, centroids=centroids, mean=mean, precision=config.precision)


def fit_feature_plus(
    store: FeatureStore, config: Config, *, num_clusters: int, seed: int, progress: bool = True
) -> FeaturePlusHead:
    """K-means on the centred high level at unit length, the best of as many starts as for "Ours+"."""
    found = fit_feature_kmeans(
        store, config, num_clusters=num_clusters, seed=seed, centred=True, restarts=RESTARTS, progress=progress
    )
    return FeaturePlusHead(centroids=found.centroids, mean=found.mean)
