"""Which labelled positions lie near a surface: those with a neighbour on the other side."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["boundary_flags"]


def boundary_flags(
    points: ArrayLike, occupancy: ArrayLike, *, radius: float = 0.08, max_neighbors: int = 100
) -> NDArray[np.bool_]:
    """Whether any of the nearest positions within a radius has the other label, ``(N,)``.

    Args:
        points: ``(N, 3)``.
        occupancy: Labels ``(N,)``.
        radius: Neighbours are closer than this.
        max_neighbors: So many nearest count, the position itself among them.

    Raises:
        ValueError: Wrong shapes or limits.

    Example:
        >>> boundary_flags([[0.0, 0, 0], [0.05, 0, 0], [0.2, 0, 0]], [0, 1, 1]).tolist()
        [True, True, False]
    """
    from scipy.spatial import KDTree

    places, labels = np.asarray(points, dtype=np.float64), np.asarray(occupancy).astype(bool)
    if places.ndim != 2 or places.shape[1] != 3 or labels.shape != (len(places),):
        raise ValueError(f"points, occupancy: found {places.shape} and {labels.shape}, expected (N, 3) and (N,)")
    if radius <= 0 or max_neighbors < 1:
        raise ValueError(f"radius={radius}, max_neighbors={max_neighbors}: expected above 0 and at least 1")
    if not len(places):
        return np.zeros(0, dtype=bool)
    neighbors = min(max_neighbors, len(places))
    found = np.asarray(KDTree(places).query(places, k=neighbors, distance_upper_bound=radius)[1])
    found = found.reshape(len(places), neighbors)
    padded = np.append(labels, False)  # a missing neighbour has the index N
    return ((padded[found] != labels[:, None]) & (found < len(places))).any(axis=1)
