"""Convolution modules on sparse tensors, for 1 to 3 dimensions.

Weights are ``(out, k_0, ..., k_{D-1}, in / groups)``, as in spconv 2.x; kernel axes follow the coordinate columns.
Kernel maps are found on the input's grid, so layers of one geometry share them without any key.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import nn

from zoo.models.layers.sparse_sequential import SparseModule
from zoo.ops import (
    KernelMap,
    SparseTensor,
    VoxelGrid,
    sparse_conv,
    sparse_conv_transpose,
    sparse_inverse_conv,
    subm_conv,
)
from zoo.ops.kernel_map import ConvGeometry, IntOrAxes, axes, find_map, strided_grid, transposed_grid


class SparseConvBase(SparseModule):
    """Weight, bias and their initialisation; subclasses add the geometry.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Kernel cells on each axis, one int or D.
        groups: Channel groups; ``groups = in_channels`` is depth-wise.
        bias: Whether to add a learned bias.
    """

    ndim: ClassVar[int]
    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: IntOrAxes, *, groups: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups: found {groups}, expected a divisor of in_channels {in_channels} and of out_channels "
                f"{out_channels}"
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = axes("kernel_size", kernel_size, self.ndim, 1)
        self.weight = nn.Parameter(torch.empty(out_channels, *self.kernel_size, in_channels // groups))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in ``+-1 / sqrt(fan_in)``, fan_in = kernel volume * in / groups, as torch's convolutions."""
        bound = 1 / math.sqrt(math.prod(self.kernel_size) * self.in_channels // self.groups)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def kernel_map(self, x: SparseTensor) -> KernelMap:
        """The pairs of input and output rows that the layer joins on ``x`` (with no explicit output sites)."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Channels, kernel and groups."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, groups={self.groups}, "
            f"bias={self.bias is not None}"
        )


class _SubMConv(SparseConvBase):
    """Submanifold convolution: output sites are the input sites; see `zoo.ops.subm_conv`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrAxes = 3,
        *,
        dilation: IntOrAxes = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, groups=groups, bias=bias)
        if any(size % 2 == 0 for size in self.kernel_size):
            raise ValueError(f"kernel_size: found {self.kernel_size}, expected odd sizes")
        self.dilation = axes("dilation", dilation, self.ndim, 1)

    def kernel_map(self, x: SparseTensor) -> KernelMap:
        """Pairs on the sites of ``x``."""
        return find_map(x.grid, x.grid, ConvGeometry.submanifold(self.ndim, self.kernel_size, self.dilation))

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolve (N, in) to (N, out) on the same grid."""
        return subm_conv(x, self.weight, self.bias, dilation=self.dilation, groups=self.groups)


class _SparseConv(SparseConvBase):
    """Strided convolution onto every reached site or given ones; see `zoo.ops.sparse_conv`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrAxes = 3,
        *,
        stride: IntOrAxes = 1,
        padding: IntOrAxes = 0,
        dilation: IntOrAxes = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, groups=groups, bias=bias)
        self.stride = axes("stride", stride, self.ndim, 1)
        self.padding = axes("padding", padding, self.ndim, 0)
        self.dilation = axes("dilation", dilation, self.ndim, 1)

    def kernel_map(self, x: SparseTensor) -> KernelMap:
        """Pairs from the sites of ``x`` to all that are reached."""
        geometry = ConvGeometry.of(self.ndim, self.kernel_size, self.stride, self.padding, self.dilation)
        return strided_grid(x.grid, geometry)[1]

    def forward(self, x: SparseTensor, out_grid: VoxelGrid | None = None) -> SparseTensor:
        """Convolve (N, in) to (M, out) on the reached sites, or on ``out_grid``."""
        return sparse_conv(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            out_grid=out_grid,
        )


class _SparseInverseConv(SparseConvBase):
    """Back to the input sites of the strided layer that made the grid; see `zoo.ops.sparse_inverse_conv`."""

    def kernel_map(self, x: SparseTensor) -> KernelMap:
        """The pairs of the strided layer, input and output exchanged."""
        return x.grid.paired_input()[1].swapped()

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolve (M, in) to (N, out) on the paired layer's input grid."""
        return sparse_inverse_conv(x, self.weight, self.bias, groups=self.groups)


class _SparseConvTranspose(SparseConvBase):
    """Transposed convolution onto every reached site or given ones; see `zoo.ops.sparse_conv_transpose`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrAxes = 3,
        *,
        stride: IntOrAxes = 1,
        padding: IntOrAxes = 0,
        output_padding: IntOrAxes = 0,
        dilation: IntOrAxes = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, groups=groups, bias=bias)
        self.stride = axes("stride", stride, self.ndim, 1)
        self.padding = axes("padding", padding, self.ndim, 0)
        self.output_padding = axes("output_padding", output_padding, self.ndim, 0)
        self.dilation = axes("dilation", dilation, self.ndim, 1)

    def kernel_map(self, x: SparseTensor) -> KernelMap:
        """Pairs from the sites of ``x`` to all that are reached."""
        geometry = ConvGeometry.of(self.ndim, self.kernel_size, self.stride, self.padding, self.dilation)
        return transposed_grid(x.grid, geometry, self.output_padding)[1]

    def forward(self, x: SparseTensor, out_grid: VoxelGrid | None = None) -> SparseTensor:
        """Convolve (N, in) to (M, out) on the reached sites, or on ``out_grid``."""
        return sparse_conv_transpose(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation,
            groups=self.groups,
            out_grid=out_grid,
        )


class SubMConv1d(_SubMConv):
    """Submanifold convolution over 1 spatial axis."""

    ndim = 1


class SubMConv2d(_SubMConv):
    """Submanifold convolution over 2 spatial axes."""

    ndim = 2


class SubMConv3d(_SubMConv):
    """Submanifold convolution over 3 spatial axes."""

    ndim = 3


class SparseConv1d(_SparseConv):
    """Strided sparse convolution over 1 spatial axis."""

    ndim = 1


class SparseConv2d(_SparseConv):
    """Strided sparse convolution over 2 spatial axes."""

    ndim = 2


class SparseConv3d(_SparseConv):
    """Strided sparse convolution over 3 spatial axes."""

    ndim = 3


class SparseInverseConv1d(_SparseInverseConv):
    """Inverse sparse convolution over 1 spatial axis."""

    ndim = 1


class SparseInverseConv2d(_SparseInverseConv):
    """Inverse sparse convolution over 2 spatial axes."""

    ndim = 2


class SparseInverseConv3d(_SparseInverseConv):
    """Inverse sparse convolution over 3 spatial axes."""

    ndim = 3


class SparseConvTranspose1d(_SparseConvTranspose):
    """Transposed sparse convolution over 1 spatial axis."""

    ndim = 1


class SparseConvTranspose2d(_SparseConvTranspose):
    """Transposed sparse convolution over 2 spatial axes."""

    ndim = 2


class SparseConvTranspose3d(_SparseConvTranspose):
    """Transposed sparse convolution over 3 spatial axes."""

    ndim = 3
