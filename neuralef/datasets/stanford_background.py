"""Stanford Background: 715 outdoor photographs in eight classes (Gould, Fulton and Koller, ICCV 2009).

The set publishes no split. Ours is every fifth image of the sorted ids for ``val`` and the rest for ``train``.
"""

from pathlib import Path

import numpy as np

from neuralef.datasets.archives import find_folder
from neuralef.datasets.base import IGNORE_LABEL, FileDataset, ImageFiles, paired_files
from neuralef.datasets.scene_classes import SCENE_CLASSES
from neuralef.errors import InputError

LABEL_SUFFIX = ".regions.txt"


class StanfordBackground(FileDataset):
    """Stanford Background in its official layout, ``images/*.jpg`` and ``labels/*.regions.txt``.

    Args:
        folder: Folder ``iccv09Data``, or the one that holds it.

    Raises:
        InputError: If the layout is not there or holds nothing.
    """

    name = "stanford_background"
    classes = SCENE_CLASSES

    def __init__(self, folder: Path):
        root = find_folder(folder, "images", "labels")
        if root is None:
            raise InputError(f"{self.name}: {folder} holds no iccv09Data/images and iccv09Data/labels")
        everything = paired_files(root / "images", ".jpg", root / "labels", LABEL_SUFFIX)
        if not everything:
            raise InputError(f"{self.name}: {root} holds no images/*.jpg and no labels/*{LABEL_SUFFIX}")
        files: dict[str, dict[str, ImageFiles]] = {"train": {}, "val": {}}
        for index, (image_id, paths) in enumerate(everything.items()):
            files["val" if index % 5 == 4 else "train"][image_id] = paths
        super().__init__(root, files)

    def decode_label(self, path: Path) -> np.ndarray:
        """Read the text of one label file: a row of integers per line, negative where the class is unknown."""
        if not path.is_file():
            raise InputError(f"label {path} is missing; run `neuralef data check {self.name}` to see what else is")
        text = path.read_bytes()
        if not text.strip():
            raise InputError(f"label {path} is empty; replace the file")
        try:
            # Rejects rows of unequal length and needs 1.3 ms for 240 x 320 numbers; `np.array(text.split())` needs 4.
            ids = np.loadtxt(text.splitlines(), dtype=np.int16, comments=None, ndmin=2)
        except ValueError as error:
            raise InputError(f"label {path} is damaged ({error}); replace the file") from error
        return np.where(ids < 0, IGNORE_LABEL, ids)
