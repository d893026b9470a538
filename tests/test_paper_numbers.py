"""paper.csv holds every number the paper prints, once, in names the package uses."""

import math
from typing import get_args

import pandas as pd
import pytest
import timm

from neuralef import reporting
from neuralef.clustering import Method
from neuralef.config import Config
from neuralef.evaluation import MATCHINGS

IDENTITY = ["table", "dataset", "protocol", "backbone", "method", "clusters", "setting"]
SMALL, BASE, LARGE = (f"vit_{size}_patch16_384" for size in ("small", "base", "large"))
OF_THE_PAPER = ("kmeans", "ours", "ours_star")
EXTERNAL = ("maskclip", "maskclip_plus", "reco", "reco_plus", "deeplabv3plus", "supervised")

ROWS = {
    "1": 3 + 3 * 3,  # three peers; three methods on three backbones
    "2": 3 + 3 * 3,
    "3": 2 * (1 + 3),  # two datasets: one supervised, three methods
    "4": 3,
    "5": 4,  # values of K
    "6": 2 * 5,  # two datasets, five alphas
    "7": 2 * 3,  # two methods, three betas
    "8": 2,
    "4.4": 2,
    "9": 3,
}
NUMBERS = {"1": 22, "2": 24, "3": 14, "4": 6, "5": 8, "6": 10, "7": 6, "8": 4, "4.4": 2, "9": 3}

SPOT_VALUES = [
    ({"table": "1", "method": "kmeans", "backbone": LARGE}, 45.3, 19.3),
    ({"table": "1", "method": "ours", "backbone": BASE}, 69.7, 37.5),
    ({"table": "1", "method": "ours_star", "backbone": SMALL}, 74.6, 39.6),
    ({"table": "1", "method": "maskclip_plus"}, None, 31.1),
    ({"table": "2", "method": "reco_plus"}, 83.7, 24.2),
    ({"table": "2", "method": "ours_star", "backbone": BASE}, 84.2, 30.7),
    ({"table": "3", "method": "supervised"}, None, 77.3),
    ({"table": "3", "method": "ours_star", "dataset": "cityscapes_19"}, 88.3, 52.8),
    ({"table": "3", "method": "ours", "dataset": "pascal_context_60"}, 67.4, 41.4),
    ({"table": "4", "method": "ours"}, 63.3, 21.6),
    ({"table": "5", "clusters": 64}, 67.1, 27.8),
    ({"table": "5", "clusters": 512}, 71.1, 37.9),
    ({"table": "6", "dataset": "cityscapes_27", "setting": "pixel_weight=0"}, None, 27.2),
    ({"table": "7", "method": "ours_star", "setting": "orthogonality_weight=0.16"}, None, 39.3),
    ({"table": "8", "dataset": "cityscapes_27"}, 81.2, 18.5),
    ({"table": "4.4", "setting": "matching=majority"}, None, 27.7),
    ({"table": "9", "backbone": "vit_large_patch14_clip_336.openai"}, None, 44.0),
]


@pytest.fixture(scope="module")
def numbers() -> pd.DataFrame:
    return reporting.paper_numbers()


def value(numbers: pd.DataFrame, column: str, **identity: object) -> float:
    chosen = numbers
    for name, wanted in identity.items():
        chosen = chosen[chosen[name].isna()] if wanted is None else chosen[chosen[name] == wanted]
    assert len(chosen) == 1, f"{identity} names {len(chosen)} rows"
    return chosen[column].item()


def test_columns(numbers):
    assert list(numbers.columns) == [*IDENTITY, "accuracy", "mean_iou"]


def test_every_table_is_whole(numbers):
    assert numbers["table"].value_counts().to_dict() == ROWS
    per_table = numbers[["accuracy", "mean_iou"]].notna().sum(axis=1).groupby(numbers["table"]).sum()
    assert per_table.to_dict() == NUMBERS


def test_no_row_stands_twice(numbers):
    assert not numbers.duplicated(IDENTITY).any()


def test_percent_with_at_least_a_mean_iou(numbers):
    assert numbers["mean_iou"].between(0, 100).all()
    assert numbers["accuracy"].dropna().between(0, 100).all()
    both = numbers.dropna(subset="accuracy")
    assert (both["accuracy"] > both["mean_iou"]).all()


@pytest.mark.parametrize(("identity", "accuracy", "mean_iou"), SPOT_VALUES)
def test_spot_values(numbers, identity, accuracy, mean_iou):
    found = value(numbers, "accuracy", **identity)
    assert math.isnan(found) if accuracy is None else found == accuracy
    assert value(numbers, "mean_iou", **identity) == mean_iou


def test_names_are_the_package_s(numbers):
    assert set(OF_THE_PAPER) <= set(get_args(Method))
    assert set(numbers["method"]) == {*OF_THE_PAPER, *EXTERNAL}
    assert set(numbers["protocol"]) == {"crop320", "sliding_window"}
    assert all(timm.is_model(name) for name in numbers["backbone"].dropna().unique())
    assert numbers.loc[numbers["method"].isin(EXTERNAL), ["backbone", "clusters", "setting"]].isna().all(axis=None)
    for setting in numbers["setting"].dropna():
        name, wanted = setting.split("=")
        if name == "matching":
            assert wanted in MATCHINGS
        elif name != "trained_on":
            Config().updated({name: wanted})


def test_ablations_repeat_the_main_setting(numbers):
    """Where two tables print the same setting they print the same number."""
    on_pascal = {"dataset": "pascal_context", "backbone": SMALL}
    for metric in ("accuracy", "mean_iou"):
        main = value(numbers, metric, table="1", method="ours", **on_pascal)
        assert main == value(numbers, metric, table="5", clusters=256, **on_pascal)
    assert main == 38.8
    defaults = {"6": ("pixel_weight", Config().pixel_weight), "7": ("orthogonality_weight", 0.08)}
    for table, (name, default) in defaults.items():
        setting = f"{name}={default}"
        assert value(numbers, "mean_iou", table=table, method="ours", setting=setting, **on_pascal) == main
    starred = value(numbers, "mean_iou", table="1", method="ours_star", **on_pascal)
    setting = "orthogonality_weight=0.08"
    assert starred == value(numbers, "mean_iou", table="7", method="ours_star", setting=setting, **on_pascal)
    on_cityscapes = {"dataset": "cityscapes_27", "method": "ours", "backbone": SMALL}
    assert value(numbers, "mean_iou", table="2", **on_cityscapes) == value(
        numbers, "mean_iou", table="6", setting="pixel_weight=0.3", **on_cityscapes
    )


def test_one_table_alone(numbers):
    assert set(reporting.paper_numbers("4.4")["table"]) == {"4.4"}
    assert len(reporting.paper_numbers("1")) == ROWS["1"]
