"""What charts and pictures must not lose: series beyond the colours of the palette, and windows that overlap."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from neuralef import drawing, plots
from neuralef.datasets.base import IGNORE_LABEL, SemanticClass
from neuralef.reporting import METHOD_TITLES

MANY = [f"method {index}" for index in range(11)]
"""More than a palette has colours."""


X = np.arange(1.0, 6.0)
NO_LABELS = {"xlabel": "", "ylabel": ""}


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def frame(columns, rows):
    return pd.DataFrame(rows, columns=columns.split())


def ranked(names):
    return plots.ranked(dict.fromkeys(names, X), **NO_LABELS)


def lines(names):
    panels = {"a": {}, "b": dict.fromkeys(names, (X, X))}
    return plots.lines(panels, xlabels=["", ""], ylabels=["", ""])


def histograms(names):
    return plots.histograms({"a": {"of nothing": X[:0]}, "b": dict.fromkeys(names, X)}, bins=X, **NO_LABELS)


def growth(names):
    """Some of the series have no line through their points."""
    series = dict.fromkeys(names, (X, X))
    fits = dict.fromkeys(names[:8], (X, X))
    return plots.growth({"a": series}, {"a": fits}, xlabel="", ylabels=[""], limits=[(9, "_no limit")])


def block_eigenvectors(names):
    return plots.block_eigenvectors(np.eye(12), np.eye(12), np.eye(12, len(names)), np.arange(len(names)), [5, 7])


def class_scores(names):
    rows = [(of, name, 0.5, 0.4, 0.6) for of in ("sky", "road") for name in names]
    return plots.class_scores(frame("class method mean low high", rows), xlabel="")


def scores_against_costs(names):
    rows = [(panel, name, 2, 1, 3, 0.5, 0.4, 0.6) for panel, of in (("a", names[:1]), ("b", names)) for name in of]
    columns = "panel method cost cost_low cost_high score score_low score_high"
    return plots.scores_against_costs(frame(columns, rows), **NO_LABELS)


def scores_by_size(names):
    rows = [
        (panel, name, size, 0.1 * seed)
        for panel, of in (("a", names[:1]), ("b", names))
        for name in of
        for size in (3, 40)
        for seed in (1, 3)
    ]
    return plots.scores_by_size(frame("panel method size score", rows), **NO_LABELS)


def seed_strips(names):
    rows = [
        (panel, name, 0.1 * seed) for panel, of in (("a", names), ("b", names[1:])) for name in of for seed in (1, 2)
    ]
    return plots.seed_strips(frame("panel method value", rows), ylabel="")


def paired_runs(names):
    rows = [(panel, name) for panel, of in (("a", names), ("b", names[1:])) for name in of]
    values = frame("panel treatment seed value", [(*row, seed, 0.1 * seed) for row in rows for seed in (1, 2)])
    intervals = frame("panel treatment estimate low high", [(*row, 0.15, 0.1, 0.2) for row in rows])
    return plots.paired_runs(values, intervals, ylabel="")


def noise_bands(names):
    bands = frame("low high exceeds", [])
    return plots.noise_bands(frame("panel value seed change", names), bands, ylabel="")


def noise_widths(names):
    return plots.noise_widths(frame("label here noise paper exceeds", names), xlabel="")


def change_strips(names):
    return plots.change_strips(frame("panel value source seed change", names), **NO_LABELS)


@pytest.mark.parametrize(
    "draw", [ranked, lines, histograms, growth, block_eigenvectors, class_scores, scores_against_costs, scores_by_size]
)
def test_every_one_of_many_series_is_drawn_and_told_apart(draw):
    figure = draw(MANY)
    legends = [*figure.legends, *(axis.get_legend() for axis in figure.axes)]
    (legend,) = (legend for legend in legends if legend)
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == MANY if draw is not block_eigenvectors else len(set(labels)) == len(MANY)
    looks = ("color", "edgecolor", "facecolor", "marker", "linestyle", "paths")
    drawn = {str([handle.properties().get(look) for look in looks]) for handle in legend.legend_handles}
    assert len(drawn) == len(MANY)
    figure.draw_without_rendering()
    assert figure.bbox.x0 <= legend.get_window_extent().x0 and legend.get_window_extent().x1 <= figure.bbox.x1


def test_a_method_looks_the_same_whatever_stands_beside_it():
    assert list(plots.LOOKS) == list(METHOD_TITLES.values())
    for looks in zip(*plots.LOOKS.values(), strict=True):
        assert len(set(looks)) == len(plots.LOOKS)
    lines = {line.get_label(): line for line in scores_by_size(["one", "Ours, longer", "Ours"]).axes[1].lines}
    colours = {name: line.get_color() for name, line in lines.items()}
    assert colours["Ours, longer"] == colours["Ours"] == plots.LOOKS["Ours"][0] != colours["one"]
    assert lines["Ours, longer"].get_linestyle() != lines["Ours"].get_linestyle()


def test_a_method_has_a_colour_where_all_are_taken(monkeypatch):
    taken = {f"method {index}": (colour, "o") for index, colour in enumerate(plots.COLOURS)}
    monkeypatch.setattr(plots, "LOOKS", taken)
    looks = plots._looks([*taken, "one", "another"])
    assert looks["one"] != looks["another"]


def test_every_one_of_many_methods_has_its_dots_where_it_ran():
    for axis, ran in zip(seed_strips(MANY).axes, (range(11), range(1, 11)), strict=True):
        assert [label.get_text() for label in axis.get_xticklabels()] == MANY
        dots = [collection for collection in axis.collections if len(collection.get_offsets()) == 2]
        np.testing.assert_allclose([dot.get_offsets()[:, 0].mean() for dot in dots], ran, atol=1e-9)


def test_every_one_of_many_treatments_has_its_interval_where_it_ran():
    for axis, ran in zip(paired_runs(MANY).axes, (11, 10), strict=True):
        assert [label.get_text() for label in axis.get_xticklabels()] == MANY
        bars = [path for lines in axis.collections for path in lines.get_paths() if np.ptp(path.vertices[:, 1]) > 0.09]
        assert len([path for path in bars if np.ptp(path.vertices[:, 0]) == 0]) == ran


def test_scores_stand_at_their_sizes_and_bars_reach_over_the_seeds():
    axis = scores_by_size(["one"]).axes[1]
    (line,) = axis.lines
    np.testing.assert_allclose(line.get_xydata(), [(3, 0.2), (40, 0.2)])
    (bars,) = axis.collections
    np.testing.assert_allclose([path.vertices[:, 1] for path in bars.get_paths()], [(0.1, 0.3)] * 2)
    assert [label.get_text() for label in axis.get_xticklabels()] == ["3", "40"]


@pytest.mark.parametrize(
    "draw",
    [
        seed_strips,
        paired_runs,
        noise_bands,
        noise_widths,
        class_scores,
        scores_against_costs,
        scores_by_size,
        change_strips,
    ],
)
def test_a_table_of_which_nothing_ran_says_so(draw):
    assert draw([]).axes[0].texts[0].get_text() == "not run"


def test_curves_of_one_label_look_alike_in_all_panels():
    panels = {"a": {"first": (X, X)}, "b": {"second": (X, X), "first": (X, X)}}
    figure = plots.lines(panels, xlabels=["", ""], ylabels=["", ""])
    looks = [
        {line.get_label(): (line.get_color(), line.get_linestyle()) for line in axis.lines} for axis in figure.axes
    ]
    assert looks[0]["first"] == looks[1]["first"] != looks[1]["second"]


def test_windows_are_counted_where_they_overlap():
    picture = np.zeros((8, 12, 3), dtype=np.uint8)
    figure = drawing.window_cover({"left and right": (picture, [(0, 0, 4, 4), (0, 2, 4, 6)])})
    above, below = figure.axes[:2]
    (count,) = (image.get_array() for image in below.images)
    np.testing.assert_array_equal(count, [[1, 1, 2, 2, 1, 1]] * 4)
    assert [text.get_text() for text in above.texts] == ["1", "2"]
    np.testing.assert_array_equal(above.images[0].get_extent(), (0, 6, 4, 0))  # drawn at the size of the windows


def test_a_grid_without_pictures_says_so():
    assert drawing.image_grid([], ["photograph"], columns=1).axes[0].texts[0].get_text() == "not run"


def test_equal_changes_of_two_seeds_are_two_dots():
    values = pd.DataFrame([("a", "64", "here", seed, 0.01) for seed in range(3)])
    values.columns = ["panel", "value", "source", "seed", "change"]
    (axis,) = plots.change_strips(values, xlabel="", ylabel="").axes
    (dots,) = axis.collections
    places = dots.get_offsets()[:, 0]
    assert len(np.unique(places)) == 3
    assert np.abs(places).max() < 0.5 and abs(places.mean()) < 1e-9


def test_a_legend_explains_black_where_pixels_are_ignored():
    classes = [SemanticClass("sky", (1, 2, 3)), SemanticClass("road", (4, 5, 6)), SemanticClass("car", (7, 8, 9))]
    assert drawing.class_legend(classes, {2, 0}) == [("sky", (1, 2, 3)), ("car", (7, 8, 9))]
    assert drawing.class_legend(classes, {1, IGNORE_LABEL}) == [("road", (4, 5, 6)), ("ignored", (0, 0, 0))]


def test_a_title_breaks_before_what_a_dataset_stands_in_for():
    title = "Table 6 (alpha), camvid for cityscapes_27, Ours"
    ranges = pd.DataFrame({"label": [title], "here": [0.02], "noise": [0.01], "paper": [0.01], "exceeds": [True]})
    figure = plots.noise_widths(ranges, xlabel="range")
    (label,) = figure.axes[0].get_yticklabels()
    assert label.get_text() == "Table 6 (alpha), camvid\nfor cityscapes_27, Ours"
