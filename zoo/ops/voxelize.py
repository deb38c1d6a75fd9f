"""Points to voxels: hard and dynamic voxelisation, and means of point values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.ops.checks import FLOATING, FLOATING_OR_HALF, check_dtype, check_shape
from zoo.ops.grid_keys import check_extent, linear_keys, unique_keys, unravel_keys
from zoo.ops.reference.sparse_conv import accumulation_dtype
from zoo.ops.sparse_tensor import SparseTensor
from zoo.ops.voxel_grid import VoxelGrid


class HardVoxels(NamedTuple):
    """The result of `voxelize`."""

    points: Tensor  # (M, max_points, C), rows in the order of the input, zeros behind them
    coords: Tensor  # (M, 1 + D) int32, in the order of each voxel's first point
    num_points: Tensor  # (M,) int64, 1 to max_points
    point_to_voxel: Tensor  # (P,) int64, -1 for points that were left out


class DynamicVoxels(NamedTuple):
    """The result of `dynamic_voxelize`."""

    grid: VoxelGrid  # N voxels in key order
    point_to_voxel: Tensor  # (P,) int64, -1 for points outside the range
    num_points: Tensor  # (N,) int64, at least 1


def voxelize(
    points: Tensor,
    voxel_size: Sequence[float],
    point_range: Sequence[float],
    *,
    max_points: int,
    max_voxels: int,
    batch_index: Tensor | None = None,
    batch_size: int = 1,
) -> HardVoxels:
    """Group points into at most ``max_voxels`` voxels for each sample, of at most ``max_points`` points each.

    A point lies in cell ``floor((p - min) / voxel_size)``. Voxels are taken in the order of their first point, points
    in the order of the rows; what comes later than the limits is left out. Deterministic. Points outside the range,
    NaN and infinite ones are left out.

    Args:
        points: (P, C); the first D columns are positions, D = ``len(voxel_size)``; float32 or float64.
        voxel_size: Edge of a voxel on each axis.
        point_range: D minima, then D maxima; the shape is ``round((max - min) / voxel_size)``.
        max_points: Points kept in a voxel.
        max_voxels: Voxels kept in a sample.
        batch_index: Sample of every point (P,), int32 or int64; all in sample 0 if None.
        batch_size: Number of samples.

    Returns:
        `HardVoxels`; coordinate columns are in the axis order of the points (flip both for (z, y, x) detectors).

    Raises:
        ValueError: Wrong shapes, dtypes, batch index or range.

    Example:
        >>> import torch
        >>> points = torch.tensor([[0.5, 0.5], [1.5, 0.2], [0.6, 0.1], [9.0, 0.0]])
        >>> voxels = voxelize(points, [1, 1], [0, 0, 2, 1], max_points=1, max_voxels=8)
        >>> voxels.coords.tolist(), voxels.point_to_voxel.tolist()
        ([[0, 0, 0], [0, 1, 0]], [0, 1, -1, -1])
    """
    if max_points < 1 or max_voxels < 1:
        raise ValueError(f"max_points, max_voxels: found {max_points}, {max_voxels}, expected at least 1")
    shape, keys, kept = _point_keys(points, voxel_size, point_range, batch_index, batch_size)
    distinct, voxel, offsets = unique_keys(keys)
    by_voxel = torch.argsort(voxel, stable=True)
    rank = torch.empty_like(by_voxel)  # number of earlier points in the same voxel
    rank[by_voxel] = torch.arange(len(keys), device=keys.device) - offsets[voxel[by_voxel]]
    first_point = by_voxel[offsets[:-1]]
    appearance = torch.argsort(first_point, stable=True)
    coords = unravel_keys(distinct[appearance], shape)
    earlier = _earlier_in_sample(coords[:, 0].long(), batch_size)
    taken = earlier < max_voxels
    new_row = torch.full_like(appearance, -1)
    new_row[appearance[taken]] = torch.arange(int(taken.sum()), device=keys.device)
    row = torch.where(rank < max_points, new_row[voxel], -1)
    point_to_voxel = torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
    point_to_voxel[kept] = row
    coords = coords[taken]
    out = points.new_zeros(len(coords), max_points, points.shape[1])
    used = row >= 0
    out = out.index_put((row[used], rank[used]), points[kept][used])
    counts = offsets.diff()[appearance][taken].clamp(max=max_points)
    return HardVoxels(out, coords, counts, point_to_voxel)


def dynamic_voxelize(
    points: Tensor,
    voxel_size: Sequence[float],
    point_range: Sequence[float],
    *,
    batch_index: Tensor | None = None,
    batch_size: int = 1,
) -> DynamicVoxels:
    """Assign every point to the voxel ``floor((p - min) / voxel_size)``; no limits.

    Args:
        points: (P, C); the first D columns are positions, D = ``len(voxel_size)``; float32 or float64.
        voxel_size: Edge of a voxel on each axis.
        point_range: D minima, then D maxima; the shape is ``round((max - min) / voxel_size)``.
        batch_index: Sample of every point (P,), int32 or int64; all in sample 0 if None.
        batch_size: Number of samples.

    Returns:
        `DynamicVoxels`. Points outside the range, NaN and infinite ones have voxel -1.

    Raises:
        ValueError: Wrong shapes, dtypes, batch index or range.

    Example:
        >>> import torch
        >>> voxels = dynamic_voxelize(torch.tensor([[1.5], [0.2], [1.1], [7.0]]), [1.0], [0.0, 2.0])
        >>> voxels.grid.coords.tolist(), voxels.point_to_voxel.tolist(), voxels.num_points.tolist()
        ([[0, 0], [0, 1]], [1, 0, 1, -1], [1, 2])
    """
    shape, keys, kept = _point_keys(points, voxel_size, point_range, batch_index, batch_size)
    distinct, voxel, offsets = unique_keys(keys)
    point_to_voxel = torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
    point_to_voxel[kept] = voxel
    grid = VoxelGrid.from_sorted(unravel_keys(distinct, shape), shape, batch_size)
    return DynamicVoxels(grid, point_to_voxel, offsets.diff())


def points_to_voxel_mean(values: Tensor, point_to_voxel: Tensor, num_voxels: int) -> Tensor:
    """Mean of the values of each voxel's points.

    Args:
        values: Point values (P, C), floating.
        point_to_voxel: Voxel of every point (P,), int64; points with -1 take no part.
        num_voxels: Number of voxels N.

    Returns:
        Means (N, C); 0 for a voxel without points. Differentiable in ``values``.

    Raises:
        ValueError: Wrong shapes or dtypes.

    Example:
        >>> import torch
        >>> points_to_voxel_mean(torch.tensor([[1.0], [3.0], [9.0]]), torch.tensor([0, 0, -1]), 2).tolist()
        [[2.0], [0.0]]
    """
    check_shape("values", values, ("P", "C"))
    check_dtype("values", values, FLOATING_OR_HALF)
    check_shape("point_to_voxel", point_to_voxel, (values.shape[0],))
    check_dtype("point_to_voxel", point_to_voxel, torch.int64)
    kept = (point_to_voxel >= 0).nonzero().squeeze(1)
    voxel = point_to_voxel[kept]
    taken = values.index_select(0, kept).to(accumulation_dtype(values.dtype))
    sums = taken.new_zeros(num_voxels, values.shape[1]).index_add(0, voxel, taken)
    counts = torch.bincount(voxel, minlength=num_voxels).clamp_(min=1)
    return (sums / counts[:, None]).to(values.dtype)


def points_to_sparse(
    points: Tensor,
    voxel_size: Sequence[float],
    point_range: Sequence[float],
    *,
    batch_index: Tensor | None = None,
    batch_size: int = 1,
) -> tuple[SparseTensor, Tensor]:
    """Voxelise points and average all their columns in each voxel: (P, C) to a sparse tensor (N, C).

    Args:
        points: (P, C); the first D columns are positions, D = ``len(voxel_size)``.
        voxel_size: Edge of a voxel on each axis.
        point_range: D minima, then D maxima.
        batch_index: Sample of every point (P,).
        batch_size: Number of samples.

    Returns:
        The sparse tensor and ``point_to_voxel`` (P,) int64, -1 for points outside the range.

    Example:
        >>> import torch
        >>> x, point_to_voxel = points_to_sparse(torch.tensor([[1.5, 4.0], [1.1, 6.0]]), [1.0], [0.0, 2.0])
        >>> x.coords.tolist(), x.features[:, 1].tolist()
        ([[0, 1]], [5.0])
    """
    voxels = dynamic_voxelize(points, voxel_size, point_range, batch_index=batch_index, batch_size=batch_size)
    means = points_to_voxel_mean(points, voxels.point_to_voxel, voxels.grid.num_sites)
    return SparseTensor(means, voxels.grid), voxels.point_to_voxel


def range_shape(voxel_size: Sequence[float], point_range: Sequence[float]) -> tuple[int, ...]:
    """The number of voxels on each axis, ``round((max - min) / voxel_size)``."""
    ndim = len(voxel_size)
    if len(point_range) != 2 * ndim:
        raise ValueError(f"point_range: found {len(point_range)} values, expected {ndim} minima, then {ndim} maxima")
    if any(size <= 0 for size in voxel_size):
        raise ValueError(f"voxel_size: found {tuple(voxel_size)}, expected sizes above 0")
    low, high = point_range[:ndim], point_range[ndim:]
    shape = tuple(round((b - a) / size) for a, b, size in zip(low, high, voxel_size, strict=True))
    if any(size < 1 for size in shape):
        raise ValueError(f"point_range: found {tuple(point_range)}, expected maxima a voxel or more above the minima")
    return shape


def point_cells(
    positions: Tensor, voxel_size: Sequence[float], point_range: Sequence[float]
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """The cell of every position, int64 (P, D), whether it is in the range (P,), and the shape of the range."""
    shape = range_shape(voxel_size, point_range)
    low = positions.new_tensor(point_range[: len(shape)])
    cells = torch.floor((positions - low) / positions.new_tensor(voxel_size))
    inside = ((cells >= 0) & (cells < cells.new_tensor(shape))).all(dim=1)  # false for NaN
    return torch.where(inside[:, None], cells, 0).to(torch.int64), inside, shape


def _point_keys(
    points: Tensor,
    voxel_size: Sequence[float],
    point_range: Sequence[float],
    batch_index: Tensor | None,
    batch_size: int,
) -> tuple[tuple[int, ...], Tensor, Tensor]:
    """The shape, the linear keys of the points inside the range, and their rows."""
    check_dtype("points", points, FLOATING)
    if points.dim() != 2 or points.shape[1] < len(voxel_size):
        raise ValueError(f"points: found shape {tuple(points.shape)}, expected (P, at least {len(voxel_size)})")
    cells, inside, shape = point_cells(points[:, : len(voxel_size)].detach(), voxel_size, point_range)
    shape = check_extent(shape, batch_size)
    if batch_index is None:
        batch_index = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    check_shape("batch_index", batch_index, (len(points),))
    check_dtype("batch_index", batch_index, (torch.int32, torch.int64))
    if len(batch_index) and not (int(batch_index.min()) >= 0 and int(batch_index.max()) < batch_size):
        found = f"{int(batch_index.min())} to {int(batch_index.max())}"
        raise ValueError(f"batch_index: found {found}, expected 0 to {batch_size - 1} (batch_size {batch_size})")
    kept = inside.nonzero().squeeze(1)
    rows = torch.cat([batch_index.to(torch.int64)[:, None], cells], dim=1)[kept]
    return shape, linear_keys(rows, shape), kept


def _earlier_in_sample(sample: Tensor, batch_size: int) -> Tensor:
    """For every element the number of earlier elements with the same sample."""
    order = torch.argsort(sample, stable=True)
    starts = torch.bincount(sample, minlength=batch_size).cumsum(0) - torch.bincount(sample, minlength=batch_size)
    earlier = torch.empty_like(order)
    earlier[order] = torch.arange(len(sample), device=sample.device) - starts[sample[order]]
    return earlier
