"""Triangle meshes of simple parts: boxes, solids of revolution, extruded outlines and tubes. The z axis points up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Part", "box", "extrude", "hidden_points", "join", "lathe", "rod", "rotation", "tube"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """Vertices ``(V, 3)`` and triangles ``(F, 3)``."""

    vertices: Array
    triangles: NDArray[np.int64]

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Part:
        """The part elsewhere."""
        return Part(self.vertices + np.array([x, y, z]), self.triangles)

    def turned(self, matrix: Array) -> Part:
        """The part turned about the origin by a rotation ``(3, 3)``."""
        return Part(self.vertices @ matrix.T, self.triangles)


def join(parts: Sequence[Part]) -> Part:
    """All parts as one mesh; what lies inside another part stays."""
    first = np.cumsum([0, *(len(part.vertices) for part in parts)])
    triangles = [part.triangles + start for part, start in zip(parts, first, strict=False)]
    return Part(np.concatenate([part.vertices for part in parts]), np.concatenate(triangles))


def rotation(axis: int, degrees: float) -> Array:
    """Counter-clockwise about axis 0, 1 or 2."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    a, b = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = c
    matrix[a, b], matrix[b, a] = -s, s
    return matrix


def box(dx: float, dy: float, dz: float, taper: float = 1.0) -> Part:
    """A block that stands on z = 0, centred in x and y; its top is ``taper`` times as wide as its bottom."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [dx / 2, dy / 2]
    return extrude(corners, dz, taper)


def extrude(outline: ArrayLike, height: float, taper: float = 1.0) -> Part:
    """An outline ``(K, 2)``, counter-clockwise and star-shaped about its mean, raised from z = 0 to ``height``."""
    flat = np.asarray(outline, dtype=np.float64)
    count, centre = len(flat), flat.mean(axis=0)
    low = np.column_stack([flat, np.zeros(count)])
    high = np.column_stack([centre + (flat - centre) * taper, np.full(count, height)])
    middle = np.array([[*centre, 0.0], [*centre, height]])
    here = np.arange(count)
    after = (here + 1) % count
    sides = [np.stack([here, after, after + count], 1), np.stack([here, after + count, here + count], 1)]
    below = np.stack([after, here, np.full(count, 2 * count)], 1)
    above = np.stack([here + count, after + count, np.full(count, 2 * count + 1)], 1)
    return Part(np.concatenate([low, high, middle]), np.concatenate([*sides, below, above]))


def lathe(profile: ArrayLike, segments: int = 24) -> Part:
    """A profile ``(K, 2)`` of radius and height, turned about the z axis; closed where its radius is 0."""
    radius, height = np.asarray(profile, dtype=np.float64).T
    angle = np.arange(segments) * (2 * np.pi / segments)
    x, y = radius[:, None] * np.cos(angle), radius[:, None] * np.sin(angle)
    vertices = np.stack([x, y, np.broadcast_to(height[:, None], x.shape)], axis=-1).reshape(-1, 3)
    return Part(vertices, _grid_triangles(len(radius), segments))


def tube(path: ArrayLike, radius: float, segments: int = 8) -> Part:
    """A round bar along a path ``(K, 3)``, open at its ends."""
    places = np.asarray(path, dtype=np.float64)
    along = np.gradient(places, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    helper = np.eye(3)[np.argmin(np.abs(along).sum(axis=0))]
    first = np.cross(along, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(along, first)
    angle = np.arange(segments) * (2 * np.pi / segments)
    ring = np.cos(angle)[:, None] * first[:, None] + np.sin(angle)[:, None] * second[:, None]
    return Part((places[:, None] + radius * ring).reshape(-1, 3), _grid_triangles(len(places), segments))


def rod(start: Sequence[float], end: Sequence[float], radius: float) -> Part:
    """A straight round bar."""
    return tube(np.linspace(start, end, 3), radius)


def _grid_triangles(rows: int, segments: int) -> NDArray[np.int64]:
    row, column = np.meshgrid(np.arange(rows - 1), np.arange(segments), indexing="ij")
    a, b = row * segments + column, row * segments + (column + 1) % segments
    c, d = a + segments, b + segments
    return np.concatenate([np.stack([a, b, d], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)])


def hidden_points(points: Array, direction: Array, reach: float = 100.0) -> NDArray[np.bool_]:
    """Which of the points ``(N, 3)`` are hidden from a far viewer in ``direction`` ``(3,)``.

    Katz, Tal and Basri, "Direct Visibility of Point Sets" (2007): reflected in a large sphere about the viewer, the
    visible points lie on the convex hull.
    """
    from scipy.spatial import ConvexHull

    viewer = direction / np.linalg.norm(direction) * 4 * np.abs(points).max()
    seen = points - viewer
    distance = np.linalg.norm(seen, axis=1, keepdims=True)
    flipped = seen + 2 * (reach * distance.max() - distance) * seen / distance
    hull = ConvexHull(np.concatenate([flipped, np.zeros((1, 3))]))
    hidden = np.ones(len(points), dtype=bool)
    hidden[hull.vertices[hull.vertices < len(points)]] = False
    return hidden
