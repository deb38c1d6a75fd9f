"""PCD, PLY and bin files, and pickles that may not do anything."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plyfile import PlyData, PlyElement

from tests.samples import open3d
from zoo.data.bad_samples import SampleError
from zoo.data.formats.pcd import read_pcd
from zoo.data.formats.point_files import find_point_files, read_points
from zoo.data.formats.restricted_pickle import read_plain_pickle
from zoo.data.formats.velodyne import write_velodyne

POINTS = np.random.default_rng(0).normal(0, 10, (500, 3)).astype(np.float32)
INTENSITY = np.random.default_rng(1).random(500).astype(np.float32)
HEADER = """# .PCD v0.7
VERSION 0.7
FIELDS x y z intensity
SIZE 4 4 4 4
TYPE F F F F
COUNT 1 1 1 1
WIDTH {count}
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS {count}
DATA {kind}
"""


def write_pcd(path: Path, kind: str, points: np.ndarray) -> None:
    header = HEADER.format(count=len(points), kind=kind).encode()
    if kind == "ascii":
        body = "".join(" ".join(f"{value:.9g}" for value in row) + "\n" for row in points.tolist()).encode()
    else:
        body = points.astype("<f4").tobytes()
    path.write_bytes(header + body)


@pytest.mark.parametrize("kind", ["ascii", "binary"])
def test_pcd(kind: str, tmp_path: Path) -> None:
    points = np.concatenate([POINTS, INTENSITY[:, None]], axis=1)
    write_pcd(tmp_path / "a.pcd", kind, points)
    np.testing.assert_allclose(read_points(tmp_path / "a.pcd"), points, rtol=1e-7)


@pytest.mark.parametrize("repeats", [1, 5])
@pytest.mark.parametrize(("ascii_", "compressed"), [(True, False), (False, False), (False, True)])
def test_pcd_as_open3d_writes_it(ascii_: bool, compressed: bool, repeats: int, tmp_path: Path) -> None:
    o3d = open3d()
    points = np.repeat(POINTS, repeats, axis=0).astype(np.float64)  # repeats compress into overlapping references
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))
    o3d.io.write_point_cloud(str(tmp_path / "a.pcd"), cloud, write_ascii=ascii_, compressed=compressed)
    found = read_points(tmp_path / "a.pcd")
    np.testing.assert_allclose(found[:, :3], points, rtol=1e-6, atol=1e-6)
    assert not found[:, 3].any()


def test_pcd_fields_of_several_values(tmp_path: Path) -> None:
    row = np.dtype([("xyz", "<f4", 3), ("code", "<u2", 2), ("time", "<f8")])
    table = np.zeros(4, dtype=row)
    table["code"] = np.arange(8).reshape(4, 2)
    table["time"] = 0.5
    header = "FIELDS x y z code time\nSIZE 4 4 4 2 8\nTYPE F F F U F\nCOUNT 1 1 1 2 1\nWIDTH 2\nHEIGHT 2\nDATA binary\n"
    (tmp_path / "a.pcd").write_bytes(header.encode() + table.tobytes())
    fields = read_pcd(tmp_path / "a.pcd")
    assert fields["code"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert fields["time"].tolist() == [0.5] * 4


def test_invalid_points_of_an_organised_cloud_are_dropped(tmp_path: Path) -> None:
    points = np.concatenate([POINTS[:10], INTENSITY[:10, None]], axis=1)
    points[3, :3] = np.nan
    write_pcd(tmp_path / "a.pcd", "binary", points)
    assert len(read_points(tmp_path / "a.pcd")) == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-7], "bytes of data, expected 500 points of 16; is it cut short"),
        (lambda data: data.replace(b"FIELDS x", b"FIELDS q"), "has no field 'x'; found q, y, z, intensity"),
        (lambda data: data.replace(b"DATA binary", b"DATA strange"), "DATA strange, expected ascii"),
        (lambda data: data.replace(b"WIDTH 500", b"WIDTH 400"), "do not fit together"),
        (lambda data: b"rubbish", "no PCD header"),
    ],
)
def test_damaged_pcd(change: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pcd"
    write_pcd(path, "binary", np.concatenate([POINTS, INTENSITY[:, None]], axis=1))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(SampleError, match=rf"a\.pcd: .*{message}"):
        read_points(path)


def test_damaged_compressed_pcd(tmp_path: Path) -> None:
    o3d = open3d()
    path = tmp_path / "a.pcd"
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(np.repeat(POINTS, 4, axis=0).astype(np.float64)))
    o3d.io.write_point_cloud(str(path), cloud, compressed=True)
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    with pytest.raises(SampleError, match="cut short"):
        read_points(path)
    start = content.index(b"DATA binary_compressed\n") + len(b"DATA binary_compressed\n") + 8
    path.write_bytes(content[:start] + b"\xff" * 40 + content[start + 40 :])
    with pytest.raises(SampleError, match="compressed data are damaged"):
        read_points(path)


@pytest.mark.parametrize("text", [True, False])
def test_ply(text: bool, tmp_path: Path) -> None:
    table = np.zeros(500, dtype=[("x", "f4"), ("y", "f4"), ("z", "f4"), ("intensity", "u1")])
    table["x"], table["y"], table["z"] = POINTS.T
    table["intensity"] = 51
    PlyData([PlyElement.describe(table, "vertex")], text=text).write(str(tmp_path / "a.ply"))
    points = read_points(tmp_path / "a.ply", columns=5)
    np.testing.assert_allclose(points[:, :3], POINTS, rtol=1e-5)
    np.testing.assert_allclose(points[:, 3:], np.tile([0.2, 0.0], (500, 1)), rtol=1e-6)
    (tmp_path / "a.ply").write_bytes(b"ply\nrubbish")
    with pytest.raises(SampleError, match=r"a\.ply: not a readable PLY"):
        read_points(tmp_path / "a.ply")


def test_bin_files(tmp_path: Path) -> None:
    points = np.concatenate([POINTS, INTENSITY[:, None]], axis=1)
    write_velodyne(tmp_path / "b.bin", points)
    np.concatenate([points, np.ones((500, 1))], axis=1).astype("<f4").tofile(tmp_path / "a.pcd.bin")
    (tmp_path / "readme.txt").write_text("no points")
    files = find_point_files(tmp_path)
    assert [file.name for file in files] == ["a.pcd.bin", "b.bin"]
    for file in files:
        np.testing.assert_array_equal(read_points(file), points)
    with pytest.raises(SampleError, match=r"readme\.txt: unknown kind of point file"):
        read_points(tmp_path / "readme.txt")
    with pytest.raises(SampleError, match="no such file or folder"):
        find_point_files(tmp_path / "missing")


# pickles

CONTENT = {
    "name": "a",
    "numbers": [1, 2.5, None, True, {"set", "of"}, (1, 2), b"bytes"],
    "array": np.arange(12, dtype=np.float32).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "words": np.array(["Car", "Van"]),
    "objects": np.array([None, "x"], dtype=object),
    "scalar": np.float64(3.5),
}


@pytest.mark.parametrize("protocol", range(2, 6))
def test_plain_data_are_read(protocol: int, tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(CONTENT, protocol=protocol))
    found = read_plain_pickle(tmp_path / "a.pkl")
    assert found["numbers"] == CONTENT["numbers"]
    for name in ("array", "fortran", "words", "objects"):
        np.testing.assert_array_equal(found[name], CONTENT[name])
    assert found["scalar"] == 3.5


def test_the_names_of_numpy_1_are_known(tmp_path: Path) -> None:
    content = pickle.dumps(CONTENT["array"], protocol=2).replace(b"numpy._core.", b"numpy.core.")
    (tmp_path / "a.pkl").write_bytes(content)
    np.testing.assert_array_equal(read_plain_pickle(tmp_path / "a.pkl"), CONTENT["array"])


class Malicious:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.mkdir, ("{}",), rf"{os.mkdir.__module__}\.mkdir"),
        (eval, ("__import__('os').mkdir('{}')",), r"builtins\.eval"),
        (getattr, ("x", "y"), r"builtins\.getattr"),
        (np.load, ("{}",), r"numpy\.load"),
        (Path, ("{}",), r"pathlib.*Path"),
    ],
)
def test_nothing_else_is_called(function: Any, arguments: tuple[str, ...], name: str, tmp_path: Path) -> None:
    target = tmp_path / "made"
    arguments = tuple(argument.format(target) for argument in arguments)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([1, Malicious(function, *arguments)]))
    with pytest.raises(SampleError, match=rf"a\.pkl: refused: it names {name}"):
        read_plain_pickle(tmp_path / "a.pkl")
    assert not target.exists()


def test_codecs_make_bytes_only(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"c_codecs\nencode\n(Vabc\nVrot13\ntR.")
    with pytest.raises(SampleError, match="encode to 'rot13' is refused"):
        read_plain_pickle(tmp_path / "a.pkl")


def test_truncated_pickles(tmp_path: Path) -> None:
    content = pickle.dumps(CONTENT)
    for length in (0, 1, 30, len(content) - 3):
        (tmp_path / "a.pkl").write_bytes(content[:length])
        with pytest.raises(SampleError, match=r"a\.pkl"):
            read_plain_pickle(tmp_path / "a.pkl")


def test_containers_that_hold_themselves(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(endless))
    with pytest.raises(SampleError, match="holds itself is refused"):
        read_plain_pickle(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 7)),
        np.arange(3, dtype=">i4"),
        np.array(5.0),
        np.array([True, False]),
        np.array(["", ""]),
        np.array([b"ab", b"c"]),
        np.array([1 + 2j]),
        np.array([{"a": np.arange(2)}, [1]], dtype=object),
    ],
    ids=lambda array: str(array.dtype),
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_all_kinds(array: np.ndarray, protocol: int, tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([array, array], protocol=protocol))
    first, second = read_plain_pickle(tmp_path / "a.pkl")
    assert first.shape == array.shape
    assert first.dtype == array.dtype
    assert first.tolist().__repr__() == array.tolist().__repr__()
    assert second.shape == array.shape


def test_other_dtypes_are_refused(tmp_path: Path) -> None:
    for array in (np.zeros(2, dtype=[("a", "f4")]), np.array(["2020-01-01"], dtype="M8[D]")):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(array))
        with pytest.raises(SampleError, match=r"the dtype .* is refused"):
            read_plain_pickle(tmp_path / "a.pkl")
