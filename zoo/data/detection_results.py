"""Detections as files: JSON for programs, KITTI's label lines for its tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.data.boxes import Calibration, lidar_to_camera_boxes, observation_angle, project_boxes
from zoo.data.detection import Detections
from zoo.data.formats.kitti import KittiLabels, write_labels
from zoo.data.nuscenes_results import default_attributes
from zoo.files import atomic_path, write_json

__all__ = ["STRAIGHT_AHEAD", "kitti_results", "write_detections_json", "write_kitti_results"]

# for clouds without a camera: one that stands in the LiDAR and looks along x, with the numbers of KITTI's
STRAIGHT_AHEAD = Calibration(
    np.array([[721.5377, 0.0, 609.5593, 0.0], [0.0, 721.5377, 172.854, 0.0], [0.0, 0.0, 1.0, 0.0]]),
    np.eye(3),
    np.array([[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [1.0, 0.0, 0.0, 0.0]]),
)


def kitti_results(
    found: Detections, class_names: Sequence[str], calibration: Calibration, image_shape: tuple[int, int] | None
) -> KittiLabels:
    """Detections as KITTI's result lines.

    Args:
        found: boxes in the LiDAR frame.
        class_names: of the labels.
        calibration: of the frame.
        image_shape: (height, width); None leaves the image boxes zero. With a picture, detections that are nowhere on
            it are left out, as the benchmark asks for.
    """
    boxes = found.boxes[:, :7].detach().cpu().double().numpy()
    scores = found.scores.detach().cpu().double().numpy()
    labels = found.labels.detach().cpu().numpy()
    rectangles = np.zeros((len(boxes), 4))
    if image_shape is not None:
        shown = _on_picture(boxes, calibration, image_shape)
        boxes, scores, labels = boxes[shown], scores[shown], labels[shown]
        rectangles = project_boxes(boxes, calibration, image_shape)
    location, dimensions, rotation = lidar_to_camera_boxes(boxes, calibration)
    unknown = np.full(len(boxes), -1.0)
    return KittiLabels(
        tuple(str(class_names[label]) for label in labels.tolist()),
        unknown,
        unknown.astype(np.int64),
        observation_angle(boxes),
        rectangles,
        dimensions,
        location,
        rotation,
        scores,
    )


def _on_picture(boxes: NDArray[Any], calibration: Calibration, image_shape: tuple[int, int]) -> NDArray[np.bool_]:
    """In front of the camera, with an image box of some size."""
    rectangles = project_boxes(boxes, calibration, image_shape)
    _, depth = calibration.lidar_to_image(boxes[:, :3])
    with np.errstate(invalid="ignore"):
        return (depth > 0) & (rectangles[:, 2] > rectangles[:, 0]) & (rectangles[:, 3] > rectangles[:, 1])


def write_kitti_results(path: Path | str, labels: KittiLabels) -> None:
    """Write result lines with four decimals, all or nothing. KITTI's own tools know only KITTI's classes."""
    with atomic_path(path) as temporary:
        write_labels(temporary, labels, decimals=4)


def write_detections_json(path: Path | str, found: Detections, class_names: Sequence[str], source: str) -> None:
    """Write ``{source, frame, detections: [{class, score, box: [x, y, z, dx, dy, dz, yaw], velocity?, attribute?}]}``.

    Boxes with velocities of nuScenes' classes get the attribute of `default_attributes`.
    """
    detections = []
    names = [class_names[int(label)] for label in found.labels.tolist()]
    known = found.boxes.shape[1] == 9
    attributes = default_attributes(names, found.boxes[:, 7:].cpu().numpy()) if known else [""] * len(names)
    for box, score, name, attribute in zip(found.boxes.tolist(), found.scores.tolist(), names, attributes, strict=True):
        entry = {"class": name, "score": round(score, 5), "box": [round(value, 5) for value in box[:7]]}
        if known:
            entry["velocity"] = [round(value, 5) for value in box[7:]]
        if attribute:
            entry["attribute"] = attribute
        detections.append(entry)
    write_json(
        path,
        {
            "source": source,
            "frame": "LiDAR: x, y, z of the centre, dx, dy, dz in metres, yaw counter-clockwise in radians",
            "detections": detections,
        },
    )
