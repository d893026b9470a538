import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small import CONFIG, EXPERIMENT, on_folder
from trees import write_folder_dataset

from neuralef import audit, audit_study
from neuralef.audit import VARIANTS
from neuralef.audit_study import Comparison, audit_table, compare, counts_of, run_audit
from neuralef.errors import InputError
from neuralef.evaluation import score, score_mapping
from neuralef.experiments import run_experiment
from neuralef.intervals import Interval, bootstrap_interval, max_iou_score, paired_difference_interval
from neuralef.reporting import cases_won, mean_and_interval, mean_and_spread
from neuralef.results import COLUMNS
from neuralef.workbench import open_workbench

SEEDS = [replace(EXPERIMENT, seed=seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """Folder and rows of two seeds under all variants, and a cache of their own."""
    root = tmp_path_factory.mktemp("audit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURALEF_CACHE", str(root / "cache"))
        yield root, run_audit(SEEDS, root / "out", progress=False)


def test_rows_are_one_for_each_variant_seed_method_and_matching(audited):
    root, rows = audited
    kept = pd.read_csv(root / "out" / "audit.csv")
    assert len(rows) == len(kept) == 2 * (3 * 2 * 3 + 2)
    assert not rows.duplicated(["variant", "seed", "method", "matching"]).any()
    assert set(rows["variant"]) == set(VARIANTS)
    probe = kept[kept["method"] == "linear_probe"]
    assert set(probe["variant"]) == {"detached", "gradient"}
    assert set(probe["matching"]) == {"identity"}
    assert set(COLUMNS) - set(kept.columns) == {"experiment_id", "trained_on"}
    assert not (root / "out" / "results.csv").exists()


def test_only_the_gradient_changes_psi_and_its_scores(audited):
    _, rows = audited
    for _, of_seed in rows[rows["method"] != "linear_probe"].groupby("seed"):
        digests = of_seed.groupby("variant")["psi"].unique()
        assert digests["none"] == digests["detached"] != digests["gradient"]
        scores = of_seed.pivot(index=["method", "matching"], columns="variant", values=["accuracy", "mean_iou"])
        for metric in ("accuracy", "mean_iou"):
            assert scores[metric, "none"].equals(scores[metric, "detached"].rename("none"))
            assert not scores[metric, "none"].equals(scores[metric, "gradient"].rename("none"))


def test_without_a_head_the_scores_are_those_of_the_benchmark(audited, monkeypatch):
    root, rows = audited
    monkeypatch.setenv("NEURALEF_CACHE", str(root / "cache"))
    plain = pd.DataFrame(run_experiment(SEEDS[0], ("ours", "ours_star"), root / "plain", progress=False))
    merged = plain.merge(rows[(rows["variant"] == "none") & (rows["seed"] == 0)], on=["method", "matching"])
    assert len(merged) == 6
    assert merged["accuracy_x"].tolist() == merged["accuracy_y"].tolist()
    assert merged["mean_iou_x"].tolist() == merged["mean_iou_y"].tolist()


def test_rows_name_the_device_that_computed_them(tmp_path, monkeypatch, own_cache):
    monkeypatch.setattr(audit_study.provenance, "device", lambda computed_on="cpu": f"computed on {computed_on}")
    bench = open_workbench(EXPERIMENT, progress=False)
    trained = audit_study.Audit(bench, tmp_path, progress=False).trained(EXPERIMENT, "none")
    on_gpu = replace(EXPERIMENT, config=replace(CONFIG, device="cuda"))
    _, record = audit_study.Audit(bench, tmp_path, progress=False)._evaluate(on_gpu, trained, "none", "ours")
    assert record["device"] == "computed on cuda"


def test_counts_of_the_photographs_add_up_to_the_scores(audited):
    root, rows = audited
    for method, matched in (
        ("ours_star", lambda counts: score(counts, "max_iou")),
        ("linear_probe", lambda counts: score_mapping(counts, np.arange(len(counts)))),
    ):
        runs = counts_of(rows, root / "out", "gradient", method)
        assert [run.shape[0] for run in runs] == [3, 3]
        for seed, run in enumerate(runs):
            assert run.sum(axis=(1, 2)).tolist() == [64 * 64] * 3
            found = rows[(rows["variant"] == "gradient") & (rows["method"] == method) & (rows["seed"] == seed)]
            found = found[found["matching"].isin(["max_iou", "identity"])]
            assert found["mean_iou"].item() == pytest.approx(matched(run.sum(axis=0)).mean_iou)


def test_running_again_computes_and_adds_nothing(audited, monkeypatch):
    root, rows = audited
    monkeypatch.setenv("NEURALEF_CACHE", str(root / "cache"))
    monkeypatch.setattr(audit_study.Audit, "trained", lambda *_: pytest.fail("trained again"))
    before = (root / "out" / "audit.csv").read_bytes()
    again = run_audit(SEEDS, root / "out", progress=False)
    pd.testing.assert_frame_equal(again, rows)
    assert (root / "out" / "audit.csv").read_bytes() == before


def test_an_interrupted_audit_ends_with_the_same_numbers(audited, tmp_path, monkeypatch, own_cache):
    _, rows = audited
    step, taken = audit._train_step, []

    def dies(*arguments, **keywords):
        taken.append(keywords["step"])
        if len(taken) == 6:  # in the second training with a head
            raise KeyboardInterrupt
        return step(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(audit, "_train_step", dies)
        with pytest.raises(KeyboardInterrupt):
            run_audit(SEEDS, tmp_path / "out", progress=False)
    kept = pd.read_csv(tmp_path / "out" / "audit.csv")
    assert set(kept["variant"]) == {"none", "detached"}
    resumed = run_audit(SEEDS, tmp_path / "out", progress=False)
    columns = ["audit_id", "variant", "psi", "seed", "method", "matching", "accuracy", "mean_iou", "clusters_used"]
    pd.testing.assert_frame_equal(resumed[columns], rows[columns])


@pytest.mark.parametrize(("part", "value"), [("label_weight", 1.0), ("seed", 5), ("config", replace(CONFIG, epochs=3))])
def test_every_part_of_the_specification_changes_the_identity(audited, part, value):
    root, _ = audited
    ids = []
    for changes in ({}, {part: value}):
        weight = changes.pop("label_weight", None)
        experiment = replace(EXPERIMENT, **changes)
        bench = audit_study.open_workbench(experiment, progress=False)
        ids.append(audit_study.Audit(bench, root / "out", weight, progress=False).audit_id(experiment))
    assert ids[0] != ids[1]


def test_training_labels_are_part_of_the_identity(tmp_path, own_cache):
    ids = []
    for kind in ("true", "noise"):
        name = write_folder_dataset(tmp_path / kind, noise_labels=kind == "noise")
        experiment = on_folder(name)
        bench = audit_study.open_workbench(experiment, progress=False)
        ids.append(audit_study.Audit(bench, tmp_path, progress=False).audit_id(experiment))
    assert ids[0] != ids[1]


def test_missing_training_labels_are_named_before_anything_is_trained(tmp_path, own_cache):
    name = write_folder_dataset(tmp_path / "data")
    for path in (tmp_path / "data" / "labels" / "train").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="has no label"):
        run_audit([on_folder(name)], tmp_path / "out", progress=False)
    assert not (tmp_path / "cache" / "psi").exists()


def test_a_corrupted_counts_file_is_named(audited, tmp_path):
    root, rows = audited
    shutil.copytree(root / "out", tmp_path / "out")
    path = next((tmp_path / "out" / "audit").rglob("gradient-ours.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path} does not match its checksum"):
        compare(rows, tmp_path / "out", "ours", draws=2)
    assert compare(rows, tmp_path / "out", "ours_star", draws=2).gains


def test_comparison_is_the_paired_bootstrap_of_the_kept_counts(audited):
    root, rows = audited
    found = compare(rows, root / "out", "ours", draws=40)
    sides = [counts_of(rows, root / "out", variant, "ours") for variant in ("none", "gradient")]
    assert found.difference == paired_difference_interval(*sides, draws=40)
    assert found.difference.estimate == pytest.approx(np.mean(found.gains))
    assert [found.without, found.with_gradient] == [bootstrap_interval(side, draws=40) for side in sides]
    assert found.row() == {
        "method": "Ours",
        "without": mean_and_interval(found.without),
        "with gradient": mean_and_interval(found.with_gradient),
        "difference": mean_and_interval(found.difference, sign="+"),
        "seeds where it is higher": cases_won(found.gains),
    }
    higher = sum(gain > 0 for gain in found.gains)
    sentence = found.sentence()
    assert f"{100 * found.without.estimate:.1f} (" in sentence
    assert f"in {higher} of 2 seeds" in sentence
    assert ("includes 0" in sentence) == found.difference.holds(0)
    assert ("do not overlap" in sentence) != found.without.overlaps(found.with_gradient)


def test_comparison_needs_both_variants_for_the_same_seeds(audited):
    root, rows = audited
    with pytest.raises(InputError, match=r"gradient \[1\]"):
        compare(rows[(rows["variant"] != "gradient") | (rows["seed"] == 1)], root / "out", "ours")


def test_table_has_a_line_for_each_variant_and_method(audited):
    root, rows = audited
    table = audit_table(rows, root / "out", draws=20)
    assert list(zip(table["label head"], table["method"], strict=True)) == [
        ("none", "Ours"), ("none", "Ours*"),
        ("detached", "Ours"), ("detached", "Ours*"), ("detached", "linear probe"),
        ("gradient", "Ours"), ("gradient", "Ours*"), ("gradient", "linear probe"),
    ]  # fmt: skip
    assert set(table["seeds"]) == {"2"}
    assert table.iloc[0, 2:].tolist() == table.iloc[2, 2:].tolist()
    statistics = (max_iou_score, lambda counts: score_mapping(counts, np.arange(len(counts))).mean_iou)
    named = zip((5, 7), ("ours", "linear_probe"), ("max_iou", "identity"), statistics, strict=True)
    for line, method, matching, statistic in named:
        of = rows[(rows["variant"] == "gradient") & (rows["method"] == method) & (rows["matching"] == matching)]
        interval = bootstrap_interval(counts_of(rows, root / "out", "gradient", method), statistic, draws=20)
        assert table.iloc[line, 3:].tolist() == [
            matching,
            mean_and_spread(of["accuracy"]),
            mean_and_spread(of["mean_iou"]),
            f"{100 * interval.low:.1f} to {100 * interval.high:.1f}",
        ]


def test_psi_is_audited_as_it_is_trained_on_random_crops_too(tmp_path, own_cache):
    crops = replace(EXPERIMENT, config=replace(CONFIG, augment=True, train_crop=80))
    rows = run_audit([crops], tmp_path / "out", progress=False)
    psi = rows.groupby("variant")["psi"].unique()
    assert psi["none"] == psi["detached"] != psi["gradient"]
    assert rows["p_augment"].all()
    plain = pd.DataFrame(run_experiment(crops, ("ours",), tmp_path / "plain", progress=False))
    found = rows[(rows["variant"] == "none") & (rows["method"] == "ours")]
    assert found["mean_iou"].tolist() == plain["mean_iou"].tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variants": ("none", "some")}, "some"),
        ({"variants": ()}, "variant"),
        ({"label_weight": -1.0}, "-1.0"),
        ({"label_weight": float("nan")}, "nan"),
        ({"experiments": []}, "seed"),
        ({"experiments": [replace(SEEDS[0], config=replace(CONFIG, protocol="sliding"))]}, "protocol"),
        ({"experiments": [replace(SEEDS[0], config=replace(CONFIG, crf="colour"))]}, "crf"),
        ({"experiments": [replace(SEEDS[0], trained_on="camvid")]}, "trained_on is camvid"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        run_audit(**{"experiments": SEEDS, "out": tmp_path, "progress": False, **arguments})


def test_a_variant_named_twice_counts_once(tmp_path, own_cache):
    assert len(run_audit(SEEDS[:1], tmp_path, variants=["none", "none"], progress=False)) == 2 * 3


def test_an_audit_that_cannot_be_continued_is_named_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_study, "Audit", None)
    (tmp_path / "audit.csv").write_text("a,b\n")
    with pytest.raises(InputError, match=r"audit\.csv has other columns"):
        run_audit(SEEDS, tmp_path, progress=False)


def test_an_audit_without_a_labelled_training_pixel_is_refused(tmp_path):
    write_folder_dataset(tmp_path / "data")
    for path in (tmp_path / "data" / "labels" / "train").iterdir():
        Image.fromarray(np.full_like(Image.open(path), 255)).save(path)
    with pytest.raises(InputError, match=r"no pixel of the training images of .* has a label"):
        run_audit([on_folder(f"folder:{tmp_path / 'data'}")], tmp_path / "out", progress=False)
    assert not list((tmp_path / "out").glob("audit/*/*"))


def test_an_audit_of_a_single_class_is_refused(tmp_path):
    write_folder_dataset(tmp_path / "data")
    classes = tmp_path / "data" / "classes.csv"
    classes.write_text("".join(classes.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(InputError, match="has a single class"):
        run_audit([on_folder(f"folder:{tmp_path / 'data'}")], tmp_path / "out", progress=False)


def test_an_audit_without_a_labelled_pixel_to_score_keeps_nothing(tmp_path):
    write_folder_dataset(tmp_path / "data")
    for path in (tmp_path / "data" / "labels" / "val").iterdir():
        Image.fromarray(np.full_like(Image.open(path), 255)).save(path)
    with pytest.raises(InputError, match=r"no pixel of the 3 evaluated images of .* has a label"):
        run_audit([on_folder(f"folder:{tmp_path / 'data'}")], tmp_path / "out", variants=("none",), progress=False)
    assert not list((tmp_path / "out").glob("audit/*/*"))


def test_a_comparison_names_its_sides():
    sides = Interval(0.5, 0.45, 0.55), Interval(0.6, 0.57, 0.65)
    found = Comparison("ours_star", *sides, Interval(0.1, 0.08, 0.12), (0.11, 0.09))
    assert found.sentence().startswith(
        r"**Ours\***: 50.0 (45.0 to 55.0) without, 60.0 (57.0 to 65.0) with the label gradient; the two intervals do "
        "not overlap"
    )
