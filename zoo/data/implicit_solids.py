"""Solids as unions and differences of primitives, each with a bound on its distance; the sampling of their surfaces.

A field is negative inside. Positions are ``(N, 3)`` float64, fields ``(N,)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Field", "block", "cylinder", "difference", "normals_of", "ring", "sample_field_surface", "sphere", "union"]

Array = NDArray[np.float64]
Field = Callable[[Array], Array]


def _local(points: Array, centre: ArrayLike, turn: Array | None) -> Array:
    moved = points - np.asarray(centre)
    return moved if turn is None else moved @ turn


def sphere(centre: ArrayLike, radius: float) -> Field:
    """A ball."""
    return lambda points: np.linalg.norm(points - np.asarray(centre), axis=1) - radius


def block(centre: ArrayLike, half: ArrayLike, turn: Array | None = None) -> Field:
    """A box with half edge lengths ``half``, turned by a rotation ``(3, 3)``."""

    def field(points: Array) -> Array:
        apart = np.abs(_local(points, centre, turn)) - np.asarray(half)
        return np.linalg.norm(np.maximum(apart, 0), axis=1) + np.minimum(apart.max(axis=1), 0)

    return field


def cylinder(centre: ArrayLike, radius: float, half_height: float, turn: Array | None = None) -> Field:
    """A capped cylinder about its own third axis."""

    def field(points: Array) -> Array:
        local = _local(points, centre, turn)
        apart = np.stack([np.hypot(local[:, 0], local[:, 1]) - radius, np.abs(local[:, 2]) - half_height], axis=1)
        return np.linalg.norm(np.maximum(apart, 0), axis=1) + np.minimum(apart.max(axis=1), 0)

    return field


def ring(centre: ArrayLike, radius: float, thickness: float, turn: Array | None = None) -> Field:
    """A torus about its own third axis."""

    def field(points: Array) -> Array:
        local = _local(points, centre, turn)
        return np.hypot(np.hypot(local[:, 0], local[:, 1]) - radius, local[:, 2]) - thickness

    return field


def union(fields: Sequence[Field]) -> Field:
    """What lies in any of them."""
    return lambda points: np.min([field(points) for field in fields], axis=0)


def difference(solid: Field, hole: Field) -> Field:
    """What lies in the first but not in the second."""
    return lambda points: np.maximum(solid(points), -hole(points))


def normals_of(field: Field, points: Array, step: float = 1e-5) -> Array:
    """Unit gradients by central differences."""
    ends = [field(points + axis * step) - field(points - axis * step) for axis in np.eye(3)]
    gradient = np.stack(ends, axis=1)
    return gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-12)


def sample_field_surface(
    field: Field, low: Sequence[float], high: Sequence[float], count: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Points and outward normals of the surface ``field = 0`` within a box, evenly over its area.

    Positions drawn in a thin shell about the surface are moved onto it along the gradient; those that miss it (beside
    edges) are drawn anew.

    Raises:
        ValueError: The box holds no surface.
    """
    lower, extent = np.asarray(low), np.asarray(high) - np.asarray(low)
    shell = 0.02 * float(extent.max())
    found: list[Array] = []
    total = 0
    for turn in range(200):
        places = lower + rng.random((4 * count + 4096, 3)) * extent
        places = places[np.abs(field(places)) < shell]
        for _ in range(3):
            places = places - field(places)[:, None] * normals_of(field, places)
        places = places[np.abs(field(places)) < 1e-4 * extent.max()]
        found.append(places)
        total += len(places)
        if total >= count:
            points = np.concatenate(found)[:count]
            return points, normals_of(field, points)
        if turn == 20 and total == 0:
            break
    raise ValueError(f"field: found {total} points of a surface between {list(low)} and {list(high)}, expected {count}")
