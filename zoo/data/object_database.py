"""Objects cut out of training frames, and their planting into others (gt-sampling)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.data.bad_samples import SampleError
from zoo.data.boxes import bev_overlap, points_in_boxes
from zoo.data.detection_frames import DetectionFrames, DetectionSource, LabelledCloud
from zoo.data.openpcdet import read_database_arrays
from zoo.data.progress import track
from zoo.data.schema import read_arrays, write_arrays

__all__ = ["GroundTruthSampling", "ObjectDatabase", "build_database"]

logger = logging.getLogger(__name__)

SCHEMA = 1
REBUILD = "tools/prepare_data.py data=NAME action=prepare overwrite=true"


@dataclass(frozen=True)
class ObjectDatabase:
    """Objects with their points.

    Attributes:
        points: ``(P, 3 + F)`` of all objects, one after the other, relative to the centre of their box.
        offsets: ``(N + 1,)``: the points of object i are rows ``offsets[i]`` to ``offsets[i + 1] - 1``.
        boxes: ``(N, 7)`` or ``(N, 9)`` in the frame they come from.
        names: ``(N,)`` classes.
        difficulty: ``(N,)``.
        frame_ids: ``(N,)`` where they come from.
    """

    points: NDArray[np.float32]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]
    names: NDArray[np.str_]
    difficulty: NDArray[np.int64]
    frame_ids: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def num_points(self) -> NDArray[np.int64]:
        """``(N,)`` points of each object."""
        return np.diff(self.offsets)

    def points_of(self, index: int) -> NDArray[np.float32]:
        """Points of one object, relative to its centre."""
        return self.points[self.offsets[index] : self.offsets[index + 1]]

    def write(self, path: Path) -> None:
        """Write as npz, all or nothing."""
        write_arrays(path, "objects", SCHEMA, {name: getattr(self, name) for name in self.__dataclass_fields__})

    @staticmethod
    def read(path: Path) -> ObjectDatabase:
        """Read what `write` wrote.

        Raises:
            SampleError: missing, damaged, or of another schema version.
        """
        arrays = read_arrays(path, "objects", SCHEMA, REBUILD)
        missing = [name for name in ObjectDatabase.__dataclass_fields__ if name not in arrays]
        if missing or not _fits(arrays):
            raise SampleError(path, f"damaged ({missing[0] if missing else 'points'} missing); rebuild it: {REBUILD}")
        return ObjectDatabase(**{name: arrays[name] for name in ObjectDatabase.__dataclass_fields__})


def _fits(arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Whether there is a row of each column for each object, and the objects share all points out."""
    points, offsets, boxes = arrays["points"], arrays["offsets"], arrays["boxes"]
    columns = [arrays[name] for name in ("names", "difficulty", "frame_ids")]
    if points.ndim != 2 or boxes.ndim != 2 or any(column.ndim != 1 for column in (offsets, *columns)):
        return False
    numbers = points.dtype.kind == boxes.dtype.kind == "f" and offsets.dtype.kind == columns[1].dtype.kind == "i"
    if not numbers or any(len(column) != len(boxes) for column in columns) or len(offsets) != len(boxes) + 1:
        return False
    return offsets[0] == 0 and offsets[-1] == len(points) and bool((np.diff(offsets) >= 0).all())


def build_database(frames: DetectionFrames, class_names: Sequence[str]) -> ObjectDatabase:
    """Cut the objects of some classes out of all frames; those without a point are left out.

    Frames that cannot be read raise, or are skipped, as ``frames`` was told.
    """
    points: list[NDArray[np.float32]] = []
    rows: list[tuple[NDArray[Any], str, int, str]] = []
    width, box_dim = 3, 7
    for number in track(range(len(frames)), "cutting out objects", len(frames)):
        try:
            frame = frames.read(number)
        except SampleError as error:
            frames.bad_samples.handle(error)
            continue
        width, box_dim = frame.points.shape[1], frame.boxes.shape[1]
        inside = points_in_boxes(frame.points, frame.boxes[:, :7])
        for row, name in enumerate(frame.names):
            if name not in class_names or not inside[row].any():
                continue
            own = frame.points[inside[row]].copy()
            own[:, :3] -= frame.boxes[row, :3].astype(np.float32)
            points.append(own)
            rows.append((frame.boxes[row], name, int(frame.difficulty[row]), frame.frame_id))
    return ObjectDatabase(
        np.concatenate([np.zeros((0, width), dtype=np.float32), *points]),
        np.cumsum([0, *(len(own) for own in points)], dtype=np.int64),
        np.array([row[0] for row in rows], dtype=np.float32).reshape(-1, box_dim),
        np.array([row[1] for row in rows], dtype=np.str_),
        np.array([row[2] for row in rows], dtype=np.int64),
        np.array([row[3] for row in rows], dtype=np.str_),
    )


class GroundTruthSampling:
    """Plant objects from other training frames, so that each class reaches a wanted number.

    Candidates are drawn without repetition; one whose footprint overlaps a box of the frame, or a candidate planted
    before, is left out. Scene points inside a planted box give way to the object's own. With a ground plane in the
    frame, objects are set on it.

    Args:
        counts: how many objects of a class a frame shall have; no more than the missing ones are planted.
        min_points: objects with fewer points are not used, by class.
        skip_ungraded: whether objects of difficulty -1 are left out.
        path: of the database, or of a ``*_dbinfos_*.pkl`` of OpenPCDet; None: ``zoo_objects_SPLIT.npz`` in the data
            set's folder.
        database: given directly, instead of a file.
    """

    def __init__(
        self,
        *,
        counts: Mapping[str, int],
        min_points: Mapping[str, int] | None = None,
        skip_ungraded: bool = True,
        path: str | Path | None = None,
        database: ObjectDatabase | None = None,
    ) -> None:
        wrong = [name for name, count in counts.items() if count < 0]
        if wrong:
            raise ValueError(f"counts: found {counts[wrong[0]]} for {wrong[0]!r}, expected at least 0")
        self.counts, self.min_points, self.skip_ungraded = dict(counts), dict(min_points or {}), skip_ungraded
        self.path = None if path is None else Path(path).expanduser()
        self._given = database

    def prepare(self, source: DetectionSource, overwrite: bool = False) -> None:
        """Find the database of a data set, and build it from its training split where there is none."""
        if self._given is not None:
            return
        split = source.splits["train"]
        if self.path is None:
            self.path = source.root / f"zoo_objects_{split}.npz"
        if self.path.suffix != ".pkl" and (overwrite or not self.path.exists()):
            database = build_database(source.open_split(split), list(self.counts))
            database.write(self.path)
            logger.info("%s: %d objects", self.path, len(database))

    @cached_property
    def database(self) -> ObjectDatabase:
        """The objects.

        Raises:
            SampleError: there is no such file, or of another version.
        """
        if self._given is not None:
            return self._given
        if self.path is None:
            raise RuntimeError("call prepare(source) first")
        if self.path.suffix == ".pkl":
            return ObjectDatabase(**read_database_arrays(self.path, list(self.counts)))
        return ObjectDatabase.read(self.path)

    @cached_property
    def _usable(self) -> dict[str, NDArray[np.int64]]:
        found = self.database
        enough = np.array([self.min_points.get(name, 1) for name in found.names], dtype=np.int64)
        good = found.num_points >= enough
        if self.skip_ungraded:
            good &= found.difficulty >= 0
        return {name: np.flatnonzero(good & (found.names == name)) for name in self.counts}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("database", "_usable")}

    def __call__(self, cloud: LabelledCloud, rng: np.random.Generator) -> LabelledCloud:
        """Plant objects; their points come first."""
        boxes, labels, added = cloud.boxes, cloud.labels, []
        for name, wanted in self.counts.items():
            if name not in cloud.class_names:
                continue
            label = cloud.class_names.index(name)
            missing = wanted - int((cloud.labels == label).sum())
            candidates = self._usable[name]
            for index in rng.permutation(candidates)[: max(0, missing)].tolist():
                box, points = self._placed(index, cloud)
                if not bev_overlap(box[None, :7], boxes[:, :7]).any():
                    boxes, labels = np.concatenate([boxes, box[None]]), np.append(labels, label)
                    added.append(points)
        if not added:
            return cloud
        planted = boxes[len(cloud.boxes) :]
        free = ~points_in_boxes(cloud.points, planted[:, :7]).any(axis=0)
        return replace(cloud, points=np.concatenate([*added, cloud.points[free]]), boxes=boxes, labels=labels)

    def _placed(self, index: int, cloud: LabelledCloud) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Box and points of an object with the columns of the cloud, on the ground where it is known."""
        box = _columns(self.database.boxes[index][None], cloud.boxes.shape[1])[0]
        if cloud.ground is not None:
            a, b, c, d = cloud.ground
            box[2] = -(a * box[0] + b * box[1] + d) / c + box[5] / 2
        points = _columns(self.database.points_of(index), cloud.points.shape[1])
        points[:, :3] += box[:3]
        return box, points


def _columns(rows: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """A copy with so many columns, missing ones 0."""
    result = np.zeros((len(rows), width), dtype=np.float32)
    shared = min(width, rows.shape[1])
    result[:, :shared] = rows[:, :shared]
    return result
