import numpy as np
import pytest
import torch

from neuralef import clustering, training
from neuralef.config import Config

CONFIG = Config(width=16, feature_neighbors=8, epochs=1, batch_images=2, kmeans_patches=200)


def test_centred_features_do_not_see_a_common_offset(store):
    levels = store.levels(slice(0, 2))
    head = clustering.fit_feature_kmeans(store, CONFIG, num_clusters=4, seed=0, centred=True, progress=False)
    moved = clustering.FeatureKMeans(head.centroids, head.channels, head.mean + 1)
    torch.testing.assert_close(moved.logits(levels + 1), head.logits(levels), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("centred", [False, True])
def test_heads_give_k_logits_for_every_patch(store, centred):
    head = clustering.fit_feature_kmeans(store, CONFIG, num_clusters=4, seed=0, centred=centred, progress=False)
    assert head.logits(store.levels(slice(0, 2))).shape == (2, *store.grid, 4)
    assert head.num_clusters == 4


def test_hidden_kmeans_clusters_what_feeds_the_head(store):
    psi = training.train(store, CONFIG, num_eigenfunctions=4, seed=0, progress=False).psi
    head = clustering.fit_hidden_kmeans(store, psi, CONFIG, num_clusters=5, seed=0, progress=False)
    levels = store.levels(slice(0, 1))
    with torch.inference_mode():
        hidden = psi.hidden(levels.flatten(1, 2))[0].numpy()
    distance = ((hidden[:, None] - head.centroids.values[None]) ** 2).sum(-1)
    np.testing.assert_array_equal(head.logits(levels)[0].flatten(0, 1).argmax(1).numpy(), distance.argmin(1))


def test_kmeans_patches_limits_the_sample_evenly(store):
    points = clustering._sample(store, CONFIG, 0, lambda rows: store.high(rows), progress=False)
    assert points.shape == (200 // len(store) * len(store), store.channels[-1])
