"""Files of the Occupancy Networks data sets: labelled positions with packed occupancies, and surface clouds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.data.bad_samples import SampleError
from zoo.data.formats.numpy_files import read_npz
from zoo.files import atomic_path

__all__ = [
    "BOUNDARY_FOLDER",
    "read_boundary",
    "read_cloud",
    "read_points",
    "write_boundary",
    "write_cloud",
    "write_points",
]

BOUNDARY_FOLDER = "boundary0.08"
_HALF_JITTER = 1e-4  # positions stored in half precision lie on a lattice


def _positions(path: Path, name: str, values: NDArray[Any]) -> NDArray[np.float32]:
    if values.ndim != 2 or values.shape[1] != 3 or not len(values) or values.dtype.kind not in "fiu":
        raise SampleError(path, f"{name}: found {values.dtype} {values.shape}, expected numbers (N, 3), N > 0")
    if not np.isfinite(values).all():
        raise SampleError(
            path, f"{name}: found {int((~np.isfinite(values)).any(1).sum())} rows that are NaN or infinite"
        )
    return values.astype(np.float32)


def read_points(path: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_], bool]:
    """Positions ``(N, 3)``, occupancy ``(N,)``, and whether the positions were stored in half precision.

    Raises:
        SampleError: The file is missing, damaged or inconsistent.
    """
    found = read_npz(path, ("points", "occupancies"))
    points, packed = _positions(path, "points", found["points"]), found["occupancies"]
    if packed.dtype == np.uint8 and packed.shape == ((len(points) + 7) // 8,):
        packed = np.unpackbits(packed)[: len(points)]
    if packed.shape != (len(points),):
        raise SampleError(
            path, f"occupancies: found shape {packed.shape}, expected one label or one bit for each of {len(points)}"
        )
    return points, packed.astype(bool), found["points"].dtype == np.float16


def read_cloud(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Surface points and normals, ``(N, 3)`` each.

    Raises:
        SampleError: The file is missing, damaged or inconsistent.
    """
    found = read_npz(path, ("points", "normals"))
    points, normals = _positions(path, "points", found["points"]), _positions(path, "normals", found["normals"])
    if len(points) != len(normals):
        raise SampleError(path, f"normals: found {len(normals)}, expected {len(points)}, one for each point")
    return points, normals


def read_boundary(path: Path, count: int) -> NDArray[np.bool_]:
    """Which of ``count`` labelled positions lie near the surface.

    Raises:
        SampleError: The file is missing, damaged or belongs to other positions.
    """
    if not path.is_file():
        raise SampleError(path, "no boundary flags; make them with tools/prepare_data.py data=NAME action=prepare")
    flags = read_npz(path, ("contrastive",))["contrastive"].astype(bool)
    if flags.shape != (count,):
        raise SampleError(path, f"contrastive: found shape {flags.shape}, expected ({count},)")
    if not flags.any():
        raise SampleError(path, "contrastive: no position lies near the surface")
    return flags


def jitter_half(points: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Positions that were stored in half precision, moved off its lattice."""
    return points + rng.normal(0.0, _HALF_JITTER, points.shape).astype(np.float32)


def write_points(path: Path, points: NDArray[Any], occupancy: NDArray[np.bool_], **extra: Any) -> None:
    """Positions in half precision, occupancies packed to bits."""
    _write(path, points=points.astype(np.float16), occupancies=np.packbits(occupancy), **extra)


def write_cloud(path: Path, points: NDArray[Any], normals: NDArray[Any], **extra: Any) -> None:
    """Points and normals in half precision."""
    _write(path, points=points.astype(np.float16), normals=normals.astype(np.float16), **extra)


def write_boundary(path: Path, source: Path, flags: NDArray[np.bool_]) -> None:
    """The arrays of a file of labelled positions with the flags beside them."""
    found = read_npz(source, ("points", "occupancies"))
    _write(path, **found, contrastive=flags.astype(np.uint8))


def _write(path: Path, **arrays: Any) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
