"""Distances from points to the triangles of a mesh, not to points sampled on it."""

from __future__ import annotations

import numpy as np
import torch
import trimesh
from scipy.spatial import KDTree
from torch import Tensor

from zoo.data.surface_cloud import sample_faces

__all__ = ["boundary_points", "distance_to_mesh"]

_CANDIDATES = 8


def distance_to_mesh(points: Tensor, mesh: trimesh.Trimesh, *, samples: int = 300_000) -> tuple[Tensor, Tensor]:
    """Distance from each point to the mesh, and where on it the nearest place is.

    The mesh is sampled densely; the nearest place is sought exactly on the triangles of the eight samples nearest to a
    point, so that it may be missed only where triangles are smaller than the spacing of the samples.

    Args:
        points: ``(N, 3)``.
        mesh: With at least one triangle.
        samples: Drawn by area with a fixed seed.

    Returns:
        ``(N,)`` and ``(N, 3)``, float64.

    Raises:
        ValueError: A mesh without triangles.
    """
    if len(mesh.faces) == 0:
        raise ValueError("mesh: has no triangles, so nothing is near it")
    points = points.double()
    drawn, faces = sample_faces(mesh, samples, seed=0)
    array = points.numpy()
    rows = KDTree(drawn).query(array, min(_CANDIDATES, samples), workers=-1)[1].reshape(len(array), -1)
    candidates = faces[rows]  # (N, K)
    place = np.zeros((len(points), 3))
    best = np.full(len(points), np.inf)
    for column in candidates.T:
        near = trimesh.triangles.closest_point(mesh.triangles[column], array)
        distance = np.linalg.norm(near - array, axis=1)
        closer = distance < best
        best[closer], place[closer] = distance[closer], near[closer]
    return torch.from_numpy(best), torch.from_numpy(place)


def boundary_points(mesh: trimesh.Trimesh, *, per_edge: int = 50) -> Tensor:
    """Points along the edges that only one triangle has, ``(E * per_edge, 3)``; none for a closed mesh."""
    uses = np.bincount(mesh.edges_unique_inverse, minlength=len(mesh.edges_unique))
    ends = torch.from_numpy(np.array(mesh.vertices[mesh.edges_unique[uses == 1]]))  # (E, 2, 3)
    share = torch.linspace(0, 1, per_edge, dtype=torch.float64)[:, None]
    return (ends[:, :1] * (1 - share) + ends[:, 1:] * share).reshape(-1, 3)
