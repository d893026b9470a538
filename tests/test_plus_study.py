"""The ablation of "Ours+": what is held out, what a part is, and the sentences about its aims."""

import numpy as np
import pandas as pd
import pytest
import torch

from neuralef import plus_study
from neuralef.clustering import fit_feature_kmeans
from neuralef.config import Config
from neuralef.errors import InputError
from neuralef.evaluation import image_counts, score
from neuralef.ours_plus import PlusHead
from neuralef.spectral import RESTARTS
from neuralef.upsampling import Guide
from neuralef.workbench import Workbench

CONFIG = Config(width=32, depth=1, epochs=1, batch_images=4, patch_stride=2, feature_neighbors=8, kmeans_patches=400)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURALEF_CACHE", str(tmp_path_factory.mktemp("cache")))
        options = {"train": 12, "val": 2, "size": (96, 96), "seed": 0}
        yield Workbench("synthetic_scenes", "colour_patches", CONFIG, options, progress=False)


def test_fitted_and_judged_images_share_none(bench):
    split = plus_study.hold_out(bench.train, every=4)
    assert sorted(split.fitted.ids + split.judged.ids) == sorted(bench.train.ids)
    assert split.judged.ids == bench.train.ids[::4]
    np.testing.assert_array_equal(split.judged.patches, bench.train.patches[::4])
    assert len(plus_study.hold_out(bench.train, every=4, images=2).judged) == 2


@pytest.mark.parametrize("every", [0, 1])
def test_a_split_without_images_to_fit_is_refused(bench, every):
    with pytest.raises(InputError, match=f"every is {every}; it must be 2 or more, .* 12 here"):
        plus_study.hold_out(bench.train, every=every)


def test_no_held_out_image_to_judge_is_refused(bench):
    with pytest.raises(InputError, match="0 held-out images"):
        plus_study.hold_out(bench.train, images=0)


def test_psi_of_another_hold_out_is_not_taken_from_the_cache(bench):
    """Every 7th and every 8th of twelve images hold out two each, but not the same two."""
    found = [plus_study.hold_out(bench.train, every=every) for every in (7, 8)]
    assert len(found[0].fitted) == len(found[1].fitted) == 10
    weights = [plus_study.heads(bench, split, 5, 0)["Ours+"].psi.norm.weight for split in found]
    assert not torch.equal(*weights)


def test_candidates_differ_in_one_part_each(bench):
    found = plus_study.heads(bench, plus_study.hold_out(bench.train), 5, 0)
    whole = found["Ours+"]
    assert isinstance(whole, PlusHead)
    assert (whole.views, whole.temperature, whole.guide) == (2, 0.1, Guide())
    for name, head in found.items():
        if isinstance(head, PlusHead):
            present = {
                "views": head.views > 1,
                "diffusion": head.temperature is not None,
                "guide": head.guide is not None,
            }
            if " without " in name:
                assert present == {part: part not in name for part in present}
            elif name != "Ours+":
                assert present == {part: part in name for part in present}
            assert head.centroids is whole.centroids
    assert tuple(found) == plus_study.CANDIDATES


def test_the_control_has_all_parts_and_no_psi(bench):
    split = plus_study.hold_out(bench.train)
    found = plus_study.heads(bench, split, 5, 0)
    control, whole = found[plus_study.CONTROL], found["Ours+"]
    assert (control.views, control.temperature, control.guide) == (whole.views, whole.temperature, whole.guide)
    levels = bench.train.levels(slice(0, 1))
    plain = fit_feature_kmeans(
        split.fitted, CONFIG, centred=True, restarts=RESTARTS, num_clusters=5, seed=0, progress=False
    )
    torch.testing.assert_close(found[plus_study.KMEANS].logits(levels), plain.logits(levels))
    assert (control.logits(levels) - plain.logits(levels)).abs().max() > 5e-2


def test_scores_are_those_of_the_maps(bench):
    rows = plus_study.ablation(bench, 5, [0, 1], every=4, images=3)
    assert len(rows) == 22
    assert rows["mean_iou"].between(0, 1).all()
    assert (rows["image_ms"] > 0).all()
    split = plus_study.hold_out(bench.train, every=4, images=3)
    head = plus_study.heads(bench, split, 5, 1)["Ours+"]
    counts = np.zeros((5, len(bench.dataset.classes)), dtype=np.int64)
    for index, image_id in enumerate(split.judged.ids):
        found = plus_study.maps(bench, split.judged, index, {"Ours+": head})
        counts += image_counts(found["Ours+"], bench.label(image_id), *counts.shape)
    (row,) = rows[(rows["part"] == "Ours+") & (rows["seed"] == 1)].itertuples()
    scores = score(counts, "max_iou")
    assert (row.mean_iou, row.accuracy) == pytest.approx((scores.mean_iou, scores.accuracy))


@pytest.mark.parametrize(("asked", "given"), [(2, [0, 1]), (5, [0, 1, 2])])
def test_examples_are_maps_of_held_out_images(bench, asked, given):
    shown = list(plus_study.examples(bench, ["Ours*", "Ours+"], 5, 0, every=4, images=3, shown=asked))
    split = plus_study.hold_out(bench.train, every=4, images=3)
    fitted = plus_study.heads(bench, split, 5, 0)
    for index, (picture, found) in zip(given, shown, strict=True):
        np.testing.assert_array_equal(picture, bench.image(split.judged.ids[index]))
        assert list(found) == ["Ours*", "Ours+"]
        wanted = plus_study.maps(bench, split.judged, index, {"Ours+": fitted["Ours+"]})
        np.testing.assert_array_equal(found["Ours+"], wanted["Ours+"])


def test_the_dataset_that_judges_is_the_one_asked_for(data_folder, no_network):
    found = plus_study.open_tuning("smoke", "synthetic_scenes", progress=False)
    assert found.bench.dataset_options == found.study.profile.dataset_options
    assert not found.absence
    assert "dataset synthetic_scenes" in found.description
    # Neither a dataset that is not here, nor the fallback of the profile's own in its place.
    for name in ("camvid", "stanford_background"):
        found = plus_study.open_tuning("quick", name, progress=False)
        assert found.bench is None
        assert found.absence == f"not run: {name} is not here and could not be fetched"
        assert f"dataset {name}" in found.description
        assert found.absence in found.description
    with pytest.raises(InputError, match="moonvid"):
        plus_study.open_tuning("smoke", "moonvid", progress=False)


def test_where_there_is_no_bench_every_number_is_not_run():
    rows = plus_study.ablation(None, 5, [0, 1], every=4, images=3)
    table = plus_study.parts_table(rows)
    assert table["part"].tolist() == list(plus_study.CANDIDATES)
    assert (table.drop(columns="part") == "not run").all(axis=None)
    assert not list(plus_study.examples(None, ["Ours+"], 5, 0, every=4, images=3, shown=1))


def test_the_table_and_the_sentence_of_the_parts():
    points = {name: float(index) for index, name in enumerate(plus_study.CANDIDATES)}
    rows = pd.DataFrame(
        {"part": name, "seed": seed, "mean_iou": 0.4 + value / 100 + seed / 10, "image_ms": 2.0}
        for seed in (0, 1)
        for name, value in points.items()
    )
    table = plus_study.parts_table(rows).set_index("part")
    assert list(table.columns) == ["mIoU, %", "gain, points", "seeds that gain", "ms an image"]
    assert table.loc["Ours+"].tolist() == ["50.0", "5.0 ± 0.0", "2 of 2", "2"]
    assert table.loc["Ours*", "seeds that gain"] == "0 of 2"
    sentence = plus_study.parts_sentence(rows)
    assert r"Ours\* by **+5.0 points** (better in 2 of 2 seeds). Angles alone: +1.0" in sentence
    assert "views +2.0, diffusion +3.0, guide +4.0" in sentence
    assert "adds to the rest: views -1.0 ± 0.0 (higher in 0 of 2 seeds), diffusion -2.0 ± 0.0" in sentence
    assert "stands at +9.0, and with all parts at +10.0" in sentence
    assert sentence.endswith("the same parts is -5.0.")


def test_gains_are_paired_by_seed():
    rows = pd.DataFrame(
        {
            "part": ["Ours*", "Ours+"] * 2,
            "seed": [0, 0, 1, 1],
            "mean_iou": [0.5, 0.53, 0.4, 0.39],
            "image_ms": [1.0, 2.0, 3.0, 4.0],
        }
    )
    found = plus_study.gains(rows)
    assert found.loc["Ours+", ["mean_iou", "gain", "wins", "image_ms"]].tolist() == pytest.approx([46.0, 1.0, 1, 3.0])
    assert found.loc["Ours+", "spread"] == pytest.approx(np.std([3.0, -1.0], ddof=1))
    assert found.loc["Ours*", "gain"] == 0


def test_aims_are_read_from_the_scores():
    scores = pd.DataFrame(
        {0: [50.0, 52.0, 60.5, 57.0, 59.0, 58.5], 1: [52.0, 51.0, 61.5, 58.0, 59.5, 61.5]},
        index=["kmeans", "kmeans_pca", "kmeans_plus", "spectral", "ours_star", "ours_plus"],
    )
    found = plus_study.aims(scores)
    assert (found.plus, found.kmeans, found.best_kmeans, found.wins) == (60.0, 51.0, (51.5, "kmeans_pca"), 2)
    sentence = found.sentence("roads")
    assert r"Against Ours\*: +0.8 ± 1.8 (higher in 1 of 2 seeds)" in sentence
    assert "reached (+9.0)" in sentence
    assert "above it in the mean; above every K-means without its parts in 2 of 2 seeds" in sentence
    assert "has 57.5: above it by 2.5." in sentence
    assert sentence.endswith(r"The same parts on K-means, without $\psi$, have 61.0: below it by 1.0.")
    assert "missed by 1.0 (+7.0)" in plus_study.aims(scores.sub([0, 0, 0, 0, 0, 2], axis=0)).sentence("roads")
