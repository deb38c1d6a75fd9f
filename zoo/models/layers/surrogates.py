"""Gradients that stand in for that of the threshold, which is zero almost everywhere.

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

__all__ = ["SURROGATES", "SurrogateKind", "spike_step"]

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
