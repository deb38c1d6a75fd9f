"""Losses of detectors that find boxes as peaks of a heat-map."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.ops.processes import shared_count


def center_focal_loss(logits: Tensor, target: Tensor, *, over_processes: bool = False) -> Tensor:
    r"""Focal loss of a heat-map with Gaussian peaks (CornerNet, CenterNet).

    .. math:: L = -\frac{1}{\max(N, 1)} \Big( \sum_{y = 1} (1 - p)^2 \ln p
        + \sum_{y < 1} (1 - y)^4 p^2 \ln(1 - p) \Big), \quad p = \sigma(x) \text{ clamped to } [10^{-4}, 1 - 10^{-4}]

    Args:
        logits: x, any shape.
        target: y in [0, 1], the same shape; N counts the ones.
        over_processes: Whether N is the ones of all processes, divided by their number; all have to call it then.

    Returns:
        A scalar.

    Example:
        >>> center_focal_loss(torch.zeros(2), torch.tensor([1.0, 0.0]))
        tensor(0.3466)
    """
    probability = logits.float().sigmoid().clamp(1e-4, 1 - 1e-4)
    peak = target == 1
    positive = torch.where(peak, (1 - probability) ** 2 * probability.log(), 0)
    negative = torch.where(peak, 0, (1 - target) ** 4 * probability**2 * (1 - probability).log())
    count = shared_count(peak.sum()) if over_processes else peak.sum().clamp(min=1)
    return -(positive.sum() + negative.sum()) / count


def distance_iou(boxes: Tensor, others: Tensor) -> Tensor:
    r"""Distance-IoU of pairs of boxes, as if none were turned.

    .. math:: \mathrm{DIoU} = \mathrm{IoU} - \frac{|c - c'|^2}{d^2}, \text{ d the diagonal of the box around both}

    Args:
        boxes: ``(N, 7)``: centre, size, yaw (not used).
        others: ``(N, 7)``.

    Returns:
        ``(N,)`` in [-1, 1], with gradient.
    """
    half, other_half = boxes[:, 3:6] / 2, others[:, 3:6] / 2
    low, high = boxes[:, :3] - half, boxes[:, :3] + half
    other_low, other_high = others[:, :3] - other_half, others[:, :3] + other_half
    shared = (torch.minimum(high, other_high) - torch.maximum(low, other_low)).clamp(min=0).prod(dim=1)
    union = boxes[:, 3:6].prod(dim=1) + others[:, 3:6].prod(dim=1) - shared
    around = (torch.maximum(high, other_high) - torch.minimum(low, other_low)).square().sum(dim=1)
    apart = (boxes[:, :3] - others[:, :3]).square().sum(dim=1)
    return (shared / union.clamp(min=1e-6) - apart / around.clamp(min=1e-6)).clamp(-1, 1)
