"""Formulas against what torch counts, what files weigh, and the paper's own remarks."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_measuring import killed_side
from torch.utils.flop_counter import FlopCounterMode

from neuralef import backbones, costs, sizing
from neuralef.config import Config
from neuralef.costs import Cost, Processor
from neuralef.eigenfunctions import Eigenfunctions
from neuralef.errors import InputError
from neuralef.measuring import Measured
from neuralef.tables import VIT_SMALL
from neuralef.training import kernel_of

TINY = "vit_tiny_patch16_224"
CONFIG = Config(feature_neighbors=8, pixel_neighbors=(4, 2))
RTX_3090 = Processor("RTX 3090", 35.6e12, 936e9, 24e9)


def counted(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["vit_small_patch16_384", "clip_vit_l14", "dinov3_vit_s16", "siglip2_vit_b16"])
def test_operations_of_a_backbone_are_those_torch_counts(monkeypatch, name):
    monkeypatch.setattr(backbones, "tensors_digest", lambda _: "")
    with torch.device("meta"):
        backbone = backbones.build(name, pretrained=False)
        found = counted(lambda: backbone.levels(torch.empty(2, 3, 96, 160)))
    assert costs.backbone_cost(costs.transformer_of(name), (96, 160), 2).operations == pytest.approx(found, rel=0.01)


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        Config(width=64, depth=1, mlp_ratio=2.0, attention="elu"),
        Config(width=96, mlp_ratio=1.0, head_bias=False),
    ],
)
def test_operations_and_parameters_of_psi_are_those_torch_counts(config):
    psi = Eigenfunctions.of(config, 192, 10, seed=0)
    features = torch.randn(3, 200, 192)
    with torch.no_grad():
        forward = counted(lambda: psi(features))
    both = counted(lambda: psi(features).square().sum().backward())
    assert costs.psi_forward_cost(600, 192, 10, config).operations == pytest.approx(forward, rel=0.02)
    assert costs.psi_step_cost(600, 192, 10, config).operations == pytest.approx(both, rel=0.1)
    assert costs.psi_parameters(192, 10, config) == sum(parameter.numel() for parameter in psi.parameters())


@pytest.mark.parametrize("pixel_neighbors", [(10, 5), (60, 40), (0, 0)])
def test_a_row_of_the_kernel_has_no_more_entries_than_counted(pixel_neighbors):
    features, colours = torch.randn(2, 12, 12, 6), torch.rand(2, 12, 12, 3)
    config = Config(feature_neighbors=20, pixel_neighbors=pixel_neighbors)
    kappa = kernel_of(features, colours, config)
    assert kappa.nnz <= 288 * costs.row_entries(config)


def test_the_paper_s_kernel_has_542_entries_a_row_and_others_what_they_ask_for():
    assert costs.row_entries(Config()) == 2 * 256 + 2 * (10 + 5)
    fewer = Config(pixel_neighbors=(4, 2))
    assert costs.row_entries(fewer) == 2 * 256 + 2 * (4 + 2)
    per_entry = 2 * 100 * 7  # a multiply-add for each of B = 100 rows and K = 7 functions
    saved = costs.sparse_objective_cost(100, 7, Config()).operations
    saved -= costs.sparse_objective_cost(100, 7, fewer).operations
    assert saved == per_entry * 18


def test_a_store_weighs_what_is_computed(store):
    on_disk = sum(Path(array.filename).stat().st_size for array in (store.patches, store.patch_colours))
    assert costs.store_bytes(len(store), math.prod(store.grid), sum(store.channels)) == on_disk


def test_stages_add_up_and_memory_is_the_larger():
    first, second = Cost(10, 4, 7), Cost(1, 2, 9)
    assert first + second == Cost(11, 6, 9)
    assert first.times(3) == Cost(30, 12, 7)
    assert first.on_top_of(5) == Cost(10, 4, 12)


def test_a_roofline_is_the_slower_of_computing_and_moving():
    machine = Processor("", operations=100, bandwidth=10, memory=50)
    assert machine.seconds(Cost(200, 5, 0)) == 2
    assert machine.seconds(Cost(50, 30, 0)) == 3
    assert machine.fits(50) and not machine.fits(51)


def test_the_dense_kernel_of_the_paper_s_batch():
    pascal, cityscapes = costs.dense_kernel_cost(16 * 30**2, 384), costs.dense_kernel_cost(16 * 48**2, 384)
    assert pascal.memory == 10 * 14400**2
    assert cityscapes.memory == pytest.approx(13.6e9, rel=0.01)


def test_sizes_of_networks_are_read_off_their_architecture():
    large = costs.transformer_of("vit_large_patch16_384")
    assert (large.patch_size, large.channels, large.depth, large.mlp_ratio, large.prefix_tokens) == (16, 1024, 24, 4, 1)
    assert large.patches((480, 481)) == 30 * 31
    with pytest.raises(InputError, match="resnet18"):
        costs.transformer_of("resnet18")
    with pytest.raises(InputError, match="colour_patches"):
        costs.transformer_of("colour_patches")


def test_the_paper_s_runs_are_those_of_its_tables():
    runs = sizing.paper_runs()
    tables = dict.fromkeys(run.table for run in runs)
    by_table = {table: [run for run in runs if run.table == table] for table in tables}
    assert {table: len(of_table) for table, of_table in by_table.items()} == {
        "1": 3, "2": 3, "3": 2, "4": 1, "5": 4, "6": 10, "7": 3, "8": 2, "4.4": 1, "9": 3,
    }  # fmt: skip
    of_imagenet = ("imagenet", VIT_SMALL, 256, "trained_on=imagenet")
    assert {run.training for run in by_table["8"]} == {of_imagenet}
    assert by_table["7"][1].training == by_table["1"][0].training == by_table["3"][0].training
    assert by_table["4"][0].clusters == 512 and by_table["4"][0].crop == 512
    assert [run.windows() for run in (*by_table["3"], *by_table["4"])] == [(4, 480), (8, 768), (2, 512)]
    assert by_table["2"][0].windows() == (1, 320) and by_table["2"][0].crop == 768


def test_a_method_is_charged_for_psi_where_it_needs_it():
    """Pascal Context with ViT-S: T = 20^2, C = 384, 12 blocks; psi has W = 1152, two blocks of r = 0.5, heads of 64."""
    backbone = 2 * 400 * 3 * 16**2 * 384 + 12 * (24 * 401 * 384**2 + 4 * 401**2 * 384)
    hidden, head = 2 * (10 * 400 * 1152**2 + 4 * 400 * 1152 * 64), 2 * 400 * 1152 * 256
    maps, seen = 8 * 320**2 * 256, 50_000 * 100 + 4998 * 400  # 100 iterations on a draw, one pass over all patches
    fewer = 50_000 * 100 + 2_000_000_000 // 1152  # the official code's limit, in numbers
    run = next(run for run in sizing.paper_runs() if run.table == "1" and run.spec.backbone == VIT_SMALL)
    expected = {
        "kmeans": (5105 * (backbone + maps), 4998 * backbone + 2 * seen * 384 * 256),
        "ours": (5105 * (backbone + hidden + head + maps), 0),
        "ours_star": (5105 * (backbone + hidden + head + maps), 4998 * (backbone + hidden) + 2 * fewer * 1152 * 256),
    }
    for method, operations in expected.items():
        taken = sizing.run_costs(replace(run, spec=replace(run.spec, methods=(method,))), Config(), 16)
        assert (taken["evaluation"].operations, taken["clustering"].operations) == pytest.approx(operations)
    assert set(run.spec.methods) == set(expected)
    together = sizing.run_costs(run, Config(), 16)
    evaluation, clustering = (sum(operations) for operations in zip(*expected.values(), strict=True))
    assert together["evaluation"].operations == pytest.approx(evaluation - 2 * 5105 * backbone)  # they share its passes
    assert together["clustering"].operations == pytest.approx(clustering - 4998 * backbone)


def test_half_a_batch_is_taken_where_a_whole_one_does_not_fit():
    table = sizing.paper_table(RTX_3090, Config(), reached=0.5)
    assert len(table) == len(sizing.paper_runs())
    small = table[table["backbone"] == VIT_SMALL]
    assert small.query("dataset == 'pascal_context' and table == '1'")["batch_images"].item() == 16
    tight = Processor("tight", 1e12, 1e11, table["full_batch_gb"].min() * 1e9 / 2)
    cityscapes = table.query("dataset == 'cityscapes_27'")
    assert cityscapes["batch_images"].tolist() == [8] * 8 + [16]  # Tables 2 and 6; 8, which is trained on ImageNet
    assert not table["halved"].any()
    halved = sizing.paper_table(tight, Config(), reached=0.5)
    assert (halved["batch_images"] * 2 == table["batch_images"]).all() and halved["halved"].all()
    slower = sizing.paper_table(RTX_3090, Config(), reached=0.25)
    np.testing.assert_allclose(slower["training_h"], 2 * table["training_h"])


@pytest.mark.parametrize("reached", [0, 1.5, -1])
def test_a_share_that_is_none_is_named(reached):
    with pytest.raises(InputError, match=f"reached is {reached}"):
        sizing.paper_table(RTX_3090, Config(), reached=reached)


def test_trainings_that_tables_share_count_once():
    runs = sizing.paper_table(RTX_3090, Config(), reached=0.5)
    tables = sizing.hours_of_tables(runs).set_index("table")
    assert tables.loc["7", "trainings"] == 3 and tables.loc["8", "trainings"] == 1
    assert tables.loc["all", "trainings"] < tables["trainings"].iloc[:-1].sum()
    assert tables.loc["all", "hours"] < tables["hours"].iloc[:-1].sum()


def test_every_stage_is_measured_beside_its_formula(monkeypatch):
    asked = []

    def pretends(side, shapes, **_):
        asked.append(side)
        return Measured(2.0, 4.0, 100.0, None)

    monkeypatch.setattr(sizing, "measure", pretends)
    shapes = sizing.Shapes(TINY, 64, 2, 5, CONFIG)
    machine = Processor("", 1e9, 1e9, 1e9)
    rows = sizing.measured(shapes, machine).set_index("stage")
    assert asked == list(sizing.SIDES.values())
    for stage in sizing.STAGES:
        cost = shapes.predicted(stage)
        assert rows.loc[stage, "ratio_s"] == pytest.approx(machine.seconds(cost) / 2)
        assert rows.loc[stage, "ratio_mb"] == pytest.approx(cost.memory / 4e6)


def test_a_stage_too_large_for_the_memory_is_named(monkeypatch):
    monkeypatch.setitem(sizing.SIDES, "maps", killed_side)
    shapes, machine = sizing.Shapes(TINY, 64, 2, 5, CONFIG), Processor("", 1e9, 1e9, 1e9)
    with pytest.raises(InputError, match="lower crop or images, or leave maps out of stages"):
        sizing.measured(shapes, machine, stages=["maps"])


@pytest.mark.parametrize("stage", sizing.STAGES)
def test_sides_run(stage):
    assert sizing.SIDES[stage](sizing.Shapes(TINY, 64, 2, 5, CONFIG))() is not None


def test_this_machine_has_rates():
    machine = sizing.this_machine()
    assert machine.operations > 1e8 and machine.bandwidth > 1e7 and machine.memory > 1e8


@pytest.mark.parametrize(("attention", "kept"), [("softmax", 10), ("elu", 13)])
def test_memory_is_that_of_the_table(attention, kept):
    """The last column of the table in :mod:`neuralef.costs`: B = 600 patches, W = 1152, K = 10, L = 3, r = 1.5."""
    config = Config(width=None, depth=3, mlp_ratio=1.5, attention=attention)
    activations = 4 * 600 * 1152 * (3 * (kept + 3) + 6)
    learned = 12 * costs.psi_parameters(1152, 10, config)
    assert costs.psi_step_cost(600, 1152, 10, config).memory == activations + 24 * 600 * 10 + learned
    assert costs.psi_forward_cost(600, 1152, 10, config).memory == 4 * 600 * (1152 * 6 + 10)
    assert costs.sparse_kernel_cost(600, 16, 100).memory == 36 * 600 * 100
    vit, pictures = costs.transformer_of(VIT_SMALL), 2 * 4 * 3 * 320**2
    two = costs.backbone_cost(vit, (320, 320), 2, at_once=2).memory
    assert two == 2 * (4 * 401 * 384 * (4 + 2 * 4) + pictures + 4 * 400 * 3 * 384)
