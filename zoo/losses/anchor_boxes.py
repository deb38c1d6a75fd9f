"""Losses of detectors that correct anchor boxes (SECOND, PointPillars, Voxel R-CNN)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["box_residual_loss", "direction_target"]


def box_residual_loss(predicted: Tensor, target: Tensor, *, beta: float = 1 / 9) -> Tensor:
    """Smooth-L1 of box residuals (N, 7), entry by entry; the angles are compared by the sine of their difference.

    A box turned by half a turn has the same loss: the heading is told apart by a class of its own, see
    `direction_target`.

    Args:
        predicted: Residuals (N, 7) of x, y, z, dx, dy, dz, yaw.
        target: (N, 7).
        beta: Where the loss turns linear.

    Example:
        >>> import torch
        >>> turned = torch.tensor([[0, 0, 0, 0, 0, 0, torch.pi]])
        >>> bool(box_residual_loss(turned, torch.zeros(1, 7)).sum() < 1e-6)
        True
    """
    if predicted.shape != target.shape or predicted.dim() != 2 or predicted.shape[1] != 7:
        raise ValueError(f"predicted, target: found {tuple(predicted.shape)}, {tuple(target.shape)}, expected (N, 7)")
    turn = (predicted[:, 6:] - target[:, 6:]).sin()
    difference = torch.cat([predicted[:, :6] - target[:, :6], turn], dim=1)
    return F.smooth_l1_loss(difference, torch.zeros_like(difference), beta=beta, reduction="none")


def direction_target(yaw: Tensor, *, offset: float = math.pi / 4, num_bins: int = 2) -> Tensor:
    """The bin of a heading, int64 of any shape: bin k holds the angles from ``offset + 2 pi k / num_bins`` on.

    Example:
        >>> import torch
        >>> direction_target(torch.tensor([0.0, 1.6, 3.2, -1.6])).tolist()
        [1, 0, 0, 1]
    """
    turned = torch.remainder(yaw - offset, 2 * math.pi)
    return torch.floor(turned / (2 * math.pi / num_bins)).long().clamp(0, num_bins - 1)
