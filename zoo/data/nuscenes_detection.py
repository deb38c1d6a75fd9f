"""nuScenes: key frames with the points of earlier sweeps, from its own tables or from OpenPCDet's infos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.data.bad_samples import SampleError
from zoo.data.detection_frames import DetectionFrame, DetectionFrames, DetectionSource, check_frame
from zoo.data.formats.kitti import read_split
from zoo.data.formats.nuscenes import CATEGORIES, MINI_SCENES, build_infos
from zoo.data.formats.point_files import read_rows
from zoo.data.split_data import OnBadSample
from zoo.data.sweep_infos import REBUILD, SweepInfo, read_infos, read_openpcdet_infos, write_infos

__all__ = ["NuScenesFrames", "NuScenesSource", "balanced_rows", "merge_sweeps"]

CLASSES = (
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
)
assert set(CLASSES) == set(CATEGORIES.values())
_EGO = 1.0  # metres: returns of the own car


def merge_sweeps(root: Path, info: SweepInfo, max_sweeps: int) -> NDArray[np.float32]:
    """Points ``(N, 5)`` of a key frame and sweeps before it: x, y, z, intensity, seconds before the key frame.

    Earlier sweeps are moved to where the key frame's sensor stands; their points on the own car, within 1 m in x and y,
    are left out.

    Raises:
        SampleError: a missing or damaged point file.
    """
    merged = []
    for number in range(min(max_sweeps, len(info.paths))):
        path = root / info.paths[number]
        points = read_rows(path, 5)[:, :4]
        if not np.isfinite(points).all():
            row = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
            raise SampleError(path, f"point {row} is {points[row].tolist()}")
        if number:
            points = points[~(np.abs(points[:, :2]) < _EGO).all(axis=1)].copy()
            turn = info.transforms[number]
            points[:, :3] = points[:, :3] @ turn[:3, :3].T.astype(np.float32) + turn[:3, 3].astype(np.float32)
        time = np.full((len(points), 1), info.times[number], dtype=np.float32)
        merged.append(np.concatenate([points, time], axis=1))
    return np.concatenate(merged)


def balanced_rows(infos: Sequence[SweepInfo], class_names: Sequence[str], seed: int = 0) -> list[int]:
    """Frames drawn, with repetition, so that each class has the same share (class-balanced sampling).

    For each class as many of the frames that show it are drawn as make its share ``1 / number of classes`` of all
    (frame, class) pairs.
    """
    with_class = [[row for row, info in enumerate(infos) if name in info.names] for name in class_names]
    total = sum(len(rows) for rows in with_class)
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    for rows in with_class:
        if rows:
            chosen += rng.choice(rows, int(total / len(class_names)), replace=True).tolist()
    return chosen


class NuScenesFrames(DetectionFrames):
    """The key frames of one split.

    Args:
        root: folder with ``samples`` and ``sweeps``.
        infos: of the key frames; boxes without a LiDAR point are dropped.
        source: file that the infos come from, for messages.
        max_sweeps: see `merge_sweeps`.
        on_bad_sample: see `zoo.data.formats.frame_files.FrameFiles`.
    """

    def __init__(
        self,
        root: Path,
        infos: Sequence[SweepInfo],
        source: Path,
        *,
        max_sweeps: int = 10,
        on_bad_sample: OnBadSample = "error",
    ) -> None:
        super().__init__(on_bad_sample)
        self.root, self.infos, self.source, self.max_sweeps = root, infos, source, max_sweeps

    @property
    def frame_ids(self) -> Sequence[str]:
        """Tokens of the samples."""
        return [info.frame_id for info in self.infos]

    def __len__(self) -> int:
        return len(self.infos)

    def read(self, number: int) -> DetectionFrame:
        """Read one key frame with its sweeps."""
        info = self.infos[number]
        points = merge_sweeps(self.root, info, self.max_sweeps)
        ungraded = np.full(len(info.names), -1, dtype=np.int64)
        frame = DetectionFrame(
            info.frame_id,
            points,
            info.boxes,
            info.names,
            ungraded,
            info.num_points,
            attributes=info.attributes,
            pose=info.pose,
        )
        return check_frame(frame.select(info.num_points > 0), self.source)


class NuScenesSource(DetectionSource):
    """nuScenes.

    The scenes of a split are those of ``ImageSets/SPLIT.txt``, one name a line (the lists of the official splits stand
    in ``nuscenes/utils/splits.py`` of the development kit); mini_train and mini_val are known without a file.

    Args:
        root: folder with ``samples``, ``sweeps`` and the tables.
        splits: to train, watch and measure on.
        version: folder of the tables.
        max_sweeps: sweeps of a frame, the key sweep among them.
        infos: OpenPCDet's pickles by split, relative to ``root``; None: those that ``prepare`` makes from the tables,
            ``zoo_infos_SPLIT.npz``.
        balanced: draw training frames so that each class has the same share.
    """

    class_names = CLASSES

    def __init__(
        self,
        *,
        root: str | Path,
        splits: Mapping[str, str] | None = None,
        version: str = "v1.0-trainval",
        max_sweeps: int = 10,
        infos: Mapping[str, str] | None = None,
        balanced: bool = False,
    ) -> None:
        super().__init__(root, splits or {"train": "train", "val": "val", "test": "val"})
        if max_sweeps < 1:
            raise ValueError(f"max_sweeps: found {max_sweeps}, expected at least 1")
        self.version, self.max_sweeps, self.infos, self.balanced = version, max_sweeps, dict(infos or {}), balanced

    def open_split(self, name: str, on_bad_sample: OnBadSample = "error") -> NuScenesFrames:
        """The key frames of a split.

        Raises:
            SampleError: no infos of that split, damaged ones, or ones of another version.
        """
        if name in self.infos:
            path = self.root / self.infos[name]
            infos = read_openpcdet_infos(path)
        else:
            path = self.root / f"zoo_infos_{name}.npz"
            infos = read_infos(path)
        fewest = min((len(info.paths) for info in infos), default=self.max_sweeps)
        if fewest < self.max_sweeps:
            raise SampleError(
                path, f"has {fewest} sweeps a frame, max_sweeps is {self.max_sweeps}; lower it, or rebuild: {REBUILD}"
            )
        if self.balanced and name == self.splits["train"]:
            infos = [infos[row] for row in balanced_rows(infos, self.class_names)]
        return NuScenesFrames(self.root, infos, path, max_sweeps=self.max_sweeps, on_bad_sample=on_bad_sample)

    def ensure(self) -> None:
        """Build infos where there are tables but no infos."""
        self.prepare_files()

    def prepare_files(self, overwrite: bool = False) -> None:
        """Build infos from the tables.

        Raises:
            SampleError: tables or lists of scenes are missing or damaged.
        """
        wanted = [name for name in dict.fromkeys(self.splits.values()) if name not in self.infos]
        paths = {name: self.root / f"zoo_infos_{name}.npz" for name in wanted}
        scenes = {name: self._scenes(name) for name in wanted if overwrite or not paths[name].exists()}
        if scenes:
            for name, infos in build_infos(self.root, self.version, scenes, self.max_sweeps).items():
                write_infos(paths[name], infos)

    def _scenes(self, split: str) -> list[str]:
        if split in MINI_SCENES and not (self.root / "ImageSets" / f"{split}.txt").exists():
            return list(MINI_SCENES[split])
        return read_split(self.root, split)
