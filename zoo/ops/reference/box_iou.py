"""Overlap of rotated boxes in plain torch.

The footprint of the second box, a quadrilateral in the frame of the first, is moved point by point onto the first box's
rectangle (both coordinates clamped). The area inside that moved outline is the area of the intersection: clamping bends
what lies outside onto the rectangle's border, where it encloses nothing. An edge bends where it crosses one of the four
border lines, so its outline has five straight pieces. There are no cases to tell apart, and rounding moves the result
by rounding only, also where edges touch or coincide.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.ops.reference.autograd import vjp

OVERLAP_BEV, IOU_BEV, IOU_3D = 0, 1, 2  # the measures

_CHUNK = 1 << 16  # pairs at once


def usable(boxes: Tensor) -> Tensor:
    """Which boxes have a volume or footprint at all: finite numbers and edges above 0 on the ground, ``(N,)``."""
    return torch.isfinite(boxes).all(-1) & (boxes[:, 3:5] > 0).all(-1)


def overlap_area(a: Tensor, b: Tensor) -> Tensor:
    """Area shared by the footprints of usable boxes, row by row, ``(P,)``."""
    half_a, half_b = a[:, 3:5] / 2, b[:, 3:5] / 2
    shift = b[:, :2] - a[:, :2]
    cos, sin = torch.cos(a[:, 6]), torch.sin(a[:, 6])
    center = torch.stack([shift[:, 0] * cos + shift[:, 1] * sin, shift[:, 1] * cos - shift[:, 0] * sin], -1)
    turn = b[:, 6] - a[:, 6]
    along = torch.stack([torch.cos(turn), torch.sin(turn)], -1) * half_b[:, :1]
    across = torch.stack([-torch.sin(turn), torch.cos(turn)], -1) * half_b[:, 1:]
    corners = torch.stack(
        [center + along + across, center - along + across, center - along - across, center + along - across], 1
    )  # (P, 4, 2) counter-clockwise
    ends = corners.roll(-1, 1)
    step = ends - corners
    half = half_a[:, None]
    # where the edge crosses the border lines; an edge along one of them may bend anywhere
    cross = torch.cat([(half - corners) / step, (-half - corners) / step], -1)  # (P, 4, 4)
    cross = torch.where(torch.cat([step, step], -1) == 0, 0, cross).clamp(0, 1).sort(-1).values
    bends = corners[:, :, None] + cross[..., None] * step[:, :, None]
    outline = torch.cat([corners[:, :, None], bends, ends[:, :, None]], 2)  # (P, 4, 6, 2)
    outline = torch.minimum(torch.maximum(outline, -half[:, :, None]), half[:, :, None])
    x, y = outline.unbind(-1)
    area = ((x[..., 1:] + x[..., :-1]) * (y[..., 1:] - y[..., :-1])).sum((-1, -2)) / 2
    return area.clamp_min(0)


def overlap_height(a: Tensor, b: Tensor) -> Tensor:
    """Length shared by the heights of the boxes, row by row, ``(P,)``."""
    top = torch.minimum(a[:, 2] + a[:, 5] / 2, b[:, 2] + b[:, 5] / 2)
    bottom = torch.maximum(a[:, 2] - a[:, 5] / 2, b[:, 2] - b[:, 5] / 2)
    return (top - bottom).clamp_min(0)


def measure_pairs(a: Tensor, b: Tensor, measure: int) -> Tensor:
    """The measure of usable boxes row by row, ``(P,)``."""
    shared = overlap_area(a, b)
    if measure == OVERLAP_BEV:
        return shared
    size_a, size_b = a[:, 3] * a[:, 4], b[:, 3] * b[:, 4]
    if measure == IOU_3D:
        shared = shared * overlap_height(a, b)
        size_a, size_b = size_a * a[:, 5].clamp_min(0), size_b * b[:, 5].clamp_min(0)
    union = size_a + size_b - shared
    known = (union > 0) & torch.isfinite(union)
    return torch.where(known, shared / torch.where(known, union, 1), 0).clamp(0, 1)


def near_pairs(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of a and b whose footprints' circumscribed circles touch."""
    reach = torch.hypot(a[:, 3], a[:, 4])[:, None] / 2 + torch.hypot(b[:, 3], b[:, 4])[None] / 2
    apart = torch.hypot(a[:, 0, None] - b[None, :, 0], a[:, 1, None] - b[None, :, 1])
    near = (apart <= reach) & usable(a)[:, None] & usable(b)[None]
    rows_a, rows_b = torch.nonzero(near, as_tuple=True)
    return rows_a, rows_b


def boxes_iou_pairs(a: Tensor, b: Tensor, measure: int) -> Tensor:
    """The measure of every box of a with every box of b, ``(N, M)``."""
    out = a.new_zeros(a.shape[0], b.shape[0])
    rows_a, rows_b = near_pairs(a, b)
    for start in range(0, len(rows_a), _CHUNK):
        i, j = rows_a[start : start + _CHUNK], rows_b[start : start + _CHUNK]
        out[i, j] = measure_pairs(a[i], b[j], measure)
    return out


def boxes_iou_aligned(a: Tensor, b: Tensor, measure: int) -> Tensor:
    """The measure row by row, ``(N,)``; 0 where a box is not usable."""
    known = usable(a) & usable(b)
    unit = torch.ones(7, dtype=a.dtype, device=a.device)
    value = measure_pairs(torch.where(known[:, None], a, unit), torch.where(known[:, None], b, unit), measure)
    return torch.where(known, value, 0)


def boxes_iou_aligned_backward(grad: Tensor, a: Tensor, b: Tensor, measure: int) -> tuple[Tensor, Tensor]:
    """Gradients to both boxes, ``(N, 7)``."""
    to_a, to_b = vjp(lambda x, y: boxes_iou_aligned(x, y, measure), (a, b), grad)
    return to_a.contiguous(), to_b.contiguous()
