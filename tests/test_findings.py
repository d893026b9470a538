import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from neuralef.findings import Difference, Finding, Setting, among, exceeds, outdoes, rises, scores_of

BASE = {
    "dataset": "d", "protocol": "crop320", "backbone": "b", "method": "ours", "clusters": 64, "setting": "", "seed": 0,
}  # fmt: skip


def frame(*rows):
    return pd.DataFrame([{**BASE, "accuracy": math.nan, **row} for row in rows])


def seeds(values, **setting):
    return [{**setting, "seed": seed, "mean_iou": value} for seed, value in enumerate(values)]


OVER = Finding(text="Ours beats K-means", pairs=exceeds("method", "ours", "kmeans"))
ALIKE = Finding(text="little difference", pairs=among("setting"), region="within", tolerance=0.01)
APART = Finding(text="some difference", pairs=among("setting"), region="beyond", tolerance=0.01)


def two(first, second, key="method", names=("ours", "kmeans")):
    return frame(*seeds(first, **{key: names[0]}), *seeds(second, **{key: names[1]}))


@pytest.mark.parametrize(
    ("ours", "kmeans", "outcome"),
    [
        ([0.5], [0.4], "holds"),  # one run is taken as it is
        ([0.4], [0.5], "does not hold"),
        ([0.4], [0.4], "does not hold"),
        ([0.50, 0.61, 0.55], [0.40, 0.50, 0.45], "holds"),  # differences 0.10, 0.11, 0.10
        ([0.40, 0.50, 0.45], [0.50, 0.61, 0.55], "does not hold"),
        ([0.50, 0.40, 0.45], [0.40, 0.50, 0.44], "undecided"),
    ],
)
def test_one_method_above_another(ours, kmeans, outcome):
    verdict = OVER.judge(two(ours, kmeans), single_runs=True)
    assert verdict.outcome == outcome
    assert verdict.seeds == len(ours)


@pytest.mark.parametrize("finding", [OVER, ALIKE, APART])
def test_one_run_decides_nothing_unless_it_is_all_there_is(finding):
    key, names = ("method", ("ours", "kmeans")) if finding is OVER else ("setting", ("a=1", "a=2"))
    numbers = two([0.9], [0.1], key, names)
    assert finding.judge(numbers).outcome == "undecided"
    assert finding.judge(numbers, single_runs=True).outcome in ("holds", "does not hold")


@pytest.mark.parametrize(
    ("first", "second", "alike", "apart"),
    [
        ([0.500], [0.505], "holds", "does not hold"),
        ([0.500], [0.520], "does not hold", "holds"),
        ([0.500, 0.501, 0.502], [0.501, 0.502, 0.503], "holds", "does not hold"),
        ([0.500, 0.501, 0.502], [0.600, 0.601, 0.602], "does not hold", "holds"),
        ([0.600, 0.601, 0.602], [0.500, 0.501, 0.502], "does not hold", "holds"),
        ([0.500, 0.520, 0.540], [0.540, 0.520, 0.500], "undecided", "undecided"),
        ([0.508, 0.512, 0.516], [0.500, 0.500, 0.500], "undecided", "undecided"),  # 0.002 to 0.022
    ],
)
def test_within_a_tolerance_and_beyond_it_are_opposites(first, second, alike, apart):
    numbers = two(first, second, "setting", ("a=1", "a=2"))
    assert ALIKE.judge(numbers, single_runs=True).outcome == alike
    assert APART.judge(numbers, single_runs=True).outcome == apart


def test_every_pair_must_hold_and_one_apart_is_enough():
    numbers = frame(
        *seeds([0.5], setting="a=1"), *seeds([0.5], setting="a=2"), *seeds([0.6], setting="a=3"),
    )  # fmt: skip
    assert ALIKE.judge(numbers, single_runs=True).outcome == "does not hold"
    assert APART.judge(numbers, single_runs=True).outcome == "holds"
    with_worse = pd.concat([two([0.5], [0.4]), two([0.4], [0.5]).assign(dataset="e")])
    assert OVER.judge(with_worse, single_runs=True).outcome == "does not hold"


def test_noise_in_one_pair_leaves_the_whole_undecided():
    clear, noisy = two([0.5, 0.5, 0.5], [0.4, 0.4, 0.4]), two([0.5, 0.3], [0.4, 0.4]).assign(backbone="c")
    assert OVER.judge(clear).outcome == "holds"
    verdict = OVER.judge(pd.concat([clear, noisy]))
    assert (verdict.outcome, verdict.seeds) == ("undecided", 2)


def test_what_is_not_there_is_not_run():
    verdict = OVER.judge(frame(*seeds([0.5])))
    assert (verdict.outcome, verdict.size, verdict.seeds) == ("not run", "", 0)
    assert OVER.judge(two([0.5], [math.nan])).outcome == "not run"


def test_only_seeds_that_both_have_are_compared():
    (difference,) = OVER.judge(two([0.5, 0.6, 0.7], [0.4])).differences
    assert difference.values == pytest.approx((0.1,))


def test_accuracy_is_judged_where_the_finding_says_so():
    numbers = two([0.5], [0.4]).assign(accuracy=[0.6, 0.7])
    in_accuracy = Finding(text="", pairs=exceeds("method", "ours", "kmeans"), metric="accuracy")
    assert OVER.judge(numbers, single_runs=True).outcome == "holds"
    assert in_accuracy.judge(numbers, single_runs=True).outcome == "does not hold"


def test_the_interval_is_student_s():
    values = np.array([0.01, 0.03, 0.02, 0.05])
    setting = Setting("d", "crop320", "b", "ours", 64, "")
    low, high = Difference(setting, setting, tuple(values)).interval()
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_size_is_the_smallest_and_the_largest_difference():
    numbers = pd.concat([two([0.5], [0.4]), two([0.5], [0.47]).assign(backbone="c")])
    assert OVER.judge(numbers).size == "+3.0 to +10.0 points"
    assert OVER.judge(two([0.5], [0.4])).size == "+10.0 points"


def settings(**varied):
    numbers = frame(
        *(row for value in next(iter(varied.values())) for row in seeds([0.5], **{next(iter(varied)): value}))
    )
    return list(scores_of(numbers, "mean_iou"))


def test_rising_compares_neighbours_by_number_within_a_range():
    found = [(a.clusters, b.clusters) for a, b in rises("clusters", up_to=256)(settings(clusters=[256, 64, 1024, 128]))]
    assert found == [(128, 64), (256, 128)]
    found = [(a.clusters, b.clusters) for a, b in rises("clusters", above=256)(settings(clusters=[64, 256, 512]))]
    assert found == [(512, 256)]


def test_every_two_settings_that_are_alike_otherwise():
    values = settings(setting=["a=1", "a=2", "a=3"])
    other = [setting._replace(dataset="e") for setting in values[:2]]
    pairs = list(among("setting")([*values, *other]))
    assert len(pairs) == 3 + 1
    assert all(first.dataset == second.dataset for first, second in pairs)


def test_peers_are_compared_whatever_their_backbone():
    ours = settings(backbone=["small", "large"])
    peer = ours[0]._replace(method="peer", backbone="", clusters="")
    elsewhere = peer._replace(dataset="e")
    pairs = list(outdoes(["ours"], ["peer"])([*ours, peer, elsewhere]))
    assert pairs == [(ours[0], peer), (ours[1], peer)]
