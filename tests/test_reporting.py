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


@pytest.fixture
def frame():
    return pd.DataFrame([*rows_of("ours", offset=0.1), *rows_of("kmeans", offset=0.05)])


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


def test_latex_escapes_what_latex_would_read_as_something_else(tmp_path, small_table):
    text = reporting.write_table(small_table, tmp_path, "table", CAPTION).with_suffix(".tex").read_text()
    assert r"100\% of stanford\_background" in text
    assert r"max\_iou Acc" in text
    assert not re.search(r"(?<!\\)[%_]", text)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == text.count(r"\caption{") == 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path, small_table):
    reporting.write_table(small_table, tmp_path, "table", CAPTION)
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{table}\end{document}"
    (tmp_path / "page.tex").write_text(document)
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "page.tex"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0


README = "# title\n\n<!-- begin one -->\nold\n<!-- end one -->\nkept\n<!-- begin two --><!-- end two -->\n"
EMPTY = "a\n<!-- begin one -->\n<!-- end one -->\nb\n"


def test_readme_blocks_go_between_their_markers():
    text = reporting.render_readme(README, {"one": "| new |\n|---|\n\\1 \\g<0>"})
    assert text == README.replace("old", "| new |\n|---|\n\\1 \\g<0>")
    assert reporting.render_readme(EMPTY, {"one": "x"}) == "a\n<!-- begin one -->\nx\n<!-- end one -->\nb\n"


def test_rendering_twice_changes_nothing_more():
    once = reporting.render_readme(README, {"one": "new"})
    assert reporting.render_readme(once, {"one": "new"}) == once


@pytest.mark.parametrize(
    "text",
    [
        "no markers at all\n",
        "<!-- begin one -->\nonly one\n",
        "<!-- end one -->\n<!-- begin one -->\n",
        EMPTY + EMPTY,
    ],
    ids=["none", "open", "reversed", "twice"],
)
def test_missing_or_doubled_markers_are_refused(text):
    with pytest.raises(ValueError, match="one pair of markers for one; found"):
        reporting.render_readme(text, {"one": "new"})


def test_the_readme_has_the_markers_of_every_block(tmp_path, frame):
    append_rows(tmp_path / "results.csv", frame.to_dict("records"))
    blocks = reporting.readme_blocks(tmp_path)
    text = reporting.render_readme((reporting.project_root() / "README.md").read_text(), blocks)
    assert "73.0 ± 3.6" in text
    assert blocks["timing"] in text


def test_update_says_whether_the_readme_changed(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text(README)
    monkeypatch.setattr(reporting, "readme_blocks", lambda: {"one": "new"})
    assert reporting.update_readme(tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == README.replace("old", "new")
    assert not reporting.update_readme(tmp_path / "README.md")


def test_timing_is_that_of_the_rows(frame):
    frame["extract_s"], frame["peak_rss_mb"] = 61.4, 1500.0
    frame.loc[frame["method"] == "ours", "train_s"] = 200.0
    frame.loc[0, "peak_rss_mb"] = 2340.0
    sentence = reporting.timing_sentence(frame)
    assert "photographs 61 s" in sentence
    assert "200 s a seed" in sentence
    assert "2.3 GB" in sentence
    assert frame["device"][0] in sentence


def test_fidelity_is_that_of_notebook_31_s_tables(tmp_path):
    correlations = [0.999, 0.998, 0.97, 0.96, 0.995, 0.7]
    planted = pd.DataFrame({"correlation, same index": [0.9991, 0.99456]})
    photographs = pd.DataFrame(
        {"correlation, same index": correlations, "quantised: correlation, matched": [0.4, 0.8, 0.5, 0.5, 0.5, 0.5]}
    )
    reporting.write_table(planted, tmp_path / "tables", "31_graph", "A chain")
    reporting.write_table(photographs, tmp_path / "tables", "31_photo", "Kernel of 2 photographs, k = 9; psi after it")
    sentence = reporting.fidelity_sentence(tmp_path)
    assert "2 functions of psi on a planted graph" in sentence
    assert (
        "at least 0.9946; on a kernel of 2 photographs, k = 9, the first five to at least 0.960, the first 6 to 0.700, "
        "each on the patches it was fitted to."
    ) in sentence
    assert "0.40 to 0.80" in sentence


def test_scaling_is_that_of_the_sizes_that_have_both_sides(tmp_path):
    measured = pd.DataFrame(
        {
            "patches": ["1,058", "99,981", "999,810"],
            "kernel, s": ["0.02", "44", "not run"],
            "Lanczos, s": ["0.08", "53.2", "not run"],
            "20 epochs, s": ["3", "51.3", "553"],
        }
    )
    reporting.write_table(measured, tmp_path / "tables", "33_measured", "K = 64, one machine. More of it")
    assert reporting.scaling_sentence(tmp_path) == (
        "On 1,058 / 99,981 patches, exact decomposition with its kernel took 0.1 / 97 s; 20 epochs of neural training, "
        "one of which is measured and multiplied, take 3.0 / 51 s. K = 64, one machine."
    )


def test_what_a_gpu_gave_is_read_from_its_rows(tmp_path, frame):
    rows = [
        ("Pascal: kernel and objective, k = 2", "time, s", 3.0, 2.0),
        ("Pascal: kernel and objective, k = 2", "peak memory, MB", 900.0, 100.0),
        ("step of profile paper, B = 4, float32", "time, s", 1.0, 0.5),
        ("step of profile paper, B = 4, float32", "peak memory, MB", 4000.0, 3000.0),
    ]
    measured = pd.DataFrame(rows, columns=["case", "quantity", "reference_value", "ours_value"])
    measured["ratio"] = measured["reference_value"] / measured["ours_value"]
    measured.to_csv(tmp_path / "gpu.csv", index=False)
    frame["device"] = "Some GPU; a processor, 16 threads used"
    frame.loc[frame["method"] == "ours", "train_s"] = 88.0
    append_rows(tmp_path / "faithful_gpu" / "results.csv", frame[frame["seed"] == 0].to_dict("records"))
    sentence = reporting.gpu_sentences(tmp_path)
    assert "On one Some GPU a step of profile `paper` takes 0.500 s and 3.0 GB in float32." in sentence
    assert "9.0 and 1.5 at the size of Pascal" in sentence
    assert "trains psi in 88 s there" in sentence


def test_what_profile_paper_scored_is_read_from_its_rows(frame):
    frame["device"] = "Some GPU; a processor, 16 threads used"
    with_crf = frame[frame["method"] == "kmeans"].assign(crf="colour")
    sentence = reporting.paper_profile_sentence(pd.concat([frame.assign(crf="none"), with_crf]))
    chosen = frame[frame["matching"] == "max_iou"]
    scores = {
        name: reporting.mean_and_spread(chosen[chosen["method"] == name]["mean_iou"]) for name in ("kmeans", "ours")
    }
    assert f"{chosen['seed'].nunique()} seeds" in sentence
    assert "on one Some GPU)" in sentence
    assert f"Ours {scores['ours']}" in sentence.split("with the CRF")[0]
    assert sentence.endswith(f"with the CRF K-means {scores['kmeans']}.")


def test_what_float32_gave_is_read_from_its_rows(frame):
    frame["extract_s"] = 151.2
    frame.loc[frame["method"] == "ours", "train_s"] = 164.0
    sentence = reporting.float32_sentence(frame)
    scores = frame[(frame["matching"] == "max_iou") & (frame["method"] == "ours")]["mean_iou"]
    assert f"Ours {reporting.mean_and_spread(scores)}" in sentence
    assert "151 s, training psi 164 s a seed" in sentence


def test_the_audit_s_table_is_that_of_its_notebook(tmp_path):
    with pytest.raises(InputError, match=r"30_differences\.md is missing; run `neuralef reproduce --profile studies"):
        reporting.audit_block(tmp_path)
    reporting.write_table(pd.DataFrame({"method": ["Ours"]}), tmp_path / "tables", "30_differences", "Caption.")
    block = reporting.audit_block(tmp_path)
    assert block.splitlines() == ["| method   |", "|:---------|", "| Ours     |", "", "Caption."]


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
    folder = reporting.reference_root("studies")
    captions = {name: (folder / "tables" / f"{name}.md").read_text() for name in ("32_methods", "33_exponents")}
    # Ours+ reads features of three more views, which are its own.
    for dataset, seconds in read_results(folder / "results.csv").groupby("dataset")["extract_s"]:
        assert f"{seconds.min():.0f} s on {dataset}" in captions["32_methods"]
    measured = pd.read_csv(folder / "scaling.csv").query("patches >= 8000")
    for side, sizes in measured.groupby("side")["patches"]:
        span = f"{side} {len(sizes)} sizes from {sizes.min():,} to {sizes.max():,} patches"
        assert span in captions["33_exponents"]


def test_the_readme_and_its_figure_come_from_the_committed_run():
    reference = reporting.reference_root("quick")
    readme = (reporting.project_root() / "README.md").read_text()
    assert reporting.rendered(readme) == readme
    figure = reference / "figures" / "14_qualitative.png"
    assert f"]({figure.relative_to(reporting.project_root()).as_posix()})" in readme
    assert figure.is_file()


def test_the_committed_tables_follow_from_the_committed_rows():
    reference = reporting.reference_root("quick")
    table = reporting.benchmark_table(read_results(reference / "results.csv"))
    committed = pd.read_csv(reference / "tables" / "13_benchmark.csv", dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(table.astype(str), committed)


def test_methods_stand_with_their_scores_gains_and_training_seconds():
    results = read_results(reporting.reference_root("studies") / "results.csv")
    results = results[results["dataset"] == "stanford_background"]
    text = reporting.methods_table(results)
    of = {
        name: results[(results["method"] == name) & (results["matching"] == "max_iou")].sort_values("seed")
        for name in ("kmeans", "ours_plus")
    }
    accuracy, scores = (100 * of["ours_plus"][column].to_numpy() for column in ("accuracy", "mean_iou"))
    gains = scores - 100 * of["kmeans"]["mean_iou"].to_numpy()
    (row,) = [line for line in text.splitlines() if "| Ours+ " in line]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "stanford_background",
        "Ours+",
        str(len(scores)),
        f"{accuracy.mean():.1f} ± {accuracy.std(ddof=1):.1f}",
        f"{scores.mean():.1f} ± {scores.std(ddof=1):.1f}",
        f"{gains.mean():+.1f} ± {gains.std(ddof=1):.1f}",
        f"{(of['ours_plus']['train_s'] + of['ours_plus']['cluster_s']).mean():.0f}",
    ]
    other = results.assign(dataset="camvid", p_feature_neighbors=results["p_feature_neighbors"] + 1)
    with pytest.raises(ValueError, match="differ in p_feature_neighbors"):
        reporting.methods_table(pd.concat([results, other]))


def verdict(table, finding, here="holds"):
    return [table, finding, "holds", "+1.0 points", here, "" if here == "not run" else "+0.3 to +2.0 points", "3"]


@pytest.fixture
def judged(tmp_path):
    """A results folder with the verdicts of three tables, two of them of the same photographs."""
    for stem, rows, setting in (
        ("24_findings", [verdict("Section 4.4", "many beat one", "not run")], "of a; by c; seed 0."),
        ("20_findings", [verdict("Table 5", "rises"), verdict("Table 5", "stays", "undecided")], "of a; by c; seed 0."),
        ("16_findings_4", [verdict("Table 4", "Ours* beats Ours")], "of a and b; by c; seed 0."),
    ):
        caption = f"{VERDICT_RULE} {setting}"
        reporting.write_table(pd.DataFrame(rows, columns=VERDICT_COLUMNS), tmp_path / "tables", stem, caption)
    return tmp_path


def test_findings_stand_below_each_other_with_the_rule_once(judged):
    block = reporting.findings_block(judged)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if line[:1] == "|"]
    assert cells[0] == list(VERDICT_COLUMNS)
    assert [row[0] for row in cells[2:]] == ["Table 4", "Table 5", "Table 5", "Section 4.4"]
    assert cells[4] == verdict("Table 5", "stays", "undecided")
    assert cells[-1][4:6] == ["not run", "none"]
    assert block.splitlines()[-1] == (
        f"{VERDICT_RULE} Table 4: of a and b. Table 5, Section 4.4: of a. All: by c; seed 0."
    )


def test_findings_of_one_setting_or_of_nothing_in_common_say_it_whole(judged):
    reporting.write_table(
        pd.DataFrame([verdict("Table 9", "better")], columns=VERDICT_COLUMNS),
        judged / "tables",
        "25_findings",
        f"{VERDICT_RULE} of d; by e; seed 1.",
    )
    assert reporting.findings_block(judged).endswith("Section 4.4: of a; by c; seed 0. Table 9: of d; by e; seed 1.")
    for path in (judged / "tables").iterdir():
        if not path.name.startswith("20"):
            path.unlink()
    assert reporting.findings_block(judged).endswith(f"{VERDICT_RULE} Table 5: of a; by c; seed 0.")


def test_findings_are_in_the_readme_only_where_it_has_markers_for_them(judged, monkeypatch):
    monkeypatch.setattr(reporting, "readme_blocks", lambda: {"one": "new"})
    monkeypatch.setattr(reporting, "reference_root", lambda profile: judged / profile)
    assert reporting.rendered(EMPTY) == EMPTY.replace("-->\n<!-- end", "-->\nnew\n<!-- end")
    marked = f"{EMPTY}<!-- begin findings -->\n<!-- end findings -->\n"
    with pytest.raises(InputError, match=r"standard/tables holds no findings; .*--profile standard"):
        reporting.rendered(marked)
    (judged / "standard").mkdir()
    (judged / "tables").rename(judged / "standard" / "tables")
    text = reporting.rendered(marked)
    assert f"<!-- begin findings -->\n{reporting.findings_block(judged / 'standard')}\n<!-- end findings -->" in text
    assert reporting.rendered(text) == text


def test_findings_of_another_version_are_refused(judged, small_table):
    reporting.write_table(small_table, judged / "tables", "22_findings", CAPTION)
    with pytest.raises(InputError, match=r"22_findings\.csv has other columns .* run its notebook again"):
        reporting.findings_block(judged)


def test_report_begins_with_the_findings_of_all_tables(judged, small_table):
    reporting.write_table(small_table, judged / "tables", "13_benchmark", CAPTION)
    page = reporting.write_report("smoke", "", folder=judged).read_text()
    assert re.findall(r"<h3>(.*?)</h3>", page) == ["Finding by finding, paper beside ours", "13 benchmark"]
    assert page.count("<td>Table 5</td>") == 2
