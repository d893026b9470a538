"""Numbers in, charts out, by matplotlib; nothing is computed here but what drawing needs."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter

from neuralef.drawing import colour_bar, nothing_run

COLOURS = sns.color_palette("colorblind")
"""Told apart without colour vision, too."""

MARKERS = "os^Dv<>PXh*"

BLUE, ORANGE = COLOURS[0], COLOURS[3]

LOOKS = {
    "K-means": (COLOURS[0], "o"),
    "K-means, centred": (COLOURS[1], "s"),
    "K-means, PCA": (COLOURS[7], "<"),
    "K-means, parts of Ours+": (COLOURS[6], ">"),
    "Deep Spectral Methods": (COLOURS[5], "X"),
    "Spectral, exact": (COLOURS[9], "v"),
    "Ours": (COLOURS[2], "D"),
    "Ours*": (COLOURS[3], "^"),
    "Ours+": (COLOURS[4], "P"),
}
"""Colour and marker of a method by its title, the same in every figure."""


def _styles(labels: Iterable[str], marks: Sequence = MARKERS) -> dict[str, tuple]:
    """Colour and mark (a marker or a line style) of each label, both in turn.

    A number of marks without a divisor in common with the ten colours lets a pair come back only after all the others.
    """
    return {label: (colour, mark) for label, colour, mark in zip(dict.fromkeys(labels), cycle(COLOURS), cycle(marks))}


def _looks(methods: Iterable[str]) -> dict[str, tuple]:
    """Colour and marker of each method: its own, that of the method it varies, or one of a colour that is left."""
    found = {title: LOOKS.get(title) or LOOKS.get(_varied(title)) for title in methods}
    taken = [look[0] for look in found.values() if look]
    left = [colour for colour in COLOURS if colour not in taken] or COLOURS  # two of one colour, where none is left
    free = (look for look in zip(cycle(COLOURS), cycle(MARKERS)) if look[0] in left)
    return {title: look or next(free) for title, look in found.items()}


def _varied(title: str) -> str:
    """Title of the method that another is a variation of, as ``Ours`` of ``Ours, longer``; else empty."""
    method = title.rpartition(", ")[0]
    return method if method in LOOKS and title not in LOOKS else ""


def _panels(number: int, size: tuple[float, float], *, columns: int = 0, **shared: bool) -> tuple[Figure, np.ndarray]:
    """A figure of ``size`` inches with ``number`` panels, in rows of ``columns`` or in one; axes left over are off."""
    columns = columns or number
    rows = -(-number // columns)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **shared)
    for axis in axes.flat[number:]:
        axis.set_axis_off()
    return figure, axes


def _dress(
    axis: Axes,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    *,
    labels: int = 8,
    ticks: int = 7,
    grid: str = "both",
) -> None:
    """Name a panel and its axes in small letters, and draw a pale grid across the axes ``grid`` (none if empty)."""
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(xlabel, fontsize=labels)
    axis.set_ylabel(ylabel, fontsize=labels)
    axis.tick_params(labelsize=ticks)
    if grid:
        axis.grid(axis=grid, alpha=0.3)


def _shared_legend(place: Axes | Figure, axes: np.ndarray, **options: object) -> None:
    """One legend of what is labelled in any of the panels."""
    found = [zip(*axis.get_legend_handles_labels(), strict=True) for axis in axes.flat]
    handles = {label: handle for handle, label in chain(*found)}
    place.legend(handles.values(), handles.keys(), fontsize=8, **options)


def curves(x: np.ndarray, values: Mapping[str, np.ndarray], *, xlabel: str, columns: int = 3) -> Figure:
    """One small panel for each quantity over a common axis.

    Args:
        x: Abscissae of all panels, shape ``(n,)``.
        values: Ordinates by title of the panel, each of shape ``(n,)``.
        xlabel: Label of the horizontal axis: what ``x`` counts.
        columns: Number of panels in a row.
    """
    size = (min(3 * columns, 10), 2 * -(-len(values) // columns))
    figure, axes = _panels(len(values), size, columns=columns, sharex=True)
    for index, (axis, (title, ordinates)) in enumerate(zip(axes.flat, values.items(), strict=False)):
        axis.plot(x, ordinates, color="C0", linewidth=1.2, marker="." if len(x) < 30 else "")
        lowest = index + columns >= len(values)
        _dress(axis, title, xlabel if lowest else "")
        if lowest:
            axis.tick_params(labelbottom=True)
    return figure


def ranked(values: Mapping[str, np.ndarray], *, xlabel: str, ylabel: str) -> Figure:
    """Several descending sequences against rank, such as eigenvalues and Rayleigh quotients.

    Args:
        values: Sequences by label, each of shape ``(n,)`` and in the order it is to be drawn.
        xlabel: Label of the horizontal axis: what the rank counts, from 1.
        ylabel: Label of the vertical axis: what the values are.
    """
    figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
    styles = _styles(values, "o^sDv<>")
    for label, sequence in values.items():
        colour, marker = styles[label]
        axis.plot(
            np.arange(1, len(sequence) + 1),
            sequence,
            marker=marker,
            markersize=4 if len(sequence) < 40 else 2.5,
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
        values: Matrices by title, each of shape ``(rows, columns)``, in [0, 1].
        xlabel: Label of the horizontal axis: what the columns are, counted from 1.
        ylabel: Label of the vertical axis: what the rows are, counted from 1.
    """
    rows, columns = next(iter(values.values())).shape
    width = 9.5 / len(values)
    figure, axes = _panels(len(values), (9.5, min(4.0, width * rows / columns + 0.9)), sharey=True)
    for axis, (title, matrix) in zip(axes.flat, values.items(), strict=True):
        drawn = axis.imshow(
            matrix,
            vmin=0,
            vmax=1,
            cmap="viridis",
            aspect="auto",
            extent=(0.5, columns + 0.5, rows + 0.5, 0.5),
            interpolation="nearest",
        )
        _dress(axis, title, xlabel, ticks=8, grid="")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].set_ylabel(ylabel, fontsize=8)
    figure.colorbar(drawn, ax=axes, label="absolute correlation")
    return figure


def seed_strips(values: pd.DataFrame, *, ylabel: str, gains: bool = False) -> Figure:
    """Every seed of every method as a dot, the mean as a bar; every panel has a scale of its own.

    Args:
        values: Frame of columns ``panel``, ``method`` (in the order to be drawn) and ``value`` (a fraction).
        ylabel: Label of the vertical axis: what the values are.
        gains: Whether values are differences: then they are signed points, on one scale, beside a line at 0.
    """
    if values.empty:
        return nothing_run()
    panels, methods = list(dict.fromkeys(values["panel"])), list(dict.fromkeys(values["method"]))
    palette = {method: colour for method, (colour, _) in _looks(methods).items()}
    if len(methods) > len(COLOURS):  # two of one colour would seem to belong together
        palette = dict.fromkeys(methods, BLUE)
    width = 2.6 if gains else 3.2  # one scale for all takes less room
    figure, axes = _panels(len(panels), (width * len(panels), 3), sharey=gains)
    for axis, panel in zip(axes.flat, panels, strict=True):
        if gains:
            axis.axhline(0, color="0.6", linewidth=0.8)
        for method, seeds in values[values["panel"] == panel].groupby("method", sort=False)["value"]:
            place = methods.index(method)
            axis.hlines(seeds.mean(), place - 0.3, place + 0.3, color=palette[method], linewidth=2.5)
            offsets = np.linspace(-0.12, 0.12, len(seeds)) if len(seeds) > 1 else np.zeros(1)
            axis.scatter(
                place + offsets, seeds, color=palette[method], edgecolor="white", linewidth=0.6, s=34, zorder=3
            )
        axis.set_title(panel, fontsize=9)
        axis.set_xticks(range(len(methods)), methods, rotation=30, ha="right", fontsize=8)
        axis.set_xlim(-0.6, len(methods) - 0.4)
        axis.grid(axis="y", alpha=0.3)
        axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:+.1f}" if gains else f"{100 * value:g}%")
    axes[0, 0].set_ylabel(ylabel)
    return figure


def paired_runs(values: pd.DataFrame, intervals: pd.DataFrame, *, ylabel: str) -> Figure:
    """Every run under several treatments, the dots of a seed joined by a line; at the side of each, an interval.

    Args:
        values: Frame of columns ``panel`` and ``treatment`` (in the order to be drawn), ``seed`` and ``value`` (a
            fraction).
        intervals: Frame of columns ``panel``, ``treatment``, ``estimate``, ``low`` and ``high`` (fractions).
        ylabel: Label of the vertical axis: what the values are.
    """
    if values.empty:
        return nothing_run()
    panels, treatments = list(dict.fromkeys(values["panel"])), list(dict.fromkeys(values["treatment"]))
    figure, axes = _panels(len(panels), (3.4 * len(panels), 3.2))
    for axis, panel in zip(axes.flat, panels, strict=True):
        wide = values[values["panel"] == panel].pivot(index="seed", columns="treatment", values="value")
        wide = wide.reindex(columns=treatments)  # a treatment that the panel lacks has NaN, which is not drawn
        axis.plot(range(len(treatments)), wide.to_numpy().T, color="0.7", linewidth=1, zorder=1)
        spans = intervals[intervals["panel"] == panel]
        for place, (treatment, colour) in enumerate(zip(treatments, cycle(COLOURS))):
            axis.scatter(np.full(len(wide), place), wide[treatment], color=colour, edgecolor="white", s=34, zorder=3)
            for span in spans[spans["treatment"] == treatment].itertuples():
                axis.vlines(place + 0.22, span.low, span.high, color=colour, linewidth=2)
                axis.hlines(span.estimate, place + 0.14, place + 0.3, color=colour, linewidth=2)
        axis.set_title(panel, fontsize=9)
        axis.set_xticks(range(len(treatments)), treatments, fontsize=8)
        axis.set_xlim(-0.4, len(treatments) - 0.5)
        axis.grid(axis="y", alpha=0.3)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes[0, 0].set_ylabel(ylabel)
    return figure


def noise_bands(
    values: pd.DataFrame, bands: pd.DataFrame, *, ylabel: str, width: float = 3.4, connected: bool = True
) -> Figure:
    """What each value changes: seeds as thin lines, their mean as a thick one, and the band that noise would keep to.

    The mean has another colour where it leaves the band. Titles break in two before ``for``.

    Args:
        values: Frame of columns ``panel`` and ``value`` (in the order to be drawn), ``seed`` and ``change`` (a
            fraction).
        bands: Frame by panel: ``low`` and ``high``, ends of the band (fractions; NaN for none), and ``exceeds``.
        ylabel: Label of the vertical axis: what changes.
        width: Width of a panel in inches.
        connected: Whether lines join the values, which names have no order for.
    """
    if values.empty:
        return nothing_run()
    panels = list(dict.fromkeys(values["panel"]))
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    turned = {"rotation": 30, "ha": "right"} if values["value"].str.len().max() > 5 else {}
    size = (width * columns, (3.5 if turned else 2.7) * rows)
    thin, thick = (0.8, 2.2) if connected else (0.0, 0.0)
    figure, axes = _panels(len(panels), size, columns=columns)
    for axis, panel in zip(axes.flat, panels, strict=False):
        wide = values[values["panel"] == panel].pivot(index="seed", columns="value", values="change")
        wide = wide[list(dict.fromkeys(values.loc[values["panel"] == panel, "value"]))]
        band = bands.loc[panel]
        colour = ORANGE if band["exceeds"] else BLUE
        if band["low"] <= band["high"]:
            axis.axhspan(band["low"], band["high"], color="0.88", linewidth=0, zorder=0)
        axis.plot(range(wide.shape[1]), wide.T, color="0.6", linewidth=thin, marker=".", markersize=5, zorder=1)
        axis.plot(range(wide.shape[1]), wide.mean(), color=colour, linewidth=thick, marker="o", markersize=6, zorder=3)
        _dress(axis, _broken(panel), ticks=8, grid="")
        axis.set_xticks(range(wide.shape[1]), wide.columns, **turned)
        axis.set_xlim(-0.3, wide.shape[1] - 0.7)
        axis.yaxis.set_major_formatter(lambda change, _: f"{100 * change:+.1f}")
    for axis in axes[:, 0]:
        axis.set_ylabel(ylabel, fontsize=8)
    handles = [
        Patch(color="0.88", label="what seeds alone reach"),
        Line2D([], [], color="0.6", linewidth=thin, marker=".", label="a seed"),
    ]
    for exceeds, colour, how in ((False, BLUE, "within"), (True, ORANGE, "exceeds")):
        if (bands.loc[panels, "exceeds"] == exceeds).any():
            label = f"mean, {how} seed noise"
            handles.append(Line2D([], [], color=colour, linewidth=thick, marker="o", label=label))
    across = min(len(handles), max(1, int(size[0] / 1.6)))
    figure.legend(handles=handles, loc="outside upper center", ncols=across, fontsize=8, frameon=False)
    return figure


def noise_widths(values: pd.DataFrame, *, xlabel: str) -> Figure:
    """How far values lie apart, one line for each ablation, beside how far seeds alone move them.

    Args:
        values: Frame of columns ``label``, ``here`` (range of the means over seeds), ``noise`` (what seeds alone reach,
            NaN where not known), ``paper`` (range of its single runs, NaN where it has none), ``exceeds``; fractions.
        xlabel: Label of the horizontal axis.
    """
    if values.empty:
        return nothing_run()
    places, points = np.arange(len(values)), 100 * values[["here", "noise", "paper"]]
    figure, axis = plt.subplots(figsize=(7, 0.42 * len(values) + 1.2), layout="constrained")
    axis.barh(places, points["noise"], height=0.62, color="0.88", label="what seeds alone reach", zorder=1)
    for exceeds, colour, label in ((False, BLUE, "within seed noise"), (True, ORANGE, "exceeds it")):
        chosen = (values["exceeds"] == exceeds).to_numpy()
        axis.hlines(places[chosen], 0, points["here"][chosen], color=colour, linewidth=2, zorder=2)
        axis.scatter(points["here"][chosen], places[chosen], color=colour, s=46, zorder=3, label=f"here, {label}")
    axis.scatter(
        points["paper"],
        places,
        marker="D",
        s=34,
        facecolor="none",
        edgecolor="0.25",
        label="paper, single runs",
        zorder=3,
    )
    _dress(axis, xlabel=xlabel, ticks=8, grid="x")
    axis.set_yticks(places, values["label"].map(_broken))
    axis.set_ylim(len(values) - 0.4, -0.6)
    axis.set_xlim(left=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    figure.legend(loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    return figure


def _broken(title: str) -> str:
    """A title in two lines where it says what something stands in ``for``, which makes it too long for one."""
    return title.replace(" for ", "\nfor ")


def class_scores(values: pd.DataFrame, *, xlabel: str) -> Figure:
    """Scores by class: the mean of each method as a dot, the range over its seeds as a line.

    Args:
        values: Frame of columns ``class`` and ``method`` (both in the order to be drawn), ``mean``, ``low`` and
            ``high`` (fractions).
        xlabel: Label of the horizontal axis: what the values are.
    """
    if values.empty:
        return nothing_run()
    classes, styles = list(dict.fromkeys(values["class"])), _looks(values["method"])
    offsets = np.linspace(-0.27, 0.27, len(styles)) if len(styles) > 1 else [0.0]
    figure, axis = plt.subplots(figsize=(6.5, 0.55 * len(classes) + 1.2), layout="constrained")
    for offset, (method, (colour, marker)) in zip(offsets, styles.items(), strict=True):
        chosen = values[values["method"] == method].set_index("class").reindex(classes)
        places = np.arange(len(classes)) + offset
        axis.hlines(places, chosen["low"], chosen["high"], color=colour, linewidth=2, alpha=0.6)
        axis.scatter(chosen["mean"], places, color=colour, marker=marker, s=26, label=method, zorder=3)
    for border in np.arange(len(classes) - 1) + 0.5:
        axis.axhline(border, color="0.85", linewidth=0.6)
    axis.set_yticks(range(len(classes)), classes, fontsize=9)
    axis.set_ylim(len(classes) - 0.5, -0.5)
    axis.set_xlim(left=-0.02 * values["high"].max())  # room for a marker at 0
    axis.set_xlabel(xlabel)
    axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=min(len(styles), 4), fontsize=8, frameon=False)
    return figure


def frame_times(values: pd.DataFrame, *, xlabel: str) -> Figure:
    """When the frames of films were taken: a row for each drive, a tick for each frame, above the line or below it.

    Args:
        values: Frame of columns ``drive`` (in the order to be drawn), ``split`` (of which there are two at most) and
            ``seconds``.
        xlabel: Label of the horizontal axis.
    """
    if values.empty:
        return nothing_run()
    films, splits = list(dict.fromkeys(values["drive"])), sorted(set(values["split"]))
    figure, axis = plt.subplots(figsize=(8, 0.7 * len(films) + 1.2), layout="constrained")
    for number, (split, colour) in enumerate(zip(splits, (BLUE, ORANGE), strict=False)):
        chosen = values[values["split"] == split]
        places = chosen["drive"].map(films.index).to_numpy() + 0.36 * (number - (len(splits) - 1) / 2)
        axis.vlines(chosen["seconds"], places - 0.16, places + 0.16, color=colour, linewidth=0.8, label=split)
    _dress(axis, xlabel=xlabel, ticks=8, grid="x")
    axis.set_yticks(range(len(films)), films)
    axis.set_ylim(len(films) - 0.4, -0.6)
    figure.legend(loc="outside upper center", ncols=len(splits), fontsize=8, frameon=False)
    return figure


def sorted_differences(values: np.ndarray, *, xlabel: str, ylabel: str) -> Figure:
    """Differences in ascending order around a zero line, losses and gains in two colours.

    Args:
        values: Differences, ascending, shape ``(n,)``.
        xlabel: Label of the horizontal axis: what is ranked.
        ylabel: Label of the vertical axis: what the differences are of, and their unit.
    """
    figure, axis = plt.subplots(figsize=(6, 2.8), layout="constrained")
    colours = [BLUE if value > 0 else ORANGE for value in values]
    axis.bar(np.arange(1, len(values) + 1), values, width=0.9 if len(values) < 40 else 1.0, color=colours)
    axis.axhline(0, color="0.2", linewidth=0.8)
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(axis="y", alpha=0.3)
    return figure


def matrix_panels(
    matrices: Mapping[str, np.ndarray],
    *,
    borders: Sequence[float] = (),
    label: str = "",
    extent: float | None = None,
    axis_label: str = "node",
    logarithmic: bool = False,
) -> Figure:
    """Square matrices beside each other on one colour scale, with lines between blocks.

    Args:
        matrices: Matrices by title, each of shape ``(n, n)``, non-negative.
        borders: Positions where a block ends, in units of the axes.
        label: Label of the colour scale: what the entries are.
        extent: Length of the axes where a matrix cell stands for several nodes; default: ``n``.
        axis_label: Label of both axes: what rows and columns are.
        logarithmic: Whether to colour by the logarithm; zeros stay white.
    """
    figure, axes = _panels(len(matrices), (3.1 * len(matrices) + 0.6, 3.2))
    largest = max(matrix.max() for matrix in matrices.values())
    smallest = min(matrix[matrix > 0].min() for matrix in matrices.values())
    norm = LogNorm(min(smallest, largest / 1.01), largest) if logarithmic else plt.Normalize(0, largest)
    for axis, (title, matrix) in zip(axes.flat, matrices.items(), strict=True):
        length = extent or len(matrix)
        drawn = axis.imshow(
            np.ma.masked_equal(matrix, 0),
            norm=norm,
            cmap="viridis_r",
            extent=(0, length, length, 0),
            interpolation="nearest",
        )
        for border in borders:
            axis.axhline(border, color="0.6", linewidth=0.4)
            axis.axvline(border, color="0.6", linewidth=0.4)
        _dress(axis, title, axis_label, grid="")
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes[0, 0].set_ylabel(axis_label, fontsize=8)
    colour_bar(figure, drawn, axes, label, shrink=0.85)
    return figure


def block_eigenvectors(
    shuffled: np.ndarray, ordered: np.ndarray, eigenvectors: np.ndarray, eigenvalues: np.ndarray, sizes: Sequence[int]
) -> Figure:
    """A graph with planted blocks: its affinity as given, sorted by block, and its first eigenvectors.

    Args:
        shuffled: Affinity in the order given, shape ``(n, n)``.
        ordered: Affinity with the nodes sorted by block, shape ``(n, n)``.
        eigenvectors: Eigenvectors of the ordered Laplacian as columns, shape ``(n, m)``.
        eigenvalues: Eigenvalues of the ordered Laplacian, shape ``(m,)``.
        sizes: Number of nodes of each block.
    """
    ends = np.cumsum(sizes)
    figure, axes = plt.subplots(
        1, 3, figsize=(9.6, 2.9), layout="constrained", gridspec_kw={"width_ratios": (1, 1, 1.7)}
    )
    for axis, matrix, title in zip(axes, (shuffled, ordered), ("as given", "sorted by block"), strict=False):
        axis.imshow(matrix, cmap="Greys", vmin=0, extent=(0, ends[-1], ends[-1], 0), interpolation="nearest")
        _dress(axis, f"affinity, {title}", "node", grid="")
    for end in ends[:-1]:
        axes[1].axhline(end, color=ORANGE, linewidth=1)
        axes[1].axvline(end, color=ORANGE, linewidth=1)
        axes[2].axvline(end - 0.5, color="0.7", linewidth=0.8)
    labels = [f"$\\lambda_{{{j}}}$ = {abs(eigenvalue):.3f}" for j, eigenvalue in enumerate(eigenvalues, start=1)]
    for vector, (label, (colour, marker)) in zip(eigenvectors.T, _styles(labels, "o^sDv<>").items(), strict=True):
        axes[2].plot(vector, marker=marker, markersize=2.5, linewidth=0, color=colour, label=label)
    _dress(axes[2], "eigenvectors, sorted by block", "node", "entry", grid="")
    axes[2].legend(fontsize=8, markerscale=2, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return figure


def spectrum_and_gaps(eigenvalues: np.ndarray, *, marked: int) -> Figure:
    """Laplacian eigenvalues and the gaps between them, one gap marked.

    Args:
        eigenvalues: Eigenvalues of the Laplacian, ascending, shape ``(n,)``.
        marked: Number of eigenvalues after which the gap is highlighted.
    """
    rank = np.arange(1, len(eigenvalues) + 1)
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 2.9), sharex=True, layout="constrained")
    axes[0].plot(rank, eigenvalues, marker="o", markersize=4, linewidth=0.8, color=BLUE)
    axes[0].axvline(marked + 0.5, color=ORANGE, linewidth=1, linestyle="--")
    gaps = np.diff(eigenvalues)
    colours = [ORANGE if index == marked - 1 else BLUE for index in range(len(gaps))]
    axes[1].bar(rank[:-1], gaps, color=colours, width=0.7)
    for axis, ylabel in zip(axes, ("eigenvalue of the Laplacian", "gap to the next eigenvalue"), strict=True):
        _dress(axis, "", "rank", ylabel, labels=9, ticks=8, grid="y")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def cut_sweep(entries: np.ndarray, cuts: np.ndarray, *, bound: float) -> Figure:
    """A bipartition by threshold: the sorted entries and the normalised cut of each split between them.

    Args:
        entries: Entries of the relaxed indicator, ascending, shape ``(n,)``.
        cuts: Normalised cut between the first ``m`` entries and the rest, for ``m = 1 .. n - 1``, shape ``(n - 1,)``.
        bound: Lower bound of every cut.
    """
    best = int(cuts.argmin())
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 2.9), sharex=True, layout="constrained")
    axes[0].plot(np.arange(1, len(entries) + 1), entries, color=BLUE, linewidth=1.5)
    axes[1].plot(np.arange(1, len(entries)), cuts, color=BLUE, linewidth=1.5, label="normalised cut of the split")
    axes[1].axhline(bound, color="0.3", linewidth=1, linestyle=":", label="lower bound $\\lambda_2$")
    axes[1].plot(best + 1, cuts[best], "o", color=ORANGE, markersize=5, label="least cut")
    axes[1].set_yscale("log")
    axes[1].legend(fontsize=8)
    for axis, ylabel in zip(axes, ("relaxed indicator $y$", "normalised cut"), strict=True):
        axis.axvline(best + 1, color=ORANGE, linewidth=0.8, linestyle="--")
        _dress(axis, "", "patches, sorted by $y$", ylabel, labels=9, ticks=8)
    return figure


def embedding_panels(
    points: np.ndarray, colours: Mapping[str, np.ndarray], *, axes_shown: Sequence[tuple[int, int]], label: str
) -> Figure:
    """Points in several planes of their space (columns), once in each colouring (rows).

    Args:
        points: Points as rows, shape ``(n, d)``.
        colours: Colours of the points by title of the row, each of shape ``(n, 3)``, in [0, 1].
        axes_shown: Pairs of coordinates to draw, counted from 0.
        label: Name of a coordinate; its number, from 1, follows.
    """
    rows, columns = len(colours), len(axes_shown)
    figure, axes = _panels(rows * columns, (2.7 * columns + 0.3, 2.3 * rows + 0.2), columns=columns)
    for row, (title, shades) in enumerate(colours.items()):
        for axis, (first, second) in zip(axes[row], axes_shown, strict=True):
            axis.scatter(
                points[:, first], points[:, second], c=shades, s=14, linewidth=0.3, edgecolor="0.4", rasterized=True
            )
            _dress(axis, "", f"{label} {first + 1}", f"{label} {second + 1}")
        axes[row, columns // 2].set_title(title, fontsize=9)
    return figure


def lines(
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    *,
    xlabels: Sequence[str],
    ylabels: Sequence[str],
    logarithmic: Sequence[str] = (),
) -> Figure:
    """Panels of labelled curves that share their legend.

    Args:
        panels: Curves by title of the panel and by label: abscissae and ordinates, both ``(n,)``.
        xlabels: Labels of the horizontal axes, one for each panel.
        ylabels: Labels of the vertical axes, one for each panel.
        logarithmic: Titles of the panels whose horizontal axis is logarithmic.
    """
    figure, axes = _panels(len(panels), (4.2 * len(panels), 2.9))
    dashes = ("-", "--", "-.", ":", (0, (1, 1)), (0, (6, 1)), (0, (3, 1, 1, 1, 1, 1)))
    styles = _styles(chain(*panels.values()), dashes)
    for index, (axis, (title, curves_of)) in enumerate(zip(axes.flat, panels.items(), strict=True)):
        for label, (x, y) in curves_of.items():
            colour, style = styles[label]
            axis.plot(x, y, label=label, linestyle=style, color=colour, linewidth=1.6)
        if title in logarithmic:
            axis.set_xscale("log")
        _dress(axis, title, xlabels[index], ylabels[index])
    _shared_legend(axes[0, 0], axes)
    return figure


def histograms(values: Mapping[str, Mapping[str, np.ndarray]], *, xlabel: str, ylabel: str, bins: np.ndarray) -> Figure:
    """Panels of outlined histograms with equal bins and shares of the whole as heights.

    Args:
        values: Samples by title of the panel and by label, each of shape ``(n,)``.
        xlabel: Label of the horizontal axis: what is counted.
        ylabel: Label of the vertical axis: what the heights are shares of.
        bins: Borders of the bins, ascending.
    """
    figure, axes = _panels(len(values), (3.2 * len(values), 2.8), sharex=True, sharey=True)
    styles = _styles(chain(*values.values()), ("-", "--", ":"))
    for axis, (title, samples) in zip(axes.flat, values.items(), strict=True):
        for label, sample in samples.items():
            if len(sample):
                colour, style = styles[label]
                counts, _ = np.histogram(sample, bins)
                axis.stairs(counts / len(sample), bins, label=label, color=colour, linestyle=style, linewidth=1.6)
        _dress(axis, title, xlabel)
    axes[0, 0].set_ylabel(ylabel, fontsize=8)
    _shared_legend(axes[0, 0], axes)
    return figure


def function_traces(
    steps: np.ndarray,
    panels: Mapping[str, np.ndarray],
    *,
    ylabel: str,
    number: str = "function",
    threshold: float | None = None,
) -> Figure:
    """One curve for each function over training, coloured by its number; a panel for each training.

    Args:
        steps: Steps of the values, ascending from 0, shape ``(n,)``; drawn on a logarithmic scale that begins with 0.
        panels: Values by title of the panel, each of shape ``(n, K)``, in [0, 1].
        ylabel: Label of the vertical axis: what the values are.
        number: Label of the colour scale: what is numbered from 1 to K.
        threshold: Value to mark by a line; ``None``: none.
    """
    figure, axes = _panels(len(panels), (4.4 * len(panels) + 0.6, 3), sharey=True)
    K = max(values.shape[1] for values in panels.values())
    norm = plt.Normalize(1, max(K, 2))
    for axis, (title, values) in zip(axes.flat, panels.items(), strict=True):
        for index in reversed(range(values.shape[1])):
            colour = plt.cm.viridis_r(norm(index + 1))
            axis.plot(steps, values[:, index], color=colour, linewidth=1.4, marker=".", markersize=4)
        if threshold is not None:
            axis.axhline(threshold, color=ORANGE, linewidth=1, linestyle="--", zorder=0)
            at = {"x": 0.01, "y": threshold - 0.05, "transform": axis.get_yaxis_transform()}
            axis.text(**at, s=f"{threshold:g}", color=ORANGE, fontsize=8)
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xlim(-0.1, 1.1 * steps[-1])
        axis.set_ylim(-0.02, 1.03)
        _dress(axis, title, "step")
    axes[0, 0].set_ylabel(ylabel, fontsize=8)
    scale = plt.cm.ScalarMappable(norm=norm, cmap="viridis_r")
    colour_bar(figure, scale, axes, number, shrink=0.9).ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def paired_functions(
    exact: np.ndarray, learned: np.ndarray, titles: Sequence[str], *, borders: Sequence[float] = ()
) -> Figure:
    """Functions over the nodes of a graph, the exact one as a line and the learned one as dots, a panel for each.

    Args:
        exact: Exact functions as columns over the nodes in the order to be drawn, shape ``(N, K)``.
        learned: Learned functions in the order, sign and scale of the exact ones, shape ``(N, K)``.
        titles: Titles, one for each panel.
        borders: Positions where a block of nodes ends.
    """
    K = exact.shape[1]
    columns = min(5, K)
    size = (2 * columns, 1.55 * -(-K // columns) + 0.4)
    figure, axes = _panels(K, size, columns=columns, sharex=True, sharey=True)
    for index, axis in enumerate(axes.flat[:K]):
        for border in borders:
            axis.axvline(border - 0.5, color="0.85", linewidth=0.6)
        (dots,) = axis.plot(learned[:, index], ".", color=ORANGE, markersize=3)
        (line,) = axis.plot(exact[:, index], color=BLUE, linewidth=0.8)
        axis.set_title(titles[index], fontsize=8, pad=3)
        axis.tick_params(labelsize=6)
    for axis in axes[-1]:
        axis.set_xlabel("node", fontsize=8)
    handles = {"exact eigenvector": line, "function of ψ": dots}
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=2, fontsize=8, frameon=False, markerscale=2
    )
    return figure


def growth(
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    fits: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    *,
    xlabel: str,
    ylabels: Sequence[str],
    limits: Sequence[tuple[float, str]],
) -> Figure:
    """Measurements against size on logarithmic axes, with the power laws through them and a limit to reach.

    Args:
        panels: Measurements by title of the panel and by label of the series: sizes and values, both ``(n,)``.
        fits: Lines in the form of ``panels``; a series that is only computed has a line and no points.
        xlabel: Label of the horizontal axis: what the sizes count.
        ylabels: Labels of the vertical axes, one for each panel.
        limits: Value that cannot be exceeded and its name, for each panel.
    """
    figure, axes = _panels(len(panels), (4.6 * len(panels), 3.4))
    styles = _styles(chain(*fits.values(), *panels.values()))
    for index, (axis, (title, points)) in enumerate(zip(axes.flat, panels.items(), strict=True)):
        dashes = cycle((":", "-.", (0, (6, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1))))
        for label, (sizes, values) in fits[title].items():
            look = {"linestyle": "-"} if label in points else {"linestyle": next(dashes), "label": label}
            axis.plot(sizes, values, color=styles[label][0], linewidth=1, **look)
        for label, (sizes, values) in points.items():
            colour, marker = styles[label]
            axis.plot(sizes, values, marker, color=colour, markersize=5, label=label)
        limit, name = limits[index]
        axis.axhline(limit, color="0.3", linewidth=1, linestyle="--", label=name)
        axis.set(xscale="log", yscale="log")
        _dress(axis, title, xlabel, ylabels[index])
        axis.legend(fontsize=7)
    return figure


def scores_against_costs(values: pd.DataFrame, *, xlabel: str, ylabel: str) -> Figure:
    """Score against cost on a logarithmic axis: a mark for each method, bars over the range of its seeds.

    Args:
        values: Frame of columns ``panel`` and ``method`` (both in the order to be drawn); ``cost``, ``cost_low``,
            ``cost_high`` (positive); ``score``, ``score_low``, ``score_high`` (fractions).
        xlabel: Label of the horizontal axis: what the costs are.
        ylabel: Label of the vertical axis: what the scores are.
    """
    if values.empty:
        return nothing_run()
    panels, styles = list(dict.fromkeys(values["panel"])), _looks(values["method"])
    figure, axes = _panels(len(panels), (4.4 * len(panels) + 1, 3.4))
    for axis, panel in zip(axes.flat, panels, strict=True):
        for row in values[values["panel"] == panel].itertuples():
            colour, marker = styles[row.method]
            axis.hlines(row.score, row.cost_low, row.cost_high, color=colour, linewidth=1.5, alpha=0.7)
            axis.vlines(row.cost, row.score_low, row.score_high, color=colour, linewidth=1.5, alpha=0.7)
            look = {"color": colour, "markersize": 7, "markeredgecolor": "white", "markeredgewidth": 0.6}
            axis.plot(row.cost, row.score, marker, label=row.method, **look)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
    return _dress_scores(figure, axes, panels, xlabel, ylabel)


def _dress_scores(figure: Figure, axes: np.ndarray, panels: Sequence[str], xlabel: str, ylabel: str) -> Figure:
    """Name panels of scores, which are fractions, and their axes, with the legend of all methods to the right."""
    for axis, panel in zip(axes.flat, panels, strict=True):
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        _dress(axis, panel, xlabel, labels=9, ticks=8)
    axes[0, 0].set_ylabel(ylabel, fontsize=9)
    _shared_legend(figure, axes, loc="outside right center", frameon=False)
    return figure


def scores_by_size(values: pd.DataFrame, *, xlabel: str, ylabel: str) -> Figure:
    """Score against size on a logarithmic axis: a line through the means of each method, bars over its seeds.

    What only varies a method has its colour, and a dashed line with hollow marks.

    Args:
        values: Frame of columns ``panel`` and ``method`` (both in the order to be drawn), ``size`` (positive) and
            ``score`` (a fraction), a row for each seed.
        xlabel: Label of the horizontal axis: what the sizes count.
        ylabel: Label of the vertical axis: what the scores are.
    """
    if values.empty:
        return nothing_run()
    panels, styles = list(dict.fromkeys(values["panel"])), _looks(values["method"])
    figure, axes = _panels(len(panels), (4.4 * len(panels) + 1, 3.4))
    beside = dict(zip(styles, 1.05 ** (np.arange(len(styles)) - (len(styles) - 1) / 2), strict=True))
    for axis, panel in zip(axes.flat, panels, strict=True):
        of_panel = values[values["panel"] == panel]
        for method, group in of_panel.groupby("method", sort=False):
            colour, marker = styles[method]
            scores = group.groupby("size")["score"].agg(["mean", "min", "max"])
            places = scores.index * beside[method]  # so that bars do not hide each other
            axis.vlines(places, scores["min"], scores["max"], color=colour, linewidth=1.2, alpha=0.6)
            look = {"color": colour, "marker": marker, "markersize": 6, "linewidth": 1.4}
            if _varied(method):
                look |= {"linestyle": "--", "markerfacecolor": "white"}
            axis.plot(places, scores["mean"], label=method, **look)
        axis.set_xscale("log")
        sizes = sorted(of_panel["size"].unique())
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.minorticks_off()
    return _dress_scores(figure, axes, panels, xlabel, ylabel)


def change_strips(values: pd.DataFrame, *, xlabel: str, ylabel: str) -> Figure:
    """How a score changes with a setting: every seed as a dot, their mean as a line, the paper's numbers as diamonds.

    Args:
        values: Frame of columns ``panel`` and ``value`` (in the order to be drawn), ``source`` (``paper`` or ``here``),
            ``seed`` and ``change`` (a fraction).
        xlabel: Label of the horizontal axis: what is varied.
        ylabel: Label of the vertical axis: what changes.
    """
    if values.empty:
        return nothing_run()
    panels, places = list(dict.fromkeys(values["panel"])), list(dict.fromkeys(values["value"]))
    figure, axes = _panels(len(panels), (min(4.2 * len(panels), 11), 3), sharey=True)
    for axis, panel in zip(axes.flat, panels, strict=True):
        for source, group in values[values["panel"] == panel].groupby("source"):
            at = group["value"].map(places.index)
            means = group["change"].groupby(at).mean()
            style = {"color": BLUE} if source == "here" else {"color": COLOURS[1], "linestyle": "--", "marker": "D"}
            axis.plot(means.index, means, label=source, markersize=5, **style)
            if source == "here":
                order, last = group["seed"].rank(method="dense") - 1, group["seed"].nunique() - 1
                beside = 0.12 * (order / last - 0.5) if last else 0  # so that equal changes do not hide each other
                axis.scatter(at + beside, group["change"], color=BLUE, edgecolor="white", s=30, zorder=3)
        axis.axhline(0, color="0.6", linewidth=0.8)
        _dress(axis, panel, xlabel, ticks=8, grid="y")
        axis.set_xticks(range(len(places)), [str(place).rpartition("=")[2] for place in places])
        axis.set_xlim(-0.35, len(places) - 0.65)
        axis.yaxis.set_major_formatter(lambda change, _: f"{100 * change:+.1f}")
    axes[0, 0].set_ylabel(ylabel, fontsize=8)
    _shared_legend(axes[0, 0], axes)
    return figure
