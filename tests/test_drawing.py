import numpy as np
import pytest

from neuralef.drawing import cluster_colours, order_from_top, overlay, paint, segment_colours


def test_ids_without_a_colour_are_painted_black():
    colours = np.array([[10, 20, 30], [40, 50, 60]], dtype=np.uint8)
    painted = paint(np.array([[0, 255], [1, 2]], dtype=np.uint8), colours)
    assert painted.dtype == np.uint8
    assert painted.tolist() == [[[10, 20, 30], [0, 0, 0]], [[40, 50, 60], [0, 0, 0]]]


@pytest.mark.parametrize("ids", [[[3, 3], [1, 1]], [[1, 1], [3, 3]], [[0, 0], [1, 1]]])
def test_alike_partitions_are_numbered_alike_from_the_top(ids):
    assert order_from_top(np.array(ids)).tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("clusters", [1, 2, 11, 64, 256])
def test_every_cluster_has_a_colour_of_its_own_and_keeps_it(clusters):
    colours = cluster_colours(clusters)
    assert (colours.shape, colours.dtype) == ((clusters, 3), np.uint8)
    assert len(np.unique(colours, axis=0)) == clusters
    assert np.array_equal(colours, cluster_colours(clusters))


@pytest.mark.parametrize(("height", "lines"), [(8, 1), (400, 2)])
def test_an_overlay_is_white_exactly_where_clusters_meet(height, lines):
    """Also not where the borders of the image would meet: the first and the last row of ids differ, as do columns."""
    ids = np.array([[0, 0, 1], [2, 2, 1]])
    picture = np.full((height, 12, 3), 100, dtype=np.uint8)
    drawn = overlay(picture, ids, num_clusters=3)
    pixels = ids.repeat(height // 2, axis=0).repeat(4, axis=1)
    for y, x in np.ndindex(pixels.shape):
        before = [*pixels[max(0, y - lines) : y, x], *pixels[y, max(0, x - lines) : x]]
        colour = 0.45 * picture[y, x] + 0.55 * segment_colours(3)[pixels[y, x]]
        expected = [255] * 3 if any(before != pixels[y, x]) else colour.astype(np.uint8).tolist()
        assert drawn[y, x].tolist() == expected, (y, x)
