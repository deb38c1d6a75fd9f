"""Sparse convolutions: submanifold, strided, onto given sites, inverse and transposed."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from zoo.ops.backend import active_backend
from zoo.ops.checks import check_shape
from zoo.ops.kernel_map import (
    ConvGeometry,
    IntOrAxes,
    KernelMap,
    axes,
    find_map,
    strided_grid,
    transposed_grid,
)
from zoo.ops.map_conv import check_channels, convolve_pairs
from zoo.ops.sparse_tensor import SparseTensor
from zoo.ops.spike_conv import convolve_spikes
from zoo.ops.voxel_grid import VoxelGrid


def subm_conv(
    x: SparseTensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    dilation: IntOrAxes = 1,
    groups: int = 1,
    spikes: bool = False,
) -> SparseTensor:
    r"""Submanifold convolution: the output has exactly the sites of the input.

    .. math:: y[c] = b + \sum_k W_k\, x[c + d\,(k - \lfloor K/2 \rfloor)] \quad\text{over offsets that hold a site}

    Args:
        x: Input (N, C_in).
        weight: (C_out, k_0, ..., C_in / groups), spconv 2.x layout; kernel axes follow the coordinate columns, odd
            sizes.
        bias: (C_out,).
        dilation: Cells between neighbouring kernel cells, one int or D.
        groups: Channel groups; ``groups = C_in`` is a depth-wise convolution.
        spikes: Whether the features are spike counts, mostly zero: then `zoo.ops.spike_conv` does the work.

    Returns:
        Output (N, C_out) on ``x.grid``.

    Raises:
        ValueError: Wrong shapes, dtypes or an even kernel.

    Example:
        >>> import torch
        >>> x = SparseTensor.from_coords(torch.tensor([[1.0], [2.0]]), torch.tensor([[0, 1], [0, 2]]), (4,), 1)
        >>> subm_conv(x, torch.ones(1, 3, 1)).features.tolist()
        [[3.0], [3.0]]
    """
    kernel_size = check_weight(x, weight, groups)
    if active_backend() == "spconv":
        return _vendor().subm_conv(x, weight, bias, dilation=dilation, groups=groups)
    geometry = ConvGeometry.submanifold(x.grid.ndim, kernel_size, dilation)
    return _convolve(x, weight, bias, find_map(x.grid, x.grid, geometry), x.grid, groups, spikes)


def sparse_conv(
    x: SparseTensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: IntOrAxes = 1,
    padding: IntOrAxes = 0,
    dilation: IntOrAxes = 1,
    groups: int = 1,
    out_grid: VoxelGrid | None = None,
    spikes: bool = False,
) -> SparseTensor:
    r"""Sparse convolution: the output sites are all cells whose receptive field holds an input site, or ``out_grid``.

    .. math:: y[c] = b + \sum_k W_k\, x[s\,c - p + d\,k] \quad\text{over offsets that hold a site}

    The output shape is ``floor((n + 2p - d (k - 1) - 1) / s) + 1`` on each axis.

    Args:
        x: Input (N, C_in).
        weight: (C_out, k_0, ..., C_in / groups).
        bias: (C_out,).
        stride: Input cells between neighbouring output cells, one int or D.
        padding: Cells of padding, one int or D.
        dilation: Cells between neighbouring kernel cells, one int or D.
        groups: Channel groups.
        out_grid: Sites to compute instead of all that are reached; those without inputs get the bias.
        spikes: Whether the features are spike counts, mostly zero: then `zoo.ops.spike_conv` does the work.

    Returns:
        Output (M, C_out) on a new grid, or on ``out_grid``.

    Raises:
        ValueError: Wrong shapes, dtypes or geometry.

    Example:
        >>> import torch
        >>> x = SparseTensor.from_coords(torch.tensor([[1.0], [2.0]]), torch.tensor([[0, 1], [0, 2]]), (4,), 1)
        >>> y = sparse_conv(x, torch.ones(1, 2, 1), stride=2)
        >>> y.coords.tolist(), y.features.tolist()
        ([[0, 0], [0, 1]], [[1.0], [2.0]])
    """
    kernel_size = check_weight(x, weight, groups)
    if active_backend() == "spconv":
        return _vendor().sparse_conv(
            x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups, out_grid=out_grid
        )
    geometry = ConvGeometry.of(x.grid.ndim, kernel_size, stride, padding, dilation)
    if out_grid is None:
        out_grid, kernel_map = strided_grid(x.grid, geometry)
    else:
        kernel_map = find_map(x.grid, out_grid, geometry)
    return _convolve(x, weight, bias, kernel_map, out_grid, groups, spikes)


def sparse_inverse_conv(
    x: SparseTensor, weight: Tensor, bias: Tensor | None = None, *, groups: int = 1, spikes: bool = False
) -> SparseTensor:
    r"""Undo the site change of the strided layer that made ``x.grid``: its pairs, with input and output exchanged.

    .. math:: y[i] = b + \sum_{(i, o, k)} W_k\, x[o] \quad\text{over the pairs of the strided layer}

    The output has the sites (and the grid, with the caller's order) that the strided layer read; sites it dropped get
    the bias. The pair is found through the grid.

    Args:
        x: Input (M, C_in) on a grid made by a strided convolution, transposed convolution or pooling.
        weight: (C_out, k_0, ..., C_in / groups), kernel size of the paired layer.
        bias: (C_out,).
        groups: Channel groups.
        spikes: Whether the features are spike counts, mostly zero: then `zoo.ops.spike_conv` does the work.

    Returns:
        Output (N, C_out).

    Raises:
        ValueError: A grid that no strided layer made, or another kernel size than its pair's.

    Example:
        >>> import torch
        >>> x = SparseTensor.from_coords(torch.tensor([[1.0], [2.0]]), torch.tensor([[0, 1], [0, 2]]), (4,), 1)
        >>> down = sparse_conv(x, torch.ones(1, 2, 1), stride=2)
        >>> sparse_inverse_conv(down, torch.ones(1, 2, 1)).features.tolist()
        [[1.0], [2.0]]
    """
    kernel_size = check_weight(x, weight, groups)
    if active_backend() == "spconv":
        return _vendor().sparse_inverse_conv(x, weight, bias, groups=groups)
    out_grid, kernel_map = x.grid.paired_input()
    if kernel_map.kernel_size != kernel_size:
        raise ValueError(
            f"weight: found kernel size {kernel_size}, expected {kernel_map.kernel_size}, that of the layer which "
            "made the grid"
        )
    return _convolve(x, weight, bias, kernel_map.swapped(), out_grid, groups, spikes)


def sparse_conv_transpose(
    x: SparseTensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: IntOrAxes = 1,
    padding: IntOrAxes = 0,
    output_padding: IntOrAxes = 0,
    dilation: IntOrAxes = 1,
    groups: int = 1,
    out_grid: VoxelGrid | None = None,
) -> SparseTensor:
    r"""Transposed sparse convolution: generates every site that an input site reaches, or computes ``out_grid``.

    .. math:: y[c] = b + \sum_{k, c'} W_k\, x[c'] \quad\text{where}\quad c = s\,c' - p + d\,k

    The output shape is ``(n - 1) s - 2p + d (k - 1) + output_padding + 1`` on each axis.

    Args:
        x: Input (N, C_in).
        weight: (C_out, k_0, ..., C_in / groups); note the output channels first, as in every layer here.
        bias: (C_out,).
        stride: Output cells between neighbouring input cells, one int or D.
        padding: Cells cut from the output's border, one int or D.
        output_padding: Cells added to the far end of the output shape, one int or D.
        dilation: Cells between neighbouring kernel cells, one int or D.
        groups: Channel groups.
        out_grid: Sites to compute instead of all that are reached; those without inputs get the bias.

    Returns:
        Output (M, C_out) on a new grid, or on ``out_grid``.

    Raises:
        ValueError: Wrong shapes, dtypes or geometry.

    Example:
        >>> import torch
        >>> x = SparseTensor.from_coords(torch.tensor([[1.0]]), torch.tensor([[0, 1]]), (2,), 1)
        >>> y = sparse_conv_transpose(x, torch.ones(1, 2, 1), stride=2)
        >>> y.coords.tolist(), y.spatial_shape
        ([[0, 2], [0, 3]], (4,))
    """
    kernel_size = check_weight(x, weight, groups)
    if active_backend() == "spconv":
        return _vendor().sparse_conv_transpose(
            x,
            weight,
            bias,
            stride=stride,
            padding=padding,
            output_padding=output_padding,
            dilation=dilation,
            groups=groups,
            out_grid=out_grid,
        )
    ndim = x.grid.ndim
    geometry = ConvGeometry.of(ndim, kernel_size, stride, padding, dilation)
    if out_grid is None:
        out_grid, kernel_map = transposed_grid(x.grid, geometry, axes("output_padding", output_padding, ndim, 0))
    else:
        kernel_map = find_map(out_grid, x.grid, geometry).swapped()
    return _convolve(x, weight, bias, kernel_map, out_grid, groups)


def check_weight(x: SparseTensor, weight: Tensor, groups: int) -> tuple[int, ...]:
    """Check a layer's weight against its input; return the kernel size."""
    if weight.dim() != x.grid.ndim + 2:
        raise ValueError(
            f"weight: found shape {tuple(weight.shape)}, expected (C_out, {x.grid.ndim} kernel axes, C_in / groups) "
            f"for spatial_shape {x.spatial_shape}"
        )
    check_channels(x.features, weight, groups)
    return tuple(weight.shape[1:-1])


def _vendor() -> ModuleType:
    from zoo.ops.vendor import spconv  # a third-party library, asked for by name

    return spconv


def _convolve(
    x: SparseTensor,
    weight: Tensor,
    bias: Tensor | None,
    kernel_map: KernelMap,
    out_grid: VoxelGrid,
    groups: int,
    spikes: bool = False,
) -> SparseTensor:
    flat = weight.reshape(weight.shape[0], kernel_map.volume, weight.shape[-1])
    num_out = out_grid.coords.shape[0]
    if spikes and groups == 1:
        out = convolve_spikes(x.features, flat, kernel_map, num_out, "auto")
    else:
        out = convolve_pairs(x.features, flat, kernel_map, num_out, groups)
    if bias is not None:
        check_shape("bias", bias, (weight.shape[0],))
        out = out + bias.to(out.dtype)
    return SparseTensor(out, out_grid)
