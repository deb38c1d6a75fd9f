"""Colours of Gaussians that change with the direction they are seen from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.ops import checks
from zoo.ops.dispatch import define_op
from zoo.ops.reference import gaussian_colors as reference

MAX_DEGREE = 4


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    means, coeffs, centers, radii, ctx.degree, ctx.rectify = inputs
    ctx.has_radii = radii is not None
    ctx.save_for_backward(output, means, coeffs, centers, *([radii] if radii is not None else []))


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    colors, means, coeffs, centers, *radii = ctx.saved_tensors
    needs_centers = ctx.needs_input_grad[2]
    results = _gaussian_colors_backward(
        grad, colors, means, coeffs, centers, radii[0] if radii else None, ctx.degree, ctx.rectify, needs_centers
    )
    return results[0], results[1], results[2] if needs_centers else None, None, None, None


_gaussian_colors = define_op(
    "gaussian_colors(Tensor means, Tensor coeffs, Tensor centers, Tensor? radii, int degree, bool rectify) -> Tensor",
    reference=reference.gaussian_colors,
    fake=lambda means, coeffs, centers, radii, degree, rectify: means.new_empty(centers.shape[0], means.shape[0], 3),
    backward=(_setup, _backward),
    autocast="float32",
)
_gaussian_colors_backward = define_op(
    "gaussian_colors_backward(Tensor grad, Tensor colors, Tensor means, Tensor coeffs, Tensor centers, Tensor? radii, "
    "int degree, bool rectify, bool needs_centers) -> (Tensor, Tensor, Tensor)",
    reference=reference.gaussian_colors_backward,
    fake=lambda *args: tuple(value.new_empty(value.shape) for value in args[2:5]),
)


def gaussian_colors(
    means: Tensor,
    coeffs: Tensor,
    centers: Tensor,
    degree: int,
    *,
    radii: Tensor | None = None,
    rectify: bool = True,
) -> Tensor:
    r"""Colours of Gaussians seen from cameras: sums of spherical harmonics of the line of sight.

    .. math:: c = \max\Big(0, \tfrac12 + \sum_{l \le \text{degree}} \sum_m k_{lm} Y_l^m(v)\Big), \quad
        v = \frac{\mu - o}{|\mu - o|}

    Args:
        means: Centres of the Gaussians ``(N, 3)``.
        coeffs: ``(N, K, 3)`` with ``K >= (degree + 1)^2``; the first ones are used.
        centers: Positions of the cameras ``(C, 3)``.
        degree: Highest band, 0 to 4.
        radii: ``(C, N, 2)`` int32 of `project_gaussians`; culled Gaussians get colour and gradient 0.
        rectify: False leaves the plain sum, without 1/2 and without max.

    Returns:
        ``(C, N, 3)``; differentiable in all three.

    Raises:
        ValueError: Wrong shape, dtype, device or degree.

    Example:
        >>> gaussian_colors(torch.ones(1, 3), torch.ones(1, 1, 3), torch.zeros(1, 3), 0)
        tensor([[[0.7821, 0.7821, 0.7821]]])
    """
    checks.check_shape("means", means, ("N", 3))
    checks.check_dtype("means", means, checks.FLOATING_OR_HALF)
    if not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"degree: found {degree}, expected 0 to {MAX_DEGREE}")
    checks.check_shape("coeffs", coeffs, (means.shape[0], "K", 3))
    if coeffs.shape[1] < (degree + 1) ** 2:
        raise ValueError(f"coeffs: found {coeffs.shape[1]} bands' coefficients, expected {(degree + 1) ** 2} or more")
    checks.check_shape("centers", centers, ("C", 3))
    for name, tensor in (("coeffs", coeffs), ("centers", centers)):
        checks.check_same_dtype(name, tensor, "means", means)
        checks.check_same_device(name, tensor, "means", means)
    if radii is not None:
        checks.check_shape("radii", radii, (centers.shape[0], means.shape[0], 2))
        checks.check_dtype("radii", radii, torch.int32)
        checks.check_same_device("radii", radii, "means", means)
    return _gaussian_colors(means, coeffs, centers, radii, degree, rectify)
