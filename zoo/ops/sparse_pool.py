"""Pooling of sparse voxels: over windows and over whole samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.ops.dispatch import define_op
from zoo.ops.kernel_map import ConvGeometry, IntOrAxes, KernelMap, find_map, strided_grid
from zoo.ops.reference import sparse_pool as reference
from zoo.ops.reference.sparse_conv import accumulation_dtype
from zoo.ops.segment import segment_max, segment_mean
from zoo.ops.sparse_tensor import SparseTensor
from zoo.ops.voxel_grid import VoxelGrid


def sparse_max_pool(
    x: SparseTensor,
    kernel_size: IntOrAxes,
    *,
    stride: IntOrAxes | None = None,
    padding: IntOrAxes = 0,
    dilation: IntOrAxes = 1,
    out_grid: VoxelGrid | None = None,
) -> SparseTensor:
    """Maximum over the active sites of each window; empty cells and padding never count.

    spconv's CPU kernel starts from 0 and so turns negative maxima into 0; this is the true maximum, as its CUDA kernel
    computes it. NaN wins over numbers. Where two sites share the maximum, the first in kernel order gets the gradient.

    Args:
        x: Input (N, C).
        kernel_size: Window on each axis, one int or D.
        stride: Input cells between neighbouring windows; the kernel size if None.
        padding: Cells of padding.
        dilation: Cells between neighbouring window cells.
        out_grid: Sites to compute instead of all whose window holds a site; those without inputs get 0.

    Returns:
        Output (M, C) on the sites that a sparse convolution of this geometry has.

    Raises:
        ValueError: Bad geometry.

    Example:
        >>> import torch
        >>> x = SparseTensor.from_coords(torch.tensor([[-1.0], [-2.0]]), torch.tensor([[0, 0], [0, 1]]), (4,), 1)
        >>> sparse_max_pool(x, 2).features.tolist()
        [[-1.0]]
    """
    kernel_map, out_grid = _window_map(x, kernel_size, stride, padding, dilation, out_grid)
    pairs = kernel_map.pairs_in, kernel_map.pairs_out, kernel_map.offsets
    return SparseTensor(_sparse_max_pool(x.features, *pairs, out_grid.coords.shape[0])[0], out_grid)


def sparse_avg_pool(
    x: SparseTensor,
    kernel_size: IntOrAxes,
    *,
    stride: IntOrAxes | None = None,
    padding: IntOrAxes = 0,
    dilation: IntOrAxes = 1,
    out_grid: VoxelGrid | None = None,
) -> SparseTensor:
    """Mean over the active sites of each window; the divisor is their number, not the window's volume.

    Args:
        x: Input (N, C).
        kernel_size: Window on each axis, one int or D.
        stride: Input cells between neighbouring windows; the kernel size if None.
        padding: Cells of padding.
        dilation: Cells between neighbouring window cells.
        out_grid: Sites to compute instead of all whose window holds a site; those without inputs get 0.

    Returns:
        Output (M, C).

    Raises:
        ValueError: Bad geometry.

    Example:
        >>> import torch
        >>> x = SparseTensor.from_coords(torch.tensor([[1.0], [2.0]]), torch.tensor([[0, 0], [0, 1]]), (4,), 1)
        >>> sparse_avg_pool(x, 2).features.tolist()
        [[1.5]]
    """
    kernel_map, out_grid = _window_map(x, kernel_size, stride, padding, dilation, out_grid)
    pairs = kernel_map.pairs_in, kernel_map.pairs_out, kernel_map.offsets
    return SparseTensor(_sparse_avg_pool(x.features, *pairs, out_grid.coords.shape[0]), out_grid)


def global_avg_pool(x: SparseTensor) -> Tensor:
    """Mean over the sites of each sample, (B, C); 0 for an empty sample.

    Example:
        >>> import torch
        >>> x = SparseTensor.from_coords(torch.tensor([[1.0], [2.0]]), torch.tensor([[0, 0], [0, 1]]), (4,), 2)
        >>> global_avg_pool(x).tolist()
        [[1.5], [0.0]]
    """
    return segment_mean(_accumulated(x), packed_info=_sample_runs(x)).to(x.dtype)


def global_max_pool(x: SparseTensor) -> Tensor:
    """Maximum over the sites of each sample, (B, C); 0 for an empty sample.

    Example:
        >>> import torch
        >>> x = SparseTensor.from_coords(torch.tensor([[-1.0], [-2.0]]), torch.tensor([[0, 0], [0, 1]]), (4,), 2)
        >>> global_max_pool(x).tolist()
        [[-1.0], [0.0]]
    """
    return segment_max(_accumulated(x), packed_info=_sample_runs(x)).to(x.dtype)


def _accumulated(x: SparseTensor) -> Tensor:
    return x.features.to(accumulation_dtype(x.dtype))


def _sample_runs(x: SparseTensor) -> Tensor:
    """Start and count of each sample's rows, int64 (B, 2)."""
    offsets = x.grid.sample_offsets
    return torch.stack([offsets[:-1], offsets.diff()], dim=1)


def _window_map(
    x: SparseTensor,
    kernel_size: IntOrAxes,
    stride: IntOrAxes | None,
    padding: IntOrAxes,
    dilation: IntOrAxes,
    out_grid: VoxelGrid | None,
) -> tuple[KernelMap, VoxelGrid]:
    stride = kernel_size if stride is None else stride
    geometry = ConvGeometry.of(x.grid.ndim, kernel_size, stride, padding, dilation)
    if out_grid is not None:
        return find_map(x.grid, out_grid, geometry), out_grid
    out_grid, kernel_map = strided_grid(x.grid, geometry)
    return kernel_map, out_grid


def _max_setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.num_in = inputs[0].shape[0]
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _max_backward(ctx: Any, grad_out: Tensor, grad_argmax: Tensor | None) -> tuple[Tensor | None, ...]:
    (argmax,) = ctx.saved_tensors
    return _sparse_max_pool_backward(grad_out.contiguous(), argmax, ctx.num_in), None, None, None, None


def _avg_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, pairs_in, pairs_out, offsets, _ = inputs
    ctx.num_in = features.shape[0]
    ctx.save_for_backward(pairs_in, pairs_out, offsets)


def _avg_backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    return _sparse_avg_pool_backward(grad_out.contiguous(), *ctx.saved_tensors, ctx.num_in), None, None, None, None


def _fake_max_pool(features: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    out = features.new_empty(rest[3], features.shape[1])
    return out, torch.empty_like(out, dtype=torch.int32)


_PAIRS = "Tensor pairs_in, Tensor pairs_out, Tensor offsets"
_sparse_max_pool = define_op(
    f"sparse_max_pool(Tensor features, {_PAIRS}, SymInt num_out) -> (Tensor out, Tensor argmax)",
    reference=reference.sparse_max_pool,
    fake=_fake_max_pool,
    backward=(_max_setup_context, _max_backward),
)
_sparse_max_pool_backward = define_op(
    "sparse_max_pool_backward(Tensor grad_out, Tensor argmax, SymInt num_in) -> Tensor",
    reference=reference.sparse_max_pool_backward,
    fake=lambda grad_out, argmax, num_in: grad_out.new_empty(num_in, grad_out.shape[1]),
)
_sparse_avg_pool = define_op(
    f"sparse_avg_pool(Tensor features, {_PAIRS}, SymInt num_out) -> Tensor",
    reference=reference.sparse_avg_pool,
    fake=lambda features, *rest: features.new_empty(rest[3], features.shape[1]),
    backward=(_avg_setup_context, _avg_backward),
)
_sparse_avg_pool_backward = define_op(
    f"sparse_avg_pool_backward(Tensor grad_out, {_PAIRS}, SymInt num_in) -> Tensor",
    reference=reference.sparse_avg_pool_backward,
    fake=lambda grad_out, *rest: grad_out.new_empty(rest[3], grad_out.shape[1]),
)
