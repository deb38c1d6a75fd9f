"""A small generated set in KITTI's layout, and detections data made of it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from zoo.data.detection_data import DetectionData
from zoo.data.kitti_detection import KittiSource
from zoo.data.lidar_sensor import Camera, LidarSensor
from zoo.data.lidar_writer import KittiSettings, write_kitti

SETTINGS = KittiSettings(
    num_train=3,
    num_val=1,
    num_test=2,
    sensor=LidarSensor(beams=24, azimuth_steps=700),
    camera=Camera(stride=6),
)
CLASSES = ("Car", "Pedestrian", "Cyclist")
RANGE = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)


@cache
def _folder() -> TemporaryDirectory[str]:
    folder = TemporaryDirectory()
    write_kitti(Path(folder.name) / "kitti", SETTINGS)
    return folder


def small_kitti() -> Path:
    """The folder of three training, one val and two test frames; do not write into it."""
    return Path(_folder().name) / "kitti"


def kitti_data(root: Path | None = None, **options: Any) -> DetectionData:
    """A data module over `small_kitti` or another folder."""
    source = KittiSource(root=root or small_kitti(), splits={"train": "train", "val": "val", "test": "test"})
    return DetectionData(source=source, **{"class_names": CLASSES, **options})
