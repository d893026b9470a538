import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse.linalg import eigsh

from neuralef import scaling
from neuralef.config import Config
from neuralef.errors import InputError
from neuralef.measuring import Measured
from neuralef.training import train

CONFIG = Config(width=16, feature_neighbors=8, batch_images=2, pixel_neighbors=(4, 2))


def test_first_round_is_the_stored_photographs_in_another_order(store):
    grown = scaling.grow(store, len(store))
    assert sorted(grown.base) == list(range(len(store)))
    torch.testing.assert_close(grown.levels(slice(None)), store.levels(grown.base), rtol=0, atol=0)
    torch.testing.assert_close(grown.high(slice(None)), store.high(grown.base), rtol=0, atol=0)
    torch.testing.assert_close(grown.colours([3, 1]), store.colours(grown.base[[3, 1]]), rtol=0, atol=0)


def test_further_rounds_are_the_same_photographs_with_a_little_noise(store):
    images = len(store)
    grown = scaling.grow(store, 2 * images + 1, noise=0.1)
    assert len(grown) == 2 * images + 1
    first, second = grown.levels(np.arange(images)), grown.levels(np.arange(images, 2 * images))
    _, deviation = store.channel_statistics
    spread = (second - first).flatten(0, 2).std(dim=0)
    varying = deviation > 0
    assert 0.08 < (spread[varying] / deviation[varying]).mean() < 0.12
    rows = slice(1, None, 3)
    torch.testing.assert_close(grown.levels([images + 2], rows, rows), grown.levels([images + 2])[:, rows, rows])
    torch.testing.assert_close(grown.high([images + 2]), grown.levels([images + 2])[..., -store.channels[-1] :])
    torch.testing.assert_close(grown.colours([2]), grown.colours([images + 2]))


def test_psi_trains_on_a_grown_store(store):
    grown = scaling.grow(store, 8)
    assert len(train(grown, CONFIG.updated({"epochs": 1}), num_eigenfunctions=3, seed=0, progress=False).history) == 4


def test_products_are_counted_and_the_answer_is_the_same():
    matrix = np.random.default_rng(0).standard_normal((40, 40)).astype(np.float32)
    matrix = matrix + matrix.T
    counted = scaling.CountedKernel(matrix)
    start = np.ones(40)
    np.testing.assert_allclose(
        eigsh(counted, 3, which="LA", v0=start)[0], eigsh(matrix.astype(float), 3, which="LA", v0=start)[0]
    )
    assert counted.products >= 7  # ARPACK's least basis for three
    before = counted.products
    assert counted.astype(np.float64) is counted
    np.testing.assert_allclose(counted @ start, matrix.sum(axis=1), rtol=1e-5)
    assert counted.products == before + 1
    with pytest.raises(ValueError, match="float32"):
        counted.astype(np.float32)


@pytest.mark.parametrize(("patches", "stride", "images"), [(64, 1, 1), (65, 1, 2), (16, 2, 1), (17, 2, 2), (9, 3, 3)])
def test_a_warm_up_takes_no_more_photographs_than_it_needs(store, patches, stride, images):
    """A photograph of 8 x 8 patches shows 64, 16 at every second and 4 at every third in both directions."""
    assert scaling.fewest_images(store, patches, stride=stride) == images


def test_sides_do_what_they_say(store):
    content = scaling.portable(store)
    found = scaling.exact(content, 3, CONFIG, 4)()
    assert found["entries"] > 3 * 64 * 8 and found["products"] > 4
    assert found["seconds"] == pytest.approx(found["kernel_s"] + found["solve_s"])
    assert scaling.neural(content, 5, CONFIG, 4)()["steps"] == 2


def test_a_store_travels_by_the_name_of_its_file_or_whole(store):
    content = scaling.portable(store)
    assert content["patches"].is_file()
    assert isinstance(scaling.portable(store.subset(2))["patches"], np.ndarray)
    assert not isinstance(scaling.portable(store.subset(2))["patches"], np.memmap)


def test_sizes_are_measured_once_and_kept(store, tmp_path, monkeypatch):
    asked = []

    def pretends(side, content, images, config, clusters, **_):
        asked.append((side.__name__, images))
        return Measured(float("nan"), 2.0 * images, 100.0, {"seconds": 1.5 * images})

    monkeypatch.setattr(scaling, "measure", pretends)
    path = tmp_path / "scaling.csv"
    keywords = {"clusters": 4, "progress": False}
    first = scaling.measure_sizes(store, CONFIG, path, sizes=[130, 64], **keywords)
    assert asked == [("exact", 1), ("neural", 1), ("exact", 2), ("neural", 2)]
    np.testing.assert_array_equal(first["patches"], [64, 128, 64, 128])
    np.testing.assert_array_equal(first["seconds"], [1.5, 3.0, 1.5, 3.0])
    again = scaling.measure_sizes(store, CONFIG, path, sizes=[64, 128, 256], **keywords)
    assert asked[4:] == [("exact", 4), ("neural", 4)]
    pd.testing.assert_frame_equal(again[again["patches"] < 256].reset_index(drop=True), first, check_dtype=False)
    scaling.measure_sizes(store, CONFIG.updated({"feature_neighbors": 9}), path, sizes=[64], **keywords)
    assert len(asked) == 8, "other settings are other measurements"


def test_a_size_is_really_measured_in_another_process(store, tmp_path):
    rows = scaling.measure_sizes(
        store, CONFIG, tmp_path / "scaling.csv", sizes=[128], clusters=4, sides=["exact"], progress=False
    )
    assert list(rows.columns) == list(scaling.COLUMNS)
    assert rows["seconds"].item() > 0 and rows["process_mb"].item() > rows["peak_mb"].item()


@pytest.mark.parametrize(("sizes", "message"), [([], "sizes"), ([0, 64], "sizes"), ([3], "too few")])
def test_unusable_sizes_are_named(store, tmp_path, sizes, message):
    with pytest.raises(InputError, match=message):
        scaling.measure_sizes(store, CONFIG, tmp_path / "s.csv", sizes=sizes, clusters=64, progress=False)


def test_a_power_law_is_found_again_and_extrapolated():
    sizes = np.array([1e3, 1e4, 1e5])
    law = scaling.fit_power_law(sizes, 3e-6 * sizes**1.8)
    assert law.exponent == pytest.approx(1.8) and law.coefficient == pytest.approx(3e-6)
    assert law.at(law.reaches(500.0)) == pytest.approx(500.0)
    assert scaling.fit_power_law(sizes, np.full(3, 7.0)).reaches(24.0) == np.inf
    assert scaling.PowerLaw(1.0, 0.01).reaches(1e6) == np.inf
    both = scaling.reached_together([law, scaling.PowerLaw(1e-3, 1.0)], 500.0)
    assert law.at(both) + 1e-3 * both == pytest.approx(500.0, rel=0.02)
    assert scaling.reached_together([scaling.PowerLaw(5.0, 0.0)], 6.0) == np.inf
    assert np.isnan(scaling.fit_power_law(sizes, [np.nan, np.nan, 2.0]).exponent)
