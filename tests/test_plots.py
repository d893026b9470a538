"""What charts and pictures must not lose: methods beyond the colours of the palette, and windows that overlap."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from neuralef import drawing, plots
from neuralef.datasets.base import IGNORE_LABEL, SemanticClass

MANY = [f"method {index}" for index in range(11)]
"""More than a palette has colours."""


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def test_every_one_of_many_methods_has_its_dots():
    values = pd.DataFrame([("a", name, 0.1 * seed) for name in MANY for seed in range(2)])
    values.columns = ["panel", "method", "value"]
    (axis,) = plots.seed_strips(values, ylabel="").axes
    assert [label.get_text() for label in axis.get_xticklabels()] == MANY
    dots = [collection for collection in axis.collections if len(collection.get_offsets()) == 2]
    np.testing.assert_allclose([dot.get_offsets()[:, 0].mean() for dot in dots], np.arange(11), atol=1e-9)


def test_every_one_of_many_treatments_has_its_interval():
    values = pd.DataFrame([("a", name, seed, 0.1 * seed) for name in MANY for seed in range(2)])
    values.columns = ["panel", "treatment", "seed", "value"]
    intervals = pd.DataFrame({"panel": "a", "treatment": MANY, "estimate": 0.05, "low": 0.0, "high": 0.1})
    (axis,) = plots.paired_runs(values, intervals, ylabel="").axes
    assert [label.get_text() for label in axis.get_xticklabels()] == MANY
    bars = [path for lines in axis.collections for path in lines.get_paths() if np.ptp(path.vertices[:, 1]) > 0.09]
    assert len([path for path in bars if np.ptp(path.vertices[:, 0]) == 0]) == 11


def test_every_one_of_many_methods_has_its_scores_by_class():
    values = pd.DataFrame([(of, name, 0.5, 0.4, 0.6) for of in ("sky", "road") for name in MANY])
    values.columns = ["class", "method", "mean", "low", "high"]
    figure = plots.class_scores(values, xlabel="")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == MANY


def test_windows_are_counted_where_they_overlap():
    picture = np.zeros((8, 12, 3), dtype=np.uint8)
    figure = drawing.window_cover({"left and right": (picture, [(0, 0, 4, 4), (0, 2, 4, 6)])})
    above, below = figure.axes[:2]
    (count,) = (image.get_array() for image in below.images)
    np.testing.assert_array_equal(count, [[1, 1, 2, 2, 1, 1]] * 4)
    assert [text.get_text() for text in above.texts] == ["1", "2"]
    np.testing.assert_array_equal(above.images[0].get_extent(), (0, 6, 4, 0))  # drawn at the size of the windows


def test_a_table_of_which_nothing_ran_says_so():
    strips = plots.seed_strips(pd.DataFrame(columns=["panel", "method", "value"]), ylabel="")
    changes = plots.change_strips(
        pd.DataFrame(columns=["panel", "value", "source", "seed", "change"]), xlabel="", ylabel=""
    )
    pictures = drawing.image_grid([], ["photograph"], columns=1)
    assert [figure.axes[0].texts[0].get_text() for figure in (strips, changes, pictures)] == ["not run"] * 3


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
