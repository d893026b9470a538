""" "Ours+": every part against its formula, and that the parts taken away leave K-means on psi's hidden features."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from neuralef.clustering import fit_feature_kmeans, hidden_features, high_mean, sample_hidden
from neuralef.config import Config
from neuralef.datasets.crops import crop_image
from neuralef.features import extract, shifted_levels, to_tensor
from neuralef.kmeans import fit_kmeans
from neuralef.ours_plus import PlusHead, diffuse, fit_feature_plus, fit_plus
from neuralef.segmentation import Segmenter, segment_store
from neuralef.spectral import RESTARTS
from neuralef.training import new_psi

CONFIG = Config(width=32, depth=1, kmeans_patches=400, kmeans_iterations=5)
PLAIN = {"views": 1, "temperature": None, "guide": None}


@pytest.fixture(scope="module")
def head(store):
    psi = new_psi(store, CONFIG, 6, seed=0).eval()
    return fit_plus(store, psi, CONFIG, num_clusters=6, seed=0, progress=False)


@pytest.fixture(scope="module")
def without_psi(store):
    return fit_feature_plus(store, CONFIG, num_clusters=6, seed=0, progress=False)


def test_diffusion_is_a_mean_weighted_by_centred_cosines():
    features = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    ours = diffuse(features, 0.2)
    for image, smooth in zip(features.flatten(1, 2), ours.flatten(1, 2), strict=True):
        for u in range(12):
            directions = image - image.mean(dim=0)
            cosines = F.cosine_similarity(directions[u][None], directions)
            weights = torch.exp(cosines / 0.2)
            torch.testing.assert_close(smooth[u], (weights[:, None] * image).sum(dim=0) / weights.sum())


def test_diffusion_at_low_temperature_keeps_every_patch():
    features = torch.randn(1, 4, 4, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(diffuse(features, 1e-3), features)


def test_without_its_parts_it_is_kmeans_on_angles_of_hidden_features(store, head):
    plain = replace(head, **PLAIN)
    hidden = hidden_features(head.psi, store.levels(slice(0, 2)), "float32").detach()
    angles = F.normalize(hidden - head.mean, dim=-1)
    distances = torch.cdist(angles.flatten(0, 2), torch.from_numpy(head.centroids.values))
    np.testing.assert_array_equal(
        plain.logits(store.levels(slice(0, 2))).argmax(dim=-1).flatten().numpy(), distances.argmin(dim=1).numpy()
    )


def test_fit_is_kmeans_on_angles_and_the_best_of_several_starts(store, head):
    head = fit_plus(store, head.psi, CONFIG, num_clusters=6, seed=3, progress=False)
    hidden = torch.from_numpy(sample_hidden(store, head.psi, CONFIG, 3, progress=False))
    torch.testing.assert_close(head.mean, hidden.mean(dim=0))
    angles = F.normalize(hidden - head.mean, dim=-1)
    one, best = (fit_kmeans(angles.numpy(), 6, seed=3, iterations=5, restarts=n).values for n in (1, RESTARTS))
    np.testing.assert_allclose(head.centroids.values, best, atol=1e-6)

    def inertia(values):
        return torch.cdist(angles, torch.from_numpy(values)).min(dim=1).values.square().sum().item()

    assert inertia(best) < 0.98 * inertia(one)  # so that a single start would be noticed


def test_they_come_back_from_their_tensors(store, head, without_psi):
    levels = store.levels(slice(0, 1))
    for fitted, psi in ((head, head.psi), (without_psi, None)):
        again = type(fitted).from_tensors(fitted.tensors(), psi, CONFIG)
        torch.testing.assert_close(again.logits(levels), fitted.logits(levels))
        assert again.num_clusters == 6


def test_without_psi_the_parts_act_on_the_high_level(store, without_psi):
    levels = store.levels(slice(0, 2))
    high = levels[..., -store.channels[-1] :]
    angles = F.normalize(high - high_mean(store), dim=-1)
    smooth = F.normalize(diffuse(angles, 0.1), dim=-1)
    distances = torch.cdist(smooth.flatten(0, 2), torch.from_numpy(without_psi.centroids.values))
    np.testing.assert_array_equal(
        without_psi.logits(levels).argmax(dim=-1).flatten().numpy(), distances.argmin(dim=1).numpy()
    )


def test_without_psi_and_parts_it_is_kmeans_on_centred_features(store, without_psi):
    plain = fit_feature_kmeans(store, CONFIG, num_clusters=6, seed=0, centred=True, restarts=RESTARTS, progress=False)
    levels = store.levels(slice(0, 2))
    torch.testing.assert_close(replace(without_psi, **PLAIN).logits(levels), plain.logits(levels))


def test_maps_of_stored_views_are_those_of_the_segmenter(scenes, colour_backbone, head, tmp_path):
    views = extract(scenes, "val", colour_backbone, CONFIG, views=2, cache=tmp_path, progress=False)
    segmenter = Segmenter(colour_backbone, head, views.crop_size)
    images = {image_id: scenes.image(image_id) for image_id in views.ids}
    stored = dict(segment_store(head, views, lambda image_id: crop_image(images[image_id], views.crop_size)))
    assert tuple(stored) == views.ids
    for image_id, clusters in stored.items():
        assert (clusters == segmenter.crop(images[image_id])).mean() > 0.99  # the store rounds to float16


def test_views_interleave_shifted_images(colour_backbone):
    P = colour_backbone.patch_size
    image = to_tensor(np.random.default_rng(0).integers(256, size=(1, 4 * P, 5 * P, 3), dtype=np.uint8))
    fine = shifted_levels(colour_backbone, image, 2)
    assert fine.shape[1:3] == (8, 10)
    padded = F.pad(image, (P,) * 4, mode="reflect")
    for i, down in enumerate((-P // 4, P // 4)):
        for j, right in enumerate((-P // 4, P // 4)):
            window = padded[..., P + down : 5 * P + down, P + right : 6 * P + right]
            torch.testing.assert_close(fine[:, i::2, j::2], colour_backbone(window))


def test_one_view_is_the_image_itself(colour_backbone):
    image = torch.rand(1, 3, 30, 41, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(shifted_levels(colour_backbone, image, 1), colour_backbone(image))


def test_views_refuse_sides_that_are_no_multiples(colour_backbone):
    with pytest.raises(ValueError, match="30 x 40 must be multiples of the patch, 8"):
        shifted_levels(colour_backbone, torch.zeros(1, 3, 30, 40), 2)


def test_the_head_runs_the_blocks_of_psi_in_its_precision(store):
    config = replace(CONFIG, precision="bfloat16")
    psi = new_psi(store, config, 4, seed=0).eval()
    levels = store.levels(slice(0, 2))
    fitted = fit_plus(store, psi, config, num_clusters=4, seed=0, progress=False)
    with torch.inference_mode():
        for head in (fitted, PlusHead.from_tensors(fitted.tensors(), psi, config)):
            assert torch.equal(head.features(levels), hidden_features(psi, levels, "bfloat16"))
