"""Anyone's own photographs: a folder of images, labels and a table of classes.

The layout::

    images/<split>/<id>.jpg    splits train and val; or .png, .webp, .tif, .bmp
    labels/<split>/<id>.png    8-bit class ids, 255 = ignore; may be missing for train
    classes.csv                id,name,red,green,blue; may be missing where there are no labels
"""

import csv
import os
import unicodedata
from pathlib import Path

from neuralef.datasets.base import IGNORE_LABEL, FileDataset, ImageFiles, SemanticClass
from neuralef.errors import InputError

PREFIX = "folder:"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
BYSTANDERS = ("thumbs.db", "desktop.ini")
"""Files that Windows leaves in folders of photographs; so do others, under names that begin with a dot."""

COLUMNS = ["id", "name", "red", "green", "blue"]


class FolderDataset(FileDataset):
    """A dataset in the folder layout; its name is ``folder:PATH``.

    An image's id is its file name without suffix. Where a training image has the name of a validation image its id is
    ``train-<name>``, for ids are unique over the dataset.

    Args:
        folder: Folder that holds ``images`` and, to score anything, ``labels`` and ``classes.csv``.

    Raises:
        InputError: If the folder is missing or empty, ``classes.csv`` is missing or ill-formed, two images of a split
            share a name, something among the images is none, or a validation image has no label.
    """

    def __init__(self, folder: str | Path):
        self.name = f"{PREFIX}{Path(folder)}"  # a slash at its end would name the same features anew
        root = expanded(folder)
        if not root.is_dir():
            raise InputError(
                f"{self.name}: folder {root} does not exist; give the path of one with images/ and labels/"
            )
        labelled = (root / "labels").exists() or (root / "classes.csv").exists()
        self.classes = read_classes(root / "classes.csv") if labelled else ()
        val = _files(root, "val")
        found = _files(root, "train")
        train = {f"train-{name}" if name in val else name: files for name, files in found.items()}
        if len(train) < len(found):
            twice = next(name for name in found if name in val and f"train-{name}" in found)
            raise InputError(f"{self.name}: train has {twice!r}, as val does, and 'train-{twice}'; rename one of them")
        if not train and not val:
            raise InputError(
                f"{self.name} holds no photographs; put .jpg or .png files into images/train and images/val"
            )
        unlabelled = [name for name, files in val.items() if files.label is None]
        if unlabelled:
            raise InputError(
                f"{self.name}: {len(unlabelled)} image(s) of split 'val' have no label, first {unlabelled[0]!r}; add "
                f"{root / 'labels' / 'val' / unlabelled[0]}.png or move the image to images/train"
            )
        super().__init__(root, {"train": train, "val": val})


def expanded(folder: str | Path) -> Path:
    """The folder with ``~`` or ``~user`` in front replaced; as it is where there is no such user."""
    try:
        return Path(folder).expanduser()
    except RuntimeError:
        return Path(folder)


def photographs(folder: Path) -> list[Path]:
    """Image files right in ``folder``, sorted; ``InputError`` if anything else is there that is not hidden.

    Names that are not UTF-8 are refused as by :func:`check_name`.
    """
    found = [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and path.name.lower() not in BYSTANDERS
    ]
    for path in found:
        check_name(path)
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.is_dir():
            raise InputError(
                f"{path} is not a photograph that can be read; convert or move it: files in {folder} end in "
                f"{', '.join(IMAGE_SUFFIXES)}, and folders in it are not searched"
            )
    return found


def check_name(path: Path) -> None:
    """Refuse a path that is not UTF-8, as archives of other systems leave them behind: no result could name it.

    Raises:
        InputError: If so; it shows the bytes of the path.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the path {os.fsencode(path)!r} is not UTF-8; rename it (convmv does many at once)"
        ) from error


def read_classes(path: Path) -> tuple[SemanticClass, ...]:
    """Read ``classes.csv``: a header ``id,name,red,green,blue``, then one line per class, ids 0..n-1 in any order.

    Raises:
        InputError: If the file is missing or unreadable, or a line breaks the rules; the line is named.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; write one line per class under the header {','.join(COLUMNS)}")
    try:
        # Spreadsheets put a byte order mark before the header.
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}); save it as UTF-8 text with commas") from error
    if not rows or [cell.strip().lower() for cell in rows[0]] != COLUMNS:
        raise InputError(f"line 1 of {path} is {','.join(rows[0]) if rows else ''!r}; it must be {','.join(COLUMNS)}")
    classes: dict[int, SemanticClass] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        class_id, semantic = _parse_class(row, f"line {number} of {path}")
        if class_id in classes:
            raise InputError(f"line {number} of {path} repeats class id {class_id}; every id may occur once")
        if semantic.name in {other.name for other in classes.values()}:
            raise InputError(f"line {number} of {path} repeats class name {semantic.name!r}; every name may occur once")
        classes[class_id] = semantic
    missing = sorted(set(range(max(classes, default=0) + 1)) - classes.keys())
    if missing:
        raise InputError(f"{path} has no class with id {missing[0]}; ids must be 0, 1, 2, ... without gaps")
    return tuple(classes[class_id] for class_id in sorted(classes))


def _parse_class(row: list[str], where: str) -> tuple[int, SemanticClass]:
    if len(row) != len(COLUMNS):
        raise InputError(f"{where} has {len(row)} fields; it must have {len(COLUMNS)}: {','.join(COLUMNS)}")
    name = row[1].strip()
    try:
        class_id, red, green, blue = (int(row[column]) for column in (0, 2, 3, 4))
    except ValueError as error:
        raise InputError(f"{where} is {','.join(row)!r}; id, red, green and blue must be whole numbers") from error
    if not 0 <= class_id < IGNORE_LABEL:
        raise InputError(f"{where} has class id {class_id}; ids go from 0 to {IGNORE_LABEL - 1}")
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise InputError(f"{where} has colour {red},{green},{blue}; red, green and blue go from 0 to 255")
    if not name:
        raise InputError(f"{where} has an empty class name; every class needs one")
    return class_id, SemanticClass(name, (red, green, blue))


def _files(root: Path, split: str) -> dict[str, ImageFiles]:
    """Images of a split by file name without suffix, with their labels where there are any."""
    images, labels = root / "images" / split, root / "labels" / split
    found: dict[str, Path] = {}
    for label in labels.iterdir() if labels.is_dir() else ():  # glob passes over a folder that may not be read
        if label.suffix.lower() == ".png" and found.setdefault(_composed(label), label) != label:
            names = " and ".join(sorted((found[_composed(label)].name, label.name)))
            raise InputError(f"{labels} holds both {names}; rename one of them")
    files: dict[str, ImageFiles] = {}
    for image in photographs(images) if images.is_dir() else ():
        if image.stem in files:
            raise InputError(f"{images} holds both {files[image.stem].image.name} and {image.name}; rename one of them")
        files[image.stem] = ImageFiles(image, found.get(_composed(image)))
    return files


def _composed(path: Path) -> str:
    """Name without suffix, accents composed: a Mac writes them apart from their letters, other systems do not."""
    return unicodedata.normalize("NFC", path.stem)
