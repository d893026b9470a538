"""From ``results.csv`` to tables (CSV, Markdown, LaTeX) and the HTML report; :mod:`neuralef.readme` has the README.

Ours come from ``results.csv`` alone; the paper's numbers stand in columns headed "paper" and come from ``paper.csv``.
Scores are fractions in files and percent where they are printed.
"""

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython import get_ipython
from IPython.display import Image, display
from matplotlib.figure import Figure

from neuralef.errors import InputError
from neuralef.evaluation import MATCHINGS
from neuralef.files import write_bytes, write_text
from neuralef.findings import VERDICT_COLUMNS, VERDICT_RULE
from neuralef.intervals import Interval
from neuralef.paths import PACKAGE, PAPER_NUMBERS, results_root
from neuralef.results import PARAMETER_COLUMNS, read_results

METHOD_TITLES = {
    "kmeans": "K-means",
    "kmeans_centred": "K-means, centred",
    "kmeans_pca": "K-means, PCA",
    "kmeans_plus": "K-means, parts of Ours+",
    "deep_spectral": "Deep Spectral Methods",
    "spectral": "Spectral, exact",
    "ours": "Ours",
    "ours_star": "Ours*",
    "ours_plus": "Ours+",
}
METRICS = {"accuracy": "Acc", "mean_iou": "mIoU"}
IOU_RULE = "mIoU averages over the classes that occur in the ground truth or in the prediction of the evaluated set."
NOT_IN_PAPER = "not in paper"
HEADLINE = "headline.txt"
"""File of a results folder that says what photographs and backbone its numbers are of."""
FIGURE_DPI = 150
_LATEX = {
    **{special: f"\\{special}" for special in "%_&#${}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "[": "{[}",  # one that begins a row would be an argument of the line break before it
    **{sign: f"${sign}$" for sign in "<>|"},  # other signs in the font that pdflatex starts with
    "\N{MINUS SIGN}": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "²": "$^2$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "→": r"$\to$",
    "–": "--",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "κ": r"$\kappa$",
    "λ": r"$\lambda$",
    "τ": r"$\tau$",
    "ψ": r"$\psi$",
    "Λ": r"$\Lambda$",
}
_NOT_IN_LATEX = re.compile("[^\x00-\x7fÀ-ž]|[ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲų]")  # its first font has no sign for those letters


def paper_numbers(table: str | None = None) -> pd.DataFrame:
    """What the paper prints, in percent: one row for each number pair of ``paper.csv``; ``table`` keeps one table."""
    frame = pd.read_csv(PAPER_NUMBERS, dtype={"table": str})
    return frame if table is None else frame[frame["table"] == table]


def mean_and_spread(values: Sequence[float], *, sign: str = "") -> str:
    """Fractions as percent, ``mean ± sample standard deviation``, a single value alone; ``sign="+"`` shows its sign."""
    percent = 100 * np.asarray(values, dtype=float)
    mean = f"{percent.mean():{sign}z.1f}"
    return f"{mean} ± {percent.std(ddof=1):.1f}" if len(percent) > 1 else mean


def method_title(method: str) -> str:
    """How tables and sentences call a method; its own name where it has no title."""
    return METHOD_TITLES.get(method, method)


def markdown(text: str) -> str:
    """Text as Markdown prints it: the star of Ours* begins no emphasis."""
    return text.replace("*", r"\*")


def latex(text: str) -> str:
    """Text as plain pdflatex prints it; a character that it does not know stands as its code point.

    What stands between backticks, as Markdown has code, is set as code.
    """
    printed = text.translate(str.maketrans(_LATEX))
    printed = re.sub("`([^`]*)`", r"\\texttt{\1}", printed).replace("`", r"\`{}")
    return _NOT_IN_LATEX.sub(lambda found: f"U+{ord(found[0]):04X}", printed)


def mean_and_interval(interval: Interval, *, sign: str = "") -> str:
    """Fractions as percent, ``estimate (low to high)``; ``sign="+"`` shows their signs."""
    estimate, low, high = (f"{100 * value:{sign}z.1f}" for value in (interval.estimate, interval.low, interval.high))
    return f"{estimate} ({low} to {high})"


def cases_won(gains: Sequence[float]) -> str:
    """In how many cases something is gained, ``n of m``; NaN is no case."""
    gains = np.asarray(gains)
    return f"{(gains > 0).sum()} of {np.isfinite(gains).sum()}"


def mean_and_wins(gains: Sequence[float]) -> str:
    """Gains, which are fractions, as points and in how many cases they are positive: ``+1.2 ± 0.4 (4 of 5)``."""
    return f"{mean_and_spread(gains, sign='+')} ({cases_won(gains)})"


def captioned(frame: pd.DataFrame, caption: str) -> str:
    """A table of strings in Markdown, its caption below."""
    return f"{frame.to_markdown(index=False, disable_numparse=True)}\n\n{caption}"


def matching_columns(results: pd.DataFrame) -> dict[str, str]:
    """Accuracy and mIoU of one method under each matching, mean ± spread over its seeds."""
    return {
        f"{matching} {title}": mean_and_spread(results.loc[results["matching"] == matching, metric])
        for matching in MATCHINGS
        for metric, title in METRICS.items()
    }


def benchmark_table(results: pd.DataFrame) -> pd.DataFrame:
    """Methods in rows; accuracy and mIoU under each matching (mean ± spread over seeds); the paper's Table 1 beside.

    Args:
        results: Rows of one dataset, backbone and K, any number of seeds.

    Returns:
        Table of strings, ready to print.

    Raises:
        ValueError: If the rows mix datasets, backbones, numbers of clusters or settings.
    """
    check_one_setting(results)
    paper = (
        paper_numbers("1")
        .query("dataset == 'pascal_context' and backbone == 'vit_small_patch16_384'")
        .set_index("method")
    )
    rows = []
    found = set(results["method"])
    for method in [*(name for name in METHOD_TITLES if name in found), *sorted(found - METHOD_TITLES.keys())]:
        of_method = results[results["method"] == method]
        row = {"method": method_title(method), "seeds": of_method["seed"].nunique(), **matching_columns(of_method)}
        for metric, title in METRICS.items():
            row[f"paper {title}"] = f"{paper.loc[method, metric]:.1f}" if method in paper.index else NOT_IN_PAPER
        rows.append(row)
    return pd.DataFrame(rows)


def check_one_setting(results: pd.DataFrame) -> None:
    """Raise ``ValueError`` if rows mix settings, or hold a method, matching and seed twice."""
    setting = [
        "dataset",
        "trained_on",
        "split",
        "images",
        "backbone",
        "clusters",
        "protocol",
        "crf",
        *PARAMETER_COLUMNS,
    ]
    mixed = [name for name in setting if results[name].nunique() != 1]
    if mixed:
        raise ValueError(f"one table, one setting; the rows differ in {', '.join(mixed)}")
    if results.duplicated(["method", "matching", "seed"]).any():
        raise ValueError("a method, matching and seed stand there twice; choose the rows of one run")


def benchmark_caption(results: pd.DataFrame) -> str:
    """What a reader must know to read :func:`benchmark_table`: data, matching, spread, and the paper columns."""
    first = results.iloc[0]
    return (
        f"{first['dataset']} {first['split']}, {first['images']} photographs, {first['classes']} classes; "
        f"backbone {first['backbone']}; K = {first['clusters']}; protocol {first['protocol']}, CRF: {first['crf']}. "
        f"Percent, mean ± standard deviation over {results['seed'].nunique()} seeds. {IOU_RULE} "
        "Paper columns: Table 1, Pascal Context, ViT-S/16, K = 256, max_iou, with CRF: another dataset and backbone, "
        "for the order of the methods only."
    )


def stacked(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Tables of several datasets below each other, with the dataset's name in a first column."""
    return pd.concat(tables, names=["dataset"]).reset_index(level=0).reset_index(drop=True)


def write_table(frame: pd.DataFrame, folder: Path, stem: str, caption: str) -> Path:
    """Write ``<stem>.csv``, ``.md`` and ``.tex``; the caption stands under the Markdown and LaTeX forms.

    Returns:
        The Markdown file.
    """
    cells = frame.map(lambda cell: latex(cell) if isinstance(cell, str) else cell)
    cells.columns = [latex(str(name)) for name in frame.columns]
    body = cells.to_latex(index=False, escape=False)
    write_text(folder / f"{stem}.tex", f"\\begin{{table}}\n{body}\\caption{{{latex(caption)}}}\n\\end{{table}}\n")
    page = write_text(folder / f"{stem}.md", f"{captioned(frame, caption)}\n")
    write_text(folder / f"{stem}.csv", frame.to_csv(index=False))  # by which a report finds the table, so it comes last
    return page


@dataclass(frozen=True)
class Section:
    """One table or figure of the report: its title, its HTML body and the caption below."""

    title: str
    body: str
    caption: str


def write_report(profile: str, description: str, *, folder: Path | None = None) -> Path:
    """One self-contained page with every table and figure a profile has written.

    Args:
        profile: Name of the profile.
        description: Line that says which dataset and backbone were really used.
        folder: Results folder; default: that of the profile.

    Returns:
        ``<folder>/report/index.html``.

    Raises:
        InputError: If there is nothing to report.
    """
    folder = folder or results_root(profile)
    verdicts = findings_files(folder)
    others = sorted(set((folder / "tables").glob("*.csv")) - set(verdicts))
    tables = [_findings_section(verdicts)] if verdicts else []
    tables += [_table_section(path) for path in others]
    figures = [_figure_section(path) for path in sorted((folder / "figures").glob("*.png"))]
    if not tables and not figures:
        raise InputError(f"{folder} holds no tables or figures; run `neuralef reproduce --profile {profile}` first")
    results = read_results(folder / "results.csv") if (folder / "results.csv").is_file() else None
    notebooks = [path.name for path in sorted((folder / "notebooks").glob("*.html"))]
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        (PACKAGE / "templates" / "report.html").read_text()
    )
    page = template.render(
        profile=profile,
        description=description,
        tables=tables,
        figures=figures,
        notebooks=notebooks,
        runs=[] if results is None else _runs(results),
    )
    return write_text(folder / "report" / "index.html", page)


def save_figure(figure: Figure, folder: Path, stem: str, caption: str) -> Path:
    """Write a matplotlib figure as ``<stem>.png`` (150 dpi) with its caption beside it for the report, and close it.

    A notebook shows the very file, with the caption as its alternative text; drawing an open figure again would take it
    as long as writing this one did.
    """
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=FIGURE_DPI, bbox_inches="tight")
    plt.close(figure)
    write_text(folder / f"{stem}.txt", caption + "\n")
    path = write_bytes(folder / f"{stem}.png", content.getvalue())
    if get_ipython() is not None:
        display(Image(filename=str(path), retina=True, alt=caption))
    return path


def findings_files(folder: Path) -> list[Path]:
    """The verdicts that the notebooks of the paper's tables have written to a results folder, by notebook and table."""
    return sorted((folder / "tables").glob("[0-9][0-9]_findings*.csv"))


def all_findings(files: Sequence[Path]) -> tuple[pd.DataFrame, list[str]]:
    """All verdicts below each other, and what must be known of them: the rule, what each table is of, what all are.

    What stands in brackets behind a name, such as that of a backbone, is said where the name comes first.

    Raises:
        InputError: If a file was written by another version.
    """
    frames, settings = [], {}
    for path in files:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        caption = caption_of(path)
        if tuple(frame.columns) != VERDICT_COLUMNS or not caption.startswith(VERDICT_RULE):
            raise InputError(f"{path} has columns or a rule that this version does not read; run its notebook again")
        frames.append(frame)
        setting = caption.removeprefix(VERDICT_RULE).strip()
        settings.setdefault(setting, []).extend(frame["table"].unique())
    parts = [setting.removesuffix(".").split("; ") for setting in settings]
    shared = 0
    while len(parts) > 1 and all(len(of) > shared + 1 and of[-1 - shared] == parts[0][-1 - shared] for of in parts):
        shared += 1
    said = [
        f"{', '.join(names)}: {'; '.join(of[: len(of) - shared])}."
        for names, of in zip(settings.values(), parts, strict=True)
    ]
    said += [f"All: {'; '.join(parts[0][-shared:])}."] if shared else []
    return pd.concat(frames, ignore_index=True).replace("", "none"), [VERDICT_RULE, *_notes_once(said)]


def _notes_once(sentences: Sequence[str]) -> list[str]:
    """Sentences in which a remark in brackets stands the first time alone."""
    told: set[str] = set()

    def unless_told(note: re.Match[str]) -> str:
        known = note[0] in told
        told.add(note[0])
        return "" if known else note[0]

    return [re.sub(r" \([^()]+\)", unless_told, sentence) for sentence in sentences]


def caption_of(table: Path) -> str:
    """What :func:`write_table` wrote under a table."""
    return table.with_suffix(".md").read_text().rstrip().split("\n\n", 1)[1]


def _table_section(path: Path) -> Section:
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    return Section(_title(path), frame.to_html(index=False, border=0), caption_of(path))


def _findings_section(files: Sequence[Path]) -> Section:
    verdicts, sentences = all_findings(files)
    body = verdicts.to_html(index=False, border=0)
    return Section("Finding by finding, paper beside ours", body, " ".join(sentences))


def _figure_section(path: Path) -> Section:
    encoded = base64.b64encode(path.read_bytes()).decode()
    caption = path.with_suffix(".txt").read_text().strip()
    return Section(_title(path), f'<img alt="{_title(path)}" src="data:image/png;base64,{encoded}">', caption)


def _title(path: Path) -> str:
    return path.stem.replace("_", " ")


def _runs(results: pd.DataFrame) -> list[dict[str, str]]:
    chosen = results[results["matching"] == "max_iou"]
    columns = [
        "experiment_id",
        "dataset",
        "method",
        "clusters",
        "seed",
        "mean_iou",
        "train_s",
        "git_sha",
        "dirty",
        "created",
    ]
    return json.loads(chosen[columns].round(4).astype(str).to_json(orient="records"))
