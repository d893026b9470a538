from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from small import Colours, Recording, photograph

from neuralef import clustering, segmentation
from neuralef.backbones import build
from neuralef.clustering import ClusterHead
from neuralef.config import Config
from neuralef.crf import dense_crf
from neuralef.features import to_tensor
from neuralef.protocols import Sliding
from neuralef.segmentation import Segmenter, cluster_map, joint_logits, merged_maps, segment_store, store_windows
from neuralef.upsampling import Guide, guided_map


@dataclass(frozen=True)
class Brightness(ClusterHead):
    """Two clusters: patches darker and brighter than half; ``colour_patches`` scales colours to [-1, 1]."""

    num_clusters: int = 2

    def logits(self, levels):
        grey = levels[..., :3].mean(-1, keepdim=True)
        return torch.cat([-grey, grey], dim=-1)


class Colder(Brightness):
    """The same clusters, surer of themselves where a CRF follows."""

    softmax_temperature = 0.3


@pytest.fixture
def segmenter():
    return Segmenter(build("colour_patches"), Brightness(), crop_size=64)


@pytest.mark.parametrize("size", [(31, 44), (80, 96), (5, 6), (3, 4), (1, 1), (17, 5)])
@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 300), (1, 6, 3), (5, 1, 3), (1, 1, 4)])
@pytest.mark.parametrize("leader", [0.0, 3.0])  # with a leader, most clusters can win nowhere and are passed over
def test_cluster_map_is_the_argmax_of_upsampled_logits(shape, size, leader):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator)
    logits.scatter_add_(
        2,
        torch.randint(shape[2], (*shape[:2], 1), generator=generator),
        torch.tensor([[[leader]]]).expand(*shape[:2], 1),
    )
    up = F.interpolate(logits.permute(2, 0, 1)[None], size=size, mode="bilinear", align_corners=False)
    np.testing.assert_array_equal(cluster_map(logits, size), up[0].argmax(0).numpy())


def test_a_half_dark_photograph_is_cut_in_two_at_the_edge(segmenter):
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, 48:] = 255
    np.testing.assert_array_equal(segmenter(image), np.repeat([[0] * 48 + [1] * 48], 64, axis=0))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 130), (37, 51), (200, 113), (8, 8), (1, 5)])
def test_any_size_comes_back_at_its_own_resolution(segmenter, height, width):
    image = np.full((height, width, 3), 200, np.uint8)
    clusters = segmenter(image)
    assert clusters.shape == (height, width)
    assert (clusters == 1).all()


@pytest.mark.parametrize("size", [(100, 151), (77, 50), (20, 20)])
def test_a_whole_photograph_is_segmented_step_by_step(size):
    """Shorter side to 60 pixels, its edge repeated up to the 64 that patches cover, cut, nearest to the photograph."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    segmenter = Segmenter(build("colour_patches"), Colours(), crop_size=60)
    height, width = (round(side * 60 / min(size)) for side in size)
    resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    covered = [-(-side // 8) * 8 for side in (height, width)]
    padded = np.pad(resized, ((0, covered[0] - height), (0, covered[1] - width), (0, 0)), mode="edge")
    logits = segmenter.head.logits(segmenter.backbone(to_tensor(padded[None]))).permute(0, 3, 1, 2)
    clusters = F.interpolate(logits, covered, mode="bilinear")[0].argmax(0)[:height, :width]
    rows, columns = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(size, (height, width), strict=True))
    assert (segmenter(image) == clusters.numpy()[np.ix_(rows, columns)]).mean() > 0.999  # but for ties


def test_image_of_one_patch_is_one_cluster():
    tiny = Segmenter(build("colour_patches"), Brightness(), crop_size=8)
    assert (tiny.crop(np.full((8, 8, 3), 10, np.uint8)) == 0).all()


def test_segmenter_and_feature_store_give_the_same_maps(scenes, store):
    config = Config(kmeans_patches=1000)
    head = clustering.fit_feature_kmeans(store, config, num_clusters=5, seed=0, centred=False, progress=False)
    segmenter = Segmenter(build("colour_patches"), head, crop_size=store.crop_size)
    maps = dict(segment_store(head, store, None))
    assert tuple(maps) == store.ids
    for image_id, from_store in maps.items():
        agreement = (segmenter.crop(scenes.image(image_id)) == from_store).mean()
        assert agreement > 0.99  # the store rounds to float16


@dataclass(frozen=True)
class Redness(Brightness):
    """Two clusters by the colours alone."""

    def image_logits(self, levels, colours):
        assert colours.shape == (*levels.shape[:3], 3)
        red = colours[..., :1] - 0.5
        return torch.cat([-red, red], dim=-1)


def test_heads_that_look_at_colours_see_the_same_in_both(scenes, store):
    segmenter = Segmenter(build("colour_patches"), Redness(), crop_size=store.crop_size)
    maps = dict(segment_store(Redness(), store, None))
    assert tuple(maps) == store.ids
    for image_id, from_store in maps.items():
        np.testing.assert_array_equal(segmenter.crop(scenes.image(image_id)), from_store)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 130), (37, 51), (8, 8)])
def test_padding_adds_no_colour_of_its_own(height, width):
    image = np.full((height, width, 3), 200, np.uint8)
    assert (Segmenter(build("colour_patches"), Redness(), crop_size=60)(image) == 1).all()


@dataclass(frozen=True)
class GuidedBrightness(Brightness):
    """Two clusters whose borders follow the photograph."""

    guide: Guide = field(default_factory=Guide)


def test_a_guide_sees_the_border_of_the_photograph_where_patches_reach_beyond_it(store):
    image = np.random.default_rng(0).integers(0, 256, (60, 75, 3), dtype=np.uint8)
    segmenter = Segmenter(build("colour_patches"), GuidedBrightness(), crop_size=60)
    padded = np.pad(image, ((0, 4), (0, 5), (0, 0)), mode="edge")
    logits = segmenter.head.logits(segmenter.backbone(to_tensor(padded[None])))[0]
    np.testing.assert_array_equal(segmenter(image), guided_map(logits, padded, Guide())[:60, :75])
    crops = np.random.default_rng(1).integers(0, 256, (len(store), 64, 64, 3), dtype=np.uint8)
    found = segment_store(segmenter.head, store, lambda image_id: crops[store.ids.index(image_id)])
    for index, (_, clusters) in enumerate(found):
        logits = segmenter.head.logits(store.levels(slice(index, index + 1)))[0]
        np.testing.assert_array_equal(clusters, guided_map(logits, crops[index], Guide()))


def test_windows_of_a_store_are_its_maps(store):
    config = Config(kmeans_patches=1000)
    head = clustering.fit_feature_kmeans(store, config, num_clusters=5, seed=0, centred=False, progress=False)
    pictures = ((image_id, logits, None) for image_id, logits in store_windows(head, store))
    for (image_id, merged), (same_id, plain) in zip(
        merged_maps(pictures, "none"), segment_store(head, store, None), strict=True
    ):
        assert image_id == same_id
        assert (merged == plain).mean() > 0.999  # the softmax may round two clusters to a tie


def test_logits_are_divided_by_the_temperature_of_their_head(scenes, store):
    assert [logits.temperature for _, logits in store_windows(Colder(), store)] == [0.3] * len(store)
    segmenter = Segmenter(build("colour_patches"), Colder(), 64)
    assert segmenter.logits(scenes.image(store.ids[0])).temperature == 0.3


def test_a_crf_follows_the_crop_the_whole_photograph_and_the_windows(scenes):
    pytest.importorskip("pydensecrf", reason="extra [crf] is not installed")
    image = scenes.image(scenes.ids("val")[0])
    plain = Segmenter(build("colour_patches"), Colder(), crop_size=64)
    refined = replace(plain, crf="colour")
    np.testing.assert_array_equal(refined(image), dense_crf(plain.logits(image).probabilities(), image, "colour"))
    square = image[:, 8:72]
    np.testing.assert_array_equal(refined.crop(image), refined(square))
    windows = replace(refined, sliding=Sliding(64, 32, 32))
    assert windows(image).shape == image.shape[:2]
    assert (windows(image) != replace(windows, crf="none")(image)).any()


@pytest.mark.parametrize("sliding", [None, Sliding(36, 36, 14)])
def test_the_backbone_is_asked_for_the_precision_of_the_segmenter(sliding):
    backbone = Recording()
    Segmenter(backbone, Colours(), 36, "bfloat16", sliding=sliding)(photograph(36, 50))
    assert backbone.asked == {"bfloat16"}


def test_windows_of_several_views_are_filled_up_to_whole_patches(colour_backbone):
    class Fine(Colours):
        views = 2

    assert Segmenter(colour_backbone, Fine(), 36, sliding=Sliding(36, 36, 14))(photograph(36, 50)).shape == (36, 50)


def test_of_equally_likely_clusters_the_first_is_taken():
    logits = torch.randn(3, 4, 1, generator=torch.Generator().manual_seed(0))
    assert not cluster_map(logits.expand(3, 4, 5), (9, 11)).any()


def test_every_head_keeps_its_temperature_where_windows_are_shared(colour_backbone):
    class Sharp(Colours):
        softmax_temperature = 0.5

    segmenters = [Segmenter(colour_backbone, head, 36, sliding=Sliding(36, 36, 14)) for head in (Colours(), Sharp())]
    assert [found.temperature for found in joint_logits(segmenters, photograph(36, 50))] == [1.0, 0.5]


@pytest.mark.parametrize("mode", ["colour", "black"])
def test_the_field_is_of_the_mode_that_was_asked_for(colour_backbone, monkeypatch, mode):
    asked = []
    monkeypatch.setattr(segmentation, "dense_crf", lambda probabilities, image, given: asked.append(given))
    segmenter = Segmenter(colour_backbone, Colours(), 36, crf=mode)
    segmenter(photograph(36, 50))
    segmenter.crop(photograph(36, 50))
    assert asked == [mode, mode]


def test_images_that_are_segmented_with_a_crf_pass_it_in_processes(colour_backbone, monkeypatch):
    asked = []
    monkeypatch.setattr(segmentation, "refine", lambda pictures, mode: asked.append(mode) or iter([]))
    segmenter = Segmenter(colour_backbone, Colours(), 36, crf="black")
    assert list(segmentation.segment_images(segmenter, [("a", photograph(36, 50))])) == []
    assert asked == ["black"]
