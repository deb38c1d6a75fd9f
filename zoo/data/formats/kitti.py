"""KITTI's object layout: ``ImageSets/*.txt`` and ``training`` or ``testing`` with velodyne, image_2, calib, label_2."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zoo.data.bad_samples import SampleError
from zoo.data.boxes import Calibration, camera_to_lidar_boxes
from zoo.data.formats.frame_files import FrameFiles
from zoo.data.formats.velodyne import read_velodyne
from zoo.data.image_files import image_size

TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc", "DontCare")

# least height of the image box in pixels, most truncation, most occlusion; 0 easy, 1 moderate, 2 hard
DIFFICULTIES = ((40.0, 0.15, 0), (25.0, 0.30, 1), (25.0, 0.50, 2))

_CALIBRATION = {"P2": (3, 4), "R0_rect": (3, 3), "Tr_velo_to_cam": (3, 4)}


@dataclass(frozen=True)
class KittiLabels:
    """The lines of a label file, in their order.

    Attributes:
        names: type of each object, one of ``TYPES``.
        truncated: ``(K,)`` share outside the image, -1 for DontCare.
        occluded: ``(K,)`` 0 visible, 1 partly, 2 largely occluded, 3 unknown, -1 for DontCare.
        alpha: ``(K,)`` observation angle.
        bbox: ``(K, 4)`` left, top, right, bottom in pixels.
        dimensions: ``(K, 3)`` height, width, length in metres.
        location: ``(K, 3)`` middle of the bottom face in the rectified camera frame.
        rotation_y: ``(K,)`` angle about the camera's y axis.
        score: ``(K,)`` of detections; None for ground truth.
    """

    names: tuple[str, ...]
    truncated: NDArray[np.floating[Any]]
    occluded: NDArray[np.int64]
    alpha: NDArray[np.floating[Any]]
    bbox: NDArray[np.floating[Any]]
    dimensions: NDArray[np.floating[Any]]
    location: NDArray[np.floating[Any]]
    rotation_y: NDArray[np.floating[Any]]
    score: NDArray[np.floating[Any]] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def select(self, rows: ArrayLike) -> KittiLabels:
        """Some of the objects, by mask or row numbers."""
        index = np.arange(len(self))[np.asarray(rows)]
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "names"}
        chosen = {name: None if value is None else value[index] for name, value in arrays.items()}
        return replace(self, names=tuple(self.names[row] for row in index), **chosen)

    def without_dont_care(self) -> KittiLabels:
        """The real objects."""
        return self.select(np.array([name != "DontCare" for name in self.names], dtype=bool))

    def lidar_boxes(self, calibration: Calibration) -> NDArray[Any]:
        """Boxes ``(K, 7)`` in the LiDAR frame; those of DontCare mean nothing."""
        return camera_to_lidar_boxes(self.location, self.dimensions, self.rotation_y, calibration)

    def difficulty(self) -> NDArray[np.int64]:
        """``(K,)``: 0 easy, 1 moderate, 2 hard, -1 harder than that or DontCare."""
        height = self.bbox[:, 3] - self.bbox[:, 1] + 1.0
        level = np.full(len(self), -1, dtype=np.int64)
        for number, (least, truncation, occlusion) in reversed(list(enumerate(DIFFICULTIES))):
            fits = (height >= least) & (self.truncated <= truncation) & (self.occluded <= occlusion)
            level[fits] = number
        level[[name == "DontCare" for name in self.names]] = -1
        return level


def read_labels(path: Path | str) -> KittiLabels:
    """The objects of a label or result file; an empty file holds none.

    Raises:
        SampleError: missing file, wrong number of columns, no number where one belongs, an unknown type, or a size or
            image box that cannot be.
    """
    path = Path(path)
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SampleError(path, f"not a readable label file ({error})") from error
    rows = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
    widths = {len(columns) for _, columns in rows}
    values = np.zeros((len(rows), 15))
    for row, (number, columns) in enumerate(rows):
        if len(columns) not in (15, 16) or len(widths) > 1:
            raise SampleError(
                path, f"line {number} has {len(columns)} columns, expected 15 (16 with scores) in every line"
            )
        if columns[0] not in TYPES:
            raise SampleError(path, f"line {number}: unknown type {columns[0]!r}, expected one of {', '.join(TYPES)}")
        try:
            values[row, : len(columns) - 1] = [float(column) for column in columns[1:]]
        except ValueError as error:
            raise SampleError(path, f"line {number}: {error}") from error
        _check_row(path, number, columns[0], values[row])
    return KittiLabels(
        tuple(columns[0] for _, columns in rows),
        values[:, 0],
        values[:, 1].astype(np.int64),
        values[:, 2],
        values[:, 3:7],
        values[:, 7:10],
        values[:, 10:13],
        values[:, 13],
        values[:, 14] if widths == {16} else None,
    )


def _check_row(path: Path, number: int, name: str, row: NDArray[np.float64]) -> None:
    if not np.isfinite(row).all():
        raise SampleError(path, f"line {number} holds a NaN or infinite number")
    if row[5] < row[3] or row[6] < row[4]:
        raise SampleError(
            path, f"line {number}: image box {row[3:7].tolist()}, expected left <= right and top <= bottom"
        )
    if name != "DontCare" and (row[7:10] <= 0).any():
        raise SampleError(path, f"line {number}: height, width, length {row[7:10].tolist()}, expected more than 0")


def write_labels(path: Path | str, labels: KittiLabels, decimals: int = 2) -> None:
    """Write label lines; KITTI's own have 2 decimals, results 4."""
    lines = []
    for row, name in enumerate(labels.names):
        numbers = [
            labels.alpha[row],
            *labels.bbox[row],
            *labels.dimensions[row],
            *labels.location[row],
            labels.rotation_y[row],
        ]
        if labels.score is not None:
            numbers.append(labels.score[row])
        text = " ".join(f"{number:.{decimals}f}" for number in numbers)
        truncated = f"{labels.truncated[row]:.2f}" if labels.score is None else f"{labels.truncated[row]:g}"
        lines.append(f"{name} {truncated} {labels.occluded[row]} {text}\n")
    Path(path).write_text("".join(lines))


def read_matrices(path: Path | str) -> dict[str, NDArray[np.float64]]:
    """All ``NAME: numbers`` lines of a calibration file.

    Raises:
        SampleError: missing file or a line that does not read so.
    """
    path = Path(path)
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SampleError(path, f"not a readable calibration file ({error})") from error
    matrices = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, colon, rest = line.partition(":")
        try:
            values = np.array([float(word) for word in rest.split()])
        except ValueError as error:
            raise SampleError(path, f"line {number}: {error}") from error
        if not colon or not np.isfinite(values).all():
            raise SampleError(path, f"line {number}: {line[:60]!r}, expected a name, a colon and finite numbers")
        matrices[name.strip()] = values
    return matrices


def take_matrix(
    path: Path, matrices: dict[str, NDArray[np.float64]], name: str, shape: tuple[int, int]
) -> NDArray[np.float64]:
    """One matrix of a calibration file.

    Raises:
        SampleError: not there, or of another size.
    """
    if name not in matrices:
        raise SampleError(path, f"no line {name!r}; found {', '.join(matrices) or 'none'}")
    if matrices[name].size != shape[0] * shape[1]:
        raise SampleError(path, f"{name} has {matrices[name].size} numbers, expected {shape[0]} x {shape[1]}")
    return matrices[name].reshape(shape)


def read_calibration(path: Path | str) -> Calibration:
    """The calibration of one frame, by the names of its lines.

    Raises:
        SampleError: missing or damaged file, or a transform that has no inverse.
    """
    path = Path(path)
    matrices = read_matrices(path)
    p2, r0, velo = (take_matrix(path, matrices, name, shape) for name, shape in _CALIBRATION.items())
    if abs(np.linalg.det(r0 @ velo[:, :3])) < 1e-6:
        raise SampleError(path, "R0_rect Tr_velo_to_cam has no inverse, expected rotations")
    return Calibration(p2, r0, velo)


def write_calibration(path: Path | str, calibration: Calibration) -> None:
    """Write a calibration file with KITTI's seven lines; all cameras stand where the left colour camera stands."""
    imu = np.eye(3, 4)
    named = {f"P{number}": calibration.p2 for number in range(4)}
    named |= {"R0_rect": calibration.r0_rect, "Tr_velo_to_cam": calibration.velo_to_cam, "Tr_imu_to_velo": imu}
    lines = [
        f"{name}: " + " ".join(f"{value:.12e}" for value in matrix.reshape(-1)) + "\n" for name, matrix in named.items()
    ]
    Path(path).write_text("".join(lines))


@dataclass(frozen=True)
class KittiFrame:
    """One frame.

    Attributes:
        frame_id: six digits.
        points: ``(N, 4)`` x, y, z, intensity in the LiDAR frame.
        calibration: between LiDAR, camera and image.
        labels: with DontCare; None where the split has none.
        image_path: of the left colour picture.
        image_shape: (height, width).
    """

    frame_id: str
    points: NDArray[np.float32]
    calibration: Calibration
    labels: KittiLabels | None
    image_path: Path
    image_shape: tuple[int, int]


def read_frame(folder: Path | str, frame_id: str, *, in_view_only: bool = True) -> KittiFrame:
    """Read one frame of ``training`` or ``testing``.

    Args:
        folder: ``ROOT/training`` or ``ROOT/testing``.
        frame_id: the name of its files.
        in_view_only: keep only points that fall on the picture, as the benchmark's labels cover nothing else.

    Raises:
        SampleError: a missing, damaged or inconsistent file.
    """
    folder = Path(folder)
    points = read_velodyne(folder / "velodyne" / f"{frame_id}.bin")
    calibration = read_calibration(folder / "calib" / f"{frame_id}.txt")
    image_path = folder / "image_2" / f"{frame_id}.png"
    width, height = image_size(image_path)
    labels = read_labels(folder / "label_2" / f"{frame_id}.txt") if (folder / "label_2").is_dir() else None
    if in_view_only:
        points = points[calibration.in_view(points, (height, width))]
        if not len(points):
            raise SampleError(image_path, "no point falls on the picture; do velodyne and calib belong to this frame?")
    return KittiFrame(frame_id, points, calibration, labels, image_path, (height, width))


def read_split(root: Path | str, split: str) -> list[str]:
    """The frame ids that ``ImageSets/SPLIT.txt`` lists.

    Raises:
        SampleError: missing file, no frame, or a frame listed twice.
    """
    path = Path(root) / "ImageSets" / f"{split}.txt"
    try:
        names = path.read_text().split()
    except OSError as error:
        raise SampleError(path, f"no such split ({error})") from error
    if not names:
        raise SampleError(path, "an empty split: it lists no frame")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SampleError(path, f"frame {twice} is listed twice")
    return names


class KittiObjects(FrameFiles[KittiFrame]):
    """The frames of one split.

    Args:
        root: folder with ``ImageSets``, ``training`` and ``testing``.
        split: train, val, trainval or test; test reads ``testing`` where that folder exists.
        in_view_only: see `read_frame`.
        on_bad_sample: see `FrameFiles`.
    """

    def __init__(
        self,
        root: Path | str,
        split: str = "train",
        *,
        in_view_only: bool = True,
        on_bad_sample: Literal["error", "skip"] = "error",
    ) -> None:
        super().__init__(on_bad_sample)
        self.root = Path(root)
        self.frame_ids = read_split(root, split)
        testing = self.root / "testing"
        self.folder = testing if split == "test" and testing.is_dir() else self.root / "training"
        self.in_view_only = in_view_only

    def __len__(self) -> int:
        return len(self.frame_ids)

    def read(self, number: int) -> KittiFrame:
        """Read one frame of the split."""
        return read_frame(self.folder, self.frame_ids[number], in_view_only=self.in_view_only)
