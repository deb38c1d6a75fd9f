"""Points in boxes against the numpy implementation of the data layer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.ops.op_harness import assert_native_matches_reference, assert_same_for_all_threads
from tests.unit.ops.test_box_nms import cars
from zoo.data import boxes as numpy_boxes
from zoo.ops import points_in_boxes, points_in_boxes_mask


def cloud(count: int, area: float, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    points = (torch.rand(count, 5, generator=generator, dtype=torch.float64) - 0.5) * area
    points[:, 2] /= area / 2
    return points.to(dtype)


@pytest.mark.parametrize(("count", "num_boxes"), [(3000, 60), (3000, 1), (10, 0), (0, 5)])
def test_matches_the_data_layer(count, num_boxes):
    points, (boxes, _) = cloud(count, 30.0, dtype=torch.float64), cars(num_boxes, 30.0, 1, torch.float64)
    inside = numpy_boxes.points_in_boxes(points.numpy(), boxes.numpy())
    assert np.array_equal(points_in_boxes_mask(points, boxes).numpy(), inside)
    first = np.where(inside.any(0), inside.argmax(0) if num_boxes else 0, -1)
    found = points_in_boxes(points, boxes)
    assert found.dtype == torch.int64
    assert np.array_equal(found.numpy(), first)
    assert count != 3000 or num_boxes == 1 or len(np.unique(first)) > 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "num_boxes"), [(0, 0), (7, 0), (0, 7), (2000, 40)])
def test_native_matches_reference(count, num_boxes, dtype):
    points, (boxes, _) = cloud(count, 30.0, 2, dtype)[:, :3].contiguous(), cars(num_boxes, 30.0, 3, dtype)
    boxes[1::6, 3:5] *= 10
    for name in ("points_in_boxes", "points_in_boxes_mask"):
        assert_native_matches_reference(name, points, boxes)


def test_same_for_all_threads():
    points, (boxes, _) = cloud(40_000, 60.0, 4), cars(80, 60.0, 5)
    assert_same_for_all_threads(lambda: (points_in_boxes(points, boxes), points_in_boxes_mask(points, boxes)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_faces_belong_to_the_box(dtype):
    boxes = torch.tensor([[1.0, 2.0, 3.0, 2.0, 4.0, 6.0, 0.0]], dtype=dtype)
    corners = torch.from_numpy(numpy_boxes.box_corners(boxes.double().numpy())[0]).to(dtype)
    assert points_in_boxes(corners, boxes).tolist() == [0] * 8
    beyond = boxes[0, :3] + (corners - boxes[0, :3]) * (1 + 1e-5)
    assert points_in_boxes(beyond, boxes).tolist() == [-1] * 8


def test_degenerate_boxes_and_points():
    boxes = torch.tensor(
        [
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],  # one point
            [0.0, 0.0, 0.0, 2.0, 2.0, 0.0, 0.0],  # a square
            [math.nan, 0.0, 0.0, 9.0, 9.0, 9.0, 0.0],
            [0.0, 0.0, 0.0, -4.0, 4.0, 4.0, 0.0],
            [0.0, 0.0, 0.0, 1e30, 1e30, 1e30, 0.3],  # everything
        ]
    )
    points = torch.tensor(
        [[0.0, 0, 0], [0.5, 0.5, 0], [0.5, 0.5, 0.1], [math.nan, 0, 0], [1e20, -1e20, 3], [0, 0, math.inf]]
    )
    assert points_in_boxes(points, boxes).tolist() == [0, 1, 4, -1, 4, -1]
    assert points_in_boxes_mask(points, boxes).sum(1).tolist() == [1, 2, 0, 0, 4]


@pytest.mark.parametrize(
    ("points", "boxes", "words"),
    [
        (torch.zeros(3, 2), torch.zeros(1, 7), r"points: found shape \(3, 2\), expected \(P, 3 or more\)"),
        (torch.zeros(3, 3), torch.zeros(1, 5), r"boxes: found shape \(1, 5\)"),
        (torch.zeros(3, 3, dtype=torch.int32), torch.zeros(1, 7), "points: found dtype int32"),
        (torch.zeros(3, 3), torch.zeros(1, 7, dtype=torch.float64), "boxes: found dtype torch.float64"),
    ],
)
def test_bad_arguments(points, boxes, words):
    for function in (points_in_boxes, points_in_boxes_mask):
        with pytest.raises(ValueError, match=words):
            function(points, boxes)


def test_opcheck():
    points, (boxes, _) = cloud(20, 6.0, dtype=torch.float64)[:, :3].contiguous(), cars(3, 6.0, dtype=torch.float64)
    torch.library.opcheck(torch.ops.zoo.points_in_boxes.default, (points, boxes))
    torch.library.opcheck(torch.ops.zoo.points_in_boxes_mask.default, (points, boxes))
