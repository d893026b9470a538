"""Unpacking and downloading: what is taken, what is refused, and that nothing half-done stays."""

import http.client
import io
import stat
import tarfile
import urllib.error
import urllib.request
import zipfile
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest

from neuralef.datasets import archives
from neuralef.datasets.archives import download, find_folder, unpack
from neuralef.errors import InputError

CONTENT = {"Set/list.txt": b"a b\n", "Set/images/a.bin": bytes(range(256)) * 40, "Set/images/b.bin": b""}


def tar_member(name: str, **fields) -> tarfile.TarInfo:
    item = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(item, field, value)
    return item


def make_tar(path: Path, members=(), mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in CONTENT.items():
            tar.addfile(tar_member(name, size=len(content)), io.BytesIO(content))
        for item in members:
            tar.addfile(item, io.BytesIO(b"x" * item.size))
    return path


def make_zip(path: Path, members=()) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as pack:
        pack.mkdir("Set")
        for name, content in (*CONTENT.items(), *members):
            pack.writestr(name, content)
    return path


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_refused(archive: Path, *words: str) -> None:
    """Unpacking fails with an InputError that says ``words``, and leaves its folder as it was."""
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(InputError) as caught:
        unpack(archive, archive.parent / "out")
    for word in (str(archive), *words):
        assert word in str(caught.value)
    assert sorted(archive.parent.rglob("*")) == before


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz", "zip"])
def test_unpacks_every_format(tmp_path, mode):
    archive = make_zip(tmp_path / "set") if mode == "zip" else make_tar(tmp_path / "set", mode=mode)
    assert unpack(archive, tmp_path / "deep" / "out") == tmp_path / "deep" / "out"
    assert content_of(tmp_path / "deep" / "out") == CONTENT
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_several_archives_lie_over_each_other(tmp_path):
    first = make_tar(tmp_path / "first.tar")
    second = tmp_path / "second.zip"
    with zipfile.ZipFile(second, "w") as pack:
        pack.writestr("Set/list.txt", "c d\n")
        pack.writestr("Other/list.txt", "e f\n")
    out = unpack([first, second], tmp_path / "out")
    assert content_of(out) == CONTENT | {"Set/list.txt": b"c d\n", "Other/list.txt": b"e f\n"}
    second.write_bytes(second.read_bytes()[:-30])
    for damaged, fault in ((second, "download it again"), (tmp_path / "absent.zip", "is missing")):
        with pytest.raises(InputError, match=f"{damaged.name}.*{fault}"):
            unpack([first, damaged], tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_links_that_point_downwards_are_kept(tmp_path):
    links = [
        tar_member("Set/soft", type=tarfile.SYMTYPE, linkname="images/a.bin"),
        tar_member("Set/hard", type=tarfile.LNKTYPE, linkname="Set/images/a.bin"),
    ]
    out = unpack(make_tar(tmp_path / "set.tar", links), tmp_path / "out")
    assert (out / "Set/soft").read_bytes() == (out / "Set/hard").read_bytes() == CONTENT["Set/images/a.bin"]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("../x", {"size": 1}),
        ("Set/../../x", {"size": 1}),
        ("Set\\..\\..\\x", {"size": 1}),
        ("/neuralef-escaped", {"size": 1}),
        ("C:/x", {"size": 1}),
        ("../folder", {"type": tarfile.DIRTYPE}),
        ("Set/soft", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
        ("Set/soft", {"type": tarfile.SYMTYPE, "linkname": "../../x"}),
        ("Set/hard", {"type": tarfile.LNKTYPE, "linkname": "../x"}),
        ("Set/null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}),
        ("Set/pipe", {"type": tarfile.FIFOTYPE}),
    ],
)
def test_tar_members_that_escape_are_refused(tmp_path, name, fields):
    # The bad member comes last: what came before it must not stay either.
    assert_refused(make_tar(tmp_path / "set.tar.gz", [tar_member(name, **fields)], "w:gz"), repr(name))
    assert not Path("/neuralef-escaped").exists()


@pytest.mark.parametrize("name", ["../x", "/x", "Set/../../x"])
def test_zip_members_that_escape_are_refused(tmp_path, name):
    assert_refused(make_zip(tmp_path / "set.zip", [(name, b"x")]), repr(name))


def test_zip_links_that_escape_are_refused(tmp_path):
    link = zipfile.ZipInfo("Set/soft")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert_refused(make_zip(tmp_path / "set.zip", [(link, b"/etc/passwd")]), "'Set/soft'", "/etc/passwd")


def test_writing_through_a_link_stays_inside(tmp_path):
    """A link first and a file "behind" it: the way out that checks of single names overlook."""
    members = [
        tar_member("Set/way", type=tarfile.SYMTYPE, linkname="images"),
        tar_member("Set/way/c.bin", size=3),
    ]
    out = unpack(make_tar(tmp_path / "set.tar", members), tmp_path / "out")
    assert (out / "Set/images/c.bin").read_bytes() == b"xxx"


@pytest.mark.parametrize("mode", ["w", "w:gz", "zip"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
def test_truncated_archives_are_refused(tmp_path, mode, share):
    archive = make_zip(tmp_path / "set") if mode == "zip" else make_tar(tmp_path / "set", mode=mode)
    whole = archive.read_bytes()
    # The end of a plain tar is padding, so count from its last real byte.
    end = len(whole.rstrip(b"\0")) if mode == "w" else len(whole)
    archive.write_bytes(whole[: int(end * share)])
    assert_refused(archive, "download it again")


def test_tar_cut_between_two_members_is_refused(tmp_path):
    archive = make_tar(tmp_path / "set.tar")
    with tarfile.open(archive) as tar:
        boundary = tar.getmembers()[1].offset
    archive.write_bytes(archive.read_bytes()[:boundary])
    assert_refused(archive, "download it again")


def test_one_altered_byte_of_a_compressed_archive_is_noticed(tmp_path):
    noise = np.random.default_rng(0).bytes(5000)
    archive = tmp_path / "set.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tar_member("Set/noise", size=len(noise)), io.BytesIO(noise))
    altered = bytearray(archive.read_bytes())
    altered[2500] ^= 1
    archive.write_bytes(altered)
    assert_refused(archive, "download it again")


def test_what_is_no_archive_is_refused(tmp_path):
    page = tmp_path / "set.tar.gz"
    page.write_text("<html>404 Not Found</html>")
    assert_refused(page, "download it again")
    page.write_bytes(b"")
    assert_refused(page, "download it again")


def test_missing_archive_and_existing_target_are_named(tmp_path):
    assert_refused(tmp_path / "nothing.tar", "is missing")
    archive = make_tar(tmp_path / "set.tar")
    (tmp_path / "out").mkdir()
    assert_refused(archive, "already exists", str(tmp_path / "out"))


def test_interrupted_unpacking_leaves_nothing(tmp_path, monkeypatch):
    archive = make_tar(tmp_path / "set.tar")

    def interrupt(source, file, length):
        file.write(source.read(10))
        raise KeyboardInterrupt

    monkeypatch.setattr(archives.shutil, "copyfileobj", interrupt)
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["set.tar"]


def test_remains_of_a_killed_process_do_not_matter(tmp_path):
    remains = tmp_path / ".out.partial" / "Set"
    remains.mkdir(parents=True)
    (remains / "stray").touch()
    assert content_of(unpack(make_tar(tmp_path / "set.tar"), tmp_path / "out")) == CONTENT


def test_find_folder_takes_the_shallowest(tmp_path):
    (tmp_path / "a" / "b" / "marked").mkdir(parents=True)
    assert find_folder(tmp_path, "marked") == tmp_path / "a" / "b"
    (tmp_path / "z" / "marked").mkdir(parents=True)
    assert find_folder(tmp_path, "marked") == tmp_path / "z"
    (tmp_path / "marked").mkdir()
    assert find_folder(tmp_path, "marked") == tmp_path
    assert find_folder(tmp_path, "absent") is None


class Response(io.BytesIO):
    """What ``urlopen`` returns, as far as ``download`` looks."""

    def __init__(self, content: bytes, length: int | None):
        super().__init__(content)
        self.headers = {} if length is None else {"Content-Length": str(length)}


URL = "http://example.org/set.tar"


def serve(monkeypatch, content: bytes, length: int | None = None) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda request, timeout: Response(content, length))


@pytest.mark.parametrize("length", [None, 5])
def test_download_writes_the_whole_file(tmp_path, monkeypatch, length):
    serve(monkeypatch, b"bytes", length)
    digest = md5(b"bytes").hexdigest().upper()
    target = download(URL, tmp_path / "data" / "set.tar", then="neuralef data prepare set", md5=digest)
    assert target.read_bytes() == b"bytes"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    "failure",
    [
        urllib.error.URLError("Name or service not known"),
        urllib.error.HTTPError(URL, 404, "Not Found", None, None),
        TimeoutError("timed out"),
        http.client.RemoteDisconnected("closed"),
        http.client.IncompleteRead(b""),
    ],
)
def test_failed_download_says_what_to_do_by_hand(tmp_path, monkeypatch, failure):
    def fail(request, timeout):
        raise failure

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    with pytest.raises(InputError) as caught:
        download(URL, tmp_path / "set.tar", then="neuralef data prepare set")
    for needed in (URL, str(tmp_path / "set.tar"), "`neuralef data prepare set`"):
        assert needed in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_failure_in_the_middle_keeps_no_file(tmp_path, monkeypatch):
    class Broken(Response):
        def read(self, size):
            block = super().read(size)
            if not block:
                raise ConnectionResetError("reset by peer")
            return block

    monkeypatch.setattr(urllib.request, "urlopen", lambda request, timeout: Broken(b"half", 100))
    with pytest.raises(InputError, match="reset by peer"):
        download(URL, tmp_path / "set.tar", then="neuralef data prepare set")
    assert not list(tmp_path.iterdir())


def test_short_download_is_refused(tmp_path, monkeypatch):
    serve(monkeypatch, b"half", 8)
    with pytest.raises(InputError, match="after 4 of 8 bytes"):
        download(URL, tmp_path / "set.tar", then="neuralef data prepare set")
    assert not list(tmp_path.iterdir())


def test_wrong_checksum_is_refused(tmp_path, monkeypatch):
    serve(monkeypatch, b"bytes")
    with pytest.raises(InputError, match=r"md5.*expected 00ff"):
        download(URL, tmp_path / "set.tar", then="neuralef data prepare set", md5="00ff")
    assert not list(tmp_path.iterdir())
