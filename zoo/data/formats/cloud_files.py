"""A point cloud of one's own with the columns that a network of voxels reads: positions, and normals or strength."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from zoo.data.bad_samples import SampleError
from zoo.data.formats.modelnet import read_resampled, sample_surface
from zoo.data.formats.ply_files import read_ply_vertices
from zoo.data.formats.point_files import POINT_SUFFIXES, read_points
from zoo.data.formats.surface_files import SURFACE_SUFFIXES, read_surface
from zoo.data.point_samples import PointSample, check_sample
from zoo.ops import furthest_point_sample

__all__ = ["find_cloud_files", "read_cloud"]

_SURFACE_POINTS = 10_000  # drawn from a mesh before the subset is chosen
_NORMALS = ("nx", "ny", "nz")


def find_cloud_files(path: Path | str, feature_names: Sequence[str]) -> list[Path]:
    """The file itself, or the clouds of a folder in the order of their names.

    Args:
        path: A file or a folder.
        feature_names: What the network reads, as `read_cloud` takes them: which files can have it.

    Raises:
        SampleError: No such file, or a folder without any.
    """
    path = Path(path).expanduser()
    suffixes = POINT_SUFFIXES if "strength" in feature_names else SURFACE_SUFFIXES
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise SampleError(path, "no such file or folder")
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes)
    if not found:
        raise SampleError(path, f"holds no cloud; expected {', '.join(suffixes)}")
    return found


def read_cloud(path: Path | str, feature_names: Sequence[str], *, max_points: int | None = None) -> PointSample:
    """A cloud without labels; its name is the file's.

    Args:
        path: With ``strength``: what `read_points` reads. With ``normal``: a mesh, which is sampled evenly over its
            area; lines ``x,y,z,nx,ny,nz`` (``.txt``); or a ``.ply`` with ``nx``, ``ny``, ``nz``. With ``coord`` alone:
            what `read_surface` reads; of a mesh its surface, not its vertices.
        feature_names: Of ``coord``, ``normal`` and ``strength``.
        max_points: Larger clouds are thinned by furthest point sampling; None keeps all.

    Raises:
        SampleError: A missing or damaged file, or one without what the network reads.
        ValueError: A name that no file can serve.
    """
    path = Path(path).expanduser()
    unknown = sorted(set(feature_names) - {"coord", "normal", "strength"})
    if unknown or {"normal", "strength"} <= set(feature_names):
        raise ValueError(
            f"feature_names: found {', '.join(feature_names)}, expected coord, with normal or strength or alone: "
            "no file of another kind can be read"
        )
    if "strength" in feature_names:
        table, extra = torch.from_numpy(read_points(path)), "strength"
    else:
        with_normals = "normal" in feature_names
        table, extra = torch.from_numpy(_surface_rows(path, with_normals, max_points or 0)), "normal"
    if max_points is not None and len(table) > max_points:
        table = table[furthest_point_sample(table[:, :3].contiguous(), max_points)]
    features = {extra: table[:, 3:].contiguous()} if extra in feature_names else {}
    return check_sample(PointSample(path.stem, table[:, :3].contiguous(), features), path)


def _surface_rows(path: Path, with_normals: bool, max_points: int) -> np.ndarray:
    """Points ``(N, 3)``, or points and unit normals ``(N, 6)``, float32."""
    if with_normals and path.suffix.lower() == ".txt":
        return read_resampled(path)
    surface = read_surface(path)
    if surface.mesh is not None:
        rng = np.random.default_rng(zlib.crc32(path.name.encode()))
        count = max(_SURFACE_POINTS, max_points)
        try:
            rows = sample_surface(np.asarray(surface.mesh.vertices), np.asarray(surface.mesh.faces), count, rng)
        except ValueError as error:
            raise SampleError(path, str(error)) from error
        return rows if with_normals else rows[:, :3]
    if not with_normals:
        return surface.points.astype(np.float32)
    fields = read_ply_vertices(path) if path.suffix.lower() == ".ply" else {}
    if not set(_NORMALS) <= set(fields):
        raise SampleError(
            path,
            "has no normals, which the network reads; expected a mesh, a .ply with nx, ny and nz, or a .txt with lines "
            "x,y,z,nx,ny,nz",
        )
    return np.stack([fields[name] for name in ("x", "y", "z", *_NORMALS)], axis=1).astype(np.float32)
