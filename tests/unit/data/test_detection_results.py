"""Detections as KITTI lines and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from tests.samples import sample_data
from zoo.data.detection import Detections
from zoo.data.detection_results import STRAIGHT_AHEAD, kitti_results, write_detections_json, write_kitti_results
from zoo.data.formats.kitti import read_labels
from zoo.data.kitti_detection import KittiSource


def as_detections(boxes: np.ndarray) -> Detections:
    count = len(boxes)
    return Detections(torch.from_numpy(boxes), torch.linspace(0.9, 0.5, count), torch.zeros(count, dtype=torch.int64))


def test_labels_of_the_real_frame_come_back(tmp_path: Path) -> None:
    frame = KittiSource(root=sample_data("kitti_frame")).open_split("train")[0]
    assert frame.view is not None
    assert frame.labels is not None
    behind = frame.boxes[:1] - [[50.0, 0, 0, 0, 0, 0, 0]]
    found = as_detections(np.concatenate([frame.boxes, behind]))
    results = kitti_results(found, ["Car"], frame.view.calibration, frame.view.shape)
    assert len(results) == 6  # the one behind the camera is left out
    write_kitti_results(tmp_path / "a.txt", results)
    read = read_labels(tmp_path / "a.txt")
    real = frame.labels.without_dont_care()
    np.testing.assert_allclose(read.location, real.location, atol=1e-3)
    np.testing.assert_allclose(read.dimensions, real.dimensions, atol=1e-3)
    np.testing.assert_allclose(read.rotation_y, real.rotation_y, atol=1e-3)
    # labels' alpha is atan2(x, z) off rotation_y in the camera's frame; the LiDAR stands a foot behind it
    np.testing.assert_allclose(read.alpha, real.alpha, atol=0.12)
    whole = real.truncated == 0
    np.testing.assert_allclose(read.bbox[whole], real.bbox[whole], atol=12)  # people drew those
    assert read.score is not None
    np.testing.assert_allclose(read.score, found.scores[:6], atol=1e-4)


def test_without_a_camera_boxes_stay_what_they_are() -> None:
    boxes = np.array([[10.0, 2.0, -1.0, 4.0, 1.8, 1.5, 0.3], [-10.0, 2.0, -1.0, 4.0, 1.8, 1.5, 3.0]])
    results = kitti_results(as_detections(boxes), ["Car"], STRAIGHT_AHEAD, None)
    np.testing.assert_allclose(results.lidar_boxes(STRAIGHT_AHEAD), boxes, atol=1e-9)
    assert not results.bbox.any()


def test_nothing_found(tmp_path: Path) -> None:
    nothing = as_detections(np.zeros((0, 7)))
    write_kitti_results(tmp_path / "a.txt", kitti_results(nothing, ["Car"], STRAIGHT_AHEAD, (375, 1242)))
    assert (tmp_path / "a.txt").read_text() == ""
    write_detections_json(tmp_path / "a.json", nothing, ["Car"], "a.bin")
    assert json.loads((tmp_path / "a.json").read_text())["detections"] == []


def test_json_with_velocities(tmp_path: Path) -> None:
    found = as_detections(np.array([[10.0, 2.0, -1.0, 4.0, 1.8, 1.5, 0.3, 5.0, 0.5]]))
    write_detections_json(tmp_path / "a.json", found, ["Car"], "a.bin")
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["source"] == "a.bin"
    (entry,) = content["detections"]
    assert entry == {"class": "Car", "score": 0.9, "box": [10, 2, -1, 4, 1.8, 1.5, 0.3], "velocity": [5, 0.5]}
    write_detections_json(tmp_path / "b.json", found, ["bus"], "a.bin")  # a class of nuScenes
    assert json.loads((tmp_path / "b.json").read_text())["detections"][0]["attribute"] == "vehicle.moving"
