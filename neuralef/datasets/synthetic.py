"""Synthetic outdoor scenes with pixel-exact labels in the classes of Stanford Background.

The data set of last resort, where nothing can be downloaded, and the one the tests run on. A scene is painted back to
front from a random layout (`neuralef.datasets._scenes.compose`); every stroke writes the colour and the class together,
so the labels are exact by construction.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import sha256

import numpy as np

from neuralef.datasets._scenes.compose import compose
from neuralef.datasets.base import Dataset
from neuralef.datasets.scene_classes import SCENE_CLASSES
from neuralef.errors import InputError

GENERATOR_VERSION = 1
"""Raise it whenever the same seed would give another image."""

MIN_SIDE = 32
"""Smallest height or width in pixels at which a scene can still be read."""

KEPT_BYTES = 64_000_000
"""Of rendered scenes of one size that a process keeps in memory; a small dataset stays whole."""


@dataclass(frozen=True)
class Scene:
    """An image and its classes.

    Attributes:
        image: RGB image, shape ``(H, W, 3)``, uint8.
        label: Class of every pixel, shape ``(H, W)``, uint8; index into `SCENE_CLASSES`.
    """

    image: np.ndarray
    label: np.ndarray


def render_scene(rng: np.random.Generator, size: tuple[int, int] = (240, 320)) -> Scene:
    """Paint one random scene.

    Args:
        rng: Source of every choice; equal states give equal scenes.
        size: ``(height, width)`` in pixels, at least ``MIN_SIDE`` each.

    Returns:
        The scene; every pixel has a class.

    Raises:
        ValueError: If a side is shorter than ``MIN_SIDE``.
    """
    if min(size) < MIN_SIDE:
        raise ValueError(f"scene size {size[0]}x{size[1]} is too small: height and width must be at least {MIN_SIDE}")
    return Scene(*compose(rng, (int(size[0]), int(size[1]))))


@cache
def scenes_of(size: tuple[int, int]) -> Callable[[tuple[int, ...]], Scene]:
    """The scenes of one size by their keys, the seeds of all they hold; the last ones asked for are kept.

    Every evaluation asks for the same labels again, and every dataset of the same seed for the same scenes: rendering
    would cost more than most of their own work.
    """

    @lru_cache(maxsize=max(4, KEPT_BYTES // (4 * size[0] * size[1])))
    def scene(key: tuple[int, ...]) -> Scene:
        return render_scene(np.random.default_rng(np.random.SeedSequence(key)), size)

    return scene


class SyntheticScenes(Dataset):
    """Seeded synthetic scenes: the same arguments always give the same images.

    Args:
        train: Number of training scenes.
        val: Number of validation scenes.
        size: ``(height, width)`` in pixels; another size shows the same scenes, finer or coarser.
        seed: Seed of all scenes; different seeds share none.

    Raises:
        InputError: If a count is negative, both are zero, the seed is negative or the size too small.
    """

    name = "synthetic_scenes"
    classes = SCENE_CLASSES

    def __init__(self, *, train: int = 64, val: int = 16, size: tuple[int, int] = (240, 320), seed: int = 0):
        if min(train, val) < 0 or train + val == 0:
            raise InputError(f"{self.name}: train={train} and val={val} must not be negative nor both zero")
        if min(size) < MIN_SIDE:
            raise InputError(f"{self.name}: size {size[0]}x{size[1]} is too small; use at least {MIN_SIDE}x{MIN_SIDE}")
        if seed < 0:
            raise InputError(f"{self.name}: seed {seed} is negative; use 0 or more")
        self.size = (int(size[0]), int(size[1]))
        self.seed = int(seed)
        self._counts = {"train": int(train), "val": int(val)}

    @property
    def splits(self) -> tuple[str, ...]:
        """``("train", "val")``."""
        return tuple(self._counts)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of scenes of both splits."""
        return dict(self._counts)

    def ids(self, split: str) -> list[str]:
        """``train-000000`` and so on."""
        return [f"{split}-{index:06d}" for index in range(self._count(split))]

    def image(self, image_id: str) -> np.ndarray:
        """The image, shape ``(H, W, 3)``, uint8 RGB."""
        return self._scene(image_id).image.copy()

    def label(self, image_id: str) -> np.ndarray:
        """Class of every pixel, shape ``(H, W)``, uint8; no pixel is ignored."""
        return self._scene(image_id).label.copy()

    def image_fingerprint(self, split: str) -> str:
        """Digest of everything the images of the split depend on."""
        return self._fingerprint("image", split)

    def label_fingerprint(self, split: str) -> str:
        """Digest of everything the labels of the split depend on."""
        return self._fingerprint("label", split)

    def _fingerprint(self, kind: str, split: str) -> str:
        parts = (self.name, GENERATOR_VERSION, kind, split, self._count(split), self.seed, *self.size)
        return sha256(repr(parts).encode()).hexdigest()

    def _count(self, split: str) -> int:
        count = self._counts.get(split)
        if not count:
            known = ", ".join(name for name, number in self._counts.items() if number)
            raise InputError(f"{self.name} has no split {split!r}, or it is empty; splits with scenes: {known}")
        return count

    def _scene(self, image_id: str) -> Scene:
        parts = re.fullmatch(r"(train|val)-(\d{6,})", image_id)
        if parts is None or int(parts[2]) >= self._counts[parts[1]] or image_id != f"{parts[1]}-{int(parts[2]):06d}":
            counts = " and ".join(f"{number} {split}" for split, number in self._counts.items())
            raise InputError(f"{self.name} has no scene {image_id!r}; it holds {counts} scenes, such as 'train-000000'")
        key = (GENERATOR_VERSION, self.seed, self.splits.index(parts[1]), int(parts[2]))
        return scenes_of(self.size)(key)
