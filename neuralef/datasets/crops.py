"""The square crop of the "320 crop" protocol: shorter side resized, centre kept."""

import numpy as np
from PIL import Image


def crop_image(image: np.ndarray, size: int) -> np.ndarray:
    """Resize the shorter side to ``size`` (antialiased bilinear) and keep the central square.

    Args:
        image: RGB image, shape ``(H, W, 3)``, uint8.
        size: Side of the square in pixels.

    Returns:
        The square crop, shape ``(size, size, 3)``, uint8.
    """
    return _crop(image, size, Image.Resampling.BILINEAR)


def crop_label(label: np.ndarray, size: int) -> np.ndarray:
    """The crop of :func:`crop_image` for a label map ``(H, W)``, by nearest neighbour: no class id is ever mixed."""
    return _crop(label, size, Image.Resampling.NEAREST)


def _crop(pixels: np.ndarray, size: int, resampling: Image.Resampling) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale = size / min(height, width)
    tall, wide = max(size, round(height * scale)), max(size, round(width * scale))
    resized = np.asarray(Image.fromarray(pixels).resize((wide, tall), resampling))
    top, left = (tall - size) // 2, (wide - size) // 2
    return resized[top : top + size, left : left + size]
