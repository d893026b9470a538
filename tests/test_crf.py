import multiprocessing
import os
import signal
import sys
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from reference import mean_field
from small import CONFIG, EXPERIMENT

from neuralef import crf
from neuralef.errors import InputError
from neuralef.experiments import run_experiment
from neuralef.protocols import WindowLogits
from neuralef.results import read_results

MODES = ["colour", "black"]


def edge(height=24, width=30, noise=0.0):
    """A photograph of two colours that meet in a vertical edge, and the cluster each side should be."""
    truth = np.broadcast_to(np.arange(width) >= width // 2, (height, width)).astype(int)
    colours = np.array([[40, 60, 200], [210, 180, 30]])[truth]
    grain = noise * np.random.default_rng(0).standard_normal(colours.shape)
    return (colours + grain).clip(0, 255).astype(np.uint8), truth


def wavering(truth, K=3, share=0.3, seed=0):
    """Probabilities that favour the true cluster at most pixels and another at a share of them."""
    rng = np.random.default_rng(seed)
    leaning = np.where(rng.random(truth.shape) < share, rng.integers(0, K, truth.shape), truth)
    logits = 1.5 * np.eye(K)[leaning] + 0.3 * rng.standard_normal((*truth.shape, K))
    return softmax(logits).transpose(2, 0, 1).astype(np.float32)


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("pydensecrf", reason="extra [crf] is not installed")


@pytest.mark.parametrize("mode", MODES)
def test_it_is_mean_field_with_the_paper_s_weights(library, mode):
    image, truth = edge(noise=1.0)
    probabilities = wavering(truth)
    expected = mean_field(probabilities, image if mode == "colour" else 0 * image)
    found = crf.dense_crf(probabilities, image, mode)
    assert found.dtype == np.uint16
    # The library filters on a lattice, the reference by whole kernels: only what is near a tie may differ.
    largest = np.sort(expected, axis=0)[-2:]
    sure = largest[1] - largest[0] > 0.2
    assert sure.mean() > 0.9
    assert (found == expected.argmax(axis=0))[sure].mean() > 0.99


def test_colours_bring_clusters_to_the_edge(library):
    image, truth = edge()
    probabilities = wavering(truth, share=0.4)
    assert (probabilities.argmax(axis=0) == truth).mean() < 0.8
    np.testing.assert_array_equal(crf.dense_crf(probabilities, image, "colour"), truth)


def test_black_is_what_a_black_photograph_gives(library):
    image, truth = edge()
    probabilities = wavering(truth, share=0.6)
    black = crf.dense_crf(probabilities, image, "black")
    np.testing.assert_array_equal(black, crf.dense_crf(probabilities, 0 * image, "colour"))
    assert (black != crf.dense_crf(probabilities, image, "colour")).any()


def test_clusters_that_no_pixel_wants_change_nothing(library):
    image, truth = edge(noise=20.0)
    few = wavering(truth, K=4, share=0.5)
    many = np.zeros((60, *truth.shape), np.float32)
    many[[7, 20, 21, 59]] = few
    np.testing.assert_array_equal(
        crf.dense_crf(many, image, "colour"), np.array([7, 20, 21, 59])[crf.dense_crf(few, image, "colour")]
    )


def test_inputs_may_be_read_only_and_are_left_alone(library):
    image, truth = edge()
    probabilities = wavering(truth)
    before = image.copy(), probabilities.copy()
    image.flags.writeable = probabilities.flags.writeable = False
    crf.dense_crf(probabilities, image, "colour")
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(probabilities, before[1])


@pytest.mark.parametrize("K", [1, 2])
def test_one_cluster_stays_one(library, K):
    image, _ = edge(4, 5)
    probabilities = np.zeros((K, 4, 5), np.float32)
    probabilities[-1] = 1.0
    assert (crf.dense_crf(probabilities, image, "colour") == K - 1).all()


def pictures(count):
    for index in range(count):
        image, truth = edge(noise=5.0)
        logits = np.log(wavering(truth, seed=index).transpose(1, 2, 0))
        sizes = dict.fromkeys(("window", "covered", "resized", "size"), truth.shape)
        yield f"image-{index}", WindowLogits(logits=logits[None], corners=((0, 0),), temperature=0.5, **sizes), image


def test_processes_give_the_images_in_order_and_the_same_maps(library):
    found = list(crf.refine(pictures(7), "colour", processes=2))
    expected = [(name, crf.dense_crf(logits.probabilities(), image, "colour")) for name, logits, image in pictures(7)]
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (_, first), (_, second) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(first, second)
    assert any((clusters != found[0][1]).any() for _, clusters in found)


class InlinePool:
    """Computes at once what a pool would compute elsewhere."""

    def __init__(self, processes, **_):
        assert processes >= 1

    def submit(self, function, *arguments):
        done = Future()
        done.set_result(function(*arguments))
        return done

    def shutdown(self, **_):
        pass


def test_images_are_read_as_they_are_needed(library, monkeypatch):
    read = []
    monkeypatch.setattr(crf, "ProcessPoolExecutor", InlinePool)
    maps = crf.refine((read.append(picture[0]) or picture for picture in pictures(9)), "colour", processes=2)
    for taken, _ in enumerate(maps, start=1):
        assert len(read) <= taken + 3
    assert taken == len(read) == 9


def test_processes_of_the_crf_keep_off_the_gpu(library, monkeypatch):
    devices = []
    monkeypatch.setattr(crf, "ProcessPoolExecutor", InlinePool)
    monkeypatch.setattr(crf, "_refined", lambda logits, *_: devices.append(logits.device))
    on_gpu = ((name, replace(logits, device="cuda"), image) for name, logits, image in pictures(2))
    list(crf.refine(on_gpu, "colour", processes=1))
    assert devices == ["cpu", "cpu"]


@dataclass
class Deadly:
    """Ends the process that receives it."""

    device: str = "cpu"

    def __reduce__(self):
        return os._exit, (1,)


def test_an_interruption_is_left_to_the_process_that_asked():
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), crf.prepare_process) as pool:
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN


def test_a_process_that_dies_is_named(library):
    deadly = ((image_id, Deadly(), image) for image_id, _, image in pictures(3))
    with pytest.raises(InputError, match="process of the CRF ended early"):
        list(crf.refine(deadly, "colour", processes=2))


@pytest.fixture
def no_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)


def test_a_missing_library_is_named_before_anything_is_computed(no_library, tmp_path):
    experiment = replace(EXPERIMENT, config=replace(CONFIG, crf="colour"))
    with pytest.raises(InputError, match=r"crf: not installed; .*\.\[crf\].*crf=none"):
        run_experiment(experiment, ("kmeans",), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_without_a_crf_no_library_is_needed(no_library):
    crf.require("none")
    with pytest.raises(InputError, match="crf: not installed"):
        crf.require("black")


@pytest.mark.parametrize("mode", MODES)
def test_results_say_which_crf_they_had(library, mode, tmp_path, monkeypatch, own_cache):
    monkeypatch.setattr(crf, "ProcessPoolExecutor", InlinePool)
    plain = run_experiment(EXPERIMENT, ("ours",), tmp_path / "out", progress=False)
    experiment = replace(EXPERIMENT, config=replace(CONFIG, crf=mode))
    rows = run_experiment(experiment, ("ours",), tmp_path / "out", progress=False)
    frame = read_results(tmp_path / "out" / "results.csv")
    assert frame["crf"].tolist() == ["none"] * 3 + [mode] * 3
    assert {row["experiment_id"] for row in rows}.isdisjoint(row["experiment_id"] for row in plain)
    assert rows[0]["mean_iou"] != plain[0]["mean_iou"]


def test_the_field_has_the_settings_of_the_official_code(monkeypatch):
    asked = {}

    class Field:
        def __init__(self, width, height, clusters):
            self.shape = clusters, width * height

        def setUnaryEnergy(self, energy):  # noqa: N802 (the library's)
            assert energy.shape == self.shape

        def addPairwiseGaussian(self, **settings):  # noqa: N802
            asked["smoothness"] = settings

        def addPairwiseBilateral(self, *, rgbim, **settings):  # noqa: N802
            asked["appearance"] = settings

        def inference(self, iterations):
            asked["iterations"] = iterations
            return np.zeros(self.shape)

    monkeypatch.setattr(crf, "_library", lambda: SimpleNamespace(DenseCRF2D=Field))
    crf.dense_crf(np.full((2, 4, 5), 0.5, np.float32), np.zeros((4, 5, 3), np.uint8), "colour")
    assert asked == {
        "iterations": 10,
        "smoothness": {"sxy": 1, "compat": 3},
        "appearance": {"sxy": 67, "srgb": 3, "compat": 4},
    }
