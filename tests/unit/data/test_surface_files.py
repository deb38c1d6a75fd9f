"""Clouds and meshes in files: what is read, and what is refused with which words."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from zoo.data.bad_samples import SampleError
from zoo.data.formats.surface_files import read_surface
from zoo.data.surface_cloud import SurfaceCloud, draw_queries

POINTS = np.random.default_rng(0).random((20, 3))


def las_file(points: np.ndarray, *, minor: int = 2, kind: int = 1, width: int = 28, scale: float = 1e-4) -> bytes:
    """A file as the standard lays it out: the header, a gap as records of variable length leave it, the points."""
    header = bytearray(227 if minor < 4 else 375)
    begin = len(header) + 54
    header[:4], header[24:26] = b"LASF", bytes([1, minor])
    struct.pack_into("<HII", header, 94, len(header), begin, 1)
    struct.pack_into("<BHI", header, 104, kind, width, len(points) if minor < 4 else 0)
    if minor == 4:
        struct.pack_into("<Q", header, 247, len(points))
    offset = (500_000.0, 5_000_000.0, -100.0)
    struct.pack_into("<6d", header, 131, scale, scale, scale, *offset)
    whole = np.rint((points - offset) / scale).astype("<i4")
    rest = bytes([255]) * (width - 12)
    return bytes(header) + bytes(54) + b"".join(row.tobytes() + rest for row in whole)


def _write(path: Path) -> Path:
    suffix = path.suffix
    if suffix in (".ply", ".obj"):
        trimesh.PointCloud(POINTS).export(path)
    elif suffix == ".npz":
        np.savez(path, points=POINTS.astype(np.float16), normals=POINTS)
    elif suffix == ".npy":
        np.save(path, POINTS)
    elif suffix == ".csv":
        np.savetxt(path, POINTS, delimiter=",", header="x,y,z", comments="")
    elif suffix == ".pts":
        np.savetxt(path, np.column_stack([POINTS, POINTS]), header="20", comments="")
    else:
        np.savetxt(path, POINTS)
    return path


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".npz", ".npy", ".csv", ".pts", ".xyz"])
def test_clouds(suffix: str, tmp_path: Path) -> None:
    found = read_surface(_write(tmp_path / f"cloud{suffix}"))
    assert found.mesh is None
    np.testing.assert_allclose(found.points, POINTS, atol=1e-3)


@pytest.mark.parametrize(("minor", "kind", "width"), [(0, 0, 20), (2, 3, 34), (4, 7, 36)])
def test_laser_scans(minor: int, kind: int, width: int, tmp_path: Path) -> None:
    places = POINTS * 50 + [500_100, 5_000_200, 30]  # metres of a map, which float32 would round
    (tmp_path / "a.las").write_bytes(las_file(places, minor=minor, kind=kind, width=width))
    np.testing.assert_allclose(read_surface(tmp_path / "a.las").points, places, atol=6e-5, rtol=0)
    frame = SurfaceCloud(file=tmp_path / "a.las").points
    assert frame.shape == (20, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-10], "cut short"),
        (lambda data: data[:100], "header"),
        (lambda data: data[:104] + bytes([data[104] | 128]) + data[105:], "compressed"),
        (lambda data: data[:25] + bytes([9]) + data[26:], r"version 1\.9"),
        (lambda data: data[:96] + struct.pack("<I", 40) + data[100:], "from byte 40 on"),
        (lambda data: data[:131] + bytes(8) + data[139:], "damaged"),
        (lambda data: data[:107] + bytes(4) + data[111:], "0 finite points"),
    ],
)
def test_damaged_laser_scans_are_named(change, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.las").write_bytes(change(las_file(POINTS * 50 + [500_100, 5_000_200, 30])))
    with pytest.raises(SampleError, match=rf"a\.las.*{message}"):
        read_surface(tmp_path / "a.las")


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".glb", ".stl", ".off"])
def test_meshes(suffix: str, tmp_path: Path) -> None:
    trimesh.creation.icosphere(subdivisions=2).export(tmp_path / f"ball{suffix}")
    data = SurfaceCloud(file=tmp_path / f"ball{suffix}", num_points=100)
    assert data.truth is not None
    assert len(data.truth.faces) == 320
    assert data.points.shape == (100, 3)
    assert (data.points.norm(dim=1) - 1).abs().max() < 0.05


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.laz", b"LASF", "needs a library"),
        ("a.dwg", b"", "unknown kind"),
        ("a.xyz", b"0 0 0\n1 1 1\n", "2 finite points of 2"),
        ("a.xyz", b"0 0 0\n" * 9, "the same place"),
        ("a.xyz", b"0 0 0\n1 2 3\n1 2 x\n", "line 3"),
        ("a.npz", b"PK\x03\x04 cut short", "not a readable npz file"),
        ("a.npy", b"nothing", "not a readable array"),
        ("a.ply", b"ply\nformat ascii 1.0\n", "a.ply"),
        ("a.obj", b"# empty\n", "a.obj"),
    ],
)
def test_bad_files_are_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SampleError, match=message):
        read_surface(tmp_path / name)


def test_wrong_arrays_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", other=POINTS)
    with pytest.raises(SampleError, match="other"):
        read_surface(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", POINTS[:, :2])
    with pytest.raises(SampleError, match=r"\(20, 2\)"):
        read_surface(tmp_path / "a.npy")
    with pytest.raises(SampleError, match="no such file"):
        read_surface(tmp_path / "none.ply")


def test_nan_and_repeated_points_are_left_out(tmp_path: Path) -> None:
    points = np.concatenate([POINTS, POINTS[:5], [[np.nan, 0, 0], [np.inf, 0, 0]]])
    np.save(tmp_path / "a.npy", points)
    data = SurfaceCloud(file=tmp_path / "a.npy")
    assert data.surface.left_out == 2
    assert len(data.points) == 20
    assert data.check_data().problems == ()


def test_a_larger_cloud_is_thinned_the_same_way_each_time(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", POINTS)
    first, again, other = (SurfaceCloud(file=tmp_path / "a.npy", num_points=8, seed=seed) for seed in (1, 1, 2))
    assert len(first.points) == 8
    assert torch.equal(first.points, again.points)
    assert first.digest() == again.digest() != other.digest()


def test_the_generated_mesh(tmp_path: Path) -> None:
    data = SurfaceCloud(root=tmp_path, num_points=50)
    assert data.truth is not None
    assert data.truth.is_watertight
    with pytest.raises(FileExistsError):
        data.generate_data(overwrite=False)
    data.generate_data(overwrite=True)
    (tmp_path / "torus.ply").write_bytes(b"ply")
    assert data.check_data().problems == ()  # read before
    assert SurfaceCloud(root=tmp_path).check_data().problems
    with pytest.raises(ValueError, match="num_points"):
        SurfaceCloud(num_points=2)


def test_queries_are_a_function_of_seed_and_step() -> None:
    points = torch.zeros(5, 3)
    options = {"sigmas": (1.0, 10.0), "shares": (0.25, 0.75), "seed": 3}
    queries = draw_queries(points, 4000, step=7, **options)
    assert torch.equal(queries, draw_queries(points, 4000, step=7, **options))
    assert not torch.equal(queries, draw_queries(points, 4000, step=8, **options))
    assert queries[:1000].std().item() == pytest.approx(1.0, rel=0.05)
    assert queries[1000:].std().item() == pytest.approx(10.0, rel=0.05)
