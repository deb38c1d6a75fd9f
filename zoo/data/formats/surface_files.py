"""A surface as people have it: a mesh, or a cloud of points, in any of the usual files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray

from zoo.data.bad_samples import SampleError
from zoo.data.formats.las import read_las
from zoo.data.formats.mesh_files import load_trimesh
from zoo.data.formats.numpy_files import read_npy, read_npz
from zoo.data.formats.pcd import read_pcd

__all__ = ["SURFACE_SUFFIXES", "SurfaceFile", "read_surface"]

_TRIMESH = (".ply", ".obj", ".off", ".stl", ".glb")
_TEXT = (".xyz", ".txt", ".pts", ".csv")
SURFACE_SUFFIXES = (*_TRIMESH, *_TEXT, ".npz", ".npy", ".pcd", ".las")
_POINT_KEYS = ("points", "xyz", "coord", "pos", "vertices", "arr_0")
_SCANS = (".laz", ".e57")


@dataclass(frozen=True)
class SurfaceFile:
    """What a file holds.

    Attributes:
        points: The cloud, or the vertices of the mesh, ``(N, 3)`` float64; NaN and infinite points are left out.
        mesh: The mesh; None for a cloud.
        left_out: How many points were not finite.
    """

    points: NDArray[np.float64]
    mesh: trimesh.Trimesh | None
    left_out: int = 0


def read_surface(path: Path | str, *, min_points: int = 4) -> SurfaceFile:
    """Read a mesh or a cloud.

    ``.ply``, ``.obj``, ``.off``, ``.stl``, ``.glb``: a mesh if the file has faces, else a cloud. ``.xyz``, ``.txt``,
    ``.pts``, ``.csv``: a point a line, x y z first; lines that are no numbers are allowed at the top. ``.npz``: the
    array ``points`` (as in Occupancy Networks' ``pointcloud.npz``), ``xyz``, ``coord``, ``pos`` or ``vertices``;
    ``.npy``: an array; ``.pcd``; ``.las``, uncompressed.

    Args:
        path: The file.
        min_points: Fewer finite points than these are refused.

    Raises:
        SampleError: A missing, damaged or unknown file, too few points, or points that are all the same.
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if not path.is_file():
        raise SampleError(path, "no such file")
    if suffix in _SCANS:
        raise SampleError(
            path,
            f"{suffix} needs a library that voxelzoo does not install; save the cloud as .las or .ply, for example "
            "with `pdal translate` or CloudCompare",
        )
    if suffix not in SURFACE_SUFFIXES:
        raise SampleError(path, f"unknown kind of file, expected {', '.join(SURFACE_SUFFIXES)}")
    mesh: trimesh.Trimesh | None = None
    try:
        if suffix in _TRIMESH:
            points, mesh = _from_trimesh(path)
        elif suffix in _TEXT:
            points = _from_text(path)
        elif suffix == ".las":
            points = read_las(path)
        elif suffix == ".pcd":
            fields = read_pcd(path)
            points = np.stack([np.asarray(fields[name], dtype=np.float64) for name in "xyz"], axis=1)
        else:
            points = _from_numpy(path)
    except SampleError:
        raise
    except Exception as error:  # readers of damaged files raise whatever they stumble over
        raise SampleError(path, f"cannot be read as {suffix} ({type(error).__name__}: {error})") from error
    if points.ndim != 2 or points.shape[1] < 3:
        raise SampleError(path, f"points have shape {points.shape}, expected (N, 3) or more columns")
    points = np.asarray(points[:, :3], dtype=np.float64)
    finite = np.isfinite(points).all(axis=1)
    if mesh is not None and not finite.all():
        raise SampleError(path, f"{int((~finite).sum())} vertices of the mesh are NaN or infinite")
    kept = points[finite]
    if len(kept) < min_points:
        raise SampleError(path, f"{len(kept)} finite points of {len(points)}, expected at least {min_points}")
    if not np.ptp(kept, axis=0).max() > 0:
        raise SampleError(path, "all points are at the same place")
    return SurfaceFile(kept, mesh, int((~finite).sum()))


def _from_trimesh(path: Path) -> tuple[NDArray[Any], trimesh.Trimesh | None]:
    loaded: Any = load_trimesh(path, process=False)
    parts: list[Any] = list(loaded.dump()) if isinstance(loaded, trimesh.Scene) else [loaded]
    meshes = [part for part in parts if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    if meshes:
        mesh: Any = trimesh.util.concatenate(meshes) if len(meshes) > 1 else meshes[0]
        return np.asarray(mesh.vertices), mesh
    clouds = [np.asarray(part.vertices) for part in parts if len(getattr(part, "vertices", ()))]
    if not clouds and path.suffix.lower() == ".obj":  # vertices without faces, which trimesh drops
        lines = [line.split()[1:4] for line in path.read_text(errors="replace").splitlines() if line.startswith("v ")]
        clouds = [np.array(lines, dtype=np.float64).reshape(-1, 3)]
    if not clouds:
        raise SampleError(path, "holds neither faces nor points")
    return np.concatenate(clouds), None


def _from_text(path: Path) -> NDArray[np.float64]:
    """Rows of numbers; a header before the first of them is skipped, as the count in .pts files."""
    rows: list[list[float]] = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        words = line.replace(",", " ").replace(";", " ").split()
        if not words or words[0].startswith(("#", "//")):
            continue
        try:
            values = [float(word) for word in words]
        except ValueError as error:
            if rows:
                raise SampleError(path, f"line {number} is no row of numbers: {line[:60]!r}") from error
            continue
        if len(values) < 3:
            if rows:
                raise SampleError(path, f"line {number} has {len(values)} numbers, expected x y z")
            continue
        rows.append(values[:3])
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def _from_numpy(path: Path) -> NDArray[Any]:
    if path.suffix.lower() == ".npy":
        return read_npy(path)
    found = read_npz(path)
    for key in _POINT_KEYS:
        if key in found:
            return found[key]
    raise SampleError(path, f"has no array of points; found {list(found)}, expected one of {list(_POINT_KEYS)}")
