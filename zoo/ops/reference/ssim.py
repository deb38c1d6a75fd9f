"""Local structural similarity of pictures in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.ops.reference.autograd import vjp


def _smooth(image: Tensor, window: Tensor) -> Tensor:
    """The windowed sum of ``(N, C, H, W)`` with zeros outside, one axis after the other."""
    half = len(window) // 2
    flat = image.reshape(-1, 1, *image.shape[2:])
    flat = torch.nn.functional.conv2d(flat, window.reshape(1, 1, -1, 1), padding=(half, 0))
    return torch.nn.functional.conv2d(flat, window.reshape(1, 1, 1, -1), padding=(0, half)).reshape(image.shape)


def ssim_map(x: Tensor, y: Tensor, window: Tensor, covariance_scale: float, c1: float, c2: float) -> Tensor:
    """Similarity at every value of pictures ``(N, H, W, C)``."""
    first, second = (image.movedim(-1, 1) for image in (x, y))
    mean_x, mean_y = _smooth(first, window), _smooth(second, window)
    xx = covariance_scale * (_smooth(first * first, window) - mean_x**2)
    yy = covariance_scale * (_smooth(second * second, window) - mean_y**2)
    xy = covariance_scale * (_smooth(first * second, window) - mean_x * mean_y)
    local = (2 * mean_x * mean_y + c1) * (2 * xy + c2) / ((mean_x**2 + mean_y**2 + c1) * (xx + yy + c2))
    return local.movedim(1, -1).contiguous()


def ssim_map_backward(
    grad: Tensor, x: Tensor, y: Tensor, window: Tensor, covariance_scale: float, c1: float, c2: float
) -> Tensor:
    """Gradient of x."""
    return vjp(lambda image: ssim_map(image, y, window, covariance_scale, c1, c2), [x], grad)[0].contiguous()
