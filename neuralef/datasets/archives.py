"""Fetching and unpacking what datasets come in, without trusting it and without leaving halves behind."""

import gzip
import hashlib
import http.client
import logging
import lzma
import shutil
import stat
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Literal

from tqdm.auto import tqdm

from neuralef.errors import InputError
from neuralef.files import ensure_writable_folder, unfinished_name

log = logging.getLogger(__name__)

BLOCK = 1 << 20
TIMEOUT_S = 60
DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    UnicodeDecodeError,  # zipfile's answer to a damaged name
    NotImplementedError,  # zipfile's answer to a compression method it does not know
)
"""What the standard library raises while it reads an archive that is cut off, altered or none at all."""


def download(url: str, target: Path, *, then: str, md5: str | None = None) -> Path:
    """Fetch ``url`` into the file ``target``, which appears only when it is whole and verified.

    Args:
        url: Address to download from.
        target: File to write; its folder is created.
        then: Command to run once the file is in place; named in the message when fetching fails.
        md5: Expected MD5 digest, where one is published.

    Returns:
        ``target``.

    Raises:
        InputError: If the network fails, the folder cannot be written, or the bytes are not those expected.
    """
    advice = f"download {url} by hand, put it at {target} and run `{then}`"
    digest = hashlib.md5(usedforsecurity=False)
    ensure_writable_folder(target.parent)
    unfinished = unfinished_name(target)
    log.info("downloading %s", url)
    try:
        with unfinished.open("wb") as file:
            for block in _received(url, target.name, advice):
                file.write(block)
                digest.update(block)
        if md5 and digest.hexdigest() != md5.lower():
            raise InputError(f"{url} gave a file with md5 {digest.hexdigest()}, expected {md5}; {advice}")
        unfinished.replace(target)
    except OSError as error:
        raise InputError(f"cannot write {target} ({error}); free some space or choose another folder") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def _received(url: str, title: str, advice: str) -> Iterator[bytes]:
    request = urllib.request.Request(url, headers={"User-Agent": "neuralef"})
    with _network(url, advice):
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    total = int(response.headers.get("Content-Length") or 0)
    received = 0
    with response, tqdm(total=total or None, desc=title, unit="B", unit_scale=True, disable=None) as bar:
        while True:
            with _network(url, advice):
                block = response.read(BLOCK)
            if not block:
                break
            received += len(block)
            bar.update(len(block))
            yield block
    if received < total:  # a connection that closes early reads like the end of the file
        raise InputError(f"download of {url} broke off after {received} of {total} bytes; run it again, or {advice}")


@contextmanager
def _network(url: str, advice: str) -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise InputError(f"cannot download {url} ({error or type(error).__name__}); {advice}") from error


def unpack(archives: Path | Sequence[Path], target: Path) -> Path:
    """Unpack a tar (plain or compressed) or zip archive, or several over each other, into the new folder ``target``.

    Members are written by hand as plain files and folders: no owner, no permission and no device is taken over, and a
    link may only point downwards, so that nothing can leave the folder. ``target`` appears when all is unpacked; on any
    failure nothing stays. Processes that might unpack to the same place need a lock around the call.

    Args:
        archives: Archive or archives; where two hold a file of the same name, the later one's stays.
        target: Folder to create; must not exist.

    Returns:
        ``target``.

    Raises:
        InputError: If an archive is missing, damaged, cut off or encrypted, a member leads out of the folder or is a
            device, ``target`` exists, or it cannot be written.
    """
    archives = [archives] if isinstance(archives, Path) else archives
    for archive in archives:
        if not archive.is_file():
            raise InputError(f"archive {archive} is missing; check the path")
        if target.exists():
            raise InputError(f"cannot unpack {archive}: {target} already exists; delete it first")
    ensure_writable_folder(target.parent)
    unfinished = target.with_name(f".{target.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir()
        for archive in archives:
            _extract(archive, unfinished)
        unfinished.rename(target)
    except DAMAGE as error:
        raise InputError(f"archive {archive} is damaged or incomplete ({_reason(error)}); download it again") from error
    except OSError as error:
        raise InputError(
            f"cannot unpack {archive} into {target} ({error}); is the archive whole and space left?"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def find_folder(root: Path, *members: str) -> Path | None:
    """The shallowest folder, ``root`` or at most two levels below it, that has all ``members``; None if none has."""
    for pattern in (".", "*", "*/*"):
        candidates = [root] if pattern == "." else sorted(root.glob(pattern))
        for folder in candidates:
            if all((folder / member).exists() for member in members):
                return folder
    return None


@dataclass(frozen=True)
class _Member:
    """One entry of an archive; ``link`` is what a link points to, ``content`` opens a file."""

    name: str
    kind: Literal["file", "folder", "symlink", "hardlink", "device"]
    link: str
    content: Callable[[], IO[bytes]]


def _extract(archive: Path, folder: Path) -> None:
    size = archive.stat().st_size
    with (
        archive.open("rb") as raw,
        tqdm(total=size, desc=f"unpacking {archive.name}", unit="B", unit_scale=True, disable=None) as bar,
    ):
        is_zip = raw.read(2) == b"PK"
        raw.seek(0)
        for member in (_zip_members if is_zip else _tar_members)(raw):
            _refuse_escape(member, archive)
            _write(member, folder)
            bar.update(max(0, raw.tell() - bar.n))


def _tar_members(raw: IO[bytes]) -> Iterator[_Member]:
    with tarfile.open(fileobj=raw) as tar:
        for item in tar:
            yield _Member(item.name, _tar_kind(item), item.linkname, partial(tar.extractfile, item))
        # tarfile takes a damaged header for the end of the archive, so look whether the end mark is there; and read on
        # to the end of the file, where compressed streams keep their checksum.
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it stops before its end mark")
        while tar.fileobj.read(BLOCK):
            continue


def _tar_kind(item: tarfile.TarInfo) -> str:
    kinds = {"file": item.isreg(), "folder": item.isdir(), "symlink": item.issym(), "hardlink": item.islnk()}
    return next((kind for kind, holds in kinds.items() if holds), "device")


def _zip_members(raw: IO[bytes]) -> Iterator[_Member]:
    with zipfile.ZipFile(raw) as pack:
        for item in pack.infolist():
            if item.flag_bits & 1:
                raise zipfile.BadZipFile(f"member {item.filename} is encrypted")
            kind = _zip_kind(item)
            link = pack.read(item).decode(errors="replace") if kind == "symlink" else ""
            yield _Member(item.filename, kind, link, partial(pack.open, item))


def _zip_kind(item: zipfile.ZipInfo) -> str:
    if item.is_dir():
        return "folder"
    file_type = stat.S_IFMT(item.external_attr >> 16)
    # Archives made on Windows carry no Unix file type: 0.
    return {0: "file", stat.S_IFREG: "file", stat.S_IFLNK: "symlink"}.get(file_type, "device")


def _refuse_escape(member: _Member, archive: Path) -> None:
    if member.kind == "device":
        fault = "is neither file, folder nor link"
    elif _leads_out(member.name):
        fault = "leads out of the folder"
    elif member.kind in ("symlink", "hardlink") and _leads_out(member.link):
        fault = f"links to {member.link!r}, out of its folder"
    else:
        return
    raise InputError(
        f"archive {archive} is not safe to unpack: member {member.name!r} {fault}; get it from its official source"
    )


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or bool(PureWindowsPath(name).drive)


def _write(member: _Member, folder: Path) -> None:
    path = folder / member.name
    if member.kind == "folder":
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if member.kind == "symlink":
        path.symlink_to(member.link)
    elif member.kind == "hardlink":
        path.hardlink_to(folder / member.link)
    else:
        with member.content() as source, path.open("wb") as file:
            shutil.copyfileobj(source, file, BLOCK)


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
