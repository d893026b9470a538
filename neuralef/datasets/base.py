"""What every dataset offers: photographs, labels, classes and splits."""

import logging
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from neuralef.errors import InputError

log = logging.getLogger(__name__)

PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
"""Of 1 MB by default, which the history that Photoshop keeps in a file exceeds."""

IGNORE_LABEL = 255
"""Label value of pixels that no score counts."""


@dataclass(frozen=True)
class SemanticClass:
    """One class of a benchmark; ``colour`` is the RGB colour, 0..255, that figures draw it in."""

    name: str
    colour: tuple[int, int, int]


class Dataset(ABC):
    """A set of photographs with optional per-pixel labels.

    Attributes:
        name: Registry name, as the command line takes it.
        classes: Classes in label order: ``classes[i]`` is what label value ``i`` means.
    """

    name: str
    classes: tuple[SemanticClass, ...]

    @property
    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, such as ``("train", "val")``."""

    @property
    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Number of images of every split; an empty one is listed with 0."""

    @abstractmethod
    def ids(self, split: str) -> list[str]:
        """Image ids of a split, sorted; unique over the dataset and usable as file names.

        Raises:
            InputError: If the split is unknown or empty.
        """

    @abstractmethod
    def image(self, image_id: str) -> np.ndarray:
        """The image, shape ``(H, W, 3)``, uint8 RGB.

        Raises:
            InputError: If the file is missing or cannot be decoded whole.
        """

    @abstractmethod
    def label(self, image_id: str) -> np.ndarray:
        """Class of every pixel, shape ``(H, W)``, uint8, ``IGNORE_LABEL`` where none counts.

        Raises:
            InputError: If the file is missing or damaged, holds an id outside ``classes``, or its size differs from
                the image's.
        """

    @abstractmethod
    def image_fingerprint(self, split: str) -> str:
        """Hex digest that changes whenever an id or the bytes of an image of the split change."""

    @abstractmethod
    def label_fingerprint(self, split: str) -> str:
        """Hex digest of the labels of the split, kept apart so that no training result can depend on a label."""

    @property
    def reader_modules(self) -> tuple[str, ...]:
        """Modules that turn files into arrays, as :func:`neuralef.provenance.code_digest` wants them."""
        names = (kind.__module__ for kind in type(self).__mro__)
        return tuple(name.removeprefix("neuralef.") for name in names if name.startswith("neuralef."))

    def check_label(self, image_id: str, label: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
        """Validate one label map against the classes and the ``(H, W)`` of its image, and return it as uint8."""
        if label.shape != image_size:
            raise InputError(
                f"{self.name}: label of image {image_id!r} is {label.shape[1]}x{label.shape[0]}, its image "
                f"{image_size[1]}x{image_size[0]} (upright, as its EXIF data say); both must have the same size"
            )
        unknown = sorted(set(np.unique(label).tolist()) - set(range(len(self.classes))) - {IGNORE_LABEL})
        if unknown:
            raise InputError(
                f"{self.name}: label of image {image_id!r} holds class id {unknown[0]}, but the ids are "
                f"0..{len(self.classes) - 1} and {IGNORE_LABEL} for ignored pixels"
            )
        return label.astype(np.uint8)


@dataclass(frozen=True)
class ImageFiles:
    """The files of one image; ``label`` is None where the image has none."""

    image: Path
    label: Path | None


class FileDataset(Dataset):
    """A dataset that keeps every image and every label in a file of its own.

    Args:
        root: Folder that holds all files; fingerprints name them relative to it.
        files: Files of the images of every split, by id. An id belongs to one split only.

    Raises:
        InputError: If two splits share an id.
    """

    def __init__(self, root: Path, files: Mapping[str, Mapping[str, ImageFiles]]):
        self.root = root
        self._splits = {split: dict(sorted(members.items())) for split, members in files.items()}
        self._files: dict[str, ImageFiles] = {}
        for split, members in self._splits.items():
            shared = sorted(self._files.keys() & members.keys())
            if shared:
                raise InputError(
                    f"{self.name}: split {split!r} repeats image {shared[0]!r} of an earlier split; keep it in one"
                )
            self._files.update(members)
        # Digesting a whole set takes a second; the instance stands for the files as it first saw them.
        self._digests: dict[tuple[str, str], str] = {}

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self._splits)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of images per split; an empty split is listed with 0."""
        return {split: len(members) for split, members in self._splits.items()}

    def ids(self, split: str) -> list[str]:
        """Image ids of a split, sorted."""
        return list(self.files(split))

    def files(self, split: str) -> Mapping[str, ImageFiles]:
        """The files behind every image of a split, by id, sorted.

        Raises:
            InputError: If the split is unknown or empty.
        """
        members = self._splits.get(split)
        if not members:
            choices = ", ".join(name for name, there in self._splits.items() if there) or "none"
            raise InputError(f"{self.name}: split {split!r} is unknown or empty; splits with images: {choices}")
        return dict(members)

    @classmethod
    def finish(cls, folder: Path) -> None:
        """Turn freshly unpacked archives in ``folder`` into the layout the constructor reads; nothing to do for most.

        Raises:
            InputError: If something is missing or damaged.
        """

    def image(self, image_id: str) -> np.ndarray:
        """The image, shape ``(H, W, 3)``, uint8 RGB."""
        return read_image(self._files_of(image_id).image)

    def label(self, image_id: str) -> np.ndarray:
        """Class of every pixel, shape ``(H, W)``, uint8, ``IGNORE_LABEL`` where none counts."""
        files = self._files_of(image_id)
        if files.label is None:
            raise InputError(
                f"{self.name}: image {image_id!r} has no label; use a labelled split or add the label file"
            )
        return self.check_label(image_id, self.decode_label(files.label), image_size(files.image))

    def decode_label(self, path: Path) -> np.ndarray:
        """Read one label file into ids of ``classes``, shape ``(H, W)``, ``IGNORE_LABEL`` where none counts."""
        return read_label(path)

    def image_fingerprint(self, split: str) -> str:
        """Hex digest over ids, names and bytes of the split's images, computed once per instance."""
        return self._digest("image", split)

    def label_fingerprint(self, split: str) -> str:
        """Hex digest over ids, names and bytes of the labels that the split has, computed once per instance."""
        return self._digest("label", split)

    def _digest(self, kind: str, split: str) -> str:
        members = self.files(split)
        if (kind, split) not in self._digests:
            paths = [getattr(files, kind) for files in members.values()]
            content = digest_files(self.root, [path for path in paths if path is not None])
            self._digests[kind, split] = sha256("\n".join([*members, content]).encode()).hexdigest()
        return self._digests[kind, split]

    def _files_of(self, image_id: str) -> ImageFiles:
        if image_id not in self._files:
            example = next(iter(self._files), "none")
            raise InputError(f"{self.name} has no image {image_id!r}; its ids look like {example!r}")
        return self._files[image_id]


def paired_files(images: Path, image_suffix: str, labels: Path, label_suffix: str) -> dict[str, ImageFiles]:
    """Both files of every id that has an image or a label, sorted; a file's name is its id and the suffix.

    An id that lacks one of them stays in, so that the lost file is named where it is used and splits do not shift.
    """
    ids = {
        path.name.removesuffix(suffix)
        for folder, suffix in ((images, image_suffix), (labels, label_suffix))
        for path in folder.glob(f"*{suffix}")
        # Archives packed on a Mac hold a "._name" beside every file.
        if not path.name.startswith(".")
    }
    return {
        name: ImageFiles(images / f"{name}{image_suffix}", labels / f"{name}{label_suffix}") for name in sorted(ids)
    }


def translate(stored: np.ndarray, meaning: Mapping[int, int], path: Path) -> np.ndarray:
    """Replace the values of a label file by class ids.

    Args:
        stored: Stored label values, integers of shape ``(H, W)``.
        meaning: Class id, or ``IGNORE_LABEL``, of every value that may occur.
        path: File that the values come from, for the error message.

    Returns:
        Class id of every pixel, shape ``(H, W)``, uint8.

    Raises:
        InputError: If a value has no meaning.
    """
    table = np.full(max(meaning) + 1, -1, dtype=np.int16)
    table[list(meaning)] = list(meaning.values())
    values = stored.astype(np.intp)
    inside = (values >= 0) & (values < table.size)
    ids = np.where(inside, table[np.where(inside, values, 0)], -1)
    if ids.min() < 0:
        raise InputError(
            f"label {path} holds the value {values[ids < 0][0]}, which stands for no class; replace the file"
        )
    return ids.astype(np.uint8)


def read_image(path: Path) -> np.ndarray:
    """Decode an image file to RGB, upright, shape ``(H, W, 3)``, uint8; ``InputError`` if missing or truncated.

    Cameras store a photograph as the sensor lay and note in its EXIF data how to turn it; viewers and tools for labels
    turn it, and so does this. Greyscale of 16 bits is scaled to 8; floating-point values and integers of 32 bits have
    no known scale and are refused.
    """
    with _opened(path) as opened:
        if opened.format == "TIFF":
            _refuse_misread(opened, path)
        picture, turn = _loaded(opened), _TURNS.get(_orientation(opened))
        unscaled = opened.mode == "F" or (opened.mode == "I" and opened.format == "TIFF")
    if unscaled:
        kind = "floating-point values" if picture.mode == "F" else "signed integers or ones of 32 bits"
        raise InputError(f"image {path} holds {kind}; save it with 8 or 16 bits a channel")
    if turn is not None:
        picture = picture.transpose(turn)
    if picture.mode.startswith("I"):
        values = np.asarray(picture).clip(0, 65535)
        if values.max() < FEW_OF_16_BITS:
            _warn_of_few_bits(path.parent)
        # Pillow would clip 16 bits at 255.
        picture = Image.fromarray((values // 256).astype(np.uint8))
    return np.asarray(picture.convert("RGB"))


FEW_OF_16_BITS = 2**12
"""Below it a photograph of 16 bits has at most sixteen greys of 8 bits: its values most likely have 12."""


@cache
def _warn_of_few_bits(folder: Path) -> None:  # once for a folder, not for each of its photographs
    log.warning(
        "photographs of 16 bits in %s have values below %d alone, which become at most 16 greys; multiply them, by 16 "
        "where they have 12 bits",
        folder,
        FEW_OF_16_BITS,
    )


def _refuse_misread(picture: Image.Image, path: Path) -> None:
    """Raise ``InputError`` for a TIFF file of which Pillow gives wrong values, or a part, without a word."""
    tags = picture.tag_v2
    bits, signed = max(tags.get(_BITS, (1,))), 2 in tags.get(_SAMPLE_FORMAT, (1,))
    fault = ""
    if getattr(picture, "n_frames", 1) > 1:
        fault = f"{picture.n_frames} pages"
    elif bits == 16 and tags.get(_PHOTOMETRIC) == 0:
        fault = "16 bits whose 0 is white"
    elif bits == 16 and tags.get(_PLANAR) == 2:
        fault = "16 bits, one channel after the other"
    elif bits == 8 and signed:
        fault = "signed values of 8 bits"
    if fault:
        raise InputError(f"image {path} holds {fault}; save it as PNG, one file for each photograph")


_BITS, _PHOTOMETRIC, _PLANAR, _SAMPLE_FORMAT = 258, 262, 284, 339  # tags of TIFF 6.0


def read_label(path: Path) -> np.ndarray:
    """Decode a single-channel label image to its stored values, shape ``(H, W)``."""
    with _opened(path) as opened:
        stretch = next((_STRETCHED[tile.args] for tile in opened.tile if tile.args in _STRETCHED), None)
        picture = _loaded(opened)
    if picture.mode not in ("L", "P", "I", "I;16", "1"):
        raise InputError(f"label {path} has mode {picture.mode}; it must be a single-channel PNG of class ids")
    values = np.asarray(picture)
    return values // stretch if stretch else values


_STRETCHED = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies greyscale PNGs of 2 and 4 bits by, so that the largest is white, by its names of them."""


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a stored image upright, by its EXIF orientation.

``ImageOps.exif_transpose`` does the same, but writes the EXIF data anew, and fails where some of them are damaged.
"""

_SIDEWAYS = range(5, 9)
"""The EXIF orientations whose height lies across."""


def _orientation(picture: Image.Image) -> int | None:
    """The EXIF orientation of an image, if it has one that can be read."""
    try:
        return picture.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return None


def image_size(path: Path) -> tuple[int, int]:
    """Height and width, upright, of an image file; by its header, without decoding it, where that suffices."""
    with _opened(path) as picture:
        if picture.format == "TIFF":
            picture.load()  # Pillow turns TIFF by itself, some versions when it opens one, some when it decodes it
        size = picture.height, picture.width
        return size[::-1] if _orientation(picture) in _SIDEWAYS else size


def _loaded(picture: Image.Image) -> Image.Image:
    picture.load()
    return picture.copy()


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    if not path.is_file():
        raise InputError(f"image {path} is missing; check the path (`neuralef data check NAME` lists what else is)")
    try:
        # Given a path, Pillow maps plain TIFF files into memory by the height and width of the turned image, and so
        # garbles those that lie sideways.
        with path.open("rb") as file, Image.open(file) as picture:
            yield picture
    except (InputError, PermissionError):
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"image {path} is damaged (it has no known format); replace the file") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"image {path} is too large ({error}); scale it down or cut it") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"image {path} is damaged ({error}); replace the file") from error


def digest_files(root: Path, files: list[Path]) -> str:
    """SHA-256 over the names relative to ``root`` and the bytes of ``files``, in the order given."""
    digest = sha256()
    for path in files:
        if not path.is_file():
            raise InputError(f"file {path} is missing; check the path (`neuralef data check NAME` lists what else is)")
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(sha256(path.read_bytes()).digest())
    return digest.hexdigest()
