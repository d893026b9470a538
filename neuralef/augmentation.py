r"""Random crops of the training photographs and their features, computed at every step (paper, 4.1).

Segmenter's augmentations, in its order: a photograph is resized by a ratio of 0.5 to 2 of the protocol's short side,
cropped at random, flipped with probability 1/2, distorted in its colours, and padded on the right and below with what
is zero after the backbone's normalisation. Resizing and colours are torchvision's; they differ from mmseg's in that
shrinking averages, and that saturation is a blend with grey instead of a factor in HSV.

The official loader draws a crop again while one class covers more than three quarters of it (``cat_max_ratio``). That
looks at ground truth, and is not done here: photographs are all that this module reads.

**Padding.** A patch that is padding by more than half leaves the kernel: it is no node of either graph, and has no row
in the L2 batch norm and the objective. psi still reads it as a token, as the backbone does, whose attention has mixed
it into all others before. In the official code padded patches enter the graph (paper facts, section 4, item 12);
``mask_padding = False`` repeats that.

What happens to an image is a function of seed, step and its place in the batch, so that a resumed run goes on with the
same crops.

References:
    Strudel et al., *Segmenter: Transformer for Semantic Segmentation*, arXiv:2105.05633; ``PhotoMetricDistortion`` of
    mmseg, after Liu et al., *SSD*, arXiv:1512.02325.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuralef.backbones import Backbone
from neuralef.config import Config
from neuralef.errors import InputError
from neuralef.features import ALL, patch_colours

RESIZE_RATIOS = (0.5, 2.0)
BRIGHTNESS = 32 / 255
CONTRAST = SATURATION = (0.5, 1.5)
HUE = 18 / 180

STREAM = 2
"""Keeps these random numbers apart from the others that training draws for the same seed and step."""


class AugmentedBatch(NamedTuple):
    """Patches of a mini-batch.

    Attributes:
        levels: Features of all levels, float32 ``(images, h, w, sum C)``.
        colours: The crops at patch resolution, float32 ``(images, h, w, 3)``, in [0, 1].
        kept: Patches that take part in the kernel, bool ``(images, h, w)``; ``None``: all.
    """

    levels: Tensor
    colours: Tensor
    kept: Tensor | None


@dataclass(frozen=True)
class View:
    """Random changes to one image.

    Attributes:
        ratio: Shorter side of the resized image over the protocol's.
        top: Place of the crop's first row, from 0 (at the top) to below 1 (as low as the crop can lie).
        left: Place of the crop's first column, from 0 (at the left) to below 1 (as far right as the crop can lie).
        flip: Whether left and right change places.
        brightness: Amount added to every channel, whose values are in [0, 1]; ``None``: no change.
        contrast: Factor of every channel; ``None``: no change.
        saturation: Factor of the distance from grey; ``None``: no change.
        hue: Turn of the colour circle, 1 being a whole one; ``None``: no change.
        contrast_first: Whether contrast comes before saturation and hue, or after.
    """

    ratio: float
    top: float
    left: float
    flip: bool
    brightness: float | None
    contrast: float | None
    saturation: float | None
    hue: float | None
    contrast_first: bool


def view_at(seed: int, step: int, place: int) -> View:
    """The view of the image at a place of the batch of a step."""
    return draw_view(np.random.default_rng([seed, step, STREAM, place]))


def draw_view(rng: np.random.Generator) -> View:
    """A random view; each change of colour has probability 1/2."""
    ratio, (top, left), flip = rng.uniform(*RESIZE_RATIOS), rng.random(2), bool(rng.random() < 0.5)
    ranges = (-BRIGHTNESS, BRIGHTNESS), CONTRAST, SATURATION, (-HUE, HUE)
    # Every number is drawn, wanted or not, so that none depends on another.
    colours = [value if wanted else None for wanted, value in [(rng.random() < 0.5, rng.uniform(*r)) for r in ranges]]
    return View(ratio, top, left, flip, *colours, contrast_first=bool(rng.random() < 0.5))


def apply_view(image: np.ndarray, view: View, short_side: int, crop_size: int) -> Tensor:
    """Resize, crop, flip and distort an image.

    Args:
        image: RGB image, shape ``(H, W, 3)``, uint8.
        view: Changes to make.
        short_side: Length in pixels to which ratio 1 resizes the shorter side.
        crop_size: Side of the square crop in pixels.

    Returns:
        The crop, float32 ``(3, h, w)`` in [0, 1]; h and w are at most ``crop_size``, less where the resized image is
        smaller.
    """
    from torchvision.transforms.v2 import functional as tv  # takes seconds, and stored features need no crops

    size, rows, columns = placed(image.shape[:2], view, short_side, crop_size)
    pixels = tv.resize(torch.tensor(image).permute(2, 0, 1), size, antialias=True)[:, rows, columns]
    if view.flip:
        pixels = tv.horizontal_flip(pixels)
    return distort_colours(pixels.float() / 255, view)


def placed(size: tuple[int, int], view: View, short_side: int, crop_size: int) -> tuple[tuple[int, int], slice, slice]:
    """Size ``(H, W)`` to which a view resizes an image of some size, and rows and columns of it that are the crop."""
    scale = view.ratio * short_side / min(size)
    resized = tuple(max(1, int(side * scale + 0.5)) for side in size)
    kept = [min(side, crop_size) for side in resized]
    first = [int(place * (side - k + 1)) for place, side, k in zip((view.top, view.left), resized, kept, strict=True)]
    rows, columns = (slice(start, start + k) for start, k in zip(first, kept, strict=True))
    return resized, rows, columns


def distort_colours(pixels: Tensor, view: View) -> Tensor:
    """Brightness, contrast, saturation and hue of a view: ``(3, h, w)`` in [0, 1] to the same."""
    from torchvision.transforms.v2 import functional as tv

    if view.brightness is not None:
        pixels = (pixels + view.brightness).clamp(0, 1)
    if view.contrast is not None and view.contrast_first:
        pixels = tv.adjust_brightness(pixels, view.contrast)  # which is a factor; its "contrast" keeps the mean
    if view.saturation is not None:
        pixels = tv.adjust_saturation(pixels, view.saturation)
    if view.hue is not None:
        pixels = tv.adjust_hue(pixels, view.hue)
    if view.contrast is not None and not view.contrast_first:
        pixels = tv.adjust_brightness(pixels, view.contrast)
    return pixels


@dataclass(frozen=True)
class AugmentedPhotographs:
    """The training photographs, seen anew at every step.

    Attributes:
        read: Function from an image's id to the image, uint8 ``(H, W, 3)``.
        ids: Ids of the training images, in the order of their feature store.
        backbone: Backbone that gives the features of the crops.
        crop_size: Side of the crops in pixels, a multiple of the patch.
        short_side: Length in pixels to which ratio 1 resizes the shorter side of an image.
        config: Hyper-parameters, of which ``precision`` and ``mask_padding`` are read.
        ahead: Whether the crops of the next step are made, on all processors, while a GPU takes this one.
    """

    read: Callable[[str], np.ndarray]
    ids: Sequence[str]
    backbone: Backbone
    crop_size: int
    short_side: int
    config: Config
    ahead: bool = False
    _begun: dict[tuple[int, int], Future] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across a crop."""
        return (self.crop_size // self.backbone.patch_size,) * 2

    def begin(self, chosen: np.ndarray, *, seed: int, step: int) -> None:
        """Make the crops of a later batch in the background if :attr:`ahead`; :meth:`batch` then finds them."""
        if self.ahead:
            background = ThreadPoolExecutor(1)
            self._begun[seed, step] = background.submit(self.crops, chosen, seed=seed, step=step)
            background.shutdown(wait=False)

    def batch(
        self, chosen: np.ndarray, rows: slice = ALL, columns: slice = ALL, *, seed: int, step: int
    ) -> AugmentedBatch:
        """Features of random crops of some images.

        Args:
            chosen: Positions in ``ids``, one for each crop, shape ``(images,)``.
            rows: Rows of the patch grid to return of each crop.
            columns: Columns of the patch grid to return of each crop.
            seed: Seed of the run.
            step: Number of the optimisation step, from 0.

        Raises:
            InputError: If a feature exceeds float16, in which stored ones are kept.
        """
        begun = self._begun.pop((seed, step), None)
        crops, real = begun.result() if begun else self.crops(chosen, seed=seed, step=step)
        # Rounded as a feature store rounds them.
        levels = self.backbone(crops, precision=self.config.precision)[:, rows, columns].half()
        if not levels.isfinite().all():
            raise InputError(f"features of a crop at step {step} exceed float16; use another level or norm")
        kept = F.avg_pool2d(real.float(), self.backbone.patch_size)[:, rows, columns] >= 0.5
        colours = patch_colours(crops, self.grid)[:, rows, columns].half().float()
        return AugmentedBatch(levels.float(), colours, kept if self.config.mask_padding else None)

    def crops(self, chosen: np.ndarray, *, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """The padded crops, float32 ``(images, 3, H, W)`` in [0, 1], and a mask of the pixels that are not padding."""
        shape = (len(chosen), 3, self.crop_size, self.crop_size)
        crops = self.backbone.mean.cpu().expand(shape).clone()
        real = torch.zeros(shape[0], *shape[2:], dtype=torch.bool)

        def crop(place: int) -> Tensor:
            view = view_at(seed, step, place)
            return apply_view(self.read(self.ids[chosen[place]]), view, self.short_side, self.crop_size)

        with ThreadPoolExecutor(os.cpu_count() if self.ahead else 1) as pool:
            for place, pixels in enumerate(pool.map(crop, range(len(chosen)))):
                _, height, width = pixels.shape
                crops[place, :, :height, :width] = pixels
                real[place, :height, :width] = True
        return crops, real
