"""Point files of KITTI and SemanticKITTI: rows of little-endian float32 x, y, z (metres) and intensity, no header."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.data.bad_samples import SampleError

FARTHEST = 1000.0  # metres; no automotive sensor reaches it


def read_velodyne(path: Path | str) -> NDArray[np.float32]:
    """The points ``(N, 4)`` of one sweep: x, y, z, intensity.

    Raises:
        SampleError: a missing or empty file, a size that is no whole number of rows, values that are not finite, or
            values that no sweep has (rows of another width look like that).
    """
    path = Path(path)
    if not path.is_file():
        raise SampleError(path, "no such point file")
    size = path.stat().st_size
    if size == 0:
        raise SampleError(path, "an empty file, expected rows of four float32")
    if size % 16:
        raise SampleError(
            path, f"{size} bytes are no whole number of rows of four float32 (16 bytes); is it cut short?"
        )
    points = np.fromfile(path, dtype="<f4").astype(np.float32, copy=False).reshape(-1, 4)
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(bad):
        raise SampleError(path, f"{len(bad)} of {len(points)} points are NaN or infinite, the first is row {bad[0]}")
    odd = np.flatnonzero((np.abs(points[:, :3]) > FARTHEST).any(axis=1) | (points[:, 3] < 0))
    if len(odd):
        raise SampleError(
            path,
            f"row {odd[0]} is {points[odd[0]].tolist()}, expected x, y, z within {FARTHEST:g} m and an intensity of at "
            "least 0; are these rows of four float32?",
        )
    return points


def write_velodyne(path: Path | str, points: NDArray[np.float32]) -> None:
    """Write points ``(N, 4)``.

    Raises:
        ValueError: another shape.
    """
    if points.ndim != 2 or points.shape[1] != 4:
        raise ValueError(f"points: found shape {points.shape}, expected (N, 4): x, y, z, intensity")
    np.ascontiguousarray(points, dtype="<f4").tofile(path)
