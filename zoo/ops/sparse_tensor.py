"""Values on a voxel grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.ops.checks import FLOATING_OR_HALF, check_dtype, check_finite, checks_values
from zoo.ops.voxel_grid import VoxelGrid

Operand = "SparseTensor | Tensor | float"


class SparseTensor:
    """Features (N, C) on the N sites of a `VoxelGrid`; many tensors share one grid.

    Rows are in the order of ``grid.coords``. Use `from_coords` for rows in another order, and `to_caller_order` to get
    that order back.

    Arithmetic (``+ - * /``) acts on features and takes numbers, tensors that broadcast against (N, C), and sparse
    tensors on the same sites; ``x[b]`` and ``x[i:j]`` are the samples of a batch as views.

    Args:
        features: Values (N, C): float32, float64, bfloat16 or float16.
        grid: The sites.

    Raises:
        ValueError: Wrong shape, dtype or device; NaN or infinite values with ``ZOO_CHECK=1``.

    Example:
        >>> import torch
        >>> x = SparseTensor.from_coords(torch.tensor([[1.0], [2.0]]), torch.tensor([[0, 1], [0, 0]]), (3,), 1)
        >>> x.features.tolist(), x.to_caller_order().tolist(), (x + 1).dense().tolist()
        ([[2.0], [1.0]], [[1.0], [2.0]], [[[3.0, 2.0, 0.0]]])
    """

    def __init__(self, features: Tensor, grid: VoxelGrid) -> None:
        if features.dim() != 2 or features.shape[0] != grid.coords.shape[0]:
            raise ValueError(
                f"features: found shape {tuple(features.shape)}, expected ({grid.num_sites}, C), a row for each site "
                "of grid"
            )
        check_dtype("features", features, FLOATING_OR_HALF)
        if features.device != grid.device and features.device.type != "meta":
            raise ValueError(f"features: found on device {features.device}, expected {grid.device}, the device of grid")
        if checks_values():
            check_finite("features", features)
        self.features = features
        self.grid = grid

    @classmethod
    def from_coords(
        cls, features: Tensor, coords: Tensor, spatial_shape: Sequence[int], batch_size: int
    ) -> SparseTensor:
        """Features (N, C) on sites (N, 1 + D), both in the caller's row order; see `VoxelGrid` for what is checked."""
        if features.shape[:1] != coords.shape[:1]:
            raise ValueError(f"features: found {len(features)} rows, expected {len(coords)}, the rows of coords")
        grid = VoxelGrid(coords, spatial_shape, batch_size)
        return cls(grid.from_caller_order(features), grid)

    @classmethod
    def from_dense(cls, dense: Tensor, mask: Tensor | None = None) -> SparseTensor:
        """The cells of ``dense`` (B, C, S_0, ...) where ``mask`` (B, S_0, ...) is true, or any channel is not zero."""
        if not 3 <= dense.dim() <= 5:
            raise ValueError(
                f"dense: found shape {tuple(dense.shape)}, expected (B, C, S_0, ...) with 1 to 3 spatial axes"
            )
        if mask is None:
            mask = (dense != 0).any(dim=1)
        if mask.shape != dense.shape[:1] + dense.shape[2:]:
            raise ValueError(f"mask: found {tuple(mask.shape)}, expected {(dense.shape[0], *dense.shape[2:])}")
        coords = mask.nonzero()
        grid = VoxelGrid.from_sorted(coords.to(torch.int32), dense.shape[2:], dense.shape[0])
        return cls(dense.movedim(1, -1)[coords.unbind(1)], grid)

    def dense(self, fill: float = 0.0) -> Tensor:
        """Dense values (B, C, S_0, ...), ``fill`` where there is no site."""
        grid = self.grid
        shape = (grid.batch_size, *grid.spatial_shape)
        out = self.features.new_full((torch.Size(shape).numel(), self.features.shape[1]), fill)
        return out.index_copy(0, grid.keys, self.features).unflatten(0, shape).movedim(-1, 1)

    def replace_feature(self, features: Tensor) -> SparseTensor:
        """Other features on the same grid."""
        return SparseTensor(features, self.grid)

    def map(self, function: Callable[[Tensor], Tensor]) -> SparseTensor:
        """The tensor with ``function`` applied to the features."""
        return SparseTensor(function(self.features), self.grid)

    def to_caller_order(self) -> Tensor:
        """Features (N, C) in the order of the rows that the grid was built from."""
        return self.grid.to_caller_order(self.features)

    @property
    def coords(self) -> Tensor:
        """Sites (N, 1 + D), int32, in the order of the features."""
        return self.grid.coords

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Extent of the spatial axes."""
        return self.grid.spatial_shape

    @property
    def batch_size(self) -> int:
        """Number of samples."""
        return self.grid.batch_size

    @property
    def num_channels(self) -> int:
        """Number of channels C."""
        return self.features.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the features."""
        return self.features.dtype

    @property
    def device(self) -> torch.device:
        """The device of the features."""
        return self.features.device

    def to(self, target: torch.device | torch.dtype | str, *, non_blocking: bool = False) -> SparseTensor:
        """Move to a device (the grid goes along, without its maps), or convert the features to a dtype."""
        if isinstance(target, torch.dtype):
            return SparseTensor(self.features.to(target), self.grid)
        grid = self.grid.to(target, non_blocking=non_blocking)
        return SparseTensor(self.features.to(target, non_blocking=non_blocking), grid)

    def detach(self) -> SparseTensor:
        """The tensor cut from the autograd graph."""
        return SparseTensor(self.features.detach(), self.grid)

    def samples(self) -> list[SparseTensor]:
        """Every sample as a tensor of batch size 1."""
        return [self[index] for index in range(self.batch_size)]

    def __getitem__(self, index: int | slice) -> SparseTensor:
        if isinstance(index, slice):
            start, stop, step = index.indices(self.batch_size)
            if step != 1:
                raise IndexError(f"index: found step {step}, expected 1")
            stop = max(start, stop)
        else:
            start = index + self.batch_size if index < 0 else index
            if not 0 <= start < self.batch_size:
                raise IndexError(f"index: found sample {index}, expected one of {self.batch_size} samples")
            stop = start + 1
        grid = self.grid
        first, last = int(grid.sample_offsets[start]), int(grid.sample_offsets[stop])
        coords = grid.coords[first:last].clone()
        coords[:, 0] -= start
        return SparseTensor(self.features[first:last], VoxelGrid.from_sorted(coords, grid.spatial_shape, stop - start))

    def _operand(self, other: Any) -> Any:
        if not isinstance(other, SparseTensor):
            return other
        if not self.grid.same_sites(other.grid):
            raise ValueError(
                f"other: found {other.grid}, expected the sites of {self.grid}; arithmetic joins tensors on the same "
                "sites"
            )
        return other.features

    def __add__(self, other: Any) -> SparseTensor:
        return SparseTensor(self.features + self._operand(other), self.grid)

    def __sub__(self, other: Any) -> SparseTensor:
        return SparseTensor(self.features - self._operand(other), self.grid)

    def __mul__(self, other: Any) -> SparseTensor:
        return SparseTensor(self.features * self._operand(other), self.grid)

    def __truediv__(self, other: Any) -> SparseTensor:
        return SparseTensor(self.features / self._operand(other), self.grid)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: Any) -> SparseTensor:
        return SparseTensor(other - self.features, self.grid)

    def __rtruediv__(self, other: Any) -> SparseTensor:
        return SparseTensor(other / self.features, self.grid)

    def __neg__(self) -> SparseTensor:
        return SparseTensor(-self.features, self.grid)

    def __len__(self) -> int:
        return self.grid.num_sites

    def __repr__(self) -> str:
        return f"SparseTensor(num_channels={self.num_channels}, dtype={self.dtype}, grid={self.grid})"


def cat_channels(tensors: Sequence[SparseTensor]) -> SparseTensor:
    """Join tensors on the same sites along the channels: (N, C_1), (N, C_2), ... -> (N, C_1 + C_2 + ...).

    Raises:
        ValueError: Nothing to join, or other sites than the first tensor's.

    Example:
        >>> import torch
        >>> grid = VoxelGrid(torch.tensor([[0, 1]]), (2,), 1)
        >>> x = SparseTensor(torch.ones(1, 2), grid)
        >>> cat_channels([x, x * 2]).features.tolist()
        [[1.0, 1.0, 2.0, 2.0]]
    """
    if not tensors:
        raise ValueError("tensors: found none, expected at least one")
    first = tensors[0]
    return SparseTensor(torch.cat([first._operand(tensor) for tensor in tensors], dim=1), first.grid)


def cat_samples(tensors: Sequence[SparseTensor]) -> SparseTensor:
    """Join batches into one: the samples of the first tensor, then those of the second, and so on.

    Raises:
        ValueError: Nothing to join, or tensors of different spatial shape.

    Example:
        >>> import torch
        >>> x = SparseTensor(torch.ones(1, 1), VoxelGrid(torch.tensor([[0, 1]]), (2,), 1))
        >>> cat_samples([x, x]).coords.tolist()
        [[0, 1], [1, 1]]
    """
    if not tensors:
        raise ValueError("tensors: found none, expected at least one")
    shapes = {tensor.spatial_shape for tensor in tensors}
    if len(shapes) > 1:
        raise ValueError(f"tensors: found spatial shapes {sorted(shapes)}, expected one shape for all")
    coords, batch_size = [], 0
    for tensor in tensors:
        shifted = tensor.coords.clone()
        shifted[:, 0] += batch_size
        coords.append(shifted)
        batch_size += tensor.batch_size
    grid = VoxelGrid.from_sorted(torch.cat(coords), tensors[0].spatial_shape, batch_size)
    return SparseTensor(torch.cat([tensor.features for tensor in tensors]), grid)
