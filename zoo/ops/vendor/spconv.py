"""Sparse convolution by spconv 2.x, chosen with ``zoo.ops.use_backend("spconv")`` (Hydra: ``ops=spconv``).

The functions have the signatures and results of `zoo.ops.sparse_conv`: same weights (the kernel-1 quirk of spconv's own
module is not repeated), same sites, same row order. spconv builds its own rulebook; its rows are then put in our order.

**One thread on CPU.** spconv 2.3.8 returns wrong rows, other ones in each run, when its CPU kernels run with more than
one thread (its scatter-add is not synchronised), in the forward and in both gradients. The adapter therefore sets
torch to one thread around every call on CPU tensors and puts the number back. spconv's CPU backward also asks for a
CUDA stream; the function that does is replaced during the call by one that returns 0.

Not available in spconv, and refused here: ``groups`` other than 1, explicit output sites, other than float32 on CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.ops.grid_keys import linear_keys
from zoo.ops.kernel_map import ConvGeometry, IntOrAxes, axes, strided_grid, transposed_grid
from zoo.ops.sparse_tensor import SparseTensor
from zoo.ops.voxel_grid import VoxelGrid


@dataclass(frozen=True)
class Rulebook:
    """The pairs of one geometry as spconv has them, and where its output rows lie in ours."""

    pairs: Tensor  # (2, K, N) int32
    pair_counts: Tensor  # (K,) int32
    order: Tensor  # our output row -> spconv's


def subm_conv(
    x: SparseTensor, weight: Tensor, bias: Tensor | None = None, *, dilation: IntOrAxes = 1, groups: int = 1
) -> SparseTensor:
    """See `zoo.ops.subm_conv`."""
    _check(x, groups, None)
    geometry = ConvGeometry.submanifold(x.grid.ndim, tuple(weight.shape[1:-1]), dilation)
    book = _rulebook(x.grid, x.grid, geometry, (0,) * x.grid.ndim, subm=True)
    return _apply(x, weight, bias, book, x.grid, mode="subm")


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
) -> SparseTensor:
    """See `zoo.ops.sparse_conv`."""
    _check(x, groups, out_grid)
    geometry = ConvGeometry.of(x.grid.ndim, tuple(weight.shape[1:-1]), stride, padding, dilation)
    made, _ = strided_grid(x.grid, geometry)
    return _apply(x, weight, bias, _rulebook(x.grid, made, geometry, (0,) * x.grid.ndim), made, mode="conv")


def sparse_inverse_conv(
    x: SparseTensor, weight: Tensor, bias: Tensor | None = None, *, groups: int = 1
) -> SparseTensor:
    """See `zoo.ops.sparse_inverse_conv`; the strided layer must have run on this back-end too."""
    _check(x, groups, None)
    out_grid, kernel_map = x.grid.paired_input()
    if kernel_map.kernel_size != tuple(weight.shape[1:-1]):
        raise ValueError(f"weight: found kernel {tuple(weight.shape[1:-1])}, expected {kernel_map.kernel_size}")
    book = x.grid.maps.vendor.get("made_by")
    if len(x) == 0:
        return _apply(x, weight, bias, None, out_grid, mode="inverse")
    if book is None:
        raise ValueError("grid: found no spconv rulebook, expected a strided convolution that ran with this back-end")
    features = torch.empty_like(x.features).index_copy(0, book.order, x.features)  # to spconv's row order
    return _apply(SparseTensor(features, x.grid), weight, bias, book, out_grid, mode="inverse")


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
    """See `zoo.ops.sparse_conv_transpose`."""
    _check(x, groups, out_grid)
    ndim = x.grid.ndim
    geometry = ConvGeometry.of(ndim, tuple(weight.shape[1:-1]), stride, padding, dilation)
    extra = axes("output_padding", output_padding, ndim, 0)
    made, _ = transposed_grid(x.grid, geometry, extra)
    return _apply(x, weight, bias, _rulebook(x.grid, made, geometry, extra, transpose=True), made, mode="conv")


def _check(x: SparseTensor, groups: int, out_grid: VoxelGrid | None) -> None:
    if groups != 1:
        raise ValueError(f"groups: found {groups}, expected 1 with the spconv back-end; use the native one")
    if out_grid is not None:
        raise ValueError("out_grid: found a grid, expected None with the spconv back-end; use the native one")
    if x.device.type == "cpu" and x.dtype != torch.float32:
        raise ValueError(f"features: found dtype {x.dtype}, expected float32 with the spconv back-end on CPU")


def _rulebook(
    grid: VoxelGrid,
    out_grid: VoxelGrid,
    geometry: ConvGeometry,
    output_padding: tuple[int, ...],
    *,
    subm: bool = False,
    transpose: bool = False,
) -> Rulebook | None:
    """The cached rulebook; None where there are no sites, which spconv cannot take."""
    if grid.num_sites == 0 or out_grid.num_sites == 0:
        return None
    key = (geometry, output_padding, subm, transpose)
    book = grid.maps.vendor.get(key)
    if book is None:
        with loaded_spconv(grid.device) as (ops, algo):
            sites, pairs, counts = ops.get_indice_pairs(
                grid.coords,
                grid.batch_size,
                list(grid.spatial_shape),
                algo,
                list(geometry.kernel_size),
                list(geometry.stride),
                list(geometry.padding),
                list(geometry.dilation),
                list(output_padding),
                subm,
                transpose,
            )
        order = torch.argsort(linear_keys(sites, out_grid.spatial_shape))
        if not torch.equal(sites[order], out_grid.coords):
            raise RuntimeError(f"spconv found other output sites for {geometry} than zoo.ops did")
        book = grid.maps.vendor[key] = Rulebook(pairs, counts, order)
        if not subm:
            out_grid.maps.vendor["made_by"] = book
    return book


class _SpconvFunction(torch.autograd.Function):
    """The gather-multiply-scatter and its backward, both under `loaded_spconv`."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, book: Rulebook, num_out: int, mode: str) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.book, ctx.mode = book, mode
        with loaded_spconv(features.device) as (ops, algo):
            return ops.indice_conv(
                features, weight, book.pairs, book.pair_counts, num_out, mode == "inverse", mode == "subm", algo=algo
            )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        book, mode = ctx.book, ctx.mode
        with loaded_spconv(features.device) as (ops, algo):
            grad_features, grad_weight = ops.indice_conv_backward(
                features,
                weight,
                grads[0].contiguous(),
                book.pairs,
                book.pair_counts,
                mode == "inverse",
                mode == "subm",
                algo=algo,
            )
        return grad_features, grad_weight, None, None, None


def _apply(
    x: SparseTensor, weight: Tensor, bias: Tensor | None, book: Rulebook | None, out_grid: VoxelGrid, mode: str
) -> SparseTensor:
    features, weight = _autocast(x.features, weight)
    if book is None:
        out = features.new_zeros(out_grid.num_sites, weight.shape[0]) + 0 * (features.sum() + weight.sum())
    else:
        arguments = (features.contiguous(), weight.contiguous(), book, out_grid.num_sites, mode)
        out: Tensor = _SpconvFunction.apply(*arguments)  # type: ignore[assignment]
        out = out[book.order] if mode == "conv" else out  # the other modes write rows that are ours already
    return SparseTensor(out if bias is None else out + bias.to(out.dtype), out_grid)


def _autocast(features: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    if features.is_cuda and torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        return features.to(dtype), weight.to(dtype)
    return features, weight


@contextlib.contextmanager
def loaded_spconv(device: torch.device) -> Iterator[tuple[Any, Any]]:
    """Yield spconv's ops and its Native algorithm; for tensors on CPU with one thread and without a CUDA stream."""
    try:
        from spconv.core import ConvAlgo  # pyright: ignore[reportMissingImports]
        from spconv.pytorch import cppcore, ops  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("the spconv back-end needs spconv 2.x: pip install 'voxelzoo[spconv]'") from error
    if device.type != "cpu":
        yield ops, ConvAlgo.Native
        return
    threads, streams = torch.get_num_threads(), [(module, module.get_current_stream) for module in (cppcore, ops)]
    torch.set_num_threads(1)
    for module, _ in streams:
        setattr(module, "get_current_stream", lambda: 0)  # noqa: B010
    try:
        yield ops, ConvAlgo.Native
    finally:
        torch.set_num_threads(threads)
        for module, function in streams:
            setattr(module, "get_current_stream", function)  # noqa: B010
