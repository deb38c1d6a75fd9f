"""Colours of Gaussians from spherical harmonics in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.ops.reference.autograd import vjp
from zoo.ops.reference.spherical_harmonics import spherical_harmonics


def _colors(means: Tensor, coeffs: Tensor, centers: Tensor, degree: int) -> Tensor:
    """Sums ``(P, 3)`` for P pairs of a Gaussian and a camera."""
    count = (degree + 1) ** 2
    if degree == 0:
        return coeffs[:, 0] * spherical_harmonics(torch.ones_like(means[:1]), 1, True)[0, 0]
    offset = means - centers
    directions = offset / offset.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(offset.dtype).tiny)
    basis = spherical_harmonics(directions, degree + 1, True)
    return (basis[..., None] * coeffs[:, :count]).sum(dim=1)


def gaussian_colors(
    means: Tensor, coeffs: Tensor, centers: Tensor, radii: Tensor | None, degree: int, rectify: bool
) -> Tensor:
    """Colours ``(C, N, 3)``; zero where culled."""
    num_cameras, count = len(centers), len(means)
    pairs = means.repeat(num_cameras, 1), coeffs.repeat(num_cameras, 1, 1), centers.repeat_interleave(count, dim=0)
    colors = _colors(*pairs, degree).reshape(num_cameras, count, 3)
    if rectify:
        colors = (colors + 0.5).clamp_min(0)
    if radii is not None:
        colors = torch.where(radii[..., :1] > 0, colors, 0)
    return colors.contiguous()


def gaussian_colors_backward(
    grad: Tensor, colors: Tensor, means: Tensor, coeffs: Tensor, centers: Tensor, radii: Tensor | None, degree: int,
    rectify: bool, needs_centers: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of means, coefficients and camera centres; the last is zero unless it is needed."""
    if rectify:
        grad = torch.where(colors > 0, grad, 0)
    visible = torch.ones_like(colors[..., 0], dtype=torch.bool) if radii is None else radii[..., 0] > 0
    cameras, rows = torch.nonzero(visible, as_tuple=True)

    def forward(means: Tensor, coeffs: Tensor, centers: Tensor) -> Tensor:
        return _colors(means[rows], coeffs[rows], centers[cameras], degree)

    results = vjp(forward, [means, coeffs, centers], grad[cameras, rows])
    grad_centers = results[2] if needs_centers else torch.zeros_like(centers)
    return results[0].contiguous(), results[1].contiguous(), grad_centers.contiguous()
