"""Labelled LiDAR frames of any data set as their files have them, and what is made of them for a detector."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.data.bad_samples import SampleError
from zoo.data.boxes import Calibration
from zoo.data.detection import DetectionBatch, DetectionSample
from zoo.data.formats.frame_files import FrameFiles
from zoo.data.formats.kitti import KittiLabels
from zoo.data.split_data import OnBadSample

__all__ = [
    "CameraView",
    "DetectionFrame",
    "DetectionFrames",
    "DetectionSource",
    "EvaluationBatch",
    "LabelledCloud",
    "check_frame",
]

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class CameraView:
    """A photograph that belongs to a frame, with the way from LiDAR points to its pixels.

    Attributes:
        path: of the picture.
        calibration: of the frame.
        shape: (height, width) of the picture.
    """

    path: Path
    calibration: Calibration
    shape: tuple[int, int]


@dataclass(frozen=True)
class DetectionFrame:
    """One frame as its files have it: all classes, nothing moved.

    Attributes:
        frame_id: its name.
        points: ``(P, 3 + F)`` float32.
        boxes: ``(M, 7)`` or ``(M, 9)`` in the LiDAR frame.
        names: class of each box, in the data set's words.
        difficulty: ``(M,)`` as the data set grades it, -1 where it does not.
        num_points: ``(M,)`` points inside each box.
        view: photograph, or None.
        labels: of KITTI, with DontCare and image boxes; None elsewhere or without labels.
        ground: ``(4,)`` plane a, b, c, d with ``a x + b y + c z + d = 0`` in the LiDAR frame, or None.
        attributes: of nuScenes, what each box is doing, empty where nobody said; () for none of the boxes.
        pose: ``(4, 4)`` from the LiDAR frame to the world, or None.
    """

    frame_id: str
    points: NDArray[np.float32]
    boxes: Floats
    names: tuple[str, ...]
    difficulty: NDArray[np.int64]
    num_points: NDArray[np.int64]
    view: CameraView | None = None
    labels: KittiLabels | None = None
    ground: Floats | None = None
    attributes: tuple[str, ...] = ()
    pose: Floats | None = None

    def select(self, rows: NDArray[np.bool_]) -> DetectionFrame:
        """The frame with some of its boxes; KITTI's label lines stay whole."""
        return replace(
            self,
            boxes=self.boxes[rows],
            names=tuple(itertools.compress(self.names, rows)),
            difficulty=self.difficulty[rows],
            num_points=self.num_points[rows],
            attributes=tuple(itertools.compress(self.attributes, rows)),
        )


def check_frame(frame: DetectionFrame, source: Path) -> DetectionFrame:
    """The frame, if its numbers can be.

    Args:
        frame: as it was read.
        source: file that a message names.

    Raises:
        SampleError: values that are not finite, or a box without extent.
    """
    if not np.isfinite(frame.points).all():
        row = int(np.flatnonzero(~np.isfinite(frame.points).all(axis=1))[0])
        raise SampleError(source, f"point {row} of frame {frame.frame_id} is {frame.points[row].tolist()}")
    if not np.isfinite(frame.boxes).all() or (frame.boxes[:, 3:6] <= 0).any():
        bad = ~np.isfinite(frame.boxes).all(axis=1) | (frame.boxes[:, 3:6] <= 0).any(axis=1)
        row = int(np.flatnonzero(bad)[0])
        box = np.round(frame.boxes[row], 3).tolist()
        raise SampleError(
            source, f"box {row} ({frame.names[row]}) of frame {frame.frame_id} is {box}, expected edges above 0"
        )
    return frame


class DetectionFrames(FrameFiles[DetectionFrame]):
    """The frames of one split."""

    @property
    @abstractmethod
    def frame_ids(self) -> Sequence[str]:
        """Names of the frames in their order."""

    def __len__(self) -> int:
        return len(self.frame_ids)


class DetectionSource(ABC):
    """Where a data set lies and how it is divided.

    Args:
        root: its folder.
        splits: which of its parts to train, watch and measure on, under the keys train, val and test.

    Attributes:
        class_names: all classes that it can label.
    """

    class_names: tuple[str, ...] = ()

    def __init__(self, root: Path | str, splits: Mapping[str, str]) -> None:
        if set(splits) != {"train", "val", "test"}:
            raise ValueError(f"splits: found the keys {sorted(splits)}, expected train, val and test")
        self.root = Path(root).expanduser()
        self.splits = dict(splits)

    @abstractmethod
    def open_split(self, name: str, on_bad_sample: OnBadSample = "error") -> DetectionFrames:
        """The frames of one of its parts.

        Raises:
            SampleError: there is none of that name, or it cannot be used.
        """

    def ensure(self) -> None:
        """Make what is missing, where this source can make it."""
        return

    def prepare_files(self, overwrite: bool = False) -> None:
        """Build from the raw files what `open_split` reads, where that is more than the raw files."""
        return

    def generate_files(self, overwrite: bool = False) -> None:
        """Make a synthetic set in ``root``.

        Raises:
            ValueError: this layout has no generator.
        """
        raise ValueError(f"source: {type(self).__name__} cannot be generated; data=synthetic_kitti can")


@dataclass(frozen=True)
class LabelledCloud:
    """What transforms work on: points with the boxes of the chosen classes.

    Attributes:
        points: ``(P, 3 + F)`` float32.
        boxes: ``(M, 7)`` or ``(M, 9)`` float32.
        labels: ``(M,)`` int64 in ``class_names``.
        class_names: what the labels number.
        ground: see `DetectionFrame`.
    """

    points: NDArray[np.float32]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    ground: Floats | None = None

    @staticmethod
    def of(
        frame: DetectionFrame, class_names: Sequence[str], *, point_dim: int | None = None, box_dim: int | None = None
    ) -> LabelledCloud:
        """The points and those boxes of a frame whose class is wanted.

        Args:
            frame: as it was read.
            class_names: the wanted classes in the order of their labels.
            point_dim: columns of the points; missing ones become 0, superfluous ones are cut. None: as they are.
            box_dim: 7 or 9, likewise.
        """
        number = {name: index for index, name in enumerate(class_names)}
        rows = np.array([row for row, name in enumerate(frame.names) if name in number], dtype=np.int64)
        labels = np.array([number[frame.names[row]] for row in rows], dtype=np.int64)
        points = _with_columns(frame.points, point_dim)
        boxes = _with_columns(frame.boxes[rows].astype(np.float32), box_dim)
        return LabelledCloud(points, boxes, labels, tuple(class_names), frame.ground)

    def keep(self, boxes: NDArray[np.bool_]) -> LabelledCloud:
        """The cloud with some of its boxes."""
        return replace(self, boxes=self.boxes[boxes], labels=self.labels[boxes])

    def sample(self, frame_id: str) -> DetectionSample:
        """The tensors that a detector takes."""
        return DetectionSample(
            torch.from_numpy(np.ascontiguousarray(self.points)),
            torch.from_numpy(np.ascontiguousarray(self.boxes)),
            torch.from_numpy(self.labels),
            frame_id,
        )


def _with_columns(rows: NDArray[np.float32], width: int | None) -> NDArray[np.float32]:
    if width is None or rows.shape[1] == width:
        return rows
    if rows.shape[1] > width:
        return rows[:, :width]
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])))


@dataclass
class EvaluationBatch:
    """A batch with the frames that it was made from, which metrics and pictures need.

    Attributes:
        batch: for the detector.
        frames: one for each sample that is measured; samples behind them fill up the share of a process.
    """

    batch: DetectionBatch
    frames: list[DetectionFrame] = field(default_factory=list)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> EvaluationBatch:
        """The same with the batch on another device; frames stay in memory."""
        return EvaluationBatch(self.batch.to(device, non_blocking=non_blocking), self.frames)
