import ast
import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from neuralef import audit, training
from neuralef.audit import patch_label_counts, pixel_cross_entropy, train_probed
from neuralef.config import Config
from neuralef.datasets.base import IGNORE_LABEL
from neuralef.datasets.crops import crop_label
from neuralef.errors import InputError
from neuralef.paths import PACKAGE

CONFIG = Config(width=16, feature_neighbors=8, epochs=4, batch_images=2, pixel_neighbors=(4, 2))
FIT = {"num_eigenfunctions": 4, "seed": 3, "progress": False}


@pytest.fixture(scope="module")
def counts(scenes, store):
    return audit.training_label_counts(scenes, store, progress=False)


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


@pytest.mark.parametrize(
    "config", [CONFIG, replace(CONFIG, precision="bfloat16", patch_stride=2, feature_neighbors=4, epochs=2)]
)
def test_detached_is_bit_identical_to_none_and_gradient_is_not(store, counts, config):
    none = training.train(store, config, **FIT)
    detached = train_probed(store, counts, config, variant="detached", **FIT)
    gradient = train_probed(store, counts, config, variant="gradient", **FIT)
    assert same(none.psi, detached.psi)
    for step, probed in zip(none.history, detached.history, strict=True):
        assert vars(step).items() <= vars(probed).items()
    assert not same(none.psi, gradient.psi)
    weights = [run.psi.state_dict() for run in (none, gradient)]
    assert not torch.equal(*(state["blocks.0.attention.qkv.weight"] for state in weights))


def test_only_the_gradient_differs_before_the_first_step(store, counts):
    steps = [
        train_probed(store, counts, CONFIG, variant=variant, **FIT).history[0] for variant in ("detached", "gradient")
    ]
    assert steps[0] == steps[1] == replace(steps[0], loss=training.train(store, CONFIG, **FIT).history[0].loss)


def test_without_weight_the_gradient_changes_nothing(store, counts):
    unweighted = train_probed(store, counts, CONFIG, variant="gradient", label_weight=0.0, **FIT)
    assert same(training.train(store, CONFIG, **FIT).psi, unweighted.psi)


def test_labels_replaced_by_noise_change_gradient_but_not_detached(store, counts):
    noise = np.random.default_rng(0).permutation(counts.reshape(-1, counts.shape[-1])).reshape(counts.shape)
    for variant, unmoved in (("detached", True), ("gradient", False)):
        first, second = (train_probed(store, labels, CONFIG, variant=variant, **FIT) for labels in (counts, noise))
        assert same(first.psi, second.psi) == unmoved
        assert not same(first.probe, second.probe)


@pytest.fixture(scope="module")
def probed(store, counts):
    """A run long enough for the probe to learn."""
    return train_probed(store, counts, replace(CONFIG, epochs=40, learning_rate=2e-2), variant="detached", **FIT)


def test_the_probe_learns(probed):
    assert probed.history[-1].cross_entropy < 0.7 * probed.history[0].cross_entropy


@pytest.mark.parametrize("killed_after", [1, 5])
def test_a_killed_run_continues_bit_identically(store, counts, tmp_path, monkeypatch, killed_after):
    whole = train_probed(store, counts, CONFIG, variant="gradient", **FIT)
    step = audit._train_step

    def dies(*arguments, **keywords):
        if keywords["step"] == killed_after:
            raise KeyboardInterrupt
        return step(*arguments, **keywords)

    keep = {"folder": tmp_path, "checkpoint_every": 2}
    monkeypatch.setattr(audit, "_train_step", dies)
    with pytest.raises(KeyboardInterrupt):
        train_probed(store, counts, CONFIG, variant="gradient", **FIT, **keep)
    monkeypatch.setattr(audit, "_train_step", step)
    resumed = train_probed(store, counts, CONFIG, variant="gradient", **FIT, **keep)
    assert same(whole.psi, resumed.psi)
    assert same(whole.probe, resumed.probe)
    assert resumed.history == whole.history
    monkeypatch.setattr(audit, "_train_step", lambda *_, **__: pytest.fail("a step was repeated"))
    assert same(whole.psi, train_probed(store, counts, CONFIG, variant="gradient", **FIT, **keep).psi)


def test_a_variant_without_head_and_labels_of_other_images_are_refused(store, counts):
    with pytest.raises(ValueError, match="trains no head"):
        train_probed(store, counts, CONFIG, variant="none", **FIT)
    with pytest.raises(ValueError, match="label counts have shape"):
        train_probed(store, counts[:3], CONFIG, variant="gradient", **FIT)


def test_more_clusters_than_patches_are_refused(store, counts):
    with pytest.raises(InputError, match="clusters were asked of"):
        train_probed(store, counts, CONFIG, variant="gradient", num_eigenfunctions=1000, seed=0, progress=False)


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
