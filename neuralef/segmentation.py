"""Segmenter: photograph in, cluster map out, for every method (paper, 3.5 and 3.6)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from neuralef import loops
from neuralef.backbones import Backbone, Precision
from neuralef.clustering import ClusterHead
from neuralef.datasets.crops import crop_image
from neuralef.features import FeatureStore, to_tensor
from neuralef.graph import patch_colours


def cluster_map(logits: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Up-sample the logits of one image bilinearly to pixels and take the argmax; no up-sampled logits are kept.

    Args:
        logits: Shape ``(h, w, K)``.
        size: Pixels ``(H, W)``.

    Returns:
        Cluster of every pixel, shape ``(H, W)``, uint16.
    """
    clusters = np.zeros(size, dtype=np.uint16)
    rows, columns = (_source_positions(pixels, patches) for pixels, patches in zip(size, logits.shape, strict=False))
    loops.largest_of_upsampled(logits.contiguous().numpy(), *rows, *columns, clusters)
    return clusters


def _source_positions(pixels: int, patches: int) -> tuple[np.ndarray, np.ndarray]:
    """Patch before each pixel and weight of the one after it, as ``F.interpolate`` without ``align_corners`` has it."""
    position = np.maximum((np.arange(pixels) + 0.5) * (patches / pixels) - 0.5, 0)
    before = np.floor(position).astype(np.int64)
    return before, (position - before).astype(np.float32)


@dataclass(frozen=True)
class Segmenter:
    """A frozen backbone and a fitted head.

    Attributes:
        backbone: Gives patch features.
        head: Turns them into cluster logits.
        crop_size: Side of the square of the 320-crop protocol, and the shorter side photographs are resized to.
        precision: Of the backbone.
    """

    backbone: Backbone
    head: ClusterHead
    crop_size: int
    precision: Precision = "float32"

    def crop(self, image: np.ndarray) -> np.ndarray:
        """Clusters of the central square, as the 320-crop protocol evaluates them.

        Args:
            image: Shape ``(H, W, 3)``, uint8.

        Returns:
            Shape ``(crop_size, crop_size)``, uint16.
        """
        return self._segment(crop_image(image, self.crop_size), (self.crop_size, self.crop_size))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Clusters of a whole photograph at its own resolution.

        The photograph is resized so that its shorter side is ``crop_size``; sides that are no multiple of the patch are
        padded inside the backbone.

        Args:
            image: Shape ``(H, W, 3)``, uint8.

        Returns:
            Shape ``(H, W)``, uint16.
        """
        height, width = image.shape[:2]
        scale = self.crop_size / min(height, width)
        shape = (max(1, round(width * scale)), max(1, round(height * scale)))
        resized = np.asarray(Image.fromarray(image).resize(shape, Image.Resampling.BILINEAR))
        return self._segment(resized, (height, width))

    def _segment(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        pixels = to_tensor(image[None])
        levels = self.backbone(pixels, precision=self.precision)
        # The grid covers the padding as well: up-sample over all of it, keep the photograph, then go to its size.
        padded = tuple(side * self.backbone.patch_size for side in levels.shape[1:3])
        whole = F.pad(pixels, (0, padded[1] - image.shape[1], 0, padded[0] - image.shape[0]), mode="replicate")
        colours = patch_colours(whole, levels.shape[1:3]).half().float()  # as a feature store rounds them
        logits = self.head.image_logits(levels, colours)[0]
        clusters = cluster_map(logits, padded)[: image.shape[0], : image.shape[1]]
        if clusters.shape == size:
            return clusters
        return np.asarray(Image.fromarray(clusters).resize((size[1], size[0]), Image.Resampling.NEAREST)).astype(
            np.uint16
        )


def segment_store(head: ClusterHead, store: FeatureStore) -> Iterator[tuple[str, np.ndarray]]:
    """Cluster maps of the crops of a feature store, one image at a time; equal to :meth:`Segmenter.crop`.

    Yields:
        Image id, and clusters of shape ``(crop_size, crop_size)``, uint16.
    """
    for index, image_id in enumerate(store.ids):
        one = slice(index, index + 1)
        logits = head.image_logits(store.levels(one), store.colours(one))[0]
        yield image_id, cluster_map(logits, (store.crop_size, store.crop_size))
