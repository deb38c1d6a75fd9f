"""Layers on the rows of visible cells: the results of `zoo.models.spark.masking` without the masked cells' work.

Rows come and go as ``(1, C, N, 1)`` (`zoo.models.spark.visible`). They are gathered once, from the image; from there to
the feature maps nothing but visible cells exists. A convolution's output sites are the visible cells of the output map,
not all that its inputs reach; layer norms, linear layers and activations are those of the network itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.models.layers.synchronized_norm import SynchronizableNorm
from zoo.models.spark.conversion import VisibleLayer, replace_layers
from zoo.models.spark.convnext import DropPath
from zoo.models.spark.visible import VisibleCells, as_strip
from zoo.ops import SparseTensor, VoxelGrid, sparse_avg_pool, sparse_conv, sparse_max_pool
from zoo.ops.kernel_map import ConvGeometry, IntOrAxes, axes, build_kernel_map, find_map

__all__ = ["sparsify_layers"]

_FEW_CHANNELS = 8  # below, pairs hold too little work: tiles with their surroundings are convolved densely
_TALL = 32  # rows for each channel above which our kernel beats the library's matrix product


def _multiply_rows(x: SparseTensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x W^T + b`` for (N, C_in) and (C_out, C_in), by whichever product is faster at the shape."""
    if x.grid.num_sites < _TALL * max(weight.shape):
        return functional.linear(x.features, weight, bias)
    return sparse_conv(x, weight.view(len(weight), 1, 1, -1), bias, out_grid=x.grid).features


class SparseConv2d(VisibleLayer, nn.Conv2d):
    """Convolution onto the visible cells of the output map."""

    def near_padding(self) -> tuple[int, ...]:
        """Cells of padding before the first row and column."""
        if isinstance(self.padding, str):  # of the near side; explicit output sites make up for the far side
            spans = zip(self.dilation, self.kernel_size, strict=True)
            return tuple(d * (k - 1) // 2 if self.padding == "same" else 0 for d, k in spans)
        return tuple(self.padding)

    def _output_size(self, size: tuple[int, ...]) -> tuple[int, int]:
        if self.padding == "same":
            return size[0], size[1]
        geometry = ConvGeometry.of(2, self.kernel_size, self.stride, self.near_padding(), self.dilation)
        height, width = geometry.output_shape(size)
        return height, width

    def forward(self, input: Tensor) -> Tensor:
        x = self.visible.sparse(input, layer=self.name)
        out_grid = self.visible.grid(*self._output_size(x.spatial_shape), layer=self.name)
        if self.groups == 1 and self.in_channels < _FEW_CHANNELS and self._keeps_tiles(x.grid, out_grid):
            return as_strip(self._convolve_tiles(input, out_grid))
        padding = self.near_padding()
        if self.groups == 1 and self.kernel_size == (1, 1) and padding == (0, 0):
            if out_grid is not x.grid:
                x = SparseTensor(x.features.index_select(0, self._centres(x.grid, out_grid)), out_grid)
            return as_strip(_multiply_rows(x, self.weight.flatten(1), self.bias))
        out = sparse_conv(
            x,
            self.weight.permute(0, 2, 3, 1),
            self.bias,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
            out_grid=out_grid,
        )
        return as_strip(out.features)

    def _centres(self, grid: VoxelGrid, out_grid: VoxelGrid) -> Tensor:
        """The one input row of each output row of a strided 1x1 convolution."""
        geometry = ConvGeometry.of(2, 1, self.stride)
        return find_map(grid, out_grid, geometry).pairs_in.long()

    def _keeps_tiles(self, grid: VoxelGrid, out_grid: VoxelGrid) -> bool:
        """Whether the tile of a mask cell maps to its tile in the output: strides divide it, and borders fit."""
        sizes = zip(grid.spatial_shape, out_grid.spatial_shape, self.stride, strict=True)
        return all(size == out * stride for size, out, stride in sizes)

    def _convolve_tiles(self, strip: Tensor, out_grid: VoxelGrid) -> Tensor:
        """Convolve the tile of each visible mask cell together with the cells around it; rows of ``out_grid``."""
        dense = self.visible.scatter(strip, layer=self.name).contiguous()
        mask = self.visible.coarse()[:, 0]
        windows, pads = dense, []
        steps, reaches = [], []
        for axis in (0, 1):
            cell = dense.shape[2 + axis] // mask.shape[1 + axis]
            reach = cell - self.stride[axis] + self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            before = self.near_padding()[axis]
            pads.append((before, max(0, reach - cell - before)))
            steps.append(cell)
            reaches.append(reach)
        windows = functional.pad(dense, (*pads[1], *pads[0]))
        windows = windows.unfold(2, reaches[0], steps[0]).unfold(3, reaches[1], steps[1])
        windows = windows[:, :, : mask.shape[1], : mask.shape[2]].permute(0, 2, 3, 1, 4, 5)[mask]
        tiles = functional.conv2d(windows, self.weight, self.bias, stride=self.stride, dilation=self.dilation)
        cells = tiles.permute(0, 2, 3, 1).reshape(-1, tiles.shape[1])
        return cells.index_select(0, self._tile_rows(mask, out_grid))

    @staticmethod
    def _tile_rows(mask: Tensor, out_grid: VoxelGrid) -> Tensor:
        """Where each row of ``out_grid`` lies in (tile, row in tile, column in tile)."""
        sample, row, column = out_grid.coords.long().unbind(1)
        height, width = (n // f for n, f in zip(out_grid.spatial_shape, mask.shape[1:], strict=True))
        tile = (mask.flatten().cumsum(0) - 1).view(mask.shape)[sample, row // height, column // width]
        return (tile * height + row % height) * width + column % width


class SparseLinear(VisibleLayer, nn.Linear):
    """Linear layer on rows ``(1, N, 1, C)``."""

    def forward(self, input: Tensor) -> Tensor:
        x = self.visible.sparse(input.permute(0, 3, 1, 2), layer=self.name)
        return as_strip(_multiply_rows(x, self.weight, self.bias)).permute(0, 2, 3, 1)


def _inside(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    """Cells of each window that lie in the map, along one axis: (out,)."""
    cells = (torch.arange(out) * stride - padding)[:, None] + dilation * torch.arange(kernel)
    return ((cells >= 0) & (cells < size)).sum(1)


class _SparsePool(VisibleLayer):
    """Windows onto the visible cells of the output map, and how many cells of each are seen or could be."""

    def _pool(self, input: Tensor, module: Any, dilation: IntOrAxes) -> tuple[SparseTensor, VoxelGrid, ConvGeometry]:
        x = self.visible.sparse(input, layer=self.name)
        probe = torch.empty(1, 1, *x.spatial_shape, device="meta")
        height, width = module(probe).shape[2:]
        grid = self.visible.grid(height, width, layer=self.name)
        options: Any = self
        stride, padding = axes("stride", options.stride, 2, 1), axes("padding", options.padding, 2, 0)
        return x, grid, ConvGeometry.of(2, options.kernel_size, stride, padding, dilation)

    def _active(self, x: SparseTensor, grid: VoxelGrid, geometry: ConvGeometry) -> Tensor:
        pairs = build_kernel_map(
            x.grid,
            grid,
            geometry.kernel_size,
            stride=geometry.stride,
            padding=geometry.padding,
            dilation=geometry.dilation,
        )
        return pairs.pairs_out.long().bincount(minlength=grid.num_sites)

    @staticmethod
    def _at_sites(by_axis: list[Tensor], grid: VoxelGrid) -> Tensor:
        """The product of a number along each axis, at every site: (N,)."""
        rows, columns = grid.coords[:, 1].long(), grid.coords[:, 2].long()
        return by_axis[0].to(grid.device)[rows] * by_axis[1].to(grid.device)[columns]

    def _in_map(self, x: SparseTensor, grid: VoxelGrid, geometry: ConvGeometry) -> Tensor:
        """Cells of each window that lie in the map, visible or not: (N,)."""
        g = geometry
        sizes = zip(x.spatial_shape, grid.spatial_shape, g.kernel_size, g.stride, g.padding, g.dilation, strict=True)
        return self._at_sites([_inside(*size) for size in sizes], grid)


class SparseMaxPool2d(_SparsePool, nn.MaxPool2d):
    """Maximum in which masked cells count as zero, as they do for upstream; padding never counts."""

    def forward(self, input: Tensor) -> Tensor:
        x, grid, g = self._pool(input, super().forward, self.dilation)
        out = sparse_max_pool(
            x, g.kernel_size, stride=g.stride, padding=g.padding, dilation=g.dilation, out_grid=grid
        ).features
        sees_masked = self._active(x, grid, g) < self._in_map(x, grid, g)
        return as_strip(torch.where(sees_masked[:, None], out.clamp(min=0), out))


class SparseAvgPool2d(_SparsePool, nn.AvgPool2d):
    """Mean over the ordinary window, in which masked cells count as zero."""

    def forward(self, input: Tensor) -> Tensor:
        x, grid, g = self._pool(input, super().forward, 1)
        out = sparse_avg_pool(x, g.kernel_size, stride=g.stride, padding=g.padding, out_grid=grid).features
        factor = self._active(x, grid, g) / self._divisor(x, grid, g)
        return as_strip(out * factor[:, None].to(out.dtype))

    def _divisor(self, x: SparseTensor, grid: VoxelGrid, geometry: ConvGeometry) -> Tensor:
        if self.divisor_override is not None:
            return torch.full((grid.num_sites,), self.divisor_override, device=grid.device)
        if not self.count_include_pad:
            return self._in_map(x, grid, geometry)
        covered = []
        for axis, (kernel, stride, padding) in enumerate(
            zip(geometry.kernel_size, geometry.stride, geometry.padding, strict=True)
        ):
            start = torch.arange(grid.spatial_shape[axis]) * stride - padding
            covered.append((start + kernel).clamp(max=x.spatial_shape[axis] + padding) - start)
        return self._at_sites(covered, grid)


def _norm_rows(layer: VisibleLayer, strip: Tensor) -> Tensor:
    """The strip in the strides that batch norm needs, checked."""
    rows = layer.visible.sparse(strip, layer=layer.name).features
    if layer.training and strip.shape[2] < 2:
        raise ValueError(
            f"{layer.name}: batch norm found {strip.shape[2]} visible position; its statistics need at least 2"
        )
    return as_strip(rows)


class SparseBatchNorm2d(VisibleLayer, SynchronizableNorm, nn.BatchNorm2d):
    """Batch norm over the visible positions of the batch."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(_norm_rows(self, input))


class _PerSample(VisibleLayer):
    """A layer that draws for each sample and, maybe, channel: it draws for the samples, whose rows then follow.

    The numbers drawn are those of the masked form.
    """

    def _factors(self, whole: Tensor) -> Tensor:
        """What the dense layer makes of ones (B, C, 1, 1): (B, C, 1, 1), or (B, 1, 1, 1)."""
        return super().forward(whole)

    def forward(self, input: Tensor) -> Tensor:
        x = self.visible.sparse(input, layer=self.name)
        if not self.training:
            return input
        factors = self._factors(input.new_ones(x.grid.batch_size, input.shape[1], 1, 1))[:, :, 0, 0]
        return as_strip(x.features * factors.index_select(0, x.grid.coords[:, 0]))


class SparseDropPath(_PerSample, DropPath):
    """Drops the whole branch of a sample."""


class SparseTimmDropPath(_PerSample):
    """The same with timm's settings and draws, which are others than ours."""

    drop_prob: float
    scale_by_keep: bool

    def _factors(self, whole: Tensor) -> Tensor:
        keep = 1 - self.drop_prob
        if self.drop_prob == 0:
            return whole
        kept = whole.new_empty(len(whole), 1, 1, 1).bernoulli_(keep)
        return kept / keep if keep > 0 and self.scale_by_keep else kept


class SparseDropout2d(_PerSample, nn.Dropout2d):
    """Drops channels of a sample."""


_SPARSE: dict[str, type[VisibleLayer]] = {
    "torch.nn.modules.conv.Conv2d": SparseConv2d,
    "torch.nn.modules.pooling.MaxPool2d": SparseMaxPool2d,
    "torch.nn.modules.pooling.AvgPool2d": SparseAvgPool2d,
    "torch.nn.modules.linear.Linear": SparseLinear,
    "torch.nn.modules.batchnorm.BatchNorm2d": SparseBatchNorm2d,
    "torch.nn.modules.batchnorm.SyncBatchNorm": SparseBatchNorm2d,
    "torch.nn.modules.dropout.Dropout2d": SparseDropout2d,
    "timm.layers.drop.DropPath": SparseTimmDropPath,
    "zoo.models.spark.convnext.DropPath": SparseDropPath,
}
_UNCHANGED = {
    "torch.nn.modules.normalization.LayerNorm",
    "zoo.models.spark.convnext.LayerNorm2d",
    "timm.layers.norm.LayerNorm",
    "timm.layers.norm.LayerNorm2d",
}


def sparsify_layers(module: nn.Module, visible: VisibleCells, *, name: str = "") -> nn.Module:
    """Replace the layers of ``module``, in place, by forms on rows of visible cells; parameters and keys stay.

    Returns:
        The module, or what replaces it where it is itself a layer.

    Raises:
        ValueError: Naming every layer that cannot be converted, and why.
    """
    return replace_layers(module, visible, _SPARSE, unchanged=_UNCHANGED, name=name)
