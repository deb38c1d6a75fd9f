"""Waymo Open Dataset in the folders that OpenPCDet's converter writes.

There is no converter of ours: reading the original records needs TensorFlow and Waymo's own package, which would tie
every installation to their versions. OpenPCDet's processed folders are what the field works with.

Layout: ``ImageSets/SPLIT.txt`` with one record name a line; ``waymo_processed_data_v0_5_0/SEGMENT`` with ``NNNN.npy``
(float32 rows x, y, z, intensity, elongation, no-label-zone flag) and ``SEGMENT.pkl`` (annotations), which is read by
`zoo.data.formats.restricted_pickle`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.data.bad_samples import SampleError
from zoo.data.detection_frames import DetectionFrame, DetectionFrames, DetectionSource, check_frame
from zoo.data.formats.kitti import read_split
from zoo.data.formats.numpy_files import read_npy
from zoo.data.formats.restricted_pickle import read_plain_pickle
from zoo.data.progress import track
from zoo.data.split_data import OnBadSample

__all__ = ["WaymoFrames", "WaymoSource"]

CLASSES = ("Vehicle", "Pedestrian", "Cyclist", "Sign")


@dataclass(frozen=True)
class _Sweep:
    frame_id: str
    points: Path
    infos: Path
    boxes: NDArray[np.float32]  # (M, 9)
    names: tuple[str, ...]
    difficulty: NDArray[np.int64]
    num_points: NDArray[np.int64]


def _take(path: Path, info: Any, *keys: str) -> Any:
    for key in keys:
        if not isinstance(info, dict) or key not in info:
            raise SampleError(path, f"an entry has no {'.'.join(keys)!r}; was it written by another version?")
        info = info[key]
    return info


def _read_segment(folder: Path, interval: int) -> list[_Sweep]:
    """Every ``interval``-th sweep of a segment."""
    path = folder / f"{folder.name}.pkl"
    infos = read_plain_pickle(path)
    if not isinstance(infos, list):
        raise SampleError(path, f"holds a {type(infos).__name__}, expected a list of frames")
    sweeps = []
    for number, info in enumerate(infos[::interval]):
        try:
            sweeps.append(_read_sweep(folder, path, info))
        except (TypeError, ValueError, OverflowError) as error:
            if isinstance(error, SampleError):
                raise
            raise SampleError(path, f"entry {number} is not what OpenPCDet writes for Waymo ({error!r})") from error
    return sweeps


def _read_sweep(folder: Path, path: Path, info: Any) -> _Sweep:
    names = np.asarray(_take(path, info, "annos", "name")).astype(np.str_).reshape(-1)
    boxes = np.asarray(_take(path, info, "annos", "gt_boxes_lidar"), dtype=np.float32)
    counts = np.asarray(_take(path, info, "annos", "num_points_in_gt"), dtype=np.int64).reshape(-1)
    difficulty = np.asarray(_take(path, info, "annos", "difficulty"), dtype=np.int64).reshape(-1)
    boxes = boxes.reshape(len(names), -1)
    if len(names) and boxes.shape[1] not in (7, 9):
        raise SampleError(path, f"gt_boxes_lidar has {boxes.shape[1]} columns, expected 7 or 9")
    if not len(names) == len(counts) == len(difficulty):
        raise SampleError(path, f"{len(names)} names, {len(counts)} counts, {len(difficulty)} difficulties")
    boxes = np.pad(boxes, ((0, 0), (0, 9 - boxes.shape[1]))) if len(names) else np.zeros((0, 9), dtype=np.float32)
    kept = (counts > 0) & np.isin(names, CLASSES)  # boxes without a point count nowhere
    number = int(_take(path, info, "point_cloud", "sample_idx"))
    return _Sweep(
        str(_take(path, info, "frame_id")),
        folder / f"{number:04d}.npy",
        path,
        boxes[kept],
        tuple(names[kept].tolist()),
        difficulty[kept],
        counts[kept],
    )


def read_waymo_points(path: Path) -> NDArray[np.float32]:
    """Points ``(N, 5)``: x, y, z, intensity and elongation, the last two through tanh.

    Raises:
        SampleError: a missing or damaged file, or one of another width.
    """
    rows = read_npy(path)
    if rows.ndim != 2 or rows.shape[1] != 6 or rows.dtype.kind not in "fiu":
        raise SampleError(path, f"is {rows.dtype} {rows.shape}, expected numbers (N, 6)")
    points = rows[:, :5].astype(np.float32)
    points[:, 3:] = np.tanh(points[:, 3:])
    return points


class WaymoFrames(DetectionFrames):
    """The sweeps of one split.

    Args:
        root: folder with ``ImageSets`` and the processed data.
        split: a file of ``ImageSets``.
        processed: name of the folder with the processed data.
        interval: only every so manieth sweep of a segment.
        missing_segments: ``"error"``, or ``"skip"`` to go without segments that are not there.
        on_bad_sample: see `zoo.data.formats.frame_files.FrameFiles`.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        processed: str = "waymo_processed_data_v0_5_0",
        interval: int = 1,
        missing_segments: OnBadSample = "error",
        on_bad_sample: OnBadSample = "error",
    ) -> None:
        super().__init__(on_bad_sample)
        self._sweeps: list[_Sweep] = []
        names = [name.removesuffix(".tfrecord") for name in read_split(root, split)]
        for name in track(names, f"reading {split}", len(names)):
            folder = root / processed / name
            if not folder.is_dir():
                error = SampleError(folder, "no such segment; convert it with OpenPCDet, or set missing_segments=skip")
                if missing_segments == "error":
                    raise error
                self.bad_samples.skip(error)
                continue
            self._sweeps += _read_segment(folder, interval)
        if not self._sweeps:
            raise SampleError(root / processed, f"none of {len(names)} segments of {split} is there")

    @property
    def frame_ids(self) -> Sequence[str]:
        """Segment and number."""
        return [sweep.frame_id for sweep in self._sweeps]

    def __len__(self) -> int:
        return len(self._sweeps)

    def read(self, number: int) -> DetectionFrame:
        """Read one sweep."""
        sweep = self._sweeps[number]
        points = read_waymo_points(sweep.points)
        frame = DetectionFrame(sweep.frame_id, points, sweep.boxes, sweep.names, sweep.difficulty, sweep.num_points)
        return check_frame(frame, sweep.points if not np.isfinite(points).all() else sweep.infos)


class WaymoSource(DetectionSource):
    """Waymo in OpenPCDet's processed folders.

    Args:
        root: folder with ``ImageSets`` and the processed data.
        splits: files of ``ImageSets`` to train, watch and measure on.
        processed: name of the folder with the processed data.
        interval: only every so manieth sweep, by key of ``splits``; 5 in training is the field's 20 % set.
        missing_segments: see `WaymoFrames`.
    """

    class_names = CLASSES

    def __init__(
        self,
        *,
        root: str | Path,
        splits: Mapping[str, str] | None = None,
        processed: str = "waymo_processed_data_v0_5_0",
        interval: Mapping[str, int] | None = None,
        missing_segments: OnBadSample = "error",
    ) -> None:
        super().__init__(root, splits or {"train": "train", "val": "val", "test": "val"})
        self.processed = processed
        self.missing_segments: OnBadSample = missing_segments
        self.interval = dict.fromkeys(self.splits, 1) | dict(interval or {})
        if min(self.interval.values()) < 1 or set(self.interval) != set(self.splits):
            raise ValueError(f"interval: found {self.interval}, expected numbers of at least 1 for train, val and test")

    def open_split(self, name: str, on_bad_sample: OnBadSample = "error") -> WaymoFrames:
        """The sweeps that ``ImageSets/NAME.txt`` lists."""
        keys = [key for key, split in self.splits.items() if split == name]
        return WaymoFrames(
            self.root,
            name,
            processed=self.processed,
            interval=self.interval[keys[0]] if keys else 1,
            missing_segments=self.missing_segments,
            on_bad_sample=on_bad_sample,
        )
