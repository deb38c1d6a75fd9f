"""What a second stage is to learn: a balanced choice of proposals, and their boxes as corrections of the proposals."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.models.layers.anchors import decode_boxes, encode_boxes
from zoo.ops import boxes_iou_3d

__all__ = [
    "RoITargets",
    "choose_proposals",
    "decode_in_proposals",
    "encode_in_proposals",
    "overlap_targets",
    "turned_about_z",
]


class RoITargets(NamedTuple):
    """R proposals with what they are to find."""

    boxes: Tensor  # (R, 7) proposals
    labels: Tensor  # (R,) int64, their classes
    overlap: Tensor  # (R,) 3D IoU with the best box of the class, 0 without any
    truth: Tensor  # (R, 7) that box; the proposal itself without any


def choose_proposals(
    proposals: Tensor,
    labels: Tensor,
    boxes: Tensor,
    box_labels: Tensor,
    *,
    number: int,
    foreground_share: float = 0.5,
    foreground_overlap: float = 0.55,
    easy_overlap: float = 0.1,
    hard_share: float = 0.8,
) -> RoITargets:
    """Draw at most ``number`` proposals of a sample: some that overlap a box well, the others background.

    Of the background, ``hard_share`` are drawn among proposals that overlap a box by ``easy_overlap`` or more. Where
    one kind is short, the other fills up. Draws from torch's random numbers, without repetition.

    Args:
        proposals: (P, 7).
        labels: Their classes, int64 (P,).
        boxes: Of the sample, (M, 7 or more).
        box_labels: int64 (M,).
        number: At most so many.
        foreground_share: At most this share overlaps well.
        foreground_overlap: 3D IoU from which a proposal does.
        easy_overlap: 3D IoU below which background is easy.
        hard_share: Of the background.
    """
    best, which = overlap_with_class(proposals, labels, boxes[:, :7], box_labels)
    good = _shuffled(best >= foreground_overlap)
    hard = _shuffled((best < foreground_overlap) & (best >= easy_overlap))
    easy = _shuffled(best < easy_overlap)
    wanted = min(len(good), round(number * foreground_share))
    wanted = max(wanted, min(len(good), number - len(hard) - len(easy)))
    rest = number - wanted
    num_hard = max(min(len(hard), int(rest * hard_share)), min(len(hard), rest - len(easy)))
    rows = torch.cat([good[:wanted], hard[:num_hard], easy[: rest - num_hard]])
    truth = proposals[rows]
    if len(boxes):
        found = best[rows] > 0
        truth = torch.where(found[:, None], boxes[which[rows], :7].to(truth.dtype), truth)
    return RoITargets(proposals[rows], labels[rows], best[rows], truth)


def overlap_with_class(proposals: Tensor, labels: Tensor, boxes: Tensor, box_labels: Tensor) -> tuple[Tensor, Tensor]:
    """3D IoU (P,) with the best box of the same class, and its row; 0 and row 0 without any."""
    if not len(boxes) or not len(proposals):
        return proposals.new_zeros(len(proposals)), labels.new_zeros(len(proposals))
    overlap = boxes_iou_3d(proposals, boxes.to(proposals.dtype))
    best, which = torch.where(labels[:, None] == box_labels[None], overlap, 0.0).max(dim=1)
    return best, which


def overlap_targets(overlap: Tensor, *, low: float = 0.25, high: float = 0.75) -> Tensor:
    """The score that a proposal should get: 0 up to an overlap of ``low``, 1 from ``high`` on, straight in between.

    Example:
        >>> import torch
        >>> overlap_targets(torch.tensor([0.1, 0.5, 0.9])).tolist()
        [0.0, 0.5, 1.0]
    """
    return ((overlap - low) / (high - low)).clamp(0.0, 1.0)


def turned_about_z(points: Tensor, angle: Tensor) -> Tensor:
    """Points (R, K, 3) turned about the vertical axis by the angle (R,) of their row."""
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    x, y, z = points.unbind(dim=-1)
    return torch.stack([x * cos - y * sin, x * sin + y * cos, z], dim=-1)


def encode_in_proposals(boxes: Tensor, proposals: Tensor) -> Tensor:
    """Boxes (R, 7) as residuals in the frame of their proposals (R, 7), in which a proposal lies at 0 with yaw 0.

    The yaw is the turn to the nearer end of the box, within a quarter turn: a second stage does not turn boxes round.
    """
    place = turned_about_z((boxes[:, None, :3] - proposals[:, None, :3]), -proposals[:, 6])[:, 0]
    turn = torch.remainder(boxes[:, 6] - proposals[:, 6] + math.pi / 2, math.pi) - math.pi / 2
    local = torch.cat([place, boxes[:, 3:6], turn[:, None]], dim=1)
    return encode_boxes(local, _at_origin(proposals))


def decode_in_proposals(residuals: Tensor, proposals: Tensor) -> Tensor:
    """The inverse of `encode_in_proposals`, up to half a turn; yaws in -pi..pi."""
    local = decode_boxes(residuals, _at_origin(proposals))
    place = turned_about_z(local[:, None, :3], proposals[:, 6])[:, 0] + proposals[:, :3]
    yaw = torch.remainder(local[:, 6] + proposals[:, 6] + math.pi, 2 * math.pi) - math.pi
    return torch.cat([place, local[:, 3:6], yaw[:, None]], dim=1)


def _at_origin(proposals: Tensor) -> Tensor:
    nothing = torch.zeros_like(proposals[:, :3])
    return torch.cat([nothing, proposals[:, 3:6], nothing[:, :1]], dim=1)


def _shuffled(mask: Tensor) -> Tensor:
    rows = mask.nonzero().squeeze(1)
    return rows[torch.randperm(len(rows)).to(rows.device)]
