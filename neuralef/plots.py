"""Data in, matplotlib out; nothing is computed here but what drawing needs.

Maps that are never negative are drawn with viridis from 0, signed maps with coolwarm around 0, so that both can be read
without colour vision and signs show.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image


def draw_picture(axes: Axes, picture: np.ndarray) -> None:
    """Draw one picture without ticks.

    Args:
        axes: Where.
        picture: Shape ``(H, W, 3)``, a photograph; or ``(H, W)``, a map: from 0 to its maximum in viridis, or around 0
            in coolwarm if it has negative values.
    """
    if picture.ndim == 3:
        axes.imshow(picture)
    elif picture.min() >= 0:
        axes.imshow(picture, cmap="viridis", vmin=0, interpolation="nearest")
    else:
        limit = np.abs(picture).max()
        axes.imshow(picture, cmap="coolwarm", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def image_grid(
    pictures: Sequence[np.ndarray],
    titles: Sequence[str] = (),
    *,
    columns: int,
    row_titles: Sequence[str] = (),
    size: float = 1.6,
    legend: Sequence[tuple[str, tuple[int, int, int]]] = (),
) -> Figure:
    """Pictures in rows and columns.

    Args:
        pictures: Photographs ``(H, W, 3)`` and maps ``(H, W)`` in reading order, see :func:`draw_picture`.
        titles: One above each picture, or ``columns`` of them above the first row alone.
        columns: Pictures in a row.
        row_titles: One at the left of each row.
        size: Width of a picture in inches.
        legend: Names and colours (0..255) explained below the pictures.

    Returns:
        A figure; axes left over in the last row are empty.
    """
    rows = -(-len(pictures) // columns)
    height, width = pictures[0].shape[:2]
    each = size * height / width + (0.22 if len(titles) > columns else 0.0)
    figure, axes = plt.subplots(
        rows, columns, figsize=(columns * size, rows * each + 0.3), squeeze=False, layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for axis in axes.flat[len(pictures) :]:
        axis.set_axis_off()
    for axis, picture in zip(axes.flat, pictures, strict=False):
        draw_picture(axis, picture)
    for axis, title in zip(axes.flat, titles, strict=False):
        axis.set_title(title, fontsize=8, pad=3)
    for axis, title in zip(axes[:, 0], row_titles, strict=True) if row_titles else ():
        axis.set_ylabel(title, fontsize=8)
    if legend:
        _legend_below(figure, legend)
    return figure


def _legend_below(figure: Figure, entries: Sequence[tuple[str, tuple[int, int, int]]]) -> None:
    handles = [Patch(facecolor=np.array(colour) / 255, edgecolor="0.3", label=name) for name, colour in entries]
    columns = max(1, min(len(handles), int(figure.get_figwidth() / 1.05)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def paint(ids: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Ids to colours.

    Args:
        ids: Shape ``(H, W)``; an id without a colour (the ignore label) becomes black.
        colours: Shape ``(n, 3)``, uint8, colour of each id.

    Returns:
        Shape ``(H, W, 3)``, uint8.
    """
    padded = np.vstack([colours, np.zeros((1, 3), dtype=np.uint8)]).astype(np.uint8)
    return padded[np.minimum(ids.astype(np.int64), len(colours))]


def cluster_colours(num_clusters: int, *, seed: int = 0) -> np.ndarray:
    """Colours that tell clusters apart: hues evenly around the circle in shuffled order, two lightnesses.

    Args:
        num_clusters: How many.
        seed: Of the order, so that a cluster keeps its colour.

    Returns:
        Shape ``(num_clusters, 3)``, uint8.
    """
    palette = sns.husl_palette(num_clusters, s=0.85, l=0.55), sns.husl_palette(num_clusters, s=0.7, l=0.78)
    colours = np.array([palette[index % 2][index] for index in range(num_clusters)])
    return (255 * np.random.default_rng(seed).permutation(colours)).round().astype(np.uint8)


def save_overlay(path: Path, picture: np.ndarray, clusters: np.ndarray, *, num_clusters: int) -> Path:
    """Write a photograph and, beside it, its clusters in colour over it, as PNG.

    Args:
        path: File to write.
        picture: Shape ``(H, W, 3)``, uint8.
        clusters: Shape ``(H, W)``, cluster of every pixel.
        num_clusters: Colours to choose among, so that equal clusters of several pictures have equal colours.
    """
    blended = (0.35 * picture + 0.65 * paint(clusters, cluster_colours(num_clusters))).astype(np.uint8)
    Image.fromarray(np.hstack([picture, blended])).save(path)
    return path


def curves(x: np.ndarray, values: Mapping[str, np.ndarray], *, xlabel: str, columns: int = 3) -> Figure:
    """One small panel for each quantity over a common axis.

    Args:
        x: Shape ``(n,)``.
        values: Title of each panel and its ordinates, shape ``(n,)``.
        xlabel: What ``x`` counts.
        columns: Panels in a row.
    """
    rows = -(-len(values) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3 * columns, 2.1 * rows), sharex=True, squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(values) :]:
        axis.set_axis_off()
    for index, (axis, (title, ordinates)) in enumerate(zip(axes.flat, values.items(), strict=False)):
        axis.plot(x, ordinates, color="C0", linewidth=1.2, marker="." if len(x) < 30 else "")
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        if index + columns >= len(values):
            axis.set_xlabel(xlabel, fontsize=8)
            axis.tick_params(labelbottom=True)
    return figure


def ranked(values: Mapping[str, np.ndarray], *, xlabel: str, ylabel: str) -> Figure:
    """Several descending sequences against rank, such as eigenvalues and Rayleigh quotients.

    Args:
        values: Label of each sequence and the sequence, shape ``(n,)``, in the order it is to be drawn.
        xlabel: What the rank counts, from 1.
        ylabel: What the values are.
    """
    figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
    styles = zip("o^sDv", sns.color_palette("colorblind"), strict=False)
    for (label, sequence), (marker, colour) in zip(values.items(), styles, strict=False):
        axis.plot(
            np.arange(1, len(sequence) + 1),
            sequence,
            marker=marker,
            markersize=4,
            linewidth=1,
            color=colour,
            label=label,
        )
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def correlations(values: Mapping[str, np.ndarray], *, xlabel: str, ylabel: str) -> Figure:
    """Matrices of absolute correlations beside each other, one colour scale from 0 to 1.

    Args:
        values: Title of each matrix and the matrix, shape ``(rows, columns)``, in [0, 1].
        xlabel: What the columns are, counted from 1.
        ylabel: What the rows are, counted from 1.
    """
    rows, columns = next(iter(values.values())).shape
    width = 9.5 / len(values)
    figure, axes = plt.subplots(
        1,
        len(values),
        figsize=(9.5, min(4.0, width * rows / columns + 0.9)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, (title, matrix) in zip(axes.flat, values.items(), strict=True):
        drawn = axis.imshow(
            matrix,
            vmin=0,
            vmax=1,
            cmap="viridis",
            extent=(0.5, columns + 0.5, rows + 0.5, 0.5),
            interpolation="nearest",
        )
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(xlabel, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].set_ylabel(ylabel, fontsize=8)
    figure.colorbar(drawn, ax=axes, label="absolute correlation", shrink=0.9)
    return figure


def seed_strips(values: pd.DataFrame, *, ylabel: str) -> Figure:
    """Every seed of every method as a dot, the mean as a bar; one panel for each matching.

    Args:
        values: Columns ``panel``, ``method`` (in the order to be drawn) and ``value`` (a fraction).
        ylabel: What the values are.
    """
    panels, methods = list(dict.fromkeys(values["panel"])), list(dict.fromkeys(values["method"]))
    palette = dict(zip(methods, sns.color_palette("colorblind"), strict=False))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.1 * len(panels), 3), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, panel in zip(axes.flat, panels, strict=True):
        chosen = values[values["panel"] == panel]
        for place, method in enumerate(methods):
            seeds = chosen.loc[chosen["method"] == method, "value"].to_numpy()
            axis.hlines(seeds.mean(), place - 0.3, place + 0.3, color=palette[method], linewidth=2.5)
            offsets = np.linspace(-0.12, 0.12, len(seeds)) if len(seeds) > 1 else np.zeros(1)
            axis.scatter(
                place + offsets, seeds, color=palette[method], edgecolor="white", linewidth=0.6, s=34, zorder=3
            )
        axis.set_title(panel, fontsize=9)
        axis.set_xticks(range(len(methods)), methods, rotation=30, ha="right", fontsize=8)
        axis.set_xlim(-0.6, len(methods) - 0.4)
        axis.grid(axis="y", alpha=0.3)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes[0, 0].set_ylabel(ylabel)
    return figure


def class_scores(values: pd.DataFrame, *, xlabel: str) -> Figure:
    """Scores by class: the mean of each method as a dot, the range over its seeds as a line.

    Args:
        values: Columns ``class`` and ``method`` (both in the order to be drawn), ``mean``, ``low`` and ``high``
            (fractions).
        xlabel: What the values are.
    """
    classes, methods = list(dict.fromkeys(values["class"])), list(dict.fromkeys(values["method"]))
    offsets = np.linspace(-0.27, 0.27, len(methods)) if len(methods) > 1 else [0.0]
    figure, axis = plt.subplots(figsize=(6.5, 0.55 * len(classes) + 1.2), layout="constrained")
    for method, offset, colour, marker in zip(
        methods, offsets, sns.color_palette("colorblind"), "osD^v<>", strict=False
    ):
        chosen = values[values["method"] == method].set_index("class").reindex(classes)
        places = np.arange(len(classes)) + offset
        axis.hlines(places, chosen["low"], chosen["high"], color=colour, linewidth=2, alpha=0.6)
        axis.scatter(chosen["mean"], places, color=colour, marker=marker, s=26, label=method, zorder=3)
    for border in np.arange(len(classes) - 1) + 0.5:
        axis.axhline(border, color="0.85", linewidth=0.6)
    axis.set_yticks(range(len(classes)), classes, fontsize=9)
    axis.set_ylim(len(classes) - 0.5, -0.5)
    axis.set_xlim(left=0)
    axis.set_xlabel(xlabel)
    axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=len(methods), fontsize=8, frameon=False)
    return figure


def sorted_differences(values: np.ndarray, *, xlabel: str, ylabel: str) -> Figure:
    """Differences in ascending order around a zero line, losses and gains in two colours.

    Args:
        values: Shape ``(n,)``, ascending, fractions.
        xlabel: What is ranked.
        ylabel: What the differences are of.
    """
    loss, gain = sns.color_palette("colorblind")[3], sns.color_palette("colorblind")[0]
    figure, axis = plt.subplots(figsize=(6, 2.8), layout="constrained")
    colours = [gain if value > 0 else loss for value in values]
    axis.bar(np.arange(1, len(values) + 1), values, width=0.9, color=colours)
    axis.axhline(0, color="0.2", linewidth=0.8)
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.grid(axis="y", alpha=0.3)
    return figure
