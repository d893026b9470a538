"""The synthetic scenes are deterministic, well formed, balanced and not solvable by colour alone."""

import numpy as np
import pytest

from neuralef.datasets.scene_classes import SCENE_CLASSES
from neuralef.datasets.synthetic import SyntheticScenes, render_scene, scenes_of
from neuralef.errors import InputError

SIZE = (72, 96)


@pytest.fixture(scope="module")
def scenes():
    dataset = SyntheticScenes(train=60, val=4, size=SIZE)
    return [(dataset.image(name), dataset.label(name)) for name in dataset.ids("train")]


@pytest.fixture(autouse=True)
def nothing_kept():
    """Every test renders its own scenes."""
    scenes_of.cache_clear()


def test_same_arguments_give_the_same_scenes():
    first, second = (SyntheticScenes(train=6, val=2, size=SIZE, seed=3) for _ in range(2))
    names = first.ids("train") + first.ids("val")
    before = [(first.image(name), first.label(name)) for name in names]
    scenes_of.cache_clear()
    for name, (image, label) in zip(names, before, strict=True):
        np.testing.assert_array_equal(second.image(name), image)
        np.testing.assert_array_equal(second.label(name), label)


def test_order_of_access_and_counts_do_not_matter():
    few, many = SyntheticScenes(train=6, size=SIZE), SyntheticScenes(train=9, size=SIZE)
    forwards = {name: few.label(name) for name in few.ids("train")}
    scenes_of.cache_clear()
    for name in reversed(few.ids("train")):
        np.testing.assert_array_equal(many.label(name), forwards[name])


def test_global_random_state_is_neither_read_nor_moved():
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    scene = render_scene(np.random.default_rng(1), SIZE)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.random.seed(6)
    np.testing.assert_array_equal(render_scene(np.random.default_rng(1), SIZE).image, scene.image)


def test_seeds_splits_and_indices_give_different_scenes():
    one, other = SyntheticScenes(train=2, val=1, size=SIZE, seed=0), SyntheticScenes(train=2, val=1, size=SIZE, seed=1)
    images = [data.image(name) for data in (one, other) for name in ("train-000000", "train-000001", "val-000000")]
    assert len({image.tobytes() for image in images}) == len(images)


def test_shapes_and_types(scenes):
    for image, label in scenes:
        assert image.shape == (*SIZE, 3) and image.dtype == np.uint8
        assert label.shape == SIZE and label.dtype == np.uint8
        assert label.max() < len(SCENE_CLASSES)
        assert image.std() > 8, "a flat picture"


@pytest.mark.parametrize("size", [(32, 32), (33, 101), (150, 90), (240, 320)])
def test_any_size(size):
    for seed in range(4):
        scene = render_scene(np.random.default_rng(seed), size)
        assert scene.image.shape == (*size, 3) and scene.label.shape == size
        assert scene.label.max() < len(SCENE_CLASSES)


def test_content_does_not_depend_on_the_size():
    for seed in range(6):
        small = render_scene(np.random.default_rng(seed), (60, 80)).label
        large = render_scene(np.random.default_rng(seed), (240, 320)).label
        assert (small == large[2::4, 2::4]).mean() > 0.85


def test_all_classes_occur_in_forty_scenes(scenes):
    assert set(np.unique([label for _, label in scenes[:40]])) == set(range(8))


def test_classes_are_balanced(scenes):
    shares = np.bincount(np.concatenate([label.ravel() for _, label in scenes]), minlength=8) / (60 * SIZE[0] * SIZE[1])
    assert shares.min() > 0.005 and shares.max() < 0.5, dict(zip(range(8), shares.round(4), strict=True))


def test_colour_alone_does_not_give_the_labels_away(scenes):
    colours = np.stack([image for image, _ in scenes]).astype(np.float32)
    labels = np.stack([label for _, label in scenes])
    means = np.stack([colours[:30][labels[:30] == k].mean(axis=0) for k in range(8)])
    distance = np.square(colours[30:, :, :, None] - means).sum(axis=-1)
    assert (distance.argmin(axis=-1) == labels[30:]).mean() < 0.85


def test_ids():
    dataset = SyntheticScenes(train=3, val=1, size=SIZE)
    assert dataset.splits == ("train", "val")
    assert dataset.ids("train") == ["train-000000", "train-000001", "train-000002"]
    assert dataset.ids("val") == ["val-000000"]


def test_returned_arrays_are_the_callers():
    dataset = SyntheticScenes(train=1, size=SIZE)
    dataset.image("train-000000")[:] = 0
    dataset.label("train-000000")[:] = 9
    assert dataset.image("train-000000").any() and dataset.label("train-000000").max() < 8


def test_a_scene_is_rendered_once(monkeypatch):
    calls = []

    def counted(rng, size):
        calls.append(size)
        return render_scene(rng, size)

    monkeypatch.setattr("neuralef.datasets.synthetic.render_scene", counted)
    dataset = SyntheticScenes(train=1, size=SIZE)
    dataset.image("train-000000"), dataset.label("train-000000")
    SyntheticScenes(train=2, val=1, size=SIZE).label("train-000000")  # another that has the same scene
    assert len(calls) == 1
    SyntheticScenes(train=1, size=SIZE, seed=1).label("train-000000")
    assert len(calls) == 2


def test_fingerprints_follow_what_the_scenes_depend_on():
    base = {"train": 4, "val": 4, "size": SIZE, "seed": 0}
    variants = [base, base | {"seed": 1}, base | {"size": (72, 97)}, base | {"train": 5}]
    datasets = [SyntheticScenes(**variant) for variant in variants]
    digests = [data.image_fingerprint("train") for data in datasets] + [
        data.label_fingerprint("train") for data in datasets
    ]
    assert len(set(digests)) == 8
    assert datasets[0].image_fingerprint("train") != datasets[0].image_fingerprint("val")
    assert datasets[0].image_fingerprint("val") == datasets[3].image_fingerprint("val")
    assert datasets[0].image_fingerprint("train") == SyntheticScenes(**base).image_fingerprint("train")


@pytest.mark.parametrize("name", ["train-000004", "test-000000", "train-1", "train-0000001", "train-00000١", "", "val"])
def test_unknown_id_is_named(name):
    dataset = SyntheticScenes(train=4, val=2, size=SIZE)
    for read in (dataset.image, dataset.label):
        with pytest.raises(InputError, match=repr(name)):
            read(name)


def test_unknown_or_empty_split():
    dataset = SyntheticScenes(train=4, val=0, size=SIZE)
    for ask in (dataset.ids, dataset.image_fingerprint, dataset.label_fingerprint):
        with pytest.raises(InputError, match="'test'"):
            ask("test")
        with pytest.raises(InputError, match="'val'"):
            ask("val")


@pytest.mark.parametrize(
    "arguments",
    [{"train": -1}, {"val": -2}, {"train": 0, "val": 0}, {"size": (31, 320)}, {"size": (240, 0)}, {"seed": -1}],
)
def test_bad_arguments(arguments):
    with pytest.raises(InputError):
        SyntheticScenes(**arguments)


def test_render_refuses_a_tiny_picture():
    with pytest.raises(ValueError, match="16x320"):
        render_scene(np.random.default_rng(0), (16, 320))
