"""The paper's datasets in their true layouts: label rules worked out by hand, archives, and what is wrong with them."""

import io
import json
import logging
import shutil
import tarfile
import urllib.request
from dataclasses import replace
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from trees import Response, cut_in_half, pack_tar, pack_zip, save_image, save_label

from neuralef import datasets
from neuralef.datasets.ade20k import ADE20K
from neuralef.datasets.base import translate
from neuralef.datasets.cityscapes import Cityscapes19, Cityscapes27
from neuralef.datasets.imagenet import ImageNet
from neuralef.datasets.pascal_context import (
    CLASSES_BY_ID,
    PascalContext,
    PascalContext60,
    convert,
    decode_runs,
    to_stored,
)
from neuralef.errors import InputError

pytestmark = pytest.mark.usefixtures("no_network")

VOC_TAR, CONTEXT_TAR = "VOCtrainval_03-May-2010.tar", "trainval.tar.gz"
GT_ZIP, IMAGE_ZIP = "gtFine_trainvaltest.zip", "leftImg8bit_trainvaltest.zip"

# Rows: aeroplane, bag, wood, unknown; accordion, wool, table, nothing; dog, dog, person, door.
CONTEXT_IDS = [[2, 9, 458, 431], [1, 459, 397, 0], [113, 113, 284, 115]]
CONTEXT_60 = [[1, 2, 59, 0], [0, 0, 50, 0], [23, 23, 37, 24]]
CONTEXT_59 = [[0, 1, 58, 255], [255, 255, 49, 255], [22, 22, 36, 23]]

# Rows: unlabelled, ego vehicle, ground, road; sidewalk, parking, polegroup, bicycle; caravan, building, plate, car.
CITY_IDS = [[0, 1, 6, 7], [8, 9, 18, 33], [29, 11, 255, 26]]
CITY_27 = [[255, 255, 255, 0], [1, 2, 11, 26], [22, 4, 255, 19]]
CITY_19 = [[255, 255, 255, 0], [1, 255, 255, 18], [255, 2, 255, 13]]

ADE_IDS = [[0, 1, 2, 150], [13, 13, 0, 3], [149, 100, 50, 7]]
ADE_LABEL = [[255, 0, 1, 149], [12, 12, 255, 2], [148, 99, 49, 6]]


def make_voc(folder: Path, train=("2008_000002", "2008_000003"), val=("2009_000001",)) -> Path:
    """What VOC 2010's archive holds, as far as it matters."""
    voc = folder / "VOCdevkit" / "VOC2010"
    for image_id in (*train, *val):
        save_image(voc / "JPEGImages" / f"{image_id}.jpg")
    for task in ("Main", "Segmentation"):
        (voc / "ImageSets" / task).mkdir(parents=True)
    (voc / "ImageSets" / "Main" / "train.txt").write_text("".join(f"{image_id}\n" for image_id in train))
    (voc / "ImageSets" / "Main" / "val.txt").write_text("".join(f"{image_id}\n" for image_id in val))
    (voc / "ImageSets" / "Segmentation" / "train.txt").write_text("2008_000002\n")
    return folder


def make_mats(folder: Path, ids=("2008_000002", "2008_000003", "2009_000001")) -> Path:
    """What the annotation's archive holds; some names of ``labels.txt``."""
    (folder / "trainval").mkdir(parents=True)
    for image_id in ids:
        label = np.array(CONTEXT_IDS, dtype=np.uint16)
        scipy.io.savemat(folder / "trainval" / f"{image_id}.mat", {"LabelMap": label}, do_compression=True)
    return folder


def make_merged(path: Path) -> Path:
    """The other annotation, of images 4 high and 5 wide; one mask lies over the other."""
    masks = [(2008000002, 284, "5252O"), (2008000002, 113, "<17"), (2008000003, 2, "0d0")]
    images = [(2008000002, "train"), (2008000003, "train"), (2009000001, "val")]
    content = {
        "images": [
            {"image_id": number, "file_name": f"{number // 10**6}_{number % 10**6:06}.jpg", "phase": phase}
            | {"height": 4, "width": 5}
            for number, phase in images
        ],
        "annos_segmentation": [
            {"image_id": image, "category_id": category, "segmentation": {"size": [4, 5], "counts": counts}}
            for image, category, counts in masks
        ],
    }
    path.write_text(json.dumps(content))
    return path


MERGED_60 = [[0, 0, 0, 23, 0], [0, 37, 0, 37, 0], [0, 37, 0, 37, 0], [0, 0, 0, 37, 0]]


def make_context_root(root: Path) -> Path:
    """A data root with both archives."""
    pack_tar(make_voc(root / "tree"), root / VOC_TAR)
    pack_tar(make_mats(root / "labels"), root / CONTEXT_TAR, "w:gz")
    for made in ("tree", "labels"):
        shutil.rmtree(root / made)
    return root


def make_city_labels(folder: Path) -> Path:
    for split, city, frame in CITY_FRAMES:
        stem = folder / "gtFine" / split / city / f"{city}_{frame}_gtFine"
        save_label(stem.with_name(f"{stem.name}_labelIds.png"), CITY_IDS)
        save_label(stem.with_name(f"{stem.name}_instanceIds.png"), CITY_IDS)
        stem.with_name(f"{stem.name}_polygons.json").write_text("{}")
    (folder / "README").write_text("of the labels")
    return folder


def make_city_images(folder: Path) -> Path:
    for split, city, frame in CITY_FRAMES:
        save_image(folder / "leftImg8bit" / split / city / f"{city}_{frame}_leftImg8bit.png")
    (folder / "README").write_text("of the images")
    return folder


CITY_FRAMES = [
    ("train", "aachen", "000000_000019"),
    ("train", "bremen", "000000_000019"),
    ("val", "munster", "000173_000029"),
    ("test", "berlin", "000543_000019"),
]


def make_city_root(root: Path) -> Path:
    pack_zip(make_city_labels(root / "labels"), root / GT_ZIP)
    pack_zip(make_city_images(root / "images"), root / IMAGE_ZIP)
    for made in ("images", "labels"):
        shutil.rmtree(root / made)
    return root


def make_ade(folder: Path) -> Path:
    for split, stem in (
        ("training", "ADE_train_00000001"),
        ("training", "ADE_train_00000002"),
        ("validation", "ADE_val_00000001"),
    ):
        save_image(folder / "ADEChallengeData2016" / "images" / split / f"{stem}.jpg")
        save_label(folder / "ADEChallengeData2016" / "annotations" / split / f"{stem}.png", ADE_IDS)
    (folder / "ADEChallengeData2016" / "objectInfo150.txt").write_text("not read")
    return folder


def make_synsets(folder: Path) -> Path:
    for synset, number in (("n01440764", 10026), ("n01440764", 9), ("n02119789", 1)):
        save_image(folder / synset / f"{synset}_{number}.jpg", shade=number % 200).rename(
            folder / synset / f"{synset}_{number}.JPEG"
        )
    return folder


def make_imagenet_tar(archive: Path) -> Path:
    """The official archive: one archive per synset, its files without a folder."""
    synsets = make_synsets(archive.parent / "synsets")
    with tarfile.open(archive, "w") as outer:
        for synset in sorted(synsets.iterdir()):
            inner = pack_tar(synset, archive.parent / f"{synset.name}.tar")
            outer.add(inner, inner.name)
            inner.unlink()
    shutil.rmtree(synsets)
    return archive


@pytest.fixture
def small(monkeypatch):
    """The published sizes made those of the trees here, so that `prepare` finds them complete."""
    sizes = {
        "pascal_context": {"train": 2, "val": 1},
        "cityscapes": {"train": 2, "val": 1},
        "ade20k": {"train": 2, "val": 1},
        "imagenet": {"train": 3},
    }
    infos = (replace(info, split_sizes=sizes.get(info.folder, info.split_sizes)) for info in datasets.INFO)
    monkeypatch.setattr(datasets, "INFO", tuple(infos))


def names(reader) -> list[str]:
    return [semantic.name for semantic in reader.classes]


def colours(reader) -> dict[str, tuple[int, int, int]]:
    return {semantic.name: semantic.colour for semantic in reader.classes}


# Pascal Context


def test_context_classes():
    expected = """
        aeroplane bag bed bedclothes bench bicycle bird boat book bottle building bus cabinet car cat ceiling chair
        cloth computer cow cup curtain dog door fence floor flower food grass ground horse keyboard light motorbike
        mountain mouse person plate platform pottedplant road rock sheep shelves sidewalk sign sky snow sofa table
        track train tree truck tvmonitor wall water window wood
    """
    assert names(PascalContext) == expected.split()
    assert names(PascalContext60) == ["background", *names(PascalContext)]
    assert colours(PascalContext60)["background"] == (120, 120, 120)
    assert colours(PascalContext)["aeroplane"] == colours(PascalContext60)["aeroplane"] == (180, 120, 120)
    assert colours(PascalContext)["wood"] == (31, 0, 255)


def test_context_archives_are_converted_once_and_read_both_ways(tmp_path):
    make_context_root(tmp_path)
    assert datasets.is_obtainable("pascal_context_60", tmp_path)
    with_background = datasets.load("pascal_context_60", root=tmp_path)
    assert with_background.label("2009_000001").tolist() == CONTEXT_60
    for archive in (VOC_TAR, CONTEXT_TAR):
        (tmp_path / archive).unlink()
    without = datasets.load("pascal_context", root=tmp_path)
    label = without.label("2009_000001")
    assert (label.dtype, label.tolist()) == (np.uint8, CONTEXT_59)
    assert {info.folder for info in datasets.available() if info.name.startswith("pascal")} == {"pascal_context"}
    assert (without.ids("train"), without.ids("val")) == (["2008_000002", "2008_000003"], ["2009_000001"])
    voc = tmp_path / "pascal_context" / "VOCdevkit" / "VOC2010"
    assert np.asarray(Image.open(voc / "SegmentationClassContext" / "2008_000002.png")).tolist() == CONTEXT_60
    assert (voc / "ImageSets" / "SegmentationContext" / "train.txt").read_text() == "2008_000002\n2008_000003\n"


def test_context_lists_leave_out_what_is_not_annotated(tmp_path):
    make_voc(tmp_path, train=("2008_000002", "2008_000099"))
    make_mats(tmp_path, ids=("2008_000002", "2009_000001", "2010_000001"))
    convert(tmp_path)
    dataset = PascalContext(tmp_path)
    assert (dataset.ids("train"), dataset.ids("val")) == (["2008_000002"], ["2009_000001"])


def test_context_names_of_the_annotation_are_compared(tmp_path):
    lines = {2: "aeroplane", 284: "person", 308: "potted plant", 1: "accordion"}
    known = {class_id: semantic.name for class_id, semantic in CLASSES_BY_ID[1:]} | lines
    make_mats(make_voc(tmp_path))
    (tmp_path / "labels.txt").write_text("".join(f"{class_id}: {name}\n" for class_id, name in sorted(known.items())))
    convert(tmp_path)
    (tmp_path / "labels.txt").write_text("2: accordion\n")
    with pytest.raises(InputError, match=r"labels\.txt calls class 2 'accordion', not 'aeroplane'"):
        convert(tmp_path)


def test_context_from_run_lengths(tmp_path, small):
    root = tmp_path / "root"
    root.mkdir()
    voc = make_voc(tmp_path / "tree")
    for image in voc.rglob("*.jpg"):
        save_image(image, size=(5, 4))
    pack_tar(voc, root / VOC_TAR)
    merged = make_merged(tmp_path / "trainval_merged.json")
    dataset = datasets.prepare("pascal_context_60", archive=[merged], root=root)
    assert dataset.label("2008_000002").tolist() == MERGED_60
    assert dataset.label("2008_000003").tolist() == [[1] * 5] * 4
    assert dataset.label("2009_000001").tolist() == [[0] * 5] * 4
    assert datasets.check("pascal_context", root=root) == []


def slow_decode(counts: str, size: tuple[int, int]) -> np.ndarray:
    """The format read one character at a time."""
    runs, number, shift = [], 0, 0
    for character in counts:
        code = ord(character) - 48
        number |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number = shift = 0
    flat = [index % 2 for index, run in enumerate(runs) for _ in range(run)]
    return np.array(flat, dtype=bool).reshape(size[1], size[0]).T


def test_run_lengths():
    rectangle = np.zeros((30, 40), dtype=bool)
    rectangle[5:25, 3:30] = True
    # Written by pycocotools 2.
    counts = "o2d0:000000000000000000000000000000000000000000000000000W9"
    assert np.array_equal(decode_runs(counts, (30, 40)), rectangle)
    assert np.array_equal(slow_decode(counts, (30, 40)), rectangle)
    assert np.array_equal(decode_runs("5252O", (4, 5)), slow_decode("5252O", (4, 5)))
    assert decode_runs("0d0", (4, 5)).all()


@pytest.mark.parametrize("counts", ["", "o", "5252", "525!", "5252\x7f", "é", "1P0", "oooooooo0"])
def test_damaged_run_lengths(counts):
    with pytest.raises(ValueError):
        decode_runs(counts, (4, 5))


@pytest.mark.parametrize("text", ["{", "[]", '{"images": [{}], "annos_segmentation": []}', '{"images": 3}'])
def test_damaged_annotation_is_named(tmp_path, text):
    make_voc(tmp_path)
    (tmp_path / "trainval_merged.json").write_text(text)
    with pytest.raises(InputError, match=r"trainval_merged\.json is damaged"):
        convert(tmp_path)


@pytest.mark.parametrize("share", [0, 0.2, 0.5, 0.7, 0.9, 0.98])
def test_truncated_mat_is_named(tmp_path, share):
    make_mats(make_voc(tmp_path))
    path = tmp_path / "trainval" / "2008_000003.mat"
    noise = np.random.default_rng(0).integers(0, 460, (40, 50)).astype(np.uint16)
    scipy.io.savemat(path, {"LabelMap": noise}, do_compression=True)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(InputError, match=r"2008_000003\.mat is damaged"):
        convert(tmp_path)
    # No lists, so that half a conversion is not taken for a whole one.
    assert not list(tmp_path.rglob("SegmentationContext"))


@pytest.mark.parametrize("content", [{"Other": [[1]]}, {"LabelMap": [[1.5]]}, {"LabelMap": [[460]]}, {"LabelMap": "x"}])
def test_mat_with_other_content_is_named(tmp_path, content):
    make_mats(make_voc(tmp_path))
    scipy.io.savemat(tmp_path / "trainval" / "2008_000003.mat", content)
    with pytest.raises(InputError, match=r"2008_000003\.mat is damaged"):
        convert(tmp_path)


def test_every_other_id_is_background(tmp_path):
    stored = to_stored(np.arange(460, dtype=np.uint16)[None], tmp_path)[0]
    assert np.flatnonzero(stored).size == 59
    assert stored[stored > 0].tolist() == list(range(1, 60))


def test_context_archive_of_something_else(tmp_path):
    make_context_root(tmp_path)
    pack_tar(make_ade(tmp_path / "ade"), tmp_path / CONTEXT_TAR, "w:gz")
    with pytest.raises(InputError, match=r"tar\.gz is not a whole pascal_context: .*no trainval folder of \.mat files"):
        datasets.load("pascal_context", root=tmp_path)
    pack_tar(tmp_path / "ade", tmp_path / VOC_TAR)
    with pytest.raises(InputError, match=r"is not a whole pascal_context_60: .*holds no VOC2010"):
        datasets.load("pascal_context_60", root=tmp_path)
    assert not (tmp_path / "pascal_context").exists()


def test_context_folder_made_by_other_tools(tmp_path):
    voc = make_voc(tmp_path / "mine") / "VOCdevkit" / "VOC2010"
    lists = voc / "ImageSets" / "SegmentationContext"
    lists.mkdir()
    for split, image_id in (("train", "2008_000002"), ("val", "2009_000001")):
        (lists / f"{split}.txt").write_text(f"{image_id}\n\n")
        save_label(voc / "SegmentationClassContext" / f"{image_id}.png", CONTEXT_60)
    (tmp_path / "pascal_context").symlink_to(tmp_path / "mine")
    assert datasets.load("pascal_context", root=tmp_path).label("2008_000002").tolist() == CONTEXT_59
    (lists / "val.txt").write_text("2009_000001\n../2008_000002\n")
    with pytest.raises(InputError, match=r"line 2 of .*val\.txt is '\.\./2008_000002'"):
        datasets.load("pascal_context", root=tmp_path)


def test_context_is_downloaded_in_two_parts(tmp_path, small, monkeypatch):
    (tmp_path / "served").mkdir()
    served = make_context_root(tmp_path / "served")
    asked = []

    def serve(request, timeout):
        asked.append(request.full_url)
        return Response((served / request.full_url.rpartition("/")[2]).read_bytes())

    monkeypatch.setattr(urllib.request, "urlopen", serve)
    with pytest.raises(InputError, match=f"md5.*expected da459979d0c395079b5c75ee67908abb.*{VOC_TAR}"):
        datasets.prepare("pascal_context", root=tmp_path / "root")
    digest = md5((served / VOC_TAR).read_bytes()).hexdigest()
    infos = (
        replace(info, sources=tuple(replace(source, md5=source.md5 and digest) for source in info.sources))
        for info in datasets.INFO
    )
    monkeypatch.setattr(datasets, "INFO", tuple(infos))
    asked.clear()
    assert datasets.prepare("pascal_context", root=tmp_path / "root").sizes == {"train": 2, "val": 1}
    assert datasets.prepare("pascal_context_60", root=tmp_path / "root").sizes == {"train": 2, "val": 1}
    assert asked == [
        f"https://thor.robots.ox.ac.uk/pascal/VOC/voc2010/{VOC_TAR}",
        f"https://www.cs.stanford.edu/~roozbeh/pascal-context/{CONTEXT_TAR}",
    ]


# Cityscapes


def test_city_classes():
    evaluated = [
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
        "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    ]  # fmt: skip
    assert names(Cityscapes19) == evaluated
    others = ["parking", "rail track", "guard rail", "bridge", "tunnel", "polegroup", "caravan", "trailer"]
    assert len(names(Cityscapes27)) == 27
    assert [name for name in names(Cityscapes27) if name not in others] == evaluated
    assert [names(Cityscapes27).index(name) + 7 for name in others] == [9, 10, 14, 15, 16, 18, 29, 30]
    assert colours(Cityscapes27)["guard rail"] == (180, 165, 180)
    assert colours(Cityscapes19)["bicycle"] == (119, 11, 32)


def test_city_labels_under_both_protocols(tmp_path):
    make_city_root(tmp_path)
    dataset = datasets.load("cityscapes_27", root=tmp_path)
    label = dataset.label("munster_000173_000029")
    assert (label.dtype, label.tolist()) == (np.uint8, CITY_27)
    assert dataset.sizes == {"train": 2, "val": 1}
    assert dataset.ids("train") == ["aachen_000000_000019", "bremen_000000_000019"]
    assert datasets.load("cityscapes_19", root=tmp_path).label("munster_000173_000029").tolist() == CITY_19
    assert sorted(path.name for path in (tmp_path / "cityscapes").iterdir()) == ["README", "gtFine", "leftImg8bit"]


@pytest.mark.parametrize("reader", [Cityscapes27, Cityscapes19])
def test_city_id_that_does_not_exist(tmp_path, reader):
    make_city_images(make_city_labels(tmp_path))
    path = tmp_path / "gtFine" / "val" / "munster" / "munster_000173_000029_gtFine_labelIds.png"
    save_label(path, np.full((3, 4), 34))
    with pytest.raises(InputError, match=r"munster_000173_000029_gtFine_labelIds\.png holds the value 34"):
        reader(tmp_path).label("munster_000173_000029")


def test_city_archives_unpacked_side_by_side(tmp_path):
    make_city_labels(tmp_path / "gtFine_trainvaltest")
    make_city_images(tmp_path / "leftImg8bit_trainvaltest")
    assert Cityscapes27(tmp_path).label("aachen_000000_000019").tolist() == CITY_27
    shutil.rmtree(tmp_path / "leftImg8bit_trainvaltest")
    with pytest.raises(InputError, match="holds no leftImg8bit/train and leftImg8bit/val"):
        Cityscapes27(tmp_path)


def test_city_problems_are_listed(tmp_path):
    make_city_images(make_city_labels(tmp_path / "cityscapes"))
    images, labels = tmp_path / "cityscapes" / "leftImg8bit", tmp_path / "cityscapes" / "gtFine"
    cut_in_half(images / "train" / "aachen" / "aachen_000000_000019_leftImg8bit.png")
    shutil.rmtree(images / "train" / "bremen")
    (labels / "val" / "munster" / "munster_000173_000029_gtFine_labelIds.png").unlink()
    problems = datasets.check("cityscapes_19", root=tmp_path)
    expected = [
        "'train' has 2 images instead of 2975",
        "'val' has 1 images instead of 500",
        "aachen_000000_000019_leftImg8bit.png is damaged",
        "bremen_000000_000019_leftImg8bit.png is missing",
        "munster_000173_000029_gtFine_labelIds.png is missing",
    ]
    assert len(problems) == len(expected)
    for problem, words in zip(problems, expected, strict=True):
        assert words in problem


def test_city_needs_a_login_and_says_how(tmp_path):
    for call in (datasets.load, datasets.prepare, datasets.check):
        with pytest.raises(InputError) as caught:
            call("cityscapes_19", root=tmp_path)
        for needed in (
            "https://www.cityscapes-dataset.com/downloads/",
            str(tmp_path / GT_ZIP),
            str(tmp_path / IMAGE_ZIP),
            f"`neuralef data prepare cityscapes_19 --root {tmp_path}`",
        ):
            assert needed in str(caught.value)
    pack_zip(make_city_labels(tmp_path / "labels"), tmp_path / GT_ZIP)
    assert not datasets.is_obtainable("cityscapes_19", tmp_path)
    with pytest.raises(InputError) as caught:
        datasets.prepare("cityscapes_19", root=tmp_path)
    assert IMAGE_ZIP in str(caught.value)
    assert GT_ZIP not in str(caught.value)


def test_city_archives_in_the_wrong_folder_are_to_be_moved_not_deleted(tmp_path):
    (tmp_path / "cityscapes").mkdir()
    make_city_root(tmp_path / "cityscapes")
    with pytest.raises(InputError, match=f"move .*/cityscapes/{GT_ZIP} and .*{IMAGE_ZIP} to {tmp_path}, delete "):
        datasets.load("cityscapes_27", root=tmp_path)


def test_city_archives_may_be_given(tmp_path, small):
    given = make_city_root(tmp_path)
    root = tmp_path / "root"
    dataset = datasets.prepare("cityscapes_27", archive=[given / IMAGE_ZIP, given / GT_ZIP], root=root)
    assert dataset.label("aachen_000000_000019").tolist() == CITY_27
    shutil.copyfile(given / GT_ZIP, root / GT_ZIP)
    assert datasets.prepare("cityscapes_27", archive=given / IMAGE_ZIP, root=root).sizes == {"train": 2, "val": 1}
    shutil.copyfile(given / GT_ZIP, tmp_path / "labels.zip")
    with pytest.raises(InputError, match=f"labels.zip is none of the files.*{GT_ZIP} and {IMAGE_ZIP}"):
        datasets.prepare("cityscapes_27", archive=tmp_path / "labels.zip", root=root)
    with pytest.raises(InputError, match=f"root/{GT_ZIP} takes the place of .*{GT_ZIP}"):
        datasets.prepare("cityscapes_27", archive=[given / GT_ZIP, root / GT_ZIP], root=root)
    cut_in_half(given / IMAGE_ZIP)
    with pytest.raises(InputError, match=f"{IMAGE_ZIP} is damaged or incomplete"):
        datasets.prepare("cityscapes_27", archive=given / IMAGE_ZIP, root=root)
    assert datasets.check("cityscapes_19", root=root) == []


# ADE20K


def test_ade_classes():
    assert len(names(ADE20K)) == len(set(names(ADE20K))) == 150
    by_stored_id = {
        1: ("wall", (120, 120, 120)),
        2: ("building", (180, 120, 120)),
        8: ("bed", (204, 5, 255)),
        13: ("person", (150, 5, 61)),
        50: ("fireplace", (250, 10, 15)),
        100: ("buffet", (255, 112, 0)),
        137: ("traffic light", (41, 0, 255)),
        150: ("flag", (92, 0, 255)),
    }
    for stored, expected in by_stored_id.items():
        semantic = ADE20K.classes[stored - 1]
        assert (semantic.name, semantic.colour) == expected


def test_ade_zero_is_ignored_and_classes_count_from_one(tmp_path):
    pack_zip(make_ade(tmp_path / "tree"), tmp_path / "ADEChallengeData2016.zip")
    dataset = datasets.load("ade20k", root=tmp_path)
    label = dataset.label("ADE_val_00000001")
    assert (label.dtype, label.tolist()) == (np.uint8, ADE_LABEL)
    assert dataset.ids("train") == ["ADE_train_00000001", "ADE_train_00000002"]
    assert (tmp_path / "ade20k" / "ADEChallengeData2016" / "objectInfo150.txt").is_file()


def test_ade_value_beyond_the_classes(tmp_path):
    dataset = ADE20K(make_ade(tmp_path))
    path = tmp_path / "ADEChallengeData2016" / "annotations" / "training" / "ADE_train_00000002.png"
    save_label(path, np.full((3, 4), 151))
    with pytest.raises(InputError, match=r"ADE_train_00000002\.png holds the value 151"):
        dataset.label("ADE_train_00000002")
    with pytest.raises(InputError, match="holds no ADEChallengeData2016"):
        ADE20K(tmp_path / "ADEChallengeData2016" / "images")


def test_ade_prepare_counts_files(tmp_path, caplog):
    pack_zip(make_ade(tmp_path / "tree"), tmp_path / "ADEChallengeData2016.zip")
    with pytest.raises(InputError, match=r"not a whole ade20k: ade20k: split 'train' has 2 images instead of 20210"):
        datasets.prepare("ade20k", root=tmp_path)
    with caplog.at_level(logging.WARNING):
        datasets.load("ade20k", root=tmp_path)
    assert "'val' has 1 images instead of 2000" in caplog.text


# ImageNet


@pytest.mark.parametrize("layout", ["official", "kaggle", "own", "own train"])
def test_imagenet_layouts(tmp_path, layout, small):
    if layout == "official":
        make_imagenet_tar(tmp_path / "ILSVRC2012_img_train.tar")
    elif layout == "kaggle":
        make_synsets(tmp_path / "tree" / "ILSVRC" / "Data" / "CLS-LOC" / "train")
        save_image(tmp_path / "tree" / "ILSVRC" / "Data" / "CLS-LOC" / "val" / "ILSVRC2012_val_00000001.jpg")
        pack_tar(tmp_path / "tree", tmp_path / "imagenet_object_localization_patched2019.tar.gz", "w:gz")
    else:
        make_synsets(tmp_path / "imagenet" / ("train" if layout == "own train" else "."))
    dataset = datasets.prepare("imagenet", root=tmp_path)
    assert dataset.splits == ("train",)
    assert dataset.ids("train") == ["n01440764_10026", "n01440764_9", "n02119789_1"]
    assert dataset.image("n01440764_9").shape == (3, 4, 3)
    assert not list((tmp_path / "imagenet").rglob("*.tar"))
    assert datasets.check("imagenet", root=tmp_path) == []


def test_imagenet_has_no_labels_and_no_validation_split(tmp_path):
    dataset = ImageNet(make_synsets(tmp_path))
    assert dataset.classes == ()
    with pytest.raises(InputError, match=r"imagenet: image 'n01440764_9' has no label, .* evaluate on another dataset"):
        dataset.label("n01440764_9")
    with pytest.raises(InputError, match="split 'val' is unknown or empty; splits with images: train"):
        dataset.ids("val")
    assert dataset.image_fingerprint("train") != dataset.label_fingerprint("train")


def test_imagenet_problems(tmp_path):
    with pytest.raises(InputError, match=r"log in at https://image-net\.org.*ILSVRC2012_img_train\.tar"):
        datasets.prepare("imagenet", root=tmp_path)
    inner = make_synsets(tmp_path / "imagenet" / "train") / "n01440764"
    cut_in_half(inner / "n01440764_9.JPEG")
    problems = datasets.check("imagenet", root=tmp_path)
    assert len(problems) == 2
    assert "'train' has 3 images instead of 1281167" in problems[0]
    assert "n01440764_9.JPEG is damaged" in problems[1]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="one folder per synset"):
        ImageNet(tmp_path / "empty")


def test_imagenet_inner_archive_that_is_damaged(tmp_path):
    with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "w") as outer:
        item = tarfile.TarInfo("n01440764.tar")
        item.size = 700
        outer.addfile(item, io.BytesIO(b"x" * 700))
    with pytest.raises(InputError, match=r"not a whole imagenet: .*n01440764\.tar is damaged"):
        datasets.load("imagenet", root=tmp_path)
    assert not (tmp_path / "imagenet").exists()


# What they share


def test_values_without_meaning(tmp_path):
    stored = np.array([[0, 2], [2, 0]], dtype=np.uint8)
    assert translate(stored, {0: 255, 2: 1}, tmp_path).tolist() == [[255, 1], [1, 255]]
    assert translate(stored > 0, {0: 4, 1: 5}, tmp_path).tolist() == [[4, 5], [5, 4]]
    for values in ([[1, 0]], [[3, 0]], [[-1, 0]], [[70000, 0]]):
        with pytest.raises(InputError, match=f"value {values[0][0]}, which stands for no class"):
            translate(np.array(values, dtype=np.int32), {0: 255, 2: 1}, tmp_path)


def test_names_are_those_of_the_papers_numbers():
    from neuralef.paths import PAPER_NUMBERS

    used = {line.split(",")[1] for line in PAPER_NUMBERS.read_text().splitlines()[1:]}
    assert used <= {info.name for info in datasets.available()}
