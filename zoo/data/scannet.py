"""From scans of ScanNet to clouds in the layout of Occupancy Networks: rooms with a surface, but no inside.

Dai et al., "ScanNet" (CVPR 2017); prepared as Peng et al., "Convolutional Occupancy Networks" (ECCV 2020), section 4.3.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.data.bad_samples import SampleError
from zoo.data.formats.modelnet import sample_surface
from zoo.data.formats.occupancy import write_cloud
from zoo.data.formats.surface_files import read_surface

__all__ = ["MESH_ENDING", "prepare_scan", "read_alignment"]

MESH_ENDING = "_vh_clean_2.ply"


def read_alignment(path: Path) -> NDArray[np.float64]:
    """The entry ``axisAlignment`` of a scan's description, ``(4, 4)``: it makes walls parallel to the axes.

    Raises:
        SampleError: There is no such file, or no such entry of sixteen numbers.
    """
    if not path.is_file():
        raise SampleError(path, "no such file; it comes with the scan and holds axisAlignment")
    for line in path.read_text(errors="replace").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "axisAlignment":
            try:
                numbers = np.array([float(word) for word in value.split()])
            except ValueError:
                numbers = np.zeros(0)
            if numbers.size == 16 and np.isfinite(numbers).all():
                return numbers.reshape(4, 4)
            raise SampleError(path, f"axisAlignment is {value.strip()[:60]!r}, expected sixteen numbers")
    raise SampleError(path, "has no entry axisAlignment")


def prepare_scan(scan: Path, folder: Path, *, num_surface: int = 100_000) -> None:
    """Write ``pointcloud.npz`` of one scan, a folder ``<scene>`` with ``<scene>_vh_clean_2.ply`` and ``<scene>.txt``.

    The mesh is aligned to its axes, y and z change places (y is up then), the longest side of its box becomes 1, its
    middle the origin and its floor y = -0.5. Random numbers depend on the scan's name only.

    Args:
        scan: The folder.
        folder: Where the file goes.
        num_surface: Points drawn on the mesh.

    Raises:
        SampleError: A file is missing or damaged, or the mesh has no triangle.
    """
    path = scan / f"{scan.name}{MESH_ENDING}"
    mesh = read_surface(path).mesh
    if mesh is None:
        raise SampleError(path, "holds no triangle")
    alignment = read_alignment(scan / f"{scan.name}.txt")
    aligned = np.asarray(mesh.vertices, dtype=np.float64) @ alignment[:3, :3].T + alignment[:3, 3]
    vertices, triangles = aligned[:, [0, 2, 1]], np.asarray(mesh.faces)[:, ::-1]  # the mirror turns triangles around
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    vertices = (vertices - (low + high) / 2) / (high - low).max()
    vertices[:, 1] -= vertices[:, 1].min() + 0.5
    try:
        cloud = sample_surface(vertices, triangles, num_surface, np.random.default_rng(zlib.crc32(scan.name.encode())))
    except ValueError as error:
        raise SampleError(path, "its triangles have no area") from error
    write_cloud(folder / "pointcloud.npz", cloud[:, :3], cloud[:, 3:])
