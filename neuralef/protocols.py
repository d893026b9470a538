r"""The sliding-window protocol (paper, 4.1, Tables 3 and 4): which windows are cut, and how their logits are merged.

Segmenter's protocol. The shorter side of a photograph is resized; square windows are cut at a stride, the last of a row
or column moved back to the border; the logits of each are up-sampled bilinearly to its pixels and softmaxed, those of
Ours divided by the last temperature of the Gumbel-Softmax, those of K-means as they are. Where windows overlap their
probabilities are averaged; the average is brought to the label's resolution bilinearly, and its argmax is the cluster.

Every probability is computed at its own pixel, but only for some rows at a time: all of them at once would be 2.1 GB
for a photograph of 1024 x 2048 pixels and 256 clusters, before the label's resolution is even reached. What is kept of
an image are its logits at patch resolution.

References:
    Strudel et al., *Segmenter: Transformer for Semantic Segmentation*, arXiv:2105.05633; its code averages the logits
    of windows and takes the softmax afterwards, where this paper's averages softmaxed windows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neuralef.config import Config
from neuralef.errors import InputError

STRIP = 4_000_000
"""Probabilities merged at once, 16 MB of them; with what is up-sampled on the way, some 100 MB."""


@dataclass(frozen=True)
class Sliding:
    """Settings of the protocol, in pixels.

    Attributes:
        short_side: Length that the shorter side of a photograph is resized to; at least the window, as in Segmenter's
            code.
        window: Side of a window, the crop size of training.
        stride: Distance from one window to the next, ``1 .. window``: no pixel may lie between two windows.
    """

    short_side: int
    window: int
    stride: int

    def __post_init__(self) -> None:
        """Raise ``InputError`` for windows that would leave pixels out."""
        if not 1 <= self.stride <= self.window:
            raise InputError(f"window_stride is {self.stride}; it must be 1..{self.window}, the side of a window")

    @classmethod
    def of(cls, config: Config, crop_size: int, dataset: str = "") -> "Sliding":
        """Settings of a configuration; what it leaves open is the paper's for its datasets.

        For other datasets the short side and the window are the crop's side, and the stride is two thirds of a window.

        Args:
            config: Hyper-parameters, which set ``short_side``, ``window`` and ``window_stride`` or leave them open.
            crop_size: Side of the training crops.
            dataset: Name of the dataset; ``cityscapes_19`` and the like count as ``cityscapes``.
        """
        known = next(
            (settings for name, settings in PAPER_SLIDING.items() if dataset.startswith(name)),
            cls(crop_size, crop_size, _two_thirds(crop_size)),
        )
        window = config.window or known.window
        stride = config.window_stride or (known.stride if window == known.window else _two_thirds(window))
        return cls(config.short_side or known.short_side, window, stride)

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Pixels of a photograph of ``(H, W)`` pixels once its shorter side is resized."""
        short = max(self.short_side, self.window)
        scale = short / min(size)
        height, width = (max(short, int(side * scale + 0.5)) for side in size)  # halves go up, as in mmcv
        return height, width

    def corners(self, resized: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Top left pixels ``(y, x)`` of all windows of a resized photograph, row by row."""
        rows, columns = (window_starts(side, self.window, self.stride) for side in resized)
        return tuple((top, left) for top in rows for left in columns)


def _two_thirds(window: int) -> int:
    return max(1, 2 * window // 3)


PAPER_SLIDING = {
    "pascal_context": Sliding(520, 480, 320),
    "cityscapes": Sliding(1024, 768, 512),
    "ade20k": Sliding(512, 512, 512),
}
"""The paper's settings, by dataset (paper, 4.1)."""


def window_starts(length: int, window: int, stride: int) -> tuple[int, ...]:
    """First pixels of the windows along a side: every ``stride``, and the last one moved back to the border.

    Args:
        length: Pixels of the side; where they are fewer than a window, there is one window, the whole side.
        window: Side of a window in pixels.
        stride: Distance from one window to the next in pixels.
    """
    return (*range(0, max(0, length - window), stride), max(0, length - window))


@dataclass(frozen=True, kw_only=True)
class WindowLogits:
    """Logits of the windows of one image at patch resolution, and where they lie.

    Attributes:
        logits: Logits of the patches of every window, shape ``(windows, h, w, K)``, float32.
        corners: Top left pixel ``(y, x)`` of every window in the resized image.
        window: Pixels ``(rows, columns)`` of a window.
        covered: Pixels that the patches of a window cover: the window and what the backbone pads it with, on the right
            and below.
        resized: Pixels ``(H', W')`` of the resized image, which the windows cover together.
        size: Pixels ``(H, W)`` of the result, the label's resolution.
        temperature: Divisor of the logits before the softmax.
        device: Device on which the windows are merged.
    """

    logits: np.ndarray
    corners: tuple[tuple[int, int], ...]
    window: tuple[int, int]
    covered: tuple[int, int]
    resized: tuple[int, int]
    size: tuple[int, int]
    temperature: float
    device: torch.device | str = "cpu"

    def clusters(self) -> np.ndarray:
        """The likeliest cluster of every pixel, shape ``(H, W)``, uint16."""
        clusters = np.empty(self.size, dtype=np.uint16)
        for rows, probabilities in self.strips():
            clusters[rows] = probabilities.argmax(dim=-1).cpu().numpy()
        return clusters

    def probabilities(self) -> np.ndarray:
        """Probabilities of all pixels at once, shape ``(K, H, W)``, float32: what a CRF needs."""
        planes = np.empty((self.logits.shape[-1], *self.size), dtype=np.float32)
        for rows, probabilities in self.strips():
            planes[:, rows] = probabilities.permute(2, 0, 1).cpu().numpy()
        return planes

    @torch.inference_mode()
    def strips(self, strip: int = STRIP) -> Iterator[tuple[slice, Tensor]]:
        """Probabilities of the result, some rows at a time.

        Args:
            strip: Number of probabilities merged at once; at least a row of the result is.

        Yields:
            Rows of the result and their probabilities, float32 ``(rows, W, K)``.
        """
        (H, W), (height, width) = self.size, self.resized
        above, down = source_positions(H, height)
        before, across = source_positions(W, width)
        per_row = self.logits.shape[-1] * max(W, width) * max(1.0, height / H)
        rows = max(1, int(strip / per_row))
        for top in range(0, H, rows):
            chosen = slice(top, min(top + rows, H))
            if self.size == self.resized:
                yield chosen, self._merged(chosen.start, chosen.stop)
                continue
            first, last = above[chosen][0], min(above[chosen][-1] + 1, height - 1)
            merged = self._merged(first, last + 1)
            merged = interpolated(merged, 0, above[chosen] - first, down[chosen])
            yield chosen, interpolated(merged, 1, before, across)

    def _merged(self, top: int, bottom: int) -> Tensor:
        """Averaged probabilities of rows ``top .. bottom - 1`` of the resized image, ``(rows, W', K)``."""
        total = torch.zeros(bottom - top, self.resized[1], self.logits.shape[-1], device=self.device)
        windows = torch.zeros(bottom - top, self.resized[1], 1, device=self.device)
        height, width = self.window
        above, down = source_positions(self.covered[0], self.logits.shape[1])
        before, across = source_positions(self.covered[1], self.logits.shape[2])
        for logits, (y, x) in zip(self.logits, self.corners, strict=True):
            first, last = max(top, y), min(bottom, y + height)
            if first >= last:
                continue
            rows = slice(first - y, last - y)
            # The temperature divides the few logits of the patches: up-sampling is linear.
            part = interpolated(torch.from_numpy(logits).to(self.device) / self.temperature, 0, above[rows], down[rows])
            part = interpolated(part, 1, before[:width], across[:width])
            place = (slice(first - top, last - top), slice(x, x + width))
            total[place] += part.softmax(dim=-1)
            windows[place] += 1
        return total.div_(windows)


def source_positions(wanted: int, given: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each of ``wanted`` samples lies among ``given``, as ``F.interpolate`` without ``align_corners`` has it.

    Returns:
        The sample before, int64 ``(wanted,)``, and the weight of the one after it, float32 ``(wanted,)``.
    """
    position = np.maximum((np.arange(wanted) + 0.5) * (given / wanted) - 0.5, 0)
    before = np.floor(position).astype(np.int64)
    return before, (position - before).astype(np.float32)


def interpolated(values: Tensor, dim: int, before: np.ndarray, weights: np.ndarray) -> Tensor:
    """Linear interpolation along one dimension, to the samples that :func:`source_positions` describes.

    Args:
        values: Samples, shape ``(h, w, K)``.
        dim: Dimension along which to interpolate, 0 or 1.
        before: Sample before each wanted one, shape ``(n,)``; the one after the last sample is the last sample.
        weights: Weight of the sample after each wanted one, shape ``(n,)``.
    """
    shape = [-1 if axis == dim else 1 for axis in range(values.dim())]
    index = torch.from_numpy(before).to(values.device)
    after = values.index_select(dim, (index + 1).clamp_max(values.shape[dim] - 1))
    return torch.lerp(values.index_select(dim, index), after, torch.from_numpy(weights).view(shape).to(values.device))
