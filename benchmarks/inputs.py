"""What the benchmarks run on: the data and the backbone of profile ``quick``, photographs wherever they can be had."""

from functools import cache

import numpy as np

from neuralef.datasets.crops import crop_image
from neuralef.features import patch_colours, to_tensor
from neuralef.precision import fastest_precision
from neuralef.studies import Study, open_study


@cache
def study() -> Study:
    """Profile ``quick`` on the dataset that is there."""
    return open_study("quick")


def photographs(count: int, size: int) -> np.ndarray:
    """Square crops of training photographs, evenly spaced, uint8 ``(count, size, size, 3)``."""
    dataset = study().bench.dataset
    ids = dataset.ids("train")
    chosen = np.linspace(0, len(ids) - 1, count).round().astype(int)
    return np.stack([crop_image(dataset.image(ids[index]), size) for index in chosen])


def patches(images: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of ``images`` photographs on grids of ``side`` x ``side`` patches.

    Returns:
        All levels, float32 ``(images, side, side, sum C)``, and colours, float32 ``(images, side, side, 3)``.
    """
    backbone = study().bench.backbone
    crops = to_tensor(photographs(images, side * backbone.patch_size))
    return backbone(crops, precision=fastest_precision()).numpy(), patch_colours(crops, (side, side)).numpy()
