from dataclasses import astuple, replace

import numpy as np
import pandas as pd
import pytest
import timm
from trees import write_folder_dataset

from neuralef import notebooks, table_study
from neuralef.config import StandIn
from neuralef.datasets.base import IGNORE_LABEL
from neuralef.errors import InputError
from neuralef.evaluation import score
from neuralef.paths import reference_root
from neuralef.reporting import METHOD_TITLES, NOT_IN_PAPER, mean_and_spread, paper_numbers
from neuralef.results import PARAMETER_COLUMNS, read_results
from neuralef.table_study import (
    NOT_RUN,
    changes,
    favourite_agreement,
    image_accuracies,
    names_here,
    open_tables,
    published,
    used_for,
    verdict_lines,
)
from neuralef.tables import PEERS, TABLES, VIT_LARGE, VIT_SMALL, read_by

IDENTITY = ["dataset", "protocol", "backbone", "method", "clusters", "setting"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("NEURALEF_CACHE", str(tmp_path_factory.getbasetemp() / "table-cache"))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("out")


def smoke():
    return open_tables("smoke", progress=False)


def test_a_dataset_with_features_of_its_own_has_its_own_workbench():
    study = smoke()
    scenes = study.setup.datasets["cityscapes_27"]
    own = {**study.setup.datasets, "cityscapes_27": replace(scenes, config={"image_size": 64})}
    study = replace(study, setup=replace(study.setup, datasets=own))
    sizes = {}
    for number in ("1", "2"):
        line = next(line for line in study.lines(TABLES[number]) if line.experiment)
        sizes[number] = study.bench(line.experiment).config.image_size
    assert sizes == {"1": study.profile.config.image_size, "2": 64}


def test_the_tables_are_the_paper_s():
    assert list(TABLES) == ["1", "2", "3", "4", "5", "6", "7", "8", "4.4", "9"]
    assert set(TABLES) == set(paper_numbers()["table"])
    assert set(PEERS) == set(paper_numbers().query("backbone.isna() and clusters.isna()")["method"])


@pytest.mark.parametrize("number", TABLES)
def test_the_list_of_a_table_gives_every_number_the_paper_prints_in_it(number):
    """Specs and ``paper.csv`` were written apart; where the latter is blank, the paper does not say."""
    table = TABLES[number]
    printed = paper_numbers(number)
    printed = printed[~printed["method"].isin(PEERS)].fillna({"setting": ""})
    own = {"dataset", "protocol", "backbone", "method", "setting", "clusters"}
    if number in ("4.4", "8", "9"):
        own -= {"backbone", "clusters"} if number == "4.4" else {"clusters"}
    specs = [
        {
            "dataset": spec.dataset, "protocol": spec.protocol, "backbone": spec.backbone, "method": method,
            "clusters": spec.clusters, "setting": spec.setting(matching),
        }
        for spec in table.lines()
        for method in spec.methods
        for matching in spec.matchings
    ]  # fmt: skip
    keys = [name for name in IDENTITY if name in own]
    listed = {tuple(spec[name] for name in keys) for spec in specs}
    found = set(printed[keys].itertuples(index=False, name=None))
    beside = {"4.4": 1, "8": 2}.get(number, 0)  # max_iou; the references trained where they are evaluated
    assert found <= listed
    assert len(listed - found) == beside


@pytest.mark.parametrize("number", TABLES)
def test_rows_of_a_table_are_told_apart_by_its_row_columns(number):
    assert not published(TABLES[number]).duplicated(list(TABLES[number].rows)).any()


PAPER_VERDICTS = {
    "1": ["holds"] * 4,
    "2": ["holds"] * 3,
    "3": ["holds", "does not hold", "holds", "holds"],  # Ours* 41.3, Ours 41.4 on Pascal Context
    "4": ["holds", "holds"],
    "5": ["holds", "holds"],
    "6": ["holds", "holds"],
    "7": ["holds", "holds"],
    "8": ["holds", "holds"],
    "4.4": ["holds", "holds"],
    "9": ["holds", "holds"],
}


@pytest.mark.parametrize("number", TABLES)
def test_what_the_findings_say_of_the_paper_s_own_numbers(number):
    numbers = published(TABLES[number])
    outcomes = [finding.judge(numbers, single_runs=True).outcome for finding in TABLES[number].findings]
    assert outcomes == PAPER_VERDICTS[number]


def test_numbers_of_other_tables_that_a_table_repeats():
    transfer = published(TABLES["8"]).set_index(["dataset", "setting"])["mean_iou"]
    assert transfer["pascal_context", ""] == pytest.approx(0.388)
    assert transfer["cityscapes_27", "trained_on=imagenet"] == pytest.approx(0.185)
    assert VIT_SMALL in set(published(TABLES["9"])["backbone"])


def test_a_profile_without_tables_is_refused():
    with pytest.raises(InputError, match="'quick' runs no tables"):
        open_tables("quick")


def test_stand_ins_take_the_place_of_the_paper_s_names():
    study = smoke()
    (line,) = study.lines(TABLES["4"])
    assert line.experiment.dataset == "synthetic_scenes"
    assert line.experiment.backbone == "colour_patches"
    assert line.experiment.clusters == 24  # the paper's 512 for 256
    assert line.experiment.config.protocol == "sliding"
    assert {line.experiment.clusters for line in study.lines(TABLES["5"])} == {6, 64}
    assert {line.experiment.clusters for line in study.lines(TABLES["4.4"])} == {8}
    assert [line.experiment.config.width for line in study.lines(TABLES["5"])] == [32, 64], "at least K channels"
    assert "K = 64; psi of 64 channels" in study.lines(TABLES["5"])[1].description
    small, base, large = study.lines(TABLES["1"])
    assert small.experiment
    assert base.experiment is large.experiment is None
    assert "no stand-in for vit_base_patch16_384" in base.description


def test_the_paper_profile_runs_the_paper_s_own(monkeypatch):
    monkeypatch.setattr(table_study.TableStudy, "_absence", lambda self, name: "")
    monkeypatch.setattr(table_study.TableStudy, "_unusable", lambda self, experiment: "")
    study = open_tables("paper", progress=False)
    lines = [line for table in TABLES.values() if table.number != "4.4" for line in study.lines(table)]
    for line in lines:
        assert line.experiment.dataset == line.spec.dataset
        assert line.experiment.backbone == line.spec.backbone
        assert line.experiment.clusters == line.spec.clusters
        assert line.experiment.trained_on == line.spec.trained_on
        assert line.experiment.config.crf == ("none" if line.spec.protocol == "sliding" else "colour")


def test_what_is_not_here_is_said(monkeypatch, out):
    monkeypatch.setattr(table_study.datasets, "is_obtainable", lambda name: False)

    def refuse(name):
        raise InputError("no network")

    monkeypatch.setattr(table_study.datasets, "prepare", refuse)
    study = smoke()
    numbers = study.run(TABLES["6"], out)
    assert numbers.empty
    table = study.beside_paper(TABLES["6"], numbers)
    assert set(table["here mIoU"]) == {NOT_RUN}
    here = table.set_index(["dataset", "setting"])["here"]
    assert here["pascal_context", "pixel_weight=0"] == "not run: synthetic_scenes is not here and could not be fetched"
    assert here["pascal_context", "pixel_weight=0.7"] == "not run: not among the values of profile smoke"
    assert set(study.verdicts(TABLES["6"], numbers)["here"]) == {NOT_RUN}
    assert study.data_key([TABLES["6"]]) != smoke_key(monkeypatch)


@pytest.mark.parametrize(
    ("backbone", "checkpoint", "fault"),
    [
        ("vit_smal", None, "unknown backbone 'vit_smal'"),
        ("vit_tiny_patch16_224", "lost.safetensors", "checkpoint lost.safetensors does not exist"),
        (VIT_SMALL, None, f"the weights of {VIT_SMALL} could not be downloaded (OSError)"),
    ],
)
def test_why_a_backbone_cannot_be_used_is_said(monkeypatch, caplog, backbone, checkpoint, fault):
    create = timm.create_model

    def without_network(*names, pretrained, **settings):
        if pretrained:
            raise OSError("no network")
        return create(*names, **settings)

    monkeypatch.setattr(timm, "create_model", without_network)
    study = smoke()
    study = replace(
        study,
        profile=replace(study.profile, config=replace(study.profile.config, checkpoint=checkpoint)),
        setup=replace(study.setup, backbones={VIT_SMALL: backbone}),
    )
    (line,) = study.lines(TABLES["4"])
    assert line.description == f"not run: {backbone} cannot be used: {fault}"
    assert f"{fault}; " in caplog.text  # and what to do about it


def smoke_key(monkeypatch):
    monkeypatch.undo()
    return smoke().data_key([TABLES["6"]])


def test_the_key_of_the_data_changes_with_the_classes(tmp_path):
    name = write_folder_dataset(tmp_path / "data")
    table, study = tmp_path / "data" / "classes.csv", smoke()
    study = replace(study, setup=replace(study.setup, datasets={"ade20k": StandIn(name)}))
    before = study.data_key([TABLES["4"]])
    table.write_text(table.read_text().replace("0,", "0,blue ", 1))
    assert study.data_key([TABLES["4"]]) != before


def test_a_plan_counts_shared_trainings_once():
    plan = smoke().plan([TABLES["1"], TABLES["3"], TABLES["7"]])
    assert plan["trainings of psi"].tolist() == [2, 2, 2]  # CamVid's stand-in in 3; one more beta in 7
    assert plan[NOT_RUN].tolist() == [2, 0, 0]


def test_numbers_are_those_of_results_csv(out):
    numbers = smoke().run(TABLES["7"], out)
    assert len(numbers) == 2 * 2 * 2  # methods, values, seeds
    rows = read_results(out / "results.csv").set_index(["experiment_id", "method", "matching"])
    for row in numbers.itertuples():
        stored = rows.loc[(row.experiment_id, row.method, "max_iou")]
        assert (row.accuracy, row.mean_iou, row.seed) == (stored["accuracy"], stored["mean_iou"], stored["seed"])
        assert row.setting == f"orthogonality_weight={stored['p_orthogonality_weight']:g}"
        assert row.clusters == stored["clusters"]


def test_running_again_computes_nothing(out, monkeypatch):
    first = smoke().run(TABLES["7"], out)
    monkeypatch.setattr(table_study.Workbench, "fitted", lambda *_: pytest.fail("computed again"))
    pd.testing.assert_frame_equal(smoke().run(TABLES["7"], out), first)


def test_paper_and_ours_stand_beside_each_other(out):
    study, table = smoke(), TABLES["7"]
    printed = study.beside_paper(table, study.run(table, out)).set_index(["method", "setting"])
    assert printed.index.tolist() == [
        (method, f"orthogonality_weight={value}") for method in ("Ours", "Ours*") for value in ("0.04", "0.08", "0.16")
    ]
    assert list(printed.columns) == ["paper mIoU", "here Acc", "here mIoU", "seeds", "here"]
    assert printed["paper mIoU"].tolist() == ["38.8", "38.8", "39.0", "39.0", "39.6", "39.3"]
    for method in ("Ours", "Ours*"):
        assert "±" in printed.loc[(method, "orthogonality_weight=0.04"), "here mIoU"]
        assert printed.loc[(method, "orthogonality_weight=0.16"), "here mIoU"] == NOT_RUN
    assert "colour_patches; K = 12" in printed["here"].iloc[0]
    assert not printed.isna().any(axis=None)
    assert not (printed == "").any(axis=None)


def test_values_that_only_we_have_are_not_in_the_paper(out):
    study = smoke()
    printed = study.beside_paper(TABLES["5"], study.run(TABLES["5"], out)).set_index("clusters")
    assert printed.index.tolist() == ["6", "64", "128", "256", "512"]
    assert printed.loc["6", "paper mIoU"] == NOT_IN_PAPER
    assert printed.loc["64", "paper mIoU"] == "27.8"
    assert printed.loc["64", "here mIoU"] != NOT_RUN


def test_methods_of_others_say_so(out):
    study = smoke()
    printed = study.beside_paper(TABLES["1"], study.run(TABLES["1"], out)).set_index("method")
    assert printed.loc["MaskCLIP", "here"] == "not run: a method of others"
    assert printed.loc["MaskCLIP", "paper Acc"] == NOT_IN_PAPER


def test_transfer_is_trained_on_one_and_scored_on_the_other(out):
    study = smoke()
    numbers = study.run(TABLES["8"], out)
    assert len(numbers) == 2 * 2 * 2
    rows = read_results(out / "results.csv").set_index("experiment_id")
    images = {row.experiment_id: (row.dataset, row.setting) for row in numbers.itertuples()}
    for experiment_id, (dataset, _) in images.items():
        assert set(rows.loc[[experiment_id], "images"]) == {8 if dataset == "pascal_context" else 6}
    assert numbers["experiment_id"].nunique() == 8
    assert "trained on" in numbers[numbers["setting"] != ""]["here"].iloc[0]


def test_section_4_4_has_all_three_matchings(out):
    study = smoke()
    numbers = study.run(TABLES["4.4"], out)
    assert set(numbers["setting"]) == {"matching=hungarian", "matching=majority", "matching=max_iou"}
    assert set(numbers["clusters"]) == {8}
    compared = [finding.judge(numbers).differences for finding in TABLES["4.4"].findings]
    assert [of.first.setting for (of,) in compared] == ["matching=majority", "matching=max_iou"]


def test_changes_are_counted_from_a_value_that_both_sides_have(out):
    study = smoke()
    found = changes(TABLES["5"], study.run(TABLES["5"], out))
    assert set(found["reference"]) == {64}
    assert found[found["value"] == 64]["change"].abs().max() == 0
    paper = found[found["source"] == "paper"].set_index("value")["change"]
    assert paper[128] == pytest.approx(0.332 - 0.278)
    assert found["value"].is_monotonic_increasing


def test_a_panel_names_what_was_used_and_what_it_stands_in_for(out):
    numbers = smoke().run(TABLES["6"], out)
    assert set(numbers["dataset_used"]) == {"synthetic_scenes"}
    assert set(numbers["backbone_used"]) == {"colour_patches"}
    named = {role: f"synthetic_scenes for {role}" for role in ("pascal_context", "cityscapes_27")}
    assert names_here(numbers, "dataset", " ") == named
    panels = {f"synthetic_scenes\nfor {role}" for role in named}
    assert set(changes(TABLES["6"], numbers)["panel"]) == panels  # those of the paper's numbers as well
    assert used_for("pascal_context", "pascal_context") == "pascal_context"


def test_without_numbers_of_ours_panels_have_the_paper_s_names(out):
    nothing = smoke().run_lines([], out)
    assert names_here(nothing, "dataset") == {}
    assert set(changes(TABLES["6"], nothing)["panel"]) == {"pascal_context", "cityscapes_27"}


def test_several_tables_are_described_at_once():
    described = smoke().describe(TABLES["5"], TABLES["6"])
    assert described == smoke().describe(TABLES["6"])
    assert described != smoke().describe(TABLES["5"])


def test_a_table_of_backbones_names_all_that_run_with_their_caveats():
    standard = open_tables("standard", progress=False)
    for number in ("1", "2", "9"):
        line = standard.describe(TABLES[number])
        assert "backbone vit_small_patch14_saliency (fine-tuned by its author to predict saliency" in line
        assert "and efficientnet_lite0 (supervised on ImageNet-1k)" in line
    assert "efficientnet" not in standard.describe(TABLES["5"])
    paper = open_tables("paper", progress=False)
    assert "backbone vit_small_patch16_384, vit_base_patch16_384, vit_large_patch16_384 (" in paper.describe(
        TABLES["1"]
    )
    assert "clip_vit_l14_336" in paper.describe(TABLES["9"])
    assert "vit_small_patch16_384" not in paper.describe(TABLES["9"])


def test_captions_say_what_a_reader_must_know():
    caption = smoke().caption(TABLES["6"])
    for part in ("Table 6", "alpha", "2 seeds", "max_iou", "crop320", "synthetic_scenes", "profile smoke"):
        assert part in caption
    assert "Section 4.4" in smoke().caption(TABLES["4.4"])


def test_sentences_give_both_verdicts(out):
    study = smoke()
    verdicts = study.verdicts(TABLES["7"], study.run(TABLES["7"], out))
    assert set(verdicts["table"]) == {"Table 7"}
    text = verdict_lines(verdicts)
    assert text.count("\n") == len(TABLES["7"].findings) - 1
    assert text.count("in the paper **holds**") == len(TABLES["7"].findings)
    assert r"Ours\* beats Ours" in text


def test_every_difference_behind_a_verdict_is_listed_with_its_interval():
    columns = ["dataset", "protocol", "backbone", "method", "clusters", "setting", "seed", "accuracy", "mean_iou"]
    rows = [
        [dataset, "crop320", VIT_SMALL, "ours", 64, setting, seed, 0.5, score + gain * (not setting)]
        for dataset, gain in (("pascal_context", 0.1), ("cityscapes_27", 0.2))
        for setting in ("", "trained_on=imagenet")
        for seed, score in ((0, 0.3), (1, 0.4))
    ]
    numbers = pd.DataFrame(rows, columns=columns)
    found = smoke().differences(TABLES["8"], numbers)
    in_miou = found[found["metric"] == "mIoU"].drop(columns=["table", "finding", "metric"])
    assert in_miou.to_numpy().tolist() == [
        ["pascal_context", "default − trained_on=imagenet", "+10.0 (+10.0 to +10.0)", "2"],
        ["cityscapes_27", "default − trained_on=imagenet", "+20.0 (+20.0 to +20.0)", "2"],
    ]
    assert set(found.loc[found["metric"] == "Acc", "points (95 %)"]) == {"+0.0 (+0.0 to +0.0)"}
    alone = smoke().differences(TABLES["8"], numbers[numbers["seed"] == 0])
    assert alone.loc[0, "points (95 %)"] == "+10.0"  # one seed has no interval
    assert smoke().differences(TABLES["8"], numbers[:0]).empty


def test_every_table_has_a_notebook_and_the_figures_read_what_theirs_show():
    numbers = {path.name[:2] for path in notebooks.sources()}
    assert all(table.notebooks and set(table.notebooks) <= numbers for table in TABLES.values())
    assert [table.number for table in TABLES.values() if "17" in table.notebooks] == ["1", "2", "4"]


def test_what_a_notebook_reads():
    assert [table.number for table in read_by("21")] == ["6"]
    assert [table.number for table in read_by("34")] == ["5", "6", "7"]
    assert read_by("10") == []


def test_the_gain_over_another_method_leaves_those_of_others_out(out):
    found = changes(TABLES["1"], smoke().run(TABLES["1"], out), along="method")
    assert found["value"].unique().tolist() == ["kmeans", "ours", "ours_star"]
    small = f"colour_patches\nfor {VIT_SMALL}"
    assert set(found["panel"]) == {small, "vit_base_patch16_384", "vit_large_patch16_384"}
    assert set(found["reference"]) == {"kmeans"}
    paper = found[(found["source"] == "paper") & (found["panel"] == small)].set_index("value")["change"]
    assert paper.to_dict() == pytest.approx({"kmeans": 0, "ours": 0.388 - 0.289, "ours_star": 0.396 - 0.289})
    assert len(found[found["source"] == "here"]) == 3 * 2  # methods, seeds


@pytest.mark.parametrize("number", ["2", "4"])
def test_class_maps_are_those_that_were_scored(out, number):
    study = smoke()
    line = study.line(TABLES[number].specs[0])
    tables = study.image_tables(line, out)
    dataset = study.bench(line.experiment).dataset
    assert list(tables) == ["kmeans", "ours", "ours_star"]
    for index, maps in enumerate(study.class_maps(line, tables, dataset.ids("val"))):
        labelled = maps["truth"] != IGNORE_LABEL
        shape = dataset.image(dataset.ids("val")[index]).shape if number == "4" else (96, 96, 3)
        assert maps["photograph"].shape == shape
        for method, counts in tables.items():
            accuracy = (maps[method] == maps["truth"])[labelled].mean()
            # Stored features of square crops are rounded to half precision, those of windows are not stored.
            assert accuracy == pytest.approx(image_accuracies(counts)[index], abs=0.01 if number == "2" else 1e-9)


def test_what_cannot_be_run_cannot_be_shown(out):
    study = smoke()
    with pytest.raises(InputError, match="no stand-in for vit_large_patch16_384"):
        study.image_tables(study.line(TABLES["1"].specs[0].varied("backbone", VIT_LARGE)), out)


def test_accuracies_of_images_add_up_to_that_of_all():
    counts = np.random.default_rng(0).integers(0, 50, (5, 4, 3))
    counts[3] = 0
    accuracies, pixels = image_accuracies(counts, "majority"), counts.sum(axis=(1, 2))
    assert np.isnan(accuracies).tolist() == [False, False, False, True, False]
    expected = score(counts.sum(axis=0), "majority").accuracy
    assert np.average(np.nan_to_num(accuracies), weights=pixels) == pytest.approx(expected)


def test_clusters_that_meet_the_same_class_in_both_halves_agree_beyond_chance():
    rng = np.random.default_rng(0)
    favourites = rng.integers(0, 4, 30)
    first = rng.integers(0, 10, (30, 4))
    first[np.arange(30), favourites] += 20
    second = first + rng.integers(0, 10, (30, 4))
    second[29] = 0  # takes no pixel there: does not count
    alike = favourite_agreement(first, second, draws=200)
    assert (alike.share, alike.clusters, alike.outcome) == (1.0, 29, "holds")
    assert [type(value) for value in astuple(alike)] == [float, int, float, float]
    assert 0.1 < alike.chance <= alike.bound < 0.6
    moved = favourite_agreement(first, np.roll(first, 1, axis=1), draws=200)
    assert (moved.share, moved.outcome) == (0.0, "undecided")
    one_class = np.eye(4, dtype=int)[[0] * 30]
    same = favourite_agreement(one_class, one_class, draws=50)
    assert (same.share, same.chance, same.outcome) == (1.0, 1.0, "undecided")  # chance gives as much


def test_the_paper_profile_describes_its_own():
    line = open_tables("paper", progress=False).describe(TABLES["6"])
    assert "profile paper: datasets pascal_context, cityscapes_27; backbone vit_small_patch16_384" in line


COMMITTED = (
    "15_table_1", "15_table_2", "16_table_3", "16_table_4", "20_clusters", "21_pixel_weight",
    "22_orthogonality_weight", "23_zero_shot", "24_matching", "25_backbones",
)  # fmt: skip


@pytest.mark.parametrize("stem", COMMITTED)
def test_scores_of_the_committed_tables_are_those_of_the_committed_rows(stem):
    reference = reference_root("standard")
    table = pd.read_csv(reference / "tables" / f"{stem}.csv", dtype=str, keep_default_na=False)
    setting = ["dataset", "trained_on", "backbone", "clusters", "protocol", "crf", "method", "matching"]
    known = set()
    for key, of in read_results(reference / "results.csv").groupby([*setting, *PARAMETER_COLUMNS]):
        named = dict(zip(setting, key, strict=False))
        scores = (mean_and_spread(of[column]) for column in ("accuracy", "mean_iou"))
        title = METHOD_TITLES[named["method"]]
        known.add((named["dataset"], named["backbone"], str(named["clusters"]), title, *scores, str(len(of))))
    run = table[table["here mIoU"] != "not run"]
    assert len(run)
    for line in run.to_dict("records"):
        dataset, backbone, clusters, *_ = line["here"].split("; ")  # perhaps: psi of so many channels
        what = (dataset.partition(", trained on")[0], backbone, clusters.removeprefix("K = "))
        assert (*what, line.get("method", "Ours"), line["here Acc"], line["here mIoU"], line["seeds"]) in known, line
