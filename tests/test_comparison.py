import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from small import CONFIG, EXPERIMENT
from test_intervals import literal_mean_iou, tables

from neuralef import comparison
from neuralef.clustering import fit_spectral
from neuralef.comparison import PairedDifference, Standing, break_even, compare, measure_costs
from neuralef.errors import InputError
from neuralef.experiments import run_experiment
from neuralef.files import write_checked_tensors
from neuralef.intervals import Interval, paired_difference_interval
from neuralef.measuring import Measured
from neuralef.methods import REGISTRY
from neuralef.scaling import portable
from neuralef.workbench import open_workbench

KMEANS = Standing("kmeans", (0.50, 0.52), (0.30, 0.32), (1.0, 3.0), 0.001, 40.0)
EXACT = Standing("spectral", (0.60, 0.60), (0.40, 0.42), (10.0, 10.0), 0.012, 900.0)
OURS = Standing("ours", (0.60, 0.62), (0.41, 0.43), (50.0, 70.0), 0.002, math.nan)
MEMBERS = [KMEANS, EXACT, OURS]


def difference(method, other, estimate, low, high, gains=(0.01, -0.01), class_gains=(0.1, -0.2, math.nan)):
    return PairedDifference(method, other, Interval(estimate, low, high), gains, class_gains)


DIFFERENCES = [
    difference("spectral", "kmeans", 0.1, 0.05, 0.15, gains=(0.1, 0.1)),
    difference("ours", "kmeans", 0.11, 0.06, 0.16, gains=(0.11, 0.11)),
    difference("ours", "spectral", 0.01, -0.02, 0.03),
]


def rows_of(method, seeds=(0, 1), **changes):
    columns = {"matching": "max_iou", "accuracy": 0.5, "mean_iou": 0.3, "train_s": 0.0, "cluster_s": 1.0, **changes}
    rows = pd.DataFrame([{"method": method, "seed": seed, "experiment_id": f"id{seed}", **columns} for seed in seeds])
    return pd.concat([rows, rows.assign(matching="majority", mean_iou=0.9)])


def test_a_standing_adds_up_training_and_clustering_under_the_headline_matching():
    rows = pd.concat([rows_of("ours_star", (1, 0), train_s=60.0), rows_of("kmeans")])
    costs = pd.DataFrame({"image_s": {"kmeans": 0.1, "ours_star": 0.2}, "peak_mb": {"kmeans": 5.0}})
    first, second = comparison.standings(rows, costs)
    assert first == Standing("kmeans", (0.5, 0.5), (0.3, 0.3), (1.0, 1.0), 0.1, 5.0)
    assert (second.method, second.training_s) == ("ours_star", (61.0, 61.0))
    assert math.isnan(second.peak_mb)


@pytest.mark.parametrize(
    ("changes", "beaten"),
    [
        ({}, False),  # equal in all three
        ({"image_s": 0.002}, True),
        ({"training_s": (1.0, 3.5)}, True),
        ({"mean_iou": (0.30, 0.31)}, True),
        ({"mean_iou": (0.30, 0.31), "image_s": 0.0005}, False),
        ({"peak_mb": 1e6}, False),  # memory takes no part
    ],
)
def test_a_method_beats_another_if_no_worse_in_all_and_better_in_one(changes, beaten):
    assert KMEANS.beats(replace(KMEANS, **changes)) is beaten


def test_at_the_break_even_both_have_cost_as_much():
    images = break_even(OURS, EXACT)
    assert images == pytest.approx((60 - 10) / (0.012 - 0.002)) == break_even(EXACT, OURS)
    assert 60 + images * OURS.image_s == pytest.approx(10 + images * EXACT.image_s)
    assert break_even(OURS, KMEANS) is None
    assert break_even(OURS, replace(OURS, image_s=1.0)) is None
    assert break_even(OURS, OURS) is None


@pytest.mark.parametrize(
    ("mine", "text"),
    [
        (OURS, "the more expensive training is paid back after 5,000 new images"),
        (replace(OURS, training_s=(5.0,), image_s=0.013), "cheaper up to 5,000 new images, more expensive beyond"),
        (replace(OURS, training_s=(5.0,)), "ms: cheaper for any number of images"),
        (replace(OURS, image_s=0.5), "ms: more expensive for any number of images"),
    ],
)
def test_the_sentence_on_a_pair_says_which_is_cheaper(mine, text):
    said = comparison.sentences([KMEANS, EXACT, mine], DIFFERENCES, ["sky", "tree", "boat"])[-1]
    assert text in said
    assert said.startswith(
        "**Ours against Spectral, exact.** +1.0 (-2.0 to +3.0) points of mIoU; the interval includes 0."
    )
    assert "1 of 2 seeds and 1 of 2 classes (from -20.0 for tree to +10.0 for sky)" in said


def test_sentences_come_from_the_numbers():
    quality, cost, worth, *pairs = comparison.sentences(MEMBERS, DIFFERENCES, ["sky", "tree", "boat"])
    assert "Ours has the highest mIoU, 42.0 ± 1.4 %, +11.0 (+6.0 to +16.0) points against K-means." in quality
    assert "cheapest to train is K-means (2 s), the most expensive Ours (60 s)" in cost
    assert "cheapest to apply to a new image is K-means (1 ms), the most expensive Spectral, exact (12 ms)" in cost
    assert worth.endswith("as fast as one of these: K-means; Spectral, exact; Ours.")  # none is beaten
    assert len(pairs) == 1
    slower = replace(KMEANS, method="kmeans_pca", image_s=0.002)
    front = comparison.sentences([KMEANS, slower], [], [])[2]
    assert "No better in any of the three, by their means: K-means, PCA (by K-means)." in front


def test_a_difference_that_is_not_decided_is_named():
    undecided = difference("ours_star", "kmeans", 0.01, -0.01, 0.02)
    members = [KMEANS, replace(OURS, method="ours_star")]
    assert r"cannot be told from K-means: Ours\*" in comparison.sentences(members, [undecided], [])[0]


def test_table_of_methods_worked_out_by_hand():
    table = comparison.method_table(MEMBERS, DIFFERENCES)
    assert table.columns.tolist() == [
        "method", "seeds", "Acc", "mIoU", "mIoU − K-means", "training, s", "new image, ms", "peak memory, MB"
    ]  # fmt: skip
    assert table.iloc[0].tolist() == ["K-means", "2", "51.0 ± 1.4", "31.0 ± 1.4", "reference", "2", "1", "40"]
    assert table.iloc[2].tolist() == [
        "Ours", "2", "61.0 ± 1.4", "42.0 ± 1.4", "+11.0 (+6.0 to +16.0)", "60", "2", "not measured"
    ]  # fmt: skip
    assert comparison.method_table([EXACT], [])["mIoU − K-means"].item() == "not run"


def test_table_of_differences_worked_out_by_hand():
    table = comparison.difference_table(DIFFERENCES)
    assert table.iloc[0].tolist() == [
        "Spectral, exact", "K-means", "+10.0 (+5.0 to +15.0)", "+0.0", "higher", "2 of 2", "1 of 2"
    ]  # fmt: skip
    assert table["by its interval"].tolist() == ["higher", "higher", "undecided"]
    assert (
        comparison.difference_table([difference("ours", "kmeans", -0.1, -0.2, -0.01)])["by its interval"].item()
        == "lower"
    )


def test_what_resampling_shifts_stands_beside_the_interval():
    shifted = difference("spectral", "kmeans", 0.015, 0.007, 0.054)
    interval = replace(shifted.interval, bias=0.016)
    found = comparison.difference_table([replace(shifted, interval=interval)])
    assert found["shift"].item() == "+1.6"
    assert found["by its interval"].item() == "undecided"
    assert comparison.difference_table([shifted])["by its interval"].item() == "higher"


def test_a_sentence_says_where_the_shift_alone_leaves_it_open():
    found = difference("ours", "spectral", 0.015, 0.007, 0.054)
    shifted = replace(found, interval=replace(found.interval, bias=0.016))
    for one, text in ((found, "excludes 0. Higher"), (shifted, "excludes 0, but not with what resampling shifts")):
        assert text in comparison.sentences(MEMBERS, [one], ["sky", "tree", "boat"])[3]


def test_every_matching_has_its_columns():
    rows = pd.concat([rows_of("kmeans"), rows_of("kmeans").assign(matching="hungarian")])
    table = comparison.matching_table(rows)
    assert table.loc[0, ["max_iou mIoU", "majority mIoU"]].tolist() == ["30.0 ± 0.0", "90.0 ± 0.0"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01234, "0.0123"), (2.0, "2"), (99.94, "99.9"), (99.96, "100"), (12345.6, "12,346"), (math.nan, "not measured")],
)
def test_numbers_have_three_digits(value, text):
    assert comparison._number(value) == text


def test_bars_run_over_the_seeds_and_costs_are_in_their_unit():
    training = comparison.figure_values([KMEANS], "training_s", "here").iloc[0]
    assert training[["cost", "cost_low", "cost_high"]].tolist() == [2.0, 1.0, 3.0]
    assert training[["score", "score_low", "score_high"]].tolist() == pytest.approx([0.31, 0.30, 0.32])
    image = comparison.figure_values([KMEANS], "image_s", "here", unit=1e-3).iloc[0]
    assert image[["cost", "cost_low", "cost_high"]].tolist() == pytest.approx([1.0, 1.0, 1.0])


@pytest.fixture
def two_methods(tmp_path):
    """Rows and kept counts of K-means and Ours in two experiments."""
    runs = {"kmeans": tables(2, seed=1), "ours": tables(2, seed=2)}
    for method, of_method in runs.items():
        for seed, run in enumerate(of_method):
            path = tmp_path / "runs" / f"id{seed}" / f"{method}.safetensors"
            write_checked_tensors(path, {"counts": torch.from_numpy(run)}, {})
    return pd.concat([rows_of("ours", (1, 0)), rows_of("kmeans")]), runs


def test_comparison_is_paired_by_seed(two_methods, tmp_path):
    rows, runs = two_methods
    found = compare(rows, tmp_path, "ours", "kmeans", draws=40)
    assert found.interval == paired_difference_interval(runs["kmeans"], runs["ours"], draws=40)
    scores = {method: [literal_mean_iou(run.sum(axis=0)) for run in of_method] for method, of_method in runs.items()}
    assert found.gains == pytest.approx(np.subtract(scores["ours"], scores["kmeans"]))
    assert np.mean(found.class_gains) == pytest.approx(np.mean(found.gains))
    assert [(one.method, one.other) for one in comparison.compare_all(rows, tmp_path, draws=2)] == [("ours", "kmeans")]


def test_methods_of_different_experiments_are_not_compared(two_methods, tmp_path):
    rows, _ = two_methods
    with pytest.raises(InputError, match="ours was run in 1 experiments, kmeans in 2"):
        compare(rows[(rows["method"] == "kmeans") | (rows["seed"] == 0)], tmp_path, "ours", "kmeans")


def test_counts_that_were_not_kept_are_named(two_methods, tmp_path):
    rows, _ = two_methods
    (tmp_path / "runs" / "id1" / "ours.safetensors").unlink()
    with pytest.raises(InputError, match="image_tables"):
        compare(rows, tmp_path, "ours", "kmeans", draws=2)


@pytest.mark.parametrize("method", REGISTRY)
def test_every_method_can_be_fitted_where_memory_is_measured(store, method):
    assert comparison.fit(portable(store), method, CONFIG, 5, 0)() is None


def test_more_clusters_than_segments_of_an_image_can_be_fitted(store):
    config = replace(CONFIG, deep_spectral_segments=6)
    assert comparison.fit(portable(store), "deep_spectral", config, 20, 0)() is None


def test_costs_are_found_again_when_a_method_changes_the_number_of_threads(tmp_path, monkeypatch, own_cache):
    names = iter(["one thread", "two threads", "two threads", "two threads"])
    monkeypatch.setattr(comparison.provenance, "device", lambda _: next(names))
    bench = open_workbench(EXPERIMENT, progress=False)
    monkeypatch.setattr(comparison, "_image_s", lambda *_: 1.0)
    settings = {"bench": bench, "memory": False, "progress": False}
    found = measure_costs(EXPERIMENT, ["ours", "kmeans"], tmp_path / "costs.csv", **settings)
    assert found["image_s"].tolist() == [1.0, 1.0]


def test_costs_are_measured_once_and_kept(tmp_path, monkeypatch, own_cache):
    bench, path = open_workbench(EXPERIMENT, progress=False), tmp_path / "costs.csv"
    settings = {"bench": bench, "progress": False}
    without = measure_costs(EXPERIMENT, ["ours", "kmeans"], path, memory=False, **settings)
    assert without.index.tolist() == ["ours", "kmeans"]
    assert (without["image_s"] > 0).all()
    assert without["peak_mb"].isna().all()
    asked = []

    def measured(side, content, method, *arguments, **keywords):
        asked.append(method)
        return Measured(math.nan, 12.34, 500.0, None)

    monkeypatch.setattr(comparison, "measure", measured)
    for _ in range(2):
        found = measure_costs(EXPERIMENT, ["ours", "kmeans"], path, **settings)
        assert asked == ["ours", "kmeans"]
        assert found["image_s"].equals(without["image_s"])
        assert found["peak_mb"].tolist() == [12.3, 12.3]
    other = replace(EXPERIMENT, seed=1)
    measure_costs(other, ["kmeans"], path, **settings)
    assert asked == ["ours", "kmeans", "kmeans"]
    assert pd.read_csv(path)["experiment_id"].nunique() == 2


def test_memory_is_really_measured_in_another_process(tmp_path, monkeypatch, own_cache):
    bench = open_workbench(EXPERIMENT, progress=False)
    monkeypatch.setattr(comparison, "_fit", lambda *_: pytest.fail("fitted in this process"))
    found = measure_costs(EXPERIMENT, ["ours_star"], tmp_path / "costs.csv", bench=bench, progress=False)
    assert 0 <= found.loc["ours_star", "peak_mb"] < 1000


def test_memory_of_training_on_random_crops_is_not_measured(tmp_path):
    experiment = replace(EXPERIMENT, config=replace(CONFIG, augment=True))
    with pytest.raises(InputError, match="augment"):
        measure_costs(experiment, ["ours"], tmp_path / "costs.csv", bench=open_workbench(experiment, progress=False))


def test_a_real_run_goes_into_every_table(tmp_path, own_cache):
    bench, methods = open_workbench(EXPERIMENT, progress=False), list(REGISTRY)
    specs = [replace(EXPERIMENT, seed=seed) for seed in (0, 1)]
    rows = pd.DataFrame(
        [row for spec in specs for row in run_experiment(spec, methods, tmp_path, bench=bench, image_tables=True)]
    )
    costs = measure_costs(EXPERIMENT, methods, tmp_path / "costs.csv", bench=bench, memory=False, progress=False)
    members = comparison.standings(rows, costs)
    differences = comparison.compare_all(rows, tmp_path, draws=5)
    on_psi = [method for method in methods if REGISTRY[method].needs_psi]
    assert [one.method for one in members] == methods
    assert len(differences) == len(methods) - 1 + len(on_psi) + 2
    assert [found.other for found in differences if found.method == "ours_plus"] == [
        "kmeans",
        "spectral",
        "ours_star",
        "kmeans_plus",
    ]
    means = {one.method: np.mean(one.mean_iou) for one in members}
    for found in differences:
        assert found.interval.estimate == pytest.approx(means[found.method] - means[found.other])
    said = comparison.sentences(members, differences, [item.name for item in bench.dataset.classes])
    assert len(said) == 3 + len(on_psi)
    assert len(comparison.method_table(members, differences)) == len(comparison.matching_table(rows)) == len(methods)


@pytest.mark.parametrize(
    ("landmarks", "text"),
    [(24_000, "384 of 384 training patches: all of them"), (100, "96 of 384 training patches (25 %)")],
)
def test_the_graph_holds_as_many_patches_as_are_fitted(store, landmarks, text):
    """Six photographs of 64 patches: 100 landmarks are 16 from each."""
    config = replace(CONFIG, spectral_landmarks=landmarks)
    assert text in comparison.graph_sentence(store, config)
    head = fit_spectral(store, config, num_clusters=5, seed=0, progress=False)
    assert f"holds {len(head.landmarks.features):,} of" in comparison.graph_sentence(store, config)
