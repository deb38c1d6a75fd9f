"""Gradients that stand in for those of rounding and of the threshold, which are zero almost everywhere.

A surrogate g(v) replaces the derivative of the Heaviside step H(v), v = (membrane - threshold) / threshold. Each has
area 1 over the real line.

| name | g(v) |
|---|---|
| rectangular | 1 / w for abs(v) < w / 2 |
| triangle | (1 - abs(v) / w) / w for abs(v) < w |
| sigmoid | s (1 - s) / w with s = sigmoid(v / w) |
| atan | (1 / w) / (pi (1 + (v / w)^2)) |
| fast_sigmoid | (1 / w) / (2 (1 + abs(v) / w)^2) |
| gaussian | normal density of standard deviation w |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["SURROGATES", "SurrogateKind", "spike_counts", "spike_step"]

SurrogateKind = Literal["rectangular", "triangle", "sigmoid", "atan", "fast_sigmoid", "gaussian"]


def _rectangular(v: Tensor, width: float) -> Tensor:
    return (v.abs() < width / 2).to(v.dtype) / width


def _triangle(v: Tensor, width: float) -> Tensor:
    return (1 - v.abs() / width).clamp(min=0) / width


def _sigmoid(v: Tensor, width: float) -> Tensor:
    open_share = torch.sigmoid(v / width)
    return open_share * (1 - open_share) / width


def _atan(v: Tensor, width: float) -> Tensor:
    return 1 / (math.pi * width * (1 + (v / width).square()))


def _fast_sigmoid(v: Tensor, width: float) -> Tensor:
    return 1 / (2 * width * (1 + v.abs() / width).square())


def _gaussian(v: Tensor, width: float) -> Tensor:
    return torch.exp(-(v / width).square() / 2) / (width * math.sqrt(2 * math.pi))


SURROGATES: dict[SurrogateKind, Callable[[Tensor, float], Tensor]] = {
    "rectangular": _rectangular,
    "triangle": _triangle,
    "sigmoid": _sigmoid,
    "atan": _atan,
    "fast_sigmoid": _fast_sigmoid,
    "gaussian": _gaussian,
}


class _Step(torch.autograd.Function):
    """Heaviside step, 1 from 0 on; backward multiplies by the surrogate."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, kind: SurrogateKind, width: float) -> Tensor:
        ctx.save_for_backward(v)
        ctx.kind, ctx.width = kind, width
        return (v >= 0).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (v,) = ctx.saved_tensors
        return grads[0] * SURROGATES[ctx.kind](v, ctx.width), None, None


class _Counts(torch.autograd.Function):
    """Rounded and clamped; backward passes the gradient inside of the window."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, max_count: int, half_up: bool) -> Tensor:
        ctx.save_for_backward(u)
        ctx.max_count, ctx.half_up = max_count, half_up
        return _rounded(u, max_count, half_up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (u,) = ctx.saved_tensors
        if ctx.half_up:  # the same open window as hardtanh's, whose fused kernel takes a sixth of the time
            return torch.ops.aten.hardtanh_backward(grads[0], u, 0, ctx.max_count), None, None
        return grads[0] * ((u >= 0) & (u <= ctx.max_count)), None, None


def spike_step(v: Tensor, kind: SurrogateKind = "atan", width: float = 1.0) -> Tensor:
    """Spikes 1 where ``v >= 0``, else 0, of any shape; the gradient is the surrogate's.

    Raises:
        ValueError: An unknown surrogate, or a width that is not positive.

    Example:
        >>> import torch
        >>> v = torch.tensor([-0.25, 0.0, 2.0], requires_grad=True)
        >>> spikes = spike_step(v, "rectangular")
        >>> spikes.sum().backward()
        >>> spikes.tolist(), v.grad.tolist()
        ([0.0, 1.0, 1.0], [1.0, 1.0, 0.0])
    """
    if kind not in SURROGATES:
        raise ValueError(f"kind: found {kind!r}, expected one of {', '.join(SURROGATES)}")
    if not width > 0:
        raise ValueError(f"width: found {width}, expected a positive number")
    return _Step.apply(v, kind, width)  # type: ignore[return-value]


def spike_counts(u: Tensor, max_count: int, *, half_up: bool) -> Tensor:
    r"""Integer spikes :math:`\mathrm{round}(\mathrm{clamp}(u, 0, D))`, of any shape, with a straight-through gradient.

    Args:
        u: Membrane potential in units of the threshold.
        max_count: D, the most spikes of a step.
        half_up: True rounds halves up and passes the gradient where ``0 < u < D``; False rounds halves to the even
            number and passes it where ``0 <= u <= D``.

    Example:
        >>> import torch
        >>> u = torch.tensor([-1.0, 0.5, 2.5, 4.0])
        >>> spike_counts(u, 4, half_up=True).tolist(), spike_counts(u, 4, half_up=False).tolist()
        ([0.0, 1.0, 3.0, 4.0], [0.0, 0.0, 2.0, 4.0])
    """
    if not (u.requires_grad and torch.is_grad_enabled()):
        return _rounded(u, max_count, half_up)
    return _Counts.apply(u, max_count, half_up)  # type: ignore[return-value]


def _rounded(u: Tensor, max_count: int, half_up: bool) -> Tensor:
    clamped = u.clamp(0, max_count)
    return clamped.add_(0.5).floor_() if half_up else clamped.round_()
