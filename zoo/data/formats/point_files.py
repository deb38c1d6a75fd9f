"""A point cloud in any of the files that people have: ``.bin``, ``.ply``, ``.pcd``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.data.bad_samples import SampleError
from zoo.data.formats.pcd import read_pcd
from zoo.data.formats.ply_files import read_ply_vertices
from zoo.data.formats.velodyne import read_velodyne

__all__ = ["POINT_SUFFIXES", "find_point_files", "read_points"]

POINT_SUFFIXES = (".bin", ".ply", ".pcd")
_INTENSITY = ("intensity", "reflectance", "remission", "scalar_intensity", "scalar_Intensity", "i")


def find_point_files(path: Path | str) -> list[Path]:
    """The file itself, or the point files of a folder in the order of their names.

    Raises:
        SampleError: no such file, or a folder without any.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise SampleError(path, "no such file or folder")
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in POINT_SUFFIXES)
    if not found:
        raise SampleError(path, f"holds no point file; expected {', '.join(POINT_SUFFIXES)}")
    return found


def read_points(path: Path | str, columns: int = 4) -> NDArray[np.float32]:
    """Points ``(N, columns)``: x, y, z, intensity; columns beyond what the file has are 0.

    A ``.bin`` holds rows of four float32, as KITTI's; a ``.pcd.bin`` rows of five, as nuScenes'. Integer intensities,
    and others above 1, are divided by 255, which KITTI-trained models expect; those of nuScenes stay as they are.

    Raises:
        SampleError: a missing or damaged file, one without x, y, z, or values that are not finite.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if path.name.lower().endswith(".pcd.bin"):
        points = read_rows(path, 5)[:, :4]
    elif suffix == ".bin":
        points = read_velodyne(path)
    elif suffix in (".ply", ".pcd"):
        points = _from_fields(path, read_pcd(path) if suffix == ".pcd" else read_ply_vertices(path))
    else:
        raise SampleError(path, f"unknown kind of point file, expected {', '.join(POINT_SUFFIXES)}")
    finite = np.isfinite(points).all(axis=1)
    if suffix == ".pcd":
        points = points[finite]  # invalid points of an organised cloud are NaN by convention
    elif not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise SampleError(path, f"{int((~finite).sum())} points are NaN or infinite, the first is row {row}")
    if columns <= points.shape[1]:
        return np.ascontiguousarray(points[:, :columns])
    return np.pad(points, ((0, 0), (0, columns - points.shape[1])))


def read_rows(path: Path, width: int) -> NDArray[np.float32]:
    """Rows of ``width`` little-endian float32 without a header.

    Raises:
        SampleError: a missing or empty file, or no whole number of rows.
    """
    if not path.is_file():
        raise SampleError(path, "no such point file")
    size = path.stat().st_size
    if size == 0 or size % (4 * width):
        raise SampleError(path, f"{size} bytes, expected rows of {width} float32 ({4 * width} bytes); is it cut short?")
    return np.fromfile(path, dtype="<f4").astype(np.float32, copy=False).reshape(-1, width)


def _from_fields(path: Path, fields: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    missing = [name for name in ("x", "y", "z") if name not in fields]
    if missing:
        raise SampleError(path, f"has no field {missing[0]!r}; found {', '.join(fields) or 'none'}")
    intensity = next((fields[name] for name in _INTENSITY if name in fields), None)
    if intensity is None:
        intensity = np.zeros(len(fields["x"]))
    intensity = np.asarray(intensity)
    with np.errstate(invalid="ignore"):
        scaled = np.issubdtype(intensity.dtype, np.integer) or bool((intensity > 1.0).any())
    values = [fields["x"], fields["y"], fields["z"], intensity / 255.0 if scaled else intensity]
    return np.stack([np.asarray(value, dtype=np.float32) for value in values], axis=1)
