"""Fixtures every test may use; all of them are small, seeded and free of downloads.

``scenes``, ``colour_backbone`` and ``store`` belong together and are made once per session: read them, never change
them. ``data_folder`` gives a test empty folders of its own.
"""

import os
import random
import urllib.error
import urllib.request

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers with a pool of threads each wait for one another at every barrier; read when torch and numba are loaded.
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}

import numpy as np
import pytest
import torch

from neuralef.backbones import build
from neuralef.config import Config
from neuralef.datasets.synthetic import SyntheticScenes
from neuralef.features import FeatureStore, extract

FOLDER_VARIABLES = {"NEURALEF_DATA": "", "NEURALEF_CACHE": "cache", "NEURALEF_WEIGHTS": "weights"}


@pytest.fixture(autouse=True)
def seeds():
    """Every test starts from the same global random states; what must be reproducible passes its own seed anyway."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def no_network(monkeypatch):
    """Every download fails at once, as without a network."""

    def refuse(request, timeout):
        raise urllib.error.URLError("the tests have no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """An empty data root of the test's own: data, cache and weights all lie below it, never in the user's folders."""
    root = tmp_path / "data-root"
    for variable, below in FOLDER_VARIABLES.items():
        monkeypatch.setenv(variable, str(root / below))
    return root


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache of the test's own, in which nothing is yet."""
    monkeypatch.setenv("NEURALEF_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def scenes():
    """Synthetic scenes, six to train and three to validate, 64 x 80 pixels."""
    return SyntheticScenes(train=6, val=3, size=(64, 80))


@pytest.fixture(scope="session")
def colour_backbone():
    """The backbone without a network: 8 x 8 patches, levels of 8, 8 and 16 channels."""
    return build("colour_patches")


@pytest.fixture(scope="session")
def store(scenes, colour_backbone, tmp_path_factory):
    """Features of the six training ``scenes`` at 64 x 64 pixels: arrays (6, 8, 8, 32) and (6, 8, 8, 3), read-only."""
    cache = tmp_path_factory.mktemp("features")
    return extract(scenes, "train", colour_backbone, Config(image_size=64), cache=cache, progress=False)


@pytest.fixture(scope="session")
def planted_store():
    """Four images of four planted clusters: each quarter of an image is one direction plus a little noise.

    Every cluster has 64 of the 256 patches, so a feature graph of at most 63 neighbours has four components.
    """
    generator = np.random.default_rng(0)
    images, side, clusters, channels = 4, 8, 4, 8
    rows, columns = np.indices((side, side)) // (side // 2)
    truth = np.broadcast_to(2 * rows + columns, (images, side, side))
    directions = np.eye(clusters, channels)
    levels = [directions[truth] + 0.05 * generator.standard_normal((*truth.shape, channels)) for _ in range(3)]
    colours = (0.2 + 0.2 * truth[..., None] + 0.01 * generator.standard_normal((*truth.shape, 3))).clip(0, 1)
    return FeatureStore(
        ids=tuple(f"planted-{index}" for index in range(images)),
        patches=np.concatenate(levels, axis=-1).astype(np.float16),
        patch_colours=colours.astype(np.float16),
        channels=(channels,) * 3,
        crop_size=8 * side,
        key="planted",
        extract_s=0.0,
    )
