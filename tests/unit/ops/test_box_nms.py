"""Rotated NMS: the keep list is that of comparing every pair."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.unit.ops.op_harness import assert_native_matches_reference, assert_same_for_all_threads
from zoo.ops import boxes_iou_bev, nms_rotated, nms_rotated_per_class


def cars(count: int, area: float, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    place = (torch.rand(count, 2, generator=generator, dtype=torch.float64) - 0.5) * area
    size = torch.tensor([4.5, 2.0, 1.6]) * (0.7 + 0.6 * torch.rand(count, 3, generator=generator, dtype=torch.float64))
    yaw = 2 * math.pi * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    boxes = torch.cat([place, torch.zeros(count, 1, dtype=torch.float64), size, yaw], 1)
    return boxes.to(dtype), torch.rand(count, generator=generator, dtype=torch.float64).to(dtype)


def brute_force(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    order = torch.argsort(scores, descending=True, stable=True)
    iou = boxes_iou_bev(boxes, boxes)
    kept: list[int] = []
    for row in order.tolist():
        if not bool((iou[kept, row] > threshold).any()):
            kept.append(row)
    return kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5])
@pytest.mark.parametrize(("count", "area"), [(1, 10.0), (700, 40.0), (500, 3.0), (400, 500.0)])
def test_keeps_what_brute_force_keeps(count, area, threshold, dtype):
    boxes, scores = cars(count, area, 1, dtype)
    kept = nms_rotated(boxes, scores, threshold)
    assert kept.tolist() == brute_force(boxes, scores, threshold)


@pytest.mark.parametrize("threshold", [0.05, 0.4])
def test_sizes_of_all_scales(threshold):
    boxes, scores = cars(600, 60.0, 2)
    boxes[::7, 3:5] *= 12  # buildings among cars and cones
    boxes[1::5, 3:5] *= 0.05
    boxes[5, 3:5] = 1e6
    assert nms_rotated(boxes, scores, threshold).tolist() == brute_force(boxes, scores, threshold)


def test_far_apart_and_far_away():
    boxes, scores = cars(300, 30.0, 3, torch.float64)
    boxes[:100, :2] += 1e9
    boxes[100:150, 0] -= 1e12
    assert nms_rotated(boxes, scores, 0.2).tolist() == brute_force(boxes, scores, 0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "max_kept"), [(0, 5), (200, 200), (200, 7), (200, 0)])
def test_native_matches_reference(count, max_kept, dtype):
    boxes, _ = cars(count, 25.0, 4, dtype)
    assert_native_matches_reference("nms_keep", boxes, 0.2, max_kept)


def test_same_for_all_threads():
    boxes, scores = cars(1500, 60.0, 5)
    assert_same_for_all_threads(lambda: nms_rotated(boxes, scores, 0.1))


def test_limits_and_ties():
    boxes, _ = cars(40, 1000.0, 6)
    scores = torch.zeros(40)
    scores[30] = 1
    assert nms_rotated(boxes, scores, 0.1).tolist() == [30, *range(30), *range(31, 40)]
    assert nms_rotated(boxes, scores, 0.1, max_candidates=3).tolist() == [30, 0, 1]
    assert nms_rotated(boxes, scores, 0.1, max_kept=2).tolist() == [30, 0]
    assert nms_rotated(boxes[:0], scores[:0], 0.1).tolist() == []
    twins = boxes[:1].repeat(4, 1)
    assert nms_rotated(twins, scores[:4], 0.99).tolist() == [0]
    assert nms_rotated(twins, scores[:4], 1.0).tolist() == [0, 1, 2, 3]


def test_boxes_without_size_and_nan_suppress_nothing():
    boxes = cars(1, 1.0)[0].repeat(5, 1)
    boxes[1, 3], boxes[2, 0], boxes[3, 6] = 0, math.nan, math.inf
    scores = torch.tensor([0.1, 0.9, 0.8, 0.7, math.nan])
    assert nms_rotated(boxes, scores, 0.3).tolist() == [1, 2, 3, 0]


def test_classes_do_not_suppress_each_other():
    boxes, scores = cars(300, 30.0, 7)
    labels = torch.arange(300) % 4
    kept = nms_rotated_per_class(boxes, scores, labels, [0.1, 0.5, 0.3], max_candidates=60, max_kept=50)
    expected: list[int] = []
    for label, threshold in enumerate((0.1, 0.5, 0.3)):
        rows = torch.nonzero(labels == label).squeeze(1)
        best = rows[torch.argsort(scores[rows], descending=True, stable=True)[:60]]
        expected += best[brute_force(boxes[best], scores[best], threshold)[:50]].tolist()
    assert kept.tolist() == expected
    assert nms_rotated_per_class(boxes, scores, labels, []).tolist() == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"boxes": torch.zeros(2, 4)}, r"boxes: found shape \(2, 4\)"),
        ({"scores": torch.zeros(3)}, r"scores: found shape \(3,\), expected \(2\)"),
        ({"scores": torch.zeros(2, dtype=torch.int64)}, "scores: found dtype int64"),
        ({"threshold": 1.5}, "threshold: found 1.5, expected a number from 0 to 1"),
        ({"threshold": math.nan}, "threshold: found nan"),
        ({"max_kept": -1}, "max_kept: found -1, expected at least 0"),
        ({"max_candidates": -2}, "max_candidates: found -2"),
    ],
)
def test_bad_arguments(change, words):
    arguments = {"boxes": torch.zeros(2, 7), "scores": torch.zeros(2), "threshold": 0.5} | change
    with pytest.raises(ValueError, match=words):
        nms_rotated(**arguments)


def test_opcheck():
    boxes, _ = cars(12, 6.0, dtype=torch.float64)
    torch.library.opcheck(torch.ops.zoo.nms_keep.default, (boxes, 0.2, 5))
