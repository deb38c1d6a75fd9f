"""COLMAP sparse models, text and binary: cameras, images and points.

A scene is a folder ``images`` beside a model in ``sparse/0``, ``sparse``, ``colmap/sparse/0`` or the root itself. Poses
in the files are world-to-camera; see `zoo.data.cameras`. Newer versions also write rigs and frames: not needed.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from zoo.data.bad_samples import SampleError


@dataclass(frozen=True)
class ColmapCamera:
    """One calibrated camera: model name as COLMAP spells it, image size, parameters in COLMAP's order."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class ColmapImage:
    """One registered image.

    Attributes:
        name: path relative to the image folder.
        camera_id: key of its camera.
        quaternion: world-to-camera rotation ``(4,)`` as w, x, y, z.
        translation: world-to-camera translation ``(3,)``.
        points2d: ``(P, 2)`` key points in pixels.
        point3d_ids: ``(P,)`` int64, -1 where a key point has no 3D point.
    """

    name: str
    camera_id: int
    quaternion: np.ndarray
    translation: np.ndarray
    points2d: np.ndarray
    point3d_ids: np.ndarray


@dataclass(frozen=True, eq=False)
class ColmapModel:
    """A sparse reconstruction.

    Attributes:
        cameras: by camera id.
        images: by image id, in the order of the file.
        point_ids: ``(P,)`` int64.
        points: ``(P, 3)`` float64 world coordinates.
        colors: ``(P, 3)`` uint8.
        errors: ``(P,)`` mean reprojection error in pixels.
    """

    cameras: dict[int, ColmapCamera]
    images: dict[int, ColmapImage]
    point_ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    colors: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.uint8))
    errors: np.ndarray = field(default_factory=lambda: np.zeros(0))


# id -> (name, number of parameters)
CAMERA_MODELS: dict[int, tuple[str, int]] = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
}
_LARGEST = 1 << 20  # pixels along a side
_NUM_PARAMS = dict(CAMERA_MODELS.values())
_ONE_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
# model -> (lens of zoo.data.lens, number of zeros after its parameters)
_LENSES = {
    "SIMPLE_PINHOLE": ("pinhole", 0),
    "PINHOLE": ("pinhole", 0),
    "SIMPLE_RADIAL": ("opencv", 3),
    "RADIAL": ("opencv", 2),
    "OPENCV": ("opencv", 0),
    "OPENCV_FISHEYE": ("opencv_fisheye", 0),
    "FULL_OPENCV": ("full_opencv", 0),
    "FOV": ("fov", 0),
    "SIMPLE_RADIAL_FISHEYE": ("opencv_fisheye", 3),
    "RADIAL_FISHEYE": ("opencv_fisheye", 2),
    "THIN_PRISM_FISHEYE": ("thin_prism_fisheye", 0),
}


def lens_of(camera: ColmapCamera) -> tuple[tuple[float, float, float, float], str, tuple[float, ...]]:
    """Intrinsics fx, fy, cx, cy, lens model and lens parameters of a COLMAP camera."""
    params = camera.params
    if camera.model in _ONE_FOCAL:
        params = (params[0], *params)
    lens, padding = _LENSES[camera.model]
    return (params[0], params[1], params[2], params[3]), lens, (*params[4:], *([0.0] * padding))


def _make_camera(model: str, width: int, height: int, params: tuple[float, ...], path: Path) -> ColmapCamera:
    if model not in _NUM_PARAMS:
        raise SampleError(path, f"unknown camera model {model}; known are {', '.join(_NUM_PARAMS)}")
    if len(params) != _NUM_PARAMS[model]:
        raise SampleError(path, f"camera model {model} has {len(params)} parameters, expected {_NUM_PARAMS[model]}")
    focal = params[: 1 if model in _ONE_FOCAL else 2]
    if not (0 < width <= _LARGEST and 0 < height <= _LARGEST) or not all(0 < value < math.inf for value in focal):
        raise SampleError(path, f"a camera of {width} x {height} pixels with focal lengths {focal}")
    if not all(map(math.isfinite, params)):
        raise SampleError(path, f"a camera with the parameters {params}, expected finite numbers")
    return ColmapCamera(model, width, height, params)


def find_model(root: Path) -> Path | None:
    """The folder below ``root`` that holds a sparse model, or None."""
    for folder in ("sparse/0", "sparse", "colmap/sparse/0", "."):
        if any((root / folder / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt")):
            return root / folder
    return None


def read_colmap_model(folder: Path) -> ColmapModel:
    """The sparse model in a folder; binary files win over text. Points are optional.

    Raises:
        SampleError: if a file is missing, cut short, malformed, or names an unknown camera model or camera.
    """
    if (folder / "cameras.bin").is_file():
        cameras, images = _cameras_binary(folder / "cameras.bin"), _images_binary(folder / "images.bin")
        points = folder / "points3D.bin"
        arrays = _points_binary(points) if points.is_file() else ()
        listing = folder / "images.bin"
    else:
        cameras, images = _cameras_text(folder / "cameras.txt"), _images_text(folder / "images.txt")
        points = folder / "points3D.txt"
        arrays = _points_text(points) if points.is_file() else ()
        listing = folder / "images.txt"
    for image in images.values():
        if image.camera_id not in cameras:
            raise SampleError(listing, f"image {image.name} names camera {image.camera_id}, which does not exist")
    return ColmapModel(cameras, images, *arrays)


class _Reader:
    """Little-endian values of a binary file, with an error where it ends too early."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise SampleError(path, "no such file")
        self.path, self.data, self.position = path, path.read_bytes(), 0

    def take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self.data):
            raise SampleError(
                self.path, f"cut short: {len(self.data)} bytes, but a record at byte {self.position} needs {size}"
            )
        chunk = self.data[self.position : end]
        self.position = end
        return chunk

    def unpack(self, layout: str) -> tuple:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    def name(self) -> str:
        end = self.data.find(b"\0", self.position)
        if end < 0:
            raise SampleError(self.path, f"cut short: the name at byte {self.position} does not end")
        text = self.take(end - self.position).decode("utf-8", "replace")
        self.position += 1
        return text


def _cameras_binary(path: Path) -> dict[int, ColmapCamera]:
    reader = _Reader(path)
    cameras = {}
    for _ in range(reader.unpack("Q")[0]):
        camera_id, model_id, width, height = reader.unpack("iiQQ")
        if model_id not in CAMERA_MODELS:
            raise SampleError(path, f"unknown camera model id {model_id}; known are 0 to {max(CAMERA_MODELS)}")
        model, count = CAMERA_MODELS[model_id]
        cameras[camera_id] = _make_camera(model, width, height, reader.unpack(f"{count}d"), path)
    return cameras


_KEY_POINT = np.dtype([("xy", "<f8", 2), ("point3d_id", "<i8")])


def _images_binary(path: Path) -> dict[int, ColmapImage]:
    reader = _Reader(path)
    images = {}
    for _ in range(reader.unpack("Q")[0]):
        image_id, *pose, camera_id = reader.unpack("I7dI")
        name = reader.name()
        (count,) = reader.unpack("Q")
        key_points = np.frombuffer(reader.take(count * _KEY_POINT.itemsize), _KEY_POINT)
        images[image_id] = ColmapImage(
            name,
            camera_id,
            np.array(pose[:4]),
            np.array(pose[4:]),
            key_points["xy"].copy(),
            key_points["point3d_id"].astype(np.int64),
        )
    return images


def _points_binary(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    reader = _Reader(path)
    ids, points, colors, errors = [], [], [], []
    for _ in range(reader.unpack("Q")[0]):
        point_id, x, y, z, red, green, blue, error, track = reader.unpack("Q3d3BdQ")
        reader.take(track * 8)
        ids.append(point_id)
        points.append((x, y, z))
        colors.append((red, green, blue))
        errors.append(error)
    return _point_arrays(path, ids, points, colors, errors)


def _point_arrays(path: Path, ids: list, points: list, colors: list, errors: list) -> tuple:
    try:
        numbers = np.array(ids, dtype=np.uint64).astype(np.int64)
        shades = np.array(colors, dtype=np.uint8).reshape(-1, 3)
    except (OverflowError, ValueError) as error:
        raise SampleError(path, f"the id or colour of a point is out of its range ({error})") from error
    places = np.array(points, dtype=np.float64).reshape(-1, 3)
    bad = np.flatnonzero(~np.isfinite(places).all(axis=1))
    if len(bad):
        raise SampleError(
            path, f"{len(bad)} of {len(places)} points are NaN or infinite, the first has the id {ids[bad[0]]}"
        )
    return numbers, places, shades, np.array(errors, dtype=np.float64)


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    if not path.is_file():
        raise SampleError(path, "no such file")
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.lstrip().startswith("#"):
            yield number, line


def _cameras_text(path: Path) -> dict[int, ColmapCamera]:
    cameras = {}
    for number, line in _text_lines(path):
        if not line.strip():
            continue
        try:
            camera_id, model, width, height, *params = line.split()
            parsed = int(camera_id), int(width), int(height), tuple(map(float, params))
        except ValueError as error:
            raise SampleError(path, f"line {number} is not `ID MODEL WIDTH HEIGHT PARAMS...` ({error})") from error
        cameras[parsed[0]] = _make_camera(model, parsed[1], parsed[2], parsed[3], path)
    return cameras


def _images_text(path: Path) -> dict[int, ColmapImage]:
    images = {}
    lines = _text_lines(path)
    for number, line in lines:
        if not line.strip():
            continue
        try:
            image_id, *pose, camera_id, name = line.split(maxsplit=9)
            values = np.array([float(value) for value in pose])
            second = next(lines, None)
            if values.shape != (7,) or second is None:
                raise ValueError("a value or the second line is missing")
            key_points = np.array(second[1].split(), dtype=np.float64).reshape(-1, 3)
            if not np.isfinite(key_points).all():
                raise ValueError("a key point is NaN or infinite")
            images[int(image_id)] = ColmapImage(
                name.strip(),
                int(camera_id),
                values[:4],
                values[4:],
                key_points[:, :2],
                key_points[:, 2].astype(np.int64),
            )
        except ValueError as error:
            layout = "`ID QW QX QY QZ TX TY TZ CAMERA_ID NAME` and a line of `X Y POINT3D_ID` triples"
            raise SampleError(path, f"line {number} is not {layout} ({error})") from error
    return images


def _points_text(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    ids, points, colors, errors = [], [], [], []
    for number, line in _text_lines(path):
        if not line.strip():
            continue
        try:
            point_id, x, y, z, red, green, blue, error = line.split(maxsplit=8)[:8]
            ids.append(int(point_id))
            points.append((float(x), float(y), float(z)))
            colors.append((int(red), int(green), int(blue)))
            errors.append(float(error))
        except ValueError as problem:
            raise SampleError(path, f"line {number} is not `ID X Y Z R G B ERROR ...` ({problem})") from problem
    return _point_arrays(path, ids, points, colors, errors)
