"""IoU of rotated boxes against an independent polygon clipper and random points, gradients, and boxes without size."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.unit.ops.op_harness import assert_native_matches_reference, assert_same_for_all_threads
from zoo.ops import boxes_aligned_iou, boxes_iou_3d, boxes_iou_bev, boxes_overlap_bev
from zoo.ops.box_iou import _boxes_iou_aligned


def random_boxes(count: int, seed: int = 0, dtype: torch.dtype = torch.float64, area: float = 6.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(count, 7, generator=generator, dtype=torch.float64)
    low = torch.tensor([-area / 2, -area / 2, -1.0, 0.5, 0.3, 0.5, -2 * math.pi], dtype=torch.float64)
    high = torch.tensor([area / 2, area / 2, 1.0, 5.0, 2.5, 2.0, 2 * math.pi], dtype=torch.float64)
    return (low + unit * (high - low)).to(dtype)


def outline(box: list[float]) -> list[tuple[float, float]]:
    x, y, _, dx, dy, _, yaw = box
    cos, sin = math.cos(yaw), math.sin(yaw)
    local = [(dx / 2, dy / 2), (-dx / 2, dy / 2), (-dx / 2, -dy / 2), (dx / 2, -dy / 2)]
    return [(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in local]


def clip(subject: list[tuple[float, float]], window: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Sutherland and Hodgman: the subject cut at the line of every edge of the window, both counter-clockwise."""
    for (ax, ay), (bx, by) in zip(window, window[1:] + window[:1], strict=True):
        kept: list[tuple[float, float]] = []
        sides = [(bx - ax) * (y - ay) - (by - ay) * (x - ax) for x, y in subject]
        for i, ((px, py), side) in enumerate(zip(subject, sides, strict=True)):
            (qx, qy), other = subject[i - 1], sides[i - 1]
            if (side >= 0) != (other >= 0):
                t = other / (other - side)
                kept.append((qx + t * (px - qx), qy + t * (py - qy)))
            if side >= 0:
                kept.append((px, py))
        subject = kept
    return subject


def brute_overlap(a: Tensor, b: Tensor) -> Tensor:
    result = torch.zeros(len(a), len(b), dtype=torch.float64)
    for i, first in enumerate(a.tolist()):
        for j, second in enumerate(b.tolist()):
            points = clip(outline(second), outline(first))
            area = sum(p[0] * q[1] - p[1] * q[0] for p, q in zip(points, points[1:] + points[:1], strict=True))
            result[i, j] = area / 2
    return result


def brute_measures(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, b = a.double(), b.double()
    overlap = brute_overlap(a, b)
    flat_a, flat_b = (boxes[:, 3] * boxes[:, 4] for boxes in (a, b))
    bev = overlap / (flat_a[:, None] + flat_b[None] - overlap)
    low = torch.maximum((a[:, 2] - a[:, 5] / 2)[:, None], (b[:, 2] - b[:, 5] / 2)[None])
    high = torch.minimum((a[:, 2] + a[:, 5] / 2)[:, None], (b[:, 2] + b[:, 5] / 2)[None])
    shared = overlap * (high - low).clamp_min(0)
    solid = shared / ((flat_a * a[:, 5])[:, None] + (flat_b * b[:, 5])[None] - shared)
    return overlap, bev, solid


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_matches_polygon_clipping(dtype, atol):
    a, b = random_boxes(60, 1, dtype), random_boxes(50, 2, dtype)
    overlap, bev, solid = brute_measures(a, b)
    assert (overlap > 0).sum() > 500
    for function, expected in ((boxes_overlap_bev, overlap), (boxes_iou_bev, bev), (boxes_iou_3d, solid)):
        found = function(a, b)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, atol=10 * atol, rtol=0)
    for kind, expected in (("bev", bev), ("3d", solid)):
        found = boxes_aligned_iou(a[:50], b, kind)
        torch.testing.assert_close(found.double(), expected.diagonal(), atol=10 * atol, rtol=0)


def test_matches_random_points():
    a, b = random_boxes(6, 3), random_boxes(6, 4)
    generator = torch.Generator().manual_seed(0)
    places = 14 * torch.rand(400_000, 2, generator=generator, dtype=torch.float64) - 7

    def inside(box: Tensor) -> Tensor:
        shift = places - box[:2]
        along = shift @ torch.stack([box[6].cos(), box[6].sin()])
        across = shift @ torch.stack([-box[6].sin(), box[6].cos()])
        return (along.abs() <= box[3] / 2) & (across.abs() <= box[4] / 2)

    counted = torch.stack([torch.stack([(inside(p) & inside(q)).double().mean() for q in b]) for p in a]) * 14**2
    torch.testing.assert_close(boxes_overlap_bev(a, b), counted, atol=0.15, rtol=0)  # 5 standard deviations


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("measure", [0, 1, 2])
@pytest.mark.parametrize(("rows", "others"), [(0, 3), (3, 0), (1, 1), (70, 40)])
def test_native_matches_reference(rows, others, measure, dtype):
    a, b = random_boxes(rows, 5, dtype), random_boxes(others, 6, dtype)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-12}
    assert_native_matches_reference("boxes_iou_pairs", a, b, measure, **tolerance)
    count = min(rows, others)
    assert_native_matches_reference("boxes_iou_aligned", a[:count], b[:count], measure, **tolerance)
    grad = torch.linspace(-1, 1, count, dtype=dtype)
    loose = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 1e-7, "atol": 1e-9}
    assert_native_matches_reference("boxes_iou_aligned_backward", grad, a[:count], b[:count], measure, **loose)


@pytest.mark.parametrize("measure", [0, 1, 2])
def test_gradcheck(measure):
    a, b = random_boxes(24, 7, area=3.0).requires_grad_(), random_boxes(24, 8, area=3.0).requires_grad_()
    assert (boxes_aligned_iou(a, b) > 0).sum() > 12
    torch.autograd.gradcheck(lambda x, y: _boxes_iou_aligned(x, y, measure), (a, b), eps=1e-7, atol=1e-5)


def test_same_for_all_threads():
    a, b = random_boxes(130, 9, torch.float32, 20.0), random_boxes(130, 10, torch.float32, 20.0)

    def run():
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        iou = boxes_aligned_iou(x, y)
        iou.sum().backward()
        return boxes_iou_bev(a, b), boxes_iou_3d(a, b), iou, x.grad, y.grad

    assert_same_for_all_threads(run)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_turned_and_touching_boxes(dtype):
    box = torch.tensor([[3.0, -2.0, 1.0, 4.0, 2.0, 1.5, 0.7]], dtype=dtype)
    half_turn = box + torch.tensor([0, 0, 0, 0, 0, 0, math.pi], dtype=dtype)
    side = torch.tensor([math.cos(0.7), math.sin(0.7)], dtype=dtype) * 4
    touching = box.clone()
    touching[:, :2] += side
    exact, near = torch.ones(1, 1, dtype=dtype), {"atol": 1e-5, "rtol": 0}
    for function in (boxes_iou_bev, boxes_iou_3d):
        torch.testing.assert_close(function(box, box), exact, **near)
        torch.testing.assert_close(function(box, half_turn), exact, **near)
        torch.testing.assert_close(function(box, touching), 0 * exact, **near)
    inner = box.clone()
    inner[:, 3:6] /= 2
    torch.testing.assert_close(boxes_iou_bev(box, inner), exact / 4, **near)
    torch.testing.assert_close(boxes_iou_3d(inner, box), exact / 8, **near)


@pytest.mark.parametrize("reference", [False, True])
def test_boxes_without_size_or_with_nan_overlap_nothing(reference):
    good = torch.tensor([0.0, 0.0, 0.0, 4.0, 2.0, 1.5, 0.3])
    bad = good.repeat(8, 1)
    for row, (column, value) in enumerate([(3, 0), (4, 0), (3, -1), (0, math.nan), (6, math.inf), (3, math.inf)]):
        bad[row, column] = value
    bad[6, 3:6] = 1e30  # the area of the sum of two is beyond float32
    bad[7] = good
    everything = torch.cat([bad, good[None]])
    for function in (boxes_iou_bev, boxes_iou_3d):
        found = function(everything, everything)
        assert bool((found[:6] == 0).all())
        assert bool((found[:, :6] == 0).all())
        assert bool(torch.isfinite(found).all())
        torch.testing.assert_close(found[7, 8], torch.tensor(1.0))
    flat = good.clone()
    flat[5] = 0
    assert boxes_iou_3d(flat[None], good[None]).item() == 0
    assert boxes_iou_bev(flat[None], good[None]).item() == pytest.approx(1)
    x = everything[:7].clone().requires_grad_()
    boxes_aligned_iou(x, good.repeat(7, 1)).sum().backward()
    assert x.grad is not None
    assert bool((x.grad[:6] == 0).all())


def test_coordinates_far_away():
    a = random_boxes(20, 11, torch.float64)
    b = random_boxes(20, 12, torch.float64)
    far = torch.tensor([1e7, -1e7, 0, 0, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(boxes_iou_bev(a + far, b + far), boxes_iou_bev(a, b), atol=1e-7, rtol=0)
    single = (a + far).float()
    torch.testing.assert_close(boxes_iou_bev(single, single), boxes_iou_bev(single.double(), single.double()).float())


def test_velocities_are_ignored_and_half_precision_widened():
    a = random_boxes(5, 13, torch.float32)
    longer = torch.cat([a, torch.full((5, 2), math.nan)], 1)
    assert torch.equal(boxes_iou_3d(longer, a), boxes_iou_3d(a, a))
    assert boxes_iou_bev(a.bfloat16(), a.bfloat16()).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(boxes_iou_bev(a, a), boxes_iou_bev(a, a))


@pytest.mark.parametrize("function", [boxes_iou_bev, boxes_iou_3d, boxes_overlap_bev, boxes_aligned_iou])
@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (torch.zeros(2, 6), torch.zeros(2, 7), r"a: found shape \(2, 6\), expected \(N, 7\)"),
        (torch.zeros(2, 7), torch.zeros(7), r"b: found shape \(7,\)"),
        (torch.zeros(2, 7, dtype=torch.int64), torch.zeros(2, 7), "a: found dtype int64"),
        (torch.zeros(2, 7), torch.zeros(2, 7, dtype=torch.float64), "b: found dtype torch.float64, expected"),
    ],
)
def test_bad_arguments(function, a, b, words):
    with pytest.raises(ValueError, match=words):
        function(a, b)


def test_bad_rows_and_kind():
    with pytest.raises(ValueError, match="b: found 3 boxes, expected 2"):
        boxes_aligned_iou(torch.zeros(2, 7), torch.zeros(3, 7))
    with pytest.raises(ValueError, match="kind: found 'volume'"):
        boxes_aligned_iou(torch.zeros(2, 7), torch.zeros(2, 7), "volume")  # type: ignore[arg-type]


def test_values_are_checked_on_demand(monkeypatch):
    monkeypatch.setenv("ZOO_CHECK", "1")
    with pytest.raises(ValueError, match="a: found 1 values that are NaN or infinite"):
        boxes_iou_bev(torch.tensor([[math.nan, 0, 0, 1, 1, 1, 0]]), torch.zeros(1, 7))


def test_opcheck():
    a, b = random_boxes(4, 14), random_boxes(4, 15)
    torch.library.opcheck(torch.ops.zoo.boxes_iou_pairs.default, (a, b, 1))
    torch.library.opcheck(torch.ops.zoo.boxes_iou_aligned.default, (a.clone().requires_grad_(), b, 2))
    grad = torch.ones(4, dtype=torch.float64)
    torch.library.opcheck(torch.ops.zoo.boxes_iou_aligned_backward.default, (grad, a, b, 2))
