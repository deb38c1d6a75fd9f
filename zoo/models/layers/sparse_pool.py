"""Pooling modules on sparse tensors."""

from __future__ import annotations

from torch import Tensor

from zoo.models.layers.sparse_sequential import SparseModule
from zoo.ops import SparseTensor, VoxelGrid, global_avg_pool, global_max_pool, sparse_avg_pool, sparse_max_pool
from zoo.ops.kernel_map import IntOrAxes


class _WindowPool(SparseModule):
    """Kernel, stride, padding and dilation of a pooling window; one int, or one for each axis."""

    def __init__(
        self,
        kernel_size: IntOrAxes,
        *,
        stride: IntOrAxes | None = None,
        padding: IntOrAxes = 0,
        dilation: IntOrAxes = 1,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation

    def extra_repr(self) -> str:
        """The window's geometry."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}"


class SparseMaxPool(_WindowPool):
    """Maximum over the active sites of each window, for any number of axes; see `zoo.ops.sparse_max_pool`."""

    def forward(self, x: SparseTensor, out_grid: VoxelGrid | None = None) -> SparseTensor:
        """Pool (N, C) to (M, C)."""
        geometry = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return sparse_max_pool(x, self.kernel_size, **geometry, out_grid=out_grid)


class SparseAvgPool(_WindowPool):
    """Mean over the active sites of each window, for any number of axes; see `zoo.ops.sparse_avg_pool`."""

    def forward(self, x: SparseTensor, out_grid: VoxelGrid | None = None) -> SparseTensor:
        """Pool (N, C) to (M, C)."""
        geometry = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return sparse_avg_pool(x, self.kernel_size, **geometry, out_grid=out_grid)


class SparseGlobalAvgPool(SparseModule):
    """Mean over the sites of each sample: (N, C) to (B, C)."""

    def forward(self, x: SparseTensor) -> Tensor:
        """Pool every sample to one row."""
        return global_avg_pool(x)


class SparseGlobalMaxPool(SparseModule):
    """Maximum over the sites of each sample: (N, C) to (B, C)."""

    def forward(self, x: SparseTensor) -> Tensor:
        """Pool every sample to one row."""
        return global_max_pool(x)
