"""``results.csv``: one row for each experiment, method and matching.

Columns come in groups: identity, metrics (fractions), ``p_*`` hyper-parameters, provenance (seconds, megabytes). Rows
are only ever added; the file is replaced whole under a lock, so that no reader meets half a row.
"""

import csv
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypedDict

import pandas as pd
from filelock import FileLock

from neuralef.config import Config
from neuralef.errors import InputError
from neuralef.files import ensure_writable_folder, write_text

log = logging.getLogger(__name__)


class ResultRow(TypedDict):
    """The fixed columns; ``p_<field>`` for every field of :class:`neuralef.config.Config` stand between the groups."""

    experiment_id: str
    dataset: str
    trained_on: str
    split: str
    images: int
    backbone: str
    method: str
    clusters: int
    classes: int
    matching: str
    protocol: str
    crf: str
    seed: int
    accuracy: float
    mean_iou: float
    clusters_used: int
    git_sha: str
    dirty: bool
    versions: str
    device: str
    threads: int
    extract_s: float
    train_s: float
    cluster_s: float
    eval_s: float
    peak_rss_mb: float
    created: str


KEY = ("experiment_id", "method", "matching")
PARAMETER_COLUMNS = tuple(f"p_{field.name}" for field in fields(Config))
_FIXED = tuple(ResultRow.__annotations__)
_FIRST_PROVENANCE = _FIXED.index("git_sha")
COLUMNS = (*_FIXED[:_FIRST_PROVENANCE], *PARAMETER_COLUMNS, *_FIXED[_FIRST_PROVENANCE:])
CLASS_COLUMNS = (*KEY, "class", "iou")

_AS_WRITTEN = {"keep_default_na": False}
"""How pandas is to read: every number to its last digit, words such as ``none`` as words."""

_PANDAS = tuple(map(int, pd.__version__.split(".")[:2]))
if _PANDAS < (3, 1):  # later versions read so anyway, and refuse to be told
    _AS_WRITTEN["float_precision"] = "round_trip"


def parameter_columns(config: Config) -> dict[str, Any]:
    """The ``p_*`` part of a row; a tuple becomes ``a;b``, ``None`` becomes ``default``."""
    return {f"p_{name}": _cell(value) for name, value in asdict(config).items()}


def append_rows(
    path: Path, rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str] = COLUMNS, key: Sequence[str] = KEY
) -> int:
    """Add rows to a CSV file; those whose key it already holds are left as they are.

    Args:
        path: CSV file; created with its header if missing.
        rows: Mappings with exactly ``columns``.
        columns: Header of the file.
        key: Columns that identify a row.

    Returns:
        Number of rows that were new.

    Raises:
        InputError: If the file has other columns, or cannot be written.
        ValueError: If a row does not have exactly the columns.
    """
    for row in rows:
        if set(row) != set(columns):
            raise ValueError(
                f"a row must have the columns of {path.name}; differing: {sorted(set(row) ^ set(columns))}"
            )
    ensure_writable_folder(path.parent)
    with FileLock(path.with_name(f".{path.name}.lock")):
        existing = _existing(path, columns)
        if existing and not existing.endswith("\n"):  # an editor took the last line's end away
            existing += "\n"
        existing = _whole_rows(path, existing)
        known = {tuple(entry[name] for name in key) for entry in csv.DictReader(io.StringIO(existing))}
        new = []
        for row in rows:
            identity = tuple(str(row[name]) for name in key)
            if identity not in known:
                known.add(identity)
                new.append(row)
        if new:
            text = io.StringIO()
            writer = csv.DictWriter(text, columns, lineterminator="\n")
            if not existing:
                writer.writeheader()
            writer.writerows(new)
            write_text(path, existing + text.getvalue())
    return len(new)


def check_columns(path: Path, columns: Sequence[str] = COLUMNS) -> None:
    """Raise the ``InputError`` of :func:`append_rows` for a file that cannot be continued, before there are rows."""
    _existing(path, columns)


def _existing(path: Path, columns: Sequence[str]) -> str:
    """Content of a CSV file that has just these columns; empty if there is none."""
    text = _text(path) if path.is_file() else ""
    header = next(csv.reader(io.StringIO(text)), None)
    if header is not None and tuple(header) != tuple(columns):
        raise InputError(f"{path} has other columns than this version writes; move it away or choose another folder")
    return text


def _text(path: Path) -> str:
    """Content of a CSV file; spreadsheets put a byte order mark before the header."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error}); save it as that, or move it away") from error


def _whole_rows(path: Path, text: str) -> str:
    """The lines of a CSV file that have as many fields as its header; an editor or a full disk may leave others.

    A line of commas alone, a spreadsheet's empty row, is among the others.
    """
    lines = text.splitlines(keepends=True)
    fields = [-1 if row and not any(row) else len(row) for row in csv.reader(io.StringIO(text))]
    if len(fields) != len(lines):  # a field with a line break: none is written here
        return text
    kept = [line for line, count in zip(lines, fields, strict=True) if count in (0, fields[0])]  # 0: an empty line
    if len(kept) == len(lines):
        return text
    lost = len(lines) - len(kept)
    log.warning("%s: %s not whole and left out", path, f"{lost} rows are" if lost > 1 else "one row is")
    return "".join(kept)


def append_classes(path: Path, rows: Sequence[Mapping[str, Any]]) -> int:
    """:func:`append_rows` for ``per_class.csv``."""
    return append_rows(path, rows, columns=CLASS_COLUMNS, key=(*KEY, "class"))


def read_results(path: Path) -> pd.DataFrame:
    """All rows of a ``results.csv``.

    A file written before a hyper-parameter existed lacks its column. Its rows were computed without it, which is what
    every default repeats: they read as that. Rows from before ``trained_on`` were trained on their own dataset.

    Raises:
        InputError: If there is none, or its columns differ in anything else.
    """
    if not path.is_file():
        raise InputError(f"there are no results in {path}; run `neuralef reproduce` or `neuralef run` first")
    text = _text(path)
    if _whole_rows(path, text) != text:
        raise InputError(f"{path} holds rows that are not whole; run its experiments again, which mends it")
    frame = pd.read_csv(path, dtype={"experiment_id": str, "git_sha": str}, **_AS_WRITTEN)
    missing = [name for name in ("trained_on", *PARAMETER_COLUMNS) if name not in frame.columns]
    if tuple(frame.columns) != tuple(name for name in COLUMNS if name not in missing):
        raise InputError(f"{path} has other columns than this version reads; it was written by another version")
    neutral = {"trained_on": frame["dataset"], **parameter_columns(Config())}
    return frame.assign(**{name: neutral[name] for name in missing})[list(COLUMNS)]


def read_rows(path: Path, columns: Sequence[str], *, text: Sequence[str]) -> pd.DataFrame:
    """All rows of a file that :func:`append_rows` has written; none where there is no file.

    Args:
        path: CSV file.
        columns: Its columns.
        text: Those that are text though they may look like numbers, as digests do.

    Raises:
        InputError: If the file has other columns.
    """
    if not _existing(path, columns):
        return pd.DataFrame(columns=list(columns))
    # An empty cell and nan are numbers that are missing; other words, such as none, are text.
    return pd.read_csv(path, dtype=dict.fromkeys(text, str), na_values=["", "nan"], **_AS_WRITTEN)


def select(frame: pd.DataFrame, experiment_ids: Iterable[str]) -> pd.DataFrame:
    """The rows of some experiments, in the order they were written."""
    return frame[frame["experiment_id"].isin(list(experiment_ids))]


def _cell(value: Any) -> Any:
    if value is None:
        return "default"
    return ";".join(map(str, value)) if isinstance(value, tuple) else value
