import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from neuralef import noise
from neuralef.noise import expected_width, paired, spread
from neuralef.table_study import published
from neuralef.tables import TABLES

SCORES = pd.DataFrame([[0.50, 0.53, 0.51], [0.60, 0.62, 0.62], [0.40, 0.44, 0.40]], columns=["0", "0.1", "0.3"])


def literal(scores):
    """Mean squares of values and rest, sum by sum."""
    y = scores.to_numpy()
    S, V = y.shape
    grand = sum(y[s, v] for s in range(S) for v in range(V)) / (S * V)
    of_value = [sum(y[s, v] for s in range(S)) / S for v in range(V)]
    of_seed = [sum(y[s, v] for v in range(V)) / V for s in range(S)]
    values = S * sum((mean - grand) ** 2 for mean in of_value) / (V - 1)
    rest = sum((y[s, v] - of_seed[s] - of_value[v] + grand) ** 2 for s in range(S) for v in range(V))
    return values, rest / ((S - 1) * (V - 1))


def random_scores(seeds, values, *, effect=0.0, seed=0):
    """Noise of 0.01, one of the values better by ``effect``, and what each seed adds to all values."""
    rng = np.random.default_rng(seed)
    y = 0.5 + 0.01 * rng.standard_normal((seeds, values)) + 0.05 * rng.standard_normal((seeds, 1))
    y[:, 0] += effect
    return pd.DataFrame(y, columns=[str(value) for value in range(values)])


def test_equals_the_literal_sums():
    values, rest = literal(SCORES)
    found = spread(SCORES)
    assert found.rest == pytest.approx(math.sqrt(rest))
    assert found.share == pytest.approx(1 - rest / values)
    assert found.width == pytest.approx(0.53 - 0.50)
    assert (found.best, found.worst, found.seeds, found.values) == ("0.1", "0", 3, 3)


def test_the_spread_between_seeds_is_pooled_over_the_values():
    found = spread(pd.DataFrame([[0.1, 0.5], [0.3, 0.9]], columns=["a", "b"]))  # variances 0.02 and 0.08
    assert found.between_seeds == pytest.approx(math.sqrt(0.05))
    assert found.ratio == pytest.approx(0.5 / math.sqrt(0.05))


def test_two_values_are_the_paired_t_test():
    two = SCORES[["0", "0.1"]]
    expected = stats.ttest_rel(two["0"], two["0.1"])
    assert spread(two).p_value == pytest.approx(expected.pvalue, rel=1e-4)
    half = stats.t.ppf(0.975, 2) * (two["0.1"] - two["0"]).std(ddof=1) / math.sqrt(3)
    assert spread(two).noise_width == pytest.approx(half, rel=1e-4)


def test_the_critical_range_is_the_one_in_printed_tables():
    found = spread(random_scores(4, 3))  # q(3, 6) = 4.339
    assert found.noise_width == pytest.approx(4.339 * found.rest / 2, rel=1e-3)


def test_what_a_seed_adds_to_all_values_is_no_noise():
    first, second = spread(SCORES), spread(SCORES.add([0.1, -0.2, 0.05], axis=0))
    assert second.rest == pytest.approx(first.rest)
    assert second.share == pytest.approx(first.share)
    assert second.p_value == pytest.approx(first.p_value)
    assert second.between_seeds != pytest.approx(first.between_seeds)


def test_order_and_unit_change_nothing():
    first, second = spread(SCORES), spread(100 * SCORES.iloc[[2, 0, 1], [1, 2, 0]])
    assert (second.best, second.worst) == (first.best, first.worst)
    assert second.width == pytest.approx(100 * first.width)
    assert second.noise_width == pytest.approx(100 * first.noise_width)
    assert second.p_value == pytest.approx(first.p_value)


def test_pure_noise_exceeds_noise_in_one_case_of_twenty():
    exceeding = [spread(random_scores(3, 5, seed=seed)).exceeds for seed in range(2000)]
    assert np.mean(exceeding) == pytest.approx(0.05, abs=0.015)


def test_a_strong_effect_is_found():
    found = spread(random_scores(3, 5, effect=0.1))
    assert found.exceeds
    assert found.p_value < 0.01
    assert found.share > 0.9
    assert found.best == "0"


@pytest.mark.parametrize("effect", [0.0, 0.01, 0.02, 0.05])
def test_range_and_chance_give_one_verdict(effect):
    for seed in range(5):
        found = spread(random_scores(3, 4, effect=effect, seed=seed))
        assert found.exceeds == (found.p_value < 0.05)


def test_an_effect_without_noise_is_all_beyond_it():
    found = spread(pd.DataFrame([[0.5, 0.75], [0.25, 0.5]], columns=["a", "b"]))
    assert (found.share, found.p_value, found.exceeds) == (1, 0, True)


def test_equal_scores_leave_nothing_to_explain():
    found = spread(pd.DataFrame(np.full((3, 4), 0.5)))
    assert (found.width, found.share, found.p_value, found.ratio, found.exceeds) == (0, 0, 1, 0, False)


def test_a_single_seed_has_a_range_and_no_noise():
    found = spread(SCORES.iloc[:1])
    assert found.width == pytest.approx(0.03)
    for value in (found.between_seeds, found.rest, found.share, found.noise_width, found.p_value):
        assert math.isnan(value)
    assert not found.exceeds
    assert noise.spread_table({"one": found})["exceeds seed noise"].item() == "not known"
    assert "nothing is decided" in noise.sentence("one", found)


@pytest.mark.parametrize("scores", [SCORES[["0"]], SCORES.mask(SCORES == 0.62)])
def test_incomplete_scores_are_refused(scores):
    with pytest.raises(ValueError, match="every seed needs a score"):
        spread(scores)


@pytest.mark.parametrize(
    ("runs", "width"), [(1, 0), (2, 2 / math.sqrt(math.pi)), (3, 3 / math.sqrt(math.pi)), (5, 2.326)]
)
def test_the_mean_range_of_normal_numbers(runs, width):
    assert expected_width(runs) == pytest.approx(width, abs=1e-3)


def test_means_leave_the_band_where_the_ablation_exceeds_noise():
    scores = {f"{effect}": random_scores(3, 4, effect=effect, seed=3) for effect in (0.0, 0.01, 0.02, 0.05)}
    spreads = {title: spread(of) for title, of in scores.items()}
    bands = noise.bands(scores, spreads)
    for title, of in scores.items():
        means, band = paired(of).mean(), bands.loc[title]
        outside = means.min() < band["low"] or means.max() > band["high"]
        assert outside == spreads[title].exceeds == band["exceeds"]
        assert band["high"] - means.max() == pytest.approx(means.min() - band["low"])
    assert set(bands["exceeds"]) == {True, False}


def test_changes_are_those_from_each_seed_s_mean():
    found = noise.changes({"one": SCORES, "two": SCORES[["0", "0.3"]]}).set_index(["panel", "seed", "value"])["change"]
    assert found["one", 1, "0.1"] == pytest.approx(0.62 - 1.84 / 3)
    assert found["two", 2, "0.3"] == pytest.approx(0)
    assert len(found) == 9 + 6
    assert noise.changes({}).empty


def test_the_paper_s_ablations_column_by_column():
    found = {}
    for number in ("5", "6", "7"):
        found |= noise.columns(TABLES[number], published(TABLES[number]))
    assert list(found) == [
        "Table 5 (K), pascal_context, Ours",
        "Table 6 (alpha), pascal_context, Ours", "Table 6 (alpha), cityscapes_27, Ours",
        "Table 7 (beta), pascal_context, Ours", "Table 7 (beta), pascal_context, Ours*",
    ]  # fmt: skip
    assert list(found["Table 5 (K), pascal_context, Ours"].columns) == ["64", "128", "256", "512"]
    assert found["Table 6 (alpha), cityscapes_27, Ours"].iloc[0].to_dict() == pytest.approx(
        {"0": 0.272, "0.1": 0.267, "0.3": 0.282, "0.5": 0.281, "0.7": 0.279}
    )
    printed = noise.single_runs(found, {"Table 5 (K), pascal_context, Ours": spread(random_scores(3, 4))})
    assert printed["paper range"].tolist() == ["11.0", "1.0", "1.5", "0.2", "0.6"]
    of_four = 100 * spread(random_scores(3, 4)).between_seeds
    assert printed.iloc[0, -2:].tolist() == [f"{2.06 * of_four:.1f}", f"{3.63 * of_four:.1f}"]  # tables of the range
    assert (printed.iloc[1:, -2:] == "not known").all(axis=None)


def test_titles_name_what_stands_in_for_a_dataset_of_the_paper():
    names = {"pascal_context": "stanford_background for pascal_context"}
    assert list(noise.columns(TABLES["6"], published(TABLES["6"]), names=names)) == [
        "Table 6 (alpha), stanford_background for pascal_context, Ours", "Table 6 (alpha), cityscapes_27, Ours",
    ]  # fmt: skip


def test_several_ablations_are_judged_together():
    clear = pd.DataFrame([[0.0, 0.3], [0.0, 0.301], [0.0, 0.302]])
    flat = pd.DataFrame([[0.0, 0.01], [0.01, 0.0], [0.0, 0.0]])
    said = noise.family_sentence({"a, Ours*": spread(clear), "b": spread(flat)})
    assert r"of 2 ablations (a, Ours\*), times their number, is < 0.001: by that measure **beyond chance**" in said
    alone = spread(flat)
    said = noise.family_sentence({"b": alone, "c": alone, "one seed": spread(clear[:1])})
    assert f"of 2 ablations (b), times their number, is {min(1, 2 * alone.p_value):.3f}: " in said
    assert "**not beyond chance, and so none is**" in said
    assert "nothing is decided" in noise.family_sentence({"one seed": spread(clear[:1])})


def test_methods_by_seed():
    rows = [
        {"method": method, "matching": matching, "seed": seed, "mean_iou": value + 0.01 * seed}
        for method, value in (("ours_star", 0.5), ("kmeans", 0.4))
        for matching in ("max_iou", "majority")
        for seed in (0, 1)
    ]
    scores = noise.by_method(pd.DataFrame(rows))
    assert list(scores.columns) == ["Ours*", "K-means"]
    printed = noise.method_scores(scores)
    assert printed.iloc[0].tolist() == ["Ours*", "50.0", "51.0", "50.5 ± 0.7"]
    assert list(printed.columns) == ["method", "seed 0", "seed 1", "mean ± spread"]


def test_sentences_say_what_is_decided():
    loud, quiet = spread(random_scores(3, 4, effect=0.1)), spread(random_scores(3, 4))
    assert r"Ours\* **exceeds seed noise**" in noise.sentence("Ours*", loud)
    assert "**does not exceed seed noise**" in noise.sentence("Ours", quiet)
    table = noise.spread_table({"loud": loud, "quiet": quiet})
    assert table["exceeds seed noise"].tolist() == ["yes", "no"]
    drawn = noise.widths({"loud": loud, "quiet": quiet}, {"quiet": SCORES.iloc[:1]})
    assert drawn["exceeds"].tolist() == [True, False]
    assert drawn["paper"].isna().tolist() == [True, False]


def test_the_logs_of_the_authors_at_their_own_spread():
    sentence = noise.logs_sentence([3, 5])
    assert "37.1, 40.4, 37.9" in sentence
    assert "deviation of 1.7" in sentence  # squares of 1.367, 1.933 and 0.567 over 2: 2.96
    assert "2.9 points for 3 runs" in sentence
    assert "4.0 points for 5 runs" in sentence
