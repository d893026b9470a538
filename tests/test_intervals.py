import numpy as np
import pytest

from neuralef import intervals
from neuralef.evaluation import score
from neuralef.intervals import Interval, bootstrap_interval, max_iou_score, paired_difference_interval, paired_gains


def tables(runs, images=7, clusters=5, classes=3, seed=0):
    """Counts of some runs that share their images: labels per image are alike, clusters differ."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(1, 40, (images, classes))
    found = []
    for _ in range(runs):
        shares = rng.dirichlet(np.full(clusters, 0.4), size=(images, classes))  # of each class, its clusters
        found.append(np.rint(truth[:, None, :] * shares.transpose(0, 2, 1)).astype(np.int32))
    return found


def literal_mean_iou(counts):
    """max_iou and mIoU cluster by cluster and class by class."""
    K, C = counts.shape
    mapping = []
    for k in range(K):
        overlaps = []
        for c in range(C):
            union = counts[k].sum() + counts[:, c].sum() - counts[k, c]
            overlaps.append(counts[k, c] / union if union else 0.0)
        mapping.append(int(np.argmax(overlaps)))
    scores = []
    for c in range(C):
        right = sum(counts[k, c] for k in range(K) if mapping[k] == c)
        predicted = sum(counts[k].sum() for k in range(K) if mapping[k] == c)
        union = counts[:, c].sum() + predicted - right
        if union:
            scores.append(right / union)
    return float(np.mean(scores))


def literal_draws(runs, draws, seed):
    """Every resample as lists of images and runs, drawn as the package draws them; tables added up one by one."""
    images = len(runs[0])
    rng = np.random.default_rng(seed)
    image_weights = [rng.multinomial(images, [1 / images] * images) for _ in range(draws)]
    run_weights = [rng.multinomial(len(runs), [1 / len(runs)] * len(runs)) for _ in range(draws)]
    for of_images, of_runs in zip(image_weights, run_weights, strict=True):
        chosen = [index for index, times in enumerate(of_images) for _ in range(times)]
        yield [
            literal_mean_iou(sum(runs[run][index].astype(int) for index in chosen))
            for run, times in enumerate(of_runs)
            for _ in range(times)
        ]


def test_interval_is_that_of_the_literal_version():
    runs = tables(3)
    values = [np.mean(of_runs) for of_runs in literal_draws(runs, 50, seed=4)]
    found = bootstrap_interval(runs, draws=50, seed=4, level=0.9)
    assert found.estimate == pytest.approx(np.mean([literal_mean_iou(run.sum(axis=0)) for run in runs]))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.05, 0.95])))
    assert found.bias == pytest.approx(np.mean(values) - found.estimate)


def test_difference_is_that_of_the_literal_version():
    first, second = tables(3, seed=1), tables(3, seed=2)
    drawn = zip(literal_draws(first, 50, seed=4), literal_draws(second, 50, seed=4), strict=True)
    values = [np.mean(b) - np.mean(a) for a, b in drawn]
    found = paired_difference_interval(first, second, draws=50, seed=4, level=0.9)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.05, 0.95])))
    assert found.estimate == pytest.approx(
        np.mean([literal_mean_iou(run.sum(axis=0)) for run in second])
        - np.mean([literal_mean_iou(run.sum(axis=0)) for run in first])
    )
    by_default = paired_difference_interval(first, second, draws=50, seed=4)
    assert (by_default.low, by_default.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


def literal_blocks(images, draws, seed, block):
    """How often each image enters each resample: blocks of images are taken until there are enough."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(images, size=(draws, -(-images // block)))
    for of_draw in starts:
        chosen = [(start + step) % images for start in of_draw for step in range(block)][:images]
        yield [chosen.count(image) for image in range(images)]


@pytest.mark.parametrize("block", [2, 3, 7])
def test_blocks_of_images_are_those_of_the_literal_version(block):
    weights, _ = intervals._weights(7, 2, 40, 5, block)
    assert weights.tolist() == list(literal_blocks(7, 40, 5, block))


def test_images_in_one_block_are_all_there_and_blocks_of_one_are_single_images():
    first, second = tables(1, seed=1), tables(1, seed=2)
    whole = paired_difference_interval(first, second, draws=30, block=7)
    assert (whole.low, whole.high) == pytest.approx((whole.estimate, whole.estimate))
    single = paired_difference_interval(first, second, draws=30, block=1)
    assert single == paired_difference_interval(first, second, draws=30)
    assert single.low < single.estimate


@pytest.mark.parametrize("block", [0, 8])
def test_a_block_that_cannot_be_drawn_is_named(block):
    with pytest.raises(ValueError, match=f"block is {block}; of 7 images 1 to 7"):
        paired_difference_interval(tables(2), tables(2), block=block)


def test_tables_too_large_to_hold_at_once_change_nothing(monkeypatch):
    runs = tables(2)
    whole = bootstrap_interval(runs, draws=20)
    monkeypatch.setattr(intervals, "CELLS_AT_ONCE", 3 * runs[0][0].size)
    assert bootstrap_interval(runs, draws=20) == whole


def test_a_single_run_draws_images_alone():
    (run,) = tables(1)
    values = [scores[0] for scores in literal_draws([run], 40, seed=0)]
    found = bootstrap_interval([run], draws=40)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


def test_equal_treatments_differ_by_nothing():
    runs = tables(3)
    assert paired_difference_interval(runs, runs, draws=30) == Interval(0.0, 0.0, 0.0)


def test_images_all_alike_leave_the_spread_of_the_runs_alone():
    runs = [np.repeat(run[:1], 6, axis=0) for run in tables(2)]
    scores = sorted(max_iou_score(run.sum(axis=0)) for run in runs)
    found = bootstrap_interval(runs, draws=200)
    assert (found.low, found.high) == pytest.approx(tuple(scores))


def test_pairing_makes_a_constant_gain_sure():
    """Runs differ widely, but each gains when the pixels of class 0 get clusters of their own."""
    first = tables(6, images=30, seed=3)
    second = [np.concatenate([run, np.zeros_like(run)], axis=1) for run in first]
    for run in second:
        moved = run[:, :5, 0].copy()
        run[:, :5, 0] -= moved
        run[:, 5:, 0] += moved
    difference = paired_difference_interval(first, second, draws=200)
    assert not difference.holds(0.0)
    assert difference.low > 0


def test_runs_on_other_images_are_refused():
    with pytest.raises(ValueError, match="same images"):
        bootstrap_interval([*tables(1, images=7), *tables(1, images=8)])
    with pytest.raises(ValueError, match="none"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="paired"):
        paired_difference_interval(tables(2), tables(3))


@pytest.mark.parametrize("draws", [0, -3])
def test_no_draws_are_refused(draws):
    with pytest.raises(ValueError, match=f"draws is {draws}"):
        bootstrap_interval(tables(2), draws=draws)


@pytest.mark.parametrize(
    ("other", "common"), [((0.3, 0.5), True), ((0.4, 0.5), True), ((0.1, 0.2), True), ((0.41, 0.5), False)]
)
def test_intervals_that_touch_overlap(other, common):
    first, second = Interval(0.3, 0.2, 0.4), Interval(0.4, *other)
    assert first.overlaps(second) == second.overlaps(first) == common
    assert first.holds(0.2)
    assert not first.holds(0.41)


@pytest.mark.parametrize(("bias", "excludes"), [(0.0, True), (0.06, False), (-0.06, True), (0.16, False)])
def test_what_resampling_shifts_can_undo_a_decision(bias, excludes):
    """0.05 to 0.15 about 0.1, moved back: -0.01 to 0.09, 0.11 to 0.21, -0.11 to -0.01."""
    assert Interval(0.1, 0.05, 0.15, bias).excludes(0.0) == excludes
    assert not Interval(0.1, -0.05, 0.15, bias).excludes(0.0)


def test_the_statistic_is_the_headline_score():
    counts = tables(1)[0].sum(axis=0)
    assert max_iou_score(counts) == score(counts, "max_iou").mean_iou


def test_images_without_labels_change_nothing_and_end_nothing():
    """Of three images, one unlabelled, a resample in 27 holds nothing else; it has no score."""
    runs, others = tables(2, images=2), tables(2, images=2, seed=1)
    padded, others_padded = ([np.insert(run, 1, 0, axis=0) for run in of] for of in (runs, others))
    assert bootstrap_interval(padded) == bootstrap_interval(runs)
    assert paired_difference_interval(padded, others_padded) == paired_difference_interval(runs, others)


def test_gains_are_those_of_each_run():
    first, second = tables(2, seed=1), tables(2, seed=2)
    scores = [[literal_mean_iou(run.sum(axis=0)) for run in runs] for runs in (first, second)]
    assert paired_gains(first, second) == pytest.approx(np.subtract(scores[1], scores[0]))


def test_words_of_an_interval_say_what_resampling_undoes():
    assert Interval(0.1, 0.05, 0.15).says_of(0) == "excludes 0"
    assert Interval(0.1, 0.05, 0.15, 0.06).says_of(0) == "excludes 0, but not with what resampling shifts taken off"
    assert Interval(0.1, -0.05, 0.15).says_of(0) == "includes 0"
