"""The CUDA sources of the box ops and the dense maps, on the fibre emulator, against the references."""

from __future__ import annotations

import math

import pytest
import torch

from tests.kernels.emulation import emulated_ops
from tests.unit.ops.test_bev_maps import CASES, objects, voxels
from tests.unit.ops.test_box_iou import random_boxes
from tests.unit.ops.test_box_nms import cars
from tests.unit.ops.test_points_in_boxes import cloud
from zoo.ops import dispatch

DTYPES = [torch.float32, torch.float64]


def compare(name: str, *arguments, atol: float = 1e-5) -> None:
    found, expected = getattr(emulated_ops(), name)(*arguments), dispatch.REFERENCES[name](*arguments)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=atol, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("measure", [0, 1, 2])
@pytest.mark.parametrize(("rows", "others"), [(0, 2), (40, 30)])
def test_overlap(rows, others, measure, dtype):
    a, b = random_boxes(rows, 1, dtype), random_boxes(others, 2, dtype)
    a[::7, 3], b[1::9, 0] = 0, math.nan
    count = min(rows, others)
    compare("boxes_iou_pairs", a, b, measure)
    compare("boxes_iou_aligned", a[:count], b[:count], measure)
    compare("boxes_iou_aligned_backward", torch.ones(count, dtype=dtype), a[:count], b[:count], measure, atol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("count", "max_kept"), [(0, 9), (1, 9), (64, 64), (200, 200), (200, 11), (200, 0)])
def test_suppression(count, max_kept, dtype):
    boxes, _ = cars(count, 20.0, 3, dtype)
    compare("nms_keep", boxes, 0.15, max_kept)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("count", "num_boxes"), [(0, 0), (5, 0), (0, 5), (500, 30)])
def test_points_in_boxes(count, num_boxes, dtype):
    points, (boxes, _) = cloud(count, 20.0, 4, dtype)[:, :3].contiguous(), cars(num_boxes, 20.0, 5, dtype)
    compare("points_in_boxes", points, boxes)
    compare("points_in_boxes_mask", points, boxes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, *DTYPES])
@pytest.mark.parametrize(("count", "batch_size", "shape", "channels"), CASES)
def test_scatter(count, batch_size, shape, channels, dtype):
    features, coords = voxels(count, batch_size, shape, channels, dtype, 6)
    compare("scatter_to_bev", features, coords, batch_size, list(shape))
    grad = torch.randn(batch_size, *shape[1:], channels * shape[0]).to(dtype)
    compare("scatter_to_bev_backward", grad, coords, list(shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 60])
def test_heatmap(count, dtype):
    compare("draw_heatmap", *objects(count, 3, 20, 25, 7), torch.empty(0, dtype=dtype), [3, 20, 25])
