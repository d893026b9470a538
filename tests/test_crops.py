import numpy as np
import pytest
import torch
from small import photograph
from torchvision.transforms.v2 import functional as tv

from neuralef.datasets.crops import crop_image, crop_label

SIZES = [(64, 80), (80, 64), (64, 64), (33, 100), (240, 320), (7, 5), (1, 3), (101, 100)]


@pytest.mark.parametrize("size", [16, 48, 322])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_any_image_gives_a_square(height, width, size):
    image = crop_image(photograph(height, width), size)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8
    label = crop_label(photograph(height, width)[..., 0], size)
    assert label.shape == (size, size)
    assert label.dtype == np.uint8


def test_an_image_of_the_size_wanted_is_left_alone():
    image = photograph(48, 48)
    np.testing.assert_array_equal(crop_image(image, 48), image)
    np.testing.assert_array_equal(crop_label(image[..., 0], 48), image[..., 0])


@pytest.mark.parametrize(("height", "width"), [(48, 72), (72, 48), (48, 49)])
def test_the_central_square_is_kept(height, width):
    image = photograph(height, width)
    top, left = (height - 48) // 2, (width - 48) // 2
    np.testing.assert_array_equal(crop_image(image, 48), image[top : top + 48, left : left + 48])
    np.testing.assert_array_equal(crop_label(image[..., 0], 48), image[top : top + 48, left : left + 48, 0])


@pytest.mark.parametrize(("height", "width"), [(96, 160), (240, 144)])
def test_the_shorter_side_is_resized_as_torchvision_does(height, width):
    image = photograph(height, width)
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    expected = tv.center_crop(tv.resize(pixels, 48, antialias=True), 48).permute(1, 2, 0).numpy()
    difference = np.abs(crop_image(image, 48).astype(int) - expected)
    assert difference.max() <= 2  # both round to whole grey values on the way


def test_shrinking_averages_instead_of_skipping():
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    found = crop_image(np.stack([stripes] * 3, axis=-1), 16)
    assert np.abs(found[:, 1:-1].astype(int) - 127).max() <= 2  # at the border half a stripe is missing


@pytest.mark.parametrize("size", [10, 48, 150])
def test_labels_are_never_mixed(size):
    label = np.random.default_rng(0).choice(np.array([0, 7, 255], np.uint8), (64, 90))
    assert set(np.unique(crop_label(label, size))) == {0, 7, 255}


@pytest.mark.parametrize(("height", "width"), [(96, 160), (200, 130), (50, 61)])
def test_label_and_image_stay_in_place(height, width):
    label = np.zeros((height, width), np.uint8)
    label[height // 3 :, width // 2 :] = 1
    image = np.stack([255 * label] * 3, axis=-1)
    from_image = crop_image(image, 64)[..., 0] > 127
    assert (from_image == crop_label(label, 64)).mean() > 0.98  # they may differ along the edge alone


def test_cropping_takes_read_only_images_and_leaves_them():
    image = photograph(40, 60)
    image.flags.writeable = False
    np.testing.assert_array_equal(crop_image(image, 16), crop_image(photograph(40, 60), 16))
    np.testing.assert_array_equal(image, photograph(40, 60))
