from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from small import CONFIG, same
from trees import SCENES, write_folder_dataset

from neuralef import together_study
from neuralef.config import load_profile
from neuralef.errors import InputError
from neuralef.experiments import run_experiment
from neuralef.paths import reference_root
from neuralef.photographs_study import read_parts
from neuralef.results import read_results
from neuralef.studies import Study
from neuralef.together_study import beside, figure_values, most_epochs, pooled, run, score_table, sentences
from neuralef.training import total_steps
from neuralef.workbench import Workbench

METHODS = ["ours", "ours_star"]
STANDARDISED = replace(CONFIG, standardise_inputs=True)


@pytest.fixture
def members(own_cache, tmp_path):
    """Studies of two datasets, six and a few photographs, with two seeds."""
    write_folder_dataset(tmp_path / "mine")
    profile = replace(load_profile("smoke"), clusters=5, seeds=(0, 1))
    options = {"synthetic_scenes": SCENES, f"folder:{tmp_path / 'mine'}": {}}
    return [
        Study(profile, name, "", Workbench(name, "colour_patches", STANDARDISED, given, progress=False))
        for name, given in options.items()
    ]


def test_pooled_photographs_are_those_of_all_in_order(members):
    stores = [member.bench.train for member in members]
    both = pooled(stores)
    assert len(both) == sum(map(len, stores)) == len(set(both.ids))
    np.testing.assert_array_equal(both.patches[: len(stores[0])], stores[0].patches)
    np.testing.assert_array_equal(both.patch_colours[len(stores[0]) :], stores[1].patch_colours)
    assert both.key != pooled(stores[::-1]).key
    assert both.extract_s == stores[0].extract_s + stores[1].extract_s
    with pytest.raises(InputError, match="features differ in crop, grid or channels"):
        pooled([stores[0], replace(stores[1], crop_size=128)])


@pytest.mark.parametrize("images", [(572, 367), (10, 10), (100, 1), (3, 1)])
def test_all_together_take_the_steps_of_the_largest_or_fewer(images):
    config = replace(CONFIG, batch_images=16, epochs=40)
    epochs = most_epochs(images, config)
    steps = [total_steps(sum(images), replace(config, epochs=number)) for number in (epochs, epochs + 1)]
    assert steps[0] <= total_steps(max(images), config) < steps[1]


def test_psi_sees_all_photographs_and_k_means_those_of_one(members, tmp_path, monkeypatch):
    trained, fitted = [], []
    train, fit = together_study.Workbench.training, type(together_study.REGISTRY["ours"]).fitted

    def watched_training(bench, *arguments, part, **keywords):
        found = train(bench, *arguments, part=part, **keywords)
        trained.append((len(part), found.psi))
        return found

    def watched_fit(recipe, store, psi, *arguments, **keywords):
        fitted.append((len(store), psi))
        return fit(recipe, store, psi, *arguments, **keywords)

    monkeypatch.setattr(together_study.Workbench, "training", watched_training)
    monkeypatch.setattr(type(together_study.REGISTRY["ours"]), "fitted", watched_fit)
    rows = run(members, ["ours_star"], tmp_path / "t.csv")
    sizes = [len(member.bench.train) for member in members]
    assert {size for size, _ in trained} == {sum(sizes)}
    assert [size for size, _ in fitted] == 2 * sizes
    first, other = fitted[0][1].state_dict(), fitted[2][1].state_dict()
    assert same(first, fitted[1][1].state_dict())  # one psi for both datasets
    assert not same(first, other)  # and another for each seed
    assert set(rows["photographs"]) == {sum(sizes)}
    levels = torch.cat([member.bench.train.levels(slice(None)).flatten(0, 2) for member in members])
    torch.testing.assert_close(first["standardise.mean"], levels.mean(0))
    assert len(rows) == 2 * 2 * 3  # datasets, seeds, matchings


def test_rows_that_are_there_are_not_computed_again(members, tmp_path, monkeypatch):
    rows = run(members, METHODS, tmp_path / "t.csv")
    monkeypatch.setattr(Workbench, "counted", lambda *_, **__: pytest.fail("computed again"))
    pd.testing.assert_frame_equal(run(members, METHODS, tmp_path / "t.csv"), rows)
    assert len(run(members, ["ours"], tmp_path / "t.csv")) == len(rows) / 2


def test_scores_are_set_beside_those_of_a_psi_of_its_own(members, tmp_path):
    rows = run(members, METHODS, tmp_path / "t.csv")
    with pytest.raises(InputError, match="there is no score of ours on synthetic_scenes, seed 0"):
        beside(rows, pd.DataFrame(columns=["dataset", "method", "seed", "matching", "mean_iou"]))
    for member in members:
        for experiment in member.experiments():
            run_experiment(experiment, ["kmeans", *METHODS], tmp_path / "out", bench=member.bench, progress=False)
    results = read_results(tmp_path / "out" / "results.csv")
    found = beside(rows, results)
    one = results.query("matching == 'max_iou' and seed == 1 and method == 'ours' and dataset == 'synthetic_scenes'")
    line = found.query("seed == 1 and method == 'ours' and dataset == 'synthetic_scenes'")
    assert line["alone"].item() == one["mean_iou"].item()
    assert found.groupby("dataset")["baseline"].nunique().le(2).all()
    assert len(figure_values(found)) == 2 * len(found)
    assert len(sentences(found)) == len(score_table(found)) == 4


def test_the_tables_say_what_the_numbers_do():
    scores = {"dataset": "a", "method": "ours", "seed": [0, 1, 2]}
    found = pd.DataFrame(scores | {"together": [0.52, 0.54, 0.53], "alone": [0.5, 0.5, 0.5], "baseline": [0.6] * 3})
    assert score_table(found).iloc[0].tolist() == [
        "a", "Ours", "50.0 ± 0.0", "53.0 ± 1.0", "+3.0 ± 1.0 (3 of 3)", "-7.0 ± 1.0 (0 of 3)",
    ]  # fmt: skip
    assert sentences(found) == ["a: Ours +3.0 (+0.5 to +5.5) points, higher in 3 of 3 seeds, more than seeds do."]
    assert "which seeds alone may do" in sentences(found.assign(together=[0.6, 0.45, 0.5]))[0]
    assert figure_values(found)["method"].unique().tolist() == ["Ours, own", "Ours, one for all"]


def test_one_dataset_has_nothing_to_share(members, tmp_path):
    rows = run(members[:1], METHODS, tmp_path / "t.csv")
    assert rows.empty
    found = beside(rows, pd.DataFrame(columns=["dataset", "method", "seed", "matching", "mean_iou"]))
    assert score_table(found).empty and figure_values(found).empty and not sentences(found)


def test_what_cannot_be_shared_is_named_before_anything_is_computed(members, tmp_path, monkeypatch):
    monkeypatch.setattr("neuralef.workbench.extract", lambda *_, **__: pytest.fail("extracted"))
    with pytest.raises(InputError, match="kmeans has no psi that datasets could share"):
        run(members, ["ours", "kmeans"], tmp_path / "t.csv")
    members[1].bench.config = replace(CONFIG, feature_neighbors=7)
    with pytest.raises(InputError, match="the settings of psi differ between these datasets"):
        run(members, METHODS, tmp_path / "t.csv")


def test_the_committed_table_is_that_of_the_committed_rows():
    folder = reference_root("studies")
    rows = read_parts(folder / together_study.FILE)
    assert rows.groupby(["dataset", "method", "matching"])["seed"].nunique().eq(5).all()
    made = score_table(beside(rows, read_results(folder / "results.csv")))
    pd.testing.assert_frame_equal(pd.read_csv(folder / "tables" / "38_scores.csv"), made, check_dtype=False)
