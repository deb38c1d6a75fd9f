"""Detections in nuScenes' words: an attribute for every box, and the file that its evaluation server takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from zoo.data.detection import Detections
from zoo.data.detection_frames import DetectionFrame
from zoo.files import write_json

__all__ = ["ATTRIBUTES", "default_attributes", "nuscenes_results", "write_nuscenes_results"]

ATTRIBUTES = (
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.moving",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "vehicle.moving",
    "vehicle.parked",
    "vehicle.stopped",
)
MOVING = 0.2  # metres per second
MOST_BOXES = 500  # of a sample; the server refuses more

# what a class mostly does at rest and in motion; cones and barriers do nothing
_BY_SPEED = {
    **dict.fromkeys(("car", "truck", "trailer", "construction_vehicle"), ("vehicle.parked", "vehicle.moving")),
    "bus": ("vehicle.stopped", "vehicle.moving"),
    **dict.fromkeys(("motorcycle", "bicycle"), ("cycle.without_rider", "cycle.with_rider")),
    "pedestrian": ("pedestrian.standing", "pedestrian.moving"),
}


def default_attributes(names: Sequence[str], velocities: NDArray[Any]) -> list[str]:
    """What objects are probably doing, from class and speed alone: detectors predict no attributes.

    Faster than 0.2 m/s: moving, or a cycle with a rider. Else what is most frequent in the training split: standing
    pedestrians, stopped buses, other vehicles parked, cycles without a rider. Cones and barriers have no attribute.

    Args:
        names: classes in nuScenes' words; others have no attribute.
        velocities: ``(N, 2)`` metres per second; NaN counts as rest.

    Example:
        >>> default_attributes(["car", "bus", "barrier"], np.array([[3.0, 4.0], [0.1, 0.1], [0.0, 0.0]]))
        ['vehicle.moving', 'vehicle.stopped', '']
    """
    moving = np.hypot(velocities[:, 0], velocities[:, 1]) > MOVING
    return [_BY_SPEED.get(name, ("", ""))[int(fast)] for name, fast in zip(names, moving, strict=True)]


def nuscenes_results(found: Detections, frame: DetectionFrame, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """The best 500 detections of a key frame as the server wants them: in the world, with width before length.

    Args:
        found: ``(N, 9)`` boxes in the LiDAR frame; without velocities, ``(N, 7)``, all are at rest.
        frame: the key frame; its name is the sample's token.
        class_names: of the labels.

    Raises:
        ValueError: the frame has no pose.
    """
    if frame.pose is None:
        raise ValueError(f"frame: {frame.frame_id} has no pose, expected a key frame of nuScenes")
    best = found.scores.argsort(descending=True, stable=True)[:MOST_BOXES]
    boxes = found.boxes[best].detach().cpu().double().numpy()
    velocities = boxes[:, 7:9] if boxes.shape[1] == 9 else np.zeros((len(boxes), 2))
    names = [class_names[int(label)] for label in found.labels[best].tolist()]
    turn, shift = frame.pose[:3, :3], frame.pose[:3, 3]
    centers = boxes[:, :3] @ turn.T + shift
    moved = np.pad(velocities, ((0, 0), (0, 1))) @ turn.T
    x, y, z, w = (
        (Rotation.from_matrix(turn) * Rotation.from_rotvec(np.pad(boxes[:, 6:7], ((0, 0), (2, 0))))).as_quat().T
    )
    return [
        {
            "sample_token": frame.frame_id,
            "translation": centers[row].round(5).tolist(),
            "size": boxes[row, [4, 3, 5]].round(5).tolist(),
            "rotation": [round(float(part[row]), 7) for part in (w, x, y, z)],
            "velocity": moved[row, :2].round(5).tolist(),
            "detection_name": names[row],
            "detection_score": round(score, 6),
            "attribute_name": attribute,
        }
        for row, (score, attribute) in enumerate(
            zip(found.scores[best].tolist(), default_attributes(names, velocities), strict=True)
        )
    ]


def write_nuscenes_results(path: Path | str, results: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write the server's file, ``{"meta": ..., "results": {sample_token: [...]}}``.

    Args:
        path: of the file.
        results: by sample token what `nuscenes_results` gives; samples without detections belong to it, too.
    """
    senses = {"use_camera": False, "use_lidar": True, "use_radar": False, "use_map": False, "use_external": False}
    write_json(path, {"meta": senses, "results": {token: list(boxes) for token, boxes in results.items()}})
