"""What OpenPCDet prepared for KITTI, and its object databases, read by the restricted unpickler.

Its infos of Waymo stand in `zoo.data.waymo_detection`, those of nuScenes in `zoo.data.sweep_infos`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.bad_samples import SampleError
from zoo.data.boxes import Calibration
from zoo.data.formats.kitti import TYPES, KittiLabels
from zoo.data.formats.restricted_pickle import read_plain_pickle

__all__ = ["KittiInfo", "read_database_arrays", "read_kitti_infos"]


@dataclass(frozen=True)
class KittiInfo:
    """What is known of a frame beside its points.

    Attributes:
        frame_id: six digits.
        calibration: of the frame.
        image_shape: (height, width).
        labels: None in the test split.
    """

    frame_id: str
    calibration: Calibration
    image_shape: tuple[int, int]
    labels: KittiLabels | None


def read_kitti_infos(path: Path) -> list[KittiInfo]:
    """The frames of ``kitti_infos_SPLIT.pkl``.

    Raises:
        SampleError: missing or damaged, refused by the restricted reader, or not what OpenPCDet writes.
    """
    content = read_plain_pickle(path)
    if not isinstance(content, list):
        raise SampleError(path, f"holds a {type(content).__name__}, expected a list of frames")
    infos = []
    for number, entry in enumerate(content):
        try:
            infos.append(_kitti_info(entry))
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise SampleError(path, f"entry {number} is not what OpenPCDet writes for KITTI ({error!r})") from error
    return infos


def _kitti_info(entry: dict[str, Any]) -> KittiInfo:
    calibration = entry["calib"]
    matrices = [np.asarray(calibration[name], dtype=np.float64) for name in ("P2", "R0_rect", "Tr_velo_to_cam")]
    height, width = (int(value) for value in entry["image"]["image_shape"])
    labels = _kitti_labels(entry["annos"]) if "annos" in entry else None
    made = Calibration(matrices[0][:3], matrices[1][:3, :3], matrices[2][:3])
    return KittiInfo(str(entry["point_cloud"]["lidar_idx"]), made, (height, width), labels)


def _kitti_labels(annotations: dict[str, Any]) -> KittiLabels:
    names = tuple(str(name) for name in annotations["name"])
    unknown = [name for name in names if name not in TYPES]
    if unknown:
        raise ValueError(f"unknown type {unknown[0]!r}, expected one of {', '.join(TYPES)}")
    count = len(names)
    columns = {
        name: np.asarray(annotations[name], dtype=np.float64).reshape(count, *shape)
        for name, shape in {
            "truncated": (),
            "occluded": (),
            "alpha": (),
            "bbox": (4,),
            "dimensions": (3,),
            "location": (3,),
            "rotation_y": (),
        }.items()
    }
    return KittiLabels(
        names,
        columns["truncated"],
        columns["occluded"].astype(np.int64),
        columns["alpha"],
        columns["bbox"],
        columns["dimensions"][:, [1, 2, 0]],  # length, height, width there
        columns["location"],
        columns["rotation_y"],
    )


def read_database_arrays(path: Path, class_names: Collection[str]) -> dict[str, np.ndarray]:
    """The objects of ``*_dbinfos_*.pkl`` with their points, as columns of a `zoo.data.object_database.ObjectDatabase`.

    The point files stand where the pickle says, relative to its folder.

    Raises:
        SampleError: missing or damaged files, or not what OpenPCDet writes.
    """
    content = read_plain_pickle(path)
    if not isinstance(content, dict):
        raise SampleError(path, f"holds a {type(content).__name__}, expected lists of objects by class")
    try:
        entries = [entry for name in class_names for entry in content.get(name, [])]
        boxes = np.array([np.asarray(entry["box3d_lidar"], dtype=np.float32) for entry in entries])
        points = [_object_points(path.parent / entry["path"], int(entry["num_points_in_gt"])) for entry in entries]
        columns = {
            "names": np.array([str(entry["name"]) for entry in entries], dtype=np.str_),
            "difficulty": np.array([int(entry.get("difficulty", -1)) for entry in entries], dtype=np.int64),
            "frame_ids": np.array([str(entry["image_idx"]) for entry in entries], dtype=np.str_),
        }
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError) as error:
        if isinstance(error, SampleError):
            raise
        raise SampleError(path, f"is not what OpenPCDet writes ({error!r})") from error
    width = points[0].shape[1] if points else 4
    if any(own.shape[1] != width for own in points):
        raise SampleError(path, "its objects have points of different width")
    return columns | {
        "boxes": boxes.reshape(len(entries), -1) if entries else np.zeros((0, 7), dtype=np.float32),
        "points": np.concatenate([np.zeros((0, width), dtype=np.float32), *points]),
        "offsets": np.cumsum([0, *(len(own) for own in points)], dtype=np.int64),
    }


def _object_points(path: Path, count: int) -> np.ndarray:
    """Rows of float32; their width follows from the number of points."""
    if not path.is_file():
        raise SampleError(path, "no such point file")
    values = np.fromfile(path, dtype="<f4")
    if count < 1 or values.size % count or values.size // count < 3:
        raise SampleError(path, f"holds {values.size} numbers, expected {count} points of at least three")
    return values.reshape(count, -1).astype(np.float32, copy=False)
