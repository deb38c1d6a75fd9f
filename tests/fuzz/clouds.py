"""Readers of points, surfaces and shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from plyfile import PlyData, PlyElement

from tests.fuzz.harness import Case, Reader
from tests.unit.data.test_surface_files import las_file
from zoo.data.formats import modelnet, occupancy, semantic_kitti
from zoo.data.formats.gaussian_ply import (
    GaussianParameters,
    read_gaussian_ply,
    read_splat,
    write_gaussian_ply,
    write_splat,
)
from zoo.data.formats.point_files import read_points
from zoo.data.formats.surface_files import read_surface
from zoo.data.formats.velodyne import write_velodyne
from zoo.data.mesh_occupancy import prepare_mesh
from zoo.data.scannet import read_alignment
from zoo.data.voxel_shapes import PackedVoxels

POINTS = np.random.default_rng(0).normal(0, 5, (12, 4)).astype(np.float32)
POINTS[:, 3] = np.linspace(0, 1, 12)
BOX = trimesh.creation.box()
PCD = """# .PCD v0.7
VERSION 0.7
FIELDS x y z intensity
SIZE 4 4 4 4
TYPE F F F F
COUNT 1 1 1 1
WIDTH 12
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS 12
DATA {kind}
"""


def _points(path: Path) -> None:
    found = read_points(path)
    assert found.dtype == np.float32
    assert found.shape[1] == 4
    assert np.isfinite(found).all()


def _surface(path: Path) -> None:
    found = read_surface(path)
    assert np.isfinite(found.points).all()
    if found.mesh is not None:
        faces = np.asarray(found.mesh.faces)
        assert faces.min() >= 0
        assert faces.max() < len(found.mesh.vertices)


def _write_pcd(path: Path, kind: str) -> None:
    if kind == "ascii":
        body = "".join(" ".join(f"{value:.9g}" for value in row) + "\n" for row in POINTS.tolist()).encode()
    elif kind == "binary":
        body = POINTS.astype("<f4").tobytes()
    else:  # LZF: runs of at most 32 literals
        plain = POINTS.astype("<f4").T.tobytes()
        pieces = [plain[place : place + 32] for place in range(0, len(plain), 32)]
        packed = b"".join(bytes([len(piece) - 1]) + piece for piece in pieces)
        plain_size = np.array([len(packed), len(plain)], dtype="<u4").tobytes()
        body = plain_size + packed
    path.write_bytes(PCD.format(kind=kind).encode() + body)


def _write_ply(path: Path, text: bool) -> None:
    table = np.zeros(12, dtype=[("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4")])
    for column, name in enumerate(table.dtype.names or ()):
        table[name] = POINTS[:, column]
    faces = np.array([([0, 1, 2],), ([2, 3, 4],)], dtype=[("vertex_indices", "i4", (3,))])
    PlyData([PlyElement.describe(table, "vertex"), PlyElement.describe(faces, "face")], text=text).write(str(path))


def _shape(path: Path) -> None:
    points = read_resampled_or_off(path)
    assert np.isfinite(points).all()


def read_resampled_or_off(path: Path) -> Any:
    return modelnet.read_off(path)[0] if path.suffix == ".off" else modelnet.read_resampled(path)


def _write_occupancy(root: Path) -> None:
    occupancy.write_points(root / "points.npz", POINTS[:, :3] / 30, POINTS[:, 0] > 0)
    occupancy.write_cloud(root / "cloud.npz", POINTS[:, :3], POINTS[:, 1:])
    occupancy.write_boundary(root / "boundary.npz", root / "points.npz", POINTS[:, 0] > 0)


def _occupancy(root: Path) -> None:
    points, labels, _ = occupancy.read_points(root / "points.npz")
    assert len(points) == len(labels)
    assert np.isfinite(points).all()


def _cloud(root: Path) -> None:
    points, normals = occupancy.read_cloud(root / "cloud.npz")
    assert points.shape == normals.shape


def _write_voxels(root: Path) -> None:
    bits = np.packbits(np.random.default_rng(0).random((2, 512)) > 0.5, axis=1)
    np.savez_compressed(root / "shapes.npz", chair_train=bits, monitor_train=bits)


def _voxels(root: Path) -> None:
    shapes = PackedVoxels(root / "shapes.npz", "train", ("chair", "monitor"))
    for number in range(min(len(shapes), 4)):
        shapes.read(number)


def _sequence(root: Path) -> None:
    (root / "calib.txt").write_text("Tr: " + " ".join(f"{value:.6e}" for value in np.eye(3, 4).ravel()) + "\n")
    lines = [" ".join(f"{value:.6e}" for value in np.eye(3, 4).ravel() + shift) for shift in range(3)]
    (root / "poses.txt").write_text("\n".join(lines) + "\n")
    (root / "times.txt").write_text("0.0\n0.1\n0.2\n")


def _gaussians() -> GaussianParameters:
    generator = torch.Generator().manual_seed(0)
    return GaussianParameters(
        *(torch.randn(shape, generator=generator) for shape in ((5, 3), (5, 3), (5, 4), (5,), (5, 1, 3), (5, 3, 3)))
    )


def _surface_case(suffix: str, kind: str, write: Any) -> Case:
    return Case(f"surface-{suffix}", f"a.{suffix}", kind, write, lambda root: _surface(root / f"a.{suffix}"))


def _mesh(suffix: str) -> Any:
    return lambda root: BOX.export(root / f"a.{suffix}")


def _scan(root: Path) -> None:
    numbers = " ".join(f"{value:.6f}" for value in np.eye(4).ravel())
    (root / "scene.txt").write_text(f"sceneType = Bathroom\naxisAlignment = {numbers}\nnumColorFrames = 3\n")


def _las(root: Path) -> None:
    (root / "a.las").write_bytes(las_file(POINTS[:, :3] + [500_000.0, 5_000_000.0, 0.0]))


def _text(suffix: str) -> Any:
    return lambda root: np.savetxt(root / f"a.{suffix}", POINTS[:, :3], header="x y z")


def _points_case(name: str, file: str, kind: str, write: Any) -> Case:
    return Case(name, file, kind, lambda root: write(root / file), lambda root: _points(root / file))


CLOUDS = (
    Reader(
        "bin",
        (
            _points_case("velodyne", "a.bin", "bytes", lambda path: write_velodyne(path, POINTS)),
            _points_case(
                "nuscenes-bin", "a.pcd.bin", "bytes", lambda path: np.pad(POINTS, ((0, 0), (0, 1))).tofile(path)
            ),
        ),
    ),
    Reader(
        "ply",
        (
            _points_case("ply-binary", "a.ply", "bytes", lambda path: _write_ply(path, text=False)),
            _points_case("ply-ascii", "a.ply", "text", lambda path: _write_ply(path, text=True)),
            Case(
                "gaussian-ply",
                "a.ply",
                "text",
                lambda root: write_gaussian_ply(root / "a.ply", _gaussians()),
                lambda root: read_gaussian_ply(root / "a.ply"),
            ),
            _surface_case("ply", "text", _mesh("ply")),
        ),
    ),
    Reader(
        "pcd",
        tuple(
            _points_case(f"pcd-{kind}", "a.pcd", "text", lambda path, kind=kind: _write_pcd(path, kind))
            for kind in ("ascii", "binary", "binary_compressed")
        ),
    ),
    Reader(
        "obj",
        (
            _surface_case("obj", "text", _mesh("obj")),
            Case(
                "obj-solid",
                "a.obj",
                "text",
                _mesh("obj"),
                lambda root: prepare_mesh(root / "a.obj", root / "out", num_points=50, num_surface=50),
            ),
        ),
    ),
    Reader("mesh", tuple(_surface_case(suffix, "text", _mesh(suffix)) for suffix in ("off", "stl", "glb"))),
    Reader(
        "table",
        (
            *(_surface_case(suffix, "text", _text(suffix)) for suffix in ("xyz", "pts", "csv")),
            _surface_case("npy", "npy", lambda root: np.save(root / "a.npy", POINTS)),
            _surface_case("las", "bytes", _las),
            _surface_case("npz", "npz", lambda root: np.savez(root / "a.npz", points=POINTS)),
        ),
    ),
    Reader(
        "splat",
        (
            Case(
                "splat",
                "a.splat",
                "bytes",
                lambda root: write_splat(root / "a.splat", _gaussians()),
                lambda root: read_splat(root / "a.splat"),
            ),
        ),
    ),
    Reader(
        "label",
        (
            Case(
                "label",
                "a.label",
                "bytes",
                lambda root: semantic_kitti.write_point_labels(
                    root / "a.label", np.array([10, 40, 252, 0]), np.arange(4)
                ),
                lambda root: semantic_kitti.read_point_labels(root / "a.label", 4),
            ),
            *(
                Case(f"semantic-{name}", f"{name}.txt", "text", _sequence, read)
                for name, read in (
                    ("calib", semantic_kitti.read_poses),
                    ("poses", semantic_kitti.read_poses),
                    ("times", semantic_kitti.read_times),
                )
            ),
        ),
    ),
    Reader(
        "modelnet",
        (
            Case(
                "modelnet-txt",
                "a.txt",
                "text",
                lambda root: modelnet.write_resampled(root / "a.txt", np.tile(POINTS[:, :3], 2)),
                lambda root: _shape(root / "a.txt"),
            ),
            Case("modelnet-off", "a.off", "text", _mesh("off"), lambda root: _shape(root / "a.off")),
        ),
    ),
    Reader(
        "npz",
        (
            Case("occupancy", "points.npz", "npz", _write_occupancy, _occupancy),
            Case("occupancy-cloud", "cloud.npz", "npz", _write_occupancy, _cloud),
            Case(
                "occupancy-boundary",
                "boundary.npz",
                "npz",
                _write_occupancy,
                lambda root: occupancy.read_boundary(root / "boundary.npz", 12),
            ),
            Case("scannet-alignment", "scene.txt", "text", _scan, lambda root: read_alignment(root / "scene.txt")),
            Case("voxel-shapes", "shapes.npz", "npz", _write_voxels, _voxels),
        ),
    ),
)
