import inspect
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from interruptions import interrupted_at
from small import EXPERIMENT, PLAIN, Recording, photograph, same
from trees import write_folder_dataset

from neuralef import training
from neuralef.augmentation import AugmentedPhotographs, apply_view, distort_colours, draw_view, placed, view_at
from neuralef.config import Config
from neuralef.errors import InputError
from neuralef.workbench import open_workbench

CONFIG = Config(
    image_size=64, width=16, feature_neighbors=8, epochs=4, batch_images=2, pixel_neighbors=(4, 2), augment=True
)


def pixels_of(image):
    return torch.tensor(image).permute(2, 0, 1) / 255


@pytest.fixture
def augmented(scenes, store, colour_backbone):
    return AugmentedPhotographs(scenes.image, store.ids, colour_backbone, store.crop_size, 64, CONFIG)


def test_a_view_that_changes_nothing_gives_the_upper_left_corner():
    image = photograph(40, 60)
    torch.testing.assert_close(apply_view(image, PLAIN, 40, 32), pixels_of(image[:32, :32]), rtol=0, atol=0)


@pytest.mark.parametrize(("place", "first"), [(0.0, (0, 0)), (0.5, (4, 14)), (0.999, (8, 28))])
def test_a_crop_lies_anywhere_within_the_photograph(place, first):
    image = photograph(40, 60)
    found = apply_view(image, replace(PLAIN, top=place, left=place), 40, 32)
    top, left = first
    torch.testing.assert_close(found, pixels_of(image[top : top + 32, left : left + 32]))


def test_a_flip_mirrors_the_crop():
    image = photograph(40, 60)
    found = apply_view(image, replace(PLAIN, flip=True), 40, 32)
    torch.testing.assert_close(found, pixels_of(image[:32, :32]).flip(2))


@pytest.mark.parametrize(
    ("ratio", "shape"), [(0.5, (20, 30)), (1.0, (40, 60)), (2.0, (64, 64)), (1.3, (52, 64)), (0.01, (1, 1))]
)
def test_the_ratio_is_that_of_the_shorter_side(ratio, shape):
    assert apply_view(photograph(40, 60), replace(PLAIN, ratio=ratio), 40, 64).shape == (3, *shape)


def test_resizing_keeps_a_gradient():
    image = np.broadcast_to(np.linspace(0, 240, 60, dtype=np.uint8)[None, :, None], (40, 60, 3))
    found = apply_view(image, replace(PLAIN, ratio=2.0), 40, 120)
    assert found.shape == (3, 80, 120)
    torch.testing.assert_close(found[0, 40], torch.linspace(0, 240 / 255, 120), rtol=0, atol=0.02)


def distorted(pixels, **changes):
    return distort_colours(pixels, replace(PLAIN, **changes))


def test_brightness_is_added_and_contrast_is_a_factor():
    pixels = torch.rand(3, 6, 7)
    torch.testing.assert_close(distorted(pixels, brightness=0.1), (pixels + 0.1).clamp(0, 1))
    torch.testing.assert_close(distorted(pixels, brightness=-0.1), (pixels - 0.1).clamp(0, 1))
    torch.testing.assert_close(distorted(pixels, contrast=1.5), (1.5 * pixels).clamp(0, 1))
    torch.testing.assert_close(distorted(pixels, contrast=0.5, contrast_first=True), 0.5 * pixels)


def test_hue_turns_the_colour_circle_and_saturation_leads_away_from_grey():
    red, green = torch.tensor([1.0, 0, 0]).view(3, 1, 1), torch.tensor([0, 1.0, 0]).view(3, 1, 1)
    torch.testing.assert_close(distorted(red, hue=1 / 3), green, rtol=0, atol=1e-5)
    grey = torch.full((3, 2, 2), 0.3)
    torch.testing.assert_close(distorted(grey, saturation=1.5, hue=0.05), grey, rtol=0, atol=1e-3)
    pale = distorted(red, saturation=0.5)
    assert pale[0] < red[0] and pale[1] > red[1]


def test_contrast_comes_before_or_after_the_colours():
    pixels = torch.rand(3, 6, 7)
    changes = {"contrast": 1.5, "saturation": 1.5}
    first = distorted(pixels, **changes, contrast_first=True)
    torch.testing.assert_close(first, distorted(distorted(pixels, contrast=1.5), saturation=1.5))
    last = distorted(pixels, **changes, contrast_first=False)
    torch.testing.assert_close(last, distorted(distorted(pixels, saturation=1.5), contrast=1.5))
    assert not torch.equal(first, last)


def test_views_are_drawn_over_segmenter_s_ranges():
    rng = np.random.default_rng(0)
    views = [draw_view(rng) for _ in range(4000)]
    for name, low, high in (
        ("ratio", 0.5, 2.0), ("top", 0, 1), ("left", 0, 1), ("brightness", -32 / 255, 32 / 255), ("contrast", 0.5, 1.5),
        ("saturation", 0.5, 1.5), ("hue", -0.1, 0.1),
    ):  # fmt: skip
        values = np.array([getattr(view, name) for view in views if getattr(view, name) is not None])
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.02 * (high - low)
        if name not in ("ratio", "top", "left"):
            assert 0.45 < len(values) / len(views) < 0.55
    for name in ("flip", "contrast_first"):
        assert 0.45 < np.mean([getattr(view, name) for view in views]) < 0.55


def test_crops_depend_on_seed_step_and_place_alone(augmented):
    chosen = np.array([0, 3, 3])
    first, _ = augmented.crops(chosen, seed=5, step=9)
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(first, augmented.crops(chosen, seed=5, step=9)[0])
    assert not torch.equal(first, augmented.crops(chosen, seed=6, step=9)[0])
    assert not torch.equal(first, augmented.crops(chosen, seed=5, step=10)[0])
    assert not torch.equal(first[1], first[2])


def test_padding_is_zero_after_the_backbone_s_normalisation(augmented, monkeypatch):
    monkeypatch.setattr("neuralef.augmentation.draw_view", lambda _: replace(PLAIN, ratio=0.5))
    crops, real = augmented.crops(np.array([0]), seed=0, step=0)
    normalised = (crops - augmented.backbone.mean) / augmented.backbone.std
    assert real[0, :32, :40].all() and real.sum() == 32 * 40  # scenes are 64 x 80
    assert (normalised[:, :, ~real[0]] == 0).all()
    assert (normalised[:, :, real[0]] != 0).any()


def test_patches_that_are_padding_by_more_than_half_take_no_part(augmented, monkeypatch):
    # 0.55 of 64 x 80 pixels are 35 x 44: four patches and 3 rows of a fifth, five and 4 columns of a sixth
    monkeypatch.setattr("neuralef.augmentation.draw_view", lambda _: replace(PLAIN, ratio=0.55))
    kept = augmented.batch(np.array([0, 1]), seed=0, step=0).kept
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:4, :6] = True
    assert torch.equal(kept, expected.expand(2, 8, 8))
    official = replace(augmented, config=replace(CONFIG, mask_padding=False))
    assert official.batch(np.array([0, 1]), seed=0, step=0).kept is None


def test_a_view_that_changes_nothing_has_the_stored_features(augmented, store, scenes, monkeypatch):
    # The store keeps the central square of the scene, which begins 8 pixels from the left.
    monkeypatch.setattr("neuralef.augmentation.draw_view", lambda _: replace(PLAIN, left=8 / 16.9))
    chosen = np.array([1, 4])
    levels, colours, kept = augmented.batch(chosen, seed=0, step=0)
    assert torch.equal(levels, store.levels(chosen))
    assert torch.equal(colours, store.colours(chosen))
    assert kept.all()


def test_parts_of_the_grid_are_parts_of_the_whole(augmented):
    whole = augmented.batch(np.array([0, 2]), seed=1, step=2)
    rows, columns = slice(1, None, 3), slice(2, None, 3)
    for part, all_of_it in zip(augmented.batch(np.array([0, 2]), rows, columns, seed=1, step=2), whole, strict=True):
        assert torch.equal(part, all_of_it[:, rows, columns])


def weights(store, config, augmented, **options):
    trained = training.train(
        store, config, num_eigenfunctions=4, seed=0, progress=False, augmented=augmented, **options
    )
    return trained.psi.state_dict(), trained.history


@pytest.mark.parametrize("mask_padding", [True, False])
def test_a_killed_run_continues_with_the_same_crops(store, augmented, tmp_path, mask_padding):
    config = replace(CONFIG, mask_padding=mask_padding, patch_stride=2)
    augmented = replace(augmented, config=config)
    whole, history = weights(store, config, augmented)
    with interrupted_at(training, 5):
        weights(store, config, augmented, folder=tmp_path, checkpoint_every=2)
    resumed, resumed_history = weights(store, config, augmented, folder=tmp_path, checkpoint_every=2)
    assert same(whole, resumed)
    assert resumed_history == history


def test_crops_made_ahead_are_the_same(store, augmented, monkeypatch):
    made = []
    crops = AugmentedPhotographs.crops

    def counted(self, chosen, **where):
        made.append((threading.current_thread() is threading.main_thread(), where["step"]))
        return crops(self, chosen, **where)

    monkeypatch.setattr(AugmentedPhotographs, "crops", counted)
    alone, ahead = (weights(store, CONFIG, replace(augmented, ahead=value)) for value in (False, True))
    assert same(alone[0], ahead[0])
    assert alone[1] == ahead[1]
    steps = len(alone[1])
    assert made == [(True, step) for step in range(steps)] + [(step == 0, step) for step in range(steps)]


def test_a_photograph_that_cannot_be_read_ahead_is_named_when_its_step_comes(store, augmented):
    def unreadable(image_id):
        if image_id == augmented.ids[3]:
            raise InputError(f"{image_id} is damaged")
        return augmented.read(image_id)

    ahead = replace(augmented, read=unreadable, ahead=True)
    ahead.begin(np.array([3]), seed=0, step=1)
    ahead.batch(np.array([0, 1]), seed=0, step=0)
    with pytest.raises(InputError, match="is damaged"):
        ahead.batch(np.array([3]), seed=0, step=1)


def test_masked_rows_leave_the_objective(store, augmented, monkeypatch):
    """psi sees padding as tokens, but batch norm, kernel and objective have a row for each kept patch alone."""
    seen = []
    objective = training.neural_eigenfunction_objective

    def spy(psi, kernel, **settings):
        seen.append((len(psi), kernel.shape[0]))
        return objective(psi, kernel, **settings)

    monkeypatch.setattr(training, "neural_eigenfunction_objective", spy)
    monkeypatch.setattr("neuralef.augmentation.draw_view", lambda _: replace(PLAIN, ratio=0.5))
    weights(store, replace(CONFIG, epochs=1), augmented)
    assert seen == [(2 * 4 * 5,) * 2] * 3


def test_a_label_has_no_way_into_training():
    parameters = set(inspect.signature(training.train).parameters)
    assert parameters == {
        "store", "config", "num_eigenfunctions", "seed", "folder", "checkpoint_every", "progress", "augmented",
    }  # fmt: skip
    fields = set(AugmentedPhotographs.__dataclass_fields__)
    assert fields == {"read", "ids", "backbone", "crop_size", "short_side", "config", "ahead", "_begun"}


def test_replacing_labels_by_noise_leaves_augmented_training_bit_identical(tmp_path, monkeypatch, own_cache):
    found = []
    for kind in ("true", "noise"):
        name = write_folder_dataset(tmp_path / kind, noise_labels=kind == "noise")
        config = replace(EXPERIMENT.config, augment=True)
        experiment = replace(EXPERIMENT, dataset=name, dataset_options={}, config=config)
        found.append(open_workbench(experiment, progress=False).training(5, 0))
        monkeypatch.setenv("NEURALEF_CACHE", str(tmp_path / "other-cache"))
    first, second = (result.psi.state_dict() for result in found)
    assert same(first, second)


def test_augmentation_is_part_of_the_identity_of_psi_and_evaluation_is_not(own_cache):
    bench = open_workbench(EXPERIMENT, progress=False)

    def key(**changes):
        return bench.training_key(5, 0, replace(EXPERIMENT.config, **changes))

    plain, augmented = key(), key(augment=True)
    changed = [{"mask_padding": False}, {"short_side": 80}, {"train_crop": 48}]
    assert len({plain, augmented, *(key(augment=True, **change) for change in changed)}) == 5
    assert key(train_crop=48) == plain
    assert key(protocol="sliding", window=32, window_stride=16, short_side=80, crf="colour") == plain
    assert key(augment=True, protocol="sliding", window=32, crf="black") == augmented


def test_sizes_are_checked_of_the_crops_not_of_the_stored_images(store, augmented):
    config = replace(CONFIG, train_crop=128, epochs=1, batch_images=1, patch_stride=3)  # 4 patches of a stored image
    larger = replace(augmented, crop_size=128, config=config)
    training.train(store, config, num_eigenfunctions=12, seed=0, progress=False, augmented=larger)
    smaller = replace(augmented, crop_size=16)
    with pytest.raises(InputError, match="patch_stride is 3, but an image has \\(2, 2\\) patches"):
        options = {"num_eigenfunctions": 4, "seed": 0, "progress": False, "augmented": smaller}
        training.train(store, replace(CONFIG, patch_stride=3), **options)


def test_shrinking_averages_what_it_leaves_out():
    stripes = np.tile(np.uint8([255, 0, 0, 255]), 15)
    image = np.array(np.broadcast_to(stripes[None, :, None], (40, 60, 3)))
    found = apply_view(image, replace(PLAIN, ratio=0.25), 40, 64)
    assert found.shape == (3, 10, 15)
    assert (found[:, :, 1:-1] - 0.5).abs().max() < 0.1


def test_the_backbone_is_asked_for_the_precision_of_the_configuration(scenes, store):
    backbone, config = Recording(), replace(CONFIG, precision="bfloat16")
    AugmentedPhotographs(scenes.image, store.ids, backbone, 64, 64, config).batch(np.array([0, 1]), seed=0, step=0)
    assert backbone.asked == {"bfloat16"}


def test_features_of_a_crop_beyond_float16_are_refused(scenes, store):
    class Large(Recording):
        def forward(self, images, **settings):
            return super().forward(images, **settings) + 70_000

    crops = AugmentedPhotographs(scenes.image, store.ids, Large(), 64, 64, CONFIG)
    with pytest.raises(InputError, match="features of a crop at step 3 exceed float16"):
        crops.batch(np.array([0]), seed=0, step=3)


def test_halves_of_a_pixel_are_rounded_up_as_in_the_official_code():
    assert placed((10, 25), PLAIN, 5, 64)[0] == (5, 13)


def test_views_are_drawn_apart_from_the_order_of_an_epoch_and_the_offsets_of_a_step():
    for others in ([3, 5], [3, 5, 1]):  # training.epoch_order, training.batch_at
        assert view_at(3, 5, 0) != draw_view(np.random.default_rng(others))
