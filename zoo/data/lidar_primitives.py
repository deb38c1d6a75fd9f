"""Analytic solids for ray casting: convex polyhedra, cylinders and ellipsoids, each in its own frame.

All of them are convex, so a ray meets a solid in one interval ``[t_near, t_far]``; the first intersection in front of
the origin is the surface that a sensor sees. Lengths are metres, angles radians, z points up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

BOX_NORMALS = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], dtype=np.float64)


@dataclass(frozen=True)
class Material:
    """How a surface answers a laser pulse and what it looks like in a picture.

    ``reflectivity`` is the intensity at normal incidence, ``return_rate`` the share of pulses that come back at all
    (low for glass), ``opacity`` the share of rays that a porous solid stops and ``roughness`` how deep (metres) a
    stopped ray may go into it. ``color`` is RGB in 0..1.
    """

    reflectivity: float
    color: tuple[float, float, float]
    return_rate: float = 1.0
    opacity: float = 1.0
    roughness: float = 0.0


@dataclass(frozen=True)
class Primitive:
    """One solid: ``half`` bounds it in its own frame, ``rotation`` (columns = own axes) and ``center`` place it.

    A convex solid is the set ``normals @ p <= offsets``; a cylinder stands along its own z with radius ``half[0]``; an
    ellipsoid has the half axes ``half``.
    """

    kind: Literal["convex", "cylinder", "ellipsoid"]
    center: Array  # (3,)
    rotation: Array  # (3, 3)
    half: Array  # (3,)
    semantic: int
    material: Material
    normals: Array | None = None  # (K, 3)
    offsets: Array | None = None  # (K,)

    def moved(self, position: Array, yaw: float) -> Primitive:
        """The solid after a turn by ``yaw`` about the z axis and a shift to ``position``."""
        turn = yaw_rotation(yaw)
        return replace(self, center=turn @ self.center + position, rotation=turn @ self.rotation)

    def extent(self) -> Array:
        """Half extents (3,) of the axis-aligned bound around ``center``."""
        if self.kind == "ellipsoid":
            return np.sqrt((self.rotation**2) @ (self.half**2))
        return np.abs(self.rotation) @ self.half

    def corners(self) -> Array:
        """The eight corners (8, 3) of the bounding box in its own frame, placed in the world."""
        signs = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)], dtype=np.float64)
        return (signs * self.half) @ self.rotation.T + self.center


def yaw_rotation(yaw: float) -> Array:
    """Rotation matrix (3, 3) by ``yaw`` about z."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def axis_rotation(direction: Array) -> Array:
    """A rotation (3, 3) whose third column is ``direction``: it stands a cylinder along that direction."""
    axis = np.asarray(direction, dtype=np.float64) / np.linalg.norm(direction)
    side = np.array([1.0, 0.0, 0.0]) if abs(axis[0]) < 0.9 else np.array([0.0, 1.0, 0.0])
    first = np.cross(side, axis)
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(axis, first), axis], axis=1)


def box(
    center: tuple[float, float, float], size: tuple[float, float, float], semantic: int, material: Material
) -> Primitive:
    """An upright box with edge lengths ``size``."""
    half = np.asarray(size, dtype=np.float64) / 2
    offsets = np.repeat(half, 2)
    return Primitive(
        "convex", np.asarray(center, dtype=np.float64), np.eye(3), half, semantic, material, BOX_NORMALS, offsets
    )


def frustum(
    bottom: tuple[float, float, float, float],
    top: tuple[float, float, float, float],
    z: tuple[float, float],
    semantic: int,
    material: Material,
) -> Primitive:
    """A solid with a rectangular foot and a rectangular, smaller or shifted, top: car bodies, cabins, roofs.

    ``bottom`` and ``top`` are ``(x_min, x_max, y_min, y_max)`` at the heights ``z[0]`` and ``z[1]``.
    """
    low, high = z
    x_range = (min(bottom[0], top[0]), max(bottom[1], top[1]))
    y_range = (min(bottom[2], top[2]), max(bottom[3], top[3]))
    center = np.array([sum(x_range) / 2, sum(y_range) / 2, (low + high) / 2])
    half = np.array([x_range[1] - x_range[0], y_range[1] - y_range[0], high - low]) / 2
    normals, offsets = [], []
    for axis, side, sign in ((0, 1, 1.0), (0, 0, -1.0), (1, 3, 1.0), (1, 2, -1.0)):
        run = sign * (top[side] - bottom[side])  # outward drift of this face over the height
        normal = np.zeros(3)
        normal[axis], normal[2] = sign * (high - low), -run
        normal /= np.linalg.norm(normal)
        foot = np.zeros(3)
        foot[axis], foot[2] = bottom[side], low
        normals.append(normal)
        offsets.append(normal @ (foot - center))
    normals += [np.array([0.0, 0.0, 1.0]), np.array([0.0, 0.0, -1.0])]
    offsets += [half[2], half[2]]
    return Primitive(
        "convex", center, np.eye(3), half, semantic, material, np.stack(normals), np.asarray(offsets, dtype=np.float64)
    )


def rod(
    start: tuple[float, float, float], end: tuple[float, float, float], radius: float, semantic: int, material: Material
) -> Primitive:
    """A cylinder from ``start`` to ``end``."""
    first, last = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    length = float(np.linalg.norm(last - first))
    half = np.array([radius, radius, length / 2])
    return Primitive("cylinder", (first + last) / 2, axis_rotation(last - first), half, semantic, material)


def ellipsoid(
    center: tuple[float, float, float], half: tuple[float, float, float], semantic: int, material: Material
) -> Primitive:
    """An ellipsoid with half axes along x, y, z."""
    return Primitive(
        "ellipsoid",
        np.asarray(center, dtype=np.float64),
        np.eye(3),
        np.asarray(half, dtype=np.float64),
        semantic,
        material,
    )


def ray_interval(solid: Primitive, origin: Array, directions: Array) -> tuple[Array, Array]:
    """Where rays are inside a solid.

    Args:
        solid: the solid.
        origin: common start of the rays (3,).
        directions: unit directions (N, 3).

    Returns:
        ``t_near`` and ``t_far`` (N,): the ray is inside for ``t_near <= t <= t_far``; ``t_near > t_far`` is a miss.
    """
    start = solid.rotation.T @ (origin - solid.center)
    if solid.kind == "convex":
        assert solid.normals is not None
        assert solid.offsets is not None
        return _convex_interval(
            solid.normals, solid.offsets - solid.normals @ start, directions @ (solid.rotation @ solid.normals.T)
        )
    local = directions @ solid.rotation
    if solid.kind == "ellipsoid":
        return _ball_interval(start / solid.half, local / solid.half)
    near, far = _ball_interval(start[:2] / solid.half[0], local[:, :2] / solid.half[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (-solid.half[2] - start[2]) / local[:, 2], (solid.half[2] - start[2]) / local[:, 2]
    level = np.abs(local[:, 2]) < 1e-12
    outside = abs(start[2]) > solid.half[2]
    low = np.where(level, np.inf if outside else -np.inf, np.minimum(first, second))
    high = np.where(level, -np.inf if outside else np.inf, np.maximum(first, second))
    return np.maximum(near, low), np.minimum(far, high)


def _convex_interval(normals: Array, room: Array, speed: Array) -> tuple[Array, Array]:
    """``room`` (K,) is the distance left to each plane at the origin, ``speed`` (N, K) the approach of each ray."""
    with np.errstate(divide="ignore", invalid="ignore"):
        times = room / speed
    near = np.where(speed < 0, times, -np.inf).max(axis=1)
    far = np.where(speed > 0, times, np.inf).min(axis=1)
    beside = ((speed == 0) & (room < 0)).any(axis=1)
    near[beside] = np.inf
    return near, far


def _ball_interval(start: Array, step: Array) -> tuple[Array, Array]:
    """Interval inside the unit ball (or circle) of rays ``start + t step``."""
    square = (step * step).sum(axis=1)
    slope = step @ start
    rest = slope * slope - square * (start @ start - 1.0)
    hit = (rest >= 0) & (square > 0)
    root = np.sqrt(np.where(hit, rest, 0.0))
    square = np.where(square > 0, square, 1.0)
    inside = (start @ start <= 1.0) & ~hit  # a ray along the axis stays inside for ever
    near = np.where(hit, (-slope - root) / square, np.where(inside, -np.inf, np.inf))
    far = np.where(hit, (-slope + root) / square, np.where(inside, np.inf, -np.inf))
    return near, far


def surface_normals(solid: Primitive, points: Array) -> Array:
    """Outward unit normals (N, 3) at surface points (N, 3) in the world frame."""
    local = (points - solid.center) @ solid.rotation
    if solid.kind == "convex":
        assert solid.normals is not None
        assert solid.offsets is not None
        nearest = np.argmax(local @ solid.normals.T - solid.offsets, axis=1)
        normal = solid.normals[nearest]
    elif solid.kind == "ellipsoid":
        normal = local / solid.half**2
    else:
        side = np.hypot(local[:, 0], local[:, 1]) - solid.half[0]
        cap = np.abs(local[:, 2]) - solid.half[2]
        normal = np.where(
            (cap > side)[:, None], np.array([0.0, 0.0, 1.0]) * np.sign(local[:, 2:]), local * [1.0, 1.0, 0.0]
        )
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    return (normal / np.maximum(length, 1e-12)) @ solid.rotation.T
