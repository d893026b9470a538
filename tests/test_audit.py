import ast
import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from interruptions import interrupted_at
from small import PLAIN

from neuralef import audit, training
from neuralef.audit import (
    CroppedLabels,
    StoredLabels,
    patch_label_counts,
    pixel_cross_entropy,
    train_probed,
    view_label,
)
from neuralef.augmentation import AugmentedPhotographs, apply_view, view_at
from neuralef.clustering import hidden_features
from neuralef.config import Config
from neuralef.datasets.base import IGNORE_LABEL
from neuralef.datasets.crops import crop_label
from neuralef.errors import InputError
from neuralef.paths import PACKAGE

CONFIG = Config(width=16, feature_neighbors=8, epochs=4, batch_images=2, pixel_neighbors=(4, 2))
CROPS = replace(CONFIG, image_size=64, augment=True)
FIT = {"num_eigenfunctions": 4, "seed": 3, "progress": False}


@pytest.fixture(scope="module")
def counts(scenes, store):
    return audit.training_label_counts(scenes, store, progress=False)


@pytest.fixture(scope="module")
def labels(counts):
    return StoredLabels(counts)


@pytest.fixture
def cropped(scenes, store, colour_backbone):
    crops = AugmentedPhotographs(scenes.image, store.ids, colour_backbone, store.crop_size, 64, CROPS)
    return CroppedLabels(scenes.label, crops, len(scenes.classes))


def same(first, second):
    first, second = first.state_dict(), second.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_patch_counts_worked_out_by_hand():
    label = np.array(
        [
            [0, 0, 1, 255],
            [0, 2, 255, 255],
            [2, 2, 0, 1],
            [2, 2, 1, 1],
        ],
        dtype=np.uint8,
    )
    expected = [[[3, 0, 1], [0, 1, 0]], [[0, 0, 4], [1, 3, 0]]]
    assert patch_label_counts(label, (2, 2), 3).tolist() == expected


def test_counts_of_a_split_are_those_of_its_crops(scenes, store, counts):
    assert counts.shape == (6, 8, 8, len(scenes.classes))
    label = crop_label(scenes.label(store.ids[2]), store.crop_size)[8:16, 24:32]
    assert counts[2, 1, 3].tolist() == [(label == c).sum() for c in range(len(scenes.classes))]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [[0, 1, 2], [3, 4, 5], [255] * 3]),
        ({"flip": True}, [[2, 1, 0], [5, 4, 3], [255] * 3]),
        ({"ratio": 0.5}, [[3, 5, 255], [255] * 3, [255] * 3]),
        ({"ratio": 2.0}, [[0, 0, 1], [0, 0, 1], [3, 3, 4]]),
        ({"ratio": 2.0, "top": 0.999, "left": 0.999, "flip": True}, [[2, 2, 1], [5, 5, 4], [5, 5, 4]]),
    ],
    ids=str,
)
def test_the_label_of_a_crop_worked_out_by_hand(changes, expected):
    label = np.array([[0, 1, 2], [3, 4, 5]], dtype=np.uint8)
    assert view_label(label, replace(PLAIN, **changes), short_side=2, crop_size=3).tolist() == expected


@pytest.mark.parametrize("seed", range(8))
def test_a_label_is_cropped_as_its_photograph_is(seed):
    generator = np.random.default_rng(seed)
    label = np.kron(generator.integers(0, 2, (5, 7)), np.ones((12, 12))).astype(np.uint8)
    image = np.repeat(255 * label[..., None], 3, axis=2)
    top, left = generator.random(2)
    view = replace(PLAIN, ratio=generator.uniform(0.5, 2), top=top, left=left, flip=bool(seed % 2))
    seen = apply_view(image, view, 64, 80)[0]
    found = view_label(label, view, 64, 80)
    height, width = seen.shape
    clear = (seen < 0.05) | (seen > 0.95)  # resizing blurs the edges of a photograph, not of its label
    assert clear.float().mean() > 0.5
    assert (found[:height, :width][clear] == seen[clear].round().numpy()).all()
    assert (found[height:] == IGNORE_LABEL).all()
    assert (found[:, width:] == IGNORE_LABEL).all()


def test_counts_of_a_batch_of_stored_images_are_those_of_its_images(scenes, store, labels):
    config = replace(CONFIG, patch_stride=3, feature_neighbors=4, pixel_weight=0.0)
    batch = training.batch_at(store, config, seed=3, step=1)
    found = labels.of(batch, seed=3)
    assert found.shape == (*batch.levels.shape[:3], len(scenes.classes))
    for counts, image in zip(found, batch.images, strict=True):
        whole = patch_label_counts(crop_label(scenes.label(store.ids[image]), 64), store.grid, len(scenes.classes))
        assert (counts == whole[batch.rows, batch.columns]).all()


def test_counts_of_a_batch_of_crops_are_those_of_its_labels(store, cropped):
    config = replace(CROPS, patch_stride=2, feature_neighbors=4)
    batch = training.batch_at(store, config, cropped.crops, seed=3, step=1)
    found = cropped.of(batch, seed=3)
    assert found.shape == (*batch.levels.shape[:3], cropped.num_classes)
    view = view_at(3, 1, 1)
    label = view_label(cropped.read(store.ids[batch.images[1]]), view, 64, store.crop_size)
    whole = patch_label_counts(label, store.grid, cropped.num_classes)
    assert (found[1] == whole[batch.rows, batch.columns]).all()
    assert not (cropped.of(batch, seed=4) == found).all()


def test_cross_entropy_is_that_of_every_pixel_with_the_logits_of_its_patch():
    generator = np.random.default_rng(0)
    label = generator.integers(0, 4, (12, 20)).astype(np.uint8)
    label[generator.random(label.shape) < 0.3] = IGNORE_LABEL
    logits = torch.randn(1, 4, 3, 5)
    pixels = F.interpolate(logits, size=(12, 20), mode="nearest")
    expected = F.cross_entropy(pixels, torch.from_numpy(label[None]).long(), ignore_index=IGNORE_LABEL)
    counts = torch.from_numpy(patch_label_counts(label, (3, 5), 4).astype(np.float32))
    torch.testing.assert_close(pixel_cross_entropy(logits[0].permute(1, 2, 0), counts), expected)


def test_no_labelled_pixel_gives_no_loss_and_no_gradient():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = pixel_cross_entropy(logits, torch.zeros(2, 3))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_the_weight_of_the_cross_entropy_keeps_the_official_ratio():
    assert audit.official_label_weight(Config()) == pytest.approx(100)
    assert audit.official_label_weight(Config(trace_scale=0.5)) == pytest.approx(2)


def test_where_no_weight_is_named_the_cross_entropy_has_the_official_one(store, labels):
    unnamed, official, one = (
        train_probed(store, labels, CONFIG, variant="gradient", label_weight=weight, **FIT)
        for weight in (None, audit.official_label_weight(CONFIG), 1.0)
    )
    assert same(unnamed.psi, official.psi)
    assert not same(unnamed.psi, one.psi)


@pytest.mark.parametrize(
    "config", [CONFIG, replace(CONFIG, precision="bfloat16", patch_stride=2, feature_neighbors=4, epochs=2)]
)
def test_detached_is_bit_identical_to_none_and_gradient_is_not(store, labels, config):
    none = training.train(store, config, **FIT)
    detached = train_probed(store, labels, config, variant="detached", **FIT)
    gradient = train_probed(store, labels, config, variant="gradient", **FIT)
    assert same(none.psi, detached.psi)
    for step, probed in zip(none.history, detached.history, strict=True):
        assert vars(step).items() <= vars(probed).items()
    assert not same(none.psi, gradient.psi)
    weights = [run.psi.state_dict() for run in (none, gradient)]
    assert not torch.equal(*(state["blocks.0.attention.qkv.weight"] for state in weights))


@pytest.mark.parametrize("mask_padding", [True, False])
def test_on_random_crops_too_only_the_gradient_moves_psi(store, cropped, mask_padding):
    config = replace(CROPS, mask_padding=mask_padding)
    cropped = replace(cropped, crops=replace(cropped.crops, config=config))
    none = training.train(store, config, augmented=cropped.crops, **FIT)
    detached, gradient = (train_probed(store, cropped, config, variant=v, **FIT) for v in ("detached", "gradient"))
    noise = np.random.default_rng(0)
    of_noise = replace(cropped, read=lambda image_id: noise.permuted(cropped.read(image_id)))
    assert same(none.psi, detached.psi)
    assert not same(none.psi, gradient.psi)
    assert same(none.psi, train_probed(store, of_noise, config, variant="detached", **FIT).psi)
    assert not same(gradient.psi, train_probed(store, of_noise, config, variant="gradient", **FIT).psi)
    assert detached.history[0].cross_entropy == gradient.history[0].cross_entropy


def test_only_the_gradient_differs_before_the_first_step(store, labels):
    steps = [
        train_probed(store, labels, CONFIG, variant=variant, **FIT).history[0] for variant in ("detached", "gradient")
    ]
    assert steps[0] == steps[1] == replace(steps[0], loss=training.train(store, CONFIG, **FIT).history[0].loss)


def test_without_weight_the_gradient_changes_nothing(store, labels):
    unweighted = train_probed(store, labels, CONFIG, variant="gradient", label_weight=0.0, **FIT)
    assert same(training.train(store, CONFIG, **FIT).psi, unweighted.psi)


def test_labels_replaced_by_noise_change_gradient_but_not_detached(store, counts):
    noise = np.random.default_rng(0).permutation(counts.reshape(-1, counts.shape[-1])).reshape(counts.shape)
    for variant, unmoved in (("detached", True), ("gradient", False)):
        both = (StoredLabels(counts), StoredLabels(noise))
        first, second = (train_probed(store, labels, CONFIG, variant=variant, **FIT) for labels in both)
        assert same(first.psi, second.psi) == unmoved
        assert not same(first.probe, second.probe)


@pytest.fixture(scope="module")
def probed(store, labels):
    """A run long enough for the probe to learn."""
    return train_probed(store, labels, replace(CONFIG, epochs=40, learning_rate=2e-2), variant="detached", **FIT)


def test_the_probe_learns(probed):
    assert probed.history[-1].cross_entropy < 0.7 * probed.history[0].cross_entropy


@pytest.mark.parametrize("killed_after", [1, 5])
def test_a_killed_run_continues_bit_identically(store, labels, tmp_path, monkeypatch, killed_after):
    whole = train_probed(store, labels, CONFIG, variant="gradient", **FIT)
    keep = {"folder": tmp_path, "checkpoint_every": 2}
    with interrupted_at(audit, killed_after):
        train_probed(store, labels, CONFIG, variant="gradient", **FIT, **keep)
    resumed = train_probed(store, labels, CONFIG, variant="gradient", **FIT, **keep)
    assert same(whole.psi, resumed.psi)
    assert same(whole.probe, resumed.probe)
    assert resumed.history == whole.history
    monkeypatch.setattr(audit, "_train_step", lambda *_, **__: pytest.fail("a step was repeated"))
    assert same(whole.psi, train_probed(store, labels, CONFIG, variant="gradient", **FIT, **keep).psi)
    for other in ({"variant": "detached"}, {"variant": "gradient", "label_weight": 0.5}):
        with pytest.raises(InputError, match="of another training"):
            train_probed(store, labels, CONFIG, **FIT, **keep, **other)


def test_a_variant_without_head_and_labels_of_other_images_are_refused(store, counts, labels):
    with pytest.raises(ValueError, match="trains no head"):
        train_probed(store, labels, CONFIG, variant="none", **FIT)
    with pytest.raises(ValueError, match="augment is True, but the labels are StoredLabels"):
        train_probed(store, labels, CROPS, variant="gradient", **FIT)
    with pytest.raises(ValueError, match="label counts have shape"):
        train_probed(store, StoredLabels(counts[:3]), CONFIG, variant="gradient", **FIT)


def test_more_clusters_than_patches_are_refused(store, labels):
    with pytest.raises(InputError, match="clusters were asked of"):
        train_probed(store, labels, CONFIG, variant="gradient", num_eigenfunctions=1000, seed=0, progress=False)


def test_the_linear_probe_segments_by_class(probed, store, counts, scenes):
    head = audit.LinearProbe(probed.psi, probed.probe)
    logits = head.logits(store.levels(slice(None)))
    assert logits.shape == counts.shape
    assert head.num_clusters == len(scenes.classes)
    right = logits.argmax(-1).numpy() == counts.argmax(-1)
    most_frequent = np.bincount(counts.argmax(-1).ravel()).max() / right.size
    assert right.mean() > most_frequent


def test_training_has_no_argument_through_which_a_label_could_come():
    functions = [item for item in vars(training).values() if getattr(item, "__module__", "") == training.__name__]
    names = {name for item in functions if callable(item) for name in inspect.signature(item).parameters}
    assert {"store", "config"} <= names
    forbidden = ("label", "truth", "target", "class", "dataset", "extra", "loss_fn", "hook")
    assert not [name for name in names if any(word in name for word in forbidden)]
    callables = [name for name in inspect.signature(training.train).parameters.values() if "Callable" in str(name)]
    assert not callables


def imported_by(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_nothing_on_the_way_of_an_experiment_imports_the_audit():
    users = {path.stem for path in PACKAGE.rglob("*.py") if "neuralef.audit" in set(imported_by(path))}
    assert users == {"audit_study"}
    users = {path.stem for path in PACKAGE.rglob("*.py") if "neuralef.audit_study" in set(imported_by(path))}
    assert users <= {"cli"}


def test_training_imports_neither_datasets_nor_evaluation():
    imported = set(imported_by(PACKAGE / "training.py"))
    assert not [name for name in imported if name.startswith(("neuralef.datasets", "neuralef.evaluation"))]


def test_the_probe_runs_the_blocks_of_psi_in_its_precision(store):
    psi = training.new_psi(store, CONFIG, 4, seed=0).eval()
    levels = store.levels(slice(0, 2))
    probe = torch.nn.Linear(psi.head.in_features, 3)
    with torch.inference_mode():
        expected = probe(hidden_features(psi, levels, "bfloat16"))
        assert torch.equal(audit.LinearProbe(psi, probe, "bfloat16").logits(levels), expected)
