"""Joint bilateral up-sampling: a literal reference, and what it must do at borders of colour."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import photograph

from neuralef.features import to_tensor
from neuralef.segmentation import cluster_map
from neuralef.upsampling import Guide, guided_map


def literal_map(logits, image, guide):
    """Every weight of every pixel written out, over all patches in reach and all clusters."""
    h, w, _ = logits.shape
    H, W, _ = image.shape
    best = np.sort(logits.reshape(h * w, -1), axis=1)[:, ::-1]
    lead = np.sort(best[:, 0] - best[:, 1])[(h * w - 1) // 2]
    exponentials = np.exp(guide.sharpness * logits / lead)
    probabilities = exponentials / exponentials.sum(axis=-1, keepdims=True)
    colours = F.interpolate(to_tensor(image[None]), size=(h, w), mode="area")[0].permute(1, 2, 0).numpy()
    present = np.unique(logits.argmax(axis=-1))
    chosen = np.empty((H, W), dtype=np.int64)
    for y in range(H):
        for x in range(W):
            row, column = (y + 0.5) * h / H - 0.5, (x + 0.5) * w / W - 0.5
            nearest = np.floor([row + 0.5, column + 0.5])
            means = np.zeros(len(present))
            for u in range(h):
                for v in range(w):
                    if max(abs(u - nearest[0]), abs(v - nearest[1])) <= guide.reach:
                        space = ((u - row) ** 2 + (v - column) ** 2) / (2 * guide.patches**2)
                        colour = ((image[y, x] / 255 - colours[u, v]) ** 2).sum() / (2 * guide.colour**2)
                        means += (np.exp(-space - colour) + 1e-12) * probabilities[u, v, present]
            chosen[y, x] = present[means.argmax()]
    return chosen


@pytest.mark.parametrize("guide", [Guide(), Guide(patches=0.6, colour=0.05), Guide(sharpness=3.0)])
def test_equals_the_formula_written_out(guide, seeds):
    image = np.random.default_rng(0).integers(256, size=(20, 28, 3), dtype=np.uint8)
    logits = torch.randn(5, 7, 6, generator=torch.Generator().manual_seed(0))
    ours = guided_map(logits, image, guide)
    assert ours.dtype == np.uint16
    assert (ours == literal_map(logits.numpy().astype(np.float64), image, guide)).mean() > 0.998


def test_borders_follow_the_colours_and_not_the_grid():
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    image[:, 13:] = 255  # patches are 8 wide: the border runs through the second
    left = F.interpolate(to_tensor(image[None]), size=(4, 4), mode="area")[0, 0] < 0.5
    logits = torch.stack([left.float(), 1 - left.float()], dim=-1)
    truth = (np.arange(32) >= 13).astype(np.uint16)[None].repeat(32, axis=0)
    assert np.array_equal(guided_map(logits, image, Guide(patches=1.0)), truth)
    assert not np.array_equal(cluster_map(logits, (32, 32)), truth)


def test_scale_and_offset_of_the_logits_do_not_matter():
    image = np.random.default_rng(1).integers(256, size=(16, 16, 3), dtype=np.uint8)
    logits = torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(1))
    np.testing.assert_array_equal(guided_map(logits, image, Guide()), guided_map(50 * logits + 7, image, Guide()))


def test_a_pixel_unlike_every_patch_takes_the_mean_of_all_in_reach():
    image = np.zeros((12, 12, 3), dtype=np.uint8)
    image[5, 5] = 255
    logits = torch.zeros(4, 4, 2)
    logits[..., 1] = 1.0
    assert guided_map(logits, image, Guide(colour=0.01))[5, 5] == 1


@pytest.mark.parametrize(("patches", "reach"), [(1.5, 4), (0.6, 2), (2.0, 5)])
def test_a_guide_reaches_two_and_a_half_deviations(patches, reach):
    assert Guide(patches=patches).reach == reach


def test_a_single_cluster_is_everywhere():
    assert not guided_map(torch.zeros(3, 3, 1), photograph(12, 12), Guide()).any()
