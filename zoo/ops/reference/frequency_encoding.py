"""Frequency encoding in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.ops.reference.autograd import vjp


def frequency_encode(x: Tensor, num_frequencies: int, factor: float, include_input: bool, axis_major: bool) -> Tensor:
    """Sines and cosines of ``factor 2^k x``; columns (axis, k, sine or cosine), or (k, sine or cosine, axis)."""
    octaves = factor * 2.0 ** torch.arange(num_frequencies, dtype=torch.float64, device=x.device)
    angle = x[:, None, :] * octaves.to(x.dtype)[:, None]  # (N, K, D)
    waves = torch.stack([angle.sin(), angle.cos()], dim=2)  # (N, K, 2, D)
    if axis_major:
        waves = waves.permute(0, 3, 1, 2)
    encoded = waves.flatten(1)
    return torch.cat([x, encoded], dim=1) if include_input else encoded.contiguous()


def frequency_encode_backward(
    grad_output: Tensor, x: Tensor, num_frequencies: int, factor: float, include_input: bool, axis_major: bool
) -> Tensor:
    """Gradient of the coordinates, by differentiating the forward."""
    settings = (num_frequencies, factor, include_input, axis_major)
    return vjp(lambda points: frequency_encode(points, *settings), [x], grad_output)[0]
