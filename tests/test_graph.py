import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import dense_feature_graph, dense_normalized_adjacency, dense_pixel_graph

from neuralef import graph, loops
from neuralef.config import Config
from neuralef.errors import InputError


def patches(images=2, h=4, w=5, channels=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(images, h, w, channels, generator=generator),
        torch.rand(images, h, w, 3, generator=generator),
    )


@pytest.mark.parametrize("neighbors", [1, 3, 39])
def test_feature_graph_is_equation_2(neighbors):
    features, _ = patches()
    flat = features.flatten(0, 2)
    torch.testing.assert_close(
        torch.from_numpy(graph.feature_graph(flat, neighbors).toarray()), dense_feature_graph(flat, neighbors)
    )


@pytest.mark.parametrize("length", [1, loops.COMPARED_TOGETHER - 1, loops.COMPARED_TOGETHER])
def test_a_bit_says_which_similarities_exceed_their_thresholds(length):
    similarities, thresholds = np.random.default_rng(0).random((2, length), dtype=np.float32)
    thresholds[0] = similarities[0]  # which is not more
    expected = sum(1 << bit for bit in np.flatnonzero(similarities > thresholds).tolist())
    assert loops._near(similarities, thresholds) == expected


@pytest.mark.parametrize("block", [(1, 1), (7, 3), (5, 40), (1000, 10)])
def test_neighbours_do_not_depend_on_the_block(block):
    flat = patches()[0].flatten(0, 2)
    whole = graph.nearest_neighbors(flat, 5)
    found = graph.nearest_neighbors(flat, 5, block=block)
    assert [set(row.tolist()) for row in found[0]] == [set(row.tolist()) for row in whole[0]]


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize(("N", "neighbors"), [(700, 3), (700, 40), (1300, 100), (700, 699)])
def test_neighbours_are_those_of_the_whole_similarity_matrix(monkeypatch, N, neighbors, onednn):
    monkeypatch.setattr(graph, "onednn_is_faster", lambda: onednn)
    flat = torch.randn(N, 12, generator=torch.Generator().manual_seed(N))
    similarity = F.normalize(flat, dim=1) @ F.normalize(flat, dim=1).T
    similarity.fill_diagonal_(-torch.inf)
    expected = similarity.topk(neighbors, dim=1)
    indices, cosines = graph.nearest_neighbors(flat, neighbors)
    torch.testing.assert_close(cosines.sort(dim=1, descending=True).values, expected.values)
    assert [set(row.tolist()) for row in indices] == [set(row.tolist()) for row in expected.indices]


def test_patches_whose_first_threshold_was_too_high_still_find_their_neighbours(monkeypatch):
    flat = torch.randn(800, 30, generator=torch.Generator().manual_seed(0))
    similarity = F.normalize(flat, dim=1) @ F.normalize(flat, dim=1).T
    similarity.fill_diagonal_(-torch.inf)
    nearest = similarity.topk(200).indices
    thresholds = similarity.topk(200).values[:, -1].numpy()
    thresholds[:5] += 0.1  # fewer than 200 patches are as near as that
    monkeypatch.setattr(graph, "_first_thresholds", lambda *_: thresholds - 1e-6)
    indices, _ = graph.nearest_neighbors(flat, 200)
    for u in range(800):
        assert set(indices[u].tolist()) == set(nearest[u].tolist())


def test_features_that_are_not_numbers_are_refused():
    flat = patches()[0].flatten(0, 2)
    flat[3, 2] = torch.nan
    with pytest.raises(InputError, match="not all finite"):
        graph.nearest_neighbors(flat, 3)


def ragged(images=3, h=4, w=5):
    """Patches that take part: all of one image, an upper left part of another, one patch alone of the last."""
    kept = torch.zeros(images, h, w, dtype=torch.bool)
    kept[0], kept[1, :3, :4], kept[2, 1, 1] = True, True, True
    return kept


def test_patches_that_take_no_part_are_no_nodes_of_either_graph():
    features, colours = patches(images=3)
    kept = ragged()
    fast = graph.kernel(features, colours, feature_neighbors=6, pixel_neighbors=(4, 2), kept=kept)
    feature = dense_normalized_adjacency(dense_feature_graph(features[kept], 6))
    pixels = torch.zeros(len(feature), len(feature))
    start = 0
    for image, real in zip(colours, kept, strict=True):  # Eq. 3 among the real patches, at their places in the crop
        y, x = np.nonzero(real.numpy())
        for k, weight in ((4, 2.0), (2, 0.1)):
            points = torch.cat([image[y, x], weight * torch.tensor(np.stack([x / 4, y / 3], axis=1))], dim=1)
            distances = torch.cdist(points, points).fill_diagonal_(torch.inf)
            for u, row in enumerate(distances):
                for v in row.argsort()[: min(k, len(points) - 1)]:
                    pixels[start + u, start + v] = pixels[start + v, start + u] = 1.0
        start += len(y)
    pixels = torch.nan_to_num(dense_normalized_adjacency(pixels), posinf=0.0)  # the patch alone has no neighbour
    torch.testing.assert_close(torch.from_numpy(fast.toarray()), feature + 0.3 * pixels, rtol=1e-4, atol=1e-5)


def test_where_all_patches_take_part_nothing_changes():
    features, colours = patches(images=3)
    settings = {"feature_neighbors": 6, "pixel_neighbors": (4, 2)}
    whole = graph.kernel(features, colours, **settings)
    same = graph.kernel(features, colours, **settings, kept=torch.ones(3, 4, 5, dtype=torch.bool))
    np.testing.assert_array_equal(same.toarray(), whole.toarray())


def test_what_lies_in_a_patch_that_takes_no_part_is_never_seen():
    features, colours = patches(images=3)
    kept = ragged()
    settings = {"feature_neighbors": 6, "pixel_neighbors": (4, 2), "kept": kept}
    other_features, other_colours = patches(images=3, seed=1)
    changed = torch.where(kept[..., None], features, other_features)
    recoloured = torch.where(kept[..., None], colours, other_colours)
    np.testing.assert_array_equal(
        graph.kernel(changed, recoloured, **settings).toarray(), graph.kernel(features, colours, **settings).toarray()
    )


def test_fewer_patches_than_neighbours_are_all_neighbours():
    features, colours = patches(images=3)
    found = graph.kernel(features.abs(), colours, feature_neighbors=256, pixel_weight=0.0, kept=ragged()).toarray()
    assert ((found > 0) == ~np.eye(33, dtype=bool)).all()


def test_pixel_graph_is_equation_3():
    _, colours = patches()
    fast = graph.pixel_graph(colours, neighbors=(4, 2), coordinate_weights=(2.0, 0.1))
    slow = dense_pixel_graph(colours, (4, 2), (2.0, 0.1))
    np.testing.assert_array_equal(fast.toarray(), slow.numpy())


def test_kernel_is_equation_4():
    features, colours = patches()
    fast = graph.kernel(features, colours, feature_neighbors=6, pixel_weight=0.3, pixel_neighbors=(3, 2))
    slow = dense_normalized_adjacency(dense_feature_graph(features.flatten(0, 2), 6))
    slow = slow + 0.3 * dense_normalized_adjacency(dense_pixel_graph(colours, (3, 2), (2.0, 0.1)))
    torch.testing.assert_close(torch.from_numpy(fast.toarray()), slow)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6), st.floats(0, 1))
def test_kernel_is_symmetric_with_bounded_spectrum(seed, neighbors, pixel_weight):
    features, colours = patches(seed=seed)
    kappa = graph.kernel(
        features, colours, feature_neighbors=neighbors, pixel_weight=pixel_weight, pixel_neighbors=(3, 2)
    )
    dense = kappa.toarray()
    np.testing.assert_allclose(dense, dense.T, atol=1e-7)
    eigenvalues = np.linalg.eigvalsh(dense.astype(np.float64))
    assert eigenvalues.max() <= 1 + pixel_weight + 1e-5
    assert eigenvalues.min() >= -1 - pixel_weight - 1e-5
    assert (kappa.diagonal() == 0).all()


def test_normalized_adjacency_has_eigenvalue_one_for_the_root_of_the_degree():
    affinity = graph.feature_graph(patches()[0].flatten(0, 2), 8)
    root = np.sqrt(affinity.sum(axis=1))
    np.testing.assert_allclose(graph.normalized_adjacency(affinity) @ root, root, rtol=1e-5)


def test_permuting_images_permutes_the_kernel():
    features, colours = patches(images=3)
    order = torch.tensor([2, 0, 1])
    kappa = graph.kernel(features, colours, feature_neighbors=6).toarray()
    permuted = graph.kernel(features[order], colours[order], feature_neighbors=6).toarray()
    rows = (order[:, None] * 20 + torch.arange(20)).flatten().numpy()
    np.testing.assert_allclose(permuted, kappa[np.ix_(rows, rows)], atol=1e-6)


def test_permuting_patches_permutes_the_feature_graph():
    flat = patches()[0].flatten(0, 2)
    order = torch.randperm(len(flat), generator=torch.Generator().manual_seed(1))
    affinity = graph.feature_graph(flat, 5).toarray()
    np.testing.assert_allclose(graph.feature_graph(flat[order], 5).toarray(), affinity[np.ix_(order, order)], atol=1e-6)


def test_scaling_features_changes_nothing():
    flat = patches()[0].flatten(0, 2)
    scale = torch.rand(len(flat), 1, generator=torch.Generator().manual_seed(1)) + 0.5
    np.testing.assert_allclose(
        graph.feature_graph(flat * scale, 5).toarray(), graph.feature_graph(flat, 5).toarray(), atol=1e-6
    )


def test_duplicate_images_link_each_patch_to_its_twin():
    features, _ = patches(images=1)
    indices, cosines = graph.nearest_neighbors(torch.cat([features, features]).flatten(0, 2), 1)
    assert indices[:20, 0].tolist() == list(range(20, 40))
    torch.testing.assert_close(cosines, torch.ones(40, 1))


def test_pixel_graph_never_links_two_images():
    _, colours = patches(images=3)
    rows, columns = graph.pixel_graph(colours, neighbors=(5, 3)).nonzero()
    assert (rows // 20 == columns // 20).all()


def test_constant_image_gives_a_finite_kernel():
    features, colours = torch.ones(1, 4, 5, 7), torch.full((1, 4, 5, 3), 0.5)
    kappa = graph.kernel(features, colours, feature_neighbors=5)
    assert np.isfinite(kappa.data).all()
    assert kappa.toarray().sum(axis=1).min() > 0


def test_patch_without_similar_neighbours_keeps_a_zero_row():
    features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, -0.1]])
    normalised = graph.normalized_adjacency(graph.feature_graph(features, 2)).toarray()
    assert np.isfinite(normalised).all()
    assert (normalised[2] == 0).all()


@pytest.mark.parametrize("neighbors", [0, 40, 1000])
def test_impossible_number_of_neighbours_is_named(neighbors):
    with pytest.raises(InputError, match=f"feature_neighbors is {neighbors}.*40 patches"):
        graph.feature_graph(patches()[0].flatten(0, 2), neighbors)


@pytest.mark.parametrize("left", [0, 1])
def test_crops_that_are_all_padding_are_refused_in_words(left):
    features, colours = patches()
    kept = torch.arange(40).view(2, 4, 5) < left
    with pytest.raises(InputError, match=f"a graph of {left} patches has no links; raise image_size"):
        graph.kernel(features, colours, kept=kept)


def test_one_patch_image_is_refused_by_name():
    with pytest.raises(InputError, match="pixel_neighbors"):
        graph.pixel_graph(torch.rand(2, 1, 1, 3))


def test_all_other_patches_of_an_image_may_be_pixel_neighbours_and_no_more():
    _, colours = patches()
    linked = graph.pixel_graph(colours, neighbors=(19, 2)).toarray()
    np.testing.assert_array_equal(linked, np.kron(np.eye(2), 1 - np.eye(20)))
    with pytest.raises(InputError, match=r"\(20, 2\) need more than 20 patches an image; there are 20; lower them"):
        graph.pixel_graph(colours, neighbors=(20, 2))


def test_an_affinity_with_a_negative_entry_or_that_is_not_square_is_refused():
    affinity = graph.feature_graph(patches()[0].flatten(0, 2), 3)
    with pytest.raises(ValueError, match="square"):
        graph.normalized_adjacency(affinity[:10])
    affinity.data[5] = -1e-3
    with pytest.raises(ValueError, match="non-negative"):
        graph.normalized_adjacency(affinity)


def test_links_of_no_weight_are_no_neighbours():
    """A patch whose only links are stored zeros has degree 0, and a row of zeros, not of 0 / 0."""
    affinity = sp.csr_array((np.float32([1, 0, 1, 0, 0, 0]), [1, 2, 0, 2, 0, 1], [0, 2, 4, 6]), shape=(3, 3))
    expected = [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    np.testing.assert_array_equal(graph.normalized_adjacency(affinity).toarray(), expected)
    flat = patches()[0].flatten(0, 2)
    graph_of_all = graph.feature_graph(flat, 39)
    assert graph_of_all.nnz == np.count_nonzero(graph_of_all.toarray()) < 40 * 39


def test_defaults_of_the_kernel_are_those_of_a_configuration():
    defaults = {name: item.default for name, item in inspect.signature(graph.kernel).parameters.items()}
    for name in ("feature_neighbors", "pixel_weight", "pixel_neighbors", "coordinate_weights"):
        assert defaults[name] == getattr(Config(), name)
    of_pixels = inspect.signature(graph.pixel_graph).parameters
    assert of_pixels["neighbors"].default == Config().pixel_neighbors
    assert of_pixels["coordinate_weights"].default == Config().coordinate_weights


@pytest.mark.parametrize("neighbors", [50, 300])
def test_first_thresholds_seldom_make_a_row_be_computed_again(neighbors):
    unit = F.normalize(torch.randn(3000, 30, generator=torch.Generator().manual_seed(0)), dim=1)
    nearer = (unit @ unit.T > torch.from_numpy(graph._first_thresholds(unit, neighbors))[:, None]).sum(dim=1) - 1
    assert (nearer < neighbors).float().mean() < 0.02
    assert nearer.float().mean() < 6 * neighbors


def shuffled(size, generator):
    """A random sparse matrix, the entries of each row in random order."""
    dense = np.where(generator.random((size, size)) < 0.3, generator.standard_normal((size, size)), 0)
    rows = [generator.permutation(np.flatnonzero(row)) for row in dense]
    starts = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    columns = np.concatenate(rows).astype(np.int32)
    entries = dense[np.repeat(np.arange(size), np.diff(starts)), columns].astype(np.float32)
    return sp.csr_array((entries, columns, starts), shape=(size, size))


@pytest.mark.parametrize("size", [1, 7, 8, 9, 600])
def test_a_sparse_transpose_is_that_of_the_dense_matrix(size):
    A = shuffled(size, np.random.default_rng(size))
    starts, columns, entries = loops.transposed(A.indptr, A.indices, A.data)
    found = sp.csr_array((entries, columns, starts), shape=(size, size))
    assert all((np.diff(columns[starts[u] : starts[u + 1]]) > 0).all() for u in range(size))
    np.testing.assert_array_equal(found.toarray(), A.toarray().T)


@pytest.mark.parametrize("size", [1, 31, 33, 600])
def test_sparse_sums_are_those_of_dense_matrices(size):
    generator = np.random.default_rng(size)
    A, B = shuffled(size, generator), shuffled(size, generator)
    starts, columns, entries = loops.sparse_sum(A.indptr, A.indices, A.data, B.indptr, B.indices, B.data)
    found = sp.csr_array((entries, columns, starts), shape=(size, size))
    assert all((np.diff(columns[starts[u] : starts[u + 1]]) > 0).all() for u in range(size))
    np.testing.assert_array_equal(found.toarray(), A.toarray() + B.toarray())


def test_a_sparse_product_adds_its_entries_in_their_order():
    generator = np.random.default_rng(0)
    dense = generator.standard_normal((40, 7)).astype(np.float32)
    matrix = sp.random_array((40, 40), density=0.4, format="csr", dtype=np.float32, rng=generator)
    expected = np.zeros((40, 7), dtype=np.float32)
    for u in range(40):
        for entry in range(matrix.indptr[u], matrix.indptr[u + 1]):
            expected[u] += matrix.data[entry] * dense[matrix.indices[entry]]
    found = loops.sparse_product(matrix.indptr, matrix.indices, matrix.data, dense)
    np.testing.assert_array_equal(found, expected)


def test_a_sum_beyond_32_bit_indices_is_refused():
    vast = SimpleNamespace(nnz=2**30, shape=(5_000_000, 5_000_000))
    with pytest.raises(InputError, match=r"5000000 patches with 2147483648 entries .*; lower feature_neighbors"):
        graph._sum(vast, vast)
