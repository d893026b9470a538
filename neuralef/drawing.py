"""Photographs, maps and clusters as pictures: grids of them, colours for them, and what is drawn over them.

Maps that are never negative are drawn with viridis from 0, signed maps with coolwarm around 0, so that both can be read
without colour vision and signs show.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from neuralef.datasets.base import IGNORE_LABEL, SemanticClass


def draw_picture(axes: Axes, picture: np.ndarray, *, span: tuple[float, float] | None = None) -> None:
    """Draw an image or a map without ticks.

    Args:
        axes: Axes to draw into.
        picture: RGB image, shape ``(H, W, 3)``; or map, shape ``(H, W)``.
        span: Values at the ends of a map's colour scale; from 0 it is viridis, from below 0 coolwarm. Default: 0 to the
            map's maximum, or as far on both sides of 0 as a map with negative values reaches.
    """
    if picture.ndim == 3:
        axes.imshow(picture)
    else:
        limit = np.abs(picture).max()
        low, high = span or (-limit if picture.min() < 0 else 0, limit)
        axes.imshow(picture, cmap="coolwarm" if low < 0 else "viridis", vmin=low, vmax=high, interpolation="nearest")
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
    spans: Sequence[tuple[float, float] | None] = (),
    legend: Sequence[tuple[str, tuple[int, int, int]]] = (),
) -> Figure:
    """Images and maps in rows and columns.

    Args:
        pictures: RGB images ``(H, W, 3)`` and maps ``(H, W)`` in reading order, see :func:`draw_picture`.
        titles: Titles, one above each image, or ``columns`` of them above the first row alone.
        columns: Number of images in a row.
        row_titles: Titles, one at the left of each row.
        size: Width of an image in inches.
        spans: Colour scale of the maps of each column, where they are to share one; see :func:`draw_picture`.
        legend: Names and colours (0..255) explained below the images.

    Returns:
        A figure; axes left over in the last row are empty. Without images it says ``not run``.
    """
    if not pictures:
        return nothing_run()
    rows = -(-len(pictures) // columns)
    height, width = pictures[0].shape[:2]
    title_rows = 0 if not titles else rows if len(titles) > columns else 1
    legend_rows = -(-len(legend) // max(1, int(columns * size / 1.05)))  # about an inch for each entry
    legend_columns = -(-len(legend) // max(1, legend_rows))
    around = 0.17 * title_rows + (0.1 + 0.18 * legend_rows if legend else 0)  # inches of text above and below
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(columns * size + (0.2 if row_titles else 0), rows * size * height / width + around),
        squeeze=False,
        layout="constrained",
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for axis in axes.flat[len(pictures) :]:
        axis.set_axis_off()
    for index, (axis, picture) in enumerate(zip(axes.flat, pictures, strict=False)):
        draw_picture(axis, picture, span=spans[index % columns] if spans else None)
    for axis, title in zip(axes.flat, titles, strict=False):
        axis.set_title(title, fontsize=8, pad=3)
    for axis, title in zip(axes[:, 0], row_titles, strict=True) if row_titles else ():
        axis.set_ylabel(title, fontsize=8)
    if legend:
        handles = [Patch(facecolor=np.array(colour) / 255, edgecolor="0.3", label=name) for name, colour in legend]
        figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns, fontsize=8, frameon=False)
    return figure


def paint(ids: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Ids to colours.

    Args:
        ids: Id of every pixel, shape ``(H, W)``; an id without a colour (the ignore label) becomes black.
        colours: Colour of each id, shape ``(n, 3)``, uint8.

    Returns:
        Colour of every pixel, shape ``(H, W, 3)``, uint8.
    """
    padded = np.vstack([colours, np.zeros((1, 3), dtype=np.uint8)]).astype(np.uint8)
    return padded[np.minimum(ids.astype(np.int64), len(colours))]


def class_legend(classes: Sequence[SemanticClass], present: Collection[int]) -> list[tuple[str, tuple[int, int, int]]]:
    """Legend of :func:`image_grid` for maps of classes; black is explained where pixels are ignored.

    Args:
        classes: Classes of the dataset, in the order of their ids.
        present: Ids that the maps have, ``IGNORE_LABEL`` among them where it occurs.

    Returns:
        Names and colours, 0 to 255, of the classes that are present, in their order; last ``ignored``, if it occurs.
    """
    ignored = [("ignored", (0, 0, 0))] if IGNORE_LABEL in present else []
    return [(each.name, each.colour) for index, each in enumerate(classes) if index in present] + ignored


def cluster_colours(num_clusters: int) -> np.ndarray:
    """Colours that tell clusters apart: hues evenly around the circle in shuffled order, two lightnesses.

    Returns:
        Colour of each cluster, always the same, shape ``(num_clusters, 3)``, uint8.
    """
    palette = sns.husl_palette(num_clusters, s=0.85, l=0.55), sns.husl_palette(num_clusters, s=0.7, l=0.78)
    colours = np.array([palette[index % 2][index] for index in range(num_clusters)])
    return (255 * np.random.default_rng(0).permutation(colours)).round().astype(np.uint8)


def side_by_side(picture: np.ndarray, clusters: np.ndarray, *, num_clusters: int) -> np.ndarray:
    """An image and, to its right, its clusters in colour over it: RGB, shape ``(H, 2 W, 3)``, uint8.

    Args:
        picture: RGB image, shape ``(H, W, 3)``, uint8.
        clusters: Cluster of every pixel, shape ``(H, W)``.
        num_clusters: Number of colours to choose among, so that equal clusters of several images have equal colours.
    """
    return np.hstack([picture, overlay(picture, clusters, num_clusters=num_clusters, strength=0.65)])


def nothing_run() -> Figure:
    """What stands where nothing was run."""
    figure, axis = plt.subplots(figsize=(3, 0.6), layout="constrained")
    axis.text(0.5, 0.5, "not run", ha="center", va="center")
    axis.set_axis_off()
    return figure


def order_from_top(ids: np.ndarray) -> np.ndarray:
    """Renumber clusters by their mean row, the topmost first, so that alike partitions get alike colours.

    Args:
        ids: Cluster of every patch or pixel, shape ``(h, w)``.

    Returns:
        Renumbered clusters from 0, shape ``(h, w)``, int64.
    """
    present, index = np.unique(ids, return_inverse=True)
    rows = np.broadcast_to(np.arange(ids.shape[0])[:, None], ids.shape).ravel()
    mean_row = np.bincount(index.ravel(), rows) / np.bincount(index.ravel())
    place = np.empty(len(present), dtype=np.int64)
    place[np.argsort(mean_row, kind="stable")] = np.arange(len(present))
    return place[index].reshape(ids.shape)


def segment_colours(num_clusters: int) -> np.ndarray:
    """Colours of a few segments: the colour-blind-safe ones up to ten, else :func:`cluster_colours`.

    Args:
        num_clusters: Number of segments.

    Returns:
        Colour of each segment, shape ``(num_clusters, 3)``, uint8.
    """
    apart_first = [0, 1, 2, 4, 8, 7, 3, 9, 5, 6]  # of seaborn's palette: the first few differ most, then each four
    if num_clusters > len(apart_first):
        return cluster_colours(num_clusters)
    palette = np.array(sns.color_palette("colorblind", len(apart_first)))[apart_first[:num_clusters]]
    return (255 * palette).round().astype(np.uint8)


def overlay(picture: np.ndarray, ids: np.ndarray, *, num_clusters: int, strength: float = 0.55) -> np.ndarray:
    """Clusters in colour over an image, with a white line where they meet.

    Args:
        picture: RGB image, shape ``(H, W, 3)``, uint8.
        ids: Cluster of every patch, shape ``(h, w)``, below ``num_clusters``; ``H`` and ``W`` are multiples of ``h``
            and ``w``.
        num_clusters: Number of colours to choose among, see :func:`segment_colours`.
        strength: Weight of the colours against the image, 0 to 1.

    Returns:
        The image with its clusters, shape ``(H, W, 3)``, uint8.
    """
    pixels = ids.repeat(picture.shape[0] // ids.shape[0], axis=0).repeat(picture.shape[1] // ids.shape[1], axis=1)
    colours = paint(pixels, segment_colours(num_clusters))
    blended = ((1 - strength) * picture + strength * colours).astype(np.uint8)
    apart = np.zeros(pixels.shape, dtype=bool)
    for line in range(1, max(1, picture.shape[0] // 200) + 1):
        apart[line:] |= pixels[line:] != pixels[:-line]
        apart[:, line:] |= pixels[:, line:] != pixels[:, :-line]
    blended[apart] = 255
    return blended


def colour_bar(
    figure: Figure, drawn: ScalarMappable, axes: Axes | np.ndarray, label: str = "", **options: Any
) -> Colorbar:
    """Add the colour scale of what is drawn in some axes beside them, in small letters; options are matplotlib's."""
    bar = figure.colorbar(drawn, ax=axes, **options)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return bar


def _draw_patches(
    axes: Axes, picture: np.ndarray, weights: np.ndarray, *, selected: tuple[int, int] | None, limit: float
) -> None:
    """Draw a dimmed image and, over it, the patches of positive weight as squares; frame the selected one in red."""
    height, width = picture.shape[:2]
    extent = (0, weights.shape[1], weights.shape[0], 0)
    axes.imshow((0.45 * picture + 0.55 * 255).astype(np.uint8), extent=extent, aspect=height / width)
    axes.imshow(
        np.ma.masked_less_equal(weights, 0),
        cmap="viridis",
        vmin=0,
        vmax=limit,
        extent=extent,
        interpolation="nearest",
        aspect=height / width * weights.shape[1] / weights.shape[0],
    )
    if selected is not None:
        row, column = selected
        for colour, line in (("white", 3.5), ("#d62728", 2.0)):
            axes.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor=colour, linewidth=line))
    axes.set(xticks=[], yticks=[])


def patch_links(
    pictures: Sequence[np.ndarray],
    weights: Sequence[np.ndarray],
    titles: Sequence[str] = (),
    *,
    columns: int,
    selected: Sequence[tuple[int, int] | None],
    label: str | None,
) -> Figure:
    """What a patch is linked to, drawn on one or several images; one colour scale for all.

    Args:
        pictures: RGB images, each of shape ``(H, W, 3)``, uint8.
        weights: Weight of every patch of each image, shape ``(h, w)``; 0: no link.
        titles: Titles, one above each image.
        columns: Number of images in a row.
        selected: Row and column of the patch to frame in each image, or ``None``.
        label: Label of the colour scale: what the weights are; ``None`` where all are alike, and no scale is drawn.
    """
    rows = -(-len(pictures) // columns)
    size = 2.3  # inches of an image
    height = rows * (size + (0.2 if titles else 0))
    figure, axes = plt.subplots(
        rows, columns, figsize=(columns * size + (0.7 if label else 0), height), squeeze=False, layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    limit = max(max(values.max() for values in weights), 1e-12)
    for axis in axes.flat[len(pictures) :]:
        axis.set_axis_off()
    for axis, picture, values, patch in zip(axes.flat, pictures, weights, selected, strict=False):
        _draw_patches(axis, picture, values, selected=patch, limit=limit)
    for axis, title in zip(axes.flat, titles, strict=False):
        axis.set_title(title, fontsize=8, pad=3)
    if label is not None:
        scale = plt.cm.ScalarMappable(norm=plt.Normalize(0, limit), cmap="viridis")
        colour_bar(figure, scale, axes, label, shrink=0.8, aspect=25)
    return figure


def _draw_grid_lines(axes: Axes, picture: np.ndarray, grid: tuple[int, int]) -> None:
    """Draw an image and the borders of its patches, ``grid`` of them down and across."""
    height, width = picture.shape[:2]
    draw_picture(axes, picture)
    axes.hlines(np.arange(1, grid[0]) * height / grid[0] - 0.5, -0.5, width - 0.5, color="white", linewidth=0.4)
    axes.vlines(np.arange(1, grid[1]) * width / grid[1] - 0.5, -0.5, height - 0.5, color="white", linewidth=0.4)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def photograph_to_patches(
    picture: np.ndarray, colours: np.ndarray, similarity: np.ndarray, *, selected: tuple[int, int]
) -> Figure:
    """A photograph, its patches, their colours, and how similar each is to one of them.

    Args:
        picture: The photograph, shape ``(H, W, 3)``, uint8.
        colours: The photograph at patch resolution, shape ``(h, w, 3)``, in [0, 1].
        similarity: Cosine of each patch with the selected one, shape ``(h, w)``.
        selected: Row and column of the selected patch, framed in red.
    """
    figure, axes = plt.subplots(1, 4, figsize=(9.6, 2.6), layout="constrained")
    draw_picture(axes[0], picture)
    _draw_grid_lines(axes[1], picture, colours.shape[:2])
    draw_picture(axes[2], colours)
    drawn = axes[3].imshow(similarity, cmap="viridis", interpolation="nearest")
    axes[3].set(xticks=[], yticks=[])
    axes[3].add_patch(
        Rectangle((selected[1] - 0.5, selected[0] - 0.5), 1, 1, fill=False, edgecolor="#d62728", linewidth=2)
    )
    colour_bar(figure, drawn, axes[3], shrink=0.8)
    titles = ("photograph", f"{colours.shape[0]} x {colours.shape[1]} patches", "colour of each patch")
    for axis, title in zip(axes, (*titles, "cosine with the red patch"), strict=True):
        axis.set_title(title, fontsize=9)
    return figure


def window_cover(panels: Mapping[str, tuple[np.ndarray, Sequence[tuple[int, int, int, int]]]]) -> Figure:
    """Photographs with the windows that are cut from them and, below, how many windows each pixel lies in.

    The central square, all that the protocol of square crops sees, is dotted.

    Args:
        panels: Photographs by title, each uint8 ``(H, W, 3)`` with its windows as ``(top, left, bottom, right)`` in
            pixels of the size it is resized to, which they cover together.
    """
    sizes = [tuple(np.max([window[2:] for window in windows], axis=0)) for _, windows in panels.values()]
    figure, axes = plt.subplots(
        2,
        len(panels),
        figsize=(9.6, 0.6 + 2 * 8.8 / sum(width / height for height, width in sizes)),
        width_ratios=[width / height for height, width in sizes],
        squeeze=False,
        layout="constrained",
    )
    counts = [np.zeros(size, dtype=int) for size in sizes]
    for count, (_, windows) in zip(counts, panels.values(), strict=True):
        for top, left, bottom, right in windows:
            count[top:bottom, left:right] += 1
    most = max(count.max() for count in counts)
    colours = plt.get_cmap("viridis", most)
    for (above, below), count, (title, (picture, windows)) in zip(axes.T, counts, panels.items(), strict=True):
        height, width = count.shape
        above.imshow((0.6 * picture + 0.4 * 255).astype(np.uint8), extent=(0, width, height, 0))
        _outline_windows(above, windows)
        side = min(height, width)
        corner = ((width - side) / 2, (height - side) / 2)
        above.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="black", linewidth=1.2, linestyle=":"))
        above.set_title(title, fontsize=9)
        drawn = below.imshow(count, cmap=colours, vmin=0.5, vmax=most + 0.5, extent=(0, width, height, 0))
        for axis in (above, below):
            axis.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    colour_bar(figure, drawn, axes[1], "windows", ticks=range(1, most + 1), aspect=12)
    return figure


def _outline_windows(axes: Axes, windows: Sequence[tuple[int, int, int, int]]) -> None:
    """Numbered outlines, each a little further inside its window than the last, so that common borders show."""
    palette = sns.color_palette("colorblind")
    for index, (top, left, bottom, right) in enumerate(windows):
        colour, inset = palette[index % len(palette)], (0.015 + 0.015 * (index % 4)) * (bottom - top)
        size = (right - left - 2 * inset, bottom - top - 2 * inset)
        axes.add_patch(Rectangle((left + inset, top + inset), *size, fill=False, edgecolor=colour, linewidth=1.8))
        box = {"facecolor": "white", "edgecolor": colour, "pad": 1.5}
        axes.text(left + 2 * inset, top + 2 * inset, str(index + 1), fontsize=8, va="top", bbox=box)
