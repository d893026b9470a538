import numpy as np
import pandas as pd
import pytest
from small import CONFIG, EXPERIMENT

from neuralef import photographs_study
from neuralef.errors import InputError
from neuralef.experiments import run_experiment
from neuralef.methods import REGISTRY
from neuralef.paths import reference_root
from neuralef.photographs_study import equal_epochs, gain_table, photographs_of, run, score_table, sentences
from neuralef.reporting import stacked
from neuralef.training import total_steps
from neuralef.workbench import Workbench, open_workbench

METHODS = ["kmeans", "ours", "ours_star"]


@pytest.fixture
def bench(own_cache):
    return open_workbench(EXPERIMENT, progress=False)


def test_smaller_parts_lie_inside_larger_ones(store):
    few, more = (photographs_of(store, count, seed=3) for count in (2, 4))
    assert set(few.ids) < set(more.ids) < set(store.ids)
    assert more.ids == photographs_of(store, 4, seed=3).ids
    assert any(photographs_of(store, 4, seed).ids != more.ids for seed in range(3))
    assert photographs_of(store, 6, seed=0) is store
    assert len({few.key, more.key, store.key, photographs_of(store, 2, seed=0).key}) == 4
    for image_id, patches in zip(few.ids, few.patches, strict=True):
        np.testing.assert_array_equal(patches, store.patches[store.ids.index(image_id)])


@pytest.mark.parametrize("count", [0, 7])
def test_photographs_that_there_are_not_are_named(store, count):
    with pytest.raises(InputError, match=f"{count} training photographs were asked for; there are 1 to 6"):
        photographs_of(store, count, seed=0)


@pytest.mark.parametrize("photographs", range(1, 40))
def test_epochs_of_a_part_give_the_steps_of_the_whole(photographs):
    config = CONFIG.updated({"batch_images": 4, "epochs": 3})
    epochs = equal_epochs(photographs, 39, config)
    steps = [total_steps(photographs, config.updated({"epochs": number})) for number in (epochs - 1, epochs)]
    assert steps[0] < total_steps(39, config) <= steps[1]


def test_all_photographs_give_what_a_run_gives(bench, tmp_path):
    rows = run(bench, [EXPERIMENT], METHODS, tmp_path / "p.csv", shares=[1.0], equal_steps=METHODS)
    plain = pd.DataFrame(run_experiment(EXPERIMENT, METHODS, tmp_path / "out", bench=bench, progress=False))
    columns = ["method", "matching", "accuracy", "mean_iou", "clusters_used", "images", "classes", "seed", "p_epochs"]
    pd.testing.assert_frame_equal(rows[columns], plain[columns])
    assert set(rows["photographs"]) == {6}
    assert set(rows["share"]) == {1}
    assert dict(zip(rows["method"], rows["steps"], strict=True)) == {"kmeans": 0, "ours": 4, "ours_star": 4}


def test_every_method_sees_the_same_part_and_psi_longer_where_asked(bench, tmp_path, monkeypatch):
    seen, fitted = [], type(REGISTRY["ours"]).fitted

    def watched(recipe, store, *arguments, **keywords):
        seen.append(store.ids)
        return fitted(recipe, store, *arguments, **keywords)

    monkeypatch.setattr(type(REGISTRY["ours"]), "fitted", watched)
    rows = run(bench, [EXPERIMENT], METHODS, tmp_path / "p.csv", shares=[0.5], equal_steps=["ours"])
    assert len(seen) == 4
    assert len(set(seen)) == 1
    assert len(seen[0]) == 3
    steps = rows[rows["matching"] == "max_iou"].groupby("method")["steps"].agg(list).to_dict()
    assert steps == {"kmeans": [0], "ours": [2, 4], "ours_star": [2]}
    assert rows.loc[rows["method"] == "ours", "p_epochs"].unique().tolist() == [2, 4]


def test_an_interrupted_study_continues_and_a_whole_one_stands(bench, tmp_path, monkeypatch):
    path, settings = tmp_path / "p.csv", {"shares": [0.5, 1.0], "equal_steps": ["ours"]}
    counted, calls = Workbench.counted, []

    def interrupted(*arguments, **keywords):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(keywords["title"])
        return counted(*arguments, **keywords)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Workbench, "counted", interrupted)
        run(bench, [EXPERIMENT], METHODS, path, **settings)
    before = len(pd.read_csv(path))
    assert before == 3 * 3
    rows = run(bench, [EXPERIMENT], METHODS, path, **settings)
    assert len(rows) == len(pd.read_csv(path)) == 3 * 7
    assert not rows.duplicated(["part_id", "method", "matching"]).any()
    monkeypatch.setattr(Workbench, "counted", lambda *_, **__: pytest.fail("computed again"))
    pd.testing.assert_frame_equal(run(bench, [EXPERIMENT], METHODS, path, **settings), rows)


def test_rows_that_were_not_asked_for_stay_in_the_file(bench, tmp_path):
    path, methods = tmp_path / "p.csv", ["ours", "ours_star"]
    longer = [run(bench, [EXPERIMENT], methods, path, shares=[0.5], equal_steps=names) for names in (methods, ["ours"])]
    steps = [rows.groupby("method")["steps"].agg(set).to_dict() for rows in longer]
    assert steps == [{"ours": {2, 4}, "ours_star": {2, 4}}, {"ours": {2, 4}, "ours_star": {2}}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shares": []}, r"shares are \[\]; they must be above 0"),
        ({"shares": [0.5, 1.5]}, r"shares are \[0\.5, 1\.5\]"),
        ({"methods": ["kmeans", "median"]}, "unknown method 'median'"),
        ({"equal_steps": ["median"]}, "unknown method 'median'"),
        ({"experiments": []}, "there is no seed to run"),
    ],
)
def test_what_cannot_be_run_is_named_before_anything_is_computed(bench, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr("neuralef.workbench.extract", lambda *_, **__: pytest.fail("extracted"))
    given = {"experiments": [EXPERIMENT], "methods": METHODS, "shares": [1.0]} | changes
    with pytest.raises(InputError, match=message):
        run(bench, given.pop("experiments"), given.pop("methods"), tmp_path / "p.csv", **given)


def test_a_file_of_other_columns_is_left_alone(bench, tmp_path):
    (tmp_path / "p.csv").write_text("a,b\n")
    with pytest.raises(InputError, match="other columns"):
        run(bench, [EXPERIMENT], METHODS, tmp_path / "p.csv", shares=[1.0])


@pytest.fixture
def rows():
    """Two parts, two seeds; Ours is also trained longer on the smaller part."""
    scores = {
        ("kmeans", 10, 2): (0.50, 0.52),
        ("kmeans", 40, 2): (0.51, 0.53),
        ("ours", 10, 2): (0.40, 0.44),
        ("ours", 10, 8): (0.41, 0.41),
        ("ours", 40, 2): (0.55, 0.52),
    }
    found = [
        {
            "method": method,
            "matching": matching,
            "photographs": photographs,
            "share": photographs / 40,
            "p_epochs": epochs,
            "steps": 0 if method == "kmeans" else photographs * epochs // 2,
            "seed": seed,
            "mean_iou": value if matching == "max_iou" else 0.1,
        }
        for (method, photographs, epochs), values in scores.items()
        for seed, value in enumerate(values)
        for matching in ("hungarian", "max_iou")
    ]
    return pd.DataFrame(found).sample(frac=1, random_state=0)  # in any order


def test_scores_stand_by_method_and_part(rows):
    assert score_table(rows).to_dict("list") == {
        "method": ["K-means", "Ours", "Ours, equal steps"],
        "1/4 of train": ["51.0 ± 1.4", "42.0 ± 2.8", "41.0 ± 0.0"],
        "all of train": ["52.0 ± 1.4", "53.5 ± 2.1", "the same"],
    }


def test_gains_are_those_of_the_same_photographs_and_seed(rows):
    assert gain_table(rows).to_dict("list") == {
        "method, against K-means": ["Ours", "Ours, equal steps"],
        "1/4 of train": ["-9.0 ± 1.4 (0 of 2)", "-10.0 ± 1.4 (0 of 2)"],
        "all of train": ["+1.5 ± 3.5 (1 of 2)", "the same"],
    }
    with pytest.raises(InputError, match="gains are on kmeans, which was not run"):
        gain_table(rows[rows["method"] != "kmeans"])


def test_sentences_say_what_the_numbers_say(rows):
    assert sentences(rows) == [
        "From 10 to 40 photographs mIoU changes by, in points: K-means +1.0, Ours +11.5.",
        "With 10 photographs, best first: K-means 51.0, Ours 42.0.",
        "With 40 photographs, best first: Ours 53.5, K-means 52.0.",
        "With 10 photographs, 40 steps in place of 10 change Ours by -1.0 ± 2.8 points, up in 1 of 2 seeds.",
    ]


def test_a_chart_has_every_method_part_and_seed(rows):
    values = photographs_study.figure_values(rows, "scenes")
    assert set(values["panel"]) == {"scenes"}
    assert values.groupby(["method", "size"])["score"].count().to_dict() == {
        ("K-means", 10): 2,
        ("K-means", 40): 2,
        ("Ours", 10): 2,
        ("Ours", 40): 2,
        ("Ours, equal steps", 10): 2,
    }


def test_the_committed_tables_are_those_of_the_committed_rows():
    folder = reference_root("studies")
    rows = photographs_study.read_parts(folder / photographs_study.FILE)
    assert rows.groupby(["dataset", "photographs", "method", "steps", "matching"])["seed"].nunique().eq(3).all()
    of_dataset = {}
    for name, found in rows.groupby("dataset", sort=False):
        counts = sorted(found["photographs"].unique())
        shares = dict(zip(counts, (1 / 16, 1 / 4, 1), strict=True))
        of_dataset[name] = found.assign(share=found["photographs"].map(shares))
    for stem, table in (("36_scores", score_table), ("36_gains", gain_table)):
        made = stacked({name: table(found) for name, found in of_dataset.items()})
        pd.testing.assert_frame_equal(pd.read_csv(folder / "tables" / f"{stem}.csv"), made, check_dtype=False)
