import re

import pandas as pd
import pytest
from test_reporting import benchmark_rows, verdict, write_verdicts

from neuralef import readme
from neuralef.errors import InputError
from neuralef.findings import VERDICT_COLUMNS, VERDICT_RULE
from neuralef.paths import project_root, reference_root
from neuralef.reporting import caption_of, findings_files, mean_and_spread, write_table
from neuralef.results import append_rows, read_results


@pytest.fixture
def frame():
    return benchmark_rows()


@pytest.fixture
def judged(tmp_path):
    return write_verdicts(tmp_path)


README = "# title\n\n<!-- begin one -->\nold\n<!-- end one -->\nkept\n<!-- begin two --><!-- end two -->\n"


EMPTY = "a\n<!-- begin one -->\n<!-- end one -->\nb\n"


def test_readme_blocks_go_between_their_markers():
    text = readme.fill_markers(README, {"one": "| new |\n|---|\n\\1 \\g<0>"})
    assert text == README.replace("old", "| new |\n|---|\n\\1 \\g<0>")
    assert readme.fill_markers(EMPTY, {"one": "x"}) == "a\n<!-- begin one -->\nx\n<!-- end one -->\nb\n"


def test_rendering_twice_changes_nothing_more():
    once = readme.fill_markers(README, {"one": "new"})
    assert readme.fill_markers(once, {"one": "new"}) == once


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
        readme.fill_markers(text, {"one": "new"})


def test_the_readme_has_the_markers_of_every_block(tmp_path, frame):
    append_rows(tmp_path / "results.csv", frame.to_dict("records"))
    blocks = readme.blocks(tmp_path)
    text = readme.fill_markers((project_root() / "README.md").read_text(), blocks)
    assert "73.0 ± 3.6" in text
    assert blocks["timing"] in text


def test_update_says_whether_the_readme_changed(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text(README)
    monkeypatch.setattr(readme, "blocks", lambda: {"one": "new"})
    assert readme.update_readme(tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == README.replace("old", "new")
    assert not readme.update_readme(tmp_path / "README.md")


def test_timing_is_that_of_the_rows(frame):
    frame["extract_s"], frame["peak_rss_mb"] = 61.4, 1500.0
    frame.loc[frame["method"] == "ours", "train_s"] = 200.0
    frame.loc[0, "peak_rss_mb"] = 2340.0
    sentence = readme.timing_sentence(frame)
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
    write_table(planted, tmp_path / "tables", "31_graph", "A chain")
    write_table(photographs, tmp_path / "tables", "31_photo", "Kernel of 2 photographs, k = 9; psi after it")
    sentence = readme.fidelity_sentence(tmp_path)
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
    write_table(measured, tmp_path / "tables", "33_measured", "K = 64, Mr. X's machine. profile a: b")
    assert readme.scaling_sentence(tmp_path) == (
        "On 1,058 / 99,981 patches, exact decomposition with its kernel took 0.1 / 97 s; 20 epochs of neural training, "
        "one of which is measured and multiplied, take 3.0 / 51 s. K = 64, Mr. X's machine."
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
    sentence = readme.gpu_sentences(tmp_path)
    assert "On one Some GPU a step of profile `paper` takes 0.500 s and 3.0 GB in float32." in sentence
    assert "9.0 and 1.5 at the size of Pascal" in sentence
    assert "trains psi in 88 s there" in sentence


def test_what_profile_paper_scored_is_read_from_its_rows(frame):
    frame["device"] = "Some GPU; a processor, 16 threads used"
    with_crf = frame[frame["method"] == "kmeans"].assign(crf="colour")
    sentence = readme.scores_sentence(pd.concat([frame.assign(crf="none"), with_crf]))
    chosen = frame[frame["matching"] == "max_iou"]
    scores = {name: mean_and_spread(chosen[chosen["method"] == name]["mean_iou"]) for name in ("kmeans", "ours")}
    assert f"{chosen['seed'].nunique()} seeds" in sentence
    assert "on one Some GPU)" in sentence
    assert f"Ours {scores['ours']}" in sentence.split("with the CRF")[0]
    assert sentence.endswith(f"with the CRF K-means {scores['kmeans']}.")


def test_what_the_recipe_scored_is_read_from_its_rows(frame):
    one_seed = frame[frame["seed"] == 0].copy()
    one_seed.loc[one_seed["method"] == "ours", "train_s"] = 2400.0
    sentence = readme.recipe_sentence(one_seed)
    (score,) = one_seed.query("matching == 'max_iou' and method == 'ours'")["mean_iou"]
    assert ", seed 0, " in sentence
    assert f"Ours {100 * score:.1f}" in sentence and "±" not in sentence
    assert sentence.endswith("Training psi took 40 minutes.")


def test_what_float32_gave_is_read_from_its_rows(frame):
    frame["extract_s"] = 151.2
    frame.loc[frame["method"] == "ours", "train_s"] = 164.0
    sentence = readme.float32_sentence(frame)
    scores = frame[(frame["matching"] == "max_iou") & (frame["method"] == "ours")]["mean_iou"]
    assert f"Ours {mean_and_spread(scores)}" in sentence
    assert "151 s, training psi 164 s a seed" in sentence


def test_the_audit_s_table_is_that_of_its_notebook(tmp_path):
    with pytest.raises(InputError, match=r"30_differences\.md is missing; run `neuralef reproduce --profile studies"):
        readme.table_block(tmp_path, "30_differences")
    write_table(pd.DataFrame({"method": ["Ours"]}), tmp_path / "tables", "30_differences", "Caption.")
    block = readme.table_block(tmp_path, "30_differences")
    assert block.splitlines() == ["| method   |", "|:---------|", "| Ours     |", "", "Caption."]


def test_the_readme_and_its_figure_come_from_the_committed_run():
    reference = reference_root("quick")
    text = (project_root() / "README.md").read_text()
    assert readme.readme_text(text) == text
    figure = reference / "figures" / "14_qualitative.png"
    assert f"]({figure.relative_to(project_root()).as_posix()})" in text
    assert figure.is_file()


def test_methods_stand_with_their_scores_gains_and_training_seconds():
    results = read_results(reference_root("studies") / "results.csv")
    results = results[results["dataset"] == "stanford_background"]
    text = readme.methods_table(results)
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
    with pytest.raises(InputError, match="gains are on kmeans, which was not run"):
        readme.methods_table(results[results["method"] != "kmeans"])
    other = results.assign(dataset="camvid", p_feature_neighbors=results["p_feature_neighbors"] + 1)
    with pytest.raises(ValueError, match="differ in p_feature_neighbors"):
        readme.methods_table(pd.concat([results, other]))


def test_findings_stand_below_each_other_with_the_rule_once(judged):
    block = readme.findings_block(judged)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if line[:1] == "|"]
    assert cells[0] == list(VERDICT_COLUMNS)
    assert [row[0] for row in cells[2:]] == ["Table 4", "Table 5", "Table 5", "Section 4.4"]
    assert cells[4] == verdict("Table 5", "stays", "undecided")
    assert cells[-1][4:6] == ["not run", "none"]
    sentences = [VERDICT_RULE, "Table 4: of a and b.", "Table 5, Section 4.4: of a.", "All: by c; seed 0."]
    assert block.splitlines()[-4:] == [f"* {sentence}" for sentence in sentences]


def test_findings_of_one_setting_or_of_nothing_in_common_say_it_whole(judged):
    write_table(
        pd.DataFrame([verdict("Table 9", "better")], columns=VERDICT_COLUMNS),
        judged / "tables",
        "25_findings",
        f"{VERDICT_RULE} of d; by e; seed 1.",
    )
    assert readme.findings_block(judged).endswith("Section 4.4: of a; by c; seed 0.\n* Table 9: of d; by e; seed 1.")
    for path in (judged / "tables").iterdir():
        if not path.name.startswith("20"):
            path.unlink()
    assert readme.findings_block(judged).endswith(f"* {VERDICT_RULE}\n* Table 5: of a; by c; seed 0.")


def test_a_note_in_brackets_stands_where_its_name_comes_first(judged):
    for stem, setting in (
        ("24_findings", "of a (1 level) and b (plain); by c; seed 0."),
        ("25_findings", "of a (1 level); by c; seed 1."),
    ):
        frame = pd.DataFrame([verdict("Table 9", "better")], columns=VERDICT_COLUMNS)
        write_table(frame, judged / "tables", stem, f"{VERDICT_RULE} {setting}")
    block = readme.findings_block(judged)
    assert block.count("(1 level)") == block.count("(plain)") == 1


def test_findings_are_in_the_readme_only_where_it_has_markers_for_them(judged, monkeypatch):
    monkeypatch.setattr(readme, "blocks", lambda: {"one": "new"})
    monkeypatch.setattr(readme, "reference_root", lambda profile: judged / profile)
    assert readme.readme_text(EMPTY) == EMPTY.replace("-->\n<!-- end", "-->\nnew\n<!-- end")
    marked = f"{EMPTY}<!-- begin findings -->\n<!-- end findings -->\n"
    with pytest.raises(InputError, match=r"standard/tables holds no findings; .*--profile standard"):
        readme.readme_text(marked)
    (judged / "standard").mkdir()
    (judged / "tables").rename(judged / "standard" / "tables")
    text = readme.readme_text(marked)
    assert f"<!-- begin findings -->\n{readme.findings_block(judged / 'standard')}\n<!-- end findings -->" in text
    assert readme.readme_text(text) == text


@pytest.mark.parametrize(
    ("columns", "caption"), [(VERDICT_COLUMNS, "Another rule. of a; by c."), (VERDICT_COLUMNS[::-1], VERDICT_RULE)]
)
def test_findings_of_another_version_are_refused(judged, columns, caption):
    write_table(pd.DataFrame([verdict("Table 7", "stays")], columns=columns), judged / "tables", "22_findings", caption)
    with pytest.raises(InputError, match=r"22_findings\.csv has columns or a rule .* run its notebook again"):
        readme.findings_block(judged)


def test_a_caption_that_says_something_else_makes_no_sentence(tmp_path):
    for stem in ("31_graph", "31_photo", "33_measured"):
        reworded = pd.read_csv(reference_root("studies") / "tables" / f"{stem}.csv", dtype=str, keep_default_na=False)
        write_table(reworded, tmp_path / "tables", stem, "Of 2 photographs; psi after it. profile a: b")
    with pytest.raises(InputError, match=r"31_photo\.csv does not begin with 'Kernel of "):
        readme.fidelity_sentence(tmp_path)
    with pytest.raises(InputError, match=r"33_measured\.csv does not begin with '\(K = "):
        readme.scaling_sentence(tmp_path)


def test_cases_of_other_names_make_no_sentence(tmp_path):
    renamed = pd.read_csv(reference_root("bench") / "gpu.csv")
    renamed.assign(case=renamed["case"].str.replace("profile paper", "the paper's")).to_csv(tmp_path / "gpu.csv")
    with pytest.raises(InputError, match=r"gpu\.csv lacks the steps of profile paper"):
        readme.gpu_sentences(tmp_path)


def test_captions_of_the_committed_findings_fall_apart_into_profile_data_and_seeds():
    files = findings_files(reference_root("standard"))
    for path in files:
        setting = caption_of(path).removeprefix(VERDICT_RULE).strip()
        assert re.fullmatch(r"profile standard: datasets? [^;]+; backbone [^;]+; (.+; )?seeds [\d, ]+\.", setting)
    assert files
    assert readme.findings_block(reference_root("standard")).count("seeds 0, 1, 2") == 1  # what all share is said once
