import json
from pathlib import Path
from threading import Event, Thread
from time import sleep

import numpy as np
import pytest
import safetensors.torch
import torch
from interruptions import half_then_fail
from PIL import Image

from neuralef import files
from neuralef.errors import InputError

TENSORS = {
    "weight": torch.arange(6, dtype=torch.float32).view(2, 3),
    "counts": torch.tensor([1, 2, 3]),
    "half": torch.tensor([0.5, -2.0], dtype=torch.bfloat16),
    "flag": torch.tensor([True, False]),
    "step": torch.tensor(7),
}
DOCUMENT = {"step": 3, "name": "psi – Ψ", "nested": {"losses": [0.1, 1e-300]}}


@pytest.fixture
def kept(tmp_path):
    return files.write_checked_tensors(tmp_path / "kept.safetensors", TENSORS, DOCUMENT)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: files.write_bytes(path, b"a new and longer content"),
        lambda path: files.write_text(path, "a new and longer content"),
        lambda path: files.write_json(path, {"content": "new and longer"}),
        lambda path: files.write_checked_tensors(path, TENSORS, DOCUMENT),
    ],
    ids=["bytes", "text", "json", "tensors"],
)
def test_a_write_that_fails_half_way_leaves_the_old_content(tmp_path, monkeypatch, write):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(Path, "write_bytes", half_then_fail)
    with pytest.raises(OSError, match="No space left") as failed:
        write(path)
    assert failed.value.filename == path
    assert path.read_bytes() == b"old"
    monkeypatch.undo()
    write(path)
    assert path.read_bytes() != b"old"


def test_a_write_that_fails_half_way_leaves_no_file_where_there_was_none(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "write_bytes", half_then_fail)
    with pytest.raises(OSError, match="No space left"):
        files.write_text(tmp_path / "file", "content")
    assert not list(tmp_path.iterdir())  # what was written would keep a full disk full


def test_writing_makes_missing_folders_and_leaves_nothing_beside_the_file(tmp_path):
    path = files.write_text(tmp_path / "some" / "folder" / "file.txt", "Ψ ± 1\n")
    assert path.read_bytes() == "Ψ ± 1\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_a_name_may_be_as_long_as_names_can_be(tmp_path):
    path = tmp_path / ("字" * 84 + ".md")  # 255 bytes
    files.write_text(path, "content")
    assert path.read_text() == "content"


def test_json_comes_back_as_it_was(tmp_path):
    assert json.loads(files.write_json(tmp_path / "file.json", DOCUMENT).read_text()) == DOCUMENT


def test_checked_tensors_come_back_bit_for_bit(kept):
    tensors, document = files.read_checked_tensors(kept)
    assert document == DOCUMENT
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_checked_tensors_may_be_views_and_need_gradients(tmp_path):
    view = torch.arange(6.0, requires_grad=True).view(2, 3).T[1:]
    tensors, _ = files.read_checked_tensors(files.write_checked_tensors(tmp_path / "file", {"view": view}, {}))
    assert torch.equal(tensors["view"], view.detach())


def test_every_changed_byte_of_checked_tensors_is_noticed(kept):
    content = kept.read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 0x01
        kept.write_bytes(changed)
        try:
            tensors, document = files.read_checked_tensors(kept)
        except InputError as error:
            assert str(kept) in str(error)
            assert "delete it" in str(error)
        else:  # a byte that means nothing
            assert document == DOCUMENT
            assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
            assert chr(content[position]).isspace(), f"byte {position} was changed and not noticed"


@pytest.mark.parametrize("kept_bytes", [0, 5, 100, -1])
def test_truncated_tensors_are_named(kept, kept_bytes):
    kept.write_bytes(kept.read_bytes()[:kept_bytes])
    with pytest.raises(InputError, match=f"{kept} .*delete it"):
        files.read_checked_tensors(kept)


def test_tensors_without_a_checksum_are_refused(tmp_path):
    safetensors.torch.save_file(TENSORS, tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match=r"plain\.safetensors does not match its checksum"):
        files.read_checked_tensors(tmp_path / "plain.safetensors")


def test_digest_does_not_depend_on_the_order_or_layout_of_the_tensors():
    reordered = dict(reversed(TENSORS.items()))
    reordered["weight"] = TENSORS["weight"].T.contiguous().T
    assert files.tensors_digest(reordered) == files.tensors_digest(TENSORS)


@pytest.mark.parametrize("folder", ["file", "file/below/it"])
def test_a_folder_where_a_file_is_in_the_way_cannot_be_written(tmp_path, folder):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=f"cannot write to folder {tmp_path / folder} "):
        files.ensure_writable_folder(tmp_path / folder)


def test_a_read_only_folder_is_named(tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", refuse)  # root may write anywhere, so permissions alone do not show it
    with pytest.raises(InputError, match=f"{tmp_path} .*Permission denied"):
        files.ensure_writable_folder(tmp_path)


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    folder = files.ensure_writable_folder(tmp_path / "new" / "folder")
    assert folder.is_dir()
    assert not list(folder.iterdir())


def test_two_threads_may_try_a_folder_at_once(tmp_path, monkeypatch):
    touch, tried = Path.touch, []

    def meanwhile(path):
        touch(path)
        tried.append(path)
        if len(tried) == 1:
            files.ensure_writable_folder(tmp_path)

    monkeypatch.setattr(Path, "touch", meanwhile)
    files.ensure_writable_folder(tmp_path)
    assert len(set(tried)) == 2
    monkeypatch.setattr(Path, "touch", lambda path: None)  # and a janitor may come between
    files.ensure_writable_folder(tmp_path)


def test_two_threads_may_write_a_file_at_once(tmp_path, monkeypatch):
    write, written = Path.write_bytes, []

    def meanwhile(path, content):
        write(path, content)
        written.append(path)
        if len(written) == 1:
            files.write_bytes(tmp_path / "file", b"other")

    monkeypatch.setattr(Path, "write_bytes", meanwhile)
    files.write_bytes(tmp_path / "file", b"one")
    assert (tmp_path / "file").read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_lock_that_is_held_is_refused_or_waited_for(tmp_path, caplog):
    caplog.set_level("INFO")
    taken, refused = Event(), Event()

    def hold():
        with files.held_alone(tmp_path / "lock", "it is taken"):
            taken.set()
            refused.wait(10)
            sleep(0.3)

    other = Thread(target=hold)
    other.start()
    taken.wait(10)
    with pytest.raises(InputError, match="it is taken"):
        files.held_alone(tmp_path / "lock", "it is taken")
    refused.set()
    with files.locked(tmp_path / "lock", "is painting"):
        assert "another process is painting; waiting for it" in caplog.text
    other.join()
    with files.held_alone(tmp_path / "lock", "it is taken"):  # both have given it back
        pass


def test_where_no_lock_can_be_made_work_goes_on_without(tmp_path):
    (tmp_path / "file").touch()
    with files.computed_once(tmp_path / "file" / ".lock", "is painting"):
        pass
    with files.computed_once(tmp_path / "new" / ".lock", "is painting"), pytest.raises(InputError, match="it is taken"):
        files.held_alone(tmp_path / "new" / ".lock", "it is taken")


@pytest.mark.parametrize("made_from", ["", "abc 123"])
def test_a_png_names_its_maker_and_what_it_was_made_from(tmp_path, made_from):
    path = files.write_png(tmp_path / "map.png", np.zeros((2, 3), np.uint16), made_from=made_from)
    assert files.is_our_png(path)
    assert files.png_made_from(path) == made_from
    Image.fromarray(np.zeros((2, 3), np.uint16)).save(path, pnginfo=None)
    assert not files.is_our_png(path)
    assert files.png_made_from(path) == files.png_made_from(tmp_path / "missing.png") == ""
