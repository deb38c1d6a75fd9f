"""Losses between rendered and photographed colours."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

__all__ = ["PhotometricKind", "photometric_loss"]

PhotometricKind = Literal["mse", "huber", "smooth_l1"]


def photometric_loss(rendered: Tensor, target: Tensor, kind: PhotometricKind = "mse", delta: float = 0.1) -> Tensor:
    """Mean loss over all entries of colours ``(N, 3)``, a scalar; 0 for N = 0.

    With ``e = rendered - target``: ``mse`` is ``e^2``; ``huber`` is ``e^2 / 2`` up to ``|e| = delta`` and
    ``delta (|e| - delta / 2)`` beyond (instant-ngp); ``smooth_l1`` is ``huber / delta`` (nerfacc, with delta 1).

    Raises:
        ValueError: The shapes differ, or ``kind`` or ``delta`` is unknown or not positive.

    Example:
        >>> import torch
        >>> photometric_loss(torch.full((4, 3), 0.5), torch.zeros(4, 3), "huber")
        tensor(0.0450)
    """
    if rendered.shape != target.shape:
        raise ValueError(f"target: found shape {tuple(target.shape)}, expected {tuple(rendered.shape)}")
    if delta <= 0:
        raise ValueError(f"delta: found {delta}, expected a positive number")
    if kind not in ("mse", "huber", "smooth_l1"):
        raise ValueError(f"kind: found {kind!r}, expected 'mse', 'huber' or 'smooth_l1'")
    if rendered.numel() == 0:
        return rendered.sum()
    if kind == "mse":
        return F.mse_loss(rendered, target)
    loss = F.huber_loss(rendered, target, delta=delta)
    return loss / delta if kind == "smooth_l1" else loss
