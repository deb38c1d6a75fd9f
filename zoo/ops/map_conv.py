"""Convolution of features over a kernel map, and its gradients: what every sparse convolution comes down to."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from zoo.ops.checks import FLOATING_OR_HALF, check_dtype, check_shape
from zoo.ops.dispatch import define_op
from zoo.ops.kernel_map import KernelMap, check_map
from zoo.ops.reference import sparse_conv as reference


def apply_kernel_map(
    features: Tensor, weight: Tensor, kernel_map: KernelMap, num_out: int, *, groups: int = 1
) -> Tensor:
    """Convolution over a given kernel map: ``out[o] = sum over pairs (i, o) of offset k of W_k @ features[i]``.

    Args:
        features: (N, C_in), float32, float64, bfloat16 or float16.
        weight: (C_out, k_0, ..., C_in / groups) or (C_out, K, C_in / groups), same dtype (or under autocast).
        kernel_map: Pairs of rows of ``features`` and of the output.
        num_out: Number of output rows M.
        groups: Channel groups.

    Returns:
        (M, C_out). Half-precision values are accumulated in float32. Bitwise the same for any number of CPU threads.

    Raises:
        ValueError: Wrong shapes or dtypes.

    Example:
        >>> import torch
        >>> from zoo.ops import VoxelGrid, build_kernel_map
        >>> grid = VoxelGrid(torch.tensor([[0, 1], [0, 2]]), (4,), 1)
        >>> kernel_map = build_kernel_map(grid, grid, 3, padding=1)
        >>> apply_kernel_map(torch.tensor([[1.0], [2.0]]), torch.ones(1, 3, 1), kernel_map, 2).tolist()
        [[3.0], [3.0]]
    """
    flat = flat_weight(features, weight, kernel_map, groups)
    return convolve_pairs(features, flat, kernel_map, num_out, groups)


def flat_weight(features: Tensor, weight: Tensor, kernel_map: KernelMap, groups: int) -> Tensor:
    """The weight as (C_out, K, C_in / groups), after features, weight and map have been checked to fit."""
    check_shape("features", features, ("N", "C_in"))
    check_dtype("features", features, FLOATING_OR_HALF)
    check_map(kernel_map)
    check_channels(features, weight, groups)
    if math.prod(weight.shape[1:-1]) != kernel_map.volume:
        raise ValueError(
            f"weight: found {tuple(weight.shape)}, expected {kernel_map.volume} kernel cells as in kernel_map"
        )
    return weight.reshape(weight.shape[0], kernel_map.volume, weight.shape[-1])


def convolve_pairs(features: Tensor, weight: Tensor, kernel_map: KernelMap, num_out: int, groups: int) -> Tensor:
    """`apply_kernel_map` of a weight (C_out, K, C_in / groups), unchecked."""
    return _sparse_conv(
        features, weight, kernel_map.pairs_in, kernel_map.pairs_out, kernel_map.offsets, num_out, groups
    )


def check_channels(features: Tensor, weight: Tensor, groups: int) -> None:
    """Raise ValueError unless groups divide the channels and the weight fits them."""
    channels = features.shape[1]
    if groups < 1 or channels % groups or weight.shape[0] % groups:
        raise ValueError(
            f"groups: found {groups}, expected a divisor of C_in = {channels} and C_out = {weight.shape[0]}"
        )
    if weight.shape[-1] * groups != channels:
        raise ValueError(
            f"weight: found shape {tuple(weight.shape)} (C_out, kernel, C_in / groups), expected {channels // groups} "
            f"in the last axis for {channels} channels of features and groups = {groups}"
        )
    if weight.dtype != features.dtype and not _autocasts(features):
        raise ValueError(f"weight: found dtype {weight.dtype}, expected {features.dtype}, the dtype of features")


def _autocasts(features: Tensor) -> bool:
    kind = features.device.type
    return kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, weight, pairs_in, pairs_out, offsets, _, ctx.groups = inputs
    ctx.save_for_backward(features, weight, pairs_in, pairs_out, offsets)


def convolution_backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    """Both gradients of the op whose context holds features, weight, pairs and ``groups``, of seven arguments."""
    features, weight, *pairs = ctx.saved_tensors
    grad_out = grad_out.contiguous()
    grad_features = grad_weight = None
    if ctx.needs_input_grad[0]:
        grad_features = _sparse_conv_dgrad(grad_out, weight, *pairs, features.shape[0], ctx.groups)
    if ctx.needs_input_grad[1]:
        grad_weight = _sparse_conv_wgrad(features, grad_out, *pairs, ctx.groups)
    return grad_features, grad_weight, None, None, None, None, None


def _fake_wgrad(
    features: Tensor, grad_out: Tensor, pairs_in: Tensor, pairs_out: Tensor, offsets: Tensor, groups: int
) -> Tensor:
    return features.new_empty(grad_out.shape[1], offsets.shape[0] - 1, features.shape[1] // groups)


_PAIRS = "Tensor pairs_in, Tensor pairs_out, Tensor offsets"
_sparse_conv = define_op(
    f"sparse_conv(Tensor features, Tensor weight, {_PAIRS}, SymInt num_out, int groups) -> Tensor",
    reference=reference.sparse_conv,
    fake=lambda features, weight, *rest: features.new_empty(rest[3], weight.shape[0]),
    backward=(_setup_context, convolution_backward),
    autocast=("features", "weight"),
)
_sparse_conv_dgrad = define_op(
    f"sparse_conv_dgrad(Tensor grad_out, Tensor weight, {_PAIRS}, SymInt num_in, int groups) -> Tensor",
    reference=reference.sparse_conv_dgrad,
    fake=lambda grad_out, weight, *rest: grad_out.new_empty(rest[3], weight.shape[2] * rest[4]),
)
_sparse_conv_wgrad = define_op(
    f"sparse_conv_wgrad(Tensor features, Tensor grad_out, {_PAIRS}, int groups) -> Tensor",
    reference=reference.sparse_conv_wgrad,
    fake=_fake_wgrad,
)
