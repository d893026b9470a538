"""Command line: ``python -m benchmarks [NAME ...]``; all of them is ``make bench``."""

import logging
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from tqdm.auto import tqdm

from benchmarks import hot_spots
from benchmarks.harness import table, write_rows
from neuralef.paths import results_root

NAMES = (
    "training_step",
    "paper_step",
    "training",
    "extraction",
    "inference",
    "sliding",
    "crf",
    "clustering",
    "eigen",
    "scale",
    "profiles",
    "gpu",
)


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Some of {', '.join(NAMES)}; all where none is named.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for CSV and Markdown; default results/bench.")] = None,
) -> None:
    """Measure, print every ratio with both its values, and write them as CSV and Markdown."""
    unknown = sorted(set(names or ()) - set(NAMES))
    if unknown:
        raise typer.BadParameter(f"unknown benchmark {unknown[0]!r}; there are {', '.join(NAMES)}")
    folder = out or results_root("bench")
    for name in tqdm(names or NAMES, desc="benchmarks", unit="benchmark"):
        benchmark, rows = import_module(f"benchmarks.{name}"), []
        for row in benchmark.run():
            rows.append(row)
            tqdm.write(table([row]).to_string(index=False, header=len(rows) == 1))
        if rows:  # else the benchmark has said what this machine lacks
            write_rows(folder, name, rows, getattr(benchmark, "COMPUTED_ON", "cpu"))
    if not names:
        hot_spots.write(folder)
    typer.echo(f"benchmarks are in {folder / 'benchmarks.md'}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    typer.run(main)
