"""Augmentation and range masks of labelled point clouds.

A transform is called with a `LabelledCloud` and a random generator of its own. A configuration holds transforms by
name, so that one of them can be changed or taken out (`~data.train_transforms.flip`).
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from zoo.data.boxes import points_in_boxes, wrap_angle
from zoo.data.detection_frames import DetectionSource, LabelledCloud

__all__ = [
    "DropSparseBoxes",
    "PreparedTransform",
    "RandomFlip",
    "RandomRotation",
    "RandomScaling",
    "RandomTranslation",
    "RangeMask",
    "ShufflePoints",
    "Transform",
    "apply_transforms",
]


class Transform(Protocol):
    """What all of them are."""

    def __call__(self, cloud: LabelledCloud, rng: np.random.Generator) -> LabelledCloud:
        """The changed cloud; the argument stays as it is."""
        ...


@runtime_checkable
class PreparedTransform(Protocol):
    """One that needs something made from the training frames."""

    def prepare(self, source: DetectionSource, overwrite: bool = False) -> None:
        """Make it where it is missing."""
        ...


def apply_transforms(
    transforms: Mapping[str, Transform | None],
    cloud: LabelledCloud,
    seed: Sequence[int],
    without: Collection[str] = (),
) -> LabelledCloud:
    """Apply transforms in their order; headings end in [-pi, pi).

    Each draws from a stream that depends on ``seed`` and its name only: taking one out leaves what the others draw.

    Args:
        transforms: by name; None is left out.
        cloud: points and boxes.
        seed: of this sample, such as (seed, step, index).
        without: names that are left out.
    """
    for name, transform in transforms.items():
        if transform is not None and name not in without:
            stream = np.random.SeedSequence([*seed, zlib.crc32(name.encode())])
            cloud = transform(cloud, np.random.default_rng(stream))
    boxes = cloud.boxes.copy()
    boxes[:, 6] = wrap_angle(boxes[:, 6])
    return replace(cloud, boxes=boxes)


class RandomFlip:
    """Mirror the scene, for each named axis with probability one half.

    Args:
        axes: ``"x"`` mirrors at the x axis (y changes its sign), ``"y"`` at the y axis.
        probability: of each.
    """

    def __init__(self, *, axes: Sequence[Literal["x", "y"]] = ("x",), probability: float = 0.5) -> None:
        if not set(axes) <= {"x", "y"}:
            raise ValueError(f"axes: found {list(axes)}, expected some of 'x', 'y'")
        self.axes, self.probability = tuple(axes), probability

    def __call__(self, cloud: LabelledCloud, rng: np.random.Generator) -> LabelledCloud:
        """Mirror points, centres, headings and velocities."""
        points, boxes = cloud.points.copy(), cloud.boxes.copy()
        for axis in self.axes:
            if rng.random() >= self.probability:
                continue
            column = 1 if axis == "x" else 0
            points[:, column] *= -1
            boxes[:, column] *= -1
            boxes[:, 6] = -boxes[:, 6] if axis == "x" else -(boxes[:, 6] + np.pi)
            if boxes.shape[1] == 9:
                boxes[:, 7 + column] *= -1
        return replace(cloud, points=points, boxes=boxes, ground=None)


class RandomRotation:
    """Turn the scene about the z axis by an angle uniform in ``[low, high]`` (radians)."""

    def __init__(self, *, low: float = -np.pi / 4, high: float = np.pi / 4) -> None:
        if low > high:
            raise ValueError(f"low, high: found {low}, {high}, expected low <= high")
        self.low, self.high = low, high

    def __call__(self, cloud: LabelledCloud, rng: np.random.Generator) -> LabelledCloud:
        """Turn points, centres, headings and velocities."""
        angle = rng.uniform(self.low, self.high)
        points, boxes = cloud.points.copy(), cloud.boxes.copy()
        points[:, :2] = _turned(points[:, :2], angle)
        boxes[:, :2] = _turned(boxes[:, :2], angle)
        boxes[:, 6] += angle
        if boxes.shape[1] == 9:
            boxes[:, 7:9] = _turned(boxes[:, 7:9], angle)
        return replace(cloud, points=points, boxes=boxes, ground=None)


def _turned(places: NDArray[np.float32], angle: float) -> NDArray[np.float32]:
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = places[:, 0], places[:, 1]
    return np.stack([x * cos - y * sin, x * sin + y * cos], axis=1).astype(np.float32)


class RandomScaling:
    """Scale the scene about the sensor by a factor uniform in ``[low, high]``."""

    def __init__(self, *, low: float = 0.95, high: float = 1.05) -> None:
        if not 0 < low <= high:
            raise ValueError(f"low, high: found {low}, {high}, expected 0 < low <= high")
        self.low, self.high = low, high

    def __call__(self, cloud: LabelledCloud, rng: np.random.Generator) -> LabelledCloud:
        """Scale places, edge lengths and velocities."""
        factor = np.float32(rng.uniform(self.low, self.high))
        points, boxes = cloud.points.copy(), cloud.boxes.copy()
        points[:, :3] *= factor
        boxes[:, :6] *= factor
        boxes[:, 7:] *= factor
        return replace(cloud, points=points, boxes=boxes, ground=None)


class RandomTranslation:
    """Shift the scene by a normal amount along each axis; ``deviation`` in metres for x, y, z."""

    def __init__(self, *, deviation: Sequence[float] = (0.5, 0.5, 0.5)) -> None:
        if len(deviation) != 3 or min(deviation) < 0:
            raise ValueError(f"deviation: found {list(deviation)}, expected three numbers of at least 0")
        self.deviation = tuple(deviation)

    def __call__(self, cloud: LabelledCloud, rng: np.random.Generator) -> LabelledCloud:
        """Shift points and centres."""
        shift = rng.normal(0.0, self.deviation).astype(np.float32)
        points, boxes = cloud.points.copy(), cloud.boxes.copy()
        points[:, :3] += shift
        boxes[:, :3] += shift
        return replace(cloud, points=points, boxes=boxes, ground=None)


class RangeMask:
    """Cut the scene to a box of the world; a frame that lies outside of it is left with no point.

    Args:
        point_range: x, y, z of the low corner, then of the high one.
        mask_z: whether points are cut in height too.
        boxes: whether boxes with a centre outside are dropped, as in training.
    """

    def __init__(self, *, point_range: Sequence[float], mask_z: bool = False, boxes: bool = True) -> None:
        if len(point_range) != 6 or not all(point_range[axis] < point_range[axis + 3] for axis in range(3)):
            raise ValueError(f"point_range: found {list(point_range)}, expected x, y, z of a low and a high corner")
        self.low = np.array(point_range[:3], dtype=np.float32)
        self.high = np.array(point_range[3:], dtype=np.float32)
        self.axes = 3 if mask_z else 2
        self.boxes = boxes

    def __call__(self, cloud: LabelledCloud, rng: np.random.Generator) -> LabelledCloud:
        """Cut points and boxes."""
        places, axes = cloud.points[:, : self.axes], self.axes
        inside = ((places >= self.low[:axes]) & (places < self.high[:axes])).all(axis=1)
        cloud = replace(cloud, points=cloud.points[inside])
        if not self.boxes:
            return cloud
        centers = cloud.boxes[:, :3]
        return cloud.keep(np.all((centers >= self.low) & (centers <= self.high), axis=1))


class ShufflePoints:
    """Put the points into a random order."""

    def __call__(self, cloud: LabelledCloud, rng: np.random.Generator) -> LabelledCloud:
        """Shuffle."""
        return replace(cloud, points=cloud.points[rng.permutation(len(cloud.points))])


class DropSparseBoxes:
    """Drop boxes that hold fewer than ``min_points`` points."""

    def __init__(self, *, min_points: int = 1) -> None:
        self.min_points = min_points

    def __call__(self, cloud: LabelledCloud, rng: np.random.Generator) -> LabelledCloud:
        """Count and drop."""
        counts = points_in_boxes(cloud.points, cloud.boxes[:, :7]).sum(axis=1)
        return cloud.keep(counts >= self.min_points)
