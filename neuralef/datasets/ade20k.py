"""ADE20K-150: the scene parsing benchmark of ADE20K (Zhou et al., CVPR 2017).

Names and their order are those of the archive's ``objectInfo150.txt``, the first synonym of each line. The colours are
those in general use, as in `mmseg/utils/class_names.py` of github.com/open-mmlab/mmsegmentation; two classes share one.
"""

from pathlib import Path

import numpy as np

from neuralef.datasets.archives import find_folder
from neuralef.datasets.base import IGNORE_LABEL, FileDataset, SemanticClass, paired_files, read_label, translate
from neuralef.errors import InputError

FOLDERS = {"train": "training", "val": "validation"}
"""What the archive calls the splits."""


class ADE20K(FileDataset):
    """ADE20K-150 in its official layout, ``images/{training,validation}`` and ``annotations/{training,validation}``.

    Stored label 0 is everything outside the 150 classes and is ignored; class ``i`` is stored as ``i + 1``.

    Args:
        folder: Folder ``ADEChallengeData2016``, or the one that holds it.

    Raises:
        InputError: If the layout is not there.
    """

    name = "ade20k"
    classes = (
        SemanticClass("wall", (120, 120, 120)),
        SemanticClass("building", (180, 120, 120)),
        SemanticClass("sky", (6, 230, 230)),
        SemanticClass("floor", (80, 50, 50)),
        SemanticClass("tree", (4, 200, 3)),
        SemanticClass("ceiling", (120, 120, 80)),
        SemanticClass("road", (140, 140, 140)),
        SemanticClass("bed", (204, 5, 255)),
        SemanticClass("windowpane", (230, 230, 230)),
        SemanticClass("grass", (4, 250, 7)),
        SemanticClass("cabinet", (224, 5, 255)),
        SemanticClass("sidewalk", (235, 255, 7)),
        SemanticClass("person", (150, 5, 61)),
        SemanticClass("earth", (120, 120, 70)),
        SemanticClass("door", (8, 255, 51)),
        SemanticClass("table", (255, 6, 82)),
        SemanticClass("mountain", (143, 255, 140)),
        SemanticClass("plant", (204, 255, 4)),
        SemanticClass("curtain", (255, 51, 7)),
        SemanticClass("chair", (204, 70, 3)),
        SemanticClass("car", (0, 102, 200)),
        SemanticClass("water", (61, 230, 250)),
        SemanticClass("painting", (255, 6, 51)),
        SemanticClass("sofa", (11, 102, 255)),
        SemanticClass("shelf", (255, 7, 71)),
        SemanticClass("house", (255, 9, 224)),
        SemanticClass("sea", (9, 7, 230)),
        SemanticClass("mirror", (220, 220, 220)),
        SemanticClass("rug", (255, 9, 92)),
        SemanticClass("field", (112, 9, 255)),
        SemanticClass("armchair", (8, 255, 214)),
        SemanticClass("seat", (7, 255, 224)),
        SemanticClass("fence", (255, 184, 6)),
        SemanticClass("desk", (10, 255, 71)),
        SemanticClass("rock", (255, 41, 10)),
        SemanticClass("wardrobe", (7, 255, 255)),
        SemanticClass("lamp", (224, 255, 8)),
        SemanticClass("bathtub", (102, 8, 255)),
        SemanticClass("railing", (255, 61, 6)),
        SemanticClass("cushion", (255, 194, 7)),
        SemanticClass("base", (255, 122, 8)),
        SemanticClass("box", (0, 255, 20)),
        SemanticClass("column", (255, 8, 41)),
        SemanticClass("signboard", (255, 5, 153)),
        SemanticClass("chest of drawers", (6, 51, 255)),
        SemanticClass("counter", (235, 12, 255)),
        SemanticClass("sand", (160, 150, 20)),
        SemanticClass("sink", (0, 163, 255)),
        SemanticClass("skyscraper", (140, 140, 140)),
        SemanticClass("fireplace", (250, 10, 15)),
        SemanticClass("refrigerator", (20, 255, 0)),
        SemanticClass("grandstand", (31, 255, 0)),
        SemanticClass("path", (255, 31, 0)),
        SemanticClass("stairs", (255, 224, 0)),
        SemanticClass("runway", (153, 255, 0)),
        SemanticClass("case", (0, 0, 255)),
        SemanticClass("pool table", (255, 71, 0)),
        SemanticClass("pillow", (0, 235, 255)),
        SemanticClass("screen door", (0, 173, 255)),
        SemanticClass("stairway", (31, 0, 255)),
        SemanticClass("river", (11, 200, 200)),
        SemanticClass("bridge", (255, 82, 0)),
        SemanticClass("bookcase", (0, 255, 245)),
        SemanticClass("blind", (0, 61, 255)),
        SemanticClass("coffee table", (0, 255, 112)),
        SemanticClass("toilet", (0, 255, 133)),
        SemanticClass("flower", (255, 0, 0)),
        SemanticClass("book", (255, 163, 0)),
        SemanticClass("hill", (255, 102, 0)),
        SemanticClass("bench", (194, 255, 0)),
        SemanticClass("countertop", (0, 143, 255)),
        SemanticClass("stove", (51, 255, 0)),
        SemanticClass("palm", (0, 82, 255)),
        SemanticClass("kitchen island", (0, 255, 41)),
        SemanticClass("computer", (0, 255, 173)),
        SemanticClass("swivel chair", (10, 0, 255)),
        SemanticClass("boat", (173, 255, 0)),
        SemanticClass("bar", (0, 255, 153)),
        SemanticClass("arcade machine", (255, 92, 0)),
        SemanticClass("hovel", (255, 0, 255)),
        SemanticClass("bus", (255, 0, 245)),
        SemanticClass("towel", (255, 0, 102)),
        SemanticClass("light", (255, 173, 0)),
        SemanticClass("truck", (255, 0, 20)),
        SemanticClass("tower", (255, 184, 184)),
        SemanticClass("chandelier", (0, 31, 255)),
        SemanticClass("awning", (0, 255, 61)),
        SemanticClass("streetlight", (0, 71, 255)),
        SemanticClass("booth", (255, 0, 204)),
        SemanticClass("television receiver", (0, 255, 194)),
        SemanticClass("airplane", (0, 255, 82)),
        SemanticClass("dirt track", (0, 10, 255)),
        SemanticClass("apparel", (0, 112, 255)),
        SemanticClass("pole", (51, 0, 255)),
        SemanticClass("land", (0, 194, 255)),
        SemanticClass("bannister", (0, 122, 255)),
        SemanticClass("escalator", (0, 255, 163)),
        SemanticClass("ottoman", (255, 153, 0)),
        SemanticClass("bottle", (0, 255, 10)),
        SemanticClass("buffet", (255, 112, 0)),
        SemanticClass("poster", (143, 255, 0)),
        SemanticClass("stage", (82, 0, 255)),
        SemanticClass("van", (163, 255, 0)),
        SemanticClass("ship", (255, 235, 0)),
        SemanticClass("fountain", (8, 184, 170)),
        SemanticClass("conveyer belt", (133, 0, 255)),
        SemanticClass("canopy", (0, 255, 92)),
        SemanticClass("washer", (184, 0, 255)),
        SemanticClass("plaything", (255, 0, 31)),
        SemanticClass("swimming pool", (0, 184, 255)),
        SemanticClass("stool", (0, 214, 255)),
        SemanticClass("barrel", (255, 0, 112)),
        SemanticClass("basket", (92, 255, 0)),
        SemanticClass("waterfall", (0, 224, 255)),
        SemanticClass("tent", (112, 224, 255)),
        SemanticClass("bag", (70, 184, 160)),
        SemanticClass("minibike", (163, 0, 255)),
        SemanticClass("cradle", (153, 0, 255)),
        SemanticClass("oven", (71, 255, 0)),
        SemanticClass("ball", (255, 0, 163)),
        SemanticClass("food", (255, 204, 0)),
        SemanticClass("step", (255, 0, 143)),
        SemanticClass("tank", (0, 255, 235)),
        SemanticClass("trade name", (133, 255, 0)),
        SemanticClass("microwave", (255, 0, 235)),
        SemanticClass("pot", (245, 0, 255)),
        SemanticClass("animal", (255, 0, 122)),
        SemanticClass("bicycle", (255, 245, 0)),
        SemanticClass("lake", (10, 190, 212)),
        SemanticClass("dishwasher", (214, 255, 0)),
        SemanticClass("screen", (0, 204, 255)),
        SemanticClass("blanket", (20, 0, 255)),
        SemanticClass("sculpture", (255, 255, 0)),
        SemanticClass("hood", (0, 153, 255)),
        SemanticClass("sconce", (0, 41, 255)),
        SemanticClass("vase", (0, 255, 204)),
        SemanticClass("traffic light", (41, 0, 255)),
        SemanticClass("tray", (41, 255, 0)),
        SemanticClass("ashcan", (173, 0, 255)),
        SemanticClass("fan", (0, 245, 255)),
        SemanticClass("pier", (71, 0, 255)),
        SemanticClass("crt screen", (122, 0, 255)),
        SemanticClass("plate", (0, 255, 184)),
        SemanticClass("monitor", (0, 92, 255)),
        SemanticClass("bulletin board", (184, 255, 0)),
        SemanticClass("shower", (0, 133, 255)),
        SemanticClass("radiator", (255, 214, 0)),
        SemanticClass("glass", (25, 194, 194)),
        SemanticClass("clock", (102, 255, 0)),
        SemanticClass("flag", (92, 0, 255)),
    )

    def __init__(self, folder: Path):
        root = find_folder(folder, "images/training", "annotations/training")
        if root is None:
            raise InputError(f"{self.name}: {folder} holds no ADEChallengeData2016 with images/ and annotations/")
        files = {
            split: paired_files(root / "images" / stored, ".jpg", root / "annotations" / stored, ".png")
            for split, stored in FOLDERS.items()
        }
        super().__init__(root, files)

    def decode_label(self, path: Path) -> np.ndarray:
        """Read one label image, counted from 0 and with everything else made ``IGNORE_LABEL``."""
        meaning = {0: IGNORE_LABEL, **{index + 1: index for index in range(len(self.classes))}}
        return translate(read_label(path), meaning, path)
