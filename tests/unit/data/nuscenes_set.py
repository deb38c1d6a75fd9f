"""A tiny drive in nuScenes' tables: the car goes forward and turns, a parked van stands still, a cyclist passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.formats.nuscenes import rigid_transform

SENSOR = {"translation": [0.9, 0.0, 1.8], "rotation": [0.7071067811865476, 0.0, 0.0, -0.7071067811865476]}
VAN = np.array([22.0, 6.0, 1.0])
SPEED = np.array([4.0, 1.0, 0.0])  # of the cyclist, metres per second


def quaternion(yaw: float) -> list[float]:
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]


def pose(time: float) -> dict[str, Any]:
    return {"translation": [5.0 * time, 0.3 * time, 0.0], "rotation": quaternion(0.2 * time)}


def cyclist(time: float) -> np.ndarray:
    return np.array([15.0, -4.0, 0.9]) + SPEED * time


def object_points(center: np.ndarray, yaw: float, size: tuple[float, float, float], count: int) -> np.ndarray:
    """In the world, well inside the box."""
    local = np.random.default_rng(count).uniform(-0.45, 0.45, (count, 3)) * size
    return local @ rigid_transform([0, 0, 0], quaternion(yaw))[:3, :3].T + center


def write_points(path: Path, time: float) -> None:
    world = np.concatenate(
        [object_points(VAN, 0.4, (5.0, 2.0, 2.0), 60), object_points(cyclist(time), 0.245, (1.8, 0.6, 1.7), 25)]
    )
    sensor = rigid_transform(pose(time)["translation"], pose(time)["rotation"]) @ rigid_transform(
        SENSOR["translation"], SENSOR["rotation"]
    )
    local = (np.c_[world, np.ones(len(world))] @ np.linalg.inv(sensor).T)[:, :3]
    own = np.array([[0.2, -0.3, -1.0], [0.5, 0.5, -1.5]])  # the own car
    points = np.concatenate([local, own])
    rest = np.tile([30.0, 4.0], (len(points), 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.concatenate([points, rest], axis=1).astype("<f4").tofile(path)


def write_nuscenes(root: Path, key_frames: int = 3, between: int = 2) -> None:
    """Key frames every half second with sweeps between them, in the scene ``scene-0061`` of mini_train."""
    tables: dict[str, list[dict[str, Any]]] = {
        "category": [
            {"token": "c0", "name": "vehicle.truck"},
            {"token": "c1", "name": "vehicle.bicycle"},
            {"token": "c2", "name": "animal"},
        ],
        "instance": [{"token": f"i{n}", "category_token": f"c{n}"} for n in range(3)],
        "sensor": [{"token": "s0", "channel": "LIDAR_TOP"}, {"token": "s1", "channel": "CAM_FRONT"}],
        "calibrated_sensor": [
            {"token": "cs0", "sensor_token": "s0", **SENSOR},
            {"token": "cs1", "sensor_token": "s1", "translation": [0, 0, 0], "rotation": [1, 0, 0, 0]},
        ],
        "scene": [{"token": "scene", "name": "scene-0061", "first_sample_token": "sample0"}],
        "sample": [],
        "sample_data": [{"token": "cam", "calibrated_sensor_token": "cs1", "sample_token": "sample0"}],
        "ego_pose": [],
        "sample_annotation": [],
        "attribute": [{"token": "at0", "name": "vehicle.parked"}, {"token": "at1", "name": "cycle.with_rider"}],
    }
    total = (key_frames - 1) * (between + 1) + 1
    for number in range(total):
        time, key = 0.5 * number / (between + 1), number % (between + 1) == 0
        sample = f"sample{-(-number // (between + 1))}"
        name = f"{'samples' if key else 'sweeps'}/LIDAR_TOP/{number}.pcd.bin"
        write_points(root / name, time)
        tables["ego_pose"].append({"token": f"e{number}", **pose(time)})
        tables["sample_data"].append(
            {
                "token": f"d{number}",
                "prev": f"d{number - 1}" if number else "",
                "sample_token": sample,
                "ego_pose_token": f"e{number}",
                "calibrated_sensor_token": "cs0",
                "timestamp": int(1e6 * (100 + time)),
                "is_key_frame": key,
                "filename": name,
            }
        )
    things = [(VAN, 0.4, [2.0, 5.0, 2.0], 60), (None, 0.245, [0.6, 1.8, 1.7], 25), (VAN + 5, 0.0, [1, 1, 1], 3)]
    for number in range(key_frames):
        time = 0.5 * number
        after = f"sample{number + 1}" if number + 1 < key_frames else ""
        tables["sample"].append({"token": f"sample{number}", "next": after, "timestamp": int(1e6 * (100 + time))})
        for thing, (center, yaw, size, count) in enumerate(things):
            tables["sample_annotation"].append(
                {
                    "token": f"a{thing}-{number}",
                    "sample_token": f"sample{number}",
                    "instance_token": f"i{thing}",
                    "translation": (cyclist(time) if center is None else center).tolist(),
                    "rotation": quaternion(yaw),
                    "size": size,
                    "prev": f"a{thing}-{number - 1}" if number else "",
                    "next": f"a{thing}-{number + 1}" if number + 1 < key_frames else "",
                    "num_lidar_pts": count,
                    "attribute_tokens": [f"at{thing}"] if thing < 2 else [],
                }
            )
    folder = root / "v1.0-mini"
    folder.mkdir(parents=True)
    for name, records in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(records))
