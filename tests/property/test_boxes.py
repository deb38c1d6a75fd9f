"""Properties of rotated boxes over random ones: symmetry, invariance, bounds, and suppression against every pair."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zoo.ops import boxes_aligned_iou, boxes_iou_3d, boxes_iou_bev, boxes_overlap_bev, nms_rotated, points_in_boxes

few = settings(max_examples=60, deadline=None, derandomize=True)
place = st.floats(-20, 20)
size = st.floats(0.05, 15)
angle = st.floats(-10, 10)
box = st.tuples(place, place, place, size, size, size, angle)
flat = st.tuples(place, place, place, size, size, size, st.just(0.0))
rows = st.lists(box, min_size=1, max_size=6)


def table(boxes: list[tuple[float, ...]]) -> Tensor:
    return torch.tensor(boxes, dtype=torch.float64).view(-1, 7)


@few
@given(a=rows, b=rows)
def test_iou_is_symmetric_and_bounded(a, b):
    a, b = table(a), table(b)
    for function in (boxes_iou_bev, boxes_iou_3d):
        found = function(a, b)
        assert bool(((found >= 0) & (found <= 1)).all())
        torch.testing.assert_close(found, function(b, a).T, atol=1e-9, rtol=0)
        own = function(a, a).diagonal()
        torch.testing.assert_close(own, torch.ones_like(own), atol=1e-9, rtol=0)
    assert bool((boxes_iou_3d(a, b) <= boxes_iou_bev(a, b) + 1e-9).all())
    smaller = torch.minimum((a[:, 3] * a[:, 4])[:, None], (b[:, 3] * b[:, 4])[None])
    assert bool((boxes_overlap_bev(a, b) <= smaller + 1e-9).all())


@few
@given(a=rows, b=rows, shift=st.tuples(place, place, place), turn=angle)
def test_iou_does_not_change_when_all_are_moved_and_turned(a, b, shift, turn):
    a, b = table(a), table(b)

    def moved(boxes: Tensor) -> Tensor:
        x, y = boxes[:, 0], boxes[:, 1]
        cos, sin = math.cos(turn), math.sin(turn)
        center = torch.stack([x * cos - y * sin, x * sin + y * cos, boxes[:, 2]], 1) + torch.tensor(shift)
        return torch.cat([center, boxes[:, 3:6], boxes[:, 6:] + turn], 1)

    for function in (boxes_iou_bev, boxes_iou_3d):
        torch.testing.assert_close(function(moved(a), moved(b)), function(a, b), atol=1e-8, rtol=0)


@few
@given(a=rows)
def test_a_box_turned_by_half_or_with_swapped_edges_by_a_quarter_is_the_same(a):
    a = table(a)
    half, quarter = a.clone(), a[:, [0, 1, 2, 4, 3, 5, 6]].clone()
    half[:, 6] += math.pi
    quarter[:, 6] += math.pi / 2
    for same in (half, quarter):
        torch.testing.assert_close(boxes_aligned_iou(a, same), torch.ones(len(a)).double(), atol=1e-9, rtol=0)


@few
@given(a=st.lists(flat, min_size=1, max_size=6), b=st.lists(flat, min_size=1, max_size=6))
def test_boxes_along_the_axes_follow_the_area_formula(a, b):
    a, b = table(a), table(b)
    low = torch.maximum((a[:, :3] - a[:, 3:6] / 2)[:, None], (b[:, :3] - b[:, 3:6] / 2)[None])
    high = torch.minimum((a[:, :3] + a[:, 3:6] / 2)[:, None], (b[:, :3] + b[:, 3:6] / 2)[None])
    edges = (high - low).clamp_min(0)
    shared = edges.prod(-1)
    union = a[:, 3:6].prod(1)[:, None] + b[:, 3:6].prod(1)[None] - shared
    torch.testing.assert_close(boxes_overlap_bev(a, b), edges[..., :2].prod(-1), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(boxes_iou_3d(a, b), shared / union, atol=1e-9, rtol=1e-9)


@few
@given(
    boxes=st.lists(box, min_size=0, max_size=40),
    seed=st.integers(0, 99),
    threshold=st.sampled_from([0.0, 0.1, 0.45, 0.8]),
)
def test_suppression_keeps_what_every_pair_says(boxes, seed, threshold):
    boxes = table(boxes)
    scores = torch.rand(len(boxes), generator=torch.Generator().manual_seed(seed))
    iou = boxes_iou_bev(boxes, boxes)
    kept: list[int] = []
    for row in torch.argsort(scores, descending=True, stable=True).tolist():
        if not bool((iou[kept, row] > threshold).any()):
            kept.append(row)
    assert nms_rotated(boxes, scores, threshold).tolist() == kept


@few
@given(boxes=rows, seed=st.integers(0, 99))
def test_points_drawn_inside_a_box_are_found_in_it_or_an_earlier_one(boxes, seed):
    boxes = table(boxes)
    local = torch.rand(len(boxes), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5
    local = 0.999 * local * boxes[:, 3:6]
    cos, sin = boxes[:, 6].cos(), boxes[:, 6].sin()
    turned = torch.stack([local[:, 0] * cos - local[:, 1] * sin, local[:, 0] * sin + local[:, 1] * cos, local[:, 2]], 1)
    found = points_in_boxes(turned + boxes[:, :3], boxes)
    assert bool(((found >= 0) & (found <= torch.arange(len(boxes)))).all())
