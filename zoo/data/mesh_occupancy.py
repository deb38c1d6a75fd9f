"""From watertight meshes to clouds and labelled positions in the ShapeNet layout of Occupancy Networks."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.data.bad_samples import SampleError
from zoo.data.formats.mesh_files import load_trimesh
from zoo.data.formats.modelnet import sample_surface
from zoo.data.formats.occupancy import write_cloud, write_points

__all__ = ["inside_mesh", "prepare_mesh", "split_names"]

_PADDED = 1.1  # side of the cube in which positions are labelled
_PAIRS = 2_000_000  # pairs of position and triangle that are compared at once


def inside_mesh(
    vertices: NDArray[np.float64], triangles: NDArray[np.int64], points: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether positions lie inside a closed surface: their upward ray meets an odd number of triangles, ``(N,)``.

    Args:
        vertices: ``(V, 3)``.
        triangles: ``(T, 3)``.
        points: ``(N, 3)``.
    """
    corners = vertices[triangles]  # (T, 3, 3)
    order = np.argsort(points[:, 0], kind="stable")
    x = points[order, 0]
    first = np.searchsorted(x, corners[:, :, 0].min(axis=1))
    counts = np.searchsorted(x, corners[:, :, 0].max(axis=1)) - first  # positions in the triangle's x range
    crossings = np.zeros(len(points), dtype=np.int64)
    begin = 0
    ends = np.cumsum(counts)
    while begin < len(triangles):
        done = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + _PAIRS, side="right")))
        number = counts[begin:end]
        which = np.repeat(np.arange(begin, end), number)
        offset = np.arange(len(which)) - np.repeat(np.cumsum(number) - number, number)
        rows = order[first[which] + offset]
        hit = _above(corners[which], points[rows])
        crossings += np.bincount(rows[hit], minlength=len(points))
        begin = end
    return crossings % 2 == 1


def _above(corners: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether triangles ``(P, 3, 3)`` lie straight above positions ``(P, 3)``."""
    a, b, c = (corners[:, k, :2] - points[:, :2] for k in range(3))
    areas = [u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0] for u, v in ((b, c), (c, a), (a, b))]
    total = areas[0] + areas[1] + areas[2]
    covered = np.all([area > 0 for area in areas], axis=0) | np.all([area < 0 for area in areas], axis=0)
    height = sum(area * corners[:, k, 2] for k, area in enumerate(areas))
    return covered & (height * np.sign(total) > points[:, 2] * np.abs(total))


def prepare_mesh(path: Path, folder: Path, *, num_points: int = 100_000, num_surface: int = 100_000) -> None:
    """Write ``points.npz`` and ``pointcloud.npz`` of a mesh file, centred and scaled so that its longest edge is 1.

    Random numbers depend on the file's name only.

    Raises:
        SampleError: The file cannot be read, has no triangle, or is not watertight.
    """
    import trimesh

    mesh = load_trimesh(path, force="mesh")
    if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces):
        raise SampleError(path, "holds no triangle")
    if not mesh.is_watertight:
        raise SampleError(
            path, "is not watertight, so that inside and outside are not defined; close its holes or leave it out"
        )
    rng = np.random.default_rng(zlib.crc32(path.stem.encode()))
    vertices, triangles = np.asarray(mesh.vertices, dtype=np.float64), np.asarray(mesh.faces, dtype=np.int64)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    loc, scale = (low + high) / 2, float((high - low).max())
    vertices = (vertices - loc) / scale
    cloud = sample_surface(vertices, triangles, num_surface, rng)
    points = rng.uniform(-_PADDED / 2, _PADDED / 2, (num_points, 3))
    write_cloud(folder / "pointcloud.npz", cloud[:, :3], cloud[:, 3:], loc=loc, scale=scale)
    write_points(folder / "points.npz", points, inside_mesh(vertices, triangles, points), loc=loc, scale=scale)


def split_names(names: list[str]) -> dict[str, list[str]]:
    """Names in order to train, val and test: of every ten, the ninth and the tenth; of fewer, the last two.

    Raises:
        ValueError: Fewer than three.

    Example:
        >>> split_names(["a", "b", "c"])
        {'train': ['a'], 'val': ['b'], 'test': ['c']}
    """
    if len(names) < 3:
        raise ValueError(f"meshes: found {len(names)} that can be used, expected at least 3, one for each split")
    if len(names) < 10:
        return {"train": names[:-2], "val": [names[-2]], "test": [names[-1]]}
    places = {"train": range(8), "val": (8,), "test": (9,)}
    return {split: [n for k, n in enumerate(names) if k % 10 in where] for split, where in places.items()}
