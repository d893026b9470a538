"""The generated parts of the README: tables and sentences from the committed results, each between its markers."""

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from neuralef.comparison import BASELINE, gains_on_baseline, in_order
from neuralef.errors import InputError
from neuralef.files import write_text
from neuralef.paths import project_root, reference_root
from neuralef.reporting import (
    IOU_RULE,
    all_findings,
    benchmark_caption,
    benchmark_table,
    caption_of,
    captioned,
    check_one_setting,
    findings_files,
    mean_and_spread,
    method_title,
)
from neuralef.results import read_results


def update_readme(readme: Path | None = None) -> bool:
    """Rewrite what stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` from the committed results.

    Returns:
        Whether the file changed.
    """
    readme = readme or project_root() / "README.md"
    text = readme.read_text()
    updated = readme_text(text)
    if updated != text:
        write_text(readme, updated)
    return updated != text


def readme_text(text: str) -> str:
    """A README with its generated blocks as the committed results give them; ``findings`` only where it has markers.

    Raises:
        InputError: If it has markers for findings, and none are committed.
    """
    generated = blocks()
    if "<!-- begin findings -->" in text:
        generated["findings"] = findings_block(reference_root("standard"))
    return fill_markers(text, generated)


def fill_markers(text: str, contents: Mapping[str, str]) -> str:
    """Put generated blocks between their markers.

    Raises:
        ValueError: If a block has no pair of markers.
    """
    for name, content in contents.items():
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        text, count = pattern.subn(lambda match, content=content: f"{match[1]}{content}\n{match[2]}", text)
        if count != 1:
            raise ValueError(f"README must hold one pair of markers for {name}; found {count}")
    return text


def blocks(quick: Path | None = None) -> dict[str, str]:
    """The generated parts of the README, from the committed runs, or with that of ``quick`` in another folder."""
    studies, bench = reference_root("studies"), reference_root("bench")
    results = read_results((quick or reference_root("quick")) / "results.csv")
    in_float32 = read_results(reference_root("quick_float32") / "results.csv")
    methods = read_results(studies / "results.csv")
    return {
        "benchmark": captioned(benchmark_table(results), benchmark_caption(results)),
        "timing": timing_sentence(results),
        "float32": float32_sentence(in_float32),
        "methods": methods_table(methods),
        "drives": table_block(studies, "37_gains"),
        "photographs": table_block(studies, "36_scores"),
        "together": table_block(studies, "38_scores"),
        "audit": table_block(studies, "30_differences"),
        "audit_gpu": table_block(bench / "audit_gpu", "30_differences"),
        "fidelity": fidelity_sentence(studies),
        "scaling": scaling_sentence(studies),
        "gpu": gpu_sentences(bench),
        "recipe": recipe_sentence(read_results(bench / "faithful" / "results.csv")),
        "paper_gpu": scores_sentence(read_results(bench / "paper_gpu" / "results.csv")),
    }


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
    verdicts, sentences = all_findings(files)
    return captioned(verdicts, "\n".join(f"* {sentence}" for sentence in sentences))


def table_block(folder: Path, stem: str) -> str:
    """A table as its notebook of profile ``studies`` has written it, caption below; Markdown.

    Args:
        folder: Results folder.
        stem: Name of the table without its ending, which begins with the notebook's number.

    Raises:
        InputError: If it has not run there.
    """
    path = folder / "tables" / f"{stem}.md"
    if not path.is_file():
        remedy = f"neuralef reproduce --profile studies --notebook '{stem[:2]}*'"
        raise InputError(f"{path} is missing; run `{remedy}` for it")
    return path.read_text().rstrip()


def methods_table(results: pd.DataFrame) -> str:
    """Every method's scores under ``max_iou`` on each dataset, its gain over K-means and its seconds; Markdown.

    Gains are taken seed by seed; seconds are those of training, features apart.

    Raises:
        InputError: If K-means was not run.
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
        check_one_setting(members)
        gained = gains_on_baseline(in_order(members), ["dataset", "seed"])
        for method, of in gained.groupby("method", sort=False):
            gain = "reference" if method == BASELINE else mean_and_spread(of["gain"], sign="+")
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
    return captioned(
        pd.DataFrame(rows),
        f"backbone {first['backbone']}; K = {first['clusters']}; psi of depth {first['p_depth']}, trained on one patch "
        f"in {first['p_patch_stride'] ** 2} with k = {first['p_feature_neighbors']} and alpha = "
        f"{first['p_pixel_weight']:g}, in {first['p_precision']}; max_iou, percent, mean ± standard deviation over "
        f"seeds; training on {first['device']}. {IOU_RULE}",
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

    Raises:
        InputError: If the caption there has another form than is read here.
    """
    planted, photographs = (pd.read_csv(folder / "tables" / f"31_{name}.csv") for name in ("graph", "photo"))
    kernel = _said(folder / "tables" / "31_photo.csv", r"Kernel of (.+?); psi after ")
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

    Raises:
        InputError: If the caption there has another form than is read here.
    """
    path = folder / "tables" / "33_measured.csv"
    frame = pd.read_csv(path, na_values="not run", thousands=",").dropna()
    setting = _said(path, r"(K = .+?)\. profile ")
    exact = frame["kernel, s"] + frame["Lanczos, s"]
    (epochs,) = (name for name in frame if name.endswith(" epochs, s"))
    sizes, theirs, ours = (
        " / ".join(f"{value:,.{0 if value > 10 else 1}f}" for value in values)
        for values in (frame["patches"], exact, frame[epochs])
    )
    return (
        f"On {sizes} patches, exact decomposition with its kernel took {theirs} s; {epochs.removesuffix(', s')} of "
        f"neural training, one of which is measured and multiplied, take {ours} s. {setting}."
    )


def gpu_sentences(bench: Path) -> str:
    """What benchmark ``gpu`` and a training there gave, from their committed rows.

    Args:
        bench: Folder of the benchmarks' files, and of the rows of that training in ``faithful_gpu``.

    Raises:
        InputError: If the benchmark calls its cases otherwise than is read here.
    """
    measured = {(row.case, row.quantity): row for row in pd.read_csv(bench / "gpu.csv").itertuples()}
    steps, savings = [], []
    for case in dict.fromkeys(case for case, _ in measured):
        if case.startswith("step of profile paper"):
            seconds, megabytes = (measured[case, name].ours_value for name in ("time, s", "peak memory, MB"))
            steps.append(f"{seconds:.3f} s and {megabytes / 1000:.1f} GB in {case.rsplit(', ', 1)[1]}")
        elif "kernel and objective" in case:
            faster, smaller = (measured[case, name].ratio for name in ("time, s", "peak memory, MB"))
            savings.append(f"{smaller:.1f} and {faster:.1f} at the size of {case.split(':')[0]}")
    if not steps or not savings:
        raise InputError(f"{bench / 'gpu.csv'} lacks the steps of profile paper, or kernel and objective")
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


def recipe_sentence(results: pd.DataFrame) -> str:
    """What the paper's recipe scored on stored features of photographs that are at hand, and how long psi trained.

    Args:
        results: Rows of ``results.csv``, of one setting.
    """
    check_one_setting(results)
    trained = results.loc[results["method"] == "ours", "train_s"].mean()
    return f"{scores_sentence(results)} Training psi took {trained / 60:.0f} minutes."


def scores_sentence(results: pd.DataFrame) -> str:
    """What the methods scored on photographs that are at hand, without a CRF and, where it was run, with one.

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
    seeds = chosen["seed"].unique()
    counted = f"{len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
    return (
        f"On {first['dataset']} ({first['backbone']}, K = {first['clusters']}, {counted}, "
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


def _said(table: Path, form: str) -> str:
    """The group of ``form``, a regular expression, at the start of a table's caption."""
    found = re.match(form, caption_of(table))
    if found is None:
        raise InputError(f"the caption of {table} does not begin with '{form}', which the README reads")
    return found[1]
