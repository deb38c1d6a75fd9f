"""Points inside rotated boxes in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def points_in_boxes_mask(points: Tensor, boxes: Tensor) -> Tensor:
    """Which points lie in which boxes, faces included, ``(B, P)`` bool."""
    shift = points[None] - boxes[:, None, :3]  # (B, P, 3)
    cos, sin = torch.cos(boxes[:, 6, None]), torch.sin(boxes[:, 6, None])
    along = (shift[..., 0] * cos + shift[..., 1] * sin).abs()
    across = (shift[..., 1] * cos - shift[..., 0] * sin).abs()
    half = boxes[:, None, 3:6] / 2
    return (along <= half[..., 0]) & (across <= half[..., 1]) & (shift[..., 2].abs() <= half[..., 2])


def points_in_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """The first box that holds each point, -1 where none does, ``(P,)`` int64."""
    if not len(boxes):
        return torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
    inside = points_in_boxes_mask(points, boxes)
    first = inside.to(torch.uint8).argmax(0)
    return torch.where(inside.any(0), first, -1)
