"""Cityscapes: street scenes of 50 cities, 2048x1024 (Cordts et al., CVPR 2016).

Names, label ids and colours are those of github.com/mcordts/cityscapesScripts, `cityscapesscripts/helpers/labels.py`.
The stored labels (``*_gtFine_labelIds.png``) are read under either of two protocols: all 27 ids of things and stuff, as
the literature on unsupervised segmentation does (PiCIE, STEGO), or the 19 the benchmark evaluates, in the order of its
train ids, which is that of the ids.
"""

from pathlib import Path

import numpy as np

from neuralef.datasets.archives import find_folder
from neuralef.datasets.base import (
    IGNORE_LABEL,
    FileDataset,
    ImageFiles,
    SemanticClass,
    paired_files,
    read_label,
    translate,
)
from neuralef.errors import InputError

SPLITS = ("train", "val")
IMAGES, LABELS = "leftImg8bit", "gtFine"
IMAGE_SUFFIX, LABEL_SUFFIX = "_leftImg8bit.png", "_gtFine_labelIds.png"

VOID_IDS = range(7)
"""Unlabelled, ego vehicle, rectification border, out of region of interest, static, dynamic, ground."""

LICENCE_PLATE = 255
"""Stored id of a licence plate, -1 as 8 bits; the official tools draw no such pixel."""

CLASSES_BY_ID = (
    (7, SemanticClass("road", (128, 64, 128))),
    (8, SemanticClass("sidewalk", (244, 35, 232))),
    (9, SemanticClass("parking", (250, 170, 160))),
    (10, SemanticClass("rail track", (230, 150, 140))),
    (11, SemanticClass("building", (70, 70, 70))),
    (12, SemanticClass("wall", (102, 102, 156))),
    (13, SemanticClass("fence", (190, 153, 153))),
    (14, SemanticClass("guard rail", (180, 165, 180))),
    (15, SemanticClass("bridge", (150, 100, 100))),
    (16, SemanticClass("tunnel", (150, 120, 90))),
    (17, SemanticClass("pole", (153, 153, 153))),
    (18, SemanticClass("polegroup", (153, 153, 153))),
    (19, SemanticClass("traffic light", (250, 170, 30))),
    (20, SemanticClass("traffic sign", (220, 220, 0))),
    (21, SemanticClass("vegetation", (107, 142, 35))),
    (22, SemanticClass("terrain", (152, 251, 152))),
    (23, SemanticClass("sky", (70, 130, 180))),
    (24, SemanticClass("person", (220, 20, 60))),
    (25, SemanticClass("rider", (255, 0, 0))),
    (26, SemanticClass("car", (0, 0, 142))),
    (27, SemanticClass("truck", (0, 0, 70))),
    (28, SemanticClass("bus", (0, 60, 100))),
    (29, SemanticClass("caravan", (0, 0, 90))),
    (30, SemanticClass("trailer", (0, 0, 110))),
    (31, SemanticClass("train", (0, 80, 100))),
    (32, SemanticClass("motorcycle", (0, 0, 230))),
    (33, SemanticClass("bicycle", (119, 11, 32))),
)

NOT_EVALUATED = {9, 10, 14, 15, 16, 18, 29, 30}
"""Ignored by the benchmark: parking, rail track, guard rail, bridge, tunnel, polegroup, caravan, trailer."""


class Cityscapes27(FileDataset):
    """Cityscapes with the 27 classes of label ids 7..33; void is ignored. Fine annotations, splits ``train``, ``val``.

    Args:
        folder: Folder that holds ``leftImg8bit/<split>/<city>/`` and ``gtFine/<split>/<city>/``, each at most two
            levels below.

    Raises:
        InputError: If the layout is not there.
    """

    name = "cityscapes_27"
    class_ids = tuple(class_id for class_id, _ in CLASSES_BY_ID)
    classes = tuple(semantic for _, semantic in CLASSES_BY_ID)

    def __init__(self, folder: Path):
        images, labels = (find_folder(folder, f"{part}/train", f"{part}/val") for part in (IMAGES, LABELS))
        for part, parent in ((IMAGES, images), (LABELS, labels)):
            if parent is None:
                raise InputError(f"{self.name}: {folder} holds no {part}/train and {part}/val")
        super().__init__(folder, {split: _files(images / IMAGES / split, labels / LABELS / split) for split in SPLITS})

    def decode_label(self, path: Path) -> np.ndarray:
        """Read one label image into class indices; ids outside the protocol become ``IGNORE_LABEL``."""
        known = (*VOID_IDS, LICENCE_PLATE, *(class_id for class_id, _ in CLASSES_BY_ID))
        meaning = dict.fromkeys(known, IGNORE_LABEL)
        meaning.update({class_id: index for index, class_id in enumerate(self.class_ids)})
        return translate(read_label(path), meaning, path)


class Cityscapes19(Cityscapes27):
    """Cityscapes with the 19 classes the benchmark evaluates; all others are ignored."""

    name = "cityscapes_19"
    class_ids = tuple(class_id for class_id, _ in CLASSES_BY_ID if class_id not in NOT_EVALUATED)
    classes = tuple(semantic for class_id, semantic in CLASSES_BY_ID if class_id not in NOT_EVALUATED)


def _files(images: Path, labels: Path) -> dict[str, ImageFiles]:
    files: dict[str, ImageFiles] = {}
    cities = {path.name for parent in (images, labels) for path in parent.iterdir() if path.is_dir()}
    for city in sorted(cities):
        files |= paired_files(images / city, IMAGE_SUFFIX, labels / city, LABEL_SUFFIX)
    return files
