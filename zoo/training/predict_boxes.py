"""``tools/predict.py`` for detectors: boxes in point files as JSON, as KITTI's text, and as pictures.

Instead of files it takes a split of the run's data set; nuScenes' key frames also become the file that its evaluation
server takes.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig

from zoo.data.bad_samples import SampleError
from zoo.data.detection import Detections, collate_detection
from zoo.data.detection_data import DetectionData
from zoo.data.detection_frames import CameraView, DetectionFrame
from zoo.data.detection_results import STRAIGHT_AHEAD, kitti_results, write_detections_json, write_kitti_results
from zoo.data.formats.kitti import read_calibration
from zoo.data.formats.point_files import find_point_files, read_points
from zoo.data.image_files import image_size
from zoo.data.nuscenes_results import nuscenes_results, write_nuscenes_results
from zoo.data.progress import track
from zoo.data.split_data import Split
from zoo.rendering.detection_pictures import BoxSet, bev_picture, perspective_picture, photo_picture
from zoo.rendering.images import write_png
from zoo.tasks.detection import DetectionTask
from zoo.training.configuration import load_run
from zoo.training.run_folder import find_checkpoint

__all__ = ["predict_files", "read_cloud_frame"]

log = logging.getLogger(__name__)


def predict_files(cfg: DictConfig) -> Path:
    """Detect boxes as ``zoo/configs/predict.yaml`` describes and return the folder that was written.

    A file that cannot be read is named and left out; the others are still done.

    Raises:
        ValueError: Nothing was asked for, or files and a split, or no file could be read.
        FileNotFoundError: ``ckpt`` names nothing.
    """
    if (cfg.input is None) == (cfg.split is None):
        raise ValueError(
            f"input={cfg.input}, split={cfg.split}: expected one of them: a .bin, .ply or .pcd file or a folder of "
            "them, or train, val or test"
        )
    checkpoint = find_checkpoint(cfg.ckpt, output_dir=cfg.paths.output_dir, name=cfg.name)
    _, parts = load_run(checkpoint, list(cfg.overrides))
    task, data = parts.task, parts.data
    if not isinstance(task, DetectionTask) or not isinstance(data, DetectionData):
        raise ValueError(f"ckpt={cfg.ckpt}: holds a {type(task).__name__}, expected a detector")
    task.to(cfg.device)
    folder = Path(cfg.output) if cfg.output else checkpoint.resolve().parents[1] / "predictions"
    frames = _frames_of_files(cfg.input, data) if cfg.split is None else _frames_of_split(cfg.split, data)
    results: dict[str, list[dict[str, Any]]] = {}
    done = 0
    for file, read in track(frames, "detecting", len(frames)):
        try:
            frame = read()
        except SampleError as error:
            log.error("left out: %s", error)
            continue
        found = detect(task, data, frame, cfg.min_score)
        name = frame.frame_id
        write_detections_json(folder / f"{name}.json", found, task.class_names, file)
        _write_text(folder / "kitti" / f"{name}.txt", found, task, frame)
        if cfg.pictures:
            _write_pictures(folder, found, task, frame, data)
        if frame.pose is not None:
            results[name] = nuscenes_results(found, frame, task.class_names)
        log.info("%s: %s", file, _counted(found, task))
        done += 1
    if not done:
        raise ValueError(f"input={cfg.input}, split={cfg.split}: none of {len(frames)} files could be read")
    if results:
        write_nuscenes_results(folder / "results_nusc.json", results)
    return folder


Frames = list[tuple[str, Callable[[], DetectionFrame]]]  # what to call each, and its reader


def _frames_of_files(path: str, data: DetectionData) -> Frames:
    return [(str(file), functools.partial(read_cloud_frame, file, data)) for file in find_point_files(path)]


def _frames_of_split(name: str, data: DetectionData) -> Frames:
    if name not in data.source.splits:
        raise ValueError(f"split: found {name!r}, expected one of {', '.join(data.source.splits)}")
    data.source.ensure()
    frames = data.frames(cast(Split, name))
    return [(frame_id, functools.partial(frames.read, row)) for row, frame_id in enumerate(frames.frame_ids)]


def read_cloud_frame(path: Path, data: DetectionData) -> DetectionFrame:
    """A point file as a frame; calibration and photograph come from KITTI's folders where it stands in them.

    A model that was trained on what the camera sees gets no more than that.
    """
    points = read_points(path, columns=data.point_dim or 4)
    view = _view_beside(path)
    if view is not None and getattr(data.source, "in_view_only", False):
        points = points[view.calibration.in_view(points, view.shape)]
    nothing = np.zeros(0, dtype=np.int64)
    name = path.stem.removesuffix(".pcd")
    return DetectionFrame(name, points, np.zeros((0, data.box_dim or 7)), (), nothing, nothing, view)


def _view_beside(path: Path) -> CameraView | None:
    if path.parent.name != "velodyne":
        return None
    calibration = path.parents[1] / "calib" / f"{path.stem}.txt"
    for suffix in (".png", ".jpg"):
        picture = path.parents[1] / "image_2" / f"{path.stem}{suffix}"
        if calibration.is_file() and picture.is_file():
            width, height = image_size(picture)
            return CameraView(picture, read_calibration(calibration), (height, width))
    return None


def detect(task: DetectionTask, data: DetectionData, frame: DetectionFrame, min_score: float) -> Detections:
    """What a detector finds in a frame, by falling score."""
    batch = collate_detection([data.evaluated(frame).sample(frame.frame_id)]).to(task.device)
    with torch.inference_mode():
        found = task.predict_step(batch, 0)[0].to("cpu")
    order = torch.argsort(found.scores, descending=True, stable=True)
    order = order[found.scores[order] >= min_score]
    return Detections(found.boxes[order], found.scores[order], found.labels[order])


def _write_text(path: Path, found: Detections, task: DetectionTask, frame: DetectionFrame) -> None:
    """In the frame's camera, or in one that looks straight ahead from the sensor."""
    calibration = STRAIGHT_AHEAD if frame.view is None else frame.view.calibration
    labels = kitti_results(found, task.class_names, calibration, None if frame.view is None else frame.view.shape)
    write_kitti_results(path, labels)


def _write_pictures(
    folder: Path, found: Detections, task: DetectionTask, frame: DetectionFrame, data: DetectionData
) -> None:
    pairs = zip(found.labels.tolist(), found.scores.tolist(), strict=True)
    sets = [BoxSet.found(found.boxes.numpy(), [f"{task.class_names[label]} {score:.2f}" for label, score in pairs])]
    reach = data.point_range or (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)
    view_range = (reach[0], reach[1], reach[3], reach[4])
    shown = replace(frame, points=data.evaluated(frame).points)
    write_png(folder / f"{frame.frame_id}_above.png", bev_picture(shown.points, sets, view_range=view_range))
    write_png(folder / f"{frame.frame_id}_perspective.png", perspective_picture(shown.points, sets))
    if frame.view is not None:
        write_png(folder / f"{frame.frame_id}_photo.png", photo_picture(frame.view, sets))


def _counted(found: Detections, task: DetectionTask) -> str:
    counts = [(name, int((found.labels == label).sum())) for label, name in enumerate(task.class_names)]
    return ", ".join(f"{count} {name}" for name, count in counts if count) or "nothing found"
