"""From ``results.csv`` to tables (CSV, Markdown, LaTeX), the README and the HTML report.

Ours come from ``results.csv`` alone; the paper's numbers stand in columns headed "paper" and come from ``paper.csv``.
Scores are fractions in files and percent where they are printed.
"""

import base64
import io
import json
import logging
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
from neuralef.paths import PACKAGE, PAPER_NUMBERS, project_root, reference_root, results_root
from neuralef.results import PARAMETER_COLUMNS, read_results

log = logging.getLogger(__name__)

METHOD_TITLES = {
    "kmeans": "K-means",
    "kmeans_centred": "K-means, centred",
    "kmeans_pca": "K-means, PCA",
    "deep_spectral": "Deep Spectral Methods",
    "spectral": "Spectral, exact",
    "ours": "Ours",
    "ours_star": "Ours*",
    "ours_plus": "Ours+",
}
IOU_RULE = "mIoU averages over the classes that occur in the ground truth or in the prediction of the evaluated set."
NOT_IN_PAPER = "not in paper"
HEADLINE = "headline.txt"
"""File of a results folder that says what photographs and backbone its numbers are of."""
FIGURE_DPI = 150


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


def mean_and_interval(interval: Interval, *, sign: str = "") -> str:
    """Fractions as percent, ``estimate (low to high)``; ``sign="+"`` shows their signs."""
    estimate, low, high = (f"{100 * value:{sign}z.1f}" for value in (interval.estimate, interval.low, interval.high))
    return f"{estimate} ({low} to {high})"


def matching_columns(results: pd.DataFrame) -> dict[str, str]:
    """Accuracy and mIoU of one method under each matching, mean ± spread over its seeds."""
    row = {}
    for matching in MATCHINGS:
        chosen = results[results["matching"] == matching]
        row[f"{matching} Acc"] = mean_and_spread(chosen["accuracy"])
        row[f"{matching} mIoU"] = mean_and_spread(chosen["mean_iou"])
    return row


def benchmark_table(results: pd.DataFrame) -> pd.DataFrame:
    """Methods in rows; accuracy and mIoU under each matching (mean ± spread over seeds); the paper's Table 1 beside.

    Args:
        results: Rows of one dataset, backbone and K, any number of seeds.

    Returns:
        Table of strings, ready to print.

    Raises:
        ValueError: If the rows mix datasets, backbones, numbers of clusters or settings.
    """
    _check_one_setting(results)
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
        for metric, title in (("accuracy", "Acc"), ("mean_iou", "mIoU")):
            row[f"paper {title}"] = f"{paper.loc[method, metric]:.1f}" if method in paper.index else NOT_IN_PAPER
        rows.append(row)
    return pd.DataFrame(rows)


def _check_one_setting(results: pd.DataFrame) -> None:
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
    write_text(folder / f"{stem}.csv", frame.to_csv(index=False))
    escaped = caption.replace("%", r"\%").replace("_", r"\_")
    body = frame.to_latex(index=False, escape=True)
    write_text(folder / f"{stem}.tex", f"\\begin{{table}}\n{body}\\caption{{{escaped}}}\n\\end{{table}}\n")
    return write_text(folder / f"{stem}.md", f"{frame.to_markdown(index=False, disable_numparse=True)}\n\n{caption}\n")


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


def update_readme(readme: Path | None = None) -> bool:
    """Rewrite what stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` from the committed results.

    Returns:
        Whether the file changed.
    """
    readme = readme or project_root() / "README.md"
    text = readme.read_text()
    updated = rendered(text)
    if updated != text:
        write_text(readme, updated)
    return updated != text


def rendered(text: str) -> str:
    """A README with its generated blocks as the committed results give them; ``findings`` only where it has markers.

    Raises:
        InputError: If it has markers for findings, and none are committed.
    """
    blocks = readme_blocks()
    if "<!-- begin findings -->" in text:
        blocks["findings"] = findings_block(reference_root("standard"))
    return render_readme(text, blocks)


def render_readme(text: str, blocks: Mapping[str, str]) -> str:
    """Put generated blocks between their markers.

    Raises:
        ValueError: If a block has no pair of markers.
    """
    for name, content in blocks.items():
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        text, count = pattern.subn(lambda match, content=content: f"{match[1]}{content}\n{match[2]}", text)
        if count != 1:
            raise ValueError(f"README must hold one pair of markers for {name}; found {count}")
    return text


def readme_blocks(quick: Path | None = None, studies: Path | None = None) -> dict[str, str]:
    """The generated parts of the README, from the committed runs of ``quick`` and ``studies``, or those in folders."""
    results = read_results((quick or reference_root("quick")) / "results.csv")
    in_float32 = read_results(reference_root("quick_float32") / "results.csv")
    methods = read_results((studies or reference_root("studies")) / "results.csv")
    table = benchmark_table(results).to_markdown(index=False, disable_numparse=True)
    return {
        "benchmark": f"{table}\n\n{benchmark_caption(results)}",
        "timing": timing_sentence(results),
        "float32": float32_sentence(in_float32),
        "methods": methods_table(methods),
        "audit": audit_block(studies or reference_root("studies")),
        "audit_gpu": audit_block(reference_root("bench") / "audit_gpu"),
        "fidelity": fidelity_sentence(studies or reference_root("studies")),
        "scaling": scaling_sentence(studies or reference_root("studies")),
        "gpu": gpu_sentences(reference_root("bench")),
        "paper_gpu": paper_profile_sentence(read_results(reference_root("bench") / "paper_gpu" / "results.csv")),
    }


def findings_files(folder: Path) -> list[Path]:
    """The verdicts that the notebooks of the paper's tables have written to a results folder, by notebook and table."""
    return sorted((folder / "tables").glob("[0-9][0-9]_findings*.csv"))


def findings_block(folder: Path) -> str:
    """Every finding of the paper's tables: what became of it in the paper's numbers and in ours; Markdown.

    Args:
        folder: Results folder.

    Raises:
        InputError: If there are none, or they were written by another version.
    """
    files = findings_files(folder)
    if not files:
        raise InputError(f"{folder / 'tables'} holds no findings; run `neuralef reproduce --profile standard` for them")
    verdicts, caption = _findings(files)
    return f"{verdicts.to_markdown(index=False, disable_numparse=True)}\n\n{caption}"


def _findings(files: Sequence[Path]) -> tuple[pd.DataFrame, str]:
    """All verdicts below each other, and what must be known of them: the rule, what each table is of, what all are."""
    frames, settings = [], {}
    for path in files:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        if tuple(frame.columns) != VERDICT_COLUMNS:
            raise InputError(f"{path} has other columns than this version reads; run its notebook again")
        frames.append(frame)
        setting = _caption(path).removeprefix(VERDICT_RULE).strip()
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
    return pd.concat(frames, ignore_index=True).replace("", "none"), " ".join([VERDICT_RULE, *said])


def audit_block(folder: Path) -> str:
    """What label gradients change, as notebook 30 has written it to a results folder; Markdown.

    Raises:
        InputError: If it has not run there.
    """
    path = folder / "tables" / "30_differences.md"
    if not path.is_file():
        raise InputError(f"{path} is missing; run `neuralef reproduce --profile studies --notebook '30*'` for it")
    return path.read_text().rstrip()


def methods_table(results: pd.DataFrame) -> str:
    """Every method's scores under ``max_iou`` on each dataset, its gain over K-means and its seconds; Markdown.

    Gains are taken seed by seed; seconds are those of training, features apart.

    Raises:
        ValueError: If the rows of a dataset mix settings, or datasets differ in one that the caption names.
    """
    chosen = results[results["matching"] == "max_iou"]
    fields = ("depth", "patch_stride", "feature_neighbors", "pixel_weight", "precision")
    named = ("backbone", "clusters", *(f"p_{field}" for field in fields))
    mixed = [name for name in named if chosen[name].nunique() > 1]
    if mixed:
        raise ValueError(f"rows of one table differ in {', '.join(mixed)}, which its caption names once")
    rows = []
    for dataset, members in chosen.groupby("dataset", sort=False):
        _check_one_setting(members)
        scores = members.pivot(index="seed", columns="method", values="mean_iou")
        for method, of in members.groupby("method", sort=False):
            gain = "reference" if method == "kmeans" else mean_and_spread(scores[method] - scores["kmeans"], sign="+")
            rows.append(
                {
                    "dataset": dataset,
                    "method": method_title(method),
                    "seeds": of["seed"].nunique(),
                    "Acc": mean_and_spread(of["accuracy"]),
                    "mIoU": mean_and_spread(of["mean_iou"]),
                    "mIoU − K-means": gain,
                    "training, s": f"{(of['train_s'] + of['cluster_s']).mean():.0f}",
                }
            )
    first = chosen.iloc[0]
    return (
        f"{pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)}\n\n"
        f"backbone {first['backbone']}; K = {first['clusters']}; psi of depth {first['p_depth']}, trained on one patch "
        f"in {first['p_patch_stride'] ** 2} with k = {first['p_feature_neighbors']} and alpha = "
        f"{first['p_pixel_weight']:g}, in {first['p_precision']}; max_iou, percent, mean ± standard deviation over "
        f"seeds; training on {first['device']}. {IOU_RULE}"
    )


def float32_sentence(results: pd.DataFrame) -> str:
    """What a run of ``quick`` gave, and took, where the processor has no products in bfloat16."""
    chosen = results[results["matching"] == "max_iou"]
    scores = {name: mean_and_spread(of["mean_iou"]) for name, of in chosen.groupby("method", sort=False)}
    trained, seeds = chosen[chosen["method"] == "ours"], chosen["seed"].nunique()
    named = [f"{method_title(name)} {score}" for name, score in scores.items()]
    return (
        f"One such run, mIoU over {seeds} seeds, max_iou: {'; '.join(named)}. Features of all photographs "
        f"{chosen['extract_s'].max():.0f} s, training psi {trained['train_s'].mean():.0f} s a seed."
    )


def fidelity_sentence(folder: Path) -> str:
    """How near psi without quantisation comes to exact eigenvectors, from the tables of notebook 31.

    Args:
        folder: Results folder.
    """
    planted, photographs = (pd.read_csv(folder / "tables" / f"31_{name}.csv") for name in ("graph", "photo"))
    kernel = _caption(folder / "tables" / "31_photo.csv").split("; ")[0].removeprefix("Kernel of ")
    planted, plain = planted["correlation, same index"], photographs["correlation, same index"]
    quantised = photographs["quantised: correlation, matched"]
    return (
        f"Without quantisation {len(planted)} functions of psi on a planted graph agree with the exact eigenvectors, "
        f"in their order, to a correlation of at least {planted.min():.4f}; on a kernel of {kernel}, the first five "
        f"to at least {plain.head(5).min():.3f}, the first {len(plain)} to {plain.min():.3f}, each on the patches it "
        f"was fitted to. With quantisation, all else equal, a single function is something else: {quantised.min():.2f} "
        f"to {quantised.max():.2f} with the eigenvector it is matched to."
    )


def scaling_sentence(folder: Path) -> str:
    """Seconds of exact decomposition and of neural training at the sizes that have both, from notebook 33's table.

    Args:
        folder: Results folder.
    """
    path = folder / "tables" / "33_measured.csv"
    frame = pd.read_csv(path, na_values="not run", thousands=",").dropna()
    exact = frame["kernel, s"] + frame["Lanczos, s"]
    (epochs,) = (name for name in frame if name.endswith(" epochs, s"))
    sizes, theirs, ours = (
        " / ".join(f"{value:,.{0 if value > 10 else 1}f}" for value in values)
        for values in (frame["patches"], exact, frame[epochs])
    )
    return (
        f"On {sizes} patches, exact decomposition with its kernel took {theirs} s; {epochs.removesuffix(', s')} of "
        f"neural training, one of which is measured and multiplied, take {ours} s. {_caption(path).split('. ')[0]}."
    )


def gpu_sentences(bench: Path) -> str:
    """What benchmark ``gpu`` and a training there gave, from their committed rows.

    Args:
        bench: Folder of the benchmarks' files, and of the rows of that training in ``faithful_gpu``.
    """
    measured = pd.read_csv(bench / "gpu.csv").set_index(["case", "quantity"])
    cases = measured.index.get_level_values("case").unique()
    steps, savings = [], []
    for case in cases[cases.str.startswith("step of profile paper")]:
        seconds, megabytes = (measured.loc[(case, name), "ours_value"] for name in ("time, s", "peak memory, MB"))
        steps.append(f"{seconds:.3f} s and {megabytes / 1000:.1f} GB in {case.rsplit(', ', 1)[1]}")
    for case in cases[cases.str.contains("kernel and objective")]:
        faster, smaller = (measured.loc[(case, name), "ratio"] for name in ("time, s", "peak memory, MB"))
        savings.append(f"{smaller:.1f} and {faster:.1f} at the size of {case.split(':')[0]}")
    chosen = read_results(bench / "faithful_gpu" / "results.csv").query("matching == 'max_iou'")
    first, trained = chosen.iloc[0], chosen[chosen["method"] == "ours"]["train_s"].mean()
    scores = "; ".join(f"{method_title(row.method)} {100 * row.mean_iou:.1f}" for row in chosen.itertuples())
    return (
        f"On one {first['device'].split(';')[0]} a step of profile `paper` takes {', '.join(steps)}. Of kernel and "
        f"objective, ratios of the dense formulas' memory and time to ours there: {'; '.join(savings)}. The paper's "
        f"recipe on stored features of {first['dataset']} (K = {first['clusters']}, seed {first['seed']}, "
        f"{first['p_precision']}, the backbone's weights rounded to half precision) trains psi in {trained:.0f} s "
        f"there; mIoU, max_iou: {scores}."
    )


def paper_profile_sentence(results: pd.DataFrame) -> str:
    """What profile ``paper`` scored on photographs that are at hand, without a CRF and with one.

    Args:
        results: Rows of ``results.csv``, of one dataset and K.
    """
    chosen = results[results["matching"] == "max_iou"]
    first = chosen.iloc[0]
    scores = []
    for crf, rows in chosen.groupby("crf", sort=False):
        by_method = rows.groupby("method", sort=False)["mean_iou"]
        listed = "; ".join(f"{method_title(method)} {mean_and_spread(values)}" for method, values in by_method)
        scores.append(listed if crf == "none" else f"with the CRF {listed}")
    return (
        f"On {first['dataset']} ({first['backbone']}, K = {first['clusters']}, {chosen['seed'].nunique()} seeds, "
        f"{first['p_precision']} on one {first['device'].split(';')[0]}), mIoU, max_iou: {'; '.join(scores)}."
    )


def timing_sentence(results: pd.DataFrame) -> str:
    """Where the reference numbers were measured and how long the parts took."""
    first = results.iloc[0]
    trained = results[(results["method"] == "ours") & (results["matching"] == "max_iou")]
    return (
        f"Measured on {first['device']}: features of all photographs {first['extract_s']:.0f} s, training psi "
        f"{trained['train_s'].mean():.0f} s a seed, at most {results['peak_rss_mb'].max() / 1000:.1f} GB of memory."
    )


def _caption(table: Path) -> str:
    return table.with_suffix(".md").read_text().rstrip().split("\n\n", 1)[1]


def _table_section(path: Path) -> Section:
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    return Section(_title(path), frame.to_html(index=False, border=0), _caption(path))


def _findings_section(files: Sequence[Path]) -> Section:
    verdicts, caption = _findings(files)
    return Section("Finding by finding, paper beside ours", verdicts.to_html(index=False, border=0), caption)


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
