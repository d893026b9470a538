"""Measuring: one side of a comparison at a time, in a process of its own, and the table that keeps the ratios.

A side is a function that prepares its inputs and returns what is to be measured, a function without arguments. It is
run in a fresh process, so that neither side finds the memory or the caches of the other. Its first call gives the peak
of resident memory above what was there before, the best of the following ones the time.
"""

import csv
import gc
import io
import logging
import multiprocessing
import platform
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd
import torch
from threadpoolctl import threadpool_info

from neuralef import provenance
from neuralef.files import write_text

log = logging.getLogger(__name__)

THREADS = 2


@dataclass(frozen=True)
class Measured:
    """One side.

    Attributes:
        seconds: Best of the timed calls; NaN if there were none.
        peak_mb: Peak resident memory of the first call above what the process held before it, in MB.
        process_mb: The same peak with all that the process held.
        result: What the last call returned.
    """

    seconds: float
    peak_mb: float
    process_mb: float
    result: Any


@dataclass(frozen=True)
class Row:
    """One line of the table: two values of one quantity, their ratio, and what it should be.

    Attributes:
        benchmark: Which part of the package.
        case: Sizes and settings.
        quantity: What was measured, with its unit.
        reference: What ours is compared with.
        reference_value: Its value.
        ours_value: Ours.
        ratio: How many times better ours is: reference over ours where less is better, else ours over reference.
        target: The ratio that was asked for, or NaN.
    """

    benchmark: str
    case: str
    quantity: str
    reference: str
    reference_value: float
    ours_value: float
    ratio: float
    target: float = float("nan")

    @property
    def verdict(self) -> str:
        """``met``, ``missed``, or empty where nothing was asked for."""
        if self.target != self.target:
            return ""
        return "met" if self.ratio >= self.target else "missed"


def measure(side: Callable[..., Callable[[], Any]], *arguments: Any, repeats: int = 3) -> Measured:
    """Run one side in a fresh process.

    Args:
        side: A function of a module, called with ``arguments``; prepares and returns what is measured.
        arguments: Sizes and settings.
        repeats: Timed calls after the first; 0 where only the result or the memory counts.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, side, arguments, repeats).result()


def less_is_better(
    benchmark: str, case: str, quantity: str, reference: str, values: tuple[float, float], target: float = float("nan")
) -> Row:
    """A row of seconds or megabytes, ``values`` being the reference's and ours."""
    theirs, ours = values
    return Row(benchmark, case, quantity, reference, theirs, ours, theirs / ours, target)


def more_is_better(
    benchmark: str, case: str, quantity: str, reference: str, values: tuple[float, float], target: float = float("nan")
) -> Row:
    """A row of rates or shares, ``values`` being the reference's and ours."""
    theirs, ours = values
    return Row(benchmark, case, quantity, reference, theirs, ours, ours / theirs, target)


def machine() -> str:
    """Processor, threads, BLAS libraries and versions: what a ratio depends on besides the code."""
    pools = {f"{pool['internal_api']} {pool.get('version') or ''}".strip() for pool in threadpool_info()}
    # torch carries its own MKL, which threadpoolctl does not list.
    capability = torch.backends.cpu.get_cpu_capability()
    sha, dirty = provenance.git_state()
    return (
        f"{provenance.device()}; {platform.system()}; torch with MKL {torch.backends.mkl.is_available()}, oneDNN "
        f"{torch.backends.mkldnn.is_available()}, {capability}; other BLAS and OpenMP: {', '.join(sorted(pools))}; "
        f"{provenance.versions()}; commit {sha[:10]}{' with changes' if dirty else ''}"
    )


def write_rows(folder: Path, name: str, rows: Sequence[Row]) -> Path:
    """Keep the rows of one benchmark as ``<folder>/<name>.csv`` and rewrite ``<folder>/benchmarks.md`` from all."""
    text = io.StringIO()
    columns = [*(field.name for field in fields(Row)), "machine"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**asdict(row), "machine": machine()} for row in rows)
    write_text(folder / f"{name}.csv", text.getvalue())
    return write_text(folder / "benchmarks.md", markdown(folder))


def read_rows(path: Path) -> tuple[list[Row], str]:
    """The rows of one file and the machine they were measured on."""
    frame = pd.read_csv(path, keep_default_na=True)
    names = [field.name for field in fields(Row)]
    return [Row(**{name: entry[name] for name in names}) for entry in frame.to_dict("records")], frame["machine"][0]


def table(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as strings, ready to print."""
    return pd.DataFrame(
        {
            "case": row.case,
            "quantity": row.quantity,
            "compared with": row.reference,
            "theirs": f"{row.reference_value:.4g}",
            "ours": f"{row.ours_value:.4g}",
            "ratio": f"{row.ratio:.2f}",
            "target": "" if row.target != row.target else f"{row.target:g}",
            "": row.verdict,
        }
        for row in rows
    )


def markdown(folder: Path) -> str:
    """All benchmarks of a folder as one Markdown page."""
    parts = ["# Benchmarks\n\nRatios above 1 are in our favour. Generated by `make bench`."]
    for path in sorted(folder.glob("*.csv")):
        rows, measured_on = read_rows(path)
        body = table(rows).to_markdown(index=False, disable_numparse=True)
        parts.append(f"## {path.stem.replace('_', ' ')}\n\n{body}\n\n{measured_on}")
    return "\n\n".join(parts) + "\n"


def _measure(side: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...], repeats: int) -> Measured:
    torch.set_num_threads(THREADS)
    run = side(*arguments)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = _resident_mb("VmRSS")
    result = run()
    peak = _resident_mb("VmHWM")
    times = []
    for _ in range(repeats):
        del result
        began = perf_counter()
        result = run()
        times.append(perf_counter() - began)
    return Measured(min(times, default=float("nan")), peak - before, peak, result)


def _resident_mb(name: str) -> float:
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) / 1000
