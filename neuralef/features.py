"""Extraction of patch features and the store that keeps them on disk.

One folder holds one split of one dataset under one configuration::

    <cache>/features/<key>/patches.npy     float16 (images, h, w, sum C), a memory map
                           colours.npy     float16 (images, h, w, 3), images at patch resolution, [0, 1]
                           manifest.json   configuration, image ids, and a checksum of each finished chunk

The key is a digest of all that determines the features (weights, blocks, precision, crop, the images' bytes, code and
versions), so a store made under another configuration is never met. Chunks are written in order; a killed extraction
continues after the last chunk whose checksum holds. Every checksum is verified when a store is opened.
"""

import json
import logging
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path
from shutil import disk_usage
from time import perf_counter
from tokenize import TokenError
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from neuralef.backbones import Backbone
from neuralef.config import Config
from neuralef.datasets.base import Dataset
from neuralef.datasets.crops import crop_image
from neuralef.errors import BEYOND_US, InputError
from neuralef.files import locked, write_json
from neuralef.paths import cache_root
from neuralef.precision import Precision
from neuralef.provenance import code_digest, versions

log = logging.getLogger(__name__)

ALL = slice(None)

CHUNK = 8
"""Images that pass the backbone together and share a checksum."""

SAVE_EVERY_S = 30
"""Seconds between two notes of which chunks are done: what a killed process has to do again; Ctrl-C loses nothing."""


@dataclass(frozen=True, kw_only=True)
class FeaturePlan:
    """Which features of the images of one split there will be; none has to be computed.

    Attributes:
        ids: Image ids, in the order of the arrays.
        channels: Width of each level, low to high.
        crop_size: Side of the square the features are computed on, in pixels.
        key: Digest of all that determines the content.
    """

    ids: tuple[str, ...]
    channels: tuple[int, ...]
    crop_size: int
    key: str

    def __len__(self) -> int:
        """Number of images."""
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class FeatureStore(FeaturePlan):
    """Features of the images of one split, read lazily.

    Attributes:
        patches: Features of every patch, shape ``(images, h, w, sum C)``, levels concatenated low to high.
        patch_colours: Images at patch resolution, shape ``(images, h, w, 3)``, in [0, 1].
        extract_s: Seconds the extraction took.
    """

    patches: np.ndarray
    patch_colours: np.ndarray
    extract_s: float

    @property
    def grid(self) -> tuple[int, int]:
        """Patches of one image, ``(h, w)``."""
        return self.patches.shape[1:3]

    def levels(self, chosen: np.ndarray | slice, rows: slice = ALL, columns: slice = ALL) -> Tensor:
        """All levels of some images, float32 ``(images, h, w, sum C)``; only patches in ``rows`` and ``columns``."""
        return torch.from_numpy(np.asarray(self.patches[:, rows, columns][chosen], dtype=np.float32))

    def high(self, chosen: np.ndarray | slice) -> Tensor:
        """The high level of some images, float32 ``(images, h, w, C)``."""
        return torch.from_numpy(np.asarray(self.patches[chosen, ..., -self.channels[-1] :], dtype=np.float32))

    def colours(self, chosen: np.ndarray | slice, rows: slice = ALL, columns: slice = ALL) -> Tensor:
        """Images at patch resolution, float32 ``(images, h, w, 3)``, in [0, 1]; patches as for :meth:`levels`."""
        return torch.from_numpy(np.asarray(self.patch_colours[:, rows, columns][chosen], dtype=np.float32))

    @cached_property
    def channel_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every channel over all patches, float32, each of shape ``(sum C,)``."""
        total = torch.zeros(sum(self.channels), dtype=torch.float64)
        squares = torch.zeros_like(total)
        for start in range(0, len(self), CHUNK):
            levels = self.levels(slice(start, start + CHUNK)).flatten(0, 2)
            total += levels.sum(dim=0)  # of a chunk, float32 is exact to 1e-6 and three times as fast
            squares += levels.square_().sum(dim=0)
        patches = len(self) * self.grid[0] * self.grid[1]
        mean = total / patches
        return mean.float(), (squares / patches - mean.square()).clamp_min(0).sqrt().float()

    def subset(self, images: int) -> "FeatureStore":
        """The first ``images`` images alone."""
        return self._part(slice(images), f"first-{images}")

    def only(self, index: int) -> "FeatureStore":
        """One image alone."""
        return self._part(slice(index, index + 1), f"only-{index}")

    def chosen(self, indices: np.ndarray, name: str) -> "FeatureStore":
        """Some images, copied into memory; ``name`` tells this choice from others."""
        return self._part(indices, name)

    def _part(self, chosen: slice | np.ndarray, name: str) -> "FeatureStore":
        return replace(
            self,
            ids=tuple(np.array(self.ids, dtype=object)[chosen]),
            patches=self.patches[chosen],
            patch_colours=self.patch_colours[chosen],
            key=f"{self.key}-{name}",
        )


MODULES = ("features", "backbones", "precision", "datasets.crops")
"""Code that features depend on, besides that which reads the dataset."""


def patch_colours(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """Down-sample images bilinearly to the patch grid, as Eq. 3 wants them.

    Args:
        images: Images, shape ``(B, 3, H, W)``, values in [0, 1].
        grid: Patches down and across, ``(h, w)``.

    Returns:
        Images at patch resolution, shape ``(B, h, w, 3)``, values in [0, 1].
    """
    return F.interpolate(images, size=grid, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 ``(B, H, W, 3)`` to float32 ``(B, 3, H, W)`` in [0, 1]."""
    return torch.tensor(images).permute(0, 3, 1, 2).float() / 255


def shifted_levels(backbone: Backbone, images: Tensor, views: int, precision: Precision = "float32") -> Tensor:
    """Features on a grid of ``views`` times the side: the backbone sees the images shifted by fractions of a patch.

    The windows lie symmetrically around the image, whose border is mirrored; view (i, j) fills every ``views``-th row
    and column from i and j. Each pass costs what the image itself costs, so there are ``views ** 2`` of them.

    Args:
        backbone: Backbone that gives the features.
        images: Images, shape ``(B, 3, H, W)``, values in [0, 1]; for more than one view the sides are multiples of the
            patch.
        views: Number of views along each side; 1: the image as it is.
        precision: Precision of the matrix products.

    Returns:
        Features of all levels, shape ``(B, views * h, views * w, sum C)``, float32, in host memory.

    Raises:
        ValueError: If the sides do not fit.
    """
    if views == 1:
        return backbone(images, precision=precision).cpu()
    height, width = images.shape[-2:]
    P = backbone.patch_size
    if height % P or width % P:
        raise ValueError(f"sides {height} x {width} must be multiples of the patch, {P}, to be shifted")
    # The centre of sub-patch i lies (2 i + 1) / (2 views) of the way along a patch, that of a window's patch half way.
    shifts = [int((2 * i + 1 - views) * P / (2 * views)) for i in range(views)]
    margin = max(shifts)
    padded = F.pad(images, (margin,) * 4, mode="reflect")
    grid = torch.empty(len(images), views * height // P, views * width // P, sum(backbone.channels))
    for i, down in enumerate(shifts):
        for j, right in enumerate(shifts):
            window = padded[..., margin + down :, margin + right :][..., :height, :width]
            grid[:, i::views, j::views] = backbone(window, precision=precision)
    return grid


def extract(
    dataset: Dataset,
    split: str,
    backbone: Backbone,
    config: Config,
    *,
    views: int = 1,
    cache: Path | None = None,
    progress: bool = True,
) -> FeatureStore:
    """Features of every image of a split, from the cache where they are already whole.

    Args:
        dataset: Dataset whose images are read.
        split: Split of the dataset.
        backbone: Backbone that gives the features.
        config: Hyper-parameters, of which crop and precision are read.
        views: Number of shifted views along each side, see :func:`shifted_levels`; the store's grid is as many times
            finer.
        cache: Folder of all stores; default :func:`neuralef.paths.cache_root`.
        progress: Whether to show a progress bar.

    Raises:
        InputError: If the split is empty, an image is damaged, or a finished store does not match its checksums.
    """
    identity = _identity(dataset, split, backbone, config, views)
    key = _key(identity)
    folder = (cache or cache_root()) / "features" / key
    content = {"identity": identity, "ids": dataset.ids(split), "channels": list(backbone.channels)}
    # A whole store is never written to again, so reading one takes no lock and works where nothing may be written.
    manifest = _read_manifest(folder, content)
    if manifest is None or not manifest["complete"]:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock", f"is computing the features of {dataset.name}/{split}"):
            manifest = _read_manifest(folder, content)  # perhaps another process has made it whole meanwhile
            if manifest is None or not manifest["complete"]:
                unfinished = _Unfinished(
                    folder, manifest or _begin(folder, content, identity["crop_size"] // backbone.patch_size)
                )
                _fill(unfinished, dataset, backbone, progress=progress)
                return _open(folder, unfinished.manifest)
    _verify(folder, manifest)
    return _open(folder, manifest)


def planned(dataset: Dataset, split: str, backbone: Backbone, config: Config) -> FeaturePlan:
    """What :func:`extract` would give, with nothing computed but the digest of the images' bytes.

    Raises:
        InputError: If the split is empty.
    """
    identity = _identity(dataset, split, backbone, config, views=1)
    return FeaturePlan(
        ids=tuple(dataset.ids(split)),
        channels=tuple(backbone.channels),
        crop_size=identity["crop_size"],
        key=_key(identity),
    )


def _identity(dataset: Dataset, split: str, backbone: Backbone, config: Config, views: int) -> dict[str, Any]:
    """All that determines the features of a split."""
    return {
        "code": code_digest(*MODULES, *dataset.reader_modules),
        "versions": versions(),
        "split": split,
        "images": dataset.image_fingerprint(split),
        "backbone": backbone.fingerprint,
        "precision": config.precision,
        "device": backbone.device.type,
        "crop_size": config.crop_size(backbone.patch_size),
        "views": views,
    }


def _key(identity: dict[str, Any]) -> str:
    return sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _begin(folder: Path, content: dict[str, Any], side: int) -> dict[str, Any]:
    """The manifest of a store without a chunk, whose files are made with room for all; ``side`` is that of one view."""
    images, side = len(content["ids"]), content["identity"]["views"] * side
    shapes = {"patches": (images, side, side, sum(content["channels"])), "colours": (images, side, side, 3)}
    needed, free = sum(2 * math.prod(shape) for shape in shapes.values()), disk_usage(folder).free
    if needed > free:  # a full disk would kill the process where it writes to a memory map
        raise InputError(
            f"features of {images} images of split {content['identity']['split']} take {needed / 1e6:.0f} MB, {folder} "
            f"has {free / 1e6:.0f} left; free some, or set NEURALEF_CACHE to a folder on another disk"
        )
    for name, shape in shapes.items():
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, shape).flush()
    manifest = {**content, "chunks": [], "extract_s": 0.0, "complete": False}
    write_json(folder / "manifest.json", manifest)
    return manifest


class _Unfinished:
    """A store that still lacks chunks, which are written to it in order."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self._arrays = _arrays(folder, "r+")
        for name in self._arrays:
            _reserve(folder / f"{name}.npy")
        manifest["chunks"] = _intact_chunks(self._arrays, manifest["chunks"])
        self._noted = perf_counter()

    @property
    def images(self) -> int:
        """Number of images that are written."""
        return min(CHUNK * len(self.manifest["chunks"]), len(self.manifest["ids"]))

    def append(self, levels: np.ndarray, colours: np.ndarray, seconds: float) -> None:
        """Write the next chunk, which took so many seconds."""
        rows = slice(self.images, self.images + len(levels))
        self._arrays["patches"][rows] = levels
        self._arrays["colours"][rows] = colours
        self.manifest["chunks"].append(_digest(self._arrays, rows))
        self.manifest["extract_s"] += seconds
        if perf_counter() - self._noted > SAVE_EVERY_S:
            self.note()

    def note(self) -> None:
        """Write the manifest as it is."""
        write_json(self.folder / "manifest.json", self.manifest)
        self._noted = perf_counter()

    def finish(self) -> None:
        """Declare the store whole."""
        for array in self._arrays.values():  # what a crash of the machine loses before, the checksums find
            array.flush()
        self.manifest["complete"] = True
        self.note()


def _fill(store: _Unfinished, dataset: Dataset, backbone: Backbone, *, progress: bool) -> None:
    """Extract what a store lacks.

    While one chunk passes the backbone, the next is decoded and the one before is written, each by one thread. Neither
    calls torch, whose OpenMP gives every thread that calls it a team of its own, beside the backbone's.
    """
    identity, ids, first = store.manifest["identity"], store.manifest["ids"], store.images
    chunks = [ids[start : start + CHUNK] for start in range(first, len(ids), CHUNK)]
    name = f"{dataset.name}/{identity['split']}"
    bar = tqdm(total=len(ids), initial=first, desc=f"features {name}", unit="image", disable=not progress)

    def read(chunk: list[str]) -> np.ndarray:
        return np.stack([crop_image(dataset.image(image_id), identity["crop_size"]) for image_id in chunk])

    def write(levels: np.ndarray, colours: np.ndarray, seconds: float) -> None:
        store.append(levels, colours, seconds)
        bar.update(len(levels))

    with ExitStack() as stack:
        stack.enter_context(bar)
        stack.callback(store.note)  # be it an interruption that ends it, when the last write is over
        reader, writer = (stack.enter_context(ThreadPoolExecutor(1)) for _ in range(2))
        began = perf_counter()
        upcoming, written = reader.submit(read, chunks[0]) if chunks else None, None
        for chunk, following in zip_longest(chunks, chunks[1:]):
            images = to_tensor(upcoming.result())
            if following:
                upcoming = reader.submit(read, following)
            levels = shifted_levels(backbone, images, identity["views"], identity["precision"])
            # The extremes tell it in a fifth of the time that all values take.
            if not torch.stack(torch.aminmax(levels)).half().isfinite().all():
                raise InputError(
                    f"features of images {chunk[0]} .. {chunk[-1]} exceed float16; use another level or norm"
                )
            if written:
                written.result()
            now = perf_counter()
            colours = patch_colours(images, levels.shape[1:3]).numpy()
            written = writer.submit(write, levels.half().numpy(), colours, now - began)
            began = now
        if written:
            written.result()
            store.manifest["extract_s"] += perf_counter() - began
    store.finish()
    log.info("features of %s are in %s", name, store.folder)


def _reserve(path: Path) -> None:
    """Take the whole of a file's space: where a disk fills under a memory map, the process is killed without a word."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno in BEYOND_US:  # else the file system is one that reserves nothing
                error.filename = str(path)
                raise


def _digest(arrays: dict[str, np.ndarray], rows: slice) -> str:
    digest = sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(arrays[name][rows]).data)
    return digest.hexdigest()


def _chunk_rows(chunks: int) -> Iterator[slice]:
    return (slice(index * CHUNK, (index + 1) * CHUNK) for index in range(chunks))


def _intact_chunks(arrays: dict[str, np.ndarray], digests: list[str]) -> list[str]:
    intact = []
    for rows, digest in zip(_chunk_rows(len(digests)), digests, strict=True):
        if _digest(arrays, rows) != digest:
            break
        intact.append(digest)
    return intact


def _read_manifest(folder: Path, content: dict[str, Any]) -> dict[str, Any] | None:
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:  # neither JSON nor UTF-8
        raise _damaged(folder) from error
    progress = {"chunks", "extract_s", "complete"}
    if not isinstance(manifest, dict) or {name: manifest[name] for name in manifest.keys() - progress} != content:
        raise _damaged(folder)
    if not progress <= manifest.keys():
        raise _damaged(folder)
    return manifest


def _arrays(folder: Path, mode: Literal["r", "r+"] = "r") -> dict[str, np.ndarray]:
    try:
        return {name: np.load(folder / f"{name}.npy", mmap_mode=mode) for name in ("patches", "colours")}
    except (OSError, ValueError, EOFError, TokenError) as error:  # the last of a header that numpy cannot parse
        raise _damaged(folder) from error


def _verify(folder: Path, manifest: dict[str, Any]) -> None:
    if len(_intact_chunks(_arrays(folder), manifest["chunks"])) * CHUNK < len(manifest["ids"]):
        raise _damaged(folder)


def _open(folder: Path, manifest: dict[str, Any]) -> FeatureStore:
    arrays = _arrays(folder)
    return FeatureStore(
        ids=tuple(manifest["ids"]),
        patches=arrays["patches"],
        patch_colours=arrays["colours"],
        channels=tuple(manifest["channels"]),
        crop_size=manifest["identity"]["crop_size"],
        key=folder.name,
        extract_s=manifest["extract_s"],
    )


def _damaged(folder: Path) -> InputError:
    return InputError(f"the feature cache {folder} is corrupted; delete the folder, then run again")
