"""nuScenes' JSON tables as key frames with boxes and earlier LiDAR sweeps; its own development kit is not needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.data.bad_samples import SampleError
from zoo.data.boxes import wrap_angle
from zoo.data.formats.json_files import read_json
from zoo.data.progress import track
from zoo.data.sweep_infos import SweepInfo

__all__ = ["CATEGORIES", "MINI_SCENES", "build_infos", "rigid_transform"]

CATEGORIES = {
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
}
MINI_SCENES = {
    "mini_train": tuple(f"scene-{n}" for n in ("0061", "0553", "0655", "0757", "0796", "1077", "1094", "1100")),
    "mini_val": ("scene-0103", "scene-0916"),
}
_MAX_GAP = 1.5  # seconds between annotations of which a velocity is made

Record = dict[str, Any]
_MISFITS = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)  # of records of another form


def rigid_transform(translation: list[float], rotation: list[float]) -> NDArray[np.float64]:
    """The 4 x 4 matrix of a translation and a quaternion w, x, y, z."""
    w, x, y, z = np.asarray(rotation, dtype=np.float64) / np.linalg.norm(rotation)
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = translation
    return matrix


class _Tables:
    """Records by token, as far as LiDAR boxes need them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        categories = {record["token"]: record["name"] for record in self._read("category").values()}
        self.category = {
            token: categories[record["category_token"]] for token, record in self._read("instance").items()
        }
        channels = {token for token, record in self._read("sensor").items() if record["channel"] == "LIDAR_TOP"}
        sensors = self._read("calibrated_sensor")
        self.sensors = {token: record for token, record in sensors.items() if record["sensor_token"] in channels}
        data = self._read("sample_data")
        self.sweeps = {
            token: record for token, record in data.items() if record["calibrated_sensor_token"] in self.sensors
        }
        self.key_sweep = {record["sample_token"]: record for record in self.sweeps.values() if record["is_key_frame"]}
        self.samples, self.scenes, self.poses = self._read("sample"), self._read("scene"), self._read("ego_pose")
        self.annotations = self._read("sample_annotation")
        self.attributes = {token: record["name"] for token, record in self._read("attribute").items()}
        self.of_sample: dict[str, list[Record]] = {}
        for record in self.annotations.values():
            self.of_sample.setdefault(record["sample_token"], []).append(record)

    def _read(self, name: str) -> dict[str, Record]:
        path = self.folder / f"{name}.json"
        try:
            return {record["token"]: record for record in read_json(path)}
        except (TypeError, KeyError) as error:
            raise SampleError(path, f"not a readable table of nuScenes ({error!r})") from error

    def global_from_sensor(self, sweep: Record) -> NDArray[np.float64]:
        """Where the LiDAR stood at a sweep."""
        pose, sensor = self.poses[sweep["ego_pose_token"]], self.sensors[sweep["calibrated_sensor_token"]]
        return rigid_transform(pose["translation"], pose["rotation"]) @ rigid_transform(
            sensor["translation"], sensor["rotation"]
        )

    def samples_of(self, scene: Record) -> list[Record]:
        """The key frames of a scene in their order."""
        found, token = [], scene["first_sample_token"]
        while token:
            if len(found) == len(self.samples):
                raise ValueError("its key frames form a ring")
            found.append(self.samples[token])
            token = self.samples[token]["next"]
        return found

    def velocity(self, annotation: Record) -> NDArray[np.float64]:
        """Metres per second in the world, from the neighbouring annotations; zero where there is none near enough."""
        before, after = annotation["prev"] or annotation["token"], annotation["next"] or annotation["token"]
        first, last = self.annotations[before], self.annotations[after]
        seconds = 1e-6 * (
            self.samples[last["sample_token"]]["timestamp"] - self.samples[first["sample_token"]]["timestamp"]
        )
        gap = _MAX_GAP * (2 if annotation["prev"] and annotation["next"] else 1)
        if before == after or not 0 < seconds <= gap:
            return np.zeros(3)
        return (np.array(last["translation"]) - np.array(first["translation"])) / seconds


def build_infos(
    root: Path, version: str, scenes: Mapping[str, list[str]], max_sweeps: int
) -> dict[str, list[SweepInfo]]:
    """Key frames of some splits.

    Args:
        root: folder with ``samples``, ``sweeps`` and the tables' folder.
        version: name of the tables' folder, ``v1.0-trainval``.
        scenes: the names of the scenes of each split.
        max_sweeps: sweeps of a frame, the key sweep among them. Where a scene has fewer before, its first is repeated.

    Raises:
        SampleError: a missing or damaged table, a scene that it does not hold, or records that do not fit together.
    """
    try:
        tables = _Tables(root / version)
        by_name = {record["name"]: record for record in tables.scenes.values()}
    except SampleError:
        raise
    except _MISFITS as error:
        raise _misfit(root / version, error, "a table") from error
    result = {}
    for split, names in scenes.items():
        missing = [name for name in names if name not in by_name]
        if missing:
            raise SampleError(root / version / "scene.json", f"holds no scene {missing[0]!r} of the split {split!r}")
        infos = []
        for name in track(names, f"reading {split}", len(names)):
            try:
                infos += [_info(tables, sample, max_sweeps) for sample in tables.samples_of(by_name[name])]
            except _MISFITS as error:
                raise _misfit(root / version, error, name) from error
        result[split] = infos
    return result


def _misfit(folder: Path, error: Exception, what: str) -> SampleError:
    if isinstance(error, KeyError):
        return SampleError(folder, f"tables do not fit together: {what} refers to {error}")
    return SampleError(folder, f"tables do not fit together: {what} has an entry of another form ({error})")


def _info(tables: _Tables, sample: Record, max_sweeps: int) -> SweepInfo:
    key = tables.key_sweep[sample["token"]]
    pose = tables.global_from_sensor(key)
    sensor_from_global = np.linalg.inv(pose)
    chain = [key]
    while len(chain) < max_sweeps:
        before = chain[-1]["prev"]
        chain.append(tables.sweeps[before] if before else chain[-1])
    transforms = [sensor_from_global @ tables.global_from_sensor(sweep) for sweep in chain]
    annotations = [record for record in tables.of_sample.get(sample["token"], []) if _kind(tables, record) is not None]
    boxes = np.array([_box(tables, record, sensor_from_global) for record in annotations]).reshape(-1, 9)
    return SweepInfo(
        sample["token"],
        tuple(sweep["filename"] for sweep in chain),
        np.array(transforms),
        np.array([1e-6 * (key["timestamp"] - sweep["timestamp"]) for sweep in chain]),
        boxes,
        tuple(str(_kind(tables, record)) for record in annotations),
        np.array([record["num_lidar_pts"] for record in annotations], dtype=np.int64),
        tuple(_attribute(tables, record) for record in annotations),
        pose,
    )


def _kind(tables: _Tables, annotation: Record) -> str | None:
    return CATEGORIES.get(tables.category[annotation["instance_token"]])


def _attribute(tables: _Tables, annotation: Record) -> str:
    """What the object is doing; the tables give at most one word for the classes that are detected."""
    tokens = annotation["attribute_tokens"]
    return str(tables.attributes[tokens[0]]) if tokens else ""


def _box(tables: _Tables, annotation: Record, sensor_from_global: NDArray[np.floating[Any]]) -> list[float]:
    """x, y, z, length, width, height, yaw, vx, vy in the LiDAR frame; the tables have width, length, height."""
    local = sensor_from_global @ rigid_transform(annotation["translation"], annotation["rotation"])
    width, length, height = annotation["size"]
    yaw = float(wrap_angle(np.arctan2(local[1, 0], local[0, 0])))
    velocity = sensor_from_global[:3, :3] @ tables.velocity(annotation)
    return [*local[:3, 3].tolist(), length, width, height, yaw, *velocity[:2].tolist()]
