"""Casting fans of rays that share one origin: a spinning LiDAR and a level pinhole camera are both such fans.

Every column of a fan is a vertical plane (one azimuth) and every ray in it has a slope. That makes the window of rays
that can meet a solid a rectangle, found by two searches, and the first crossing with uneven ground a search in the
running maximum of the terrain's slope seen from the origin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from zoo.data.lidar_primitives import Array, Primitive, ray_interval, surface_normals

GROUND = -1
NOTHING = -2


class Ground(Protocol):
    """A height field."""

    def height(self, x: Array, y: Array) -> Array:
        """Height of the ground at world positions."""
        ...


@dataclass(frozen=True)
class RayFan:
    """Rays ``origin + t (cos a, sin a, s) / sqrt(1 + s^2)`` with azimuths ``a`` (C,) ascending and slopes ``s`` (R, C).

    Slopes fall with the row number. ``closed`` fans go round the full circle, their azimuths span less than one turn.
    """

    origin: Array  # (3,)
    azimuths: Array  # (C,)
    slopes: Array  # (R, C)
    closed: bool

    def directions(self) -> Array:
        """Unit directions (R, C, 3)."""
        cos, sin = np.cos(self.azimuths), np.sin(self.azimuths)
        rays = np.stack(np.broadcast_arrays(cos, sin, self.slopes), axis=-1)
        return rays / np.sqrt(1.0 + self.slopes[..., None] ** 2)

    def windows(self, solid: Primitive) -> Iterator[tuple[slice, slice]]:
        """Rectangles of (rows, columns) that hold every ray which can meet the solid."""
        rows = self._rows(*_slope_range(solid, self.origin))
        if rows.start >= rows.stop:
            return
        for columns in self._columns(solid):
            if columns.start < columns.stop:
                yield rows, columns

    def _rows(self, low: float, high: float) -> slice:
        first = int(np.searchsorted(-self.slopes.min(axis=1), -high, side="left"))
        last = int(np.searchsorted(-self.slopes.max(axis=1), -low, side="right"))
        return slice(first, last)

    def _columns(self, solid: Primitive) -> list[slice]:
        flat = solid.corners()[:, :2] - self.origin[:2]
        middle = solid.center[:2] - self.origin[:2]
        turn = np.arctan2(middle[1], middle[0])
        spread = np.angle(np.exp(1j * (np.arctan2(flat[:, 1], flat[:, 0]) - turn)))
        count = len(self.azimuths)
        if spread.max() - spread.min() >= np.pi - 1e-9:
            return [slice(0, count)]
        start = self.azimuths[0]
        low = start + np.mod(turn + spread.min() - start, 2 * np.pi)
        high = low + spread.max() - spread.min()
        first, last = np.searchsorted(self.azimuths, [low, high])
        wrapped = np.searchsorted(self.azimuths, high - 2 * np.pi)
        return [slice(int(first), int(last)), slice(0, int(wrapped))]


def _slope_range(solid: Primitive, origin: Array) -> tuple[float, float]:
    """Bounds of the slope of any ray from the origin into the solid's bound."""
    extent = solid.extent()
    low, high = solid.center[2] - extent[2] - origin[2], solid.center[2] + extent[2] - origin[2]
    offset = solid.rotation.T @ (origin - solid.center)
    if abs(solid.rotation[2, 2]) > 1 - 1e-9:
        gap = np.maximum(np.abs(offset[:2]) - solid.half[:2], 0.0)
        near = float(np.hypot(*gap))
    else:
        near = float(np.hypot(*(solid.center - origin)[:2]) - np.hypot(*extent[:2]))
    near = max(near, 1e-6)
    far = float(np.hypot(*(solid.corners() - origin)[:, :2].T).max())
    return (low / near if low < 0 else low / far), (high / near if high > 0 else high / far)


@dataclass(frozen=True)
class Hits:
    """First surfaces seen by a fan.

    Attributes:
        distance: ``(R, C)``, infinite where nothing is met.
        solid: ``(R, C)`` number of the primitive met, ``GROUND`` or ``NOTHING``.
        seen: ``(objects,)`` number of rays that meet the object first.
        whole: ``(objects,)`` number of rays that would meet it if it stood alone.
        bounds: ``(objects, 4)`` first row, last row, first column and last column of the latter; of use for open fans.
    """

    distance: Array
    solid: NDArray[np.int64]
    seen: NDArray[np.int64]
    whole: NDArray[np.int64]
    bounds: NDArray[np.int64]


def cast(
    fan: RayFan,
    objects: Sequence[Sequence[Primitive]],
    ground: Ground | None,
    rng: np.random.Generator,
    max_range: float = 120.0,
) -> Hits:
    """First hits of a fan of rays.

    Args:
        fan: the rays.
        objects: for each object its solids; the solids are numbered through in this order.
        ground: height field, or None.
        rng: decides which rays a porous solid lets through.
        max_range: rays end here.

    Returns:
        The hits.
    """
    directions = fan.directions()
    distance = ground_distance(fan, ground, max_range) if ground is not None else np.full(fan.slopes.shape, np.inf)
    winner = np.where(np.isfinite(distance), GROUND, NOTHING).astype(np.int64)
    owner = np.full(distance.shape, -1, dtype=np.int32)
    silhouette = np.zeros(distance.shape, dtype=bool)
    whole = np.zeros(len(objects), dtype=np.int64)
    bounds = np.zeros((len(objects), 4), dtype=np.int64)
    number = 0
    for index, solids in enumerate(objects):
        touched = []
        for solid in solids:
            for rows, columns in fan.windows(solid):
                hit = _stamp(solid, fan.origin, directions[rows, columns], rng, max_range)
                silhouette[rows, columns] |= np.isfinite(hit)
                touched.append((rows, columns))
                nearer = hit < distance[rows, columns]
                distance[rows, columns][nearer] = hit[nearer]
                winner[rows, columns][nearer] = number
                owner[rows, columns][nearer] = index
            number += 1
        whole[index], bounds[index] = _collect(silhouette, touched)
    seen = np.bincount(owner[owner >= 0], minlength=len(objects)).astype(np.int64)
    return Hits(distance, winner, seen, whole, bounds)


def _stamp(solid: Primitive, origin: Array, window: Array, rng: np.random.Generator, max_range: float) -> Array:
    """Distance at which each ray of a window (R, C, 3) is stopped by the solid, infinite where it is not."""
    near, far = ray_interval(solid, origin, window.reshape(-1, 3))
    hit = (near <= far) & (near > 0.05) & (near < max_range)
    material = solid.material
    if material.opacity < 1.0:
        hit &= rng.random(len(near)) < material.opacity
    if material.roughness > 0.0:
        depth = np.where(hit, np.minimum(far - near, material.roughness), 0.0)
        near = near + rng.random(len(near)) * depth
    return np.where(hit, near, np.inf).reshape(window.shape[:2])


def _collect(
    silhouette: NDArray[np.bool_], touched: list[tuple[slice, slice]]
) -> tuple[int, tuple[int, int, int, int]]:
    """Count and limit the silhouette of one object, then wipe it."""
    if not touched:
        return 0, (0, -1, 0, -1)
    rows = slice(min(r.start for r, _ in touched), max(r.stop for r, _ in touched))
    columns = slice(min(c.start for _, c in touched), max(c.stop for _, c in touched))
    block = silhouette[rows, columns]
    count = int(np.count_nonzero(block))
    limits = (0, -1, 0, -1)
    if count:
        lines, posts = np.flatnonzero(block.any(axis=1)), np.flatnonzero(block.any(axis=0))
        limits = (
            rows.start + int(lines[0]),
            rows.start + int(lines[-1]),
            columns.start + int(posts[0]),
            columns.start + int(posts[-1]),
        )
    block[:] = False
    return count, limits


def ground_distance(fan: RayFan, ground: Ground, max_range: float, samples: int = 384) -> Array:
    """Distance (R, C) at which rays reach the ground, infinite where they do not within ``max_range``.

    Along each azimuth the ground is sampled at ``samples`` radii in geometric progression. With ``z(r)`` the height
    above the origin, a ray of slope ``s`` has met the ground by radius ``r`` when ``max_{q <= r} z(q) / q >= s``.
    """
    radii = np.geomspace(0.6, max_range, samples)
    x = fan.origin[0] + radii * np.cos(fan.azimuths)[:, None]
    y = fan.origin[1] + radii * np.sin(fan.azimuths)[:, None]
    heights = ground.height(x, y) - fan.origin[2]  # (C, samples)
    horizon = np.maximum.accumulate(heights / radii, axis=1)
    first = np.empty(fan.slopes.shape, dtype=np.int64)
    for row, slopes in enumerate(fan.slopes):
        first[row] = np.count_nonzero(horizon < slopes[:, None], axis=1)
    reached = first < samples
    after = np.clip(first, 1, samples - 1)
    before = after - 1
    columns = np.arange(len(fan.azimuths))
    above = fan.slopes * radii[before] - heights[columns, before]
    below = fan.slopes * radii[after] - heights[columns, after]
    share = np.clip(above / np.maximum(above - below, 1e-12), 0.0, 1.0)
    radius = radii[before] + share * (radii[after] - radii[before])
    distance = radius * np.sqrt(1.0 + fan.slopes**2)
    return np.where(reached & (distance < max_range), distance, np.inf)


def hit_normals(hits: Hits, solids: Sequence[Primitive], ground: Ground, points: Array) -> Array:
    """Unit normals (R, C, 3) at the hit points (R, C, 3); zero where nothing was hit."""
    normals = np.zeros(points.shape)
    flat, found = normals.reshape(-1, 3), hits.solid.reshape(-1)
    places = points.reshape(-1, 3)
    order = np.argsort(found, kind="stable")
    numbers, starts = np.unique(found[order], return_index=True)
    for number, rows in zip(numbers, np.split(order, starts[1:]), strict=True):
        if number == GROUND:
            flat[rows] = _ground_normals(ground, places[rows])
        elif number != NOTHING:
            flat[rows] = surface_normals(solids[number], places[rows])
    return normals


def _ground_normals(ground: Ground, points: Array, step: float = 0.05) -> Array:
    x, y = points[:, 0], points[:, 1]
    slope_x = (ground.height(x + step, y) - ground.height(x - step, y)) / (2 * step)
    slope_y = (ground.height(x, y + step) - ground.height(x, y - step)) / (2 * step)
    normal = np.stack([-slope_x, -slope_y, np.ones_like(x)], axis=1)
    return normal / np.linalg.norm(normal, axis=1, keepdims=True)
