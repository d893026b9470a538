"""Writing without half-written results: temporary names, renames, checksums."""

import io
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import safetensors.torch
import torch
from filelock import FileLock, Timeout
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from neuralef.errors import InputError

log = logging.getLogger(__name__)


def ensure_writable_folder(folder: Path) -> Path:
    """Create ``folder`` if need be; ``InputError`` if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".writable-{token_hex(8)}"
        trial.touch()
        trial.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write to folder {folder} ({error.strerror}); choose another, or change its permissions"
        ) from error
    return folder


def locked(path: Path, busy_with: str) -> AbstractContextManager:
    """Take a lock, for a ``with``; where another process has it, say what that one does (``busy_with``) and wait."""
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        log.info("another process %s; waiting for it", busy_with)
        return lock.acquire()


@contextmanager
def computed_once(path: Path, busy_with: str) -> Iterator[None]:
    """:func:`locked`; where no lock can be made, as in a cache that may only be read, go on without one."""
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path, busy_with))
        except OSError as error:  # what must be written there will say so itself
            log.debug("no lock %s: %s", path, error)
        yield


def held_alone(path: Path, refusal: str) -> AbstractContextManager:
    """Take a lock, for a ``with``; where another process has it, raise ``InputError`` with what ``refusal`` says."""
    try:
        return FileLock(path).acquire(timeout=0)
    except Timeout as error:
        raise InputError(refusal) from error


def unfinished_name(path: Path) -> Path:
    """A name beside ``path`` for what is to become it: another at every call, since several threads may write it."""
    name = sha256(os.fsencode(path.name)).hexdigest()[:16]  # itself it may be as long as names can be
    return path.with_name(f".{name}.{token_hex(8)}.partial")


def write_bytes(path: Path, content: bytes) -> Path:
    """Write under a temporary name in the same folder, then rename: readers see the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_name(path)
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except BaseException as error:  # a full disk above all, which what is left would keep full
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = path  # a write that fails names none, a replacement the temporary one
        raise
    return path


def write_text(path: Path, text: str) -> Path:
    """:func:`write_bytes` for UTF-8 text."""
    return write_bytes(path, text.encode())


def write_json(path: Path, document: Any) -> Path:
    """:func:`write_text` of an indented JSON document."""
    return write_text(path, json.dumps(document, indent=1) + "\n")


SOFTWARE = "neuralef"
"""What PNG files of ours name as their software."""


def write_png(path: Path, pixels: np.ndarray, *, made_from: str = "") -> Path:
    """:func:`write_bytes` of an image; it names its maker, and what it was made from for :func:`png_made_from`.

    Args:
        path: File to write.
        pixels: Gray values or ids, ``(H, W)``, uint8 or uint16; or RGB ``(H, W, 3)``, uint8.
        made_from: Digest of all that determines the pixels; empty: none is kept.
    """
    content, about = io.BytesIO(), PngInfo()
    about.add_text("Software", SOFTWARE)
    if made_from:
        about.add_text("Source", made_from)
    Image.fromarray(pixels).save(content, format="png", pnginfo=about)
    return write_bytes(path, content.getvalue())


def is_our_png(path: Path) -> bool:
    """Whether a file is an image that :func:`write_png` has written."""
    return _png_texts(path).get("Software") == SOFTWARE


def png_made_from(path: Path) -> str:
    """The digest that :func:`write_png` was given; empty if it was given none, or the file is missing or another's."""
    return _png_texts(path).get("Source", "") if is_our_png(path) else ""


def _png_texts(path: Path) -> dict[str, Any]:
    try:
        with Image.open(path) as image:
            return dict(image.info) if image.format == "PNG" else {}
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return {}


def read_json(path: Path, *needed: str) -> dict[str, Any]:
    """Read a JSON object that a run has kept; ``InputError`` if it is damaged or lacks an entry of ``needed``."""
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:  # neither JSON nor UTF-8
        raise InputError(f"{path} is damaged ({error}); delete it, then run again") from error
    if not isinstance(document, dict) or not set(needed) <= document.keys():
        raise InputError(f"{path} is damaged (no {' and '.join(needed)}); delete it, then run again")
    return document


def tensors_digest(tensors: Mapping[str, Tensor], document: str = "") -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors in the order of their names, then ``document``."""
    digest = sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    digest.update(document.encode())
    return digest.hexdigest()


def write_checked_tensors(path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> Path:
    """Keep tensors and a JSON document that belong together in one safetensors file with a checksum over both."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(document)
    metadata = {"document": text, "sha256": tensors_digest(whole, text)}
    return write_bytes(path, safetensors.torch.save(whole, metadata))


def read_checked_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write_checked_tensors` kept.

    Raises:
        InputError: If the file is damaged or does not match its checksum.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
    except safetensors.SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}); delete it, then run again") from error
    text = metadata.get("document", "")
    if tensors_digest(tensors, text) != metadata.get("sha256"):
        raise InputError(f"{path} does not match its checksum; delete it, then run again")
    return tensors, json.loads(text)
