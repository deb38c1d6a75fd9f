"""The corner loss of second-stage detectors: how far the eight corners of boxes are from where they should be."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["box_corners", "corner_loss"]

_SIGNS = torch.tensor([(x, y, z) for x in (0.5, -0.5) for y in (0.5, -0.5) for z in (0.5, -0.5)])


def box_corners(boxes: Tensor) -> Tensor:
    """Corners (N, 8, 3) of boxes (N, 7); differentiable."""
    local = boxes[:, None, 3:6] * _SIGNS.to(boxes)
    cos, sin = boxes[:, 6].cos()[:, None], boxes[:, 6].sin()[:, None]
    x, y, z = local.unbind(dim=-1)
    return torch.stack([x * cos - y * sin, x * sin + y * cos, z], dim=-1) + boxes[:, None, :3]


def corner_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean Huber loss of the corners' distances in metres, for each box (N,); blind to half turns.

    Args:
        predicted: Boxes (N, 7).
        target: (N, 7).

    Example:
        >>> import torch
        >>> box = torch.tensor([[0.0, 0, 0, 4, 2, 1, 0.3]])
        >>> moved, turned = box.clone(), box.clone()
        >>> moved[:, 2] += 1.5; turned[:, 6] += torch.pi
        >>> corner_loss(moved, box).tolist(), bool(corner_loss(turned, box) < 1e-6)
        ([1.0], True)
    """
    if predicted.shape != target.shape or predicted.dim() != 2 or predicted.shape[1] != 7:
        raise ValueError(f"predicted, target: found {tuple(predicted.shape)}, {tuple(target.shape)}, expected (N, 7)")
    corners = box_corners(predicted)
    half_turn = torch.cat([target[:, :6], target[:, 6:] + math.pi], dim=1)
    ahead, behind = ((corners - box_corners(other)).square().sum(-1) for other in (target, half_turn))
    squared = torch.minimum(ahead, behind)  # corner by corner, as upstream
    near = squared < 1.0
    distance = torch.where(near, 1.0, squared).sqrt()
    return torch.where(near, 0.5 * squared, distance - 0.5).mean(dim=1)
