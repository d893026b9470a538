"""Running the notebooks through papermill, each at most once for the same sources, settings and data.

Papermill only warns about unknown parameters and takes any value, so names and kinds are checked first; it does not
replace its output atomically, so an executed notebook is written under another name and renamed.
"""

import ast
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError

from neuralef import kernels, provenance
from neuralef.config import Profile, load_profile
from neuralef.errors import BEYOND_US, OUT_OF_MEMORY, InputError
from neuralef.files import held_alone, read_json, write_json, write_text
from neuralef.paths import notebooks_root
from neuralef.studies import Study, open_studies
from neuralef.table_study import TableStudy, open_tables
from neuralef.tables import read_by

log = logging.getLogger(__name__)

REPORT = "90"
"""Number of the notebook that shows what all others have written."""


def sources(*patterns: str) -> list[Path]:
    """Notebook sources in order whose name, with or without ending, matches a glob (``'1[0-3]*'``, ``'13'``).

    Several globs choose what any of them matches; none chooses all notebooks.

    Raises:
        InputError: If none does.
    """
    everything = sorted(notebooks_root().glob("[0-9][0-9]_*.ipynb"))
    chosen = [
        path
        for path in everything
        if any(
            fnmatch(path.name, glob)
            for pattern in patterns or ("*",)
            for glob in (pattern, f"{pattern}_*", f"{pattern}.ipynb")
        )
    ]
    if not chosen:
        names = ", ".join(path.stem for path in everything) or f"none in {notebooks_root()}"
        raise InputError(f"no notebook matches {', '.join(map(repr, patterns))}; there are {names}")
    return chosen


_KINDS: Mapping[str, tuple[str, tuple[type, ...]]] = {
    "list": ("a list", (list,)),
    "bool": ("true or false", (bool,)),
    "int": ("a whole number", (int,)),
    "float": ("a number", (int, float)),
    "str": ("text in quotes", (str,)),
}
"""By the annotation of a parameter: what may be given for it."""


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Raise ``InputError`` if the notebook's parameters cell lacks a name, or has another kind of value there."""
    known = papermill.inspect_notebook(str(notebook))
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise InputError(
            f"{notebook.name} has no parameter {unknown[0]!r}; it has {', '.join(sorted(known)) or 'none'}"
        )
    for name, value in parameters.items():
        kind = known[name]["inferred_type_name"]
        called, types = _KINDS.get(kind, ("", ()))
        if types and type(value) not in types:  # a bool, too, is an int to isinstance
            shown = "" if value is None else value
            examples = {"list": f"[{shown}]", "str": f'"{shown}"'}
            example = examples.get(kind, ast.literal_eval(known[name]["default"]))
            raise InputError(f"{notebook.name}: {name} is {value!r}; write {called}, as -p '{name}={example}'")


def datasets_read(notebook: Path, parameters: Mapping[str, Any], own: str) -> tuple[str, ...]:
    """Names of the datasets a notebook reads, as its parameters say, be they given or its own.

    These are the ones of ``datasets``, or ``own``, the profile's, where that names none; ``tuned_on``; and ``film``.

    Raises:
        InputError: If one of them is no text.
    """
    known = papermill.inspect_notebook(str(notebook))
    values = {name: ast.literal_eval(entry["default"]) for name, entry in known.items()} | dict(parameters)
    named = [*(values.get("datasets") or [own]), values.get("tuned_on"), values.get("film")]
    for name in named:
        if not isinstance(name, str | None):
            raise InputError(f'{notebook.name}: dataset {name!r} is no text; write it in quotes, as "{name}"')
    return tuple(dict.fromkeys(filter(None, named)))


def check_numbers(parameters: Mapping[str, Any]) -> None:
    """Raise ``InputError`` if a profile sets parameters for what is no notebook's number."""
    numbers = {path.name[:2] for path in sources()}
    unknown = [number for number in parameters if number not in numbers]
    if unknown:
        raise InputError(
            f"the profile sets parameters for notebook {unknown[0]!r}, but the notebooks' numbers are "
            f"{', '.join(sorted(numbers))}; write one of them, in quotes"
        )


def plan(profile: Profile, folder: Path, pattern: str | None, given: Mapping[str, Any]) -> dict[Path, dict[str, Any]]:
    """The notebooks to run, in order, with their parameters.

    Args:
        profile: Profile whose notebooks and parameters are taken.
        folder: Results folder.
        pattern: Glob as for :func:`sources` in place of the profile's own.
        given: Parameters that every one of them takes, before those of the profile.

    Raises:
        InputError: If no notebook matches, or one has no such parameter or another kind of it.
    """
    check_numbers(profile.notebook_parameters)
    planned = {}
    for source in sources(*(profile.notebooks if pattern is None else [pattern])):
        own = profile.notebook_parameters.get(source.name[:2], {})
        planned[source] = {"profile": profile.name, "results": str(folder), **own, **given}
        check_parameters(source, planned[source])
    return planned


@dataclass
class Inputs:
    """What the notebooks of a profile read, as digests; every dataset is looked for once.

    Attributes:
        study: Study of the profile's own dataset.
        folder: Results folder.
    """

    study: Study
    folder: Path
    _data_keys: dict[tuple[str, ...], str] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def _tables(self) -> TableStudy:
        return open_tables(self.study.profile.name)

    def key(self, notebook: Path, parameters: Mapping[str, Any]) -> str:
        """Digest that changes with any photograph or label a notebook reads, and for the report with all results."""
        profile = self.study.profile
        names = datasets_read(notebook, parameters, profile.dataset)
        if names not in self._data_keys:
            own = names == (profile.dataset,)
            studies = self.study if own else open_studies(profile.name, names)
            self._data_keys[names] = studies.data_key()
        tables = read_by(notebook.name[:2])
        parts = [self._data_keys[names], *([self._tables.data_key(tables)] if tables else [])]
        if notebook.name.startswith(REPORT):
            parts.append(report_key(self.folder))
        return provenance.digest(*parts)


def execute(
    notebook: Path, parameters: Mapping[str, Any], out: Path, *, data_key: str = "", force: bool = False
) -> bool:
    """Run one notebook into ``out/notebooks/`` as ``.ipynb`` and ``.html``.

    Args:
        notebook: Source of the notebook.
        parameters: Values for the notebook's parameters cell.
        out: Results folder of the run, which the notebook is also told to write to.
        data_key: Digest of the data that the notebook reads; together with source, parameters, the profile they name,
            code and versions it decides whether an earlier execution still stands.
        force: Whether to run the notebook in any case.

    Returns:
        Whether it was run; ``False`` where an earlier execution stands.

    Raises:
        InputError: If a parameter is unknown, another process is running the notebook into the same folder, or the
            notebook met an input that cannot be used, a system that refuses, or the end of memory.
        papermill.exceptions.PapermillExecutionError: If a cell failed otherwise.
    """
    check_parameters(notebook, parameters)
    executed = out / "notebooks" / notebook.name
    stamp = executed.with_suffix(".json")
    profile = asdict(load_profile(parameters["profile"])) if "profile" in parameters else {}
    code = provenance.code_digest(*provenance.module_names())
    parts = [notebook.read_text(), dict(parameters), profile, data_key, provenance.versions(), code]
    digest = sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    if not force and _stands(out, stamp, digest):
        return False

    executed.parent.mkdir(parents=True, exist_ok=True)
    refusal = (
        f"another process is running {notebook.name} into {out}; wait until it ends, or choose another folder with "
        "--out"
    )
    with held_alone(executed.with_name(f".{executed.stem}.lock"), refusal):
        before = _outputs(out)
        unfinished, failed = (executed.with_name(f"{executed.stem}.{end}.ipynb") for end in ("running", "failed"))
        try:
            papermill.execute_notebook(
                str(notebook),
                str(unfinished),
                {**parameters},
                kernel_name="python3",
                kernel_manager_class=kernels.manager(),
                cwd=str(notebook.parent),
                log_output=False,
                progress_bar={"desc": notebook.stem, "unit": "cell"},
            )
        except PapermillExecutionError as error:
            unfinished.replace(failed)
            if _is_for_the_user(error):
                raise InputError(f"{notebook.name}: {error.evalue or OUT_OF_MEMORY[0]}") from error
            log.error("%s failed; see %s", notebook.name, failed)
            raise
        except DeadKernelError as error:
            raise InputError(
                f"{notebook.name}: its process was killed, most likely because memory ran out; close other programs, "
                "or lower batch_images or image_size in the profile"
            ) from error
        unfinished.replace(executed)
        failed.unlink(missing_ok=True)
        write_text(executed.with_suffix(".html"), _page(nbformat.read(executed, as_version=4)))
        write_json(stamp, {"digest": digest, "outputs": _own(notebook.name[:2], before, _outputs(out))})
    return True


def _is_for_the_user(error: PapermillExecutionError) -> bool:
    """Whether a cell ended in what the command line says in one line: see :class:`neuralef.errors.InputError`."""
    if error.ename in (InputError.__name__, MemoryError.__name__):
        return True
    number = re.match(r"\[Errno (\d+)\]", error.evalue)
    return bool(number and int(number[1]) in BEYOND_US) or any(sign in error.evalue for sign in OUT_OF_MEMORY)


def _page(notebook: nbformat.NotebookNode) -> str:
    """HTML of an executed notebook, its figures with their alternative text, which nbconvert's templates leave out."""
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        png, shown = output.get("data", {}).get("image/png"), output.get("metadata", {}).get("image/png", {})
        if png and "alt" in shown:
            width = f'width="{shown["width"]}" ' if "width" in shown else ""
            output.data = {"text/html": f'<img alt="{escape(shown["alt"])}" {width}src="data:image/png;base64,{png}">'}
    page, _ = HTMLExporter().from_notebook_node(notebook)
    return page


def _outputs(out: Path) -> dict[str, int]:
    """Everything that notebooks write into a results folder but themselves, and when it was written."""
    found = [
        *out.glob("*.csv"),
        *(path for part in ("tables", "figures", "report") for path in out.glob(f"{part}/*.*")),
    ]
    return {path.relative_to(out).as_posix(): path.stat().st_mtime_ns for path in found}


def _own(number: str, before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """What a notebook cannot do without: what it wrote, what has its number, and files of rows, which all share."""
    return sorted(
        name
        for name, written in after.items()
        if before.get(name) != written or Path(name).name.startswith(number) or "/" not in name
    )


def report_key(out: Path) -> str:
    """Digest of all tables, figures and rows of a results folder: what the notebook of the report reads."""
    names = sorted(name for name in _outputs(out) if not name.startswith("report/"))
    digests = [sha256((out / name).read_bytes()).hexdigest() for name in names]
    return provenance.digest(names, digests)


def _stands(out: Path, stamp: Path, digest: str) -> bool:
    if not stamp.is_file() or not stamp.with_suffix(".ipynb").is_file():
        return False
    record = read_json(stamp, "digest", "outputs")
    return record["digest"] == digest and all((out / name).is_file() for name in record["outputs"])
