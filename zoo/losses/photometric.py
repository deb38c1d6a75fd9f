"""Losses between rendered and photographed colours."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from zoo.metrics.image import ssim
from zoo.ops.processes import shared_count

__all__ = ["PhotometricKind", "l1_dssim_loss", "photometric_loss"]

PhotometricKind = Literal["mse", "huber", "smooth_l1"]


def photometric_loss(
    rendered: Tensor,
    target: Tensor,
    kind: PhotometricKind = "mse",
    delta: float = 0.1,
    *,
    over_processes: bool = False,
) -> Tensor:
    """Mean loss over all entries of colours ``(N, 3)``, a scalar; 0 for N = 0.

    With ``e = rendered - target``: ``mse`` is ``e^2``; ``huber`` is ``e^2 / 2`` up to ``|e| = delta`` and
    ``delta (|e| - delta / 2)`` beyond (instant-ngp); ``smooth_l1`` is ``huber / delta`` (nerfacc, with delta 1).
    With ``over_processes`` the loss's average over the processes is the mean over the entries of all of them.

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
    if rendered.numel() == 0 and not over_processes:
        return rendered.sum()
    reduction = "sum" if over_processes else "mean"
    if kind == "mse":
        loss = F.mse_loss(rendered, target, reduction=reduction)
    else:
        loss = F.huber_loss(rendered, target, delta=delta, reduction=reduction)
    if over_processes:
        loss = loss / shared_count(rendered.numel(), device=loss.device)
    return loss / delta if kind == "smooth_l1" else loss


def l1_dssim_loss(rendered: Tensor, target: Tensor, dssim_weight: float = 0.2) -> Tensor:
    """``(1 - w) mean |rendered - target| + w (1 - SSIM)``, a scalar: the loss of 3D Gaussian splatting.

    SSIM is `zoo.metrics.image.ssim` with its variant ``gaussian_zero``.

    Args:
        rendered: Pictures ``(..., H, W, C)``, at least 11 x 11 pixels where ``dssim_weight`` is not 0.
        target: The same shape.
        dssim_weight: w, from 0 to 1.

    Raises:
        ValueError: Shapes that differ or are too small, or a weight outside of [0, 1].

    Example:
        >>> import torch
        >>> picture = torch.rand(16, 16, 3)
        >>> l1_dssim_loss(picture, picture).abs() < 1e-6
        tensor(True)
    """
    if rendered.shape != target.shape:
        raise ValueError(f"target: found shape {tuple(target.shape)}, expected {tuple(rendered.shape)}")
    if not 0 <= dssim_weight <= 1:
        raise ValueError(f"dssim_weight: found {dssim_weight}, expected 0 to 1")
    loss = (1 - dssim_weight) * F.l1_loss(rendered, target)
    if dssim_weight == 0:
        return loss
    return loss + dssim_weight * (1 - ssim(rendered, target, variant="gaussian_zero").mean())
