"""Pascal Context: the photographs of PASCAL VOC 2010, labelled pixel by pixel (Mottaghi et al., CVPR 2014).

The annotation has 459 classes; the benchmark keeps the 59 frequent ones and calls the rest background. The 59, in the
alphabetical order of their ids among the 459, and their colours are those of github.com/open-mmlab/mmsegmentation
(`tools/dataset_converters/pascal_context.py`, `mmseg/datasets/pascal_context.py`). The list on the annotation's page,
`59_labels.txt`, has another order and other names for three of them; it is not needed. The prepared folder has
mmsegmentation's layout, so that one made with its tools serves as well::

    JPEGImages/<id>.jpg
    SegmentationClassContext/<id>.png              0 = background, 1..59
    ImageSets/SegmentationContext/{train,val}.txt  one id per line

The annotation comes in two forms: its authors' ``trainval/<id>.mat``, and the Detail challenge's run-length masks,
``trainval_merged.json``. PyTorch-Encoding and mmsegmentation make their labels from the latter; the paper's official
code downloads those of PyTorch-Encoding. Masks of the two forms differ (mmsegmentation pull request 474).
"""

import io
import json
import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image
from scipy.io.matlab import MatReadError
from tqdm.auto import tqdm

from neuralef.datasets.archives import find_folder
from neuralef.datasets.base import IGNORE_LABEL, FileDataset, ImageFiles, SemanticClass, read_label, translate
from neuralef.errors import InputError
from neuralef.files import write_bytes, write_text

CLASSES_BY_ID = (
    (0, SemanticClass("background", (120, 120, 120))),
    (2, SemanticClass("aeroplane", (180, 120, 120))),
    (9, SemanticClass("bag", (6, 230, 230))),
    (18, SemanticClass("bed", (80, 50, 50))),
    (19, SemanticClass("bedclothes", (4, 200, 3))),
    (22, SemanticClass("bench", (120, 120, 80))),
    (23, SemanticClass("bicycle", (140, 140, 140))),
    (25, SemanticClass("bird", (204, 5, 255))),
    (31, SemanticClass("boat", (230, 230, 230))),
    (33, SemanticClass("book", (4, 250, 7))),
    (34, SemanticClass("bottle", (224, 5, 255))),
    (44, SemanticClass("building", (235, 255, 7))),
    (45, SemanticClass("bus", (150, 5, 61))),
    (46, SemanticClass("cabinet", (120, 120, 70))),
    (59, SemanticClass("car", (8, 255, 51))),
    (65, SemanticClass("cat", (255, 6, 82))),
    (68, SemanticClass("ceiling", (143, 255, 140))),
    (72, SemanticClass("chair", (204, 255, 4))),
    (80, SemanticClass("cloth", (255, 51, 7))),
    (85, SemanticClass("computer", (204, 70, 3))),
    (98, SemanticClass("cow", (0, 102, 200))),
    (104, SemanticClass("cup", (61, 230, 250))),
    (105, SemanticClass("curtain", (255, 6, 51))),
    (113, SemanticClass("dog", (11, 102, 255))),
    (115, SemanticClass("door", (255, 7, 71))),
    (144, SemanticClass("fence", (255, 9, 224))),
    (158, SemanticClass("floor", (9, 7, 230))),
    (159, SemanticClass("flower", (220, 220, 220))),
    (162, SemanticClass("food", (255, 9, 92))),
    (187, SemanticClass("grass", (112, 9, 255))),
    (189, SemanticClass("ground", (8, 255, 214))),
    (207, SemanticClass("horse", (7, 255, 224))),
    (220, SemanticClass("keyboard", (255, 184, 6))),
    (232, SemanticClass("light", (10, 255, 71))),
    (258, SemanticClass("motorbike", (255, 41, 10))),
    (259, SemanticClass("mountain", (7, 255, 255))),
    (260, SemanticClass("mouse", (224, 255, 8))),
    (284, SemanticClass("person", (102, 8, 255))),
    (295, SemanticClass("plate", (255, 61, 6))),
    (296, SemanticClass("platform", (255, 194, 7))),
    (308, SemanticClass("pottedplant", (255, 122, 8))),
    (324, SemanticClass("road", (0, 255, 20))),
    (326, SemanticClass("rock", (255, 8, 41))),
    (347, SemanticClass("sheep", (255, 5, 153))),
    (349, SemanticClass("shelves", (6, 51, 255))),
    (354, SemanticClass("sidewalk", (235, 12, 255))),
    (355, SemanticClass("sign", (160, 150, 20))),
    (360, SemanticClass("sky", (0, 163, 255))),
    (366, SemanticClass("snow", (140, 140, 140))),
    (368, SemanticClass("sofa", (250, 10, 15))),
    (397, SemanticClass("table", (20, 255, 0))),
    (415, SemanticClass("track", (31, 255, 0))),
    (416, SemanticClass("train", (255, 31, 0))),
    (420, SemanticClass("tree", (255, 224, 0))),
    (424, SemanticClass("truck", (153, 255, 0))),
    (427, SemanticClass("tvmonitor", (0, 0, 255))),
    (440, SemanticClass("wall", (255, 71, 0))),
    (445, SemanticClass("water", (0, 235, 255))),
    (454, SemanticClass("window", (0, 173, 255))),
    (458, SemanticClass("wood", (31, 0, 255))),
)
"""Id among the 459 classes and class; id 0 stands for all others."""

NUM_IDS = 459
IMAGES, LABELS, LISTS = "JPEGImages", "SegmentationClassContext", "ImageSets/SegmentationContext"
LAYOUT = (IMAGES, LABELS, f"{LISTS}/train.txt", f"{LISTS}/val.txt")
OFFICIAL_LISTS = "ImageSets/Main"
MERGED_JSON = "trainval_merged.json"
MAT_VARIABLE = "LabelMap"
MAT_DAMAGE = (
    MatReadError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OSError,
    EOFError,
    NotImplementedError,  # scipy's answer to a version of the format that it does not read
    zlib.error,
    struct.error,
)
"""What scipy raises while it reads a file that is cut off, altered or of another kind."""


class PascalContext(FileDataset):
    """Pascal Context with its 59 classes; background is ignored.

    Args:
        folder: Folder ``VOC2010``, or one that holds it at most two levels below.

    Raises:
        InputError: If the layout is not there or a list is ill-formed.
    """

    name = "pascal_context"
    classes = tuple(semantic for _, semantic in CLASSES_BY_ID[1:])
    meaning: Mapping[int, int] = {0: IGNORE_LABEL, **{stored: stored - 1 for stored in range(1, len(CLASSES_BY_ID))}}

    def __init__(self, folder: Path):
        root = find_folder(folder, *LAYOUT)
        if root is None:
            raise InputError(f"{self.name}: {folder} holds no VOC2010 folder with {', '.join(LAYOUT)}")
        super().__init__(root, {split: _listed(root, split) for split in ("train", "val")})

    @classmethod
    def finish(cls, folder: Path) -> None:
        """Convert the annotation beside the photographs to label images and lists; see :func:`convert`."""
        if find_folder(folder, *LAYOUT) is None:
            convert(folder)

    def decode_label(self, path: Path) -> np.ndarray:
        """Read one label image; its values are translated by ``meaning``."""
        return translate(read_label(path), self.meaning, path)


class PascalContext60(PascalContext):
    """Pascal Context with background as class 0 and the 59 after it."""

    name = "pascal_context_60"
    classes = tuple(semantic for _, semantic in CLASSES_BY_ID)
    meaning: Mapping[int, int] = {stored: stored for stored in range(len(CLASSES_BY_ID))}


def convert(folder: Path) -> None:
    """Write ``SegmentationClassContext`` and the lists from what the archives hold.

    The splits are VOC 2010's official lists of all tasks, less the images without annotation. The lists are written
    last, so that a conversion that broke off is not taken for a whole one.

    Args:
        folder: Folder that holds VOC 2010 and either ``trainval/*.mat`` or ``trainval_merged.json``, each at most two
            levels below.

    Raises:
        InputError: If one of them is missing, or a file is damaged.
    """
    voc = find_folder(folder, IMAGES, *(f"{OFFICIAL_LISTS}/{split}.txt" for split in ("train", "val")))
    if voc is None:
        raise InputError(f"{folder} holds no VOC2010 with {IMAGES} and {OFFICIAL_LISTS}/train.txt and val.txt")
    merged, matlab = find_folder(folder, MERGED_JSON), _mat_folder(folder)
    if merged is not None:
        annotated = _convert_merged(merged / MERGED_JSON, voc / LABELS)
    elif matlab is not None:
        _check_names(folder)
        annotated = _convert_mats(matlab, voc / LABELS)
    else:
        raise InputError(f"{folder} holds no trainval folder of .mat files and no {MERGED_JSON}")
    for split in ("train", "val"):
        official = (voc / OFFICIAL_LISTS / f"{split}.txt").read_text(errors="replace").split()
        lines = [f"{image_id}\n" for image_id in sorted(annotated.intersection(official))]
        write_text(voc / LISTS / f"{split}.txt", "".join(lines))


def to_stored(ids: np.ndarray, path: Path) -> np.ndarray:
    """Turn ids of the 459 classes, integers of shape ``(H, W)``, into stored labels 0..59, uint8.

    Raises:
        InputError: If ``ids`` is not a map of such ids; ``path`` is named.
    """
    is_map = ids.ndim == 2 and ids.size > 0 and np.issubdtype(ids.dtype, np.integer)
    if not is_map or ids.min() < 0 or ids.max() > NUM_IDS:
        raise InputError(f"label {path} is damaged (no map of ids 0..{NUM_IDS}); replace the file")
    table = np.zeros(NUM_IDS + 1, dtype=np.uint8)
    for stored, (class_id, _) in enumerate(CLASSES_BY_ID):
        table[class_id] = stored
    return table[ids.astype(np.intp)]


def decode_runs(counts: str, size: tuple[int, int]) -> np.ndarray:
    """Decode the compressed run lengths of the COCO format (cocodataset.org, `maskApi.c`).

    Every character carries five bits of a number, lowest first, and in its sixth whether more follow; from the fourth
    on a number is the difference to the last but one. The numbers are lengths of runs of zeros and ones by turns, down
    the columns.

    Args:
        counts: Run lengths as characters of codes 48..111.
        size: Height and width of the mask in pixels.

    Returns:
        The mask, shape ``size``, bool.

    Raises:
        ValueError: If the characters are others or the runs do not fill the mask.
    """
    codes = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("its run lengths are cut off or no run lengths")
    starts = np.concatenate([[0], np.flatnonzero((codes & 32) == 0)[:-1] + 1])
    lengths = np.diff(np.append(starts, codes.size))
    if lengths.max() > 7:
        raise ValueError("a run length has more than 35 bits")
    place = np.arange(codes.size) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & 31) << (5 * place), starts)
    # Bit 5 of the last character is the sign.
    numbers -= ((codes[starts + lengths - 1] & 16) >> 4) << (5 * lengths)
    runs = numbers.copy()
    runs[1::2] = np.cumsum(numbers[1::2])
    runs[2::2] = np.cumsum(numbers[2::2])
    height, width = size
    if runs.min() < 0 or runs.sum() != height * width:
        raise ValueError(f"its runs fill {runs.sum()} of {height * width} pixels")
    return np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(width, height).T


def _listed(root: Path, split: str) -> dict[str, ImageFiles]:
    listing = root / LISTS / f"{split}.txt"
    files = {}
    for number, line in enumerate(listing.read_text(errors="replace").splitlines(), start=1):
        image_id = line.strip()
        if not image_id:
            continue
        if not re.fullmatch(r"\w+", image_id):
            raise InputError(f"line {number} of {listing} is {line!r}; it must be an image id such as 2008_000002")
        files[image_id] = ImageFiles(root / IMAGES / f"{image_id}.jpg", root / LABELS / f"{image_id}.png")
    return files


def _mat_folder(folder: Path) -> Path | None:
    parent = find_folder(folder, "trainval")
    return parent / "trainval" if parent and any((parent / "trainval").glob("*.mat")) else None


def _check_names(folder: Path) -> None:
    """Compare ``labels.txt``, lines ``id: name`` that come with the .mat files, with the ids used here."""
    parent = find_folder(folder, "labels.txt")
    if parent is None:
        return
    lines = (line.partition(":") for line in (parent / "labels.txt").read_text(errors="replace").splitlines())
    names = {int(number): name.strip() for number, _, name in lines if number.strip().isdigit()}
    for class_id, semantic in CLASSES_BY_ID[1:]:
        if names.get(class_id, "").replace(" ", "") != semantic.name:
            raise InputError(
                f"{parent / 'labels.txt'} calls class {class_id} {names.get(class_id)!r}, not {semantic.name!r}; "
                "this is not the annotation of Pascal Context"
            )


def _convert_mats(folder: Path, target: Path) -> set[str]:
    paths = sorted(path for path in folder.glob("*.mat") if not path.name.startswith("."))
    for path in tqdm(paths, desc="converting labels", unit="image", disable=None):
        _write_label(target / f"{path.stem}.png", to_stored(_read_mat(path), path))
    return {path.stem for path in paths}


def _read_mat(path: Path) -> np.ndarray:
    try:
        return np.asarray(scipy.io.loadmat(path, variable_names=[MAT_VARIABLE])[MAT_VARIABLE])
    except MAT_DAMAGE as error:
        raise InputError(f"label {path} is damaged ({type(error).__name__}: {error}); replace the file") from error


def _convert_merged(path: Path, target: Path) -> set[str]:
    names = set()
    for image_id, ids in _read_merged(path):
        _write_label(target / f"{image_id}.png", to_stored(ids, path))
        names.add(image_id)
    return names


def _read_merged(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name and ids of every image, its masks painted over each other in the file's order."""
    try:
        content = json.loads(path.read_bytes())
        masks = defaultdict(list)
        for mask in content["annos_segmentation"]:
            masks[mask["image_id"]].append(mask)
        for image in tqdm(content["images"], desc="converting labels", unit="image", disable=None):
            ids = np.zeros((image["height"], image["width"]), dtype=np.int64)
            for mask in masks[image["image_id"]]:
                ids[decode_runs(mask["segmentation"]["counts"], ids.shape)] = mask["category_id"]
            yield Path(image["file_name"]).stem, ids
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise InputError(
            f"annotation {path} is damaged ({type(error).__name__}: {error}); download it again"
        ) from error


def _write_label(path: Path, label: np.ndarray) -> None:
    content = io.BytesIO()
    Image.fromarray(label).save(content, "PNG")
    write_bytes(path, content.getvalue())
