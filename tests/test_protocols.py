import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import sliding_probabilities
from small import Colours, photograph

from benchmarks.harness import measure
from neuralef.backbones import build
from neuralef.config import Config, load_profile
from neuralef.errors import InputError
from neuralef.protocols import PAPER_SLIDING, Sliding, WindowLogits, interpolated, source_positions, window_starts
from neuralef.segmentation import Segmenter


def windows_of(planes, sliding, size, temperature=1.0):
    """The windows of an image that is ``(K, H, W)`` of logits itself: patches of one pixel."""
    resized = planes.shape[1:]
    window = tuple(min(sliding.window, side) for side in resized)
    corners = sliding.corners(resized)
    cut = [planes[:, y : y + window[0], x : x + window[1]].transpose(1, 2, 0) for y, x in corners]
    return WindowLogits(
        logits=np.stack(cut),
        corners=corners,
        window=window,
        covered=window,
        resized=resized,
        size=size,
        temperature=temperature,
    )


def one_hot(clusters, K=5):
    return 50.0 * np.eye(K, dtype=np.float32)[clusters].transpose(2, 0, 1)


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [
        (1024, 768, 512, (0, 256)),
        (2048, 768, 512, (0, 512, 1024, 1280)),
        (693, 480, 320, (0, 213)),
        (800, 480, 320, (0, 320)),  # the second ends at the border by itself
        (801, 480, 320, (0, 320, 321)),
        (512, 512, 512, (0,)),
        (513, 512, 512, (0, 1)),
        (100, 480, 320, (0,)),
        (5, 2, 1, (0, 1, 2, 3)),
    ],
)
def test_windows_start_at_every_stride_and_end_at_the_border(length, window, stride, starts):
    assert window_starts(length, window, stride) == starts


@pytest.mark.parametrize("stride", range(1, 8))
def test_every_pixel_lies_in_a_window_and_no_window_beyond_the_border(stride):
    for length in range(1, 40):
        starts = window_starts(length, 7, stride)
        assert set().union(*(range(start, min(start + 7, length)) for start in starts)) == set(range(length))
        assert list(starts) == sorted(set(starts))
        assert all(start + min(7, length) <= length for start in starts)


def test_settings_are_the_paper_s():
    assert {
        "pascal_context": Sliding(short_side=520, window=480, stride=320),
        "cityscapes": Sliding(short_side=1024, window=768, stride=512),
        "ade20k": Sliding(short_side=512, window=512, stride=512),
    } == PAPER_SLIDING
    assert Sliding.of(Config(), 320, "cityscapes_19") == PAPER_SLIDING["cityscapes"]
    assert Sliding.of(Config(short_side=512), 320, "cityscapes") == Sliding(512, 768, 512)


def test_settings_of_other_datasets_follow_the_crop():
    assert Sliding.of(Config(), 322, "camvid") == Sliding(322, 322, 214)
    assert Sliding.of(Config(window=90, short_side=360), 322, "camvid") == Sliding(360, 90, 60)
    assert Sliding.of(Config(window=90, window_stride=90), 322) == Sliding(322, 90, 90)
    assert Sliding.of(Config(window=1), 1) == Sliding(1, 1, 1)


@pytest.mark.parametrize("stride", [0, 81])
def test_a_stride_that_leaves_pixels_out_is_refused(stride):
    with pytest.raises(InputError, match=f"window_stride is {stride}"):
        Sliding(80, 80, stride)


@pytest.mark.parametrize(
    ("size", "resized"),
    [((1024, 2048), (1024, 2048)), ((375, 500), (520, 693)), ((500, 375), (693, 520)), ((320, 500), (520, 813))],
)
def test_the_shorter_side_is_resized(size, resized):
    sliding = PAPER_SLIDING["cityscapes" if size[0] == 1024 else "pascal_context"]
    assert sliding.resized(size) == resized


def test_a_photograph_is_never_smaller_than_a_window():
    assert Sliding(20, 40, 30).resized((100, 150)) == (40, 60)
    assert Sliding(20, 40, 30).resized((3, 3)) == (40, 40)
    assert Sliding(20, 40, 30).corners((40, 40)) == ((0, 0),)


@pytest.mark.parametrize(
    ("height", "width"), [(16, 16), (16, 40), (33, 47), (5, 40), (7, 9), (64, 17)]
)  # a window, one row of them, both directions, smaller in one and in both
@pytest.mark.parametrize("stride", [16, 10, 3])
def test_an_identity_model_gives_back_its_input(height, width, stride):
    clusters = np.random.default_rng(0).integers(0, 5, (height, width))
    logits = windows_of(one_hot(clusters), Sliding(16, 16, stride), (height, width))
    np.testing.assert_array_equal(logits.clusters(), clusters)
    np.testing.assert_array_equal(logits.probabilities().argmax(0), clusters)


def test_probabilities_are_averaged_not_logits_and_every_window_weighs_the_same():
    """Three windows of one row: the middle pixels lie in one, two, three of them."""
    sure, even = np.float32([np.log(9), 0]), np.float32([0, 0])  # 0.9 and 0.5 of cluster 0
    row = np.stack([np.broadcast_to(logits, (1, 4, 2)) for logits in (sure, even, even)])
    logits = WindowLogits(
        logits=row,
        corners=((0, 0), (0, 2), (0, 3)),
        window=(1, 4),
        covered=(1, 4),
        resized=(1, 7),
        size=(1, 7),
        temperature=1.0,
    )
    expected = [0.9, 0.9, (0.9 + 0.5) / 2, (0.9 + 0.5 + 0.5) / 3, 0.5, 0.5, 0.5]
    np.testing.assert_allclose(logits.probabilities()[0, 0], expected, rtol=1e-6)


def test_the_temperature_sharpens_every_window():
    planes = np.random.default_rng(0).standard_normal((4, 8, 8)).astype(np.float32)
    logits = windows_of(planes, Sliding(8, 8, 8), (8, 8), temperature=0.25)
    expected = torch.from_numpy(planes).div(0.25).softmax(0)
    np.testing.assert_allclose(logits.probabilities(), expected, rtol=1e-5)


@pytest.mark.parametrize(("wanted", "given"), [(7, 7), (20, 7), (7, 20), (1, 9), (9, 1), (31, 30)])
@pytest.mark.parametrize("dim", [0, 1])
def test_interpolation_is_torch_s(wanted, given, dim):
    values = torch.randn((given, 5, 3) if dim == 0 else (5, given, 3))
    size = (wanted, 5) if dim == 0 else (5, wanted)
    expected = F.interpolate(values.permute(2, 0, 1)[None], size, mode="bilinear")[0].permute(1, 2, 0)
    torch.testing.assert_close(interpolated(values, dim, *source_positions(wanted, given)), expected)


class Colder(Colours):
    """The same clusters, surer of themselves where windows are merged."""

    softmax_temperature = 0.5


@pytest.mark.parametrize("size", [(60, 90), (40, 60), (33, 71), (50, 31), (120, 100)])
@pytest.mark.parametrize("sliding", [Sliding(48, 32, 20), Sliding(36, 36, 36), Sliding(40, 30, 15)])
def test_segmenter_is_the_slow_literal_protocol(size, sliding):
    image = photograph(*size)
    segmenter = Segmenter(build("colour_patches"), Colder(), 32, sliding=sliding)
    expected = sliding_probabilities(segmenter, image, sliding.short_side, sliding.window, sliding.stride)
    found = segmenter.logits(image)
    np.testing.assert_allclose(found.probabilities(), expected, atol=2e-6)
    # A different cluster is chosen only where two are equally likely up to rounding.
    largest = np.sort(expected, axis=0)[-2:]
    sure = largest[1] - largest[0] > 1e-5
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(segmenter(image)[sure], expected.argmax(0)[sure])


@pytest.mark.parametrize("strip", [1, 1000, 10**9])
@pytest.mark.parametrize("size", [(40, 50), (60, 77), (23, 31)])
def test_strips_of_any_height_hold_the_same(strip, size):
    planes = np.random.default_rng(0).standard_normal((4, 40, 50)).astype(np.float32)
    logits = windows_of(planes, Sliding(40, 16, 10), size)
    strips = list(logits.strips(strip))
    assert [rows.start for rows, _ in strips] == [0, *(rows.stop for rows, _ in strips[:-1])]
    assert strips[-1][0].stop == size[0]
    found = torch.cat([probabilities for _, probabilities in strips]).permute(2, 0, 1).numpy()
    np.testing.assert_array_equal(found, logits.probabilities())


def test_a_strip_keeps_its_bound():
    planes = np.random.default_rng(0).standard_normal((16, 128, 256)).astype(np.float32)
    logits = windows_of(planes, Sliding(128, 96, 64), (256, 512))
    strip = 16 * 512 * 4
    for rows, probabilities in logits.strips(strip):
        assert rows.stop - rows.start <= 4
        assert probabilities.numel() <= strip
    assert rows.stop == 256


def test_one_window_is_the_plain_map():
    image = photograph(48, 48)
    backbone = build("colour_patches")
    whole = Segmenter(backbone, Colours(), 48)
    windows = replace(whole, sliding=Sliding(48, 48, 48))
    np.testing.assert_array_equal(windows(image), whole(image))


def test_heads_that_look_at_colours_get_those_of_their_window():
    class Positions(Colder):
        def image_logits(self, levels, colours):
            assert colours.shape[1:3] == levels.shape[1:3]
            return torch.cat([colours, 1 - colours], dim=-1)

    image = photograph(64, 96)
    segmenter = Segmenter(build("colour_patches"), Positions(), 32, sliding=Sliding(64, 32, 32))
    expected = sliding_probabilities(segmenter, image, 64, 32, 32)
    np.testing.assert_allclose(segmenter.logits(image).probabilities(), expected, atol=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_is_that_of_a_strip_not_of_the_photograph():
    """An eighth of 1024 x 2048 pixels in 256 clusters: 268 MB of probabilities, of which no more than a few strips."""
    measured = measure(windows_of_noise, (256, 1024), 256, repeats=0)
    assert measured.result == (256, 1024)
    assert measured.peak_mb < 130


def windows_of_noise(size, K):
    sliding = Sliding(256, 192, 128)
    corners = sliding.corners(size)
    values = np.random.default_rng(0).standard_normal((len(corners), 12, 12, K)).astype(np.float32)
    logits = WindowLogits(
        logits=values,
        corners=corners,
        window=(192, 192),
        covered=(192, 192),
        resized=size,
        size=size,
        temperature=0.3,
    )
    return lambda: logits.clusters().shape


@pytest.mark.parametrize("dataset", ["pascal_context", "cityscapes_27", "cityscapes_19", "ade20k"])
def test_profile_paper_leaves_windows_to_the_dataset(dataset):
    (known,) = {settings for name, settings in PAPER_SLIDING.items() if dataset.startswith(name)}
    assert Sliding.of(load_profile("paper").config, 320, dataset) == known
