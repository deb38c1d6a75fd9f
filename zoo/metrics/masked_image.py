"""Image metrics of an object: within its mask, its tight box, or on a white ground."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["average_error", "crop_to_mask", "mask_box", "on_white"]


def mask_box(mask: Tensor) -> tuple[int, int, int, int]:
    """The tight box of a mask ``(H, W)``: rows ``y0:y1`` and columns ``x0:x1`` as ``y0, y1, x0, x1``.

    Raises:
        ValueError: The mask is empty.

    Example:
        >>> mask_box(torch.tensor([[0, 0, 0], [0, 1, 1]]))
        (1, 2, 1, 3)
    """
    rows, columns = (mask != 0).any(1).nonzero()[:, 0], (mask != 0).any(0).nonzero()[:, 0]
    if len(rows) == 0:
        raise ValueError("mask: holds no pixel of the object, so it has no box")
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def crop_to_mask(image: Tensor, mask: Tensor) -> Tensor:
    """An image ``(H, W, C)`` cut to the tight box of a mask ``(H, W)``."""
    y0, y1, x0, x1 = mask_box(mask)
    return image[y0:y1, x0:x1]


def on_white(image: Tensor, mask: Tensor) -> Tensor:
    """An image ``(H, W, C)`` in [0, 1], white outside of a mask ``(H, W)`` (RegNeRF's protocol of DTU)."""
    return torch.where((mask != 0).unsqueeze(-1), image, torch.ones_like(image))


def average_error(psnr: Tensor, ssim: Tensor, lpips: Tensor) -> Tensor:
    """Geometric mean of ``10^(-PSNR / 10)``, ``sqrt(1 - SSIM)`` and LPIPS, the papers' "average error"."""
    return (10 ** (-psnr / 10) * torch.sqrt((1 - ssim).clamp_min(0)) * lpips) ** (1 / 3)
