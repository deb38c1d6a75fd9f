"""Integer spikes of membrane potentials."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.ops.checks import FLOATING_OR_HALF, check_dtype
from zoo.ops.dispatch import define_op
from zoo.ops.reference import spike_counts as reference

__all__ = ["spike_counts"]


def spike_counts(u: Tensor, max_count: int, *, half_up: bool) -> Tensor:
    r"""Integer spikes :math:`\mathrm{round}(\mathrm{clamp}(u, 0, D))` with a straight-through gradient.

    Args:
        u: Membrane potential in units of the threshold, of any shape: float32, float64, bfloat16 or float16.
        max_count: D, the most spikes of a step.
        half_up: True rounds halves up and passes the gradient where ``0 < u < D``; False rounds halves to the even
            number and passes it where ``0 <= u <= D``.

    Returns:
        Counts of the shape and dtype of ``u``; NaN stays NaN.

    Raises:
        ValueError: ``u`` is not floating, or D is below 1.

    Source: Qiu et al., "Efficient 3D Recognition with Event-driven Spike Sparse Convolution" (AAAI 2025), section 3.

    Example:
        >>> import torch
        >>> u = torch.tensor([-1.0, 0.5, 2.5, 4.0])
        >>> spike_counts(u, 4, half_up=True).tolist(), spike_counts(u, 4, half_up=False).tolist()
        ([0.0, 1.0, 3.0, 4.0], [0.0, 0.0, 2.0, 4.0])
    """
    check_dtype("u", u, FLOATING_OR_HALF)
    if max_count < 1:
        raise ValueError(f"max_count: found {max_count}, expected at least 1")
    if u.dtype in (torch.float16, torch.bfloat16):
        return _spike_counts(u.float(), max_count, half_up).to(u.dtype)
    return _spike_counts(u, max_count, half_up)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    u, ctx.max_count, ctx.half_up = inputs
    ctx.save_for_backward(u)


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, None, None]:
    (u,) = ctx.saved_tensors
    if ctx.half_up:  # the same open window as hardtanh's, whose fused kernel takes a sixth of the time
        return torch.ops.aten.hardtanh_backward(grad_output, u, 0, ctx.max_count), None, None
    return grad_output * ((u >= 0) & (u <= ctx.max_count)), None, None


_spike_counts = define_op(
    "spike_counts(Tensor u, int max_count, bool half_up) -> Tensor",
    reference=reference.spike_counts,
    fake=lambda u, max_count, half_up: torch.empty_like(u, memory_format=torch.contiguous_format),
    backward=(_setup_context, _backward),
)
