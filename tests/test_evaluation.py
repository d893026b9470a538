import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

from neuralef.evaluation import (
    confusion,
    image_counts,
    match_hungarian,
    match_majority,
    match_max_iou,
    score,
    score_mapping,
)

tables = arrays(np.int64, (4, 3), elements=st.integers(0, 50)).filter(lambda counts: counts.sum() > 0)


def test_pixels_are_counted_by_hand_and_ignored_ones_left_out():
    clusters, labels = np.array([[0, 0, 1], [2, 2, 2]], np.uint16), np.array([[0, 1, 1], [255, 1, 1]], np.uint8)
    assert image_counts(clusters, labels, 3, 2).tolist() == [[1, 1], [0, 1], [0, 2]]


@pytest.mark.parametrize(
    ("clusters", "labels"), [([[5]], [[0]]), ([[-1]], [[0]]), ([[0]], [[3]]), ([[0]], [[4]]), ([[0]], [[-1]])]
)
def test_ids_out_of_range_are_refused(clusters, labels):
    with pytest.raises(ValueError, match="must be below"):
        image_counts(np.array(clusters), np.array(labels), 5, 3)


def test_clusters_and_labels_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"clusters have shape \(2, 3\), labels \(3, 2\)"):
        image_counts(np.zeros((2, 3), int), np.zeros((3, 2), int), 5, 3)


def test_as_many_classes_as_labels_can_name_leave_room_for_ignored_pixels():
    labels = np.array([[254, 255, 0]], np.uint8)
    counts = image_counts(np.zeros((1, 3), np.uint16), labels, 1, 255)
    assert counts[0].nonzero()[0].tolist() == [0, 254]
    assert counts.sum() == 2


def test_confusion_has_predictions_in_rows_and_truth_in_columns():
    assert confusion(np.array([[3, 1], [2, 5], [1, 0]]), np.array([1, 0, 1])).tolist() == [[2, 5], [4, 1]]


def test_majority_and_max_iou_differ_where_a_rare_class_is_swallowed():
    # Cluster 0: 60 pixels of a large class, 40 of a small one it holds nearly alone.
    counts = np.array([[60, 40], [940, 2]])
    assert match_majority(counts).tolist() == [0, 0]
    assert match_max_iou(counts).tolist() == [1, 0]  # 60/1040 against 40/102


@settings(max_examples=50, deadline=None)
@given(tables)
def test_hungarian_is_the_best_one_to_one_assignment(counts):
    clusters = range(len(counts))
    best = max(sum(counts[k, c] for c, k in enumerate(chosen)) for chosen in itertools.permutations(clusters, 3))
    mapping = match_hungarian(counts)
    # Left-over clusters are class 0, so the assigned total is the best over which cluster carries class 0.
    carriers = [k for k in clusters if mapping[k] == 0]
    found = sum(counts[k, mapping[k]] for k in clusters if mapping[k]) + max(counts[k, 0] for k in carriers)
    assert found >= best
    assert sorted(set(mapping) | {0}) == [0, 1, 2]


@settings(max_examples=50, deadline=None)
@given(tables)
def test_majority_has_the_highest_accuracy(counts):
    assert score(counts, "majority").accuracy >= max(score(counts, rule).accuracy for rule in ("max_iou", "hungarian"))


@settings(max_examples=50, deadline=None)
@given(tables, st.permutations(range(4)))
def test_scores_do_not_depend_on_cluster_names(counts, order):
    renamed = counts[list(order)]
    assert score(renamed, "max_iou").mean_iou == pytest.approx(score(counts, "max_iou").mean_iou)


@pytest.mark.parametrize("rule", ["max_iou", "majority"])
def test_scores_agree_with_torchmetrics(rule):
    generator = np.random.default_rng(1)
    clusters, labels = generator.integers(0, 9, (40, 50)), generator.integers(0, 4, (40, 50))
    found = score(image_counts(clusters, labels, 9, 4), rule)
    predicted, truth = torch.from_numpy(found.mapping[clusters]), torch.from_numpy(labels)
    assert found.accuracy == pytest.approx(multiclass_accuracy(predicted, truth, 4, average="micro").item())
    assert found.mean_iou == pytest.approx(multiclass_jaccard_index(predicted, truth, 4).item(), abs=1e-6)


def test_class_in_neither_truth_nor_prediction_does_not_count():
    found = score(np.array([[10, 0, 0], [0, 5, 0]]), "majority")
    assert found.mean_iou == 1.0
    assert np.isnan(found.class_iou[2])


def test_predicted_class_absent_from_the_truth_counts_as_zero():
    # Hungarian leaves cluster 2 over; it becomes class 0, which the truth lacks.
    found = score(np.array([[0, 10, 0], [0, 0, 10], [0, 4, 0]]), "hungarian")
    assert found.class_iou[0] == 0.0
    assert found.mean_iou == pytest.approx((0 + 10 / 14 + 1) / 3)


def test_unused_clusters_are_not_counted_as_used():
    assert score(np.array([[3, 0], [0, 0]]), "max_iou").clusters_used == 1


def test_no_labelled_pixel_is_an_error():
    with pytest.raises(ValueError, match="ignore label"):
        score(np.zeros((3, 2), np.int64), "max_iou")


def test_clusters_that_are_classes_need_no_matching():
    found = score_mapping(np.array([[3, 1], [2, 4]]), np.arange(2))
    assert found.accuracy == pytest.approx(7 / 10)
    assert found.mean_iou == pytest.approx((3 / 6 + 4 / 7) / 2)
