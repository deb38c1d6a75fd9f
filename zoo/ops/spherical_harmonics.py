"""Spherical harmonics encoding of directions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from zoo.ops.checks import FLOATING, check_dtype, check_shape
from zoo.ops.dispatch import define_op
from zoo.ops.reference import spherical_harmonics as reference

MAX_DEGREE = 8


def spherical_harmonics(directions: Tensor, degree: int = 4, *, condon_shortley: bool = True) -> Tensor:
    r"""Evaluate the real spherical harmonics of bands 0 to ``degree - 1``.

    .. math:: Y_l^m(x, y, z) = (-1)^m N_l^{|m|} \frac{d^{|m|} P_l}{dz^{|m|}}(z)
        \cdot \{\operatorname{Im}, \operatorname{Re}\}(x + iy)^{|m|}

    with Im for m < 0. The polynomials assume unit length; other vectors are evaluated as they are.

    Args:
        directions: Unit vectors (N, 3) with components in [-1, 1].
        degree: Number of bands, 1 to 8.
        condon_shortley: Whether the factor :math:`(-1)^m` is present (tiny-cuda-nn, torch-ngp) or not (the torch
            implementation of nerfstudio).

    Returns:
        Values (N, degree^2); column :math:`l^2 + l + m`.

    Raises:
        ValueError: Wrong shape, dtype or degree.

    Example:
        >>> import torch
        >>> spherical_harmonics(torch.tensor([[0.0, 0.0, 1.0]]), degree=2).round(decimals=4)
        tensor([[0.2821, -0.0000, 0.4886, -0.0000]])
    """
    check_shape("directions", directions, ("N", 3))
    check_dtype("directions", directions, FLOATING)
    if not 1 <= degree <= MAX_DEGREE:
        raise ValueError(f"degree: found {degree}, expected 1 to {MAX_DEGREE}")
    return _spherical_harmonics(directions, degree, condon_shortley)


def _setup_context(ctx: Any, inputs: tuple[Tensor, int, bool], output: Tensor) -> None:
    directions, ctx.degree, ctx.condon_shortley = inputs
    ctx.save_for_backward(directions)


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
    (directions,) = ctx.saved_tensors
    return _spherical_harmonics_backward(grad_output, directions, ctx.degree, ctx.condon_shortley), None, None


_spherical_harmonics = define_op(
    "spherical_harmonics(Tensor directions, int degree, bool condon_shortley) -> Tensor",
    reference=reference.spherical_harmonics,
    fake=lambda directions, degree, condon_shortley: directions.new_empty(directions.shape[0], degree * degree),
    backward=(_setup_context, _backward),
    autocast="float32",
)
_spherical_harmonics_backward = define_op(
    "spherical_harmonics_backward(Tensor grad_output, Tensor directions, int degree, bool condon_shortley) -> Tensor",
    reference=reference.spherical_harmonics_backward,
    fake=lambda grad_output, directions, degree, condon_shortley: directions.new_empty(directions.shape),
)
