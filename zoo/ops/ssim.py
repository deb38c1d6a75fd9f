"""Local structural similarity of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from zoo.ops import checks
from zoo.ops.dispatch import define_op
from zoo.ops.reference import ssim as reference


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, y, window, *ctx.constants = inputs
    ctx.save_for_backward(x, y, window)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, y, window = ctx.saved_tensors
    grad_x = _ssim_map_backward(grad, x, y, window, *ctx.constants) if ctx.needs_input_grad[0] else None
    grad_y = _ssim_map_backward(grad, y, x, window, *ctx.constants) if ctx.needs_input_grad[1] else None
    return grad_x, grad_y, None, None, None, None  # the similarity of y to x is that of x to y


_ssim_map = define_op(
    "ssim_map(Tensor x, Tensor y, Tensor window, float covariance_scale, float c1, float c2) -> Tensor",
    reference=reference.ssim_map,
    fake=lambda x, *rest: x.new_empty(x.shape),
    backward=(_setup, _backward),
    autocast="float32",
)
_ssim_map_backward = define_op(
    "ssim_map_backward(Tensor grad, Tensor x, Tensor y, Tensor window, float covariance_scale, float c1, float c2)"
    " -> Tensor",
    reference=reference.ssim_map_backward,
    fake=lambda grad, x, *rest: x.new_empty(x.shape),
)


def ssim_map(
    x: Tensor,
    y: Tensor,
    window: Sequence[float],
    *,
    covariance_scale: float = 1.0,
    c1: float = 1e-4,
    c2: float = 9e-4,
) -> Tensor:
    r"""Structural similarity at every value of two pictures (Wang et al. 2004), differentiable in both.

    .. math:: S = \frac{(2 \mu_x \mu_y + c_1)(2 \sigma_{xy} + c_2)}
        {(\mu_x^2 + \mu_y^2 + c_1)(\sigma_{xx} + \sigma_{yy} + c_2)}

    Means and covariances are taken under the window, the same one along both axes, with zeros outside of the picture.
    Every value is computed by itself, so that it does not depend on threads.

    Args:
        x: ``(N, H, W, C)``.
        y: The same shape.
        window: Weights along an axis, an odd number of them, the same from both ends; their sum is 1.
        covariance_scale: Factor of the covariances, n / (n - 1) for those of a sample of n.
        c1: Constant of the means, ``(0.01 range)^2``.
        c2: Constant of the covariances, ``(0.03 range)^2``.

    Returns:
        ``(N, H, W, C)``.

    Raises:
        ValueError: Wrong shape, dtype or device, or a window that is no window.

    Example:
        >>> import torch
        >>> x = torch.rand(1, 5, 5, 1)
        >>> ssim_map(x, x, [0.25, 0.5, 0.25]).mean()
        tensor(1.)
    """
    checks.check_shape("x", x, ("N", "H", "W", "C"))
    checks.check_dtype("x", x, checks.FLOATING_OR_HALF)
    checks.check_shape("y", y, tuple(x.shape))
    checks.check_same_dtype("y", y, "x", x)
    checks.check_same_device("y", y, "x", x)
    weights = list(window)
    if len(weights) % 2 == 0 or weights != weights[::-1]:
        raise ValueError(f"window: found {weights}, expected an odd number of weights, the same from both ends")
    return _ssim_map(x, y, x.new_tensor(weights), covariance_scale, c1, c2)
