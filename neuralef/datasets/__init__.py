"""The datasets by name: what there is, how to get it, whether it is whole.

Under the data root a dataset lies in a folder of its own name (two names that read the same files share one), holding
its archives' content as it came and, where they need it, what was converted from it; archives that lie in the data root
under their official names are unpacked when the dataset is first asked for.
"""

import logging
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm.auto import tqdm

from neuralef.datasets.archives import download, unpack
from neuralef.datasets.base import Dataset, FileDataset, ImageFiles
from neuralef.datasets.catalogue import INFO, DatasetInfo, Source
from neuralef.datasets.folder import PREFIX, FolderDataset, expanded
from neuralef.datasets.synthetic import SyntheticScenes
from neuralef.errors import BEYOND_US, InputError
from neuralef.files import ensure_writable_folder, locked
from neuralef.paths import data_root
from neuralef.provenance import digest

log = logging.getLogger(__name__)

_LOOSE = ".json"
"""Suffix of what comes as a plain file, not as an archive."""

_SYNTHETIC_OPTIONS = {"train", "val", "size", "seed"}


def available() -> tuple[DatasetInfo, ...]:
    """Every dataset there is, prepared or not; the last entry describes ``folder:PATH``."""
    return INFO


def load(name: str, *, root: str | Path | None = None, **options: object) -> Dataset:
    """Open a dataset; unpack its archive first if only that lies in the data root. Never uses the network.

    Args:
        name: One of :func:`available`, or ``folder:PATH``.
        root: Data root, by default that of :func:`neuralef.paths.data_root`.
        **options: For ``synthetic_scenes`` its constructor's ``train``, ``val``, ``size`` and ``seed``; else none.

    Returns:
        The opened dataset.

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
        missing = _missing(info, base)
        if missing:
            raise InputError(_how_to_get(info, base, missing))
        with _locked(info, base):
            if not _is_prepared(info, base):
                _install(info, _collected(info, {}, base), base, thorough=False)
    dataset = _open_prepared(info, base)
    for problem in _count_problems(info, dataset):
        log.warning("%s; results will differ from those published", problem)
    return dataset


def fingerprint(dataset: Dataset) -> str:
    """Digest that changes with any photograph or label of a dataset, and with names and colours of its classes."""
    splits = [[split, dataset.image_fingerprint(split), dataset.label_fingerprint(split)] for split in dataset.splits]
    return digest(splits, [[semantic.name, semantic.colour] for semantic in dataset.classes])


def is_obtainable(name: str, root: str | Path | None = None) -> bool:
    """Whether :func:`load` has what it needs, prepared or as an archive, without any network.

    Raises:
        InputError: If the name is unknown.
    """
    info, base = _info(name), data_root(root)
    if name == SyntheticScenes.name:
        return True
    if name.startswith(PREFIX):
        return expanded(name.removeprefix(PREFIX)).is_dir()
    return _is_prepared(info, base) or not _missing(info, base)


def obtain(name: str) -> str:
    """Make a dataset usable if it can be had: prepared or as an archive in the data root, or from the network.

    Returns:
        Why it cannot be had, which is logged as well, or nothing.

    Raises:
        InputError: If the name is unknown.
    """
    if is_obtainable(name):
        return ""
    try:
        prepare(name)
    except InputError as error:
        log.warning("%s", error)
        return str(error)
    return ""


def prepare(
    name: str, *, archive: str | Path | Sequence[str | Path] | None = None, root: str | Path | None = None
) -> Dataset:
    """Make a dataset ready for use: take its archives or download them, unpack them safely, check every file.

    A dataset that is prepared already is only looked over, unless an archive is given, which then replaces it.

    Args:
        name: One of :func:`available`, or ``folder:PATH``, which is only checked.
        archive: Archive to unpack instead of the one in the data root or on the network; several for a dataset made
            from several, each under one of its official names.
        root: Data root, by default that of :func:`neuralef.paths.data_root`.

    Returns:
        The prepared dataset.

    Raises:
        InputError: If the name is unknown, the download fails, or the archive or its content is damaged; a damaged
            tree is not kept, and what was prepared before stays.
    """
    info, base = _info(name), data_root(root)
    given = _given(info, archive)
    _refuse_archives_inside(given.values(), base / info.folder)
    if not info.sources:
        dataset = load(name)
        _raise_if_any(_problems(dataset, None), f"{name} has problems", "correct the files and run again")
        return dataset
    if given or not _is_prepared(info, base):
        with _locked(info, base):
            if given or not _is_prepared(info, base):
                _fetch_and_install(info, given, base)
    dataset = _open_prepared(info, base)
    miscounted, missing = _count_problems(info, dataset), _missing_files(dataset)
    # Nothing here knows the names of images that a split lacks altogether.
    remedy = _anew(info, base) if miscounted else f"put back what is missing, or {_anew(info, base)}"
    _raise_if_any(miscounted + missing, f"{name} is incomplete", remedy)
    sizes = ", ".join(f"{size} {split}" for split, size in dataset.sizes.items() if size)
    log.info("%s is ready in %s: %s images", name, base / info.folder, sizes)
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
    info, base = _info(name), data_root(root)
    if info.sources and not is_obtainable(name, root):
        raise InputError(_how_to_get(info, base, _missing(info, base)))
    try:
        dataset = load(name, root=root)
    except InputError as error:
        return [str(error)]
    return _problems(dataset, info)


def _info(name: str) -> DatasetInfo:
    registered = f"{PREFIX}PATH" if name.startswith(PREFIX) else name
    for info in INFO:
        if info.name == registered:
            return info
    raise InputError(f"no dataset is called {name!r}; choose one of {', '.join(info.name for info in INFO)}")


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


def _command(info: DatasetInfo, base: Path) -> str:
    root = "" if base == data_root() else f" --root {shlex.quote(str(base))}"
    return f"neuralef data prepare {info.name}{root}"


def _anew(info: DatasetInfo, base: Path) -> str:
    return f"delete {base / info.folder} and run `{_command(info, base)}` again"


def _how_to_get(info: DatasetInfo, base: Path, missing: Sequence[Source]) -> str:
    steps = "; ".join(source.by_hand(base) for source in missing)
    if all(source.url for source in missing):
        return f"dataset {info.name} is not in {base}: run `{_command(info, base)}`, or {steps}"
    return f"dataset {info.name} is not in {base}: {steps}; then run `{_command(info, base)}`"


def _is_prepared(info: DatasetInfo, base: Path) -> bool:
    return (base / info.folder).is_dir()


def _missing(info: DatasetInfo, base: Path) -> list[Source]:
    return [source for source in info.sources if source.found(base) is None]


def _given(info: DatasetInfo, archive: str | Path | Sequence[str | Path] | None) -> dict[Source, Path]:
    """Which source each given archive is; a dataset's only one may have any name."""
    paths = [Path(path) for path in ([archive] if isinstance(archive, str | Path) else archive or ())]
    if paths and not info.sources:
        raise InputError(f"{info.name} is not made from an archive; leave {paths[0]} out")
    if len(paths) == len(info.sources) == 1:
        return {info.sources[0]: paths[0]}
    given: dict[Source, Path] = {}
    for path in paths:
        source = next((source for source in info.sources if path.name in source.files), None)
        if source is None or source in given:
            fault = "is none of" if source is None else f"takes the place of {given[source]} among"
            raise InputError(
                f"{path} {fault} the files {info.name} is made from; give one each of "
                f"{' and '.join(' or '.join(source.files) for source in info.sources)}"
            )
        given[source] = path
    return given


def _refuse_archives_inside(given: Iterable[Path], folder: Path) -> None:
    """Raise ``InputError`` where a given archive would be removed with the tree that it replaces."""
    for path in given:
        if folder.resolve() in path.resolve().parents:
            raise InputError(f"{path} lies in {folder}, which its content replaces; move it to {folder.parent} first")


def _collected(info: DatasetInfo, given: Mapping[Source, Path], base: Path) -> list[Path]:
    """The file of every source: given, in the data root, or downloaded to it."""
    lacking = _lacking(info, given, base)
    if any(source.url is None for source in lacking):  # before anything large is downloaded
        raise InputError(_how_to_get(info, base, lacking))
    for source in lacking:
        download(source.url, base / source.files[0], then=_command(info, base), md5=source.md5)
    return [given.get(source) or source.found(base) for source in info.sources]


def _lacking(info: DatasetInfo, given: Mapping[Source, Path], base: Path) -> list[Source]:
    return [source for source in _missing(info, base) if source not in given]


def _fetch_and_install(info: DatasetInfo, given: Mapping[Source, Path], base: Path) -> None:
    """Install what is given, here, or downloaded; a download that is something else does not stay in the way."""
    lacking = _lacking(info, given, base)
    files = _collected(info, given, base)
    try:
        _install(info, files, base, thorough=True)
    except InputError as error:
        beyond_us = getattr(error.__cause__, "errno", None) in BEYOND_US  # as a full disk
        for source in lacking:
            if source.md5 is None and not beyond_us:  # else the file is the right one, and the fault lies elsewhere
                (base / source.files[0]).unlink(missing_ok=True)
        raise


@contextmanager
def _locked(info: DatasetInfo, base: Path) -> Iterator[None]:
    """Keep other processes from unpacking the same dataset; what one of them set aside and left is put back."""
    ensure_writable_folder(base)
    with locked(base / f".{info.folder}.lock", f"is unpacking {info.name}"):
        _put_back(_set_aside(info, base), base / info.folder)
        yield


def _open_prepared(info: DatasetInfo, base: Path) -> FileDataset:
    try:
        return info.reader(base / info.folder)
    except InputError as error:
        folder = base / info.folder
        inside = [path for source in info.sources if (path := source.found(folder))]
        moved = f"move {' and '.join(map(str, inside))} to {base},"
        first = moved if inside else "put back or correct what is named here, or"
        raise InputError(f"{error}. To mend it, {first} {_anew(info, base)}") from error


def _install(info: DatasetInfo, files: Sequence[Path], base: Path, *, thorough: bool) -> None:
    """Unpack into a side folder and put it in place only if it passes; the caller holds the lock."""
    staging, final, replaced = base / f".{info.folder}.new", base / info.folder, _set_aside(info, base)
    for leftover in (staging, replaced):
        _discard(leftover)
    log.info("unpacking %s", " and ".join(map(str, files)))
    try:
        unpack([file for file in files if file.suffix != _LOOSE], staging)
        for file in files:
            if file.suffix == _LOOSE:
                _copy(file, staging)
        _refuse_bad_content(info, files, staging, base, thorough=thorough)
        if _is_there(final):
            final.rename(replaced)
        staging.rename(final)
    finally:
        _put_back(replaced, final)
        _discard(staging)
    _discard(replaced)


def _set_aside(info: DatasetInfo, base: Path) -> Path:
    """Where the prepared tree lies while another takes its place."""
    return base / f".{info.folder}.old"


def _put_back(replaced: Path, final: Path) -> None:
    """Rename what was set aside back if nothing has taken its place."""
    if _is_there(replaced) and not _is_there(final):
        replaced.rename(final)


def _is_there(path: Path) -> bool:
    """Whether there is a file, a folder or a link, which may lead nowhere."""
    return path.exists() or path.is_symlink()


def _discard(path: Path) -> None:
    """Remove a folder, or what lies in its place: of a link, which may lead to anyone's own copy, the link alone."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _copy(file: Path, folder: Path) -> None:
    try:
        shutil.copyfile(file, folder / file.name)
    except OSError as error:
        raise InputError(f"cannot copy {file} to {folder} ({error}); check the path and the space left") from error


def _finish(info: DatasetInfo, folder: Path) -> None:
    try:
        info.reader.finish(folder)
    except OSError as error:
        raise InputError(f"its files cannot be converted in {folder} ({error}); is space left?") from error


def _refuse_bad_content(info: DatasetInfo, files: Sequence[Path], folder: Path, base: Path, *, thorough: bool) -> None:
    try:
        _finish(info, folder)
        dataset = info.reader(folder)
        problems = _problems(dataset, info) if thorough else []
    except InputError as error:
        problems = [str(error)]
    inside = [problem.replace(f"{folder}/", "").replace(str(folder), "it") for problem in problems]
    origins = " and ".join(dict.fromkeys(source.origin for source in info.sources))
    remedy = f"get it again from {origins} and run `{_command(info, base)}`"
    _raise_if_any(inside, f"archive {' with '.join(map(str, files))} is not a whole {info.name}", remedy)


def _raise_if_any(problems: list[str], what: str, remedy: str) -> None:
    if problems:
        shown, others = problems[:3], len(problems) - 3
        more = f" (and {others} more)" if others > 0 else ""
        raise InputError(f"{what}: {'; '.join(shown)}{more}. To mend it, {remedy}")


def _problems(dataset: Dataset, info: DatasetInfo | None) -> list[str]:
    if not isinstance(dataset, FileDataset):
        return []
    problems = _count_problems(info, dataset) if info else []
    may_lack = {"train", "val"} if isinstance(dataset, FolderDataset) else set()  # one of them is there: it says so
    problems += [
        f"{dataset.name}: split {split!r} is empty"
        for split, size in dataset.sizes.items()
        if not size and split not in may_lack
    ]
    for split, files in _inhabited(dataset).items():
        for image_id, paths in tqdm(files.items(), desc=f"checking {dataset.name}/{split}", unit="image", disable=None):
            problems += _image_problems(dataset, image_id, labelled=paths.label is not None)
    return problems


def _image_problems(dataset: FileDataset, image_id: str, *, labelled: bool) -> list[str]:
    problems = []
    for read in (dataset.image, dataset.label) if labelled else (dataset.image,):
        try:
            read(image_id)
        except (InputError, OSError) as error:  # one that may not be read does not hide the others
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
