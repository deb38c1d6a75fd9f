"""What is known of key frames with earlier sweeps: files, transforms, times and boxes, as one table on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.data.bad_samples import SampleError
from zoo.data.formats.restricted_pickle import read_plain_pickle
from zoo.data.schema import read_arrays, write_arrays

__all__ = ["SweepInfo", "read_infos", "read_openpcdet_infos", "write_infos"]

SCHEMA = 2
REBUILD = "tools/prepare_data.py data=nuscenes action=prepare overwrite=true"


@dataclass(frozen=True)
class SweepInfo:
    """A key frame.

    Attributes:
        frame_id: its name.
        paths: of the key sweep, then of earlier ones, relative to the data set's folder.
        transforms: ``(S, 4, 4)`` from each sweep's sensor to the key sweep's.
        times: ``(S,)`` seconds before the key sweep.
        boxes: ``(M, 9)`` in the key sweep's LiDAR frame.
        names: of the boxes.
        num_points: ``(M,)`` LiDAR points in each.
        attributes: what each box is doing, in nuScenes' words; empty where nobody said.
        pose: ``(4, 4)`` from the key sweep's LiDAR to the world.
    """

    frame_id: str
    paths: tuple[str, ...]
    transforms: NDArray[np.float64]
    times: NDArray[np.float64]
    boxes: NDArray[np.float64]
    names: tuple[str, ...]
    num_points: NDArray[np.int64]
    attributes: tuple[str, ...]
    pose: NDArray[np.float64]


def write_infos(path: Path, infos: Sequence[SweepInfo]) -> None:
    """Write as one npz, all or nothing."""
    columns = {
        "frame_ids": np.array([info.frame_id for info in infos], dtype=np.str_),
        "sweep_offsets": np.cumsum([0, *(len(info.paths) for info in infos)], dtype=np.int64),
        "paths": np.array([name for info in infos for name in info.paths], dtype=np.str_),
        "transforms": np.concatenate([np.zeros((0, 4, 4)), *(info.transforms for info in infos)]),
        "times": np.concatenate([np.zeros(0), *(info.times for info in infos)]),
        "box_offsets": np.cumsum([0, *(len(info.boxes) for info in infos)], dtype=np.int64),
        "boxes": np.concatenate([np.zeros((0, 9)), *(info.boxes for info in infos)]),
        "names": np.array([name for info in infos for name in info.names], dtype=np.str_),
        "num_points": np.concatenate([np.zeros(0, dtype=np.int64), *(info.num_points for info in infos)]),
        "attributes": np.array([name for info in infos for name in info.attributes], dtype=np.str_),
        "poses": np.array([info.pose for info in infos]).reshape(-1, 4, 4),
    }
    write_arrays(path, "sweep infos", SCHEMA, columns)


def read_infos(path: Path) -> list[SweepInfo]:
    """Read what `write_infos` wrote.

    Raises:
        SampleError: missing, damaged, or of another schema version.
    """
    table = read_arrays(path, "sweep infos", SCHEMA, REBUILD)
    try:
        infos = []
        for row, frame_id in enumerate(table["frame_ids"].tolist()):
            sweeps = slice(*table["sweep_offsets"][row : row + 2])
            boxes = slice(*table["box_offsets"][row : row + 2])
            infos.append(
                SweepInfo(
                    frame_id,
                    tuple(table["paths"][sweeps].tolist()),
                    table["transforms"][sweeps],
                    table["times"][sweeps],
                    table["boxes"][boxes],
                    tuple(table["names"][boxes].tolist()),
                    table["num_points"][boxes],
                    tuple(table["attributes"][boxes].tolist()),
                    table["poses"][row],
                )
            )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise SampleError(path, f"damaged ({error}); rebuild it: {REBUILD}") from error
    return infos


def read_openpcdet_infos(path: Path) -> list[SweepInfo]:
    """The infos that OpenPCDet's nuScenes converter pickled; they hold no attributes.

    Raises:
        SampleError: missing or damaged, refused by the restricted reader, or without a key that is needed.
    """
    content = read_plain_pickle(path)
    if not isinstance(content, list):
        raise SampleError(path, f"holds a {type(content).__name__}, expected a list of frames")
    infos = []
    for number, entry in enumerate(content):
        try:
            infos.append(_converted(entry))
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise SampleError(path, f"entry {number} is not what OpenPCDet writes ({error!r})") from error
    return infos


def _converted(entry: dict[str, Any]) -> SweepInfo:
    sweeps = entry["sweeps"]
    transforms = [np.eye(4), *(np.eye(4) if s["transform_matrix"] is None else s["transform_matrix"] for s in sweeps)]
    names = np.asarray(entry.get("gt_names", [])).astype(np.str_).reshape(-1)
    boxes = np.asarray(entry.get("gt_boxes", []), dtype=np.float64).reshape(len(names), -1)
    boxes = boxes[:, :9] if len(names) else np.zeros((0, 9))
    if boxes.shape[1] == 7:
        boxes = np.pad(boxes, ((0, 0), (0, 2)))
    counts = np.asarray(entry.get("num_lidar_pts", np.ones(len(names))), dtype=np.int64).reshape(-1)
    if boxes.shape[1] != 9 or len(counts) != len(names):
        raise ValueError(f"{len(names)} names, boxes of shape {boxes.shape}, {len(counts)} counts")
    boxes[:, 7:] = np.nan_to_num(boxes[:, 7:])
    sensor_from_world = np.asarray(entry["ref_from_car"]) @ np.asarray(entry["car_from_global"])
    return SweepInfo(
        str(entry["token"]),
        (str(entry["lidar_path"]), *(str(sweep["lidar_path"]) for sweep in sweeps)),
        np.asarray(transforms, dtype=np.float64).reshape(-1, 4, 4),
        np.array([0.0, *(float(sweep["time_lag"]) for sweep in sweeps)]),
        boxes,
        tuple(names.tolist()),
        counts,
        ("",) * len(names),
        np.linalg.inv(sensor_from_world).astype(np.float64),
    )
