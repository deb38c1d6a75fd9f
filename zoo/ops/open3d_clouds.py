"""Sparse tensors from and to Open3D point clouds; Open3D is imported at the call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.ops.sparse_tensor import SparseTensor
from zoo.ops.voxelize import points_to_sparse


def sparse_from_open3d(
    cloud: Any, voxel_size: float | Sequence[float], point_range: Sequence[float] | None = None
) -> tuple[SparseTensor, Tensor, Tensor]:
    """Voxelise an ``open3d.geometry.PointCloud``; axes (x, y, z), batch size 1.

    Channels are the means over each voxel's points of position (3), then colour (3) and normal (3) where the cloud has
    them.

    Args:
        cloud: The Open3D cloud (legacy geometry).
        voxel_size: Edge of a voxel, one number or three.
        point_range: Three minima, then three maxima; the cloud's bounds (whole voxels) if None.

    Returns:
        The sparse tensor, ``point_to_voxel`` (P,) int64, and the minimum corner of the grid (3,), float64.

    Raises:
        ValueError: An empty cloud without ``point_range``.
    """
    columns = [np.asarray(cloud.points)]
    if cloud.has_colors():
        columns.append(np.asarray(cloud.colors))
    if cloud.has_normals():
        columns.append(np.asarray(cloud.normals))
    points = torch.from_numpy(np.concatenate(columns, axis=1))
    sizes = [float(voxel_size)] * 3 if isinstance(voxel_size, int | float) else [float(size) for size in voxel_size]
    if point_range is None:
        if len(points) == 0:
            raise ValueError("cloud: found no points, expected some, or point_range")
        edges = points.new_tensor(sizes)
        low = torch.floor(points[:, :3].amin(0) / edges) * edges
        high = (torch.floor(points[:, :3].amax(0) / edges) + 1) * edges
        point_range = [*low.tolist(), *high.tolist()]
    x, point_to_voxel = points_to_sparse(points, sizes, point_range)
    return x.to(torch.float32), point_to_voxel, torch.tensor(point_range[:3], dtype=torch.float64)


def sparse_to_open3d(
    x: SparseTensor,
    voxel_size: float | Sequence[float] = 1.0,
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    colors: Tensor | None = None,
) -> Any:
    """An ``open3d.geometry.PointCloud`` with a point at the centre of each voxel of all samples.

    Args:
        x: Three-dimensional sparse tensor, axes (x, y, z).
        voxel_size: Edge of a voxel, one number or three.
        origin: Minimum corner of the grid.
        colors: Colours (N, 3) in [0, 1].

    Raises:
        ValueError: Not three-dimensional, or colours of another shape.
        ImportError: Open3D is not installed.
    """
    if x.grid.ndim != 3:
        raise ValueError(f"x: found {x.grid.ndim} spatial axes, expected 3")
    if colors is not None and tuple(colors.shape) != (len(x), 3):
        raise ValueError(f"colors: found shape {tuple(colors.shape)}, expected ({len(x)}, 3)")
    try:
        import open3d  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("sparse_to_open3d needs open3d: pip install 'voxelzoo[open3d]'") from error
    edges = torch.as_tensor(voxel_size, dtype=torch.float64).expand(3)
    centres = (x.coords[:, 1:].cpu().double() + 0.5) * edges + torch.as_tensor(origin, dtype=torch.float64)
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(centres.numpy()))
    if colors is not None:
        cloud.colors = open3d.utility.Vector3dVector(colors.detach().cpu().double().numpy())
    return cloud
