"""Small files and archives for the tests of datasets."""

import io
import tarfile
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from neuralef.datasets.synthetic import SyntheticScenes

SCENES = {"train": 6, "val": 3, "size": (64, 80), "seed": 0}
"""Options of a few small synthetic scenes."""

WIDTH, HEIGHT = 4, 3


class Response(io.BytesIO):
    """What ``urlopen`` returns, as far as ``download`` looks."""

    headers: ClassVar[dict[str, str]] = {}


def save_image(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT), shade: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 0, 200)).save(path)
    return path


def save_label(path: Path, ids) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(ids, dtype=np.uint8)).save(path)
    return path


def pack_tar(tree: Path, archive: Path, mode: str = "w") -> Path:
    with tarfile.open(archive, mode) as tar:
        for path in sorted(tree.iterdir()):
            tar.add(path, path.name)
    return archive


def pack_zip(tree: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as pack:
        for path in sorted(tree.rglob("*")):
            pack.write(path, path.relative_to(tree))
    return archive


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_folder_dataset(folder, *, noise_labels=False):
    """A folder dataset of nine synthetic scenes, with true labels or with noise in their place."""
    scenes = SyntheticScenes(**SCENES)
    noise = np.random.default_rng(0)
    for split in ("train", "val"):
        for image_id in scenes.ids(split):
            label = scenes.label(image_id)
            if noise_labels:
                label = noise.integers(0, len(scenes.classes), label.shape, dtype=np.uint8)
            for kind, pixels in (("images", scenes.image(image_id)), ("labels", label)):
                path = folder / kind / split / f"{image_id}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    rows = [f"{index},{item.name},{','.join(map(str, item.colour))}" for index, item in enumerate(scenes.classes)]
    (folder / "classes.csv").write_text("\n".join(["id,name,red,green,blue", *rows]) + "\n")
    return f"folder:{folder}"
