"""paper.csv holds every number the paper prints, once, in names the package uses."""

import math
from typing import get_args

import pandas as pd
import pytest

from neuralef import reporting
from neuralef.backbones import available
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

PRINTED = """
1 pascal_context maskclip - - -/25.5
1 pascal_context maskclip_plus - - -/31.1
1 pascal_context reco - - 51.6/27.2
1 pascal_context kmeans S - 61.9/28.9
1 pascal_context kmeans B - 58.7/30.9
1 pascal_context kmeans L - 45.3/19.3
1 pascal_context ours S - 70.4/38.8
1 pascal_context ours B - 69.7/37.5
1 pascal_context ours L - 63.2/33.2
1 pascal_context ours_star S - 74.6/39.6
1 pascal_context ours_star B - 73.2/37.6
1 pascal_context ours_star L - 71.9/35.0
2 cityscapes_27 maskclip - - 35.9/10.0
2 cityscapes_27 reco - - 74.6/19.3
2 cityscapes_27 reco_plus - - 83.7/24.2
2 cityscapes_27 kmeans S - 77.0/22.4
2 cityscapes_27 kmeans B - 74.8/23.2
2 cityscapes_27 kmeans L - 66.3/20.9
2 cityscapes_27 ours S - 83.4/28.2
2 cityscapes_27 ours B - 81.4/26.8
2 cityscapes_27 ours L - 80.3/26.3
2 cityscapes_27 ours_star S - 84.6/30.0
2 cityscapes_27 ours_star B - 84.2/30.7
2 cityscapes_27 ours_star L - 84.2/30.0
3 pascal_context_60 deeplabv3plus - - -/48.5
3 pascal_context_60 kmeans S - 56.3/31.9
3 pascal_context_60 ours S - 67.4/41.4
3 pascal_context_60 ours_star S - 68.9/41.3
3 cityscapes_19 supervised - - -/77.3
3 cityscapes_19 kmeans S - 75.5/34.2
3 cityscapes_19 ours S - 86.1/46.7
3 cityscapes_19 ours_star S - 88.3/52.8
4 ade20k kmeans S 512 50.7/19.2
4 ade20k ours S 512 63.3/21.6
4 ade20k ours_star S 512 62.5/23.6
5 pascal_context ours S 64 67.1/27.8
5 pascal_context ours S 128 71.6/33.2
5 pascal_context ours S 256 70.4/38.8
5 pascal_context ours S 512 71.1/37.9
6 pascal_context ours S pixel_weight=0 -/38.6
6 pascal_context ours S pixel_weight=0.1 -/37.9
6 pascal_context ours S pixel_weight=0.3 -/38.8
6 pascal_context ours S pixel_weight=0.5 -/38.9
6 pascal_context ours S pixel_weight=0.7 -/38.0
6 cityscapes_27 ours S pixel_weight=0 -/27.2
6 cityscapes_27 ours S pixel_weight=0.1 -/26.7
6 cityscapes_27 ours S pixel_weight=0.3 -/28.2
6 cityscapes_27 ours S pixel_weight=0.5 -/28.1
6 cityscapes_27 ours S pixel_weight=0.7 -/27.9
7 pascal_context ours S orthogonality_weight=0.04 -/38.8
7 pascal_context ours S orthogonality_weight=0.08 -/38.8
7 pascal_context ours S orthogonality_weight=0.16 -/39.0
7 pascal_context ours_star S orthogonality_weight=0.04 -/39.0
7 pascal_context ours_star S orthogonality_weight=0.08 -/39.6
7 pascal_context ours_star S orthogonality_weight=0.16 -/39.3
8 pascal_context ours S trained_on=imagenet 55.8/15.2
8 cityscapes_27 ours S trained_on=imagenet 81.2/18.5
4.4 pascal_context ours - matching=hungarian -/23.5
4.4 pascal_context ours - matching=majority -/27.7
9 pascal_context ours CLIP-B - -/37.2
9 pascal_context ours CLIP-L - -/38.7
9 pascal_context ours CLIP-L-336 - -/44.0
"""
"""Copied from the paper by hand, apart from ``paper.csv``: table, dataset, method, backbone, setting, Acc/mIoU."""
SHORT = {
    "-": None, "S": SMALL, "B": BASE, "L": LARGE, "CLIP-B": "clip_vit_b16",
    "CLIP-L": "clip_vit_l14", "CLIP-L-336": "clip_vit_l14_336",
}  # fmt: skip


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


def test_every_number_is_the_one_the_paper_prints(numbers):
    lines = [line.split() for line in PRINTED.strip().splitlines()]
    assert len(lines) == len(numbers)
    for table, dataset, method, backbone, setting, scores in lines:
        named = {"table": table, "dataset": dataset, "method": method, "backbone": SHORT[backbone]}
        varied = {"clusters": int(setting)} if setting.isdecimal() else {"setting": None if setting == "-" else setting}
        for column, printed in zip(("accuracy", "mean_iou"), scores.split("/"), strict=True):
            found = value(numbers, column, **named, **varied)
            assert math.isnan(found) if printed == "-" else found == float(printed), (table, dataset, method, setting)


def test_names_are_the_package_s(numbers):
    assert set(OF_THE_PAPER) <= set(get_args(Method))
    assert set(numbers["method"]) == {*OF_THE_PAPER, *EXTERNAL}
    assert set(numbers["protocol"]) == {"crop320", "sliding"}
    assert set(numbers["backbone"].dropna()) <= {known.name for known in available()}
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
