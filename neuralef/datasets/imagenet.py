"""ImageNet: the training photographs of ILSVRC 2012 (Russakovsky et al., IJCV 2015), for training without labels."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from neuralef.datasets.archives import unpack
from neuralef.datasets.base import FileDataset, ImageFiles
from neuralef.datasets.folder import IMAGE_SUFFIXES
from neuralef.errors import InputError

SYNSET = "n" + "[0-9]" * 8
"""Folders and inner archives are named after WordNet synsets: n01440764."""

PARENTS = ("train", "ILSVRC/Data/CLS-LOC/train", ".")
"""Where the folders lie: after unpacking, in Kaggle's archive, in a copy of one's own."""


class ImageNet(FileDataset):
    """The training split, one folder of JPEG files per synset, without classes and labels.

    Args:
        folder: Folder that holds the synset folders, itself or under one of ``PARENTS``.

    Raises:
        InputError: If there is no such folder.
    """

    name = "imagenet"
    classes = ()

    def __init__(self, folder: Path):
        root = next((folder / parent for parent in PARENTS if any(_synsets(folder / parent))), None)
        if root is None:
            raise InputError(f"{self.name}: {folder} holds no train/ with one folder per synset, such as n01440764/")
        files = {
            path.stem: ImageFiles(path, None)
            for synset in _synsets(root)
            for path in synset.iterdir()
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        }
        super().__init__(root, {"train": files})

    @classmethod
    def finish(cls, folder: Path) -> None:
        """Unpack the official archive's inner archives, one per synset, to ``train/<synset>/``."""
        for archive in sorted(folder.glob(f"{SYNSET}.tar")):
            unpack(archive, folder / "train" / archive.stem)
            # The whole set would otherwise lie on the disk a third time.
            archive.unlink()

    def label(self, image_id: str) -> np.ndarray:
        """There is none: raises ``InputError``."""
        raise InputError(
            f"{self.name}: image {image_id!r} has no label, for the set is here to train on without labels; "
            "evaluate on another dataset"
        )


def _synsets(parent: Path) -> Iterator[Path]:
    return (path for path in sorted(parent.glob(SYNSET)) if path.is_dir())
