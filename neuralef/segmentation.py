"""Segmenter: image in, cluster map out, for every method (paper, 3.5, 3.6 and 4.1)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from neuralef import loops
from neuralef.backbones import Backbone
from neuralef.clustering import ClusterHead
from neuralef.crf import CRFMode, dense_crf, refine
from neuralef.datasets.crops import crop_image
from neuralef.features import FeatureStore, patch_colours, shifted_levels, to_tensor
from neuralef.precision import Precision
from neuralef.protocols import Sliding, WindowLogits, source_positions
from neuralef.upsampling import guided_map


def cluster_map(logits: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Up-sample the logits of one image bilinearly to pixels and take the argmax; no up-sampled logits are kept.

    Args:
        logits: Logits of the patches, shape ``(h, w, K)``.
        size: Height and width of the map in pixels, ``(H, W)``.

    Returns:
        Cluster of every pixel, shape ``(H, W)``, uint16.
    """
    clusters = np.zeros(size, dtype=np.uint16)
    rows, columns = (source_positions(pixels, patches) for pixels, patches in zip(size, logits.shape, strict=False))
    loops.largest_of_upsampled(logits.contiguous().numpy(), *rows, *columns, clusters)
    return clusters


@dataclass(frozen=True)
class Segmenter:
    """A frozen backbone and a fitted head.

    Attributes:
        backbone: Backbone that gives patch features.
        head: Head that turns patch features into cluster logits.
        crop_size: Side of the square of the 320-crop protocol in pixels, and the length that the shorter side of a
            whole image is resized to.
        precision: Precision of the backbone.
        sliding: Windows that whole images are cut into; ``None``: they are seen in one piece.
        crf: Whether a dense CRF follows, and which image it sees.

    A head's guide serves images in one piece without a CRF; merged windows and the CRF have pixels of their own.
    """

    backbone: Backbone
    head: ClusterHead
    crop_size: int
    precision: Precision = "float32"
    sliding: Sliding | None = None
    crf: CRFMode = "none"

    def crop(self, image: np.ndarray) -> np.ndarray:
        """Clusters of the central square, as the 320-crop protocol evaluates them.

        Args:
            image: RGB image, shape ``(H, W, 3)``, uint8.

        Returns:
            Cluster of every pixel, shape ``(crop_size, crop_size)``, uint16.
        """
        square = crop_image(image, self.crop_size)
        if self.crf == "none":
            return self._segment(square, square.shape[:2])
        (logits,) = _window_logits([self], square, square.shape[:2])
        return dense_crf(logits.probabilities(), square, self.crf)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Clusters of a whole image at its own resolution.

        In one piece, the image is resized so that its shorter side is ``crop_size``; its edge is repeated where a side
        is no multiple of the patch. Windows are padded inside the backbone, as in the official code.

        Args:
            image: RGB image, shape ``(H, W, 3)``, uint8.

        Returns:
            Cluster of every pixel, shape ``(H, W)``, uint16.
        """
        if self.sliding is None and self.crf == "none":
            return self._segment(_resized(image, self._whole(image)), image.shape[:2])
        logits = self.logits(image)
        return logits.clusters() if self.crf == "none" else dense_crf(logits.probabilities(), image, self.crf)

    def logits(self, image: np.ndarray) -> WindowLogits:
        """What the clusters of a whole image ``(H, W, 3)`` derive from, before windows are merged."""
        return joint_logits([self], image)[0]

    def _whole(self, image: np.ndarray) -> tuple[int, int]:
        scale = self.crop_size / min(image.shape[:2])
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        return height, width

    def _patches(self, image: np.ndarray) -> tuple[Tensor, Tensor]:
        """What the head sees of an image and of its padding: features and colours of the patches."""
        pixels = to_tensor(image[None])
        height, width = self._padded(image)
        whole = F.pad(pixels, (0, width - image.shape[1], 0, height - image.shape[0]), mode="replicate")
        # Windows are left to the backbone, which pads by zeros after normalisation, as the official code does. Zeros
        # put a strip of other clusters along the edge of a photograph; and views need pixels to shift.
        official = self.sliding is not None and self.head.views == 1
        levels = shifted_levels(self.backbone, pixels if official else whole, self.head.views, self.precision)
        return levels, patch_colours(whole, levels.shape[1:3]).half().float()  # as a feature store rounds them

    def _padded(self, image: np.ndarray) -> tuple[int, int]:
        """Sides that the grid of patches covers."""
        patch = self.backbone.patch_size
        height, width = (-(-side // patch) * patch for side in image.shape[:2])
        return height, width

    def _segment(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        logits = self.head.image_logits(*self._patches(image))[0]
        # The grid covers the padding as well: up-sample over all of it, keep the image, then go to its size.
        padded = self._padded(image)
        if self.head.guide:
            margins = [(0, whole - side) for whole, side in zip(padded, image.shape[:2], strict=True)]
            clusters = guided_map(logits, np.pad(image, (*margins, (0, 0)), mode="edge"), self.head.guide)
        else:
            clusters = cluster_map(logits, padded)
        clusters = clusters[: image.shape[0], : image.shape[1]]
        if clusters.shape == size:
            return clusters
        return np.asarray(Image.fromarray(clusters).resize((size[1], size[0]), Image.Resampling.NEAREST)).astype(
            np.uint16
        )


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image ``(H, W, 3)`` brought to ``size`` (antialiased bilinear)."""
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def joint_logits(segmenters: Sequence[Segmenter], image: np.ndarray) -> list[WindowLogits]:
    """:meth:`Segmenter.logits` of several segmenters; every window passes the backbone once for all of them.

    Args:
        segmenters: Alike but for their heads.
        image: Whole image, uint8 ``(H, W, 3)``.
    """
    first, size = segmenters[0], image.shape[:2]
    if first.sliding is None:
        return _window_logits(segmenters, _resized(image, first._whole(image)), size)
    return _window_logits(segmenters, _resized(image, first.sliding.resized(size)), size, first.sliding)


def _window_logits(
    segmenters: Sequence[Segmenter], image: np.ndarray, size: tuple[int, int], sliding: Sliding | None = None
) -> list[WindowLogits]:
    """Logits of the windows of a resized image, one after the other; without ``sliding`` it is one window."""
    resized = image.shape[:2]
    window = (sliding.window,) * 2 if sliding else resized
    corners = sliding.corners(resized) if sliding else ((0, 0),)
    found: list[list[np.ndarray]] = [[] for _ in segmenters]
    for y, x in corners:
        part, patches = image[y : y + window[0], x : x + window[1]], {}
        for segmenter, logits in zip(segmenters, found, strict=True):
            views = segmenter.head.views
            if views not in patches:
                patches[views] = segmenter._patches(part)
            logits.append(segmenter.head.image_logits(*patches[views])[0].numpy())
    covered = segmenters[0]._padded(image[: window[0], : window[1]])
    return [
        WindowLogits(
            logits=np.stack(logits),
            corners=corners,
            window=window,
            covered=covered,
            resized=resized,
            size=size,
            temperature=segmenter.head.softmax_temperature,
            device=segmenter.backbone.device,
        )
        for segmenter, logits in zip(segmenters, found, strict=True)
    ]


def segment_images(
    segmenter: Segmenter, pictures: Iterable[tuple[str, np.ndarray]]
) -> Iterator[tuple[str, np.ndarray]]:
    """Cluster maps of whole images at their own resolution, as of the segmenter itself; a CRF runs in processes.

    Args:
        segmenter: Segmenter to apply.
        pictures: Name and image, uint8 ``(H, W, 3)``, of each.

    Yields:
        Name and clusters, ``(H, W)``, uint16, in the order of ``pictures``.
    """
    if segmenter.crf == "none":
        yield from ((name, segmenter(image)) for name, image in pictures)
    else:
        yield from merged_maps(((name, segmenter.logits(image), image) for name, image in pictures), segmenter.crf)


def segment_store(
    head: ClusterHead, store: FeatureStore, crop: Callable[[str], np.ndarray], *, start: int = 0
) -> Iterator[tuple[str, np.ndarray]]:
    """Cluster maps of the crops of a feature store, one image at a time; :meth:`Segmenter.crop` up to float16.

    Args:
        head: Head that gives the logits.
        store: Features of the images.
        crop: Function from an image's id to its crop, uint8 ``(crop_size, crop_size, 3)``; called only for heads with a
            guide.
        start: Number of images to pass over.

    Yields:
        Image id, and clusters of shape ``(crop_size, crop_size)``, uint16.
    """
    for image_id, logits in _store_logits(head, store, start):
        if head.guide:
            yield image_id, guided_map(logits, crop(image_id), head.guide)
        else:
            yield image_id, cluster_map(logits, (store.crop_size, store.crop_size))


def store_windows(head: ClusterHead, store: FeatureStore, *, start: int = 0) -> Iterator[tuple[str, WindowLogits]]:
    """Image ids and logits of the crops of a feature store from number ``start`` on, each crop being one window."""
    crop = (store.crop_size, store.crop_size)
    for image_id, logits in _store_logits(head, store, start):
        yield (
            image_id,
            WindowLogits(
                logits=logits.numpy()[None],
                corners=((0, 0),),
                window=crop,
                covered=crop,
                resized=crop,
                size=crop,
                temperature=head.softmax_temperature,
            ),
        )


def merged_maps(
    pictures: Iterable[tuple[str, WindowLogits, np.ndarray]], mode: CRFMode
) -> Iterator[tuple[str, np.ndarray]]:
    """Cluster maps of images whose windows have logits, after a dense CRF where one is asked for.

    Args:
        pictures: Id of every image, its logits, and the image at the resolution of the result, uint8 ``(H, W, 3)``.
        mode: Mode of the CRF, which runs in as many processes as there are processors.

    Yields:
        Image id and clusters, ``(H, W)``, uint16, in the order of ``pictures``.
    """
    if mode != "none":
        yield from refine(pictures, mode)
        return
    for image_id, logits, _ in pictures:
        yield image_id, logits.clusters()


def _store_logits(head: ClusterHead, store: FeatureStore, start: int) -> Iterator[tuple[str, Tensor]]:
    for index, image_id in enumerate(store.ids[start:], start):
        one = slice(index, index + 1)
        yield image_id, head.image_logits(store.levels(one), store.colours(one))[0]
