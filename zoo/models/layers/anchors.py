"""Anchor boxes: where they stand, which boxes they are to find, and boxes as corrections of anchors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "BACKGROUND",
    "IGNORED",
    "AnchorSpec",
    "AnchorTargets",
    "assign_anchors",
    "decode_boxes",
    "encode_boxes",
    "make_anchors",
    "nearest_bev_iou",
]

BACKGROUND, IGNORED = -1, -2


@dataclass(frozen=True)
class AnchorSpec:
    """The anchors of a class.

    Args:
        size: dx, dy, dz in metres.
        bottom: Height of the bottom face.
        rotations: Yaws of the anchors of a cell, radians.
        matched: Overlap from which an anchor is to find a box.
        unmatched: Overlap below which it is background; between both it does not count.
    """

    size: tuple[float, float, float]
    bottom: float
    rotations: tuple[float, ...] = (0.0, 1.57)
    matched: float = 0.6
    unmatched: float = 0.45

    def __post_init__(self) -> None:
        if len(self.size) != 3 or min(self.size) <= 0:
            raise ValueError(f"size: found {tuple(self.size)}, expected three lengths above 0")
        if not 0 <= self.unmatched <= self.matched <= 1 or not self.rotations:
            raise ValueError(
                f"matched, unmatched, rotations: found {self.matched}, {self.unmatched}, {tuple(self.rotations)}, "
                "expected 0 <= unmatched <= matched <= 1 and at least one rotation"
            )


class AnchorTargets(NamedTuple):
    """What each of A anchors of a sample is to learn."""

    labels: Tensor  # (A,) int64: class, BACKGROUND or IGNORED
    matched: Tensor  # (A,) int64: row of the box; 0 where there is none


def make_anchors(specs: Sequence[AnchorSpec], point_range: Sequence[float], shape: tuple[int, int]) -> Tensor:
    """Anchors (H, W, A, 7) on a bird's-eye-view map of shape (H, W) = (y, x), A over classes, then rotations.

    The first and last cells stand on the borders of the range, as in SECOND.

    Example:
        >>> car = AnchorSpec(size=(3.9, 1.6, 1.56), bottom=-1.78)
        >>> anchors = make_anchors([car], (0, -40, -3, 70, 40, 1), (5, 8))
        >>> anchors.shape, anchors[4, 7, 1].tolist()[:2]
        (torch.Size([5, 8, 2, 7]), [70.0, 40.0])
    """
    height, width = shape
    x = torch.linspace(float(point_range[0]), float(point_range[3]), width)
    y = torch.linspace(float(point_range[1]), float(point_range[4]), height)
    rows = [(spec.bottom + spec.size[2] / 2, *spec.size, rotation) for spec in specs for rotation in spec.rotations]
    boxes = torch.tensor(rows).expand(height, width, -1, -1)
    place = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)[:, :, None].expand(-1, -1, len(rows), -1)
    return torch.cat([place, boxes], dim=-1)


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes (..., 7) as residuals of anchors (..., 7).

    Offsets are in units of the anchor's diagonal (z: height), sizes are logarithms of ratios, the yaw is a difference.

    Example:
        >>> import torch
        >>> anchor = torch.tensor([[0.0, 0, 0, 4, 3, 2, 0.1]])
        >>> box = torch.tensor([[1.0, 2, 3, 4, 5, 6, 0.7]])
        >>> torch.allclose(decode_boxes(encode_boxes(box, anchor), anchor), box)
        True
    """
    diagonal = anchors[..., 3:5].norm(dim=-1, keepdim=True)
    scale = torch.cat([diagonal, diagonal, anchors[..., 5:6]], dim=-1)
    sizes = (boxes[..., 3:6].clamp(min=1e-5) / anchors[..., 3:6]).log()
    return torch.cat([(boxes[..., :3] - anchors[..., :3]) / scale, sizes, boxes[..., 6:7] - anchors[..., 6:7]], dim=-1)


def decode_boxes(residuals: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of `encode_boxes`."""
    diagonal = anchors[..., 3:5].norm(dim=-1, keepdim=True)
    scale = torch.cat([diagonal, diagonal, anchors[..., 5:6]], dim=-1)
    sizes = residuals[..., 3:6].exp() * anchors[..., 3:6]
    return torch.cat(
        [residuals[..., :3] * scale + anchors[..., :3], sizes, residuals[..., 6:7] + anchors[..., 6:7]], -1
    )


def nearest_bev_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU (N, M) of footprints turned to the nearest axis, for boxes (N, 7) and (M, 7)."""
    low_a, high_a = _nearest_rectangles(boxes)
    low_b, high_b = _nearest_rectangles(others)
    edges = torch.minimum(high_a[:, None], high_b[None]) - torch.maximum(low_a[:, None], low_b[None])
    common = edges.clamp(min=0).prod(dim=-1)
    area_a, area_b = (high_a - low_a).prod(dim=-1), (high_b - low_b).prod(dim=-1)
    return common / (area_a[:, None] + area_b[None] - common).clamp(min=1e-6)


def assign_anchors(
    anchors: Tensor, anchor_labels: Tensor, specs: Sequence[AnchorSpec], boxes: Tensor, labels: Tensor
) -> AnchorTargets:
    """Which box each anchor is to find, class by class.

    An anchor finds the box that it overlaps most, if by ``matched`` or more, or if no anchor of the class overlaps that
    box more.

    Args:
        anchors: (A, 7).
        anchor_labels: Class of every anchor, int64 (A,).
        specs: Of the classes.
        boxes: Of one sample, (M, 7 or more).
        labels: int64 (M,).
    """
    assigned = torch.full_like(anchor_labels, BACKGROUND)
    matched = torch.zeros_like(anchor_labels)
    for label, spec in enumerate(specs):
        wanted = (labels == label).nonzero().squeeze(1)
        if len(wanted) == 0:
            continue
        rows = (anchor_labels == label).nonzero().squeeze(1)
        overlap = nearest_bev_iou(anchors[rows], boxes[wanted, :7])  # (A', M')
        best, which = overlap.max(dim=1)
        peak = overlap.amax(dim=0)
        nearest = ((overlap == peak) & (peak > 0)).any(dim=1)
        outcome = torch.where(best < spec.unmatched, BACKGROUND, IGNORED)
        outcome = torch.where(nearest | (best >= spec.matched), label, outcome)
        assigned[rows] = outcome
        matched[rows] = wanted[which]
    return AnchorTargets(assigned, matched)


def _nearest_rectangles(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper corners (N, 2) of the footprints turned to the nearest axis."""
    yaw = boxes[:, 6]
    off_axis = (yaw - torch.floor(yaw / math.pi + 0.5) * math.pi).abs()
    sizes = torch.where((off_axis < math.pi / 4)[:, None], boxes[:, 3:5], boxes[:, [4, 3]])
    return boxes[:, :2] - sizes / 2, boxes[:, :2] + sizes / 2
