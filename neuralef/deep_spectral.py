r"""Deep Spectral Methods: every image is cut by its own graph, then the segments of all images are clustered.

1. Affinity of an image's patches, :math:`W = \max(F F^\top, 0) + \lambda W_{colour}`, with unit-length features F and
   nearest-neighbour links of colour and position.
2. Eigenvectors of its normalised Laplacian for the smallest eigenvalues: :math:`(D - W) y = \mu D y`.
3. K-means on the eigenvectors, the constant one aside, cuts the image into segments.
4. One feature for each segment; K-means over those of all training images gives the clusters, and the segments of a new
   image go to the nearest centroid.

Deviations: the feature of a segment is the mean of the backbone's high level over its patches, centred and of unit
length as for ``kmeans_centred``, where the authors pass a crop around the segment through the backbone once more; every
image has the same number of segments; nothing is trained on the result afterwards. Colour links are binary, two
searches that weigh colour against position differently: the pixel graph of Eq. 3, which descends from this method, with
this method's numbers of neighbours.

References:
    Melas-Kyriazi, Rupprecht, Laina and Vedaldi, *Deep Spectral Methods: A Surprisingly Strong Baseline for Unsupervised
    Semantic Segmentation and Localization*, CVPR 2022, arXiv:2205.07839.
    Chen, Li and Tang, *KNN Matting*, PAMI 2013.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from neuralef.clustering import KMeansHead, high_mean, prepare_features
from neuralef.config import Config
from neuralef.eigenfunctions import Eigenfunctions
from neuralef.errors import InputError
from neuralef.features import FeatureStore
from neuralef.graph import pixel_graph
from neuralef.kmeans import Centroids, fit_kmeans
from neuralef.spectral import principal_eigenvectors

COLOUR_NEIGHBORS = (20, 10)
COORDINATE_WEIGHTS = (2.0, 0.1)


@dataclass(frozen=True)
class Cut:
    """How an image is cut into segments.

    Attributes:
        eigenvectors: Number of eigenvectors, the constant one aside.
        segments: Number of segments at most.
        colour_weight: Weight of the colour links, the method's lambda; 0 leaves them out.
        seed: Seed of K-means on the eigenvectors.
    """

    eigenvectors: int
    segments: int
    colour_weight: float
    seed: int

    def __call__(self, features: Tensor, colours: Tensor | None) -> np.ndarray:
        """Segments of one image.

        Args:
            features: High level of the image, shape ``(h, w, C)``.
            colours: The image at patch resolution, shape ``(h, w, 3)``, in [0, 1]; not read where ``colour_weight`` is
                0.

        Returns:
            Segment of each patch, shape ``(h, w)``, int64, numbered from 0 without gaps.

        Raises:
            InputError: If the image has too few patches.
        """
        h, w, _ = features.shape
        linked = COLOUR_NEIGHBORS if self.colour_weight else ()
        least = max(self.eigenvectors + 1, self.segments, *linked) + 1
        if h * w < least:
            links = f", with {max(linked)} links of colour," if linked else ""
            raise InputError(
                f"deep_spectral_eigenvectors {self.eigenvectors} and deep_spectral_segments {self.segments}{links} "
                f"need at least {least} patches an image; there are {h * w}; raise image_size or lower them"
            )
        affinity = image_affinity(features, colours, self.colour_weight)
        vectors = laplacian_eigenvectors(affinity, self.eigenvectors + 1)[:, 1:].astype(np.float32)
        found = fit_kmeans(vectors, self.segments, seed=self.seed, threads=1).assign(vectors)
        return np.unique(found, return_inverse=True)[1].reshape(h, w)


def image_affinity(features: Tensor, colours: Tensor | None, colour_weight: float) -> np.ndarray:
    r"""Affinity of the patches of one image, :math:`\max(F F^\top, 0) + \lambda W_{colour}`.

    Args:
        features: Features of the patches, shape ``(h, w, C)``, of any scale.
        colours: The image at patch resolution, shape ``(h, w, 3)``, in [0, 1]; not read where ``colour_weight`` is 0.
        colour_weight: Weight of the colour links, the method's lambda.

    Returns:
        Affinity, shape ``(T, T)`` with ``T = h * w``, float64, symmetric; a patch has affinity 1 to itself.
    """
    unit = F.normalize(features.flatten(0, 1).double(), dim=1)
    affinity = (unit @ unit.T).clamp_min(0).numpy()
    if colour_weight:
        links = pixel_graph(colours[None], neighbors=COLOUR_NEIGHBORS, coordinate_weights=COORDINATE_WEIGHTS)
        affinity += colour_weight * links.toarray()
    return affinity


def laplacian_eigenvectors(affinity: np.ndarray, num_eigenvectors: int) -> np.ndarray:
    r"""Smallest solutions of :math:`(D - W) y = \mu D y`, the constant one first.

    They are :math:`y = D^{-1/2} x` for the principal eigenvectors x of :math:`D^{-1/2} W D^{-1/2}`.

    Args:
        affinity: Affinity, shape ``(T, T)``, symmetric, with positive row sums.
        num_eigenvectors: Number of eigenvectors, below T.

    Returns:
        Eigenvectors as columns, shape ``(T, num_eigenvectors)``, float64, scaled to :math:`y^\top D y = \sum_u D_{uu}`,
        so that each varies by about 1 over the image.
    """
    degree = affinity.sum(axis=1)
    root = np.sqrt(degree)
    _, vectors = principal_eigenvectors(affinity / (root[:, None] * root), num_eigenvectors)
    return vectors / root[:, None] * np.sqrt(degree.sum())


@dataclass(frozen=True)
class DeepSpectralHead(KMeansHead):
    """Segments of an image, each in the cluster of its mean feature ("deep_spectral").

    The method is transductive: there is no function of a patch, every image is cut by eigenvectors of its own, and the
    same patch may fall into another cluster in another image. All patches of a segment have the K-means logits of its
    feature, which are up-sampled as those of other heads are.

    Attributes:
        centroids: Centroids of the segment features, shape ``(K, C)``.
        mean: Training mean of the high level, shape ``(C,)``.
        cut: Rule by which an image is cut.
    """

    centroids: Centroids
    mean: Tensor
    cut: Cut

    def logits(self, levels: Tensor) -> Tensor:
        """:meth:`image_logits` where colours have no weight.

        Raises:
            ValueError: If colours have a weight.
        """
        if self.cut.colour_weight:
            raise ValueError(f"colours have weight {self.cut.colour_weight}; call image_logits with them")
        return self._logits(levels, [None] * len(levels))

    def image_logits(self, levels: Tensor, colours: Tensor) -> Tensor:  # noqa: D102
        return self._logits(levels, colours)

    @torch.inference_mode()
    def _logits(self, levels: Tensor, colours: Tensor | list[None]) -> Tensor:
        images = []
        for high, colour in zip(levels[..., -len(self.mean) :], colours, strict=True):
            segments = self.cut(high, colour)
            of_segments = self.centroids.logits(prepare_features(segment_features(high, segments), self.mean))
            images.append(of_segments[torch.from_numpy(segments)])
        return torch.stack(images)

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        return super().tensors() | {"mean": self.mean, "seed": torch.tensor(self.cut.seed)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], psi: Eigenfunctions | None, config: Config) -> Self:  # noqa: D102
        cut = _cut_of(config, int(tensors["seed"]))
        return cls(Centroids(tensors["centroids"].numpy()), tensors["mean"], cut)


def segment_features(features: Tensor, segments: np.ndarray) -> Tensor:
    """Mean feature of each segment: ``(h, w, C)`` and ``(h, w)`` to ``(segments, C)``, float32."""
    member = torch.from_numpy(segments).flatten()
    sums = torch.zeros(int(member.max()) + 1, features.shape[-1]).index_add_(0, member, features.flatten(0, 1))
    return sums / member.bincount()[:, None]


def fit_deep_spectral(
    store: FeatureStore, config: Config, *, num_clusters: int, seed: int, progress: bool = True
) -> DeepSpectralHead:
    """Cut every training image and cluster the segments of all."""
    mean, cut = high_mean(store), _cut_of(config, seed)
    features = []
    for index in tqdm(range(len(store)), desc="segments", unit="image", disable=not progress):
        one = slice(index, index + 1)
        high = store.high(one)[0]
        features.append(segment_features(high, cut(high, store.colours(one)[0])))
    points = prepare_features(torch.cat(features), mean).numpy()
    centroids = fit_kmeans(points, num_clusters, seed=seed, iterations=config.kmeans_iterations)
    return DeepSpectralHead(centroids, mean, cut)


def _cut_of(config: Config, seed: int) -> Cut:
    return Cut(
        config.deep_spectral_eigenvectors, config.deep_spectral_segments, config.deep_spectral_colour_weight, seed
    )
