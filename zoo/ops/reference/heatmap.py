"""Gaussian peaks on planes in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_heatmap(cells: Tensor, radii: Tensor, channels: Tensor, like: Tensor, shape: list[int]) -> Tensor:
    """Each Gaussian drawn over the others by maximum, ``(C, H, W)`` in the dtype of ``like``."""
    planes, height, width = shape
    heatmap = torch.zeros(planes, height, width, dtype=like.dtype, device=like.device)
    rows = zip(cells.tolist(), radii.tolist(), channels.tolist(), strict=True)
    for (x, y), radius, channel in rows:
        left, right = max(x - radius, 0), min(x + radius + 1, width)
        top, bottom = max(y - radius, 0), min(y + radius + 1, height)
        if channel < 0 or radius < 0 or left >= right or top >= bottom:
            continue
        along = torch.arange(left, right, dtype=like.dtype, device=like.device) - x
        down = torch.arange(top, bottom, dtype=like.dtype, device=like.device) - y
        sigma = (2 * radius + 1) / 6
        peak = torch.exp(-(along[None] ** 2 + down[:, None] ** 2) / (2 * sigma * sigma))
        window = heatmap[channel, top:bottom, left:right]
        torch.maximum(window, peak, out=window)
    return heatmap
