"""Frequency (positional) encoding of coordinates."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor

from zoo.ops.checks import FLOATING, check_dtype, check_option, check_shape
from zoo.ops.dispatch import define_op
from zoo.ops.reference import frequency_encoding as reference

MAX_FREQUENCIES = 32


def frequency_encode(
    x: Tensor, num_frequencies: int, *, variant: Literal["nerf", "tcnn"] = "nerf", include_input: bool | None = None
) -> Tensor:
    r"""Encode coordinates by sines and cosines of octaves.

    ``nerf``: :math:`[x,\ \sin 2^0 x,\ \cos 2^0 x,\ \ldots,\ \sin 2^{K-1} x,\ \cos 2^{K-1} x]`, every entry a block of D
    columns, as the code of NeRF has it (its paper writes :math:`2^k \pi x`).

    ``tcnn``: for each axis in turn :math:`\sin 2^0 \pi x_d,\ \cos 2^0 \pi x_d,\ \sin 2^1 \pi x_d, \ldots`, without x
    itself, as tiny-cuda-nn's ``Frequency`` encoding.

    Args:
        x: Coordinates (N, D).
        num_frequencies: K, 0 to 32.
        variant: Order and factor of the columns.
        include_input: Whether x itself comes first; None is the variant's own choice.

    Returns:
        Encoding (N, 2 D K), plus D columns if ``include_input``.

    Raises:
        ValueError: Wrong shape or dtype, or an unknown variant.

    Source: Mildenhall et al., "NeRF", section 5.1.

    Example:
        >>> import torch
        >>> frequency_encode(torch.zeros(1, 2), 1)
        tensor([[0., 0., 0., 0., 1., 1.]])
    """
    check_shape("x", x, ("N", "D"))
    check_dtype("x", x, FLOATING)
    check_option("variant", variant, ("nerf", "tcnn"))
    if not 0 <= num_frequencies <= MAX_FREQUENCIES:
        raise ValueError(f"num_frequencies: found {num_frequencies}, expected 0 to {MAX_FREQUENCIES}")
    is_nerf = variant == "nerf"
    included = is_nerf if include_input is None else include_input
    return _frequency_encode(x, num_frequencies, 1.0 if is_nerf else math.pi, included, not is_nerf)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.settings = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    (x,) = ctx.saved_tensors
    return _frequency_encode_backward(grad_output, x, *ctx.settings), None, None, None, None


_SETTINGS = "int num_frequencies, float factor, bool include_input, bool axis_major"

_frequency_encode = define_op(
    f"frequency_encode(Tensor x, {_SETTINGS}) -> Tensor",
    reference=reference.frequency_encode,
    fake=lambda x, num_frequencies, factor, include_input, axis_major: x.new_empty(
        x.shape[0], x.shape[1] * (2 * num_frequencies + int(include_input))
    ),
    backward=(_setup_context, _backward),
    autocast="float32",
)
_frequency_encode_backward = define_op(
    f"frequency_encode_backward(Tensor grad_output, Tensor x, {_SETTINGS}) -> Tensor",
    reference=reference.frequency_encode_backward,
    fake=lambda grad_output, x, *settings: x.new_empty(x.shape),
)
