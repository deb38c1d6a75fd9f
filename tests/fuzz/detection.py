"""Readers of what detectors are trained on."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.harness import Case, Reader
from tests.unit.data.kitti_sets import small_kitti
from tests.unit.data.nuscenes_set import write_nuscenes
from tests.unit.data.test_openpcdet import as_openpcdet, write_database
from tests.unit.data.test_waymo import SEGMENT, write_waymo
from zoo.data.boxes import Calibration
from zoo.data.cifar import Cifar
from zoo.data.formats.kitti import read_calibration, read_labels
from zoo.data.formats.nuscenes import build_infos
from zoo.data.kitti_detection import KittiSource, read_plane
from zoo.data.object_database import ObjectDatabase, build_database
from zoo.data.openpcdet import read_database_arrays, read_kitti_infos
from zoo.data.sweep_infos import read_infos, read_openpcdet_infos, write_infos
from zoo.data.waymo_detection import WaymoSource

CLASSES = ["Car", "Cyclist"]
_WAYMO = f"waymo_processed_data_v0_5_0/{SEGMENT}"


def _labels(root: Path) -> None:
    shutil.copy(small_kitti() / "training" / "label_2" / "000000.txt", root / "labels.txt")


def _calibration(root: Path) -> None:
    shutil.copy(small_kitti() / "training" / "calib" / "000000.txt", root / "calib.txt")


def _plane(root: Path) -> None:
    (root / "plane.txt").write_text("# Plane\nWidth 4\nHeight 1\n0.01 -1.0 0.02 1.65\n")


def _kitti(root: Path) -> None:
    (root / "infos.pkl").write_bytes(pickle.dumps(as_openpcdet(small_kitti())[:2]))


def _kitti_infos(root: Path) -> None:
    for info in read_kitti_infos(root / "infos.pkl"):
        assert np.isfinite(info.calibration.p2).all()
        if info.labels is not None:
            info.labels.lidar_boxes(info.calibration)


def _database(root: Path) -> None:
    shutil.copytree(small_kitti(), root, dirs_exist_ok=True)
    write_database(root)


def _objects(root: Path) -> None:
    build_database(KittiSource(root=small_kitti()).open_split("train"), CLASSES).write(root / "objects.npz")


def _read_objects(root: Path) -> None:
    found = ObjectDatabase.read(root / "objects.npz")
    for number in range(min(len(found), 3)):
        assert found.points_of(number).ndim == 2
    assert len(found.names) == len(found.boxes) == len(found.num_points)


def _tables(root: Path) -> None:
    write_nuscenes(root, key_frames=2, between=1)


def _infos(root: Path) -> Any:
    return build_infos(root, "v1.0-mini", {"train": ["scene-0061"]}, 3)


def _prepared(root: Path) -> None:
    _tables(root)
    write_infos(root / "infos.npz", _infos(root)["train"])


def _nuscenes_pickle(root: Path) -> None:
    entry = {
        "token": "t",
        "lidar_path": "a.bin",
        "sweeps": [{"lidar_path": "b.bin", "transform_matrix": np.eye(4), "time_lag": 0.1}],
        "gt_names": np.array(["car", "bus"]),
        "gt_boxes": np.ones((2, 9)),
        "num_lidar_pts": np.array([3, 4]),
        "ref_from_car": np.eye(4),
        "car_from_global": np.eye(4),
    }
    (root / "infos.pkl").write_bytes(pickle.dumps([entry, entry]))


def _waymo(root: Path) -> None:
    frames = WaymoSource(root=root).open_split("train")
    for number in range(len(frames)):
        frames.read(number)


def _cifar(root: Path) -> None:
    content = {"data": np.zeros((2, 3072), dtype=np.uint8), "labels": [1, 2]}
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (root / name).write_bytes(pickle.dumps(content, protocol=2))
    (root / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(number) for number in range(10)]}))


def _read_cifar(root: Path) -> None:
    source = Cifar(root=root)
    assert len(source.class_names) == 10
    pictures = source.open_split("test")
    for number in range(len(pictures)):
        assert pictures.read(number).label in range(10)


_TABLES = ("category", "instance", "sensor", "calibrated_sensor", "scene", "sample", "sample_data", "sample_annotation")

DETECTION = (
    Reader(
        "kitti-text",
        (
            Case("kitti-labels", "labels.txt", "text", _labels, lambda root: read_labels(root / "labels.txt")),
            Case("kitti-calib", "calib.txt", "text", _calibration, lambda root: read_calibration(root / "calib.txt")),
            Case(
                "kitti-plane",
                "plane.txt",
                "text",
                _plane,
                lambda root: read_plane(root / "plane.txt", Calibration(np.eye(3, 4), np.eye(3), np.eye(3, 4))),
            ),
        ),
    ),
    Reader(
        "pickle",
        (
            Case("pickle-kitti", "infos.pkl", "pickle", _kitti, _kitti_infos),
            Case(
                "pickle-database",
                "kitti_dbinfos_train.pkl",
                "pickle",
                _database,
                lambda root: read_database_arrays(root / "kitti_dbinfos_train.pkl", CLASSES),
            ),
            Case(
                "pickle-nuscenes",
                "infos.pkl",
                "pickle",
                _nuscenes_pickle,
                lambda root: read_openpcdet_infos(root / "infos.pkl"),
            ),
            Case("pickle-waymo", f"{_WAYMO}/{SEGMENT}.pkl", "pickle", lambda root: write_waymo(root, 2), _waymo),
            Case("pickle-cifar", "test_batch", "pickle", _cifar, _read_cifar),
            Case("pickle-cifar-names", "batches.meta", "pickle", _cifar, _read_cifar),
        ),
    ),
    Reader(
        "prepared",
        (
            Case("objects", "objects.npz", "npz", _objects, _read_objects),
            Case("sweep-infos", "infos.npz", "npz", _prepared, lambda root: read_infos(root / "infos.npz")),
            Case("waymo-npy", f"{_WAYMO}/0000.npy", "npy", lambda root: write_waymo(root, 1), _waymo),
        ),
    ),
    Reader(
        "nuscenes",
        tuple(Case(f"nuscenes-{name}", f"v1.0-mini/{name}.json", "json", _tables, _infos) for name in _TABLES),
    ),
)
