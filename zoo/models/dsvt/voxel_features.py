"""Dynamic voxel features (VFE) of DSVT: points to one feature vector for each occupied voxel or pillar.

No point is dropped to meet a limit. For the points p of a voxel with centre v and mean m::

    x = [xyz, extras, xyz - m, xyz - v (, |xyz|)]           # (P, F + 6)
    x = ReLU(BN(W x));  x = [x, max over the voxel]         # every layer but the last
    y = max over the voxel of ReLU(BN(W x))                 # (M, C)

Axis order: voxel coordinates are (b, x, y, z); rows ascend by ((b X + x) Y + y) Z + z, upstream's order.
Points outside of the range, or not finite, are dropped first, so that no normalisation sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.models.layers.sparse_norm import RowBatchNorm
from zoo.ops import dynamic_voxelize, segment_max, segment_mean


class VoxelFeatures(NamedTuple):
    """Occupied voxels and what the points say about them."""

    features: Tensor  # (M, C)
    coords: Tensor  # (M, 4) int32: b, x, y, z


class GroupedPoints(NamedTuple):
    """Points in the order of their voxels, described, before any layer."""

    points: Tensor  # (P, F + 6)
    voxel: Tensor  # (P,) int64, ascending
    runs: Tensor  # (M, 2) int64: first point and number of points of each voxel
    coords: Tensor  # (M, 4) int32: b, x, y, z


class PointNetLayer(nn.Module):
    """Linear, batch norm, ReLU and the maximum over each voxel, which all but the last layer append to the points."""

    def __init__(self, in_channels: int, out_channels: int, *, last: bool) -> None:
        super().__init__()
        if not last and out_channels % 2:
            raise ValueError(f"channels: found {out_channels}, expected an even number for every layer but the last")
        self.last = last
        width = out_channels if last else out_channels // 2
        self.linear = nn.Linear(in_channels, width, bias=False)
        self.norm = RowBatchNorm(width, eps=1e-3, momentum=0.01)

    def forward(self, points: Tensor, voxel: Tensor, maximum: Callable[[Tensor], Tensor]) -> Tensor:
        """Points (P, C_in) in voxels (P,) to points (P, C_out), or voxels (M, C_out) if last.

        ``maximum`` takes points (P, C), none negative, to the largest of each voxel (M, C).
        """
        hidden = functional.relu(self.norm(self.linear(points)))
        largest = maximum(hidden).to(hidden.dtype)
        return largest if self.last else torch.cat([hidden, largest[voxel]], dim=1)


class DynamicVoxelFeatures(nn.Module):
    """The stack of PointNet layers over all points of every voxel.

    Args:
        point_range: Minima of x, y, z, then maxima, metres.
        voxel_size: Edges along x, y, z, metres.
        num_point_features: Columns of a point: x, y, z and extras.
        channels: Output width of every layer.
        absolute_xyz: Whether x, y, z themselves are features.
        with_distance: Whether the distance from the origin is one.
        any_height: Whether points above and below the range count too; for pillars only (nuScenes' encoder).
    """

    def __init__(
        self,
        *,
        point_range: Sequence[float],
        voxel_size: Sequence[float],
        num_point_features: int = 4,
        channels: Sequence[int] = (192, 192),
        absolute_xyz: bool = True,
        with_distance: bool = False,
        any_height: bool = False,
    ) -> None:
        super().__init__()
        self.point_range, self.voxel_size = tuple(point_range), tuple(voxel_size)
        self.num_point_features = num_point_features
        self.absolute_xyz, self.with_distance, self.any_height = absolute_xyz, with_distance, any_height
        if num_point_features < 3:
            raise ValueError(f"num_point_features: found {num_point_features}, expected at least 3 (x, y, z)")
        layers = []
        width = num_point_features + (6 if absolute_xyz else 3) + int(with_distance)
        for number, out_channels in enumerate(channels):
            layers.append(PointNetLayer(width, out_channels, last=number == len(channels) - 1))
            width = out_channels
        self.layers = nn.ModuleList(layers)
        self.out_channels = width

    def forward(self, points: Tensor, point_batch: Tensor, batch_size: int) -> VoxelFeatures:
        """Points (P, 3 + F) of samples (P,) to occupied voxels (M, C).

        Raises:
            ValueError: Points with another number of columns.
        """
        grouped = self.group(points, point_batch, batch_size)
        return VoxelFeatures(
            self.encode(grouped.points, grouped.voxel, lambda hidden: segment_max(hidden, packed_info=grouped.runs)),
            grouped.coords,
        )

    def encode(self, points: Tensor, voxel: Tensor, maximum: Callable[[Tensor], Tensor]) -> Tensor:
        """Described points (P, F + 6) of voxels (P,) through all layers to voxels (M, C)."""
        for layer in self.layers:
            points = layer(points, voxel, maximum)
        return points

    def group(self, points: Tensor, point_batch: Tensor, batch_size: int) -> GroupedPoints:
        """Points (P, 3 + F) of samples (P,) by voxel, as the first layer sees them.

        Raises:
            ValueError: Points with another number of columns.
        """
        if points.dim() != 2 or points.shape[1] != self.num_point_features:
            raise ValueError(
                f"points: found shape {tuple(points.shape)}, expected (P, {self.num_point_features}): x, y, z and "
                f"{self.num_point_features - 3} features, as num_point_features says"
            )
        finite = torch.isfinite(points).all(dim=1)
        if not bool(finite.all()):
            points, point_batch = points[finite], point_batch[finite]
        axes = 2 if self.any_height else 3
        bounds = (*self.point_range[:axes], *self.point_range[3 : 3 + axes])
        voxels = dynamic_voxelize(
            points[:, :axes].contiguous(),
            self.voxel_size[:axes],
            bounds,
            batch_index=point_batch,
            batch_size=batch_size,
        )
        by_voxel = torch.sort(voxels.point_to_voxel, stable=True).indices
        by_voxel = by_voxel[len(points) - int(voxels.num_points.sum()) :]  # behind those outside, whose voxel is -1
        points, voxel = points[by_voxel], voxels.point_to_voxel[by_voxel]
        starts = voxels.num_points.cumsum(0) - voxels.num_points
        runs = torch.stack([starts, voxels.num_points], dim=1)
        coords = functional.pad(voxels.grid.coords, (0, 3 - axes))
        return GroupedPoints(self._describe(points, voxel, runs, coords), voxel, runs, coords)

    def _describe(self, points: Tensor, voxel: Tensor, runs: Tensor, coords: Tensor) -> Tensor:
        """What a point says: position, extras, offsets from the mean and the centre of its voxel, (P, F + 6)."""
        xyz = points[:, :3]
        mean = segment_mean(xyz, packed_info=runs)
        size, low = xyz.new_tensor(self.voxel_size), xyz.new_tensor(self.point_range[:3])
        center = coords[:, 1:].to(xyz.dtype) * size + (size / 2 + low)
        parts = [points if self.absolute_xyz else points[:, 3:], xyz - mean[voxel], xyz - center[voxel]]
        if self.with_distance:
            parts.append(xyz.norm(dim=1, keepdim=True))
        return torch.cat(parts, dim=1)
