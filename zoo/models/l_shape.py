"""A detector without learned features, to tell how easy a data set is: clusters above the ground, fitted by L-shapes.

Points that stand out of the ground are joined to clusters seen from above. Of each cluster the heading is that of the
rectangle to whose sides its points lie closest (Zhang et al. 2017, "Efficient L-shape fitting for vehicle detection
using laser scanners", closeness criterion, section III). A class is chosen by the extent; the box then takes the mean
size of that class, grown away from the sensor, since the far sides are not seen. Only these mean sizes are learned:
``loss`` is the mean absolute difference of the logarithms of sizes.

A set on which this comes near a trained detector is too easy to show anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from zoo.data.detection import DetectionBatch, Detections

__all__ = ["LShapeDetector", "cluster_points", "fit_l_shape"]

Floats = NDArray[np.floating[Any]]


def cluster_points(points: Floats, *, cell: float = 0.25, clearance: float = 0.3, ceiling: float = 2.6) -> list[Floats]:
    """Groups of points that stand on the ground.

    The ground is the lowest point of each square of 2 m, smoothed over its neighbours; points less than ``clearance``
    or more than ``ceiling`` above it are left out. What lies in touching cells is one cluster.

    Args:
        points: ``(P, 3+)``.
        cell: side of a cell in metres.
        clearance: in metres.
        ceiling: in metres.

    Returns:
        ``(n, 3)`` each.
    """
    if not len(points):
        return []
    places = np.asarray(points, dtype=np.float64)[:, :3]
    above = places[:, 2] - _ground(places)
    standing = places[(above > clearance) & (above < ceiling)]
    if not len(standing):
        return []
    index = np.floor((standing[:, :2] - standing[:, :2].min(axis=0)) / cell).astype(np.int64)
    occupied = np.zeros(index.max(axis=0) + 1, dtype=bool)
    occupied[tuple(index.T)] = True
    numbered, _ = ndimage.label(occupied, structure=np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
    owner = np.asarray(numbered)[tuple(index.T)]
    order = np.argsort(owner, kind="stable")
    starts = np.flatnonzero(np.diff(owner[order], prepend=0))
    return np.split(standing[order], starts[1:])


def _ground(places: Floats, side: float = 2.0) -> Floats:
    """Height of the ground below each point."""
    index = np.floor((places[:, :2] - places[:, :2].min(axis=0)) / side).astype(np.int64)
    lowest = np.full(index.max(axis=0) + 1, np.inf)
    np.minimum.at(lowest, tuple(index.T), places[:, 2])
    filled = np.where(np.isfinite(lowest), lowest, np.nanmax(places[:, 2]))
    low = ndimage.minimum_filter(filled, size=3)
    # what is lowest in a square and its neighbours may be a hole or an outlier: the median of the minima is not
    smooth = ndimage.median_filter(np.minimum(filled, low + 0.4), size=3)
    return smooth[tuple(index.T)]


def fit_l_shape(footprint: Floats, *, steps: int = 45, nearest: float = 0.05) -> tuple[float, Floats, float]:
    """The rectangle to whose sides points lie closest.

    Args:
        footprint: ``(n, 2)``.
        steps: angles that are tried over a quarter turn.
        nearest: distances below it count as this, in metres.

    Returns:
        Angle in radians, ``(2, 2)`` low and high corner along the rectangle's own axes, and the mean closeness of the
        points, at most ``1 / nearest``.
    """
    angles = np.arange(steps) * (np.pi / 2 / steps)
    axes = np.stack([np.cos(angles), np.sin(angles)]), np.stack([-np.sin(angles), np.cos(angles)])
    along, across = footprint @ axes[0], footprint @ axes[1]  # (n, steps)
    sides = [np.minimum(value - value.min(axis=0), value.max(axis=0) - value) for value in (along, across)]
    closeness = (1.0 / np.maximum(np.minimum(*sides), nearest)).mean(axis=0)
    best = int(closeness.argmax())
    both = np.stack([along[:, best], across[:, best]], axis=1)
    return float(angles[best]), np.stack([both.min(axis=0), both.max(axis=0)]), float(closeness[best])


def _quarter_turn(angle: float, rectangle: Floats) -> tuple[float, Floats]:
    """The same rectangle along axes turned by 90 degrees."""
    (low_x, low_y), (high_x, high_y) = rectangle
    return angle + np.pi / 2, np.array([[low_y, -high_x], [high_y, -low_x]])


class LShapeDetector(nn.Module):
    """Clusters, L-shapes, mean sizes.

    Args:
        class_names: of the labels.
        sizes: length, width and height of each class to start from, in metres.
        extents: of a cluster that may be of a class: least and most length, most width, least and most height.
        min_points: of a cluster.
    """

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        sizes: Mapping[str, Sequence[float]],
        extents: Mapping[str, Sequence[float]],
        min_points: int = 10,
    ) -> None:
        super().__init__()
        missing = [name for name in class_names if name not in sizes or name not in extents]
        if missing:
            raise ValueError(f"sizes, extents: found none for {missing[0]!r}, expected one for each class")
        self.class_names, self.min_points = tuple(class_names), min_points
        self.log_sizes = nn.Parameter(torch.tensor([sizes[name] for name in class_names]).log())
        self.extents = [tuple(float(value) for value in extents[name]) for name in class_names]

    def loss(self, batch: DetectionBatch) -> dict[str, Tensor]:
        """How far the mean sizes are off."""
        boxes, labels = torch.cat(batch.boxes), torch.cat(batch.labels)
        difference = (self.log_sizes[labels] - boxes[:, 3:6].clamp(min=1e-3).log()).abs()
        return {"loss": difference.mean() if len(boxes) else self.log_sizes.sum() * 0}

    @torch.no_grad()
    def predict(self, batch: DetectionBatch) -> list[Detections]:
        """One box for each cluster that has the extent of a class."""
        sizes = self.log_sizes.exp().double().cpu().numpy()
        results = []
        for index in range(batch.batch_size):
            points = batch.points[batch.point_batch == index, :3].double().cpu().numpy()
            found = [self._box(cluster, sizes) for cluster in cluster_points(points)]
            rows = [row for row in found if row is not None]
            table = torch.tensor(rows, dtype=torch.float32, device=batch.points.device).reshape(-1, 9)
            results.append(Detections(table[:, :7], table[:, 7], table[:, 8].long()))
        return results

    def _box(self, cluster: Floats, sizes: Floats) -> tuple[float, ...] | None:
        """Box, score and label of a cluster; None where it has no class's extent."""
        if len(cluster) < self.min_points:
            return None
        angle, rectangle, closeness = fit_l_shape(cluster[:, :2])
        extent = rectangle[1] - rectangle[0]
        if extent[1] > extent[0]:  # the longer side is the length
            angle, rectangle = _quarter_turn(angle, rectangle)
        length, width = rectangle[1] - rectangle[0]
        bottom, top = cluster[:, 2].min() - 0.3, cluster[:, 2].max()  # the clearance was cut off
        label = self._class_of(length, width, top - bottom)
        if label is None:
            return None
        size = sizes[label]
        if abs(length - size[1]) < abs(length - size[0]):  # what is seen is the back or the front
            angle, rectangle = _quarter_turn(angle, rectangle)
        # the side nearer to the sensor, which stands at the origin, is where the points end: the box grows away from it
        center = np.where(np.abs(rectangle[0]) <= np.abs(rectangle[1]), rectangle[0] + size[:2] / 2, 0.0)
        center = np.where(np.abs(rectangle[0]) > np.abs(rectangle[1]), rectangle[1] - size[:2] / 2, center)
        x = center[0] * np.cos(angle) - center[1] * np.sin(angle)
        y = center[0] * np.sin(angle) + center[1] * np.cos(angle)
        score = closeness / 20.0 * (1.0 - np.exp(-len(cluster) / 60.0))
        return (x, y, bottom + size[2] / 2, *size, angle, score, float(label))

    def _class_of(self, length: float, width: float, height: float) -> int | None:
        for label, (shortest, longest, widest, lowest, highest) in enumerate(self.extents):
            if shortest <= length <= longest and width <= widest and lowest <= height <= highest:
                return label
        return None
