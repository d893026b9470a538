from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from sklearn.metrics import normalized_mutual_info_score

from neuralef import deep_spectral
from neuralef.config import Config
from neuralef.deep_spectral import Cut, DeepSpectralHead, fit_deep_spectral
from neuralef.errors import InputError
from neuralef.graph import pixel_graph
from neuralef.kmeans import Centroids, fit_kmeans

CONFIG = Config(deep_spectral_eigenvectors=3, deep_spectral_segments=4)
CUT = Cut(eigenvectors=3, segments=4, colour_weight=10.0, seed=0)


@pytest.fixture
def image():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 6, 7, generator=generator), torch.rand(5, 6, 3, generator=generator)


def quarters(side=8):
    rows, columns = np.indices((side, side)) // (side // 2)
    return 2 * rows + columns


@pytest.mark.parametrize("weight", [0.0, 10.0])
def test_affinity_is_that_of_the_paper_entry_by_entry(image, weight):
    features, colours = image
    flat = features.flatten(0, 1).double().numpy()
    links = pixel_graph(colours[None], neighbors=(20, 10)).toarray()
    expected = np.empty((30, 30))
    for u in range(30):
        for v in range(30):
            cosine = flat[u] @ flat[v] / np.linalg.norm(flat[u]) / np.linalg.norm(flat[v])
            expected[u, v] = max(cosine, 0) + weight * links[u, v]
    np.testing.assert_allclose(deep_spectral.image_affinity(features, colours, weight), expected, atol=1e-6)


def test_eigenvectors_solve_the_generalised_problem(image):
    affinity = deep_spectral.image_affinity(*image, 10.0)
    degrees = np.diag(affinity.sum(axis=1))
    values, exact = scipy.linalg.eigh(degrees - affinity, degrees)
    found = deep_spectral.laplacian_eigenvectors(affinity, 5)
    np.testing.assert_allclose((degrees - affinity) @ found, degrees @ found * values[:5], atol=1e-6)
    np.testing.assert_allclose(found.T @ degrees @ found, np.eye(5) * degrees.sum(), atol=1e-6)
    np.testing.assert_allclose(found[:, 0], 1, atol=1e-8)
    cosines = (exact[:, :5] * (degrees @ found)).sum(axis=0) / np.sqrt(degrees.sum())
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-6)


def test_planted_segments_are_found(planted_store):
    high, colours = planted_store.high(slice(0, 1))[0], planted_store.colours(slice(0, 1))[0]
    for weight in (0.0, 10.0):
        found = replace(CUT, colour_weight=weight)(high, colours)
        assert found.shape == (8, 8)
        assert normalized_mutual_info_score(quarters().ravel(), found.ravel()) == pytest.approx(1.0)


def test_segments_do_not_see_the_scale_of_features_and_repeat(planted_store):
    high, colours = planted_store.high(slice(0, 1))[0], planted_store.colours(slice(0, 1))[0]
    first = CUT(high, colours)
    np.testing.assert_array_equal(first, CUT(high, colours))
    np.testing.assert_array_equal(first, CUT(4 * high, colours))
    assert set(first.ravel()) == set(range(first.max() + 1))


def test_feature_of_a_segment_is_the_mean_of_its_patches(image):
    features, _ = image
    segments = torch.randint(4, (5, 6), generator=torch.Generator().manual_seed(1)).numpy()
    expected = torch.stack([features[torch.from_numpy(segments == s)].mean(dim=0) for s in range(4)])
    torch.testing.assert_close(deep_spectral.segment_features(features, segments), expected)


def test_planted_clusters_are_recovered_across_images(planted_store):
    head = fit_deep_spectral(planted_store, CONFIG, num_clusters=4, seed=0, progress=False)
    everything = slice(None)
    logits = head.image_logits(planted_store.levels(everything), planted_store.colours(everything))
    assert logits.shape == (4, 8, 8, 4)
    found = logits.argmax(-1).numpy()
    truth = np.broadcast_to(quarters(), found.shape)
    assert normalized_mutual_info_score(truth.ravel(), found.ravel()) == pytest.approx(1.0)
    for one, segments in zip(logits, (head.cut(*pair) for pair in _images(planted_store)), strict=True):
        for segment in np.unique(segments):  # one decision for each segment
            assert len(one[torch.from_numpy(segments == segment)].unique(dim=0)) == 1


def _images(store):
    return zip(store.high(slice(None)), store.colours(slice(None)), strict=True)


def test_fit_and_logits_are_the_steps_written_out(store):
    config = replace(CONFIG, deep_spectral_segments=6, kmeans_iterations=3)
    head = fit_deep_spectral(store, config, num_clusters=5, seed=7, progress=False)
    assert head.cut == Cut(eigenvectors=3, segments=6, colour_weight=config.deep_spectral_colour_weight, seed=7)
    torch.testing.assert_close(head.mean, store.high(slice(None)).mean(dim=(0, 1, 2)), rtol=1e-4, atol=1e-5)
    cuts = [torch.from_numpy(head.cut(high, colours)) for high, colours in _images(store)]
    of_images = [
        torch.stack([F.normalize(high[cut == segment].mean(dim=0) - head.mean, dim=0) for segment in cut.unique()])
        for high, cut in zip(store.high(slice(None)), cuts, strict=True)
    ]
    centroids = fit_kmeans(torch.cat(of_images).numpy(), 5, seed=7, iterations=3)
    np.testing.assert_allclose(head.centroids.values, centroids.values, atol=1e-5)
    logits = head.image_logits(store.levels(slice(None)), store.colours(slice(None)))
    for one, cut, points in zip(logits, cuts, of_images, strict=True):
        torch.testing.assert_close(one, head.centroids.logits(points)[cut], rtol=1e-4, atol=1e-4)


def test_segments_are_kmeans_on_all_eigenvectors_but_the_constant_one(store):
    (high, colours), *_ = _images(store)
    affinity = deep_spectral.image_affinity(high, colours, 10.0)
    vectors = deep_spectral.laplacian_eigenvectors(affinity, 4)[:, 1:].astype(np.float32)
    expected = fit_kmeans(vectors, 8, seed=2).assign(vectors).reshape(8, 8)
    np.testing.assert_array_equal(replace(CUT, segments=8, seed=2)(high, colours), expected)


def test_segments_that_no_patch_joins_leave_no_gap(image, monkeypatch):
    def second_to_none(vectors, num_clusters, **_):
        return Centroids(np.insert(vectors[: num_clusters - 1], 1, 1e3, axis=0))

    monkeypatch.setattr(deep_spectral, "fit_kmeans", second_to_none)
    segments = CUT(*image)
    assert set(segments.ravel()) == {0, 1, 2}
    assert deep_spectral.segment_features(image[0], segments).isfinite().all()


def test_an_image_does_not_depend_on_those_beside_it(planted_store):
    head = fit_deep_spectral(planted_store, CONFIG, num_clusters=4, seed=0, progress=False)
    levels, colours = planted_store.levels(slice(None)), planted_store.colours(slice(None))
    together = head.image_logits(levels, colours)
    assert torch.equal(head.image_logits(levels[2:3], colours[2:3])[0], together[2])


def test_colours_are_asked_for_where_they_count(planted_store):
    levels = planted_store.levels(slice(0, 1))
    head = fit_deep_spectral(planted_store, CONFIG, num_clusters=4, seed=0, progress=False)
    with pytest.raises(ValueError, match="image_logits"):
        head.logits(levels)
    blind = replace(head, cut=replace(head.cut, colour_weight=0.0))
    assert torch.equal(blind.logits(levels), blind.image_logits(levels, planted_store.colours(slice(0, 1))))


def test_an_image_of_too_few_patches_is_refused(image):
    features, colours = image
    with pytest.raises(InputError, match=r"at least 21 patches an image; there are 20"):
        CUT(features[:4, :5], colours[:4, :5])
    assert CUT(features[:4], colours[:4]).shape == (4, 6)
    blind = replace(CUT, colour_weight=0.0)  # which has no links of colour to find
    assert blind(features[:4, :5], None).shape == (4, 5)
    with pytest.raises(InputError, match=rf"at least {CUT.segments + 1} patches an image; there are {CUT.segments}"):
        blind(features[:1, : CUT.segments], None)


def test_a_head_comes_back_with_its_cut(planted_store):
    head = fit_deep_spectral(planted_store, CONFIG, num_clusters=4, seed=7, progress=False)
    assert DeepSpectralHead.from_tensors(head.tensors(), None, CONFIG).cut == head.cut == replace(CUT, seed=7)


def test_eigenvectors_need_patches_too():
    high = torch.randn(3, 3, 5, generator=torch.Generator().manual_seed(0))
    cut = replace(CUT, eigenvectors=8, segments=2, colour_weight=0.0)
    with pytest.raises(InputError, match="at least 10 patches an image; there are 9"):
        cut(high, None)
    assert replace(cut, eigenvectors=7)(high, None).shape == (3, 3)
