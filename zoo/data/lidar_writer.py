"""Writes generated LiDAR scenes in the layouts of KITTI's object benchmark and of SemanticKITTI."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.data.boxes import Calibration, lidar_to_camera_boxes, observation_angle
from zoo.data.formats.kitti import KittiLabels, write_calibration, write_labels
from zoo.data.formats.semantic_kitti import SEQUENCES, write_point_labels
from zoo.data.formats.velodyne import write_velodyne
from zoo.data.generated_folder import GeneratedFolder
from zoo.data.lidar_objects import SPLITS, Split
from zoo.data.lidar_scene import LidarFrame, make_drive, make_frame
from zoo.data.lidar_sensor import Camera, LidarSensor
from zoo.data.lidar_street import StreetSpec
from zoo.data.progress import track

# least visible share of an object's rays for occlusion 0, 1 and 2; 3 below that
OCCLUSION = (0.8, 0.45, 0.1)


@dataclass(frozen=True, kw_only=True)
class KittiSettings:
    """What `write_kitti` makes. Objects beyond ``label_range`` metres become DontCare."""

    num_train: int = 100
    num_val: int = 20
    num_test: int = 20
    seed: int = 0
    label_range: float = 70.0
    sensor: LidarSensor = field(default_factory=LidarSensor)
    camera: Camera = field(default_factory=Camera)
    street: StreetSpec = field(default_factory=StreetSpec)


_FrameJob = tuple[Path, str, KittiSettings, Split, int]  # folder, name, settings, split and number of a frame


@dataclass(frozen=True, kw_only=True)
class SemanticKittiSettings:
    """What `write_semantic_kitti` makes: sequence names and their numbers of sweeps, ``step`` metres apart."""

    frames: Mapping[str, int] = field(default_factory=lambda: {"00": 40, "08": 20, "11": 20})
    seed: int = 0
    step: float = 1.0
    sensor: LidarSensor = field(default_factory=LidarSensor)
    street: StreetSpec = field(default_factory=StreetSpec)


def write_kitti(
    root: Path | str, settings: KittiSettings | None = None, *, overwrite: bool = False, workers: int | None = None
) -> None:
    """Write ``ImageSets``, ``training`` (train and val frames) and ``testing`` (with labels, unlike KITTI's).

    The folder appears when it is complete. Its content does not depend on the number of workers.

    Args:
        root: of the set.
        settings: what to make.
        overwrite: replace a set that was made before.
        workers: processes; None: one for each processor, but none for fewer than 16 frames.

    Raises:
        FileExistsError: the folder exists and may not be replaced.
    """
    settings = settings or KittiSettings()
    counts = {"train": settings.num_train, "val": settings.num_val, "test": settings.num_test}
    with GeneratedFolder(Path(root), "kitti", settings, overwrite) as output:
        lists: dict[str, list[str]] = {}
        jobs: list[_FrameJob] = []
        for split in SPLITS:
            folder = output / ("testing" if split == "test" else "training")
            for name in ("velodyne", "image_2", "calib", "label_2"):
                (folder / name).mkdir(parents=True, exist_ok=True)
            lists[split] = [f"{len(jobs) + index:06d}" for index in range(counts[split])]
            for index, frame_id in enumerate(lists[split]):
                jobs.append((folder, frame_id, settings, split, index))
        _do_jobs(jobs, workers)
        lists["trainval"] = lists["train"] + lists["val"]
        (output / "ImageSets").mkdir()
        for split, names in lists.items():
            (output / "ImageSets" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def _frame_of(settings: KittiSettings, split: Split, index: int) -> LidarFrame:
    seed = settings.seed * 1_000_000 + index
    return make_frame(seed, split, sensor=settings.sensor, camera=settings.camera, spec=settings.street)


def _do_jobs(jobs: list[_FrameJob], workers: int | None) -> None:
    """Frames are functions of their number: any process may make any of them."""
    used = (os.cpu_count() or 1) if workers is None and len(jobs) >= 16 else workers or 0
    what = "generating frames"
    if used < 2 or "fork" not in multiprocessing.get_all_start_methods():
        for job in track(jobs, what, len(jobs)):
            _make_kitti_frame(job)
        return
    # An executor tells its workers to leave; `Pool` ends them with SIGTERM, which training holds back.
    with ProcessPoolExecutor(used, multiprocessing.get_context("fork"), _leave_signals_to_the_parent) as pool:
        try:
            for _ in track(pool.map(_make_kitti_frame, jobs), what, len(jobs)):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _leave_signals_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def camera_calibration(camera: Camera) -> Calibration:
    """KITTI's matrices for the generator's camera."""
    return Calibration(camera.matrix(), np.eye(3), camera.velo_to_cam())


def kitti_labels(frame: LidarFrame, calibration: Calibration, label_range: float = 70.0) -> KittiLabels:
    """The label lines of a generated frame: every object of which the camera sees at least one pixel, then DontCare.

    Truncation is the share of an object's own rays that leave the image; occlusion grades the share of the rays inside
    the image that meet the object first.

    Raises:
        ValueError: the frame was made without a camera.
    """
    picture = frame.picture
    if picture is None:
        raise ValueError("frame: found no picture, expected one; make the frame with a camera")
    distance = np.hypot(frame.boxes[:, 0], frame.boxes[:, 1])
    shown = (picture.seen > 0) & (frame.boxes[:, 0] > 0)
    near = np.flatnonzero(shown & (distance <= label_range))
    far = np.flatnonzero(shown & (distance > label_range))
    order = np.concatenate([near, far])
    location, dimensions, rotation = lidar_to_camera_boxes(frame.boxes[order], calibration)
    labels = KittiLabels(
        tuple(frame.objects[row].kind for row in order),
        picture.truncated[order],
        _occlusion(picture.visible[order]),
        observation_angle(frame.boxes[order]),
        picture.boxes[order],
        dimensions,
        location,
        rotation,
    )
    return _as_dont_care(labels, np.arange(len(order)) >= len(near))


def _occlusion(visible: NDArray[Any]) -> NDArray[np.int64]:
    return (visible[:, None] < np.array(OCCLUSION)).sum(axis=1)


def _as_dont_care(labels: KittiLabels, rows: NDArray[np.bool_]) -> KittiLabels:
    return KittiLabels(
        tuple("DontCare" if row else name for name, row in zip(labels.names, rows, strict=True)),
        np.where(rows, -1.0, labels.truncated),
        np.where(rows, -1, labels.occluded),
        np.where(rows, -10.0, labels.alpha),
        labels.bbox,
        np.where(rows[:, None], -1.0, labels.dimensions),
        np.where(rows[:, None], -1000.0, labels.location),
        np.where(rows, -10.0, labels.rotation_y),
    )


def _make_kitti_frame(job: _FrameJob) -> None:
    folder, frame_id, settings, split, index = job
    frame = _frame_of(settings, split, index)
    calibration = camera_calibration(settings.camera)
    assert frame.picture is not None
    write_velodyne(folder / "velodyne" / f"{frame_id}.bin", frame.sweep.points)
    Image.fromarray(frame.picture.image).save(folder / "image_2" / f"{frame_id}.png")
    write_calibration(folder / "calib" / f"{frame_id}.txt", calibration)
    write_labels(folder / "label_2" / f"{frame_id}.txt", kitti_labels(frame, calibration, settings.label_range))


def write_semantic_kitti(
    root: Path | str, settings: SemanticKittiSettings | None = None, *, overwrite: bool = False
) -> None:
    """Write ``sequences/NN`` with velodyne, labels, calib.txt, poses.txt and times.txt.

    Streets, shapes and random numbers of a sequence are those of the split that the benchmark puts it in; test
    sequences get labels too, unlike SemanticKITTI's. The folder appears when it is complete.

    Raises:
        FileExistsError: the folder exists and may not be replaced.
        ValueError: a sequence that the benchmark does not have.
    """
    settings = settings or SemanticKittiSettings()
    split_of: dict[str, Split] = {name: split for split in SPLITS for name in SEQUENCES[split]}
    unknown = [name for name in settings.frames if name not in split_of]
    if unknown:
        raise ValueError(f"frames: found the sequence {unknown[0]!r}, expected two digits from '00' to '21'")
    with GeneratedFolder(Path(root), "semantic_kitti", settings, overwrite) as output:
        for name, count in settings.frames.items():
            folder = output / "sequences" / name
            (folder / "velodyne").mkdir(parents=True)
            (folder / "labels").mkdir()
            seed = settings.seed * 1000 + int(name)
            drive = make_drive(
                seed, count, split_of[name], step=settings.step, sensor=settings.sensor, spec=settings.street
            )
            poses, times = [], []
            for index, frame in enumerate(drive):
                write_velodyne(folder / "velodyne" / f"{index:06d}.bin", frame.sweep.points)
                write_point_labels(folder / "labels" / f"{index:06d}.label", frame.sweep.semantic, frame.sweep.instance)
                poses.append(frame.pose.matrix())
                times.append(frame.time)
            _write_trajectory(folder, poses, times)


def _write_trajectory(folder: Path, poses: list[NDArray[Any]], times: list[float]) -> None:
    """The files hold camera poses seen from the first camera."""
    calibration = camera_calibration(Camera())
    velo = np.eye(4)
    velo[:3] = calibration.velo_to_cam
    lines = []
    for pose in poses:
        camera = velo @ np.linalg.inv(poses[0]) @ pose @ np.linalg.inv(velo)
        lines.append(" ".join(f"{value:.9e}" for value in camera[:3].reshape(-1)) + "\n")
    (folder / "poses.txt").write_text("".join(lines))
    (folder / "times.txt").write_text("".join(f"{time:.6e}\n" for time in times))
    rows = {f"P{number}": calibration.p2 for number in range(4)} | {"Tr": calibration.velo_to_cam}
    text = [
        f"{name}: " + " ".join(f"{value:.12e}" for value in matrix.reshape(-1)) + "\n" for name, matrix in rows.items()
    ]
    (folder / "calib.txt").write_text("".join(text))
