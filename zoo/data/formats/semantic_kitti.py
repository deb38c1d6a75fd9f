"""SemanticKITTI: ``sequences/NN`` with velodyne, labels, calib.txt, poses.txt and times.txt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zoo.data.bad_samples import SampleError
from zoo.data.formats.frame_files import FrameFiles
from zoo.data.formats.kitti import read_matrices, take_matrix
from zoo.data.formats.velodyne import read_velodyne

SEQUENCES: dict[Literal["train", "val", "test"], tuple[str, ...]] = {
    "train": ("00", "01", "02", "03", "04", "05", "06", "07", "09", "10"),
    "val": ("08",),
    "test": tuple(f"{number:02d}" for number in range(11, 22)),
}

CLASSES = (
    "car",
    "bicycle",
    "motorcycle",
    "truck",
    "other-vehicle",
    "person",
    "bicyclist",
    "motorcyclist",
    "road",
    "parking",
    "sidewalk",
    "other-ground",
    "building",
    "fence",
    "vegetation",
    "trunk",
    "terrain",
    "pole",
    "traffic-sign",
)
IGNORE = -1

# raw id of each class in result files, and further raw ids that training counts as the same class
RAW_IDS = (10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81)
_MERGED = {
    252: 0, 258: 3, 13: 4, 16: 4, 256: 4, 257: 4, 259: 4, 254: 5, 253: 6, 255: 7, 60: 8,
    0: IGNORE, 1: IGNORE, 52: IGNORE, 99: IGNORE,
}  # fmt: skip
LEARNING_MAP: dict[int, int] = {raw: number for number, raw in enumerate(RAW_IDS)} | _MERGED

_UNKNOWN = -2
_TABLE = np.full(1 << 16, _UNKNOWN, dtype=np.int64)
_TABLE[list(LEARNING_MAP)] = list(LEARNING_MAP.values())


def to_train_ids(semantic: NDArray[np.integer], *, ignore: int = IGNORE, shift: int = 0) -> NDArray[np.int64]:
    """Map raw ids ``(N,)`` to the 19 classes.

    Args:
        semantic: raw ids.
        ignore: what unlabelled points and outliers become.
        shift: added to the classes; ``ignore=0, shift=1`` is the numbering of the benchmark's own tools.

    Raises:
        ValueError: an id that the data set does not define.

    Example:
        >>> to_train_ids(np.array([10, 252, 0, 81]))
        array([ 0,  0, -1, 18])
    """
    classes = _TABLE[semantic]
    unknown = np.flatnonzero(classes == _UNKNOWN)
    if len(unknown):
        raise ValueError(
            f"semantic: found id {int(semantic[unknown[0]])} at {unknown[0]}, which SemanticKITTI does not define"
        )
    return np.where(classes == IGNORE, ignore, classes + shift)


def to_raw_ids(classes: NDArray[np.integer]) -> NDArray[np.uint32]:
    """Raw ids ``(N,)`` of classes 0..18, as result files hold them; `IGNORE` becomes 0."""
    if len(classes) and (classes.min() < IGNORE or classes.max() >= len(CLASSES)):
        raise ValueError(f"classes: found {classes.min()} to {classes.max()}, expected -1 to {len(CLASSES) - 1}")
    return np.array([*RAW_IDS, 0], dtype=np.uint32)[classes]


def read_point_labels(path: Path | str, num_points: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Raw semantic and instance ids ``(N,)`` of a label file: the lower and upper 16 bits of little-endian uint32.

    Raises:
        SampleError: missing file, another number of labels than points, or an id that the data set does not define.
    """
    path = Path(path)
    if not path.is_file():
        raise SampleError(path, "no such label file")
    size = path.stat().st_size
    if size != 4 * num_points:
        raise SampleError(
            path, f"{size} bytes are {size / 4:g} labels of 4 bytes, expected {num_points}: one for each point"
        )
    labels = np.fromfile(path, dtype="<u4")
    semantic, instance = (labels & 0xFFFF).astype(np.uint16), (labels >> 16).astype(np.uint16)
    unknown = np.flatnonzero(_TABLE[semantic] == _UNKNOWN)
    if len(unknown):
        raise SampleError(
            path, f"point {unknown[0]} has the class {semantic[unknown[0]]}, which SemanticKITTI does not define"
        )
    return semantic, instance


def write_point_labels(
    path: Path | str, semantic: NDArray[np.integer], instance: NDArray[np.integer] | None = None
) -> None:
    """Write raw semantic and instance ids ``(N,)``."""
    labels = semantic.astype(np.uint32)
    if instance is not None:
        labels = labels | (instance.astype(np.uint32) << 16)
    labels.astype("<u4").tofile(path)


def read_poses(folder: Path | str) -> NDArray[np.float64]:
    """LiDAR-to-world transforms ``(F, 4, 4)`` of a sequence.

    ``poses.txt`` holds the left grey camera's poses, seen from its first one; with ``Tr`` of ``calib.txt`` (LiDAR to
    camera) the LiDAR's are ``Tr^-1 pose Tr``.

    Raises:
        SampleError: missing or damaged file.
    """
    folder = Path(folder)
    calib, path = folder / "calib.txt", folder / "poses.txt"
    velo = np.eye(4)
    velo[:3] = take_matrix(calib, read_matrices(calib), "Tr", (3, 4))
    if not 1e-6 < abs(np.linalg.det(velo[:3, :3])) < 1e6:
        raise SampleError(calib, "Tr has no inverse, expected a rotation and a translation")
    rows = _read_table(path, 12)
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3] = rows.reshape(-1, 3, 4)
    return np.linalg.inv(velo) @ poses @ velo


def read_times(folder: Path | str) -> NDArray[np.float64]:
    """Seconds since the first frame ``(F,)``.

    Raises:
        SampleError: missing or damaged file.
    """
    return _read_table(Path(folder) / "times.txt", 1)[:, 0]


def _read_table(path: Path, columns: int) -> NDArray[np.float64]:
    try:
        rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
        wrong = next((number for number, row in enumerate(rows, 1) if len(row) != columns), None)
        if wrong is not None:
            raise SampleError(path, f"line {wrong} has {len(rows[wrong - 1])} numbers, expected {columns}")
        table = np.array(rows, dtype=np.float64).reshape(-1, columns)
    except SampleError:
        raise
    except (OSError, ValueError) as error:
        raise SampleError(path, f"not a readable table of numbers ({error})") from error
    if not np.isfinite(table).all():
        raise SampleError(path, "holds a NaN or infinite number")
    return table


@dataclass(frozen=True)
class SemanticFrame:
    """One sweep.

    Attributes:
        sequence: two digits.
        frame_id: six digits.
        points: ``(N, 4)`` x, y, z, intensity.
        semantic: ``(N,)`` raw ids, None where the sequence has no labels.
        instance: ``(N,)`` instance numbers, or None.
    """

    sequence: str
    frame_id: str
    points: NDArray[np.float32]
    semantic: NDArray[np.uint16] | None
    instance: NDArray[np.uint16] | None


class SemanticKitti(FrameFiles[SemanticFrame]):
    """The sweeps of a split or of chosen sequences, in order.

    Args:
        root: folder that holds ``sequences`` (``dataset`` of the download).
        split: train, val or test: the benchmark's sequences, as far as they are on disk.
        sequences: instead of a split; every one must be on disk.
        on_bad_sample: see `FrameFiles`.

    Raises:
        SampleError: nothing to read.
    """

    def __init__(
        self,
        root: Path | str,
        split: Literal["train", "val", "test"] = "train",
        *,
        sequences: Sequence[str] | None = None,
        on_bad_sample: Literal["error", "skip"] = "error",
    ) -> None:
        super().__init__(on_bad_sample)
        if sequences is None and split not in SEQUENCES:
            raise ValueError(f"split: found {split!r}, expected one of {', '.join(SEQUENCES)}")
        self.root = Path(root)
        wanted = SEQUENCES[split] if sequences is None else tuple(sequences)
        self.files: list[tuple[str, str]] = []
        for sequence in wanted:
            folder = self.root / "sequences" / sequence / "velodyne"
            if sequences is not None and not folder.is_dir():
                raise SampleError(folder, "no such sequence")
            self.files += [(sequence, path.stem) for path in sorted(folder.glob("*.bin"))]
        if not self.files:
            raise SampleError(self.root / "sequences", f"holds no sweep of the sequences {', '.join(wanted)}")

    def __len__(self) -> int:
        return len(self.files)

    def read(self, number: int) -> SemanticFrame:
        """Read one sweep with its labels."""
        sequence, frame_id = self.files[number]
        folder = self.root / "sequences" / sequence
        points = read_velodyne(folder / "velodyne" / f"{frame_id}.bin")
        if not (folder / "labels").is_dir():
            return SemanticFrame(sequence, frame_id, points, None, None)
        labels = read_point_labels(folder / "labels" / f"{frame_id}.label", len(points))
        return SemanticFrame(sequence, frame_id, points, *labels)
