"""Event-driven sparse convolution: only the values that are not zero cost anything."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from zoo.ops.backend import active_backend
from zoo.ops.checks import FLOATING_OR_HALF, check_dtype, check_shape
from zoo.ops.dispatch import define_op
from zoo.ops.kernel_map import KernelMap
from zoo.ops.map_conv import check_channels, convolution_backward, flat_weight
from zoo.ops.reference import spike_conv as reference

Density = float | Literal["auto"]


def spike_conv(
    features: Tensor, weight: Tensor, kernel_map: KernelMap, num_out: int, *, density: Density = "auto"
) -> Tensor:
    r"""Convolution over a kernel map of features that are mostly zero, such as the counts of a spiking neuron.

    .. math:: y[o] = \sum_{(i, o) \in k}\ \sum_{c:\, x[i, c] \ne 0} x[i, c]\, W_k[:, c]

    It equals `apply_kernel_map` up to rounding, for any values; spikes are counts 0 to D, stored as floating numbers.
    On the CPU the values other than zero are listed once, and each pair of rows costs one multiply-add of a weight row
    for each of them; rows of zeros cost nothing. Above a break-even density the dense kernel is faster and takes over.
    The choice depends on nothing but the exact share of values that are not zero, the widths, the number of pairs and
    the CPU's instruction set.
    On CUDA, and without native kernels, this is the dense convolution. Gradients are those of the dense convolution.

    Args:
        features: (N, C_in), float32, float64, bfloat16 or float16.
        weight: (C_out, k_0, ..., C_in) or (C_out, K, C_in), same dtype (or under autocast).
        kernel_map: Pairs of rows of ``features`` and of the output.
        num_out: Number of output rows M.
        density: Largest share of values other than zero for which only those are multiplied; 1 always, 0 never (but for
            features that are all zero). ``"auto"`` is `break_even_density`.

    Returns:
        (M, C_out). Half-precision values are accumulated in float32. Bitwise the same for any number of CPU threads.
        Infinite or NaN weights of channels that are zero do not show; the dense convolution turns them into NaN.

    Raises:
        ValueError: Wrong shapes or dtypes, or a density outside [0, 1].

    Example:
        >>> import torch
        >>> from zoo.ops import VoxelGrid, build_kernel_map
        >>> grid = VoxelGrid(torch.tensor([[0, 1], [0, 2]]), (4,), 1)
        >>> kernel_map = build_kernel_map(grid, grid, 3, padding=1)
        >>> spike_conv(torch.tensor([[3.0, 0.0], [0.0, 0.0]]), torch.ones(1, 3, 2), kernel_map, 2).tolist()
        [[3.0], [3.0]]
    """
    if density != "auto" and not (isinstance(density, (int, float)) and 0 <= density <= 1):
        raise ValueError(f"density: found {density!r}, expected a number from 0 to 1, or 'auto'")
    flat = flat_weight(features, weight, kernel_map, 1)
    return convolve_spikes(features, flat, kernel_map, num_out, density)


def spike_linear(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Linear layer on features that are mostly zero: ``features @ weight.T + bias``, without zeros as `spike_conv`.

    On CUDA, and where another back-end than ours is active, it is torch's own linear layer.

    Args:
        features: (N, C_in).
        weight: (C_out, C_in), same dtype (or under autocast).
        bias: (C_out,).

    Returns:
        (N, C_out).

    Raises:
        ValueError: Wrong shapes or dtypes.

    Example:
        >>> import torch
        >>> spike_linear(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 3.0]]), torch.ones(1)).tolist()
        [[7.0]]
    """
    check_shape("features", features, ("N", "C_in"))
    check_dtype("features", features, FLOATING_OR_HALF)
    check_shape("weight", weight, ("C_out", "C_in"))
    check_channels(features, weight, 1)
    if bias is not None:
        check_shape("bias", bias, (weight.shape[0],))
    if features.device.type != "cpu" or active_backend() == "spconv":
        return functional.linear(features, weight, bias)
    rows = torch.arange(features.shape[0], dtype=torch.int32)
    offsets = torch.arange(2) * features.shape[0]
    same_rows = KernelMap(rows, rows, offsets, (1,))
    out = convolve_spikes(features, weight.unsqueeze(1), same_rows, features.shape[0], "auto")
    return out if bias is None else out.add_(bias.to(out.dtype))


def break_even_density(in_channels: int, out_channels: int, pairs_per_row: float = math.inf) -> float:
    """Share of values other than zero below which `spike_conv` multiplies only those, 0 for narrow layers.

    A pair of rows has a cost of its own beside that of its events, which weighs the more, the narrower the layer; the
    weights of many input channels no longer fit the nearest cache; and listing the events of a row has to pay for
    itself over the pairs that read them. Fitted to the curves in ``docs/benchmarks/spike.md`` and ``spike_epyc.md``,
    apart for CPUs with AVX-512 (as torch sees them), whose dense kernels are faster in proportion.

    Example:
        >>> break_even_density(16, 16), break_even_density(64, 64) > break_even_density(64, 64, 1.0)
        (0.0, True)
    """
    if in_channels * out_channels == 0:
        return 0.0
    most, cost_per_channel = (0.60, 1 / 1800) if _wide_vectors() else (0.68, 1 / 1000)
    limit = most - 240 / (in_channels * out_channels) - min(in_channels, 320) * cost_per_channel
    return max(0.0, limit - _row_cost(out_channels) / pairs_per_row)


def _row_cost(out_channels: int) -> float:
    return (30 if _wide_vectors() else 12) / max(1, out_channels)


def _wide_vectors() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def convolve_spikes(features: Tensor, weight: Tensor, kernel_map: KernelMap, num_out: int, density: Density) -> Tensor:
    """`spike_conv` of a weight (C_out, K, C_in), unchecked."""
    limit, row_cost = (
        (break_even_density(weight.shape[2], weight.shape[0]), _row_cost(weight.shape[0]))
        if density == "auto"
        else (float(density), 0.0)
    )
    pairs = kernel_map.pairs_in, kernel_map.pairs_out, kernel_map.offsets
    return _spike_conv(features, weight, *pairs, num_out, limit, row_cost)


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    return (*convolution_backward(ctx, grad_out), None)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, weight, pairs_in, pairs_out, offsets, *_ = inputs
    ctx.groups = 1
    ctx.save_for_backward(features, weight, pairs_in, pairs_out, offsets)


_spike_conv = define_op(
    "spike_conv(Tensor features, Tensor weight, Tensor pairs_in, Tensor pairs_out, Tensor offsets, SymInt num_out, "
    "float break_even, float row_cost) -> Tensor",
    reference=reference.spike_conv,
    fake=lambda features, weight, *rest: features.new_empty(rest[3], weight.shape[0]),
    backward=(_setup_context, _backward),
    autocast=("features", "weight"),
)
