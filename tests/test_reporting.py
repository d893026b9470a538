import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser

import matplotlib
import pandas as pd
import pytest
from matplotlib.figure import Figure
from test_results import row

from neuralef import reporting
from neuralef.errors import InputError
from neuralef.evaluation import MATCHINGS
from neuralef.findings import VERDICT_COLUMNS, VERDICT_RULE
from neuralef.intervals import Interval
from neuralef.paths import project_root, reference_root
from neuralef.results import append_rows, read_results

matplotlib.use("agg")
SCORES = {  # accuracy and mean IoU of seeds 0, 1, 2 under max_iou
    "ours": [(0.70, 0.50), (0.72, 0.53), (0.77, 0.53)],
    "kmeans": [(0.60, 0.40), (0.60, 0.40), (0.60, 0.40)],
}


def rows_of(method, *, offset=0.0, **changes):
    return [
        row(
            f"{method}-{seed}", method=method, matching=matching, seed=seed,
            accuracy=accuracy - offset * index, mean_iou=mean_iou - offset * index, **changes,
        )
        for seed, (accuracy, mean_iou) in enumerate(SCORES[method])
        for index, matching in enumerate(("max_iou", "majority", "hungarian"))
    ]  # fmt: skip


def benchmark_rows():
    return pd.DataFrame([*rows_of("ours", offset=0.1), *rows_of("kmeans", offset=0.05)])


@pytest.fixture
def frame():
    return benchmark_rows()


@pytest.mark.parametrize(
    ("fractions", "text"),
    [
        ([0.5], "50.0"),
        ([0.5, 0.6], "55.0 ± 7.1"),  # sqrt(0.1 ** 2 / 2)
        ([0.70, 0.72, 0.77], "73.0 ± 3.6"),  # sqrt((3 ** 2 + 1 + 4 ** 2) / 2)
        ([0.25, 0.25], "25.0 ± 0.0"),
        ([1.0], "100.0"),
    ],
)
def test_mean_and_sample_standard_deviation(fractions, text):
    assert reporting.mean_and_spread(fractions) == text


@pytest.mark.parametrize(
    ("interval", "sign", "text"),
    [
        (Interval(0.123, 0.1, 0.15), "", "12.3 (10.0 to 15.0)"),
        (Interval(-0.01, -0.02, 0.005), "+", "-1.0 (-2.0 to +0.5)"),
    ],
)
def test_an_interval_stands_in_percent(interval, sign, text):
    assert reporting.mean_and_interval(interval, sign=sign) == text


def test_a_method_without_a_title_has_its_name():
    assert reporting.method_title("ours_star") == "Ours*"
    assert reporting.method_title("ours_tomorrow") == "ours_tomorrow"


def test_the_star_of_a_title_is_no_emphasis_in_markdown():
    assert reporting.markdown("Ours* beats Ours*, K-means does not") == r"Ours\* beats Ours\*, K-means does not"


def test_tables_of_datasets_stand_below_each_other():
    table = reporting.stacked({"here": pd.DataFrame({"a": ["1", "2"]}), "there": pd.DataFrame({"a": ["3"]})})
    assert table.to_dict("list") == {"dataset": ["here", "here", "there"], "a": ["1", "2", "3"]}
    assert table.index.tolist() == [0, 1, 2]


def test_benchmark_table_holds_the_numbers_worked_out_by_hand(frame):
    table = reporting.benchmark_table(frame).set_index("method")
    assert table.index.tolist() == ["K-means", "Ours"]  # the paper's order, whatever the rows'
    assert table.loc["Ours"].to_dict() == {
        "seeds": 3,
        "max_iou Acc": "73.0 ± 3.6",
        "max_iou mIoU": "52.0 ± 1.7",
        "majority Acc": "63.0 ± 3.6",
        "majority mIoU": "42.0 ± 1.7",
        "hungarian Acc": "53.0 ± 3.6",
        "hungarian mIoU": "32.0 ± 1.7",
        "paper Acc": "70.4",
        "paper mIoU": "38.8",
    }
    assert table.loc["K-means", "hungarian mIoU"] == "30.0 ± 0.0"
    assert table.loc["K-means", "paper Acc"] == "61.9"
    assert table.loc["K-means", "paper mIoU"] == "28.9"


def test_columns_are_one_pair_for_each_matching_then_the_paper_s(frame):
    pairs = [f"{matching} {metric}" for matching in MATCHINGS for metric in ("Acc", "mIoU")]
    assert list(reporting.benchmark_table(frame).columns) == ["method", "seeds", *pairs, "paper Acc", "paper mIoU"]


def test_a_method_the_paper_does_not_print_says_so(frame):
    frame.loc[frame["method"] == "kmeans", "method"] = "kmeans_centred"
    table = reporting.benchmark_table(frame).set_index("method")
    assert table.loc["K-means, centred", "paper mIoU"] == reporting.NOT_IN_PAPER
    assert "paper" in reporting.NOT_IN_PAPER


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("dataset", "camvid"),
        ("trained_on", "camvid"),
        ("split", "train"),
        ("images", 4),
        ("backbone", "efficientnet_lite0"),
        ("clusters", 13),
        ("protocol", "sliding"),
        ("crf", "dense"),
        ("p_learning_rate", 0.1),
        ("p_width", "default"),
    ],
)
def test_rows_of_different_settings_make_no_table(frame, column, value):
    frame[column] = frame[column].astype(object)
    frame.loc[0, column] = value
    with pytest.raises(ValueError, match=f"one setting; the rows differ in {column}$"):
        reporting.benchmark_table(frame)


def test_a_seed_that_stands_twice_makes_no_table(frame):
    again = pd.concat([frame, frame.iloc[:1].assign(experiment_id="by other code")])
    with pytest.raises(ValueError, match="twice"):
        reporting.benchmark_table(again)


def test_caption_says_what_the_numbers_are_of(frame):
    caption = reporting.benchmark_caption(frame)
    for part in ("synthetic_scenes val", "3 photographs", "8 classes", "colour_patches", "K = 12", "crop320", "none"):
        assert part in caption
    assert "over 3 seeds" in caption
    assert reporting.IOU_RULE in caption
    assert "Pascal Context" in caption
    assert "another dataset" in caption


CAPTION = "100% of stanford_background, K = 64."


@pytest.fixture
def small_table():
    return pd.DataFrame({"method": ["Ours*", "K-means"], "max_iou Acc": ["73.0 ± 3.6", "7"], "p_%": ["1", "not run"]})


def test_a_table_is_written_as_csv_markdown_and_latex(tmp_path, small_table):
    markdown = reporting.write_table(small_table, tmp_path / "tables", "13_benchmark", CAPTION)
    assert sorted(path.name for path in markdown.parent.iterdir()) == [
        "13_benchmark.csv", "13_benchmark.md", "13_benchmark.tex",
    ]  # fmt: skip
    read = pd.read_csv(markdown.with_suffix(".csv"), dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(read, small_table)
    lines = markdown.read_text().splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["Ours*", "73.0 ± 3.6", "1"]
    assert lines[-2:] == ["", CAPTION]


@pytest.mark.parametrize("lost", [".md", ".tex", ".csv"])
def test_a_report_meets_no_table_of_which_a_part_is_not_written(tmp_path, small_table, monkeypatch, lost):
    write = reporting.write_text

    def interrupted(path, text):
        if path.suffix == lost:
            raise KeyboardInterrupt
        return write(path, text)

    monkeypatch.setattr(reporting, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reporting.write_table(small_table, tmp_path, "13_benchmark", CAPTION)
    assert not list(tmp_path.glob("*.csv"))


NASTY = "a&b #1 50% $x$ {y} ~ ^ ψ ≥ a_b \\"
NASTY_IN_LATEX = r"a\&b \#1 50\% \$x\$ \{y\} \textasciitilde{} \textasciicircum{} $\psi$ $\geq$ a\_b \textbackslash{}"


@pytest.fixture
def nasty_table():
    return pd.DataFrame({NASTY: [NASTY, "[0, 1]", "Ours > K-means | é đ"], "share": [0.25, 0.5, 1.0]})


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        (NASTY, NASTY_IN_LATEX),
        ("Ours* − K-means, 1.0 ± 0.2, 2 × 3", r"Ours* $-$ K-means, 1.0 $\pm$ 0.2, 2 $\times$ 3"),
        ("[0 < a | b > 1]", "{[}0 $<$ a $|$ b $>$ 1]"),
        ("`p_` and `here`, not `there", r"\texttt{p\_} and \texttt{here}, not \`{}there"),
        ("Zoë, Ã, Čapek", "Zoë, Ã, Čapek"),
        ("đ 空", "U+0111 U+7A7A"),
        ("", ""),
    ],
)
def test_latex_prints_what_it_would_read_as_something_else(text, printed):
    assert reporting.latex(text) == printed


def test_headings_cells_and_caption_are_escaped_alike_and_numbers_stay_numbers(tmp_path, nasty_table):
    text = reporting.write_table(nasty_table, tmp_path, "table", NASTY).with_suffix(".tex").read_text()
    assert text.splitlines() == [
        r"\begin{table}",
        r"\begin{tabular}{lr}",
        r"\toprule",
        rf"{NASTY_IN_LATEX} & share \\",
        r"\midrule",
        rf"{NASTY_IN_LATEX} & 0.250000 \\",
        r"{[}0, 1] & 0.500000 \\",
        r"Ours $>$ K-means $|$ é U+0111 & 1.000000 \\",
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{NASTY_IN_LATEX}}}",
        r"\end{table}",
    ]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path, nasty_table):
    reporting.write_table(nasty_table, tmp_path, "table", f"{NASTY} {CAPTION}")
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{table}\end{document}"
    (tmp_path / "page.tex").write_text(document)
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "page.tex"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0


COMMITTED = sorted(project_root().glob("results/reference/**/*.tex"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_committed_latex_is_what_would_be_written(tmp_path, path):
    text = path.read_text()
    assert not re.search("[^\x00-\x7fÀ-ÖØ-öø-ž]", text)
    *_, caption, _ = text.splitlines()
    inner = caption.removeprefix(r"\caption{").removesuffix("}")
    bare = re.sub(r"\\[%_&#${}]|\$\\[a-z]+\$|\$[-<>|]\$|\\texttt\{(?:[^{}\\]|\\_)*\}|\\text[a-z]+\{\}", "", inner)
    assert not set(bare) & set("%_&#${}\\~^`<>|")
    cells = pd.read_csv(path.with_suffix(".csv"), dtype=str, keep_default_na=False)
    again = reporting.write_table(cells, tmp_path, "again", reporting.caption_of(path)).with_suffix(".tex")
    columns = re.compile(r"(?<=\{tabular\}\{)[lr]+")  # numbers, which a file of text does not tell, stand to the right
    assert columns.sub("", again.read_text()) == columns.sub("", text)


class Links(HTMLParser):
    """Collects every place a page refers to and checks that tags are closed."""

    def __init__(self, page):
        super().__init__()
        self.targets, self.open = [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.targets += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta", "img", "br", "hr", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def written(tmp_path, small_table):
    """A results folder with one table and one figure."""
    reporting.write_table(small_table, tmp_path / "tables", "13_benchmark", CAPTION)
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([0, 1])
    reporting.save_figure(figure, tmp_path / "figures", "14_qualitative", "Image, K-means & Ours <Figure 2>.")
    return tmp_path


def test_a_figure_is_kept_with_its_caption(written):
    content = (written / "figures" / "14_qualitative.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert (written / "figures" / "14_qualitative.txt").read_text() == "Image, K-means & Ours <Figure 2>.\n"


def test_report_is_one_page_that_needs_nothing_else(written):
    path = reporting.write_report("smoke", "profile smoke: dataset synthetic_scenes", folder=written)
    assert path == written / "report" / "index.html"
    page = path.read_text()
    targets = Links(page).targets
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in targets)
    assert not re.search(r"https?://|@import|url\(", page)
    (image,) = (target for target in targets if target.startswith("data:"))
    assert base64.b64decode(image.split(",")[1]) == (written / "figures" / "14_qualitative.png").read_bytes()


def test_report_shows_description_tables_and_captions(written):
    description = "profile smoke: dataset synthetic_scenes (because <none> was there)"
    page = reporting.write_report("smoke", description, folder=written).read_text()
    assert "dataset synthetic_scenes (because &lt;none&gt; was there)" in page
    assert "<td>73.0 ± 3.6</td>" in page
    assert "<td>not run</td>" in page
    assert f"<figcaption>{CAPTION}</figcaption>" in page
    assert "Image, K-means &amp; Ours &lt;Figure 2&gt;." in page
    assert "<h3>13 benchmark</h3>" in page
    for target in Links(page).targets:
        if target.startswith("#"):
            assert f'id="{target[1:]}"' in page


def test_report_lists_the_runs_and_the_executed_notebooks(written, frame):
    append_rows(written / "results.csv", frame.to_dict("records"))
    (written / "notebooks").mkdir()
    (written / "notebooks" / "13_benchmark.html").write_text("<html></html>")
    page = reporting.write_report("smoke", "", folder=written).read_text()
    Links(page)
    assert '<a href="../notebooks/13_benchmark.html">' in page
    for seed, (_, mean_iou) in enumerate(SCORES["ours"]):
        assert f"<td>ours-{seed}</td>" in page
        assert f"<td>{mean_iou}</td>" in page
    assert page.count("<td>ours-0</td>") == 1  # max_iou alone


def test_nothing_to_report_is_said(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path} holds no tables or figures; .*--profile smoke"):
        reporting.write_report("smoke", "", folder=tmp_path)


def test_captions_of_the_committed_studies_say_what_their_numbers_are_of():
    folder = reference_root("studies")
    captions = {name: (folder / "tables" / f"{name}.md").read_text() for name in ("32_methods", "33_exponents")}
    # Ours+ reads features of three more views, which are its own.
    for dataset, seconds in read_results(folder / "results.csv").groupby("dataset")["extract_s"]:
        assert f"{seconds.min():.0f} s on {dataset}" in captions["32_methods"]
    measured = pd.read_csv(folder / "scaling.csv").query("patches >= 8000")
    for side, sizes in measured.groupby("side")["patches"]:
        span = f"{side} {len(sizes)} sizes from {sizes.min():,} to {sizes.max():,} patches"
        assert span in captions["33_exponents"]


def test_the_committed_tables_follow_from_the_committed_rows():
    reference = reference_root("quick")
    table = reporting.benchmark_table(read_results(reference / "results.csv"))
    committed = pd.read_csv(reference / "tables" / "13_benchmark.csv", dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(table.astype(str), committed)


def verdict(table, finding, here="holds"):
    return [table, finding, "holds", "+1.0 points", here, "" if here == "not run" else "+0.3 to +2.0 points", "3"]


def write_verdicts(folder):
    """A results folder with the verdicts of three tables, two of them of the same photographs."""
    for stem, rows, setting in (
        ("24_findings", [verdict("Section 4.4", "many beat one", "not run")], "of a; by c; seed 0."),
        ("20_findings", [verdict("Table 5", "rises"), verdict("Table 5", "stays", "undecided")], "of a; by c; seed 0."),
        ("16_findings_4", [verdict("Table 4", "Ours* beats Ours")], "of a and b; by c; seed 0."),
    ):
        caption = f"{VERDICT_RULE} {setting}"
        reporting.write_table(pd.DataFrame(rows, columns=VERDICT_COLUMNS), folder / "tables", stem, caption)
    return folder


def test_report_begins_with_the_findings_of_all_tables(tmp_path, small_table):
    judged = write_verdicts(tmp_path)
    reporting.write_table(small_table, judged / "tables", "13_benchmark", CAPTION)
    page = reporting.write_report("smoke", "", folder=judged).read_text()
    assert re.findall(r"<h3>(.*?)</h3>", page) == ["Finding by finding, paper beside ours", "13 benchmark"]
    assert page.count("<td>Table 5</td>") == 2
