"""The true path on real photographs, wherever the data root holds them."""

import numpy as np
import pytest

from neuralef import backbones, datasets, fidelity, weights
from neuralef.config import Config, load_profile
from neuralef.errors import InputError
from neuralef.experiments import run_experiment
from neuralef.features import extract, to_tensor
from neuralef.spectral import principal_eigenvectors
from neuralef.training import kernel_of
from neuralef.workbench import Experiment, open_workbench

CONFIG = Config(
    image_size=168, precision="float32", feature_neighbors=12, width=64, epochs=12, batch_images=6, kmeans_iterations=20
)


@pytest.fixture(scope="module")
def photographs():
    if not datasets.is_obtainable("stanford_background"):
        pytest.skip("Stanford Background is not in the data root")
    return datasets.load("stanford_background")


@pytest.fixture(scope="module")
def saliency_vit():
    try:
        weights.fetch("vit_small_patch14_saliency")
    except InputError as error:
        pytest.skip(str(error))
    return backbones.build("vit_small_patch14_saliency")


def test_bfloat16_costs_less_than_a_thousandth_of_a_cosine(photographs, saliency_vit):
    images = to_tensor(np.stack([photographs.image(name)[:196, :196] for name in photographs.ids("train")[:4]]))
    exact, fast = saliency_vit(images), saliency_vit(images, precision="bfloat16")
    cosine = (exact * fast).sum(-1) / (exact.norm(dim=-1) * fast.norm(dim=-1))
    assert cosine.mean() > 0.999


def test_real_photographs_cluster_far_better_than_chance(photographs, saliency_vit, tmp_path, monkeypatch, own_cache):
    experiment = Experiment(
        dataset="stanford_background", backbone="vit_small_patch14_saliency", clusters=24, seed=0, config=CONFIG
    )
    bench = open_workbench(experiment, progress=False)
    for split, count in (("train", 24), ("val", 12)):
        ids = photographs.ids(split)[:: len(photographs.ids(split)) // count][:count]
        monkeypatch.setattr(bench.dataset, "ids", _some(bench.dataset.ids, split, ids))
    rows = run_experiment(experiment, ("kmeans", "ours", "ours_star"), tmp_path, bench=bench, progress=False)
    accuracy = {row["method"]: row["accuracy"] for row in rows if row["matching"] == "max_iou"}
    assert min(accuracy.values()) > 0.5  # the commonest class alone would give about a quarter
    assert all(row["images"] == 12 for row in rows)


def test_unquantised_psi_recovers_the_leading_eigenfunctions_of_a_kernel_of_photographs(
    photographs, saliency_vit, tmp_path, monkeypatch
):
    """The required result: a correlation of 0.95 for each of the first five."""
    config = load_profile("quick").config.updated(
        {"width": 128, "depth": 2, "mlp_ratio": 0.5, "pixel_weight": 0.3, "feature_neighbors": 128}
    )
    ids = photographs.ids("train")[:2]
    monkeypatch.setattr(photographs, "ids", _some(photographs.ids, "train", ids))
    store = extract(photographs, "train", saliency_vit, config, cache=tmp_path, progress=False)
    everything, K = slice(None), 8
    kappa = kernel_of(store.high(everything), store.colours(everything), config)
    eigenvalues, exact = principal_eigenvectors(kappa, K)
    assert np.diff(eigenvalues[:6]).max() < -0.02, "equal eigenvalues could only be compared as subspaces"
    plain = fidelity.plain_config(config, K, penalty=1.0)
    fit = fidelity.fit(store.levels(everything), kappa, plain, num_eigenfunctions=K, seed=0, steps=300, progress=False)
    found = fidelity.compare(fit.functions[-1], exact, kappa)
    assert (found.same_index[:5] >= 0.95).all()


def _some(ids, split, chosen):
    return lambda wanted: chosen if wanted == split else ids(wanted)
