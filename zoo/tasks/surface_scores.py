"""What is measured of one reconstructed surface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import trimesh
from torch import Tensor

from zoo.data.surface_cloud import sample_surface
from zoo.metrics.mesh_distance import boundary_points, distance_to_mesh
from zoo.metrics.surface import (
    SurfaceDistances,
    chamfer_l1,
    chamfer_l1_x10,
    f_score,
    normal_consistency,
    surface_distances,
)
from zoo.ops import knn

__all__ = ["SurfaceMeasurement", "draw_to_compare", "surface_scores"]

_NEAR_BOUNDARY = 0.01  # of the longest side: places this near to a hole's rim are not compared


@dataclass(frozen=True)
class SurfaceMeasurement:
    """Figures, and the errors to draw.

    Attributes:
        figures: By name.
        places: Points on the surface, ``(N, 3)`` in the units of the file.
        errors: Distance from each to the truth, in units of the longest side.
    """

    figures: dict[str, float]
    places: Tensor
    errors: Tensor


def surface_scores(
    mesh: trimesh.Trimesh,
    cloud: Tensor,
    truth: trimesh.Trimesh | None,
    *,
    scale: float,
    thresholds: Sequence[float],
    samples: int = 100_000,
) -> SurfaceMeasurement:
    """Compare a surface with the true mesh, or, without one, with the cloud.

    Distances to meshes are taken to their triangles and stated in units of ``scale``. Where the true mesh has holes,
    points whose nearest true place lies within 1 % of a rim count neither way: a closed surface must leave it there.

    Args:
        mesh: The surface; without triangles the figures are those of a surface that was not found.
        cloud: What it was made from, ``(N, 3)``.
        truth: The true mesh, or None.
        scale: Longest side of the bounding box.
        thresholds: Of the F-scores.
        samples: Points drawn on each mesh.
    """
    figures = {"vertices": float(len(mesh.vertices)), "faces": float(len(mesh.faces))}
    figures["watertight"] = float(len(mesh.faces) > 0 and mesh.is_watertight)
    if len(mesh.faces) == 0:
        lost = {"mesh_distance": 3**0.5, "chamfer_l1": 3**0.5, "chamfer_l1_x10": 10 * 3**0.5}
        shares = {f"f_score_{threshold:g}": 0.0 for threshold in thresholds}
        return SurfaceMeasurement({**figures, **lost, **shares}, torch.zeros(0, 3), torch.zeros(0))
    figures["cloud_distance"] = float(distance_to_mesh(cloud, mesh)[0].mean()) / scale
    drawn, normals = sample_surface(mesh, samples, seed=1)
    if truth is None:
        found = surface_distances(drawn, cloud)
        found = SurfaceDistances(found.accuracy / scale, figures["cloud_distance"] + 0 * found.completeness)
        errors = found.accuracy
    else:
        found, errors = _against_mesh(mesh, truth, drawn, normals, scale, samples)
        figures["normal_consistency"] = float(normal_consistency(found))
    figures["mesh_distance"] = float(found.accuracy.mean())
    figures["chamfer_l1"], figures["chamfer_l1_x10"] = float(chamfer_l1(found)), float(chamfer_l1_x10(found))
    figures |= {f"f_score_{threshold:g}": float(f_score(found, threshold)) for threshold in thresholds}
    return SurfaceMeasurement(figures, drawn, errors)


def draw_to_compare(
    mesh: trimesh.Trimesh, truth: Tensor, *, samples: int = 100_000, margin: float | None = None
) -> tuple[Tensor, Tensor]:
    """What Occupancy Networks' evaluation compares with stored points of the true surface: points drawn on the mesh.

    Args:
        mesh: The surface.
        truth: Stored points, ``(M, 3)``.
        samples: Points to draw; each has the normal of its triangle.
        margin: Of rooms, whose stored points leave out the far sides of walls and floor: points this far outside of
            the stored ones' box on x and z, or below it on y (which is up), are left out. Twice ``samples`` are drawn,
            and ``samples`` of those kept, with replacement. None: all points count.

    Returns:
        Points and normals, ``(samples, 3)`` each; ``(0, 3)`` of a mesh without triangles, or with none there.
    """
    if len(mesh.faces) == 0:
        return torch.zeros(0, 3), torch.zeros(0, 3)
    drawn, normals = sample_surface(mesh, samples if margin is None else 2 * samples, seed=1)
    if margin is None:
        return drawn, normals
    low, high = truth.amin(0) - margin, truth.amax(0) + margin
    high[1] = float("inf")
    kept = ((drawn >= low) & (drawn <= high)).all(dim=1).nonzero()[:, 0]
    if len(kept) == 0:
        return drawn[:0], normals[:0]
    rows = kept[torch.randint(len(kept), (samples,), generator=torch.Generator().manual_seed(1))]
    return drawn[rows], normals[rows]


def _against_mesh(
    mesh: trimesh.Trimesh, truth: trimesh.Trimesh, drawn: Tensor, normals: Tensor, scale: float, samples: int
) -> tuple[SurfaceDistances, Tensor]:
    """Distances to triangles both ways, rims left out, and the errors of all drawn points."""
    true_points, true_normals = sample_surface(truth, samples, seed=2)
    cosines = surface_distances(drawn, true_points, normals, true_normals)
    assert cosines.accuracy_cosine is not None
    assert cosines.completeness_cosine is not None
    to_truth, places = distance_to_mesh(drawn, truth)
    to_mesh, _ = distance_to_mesh(true_points, mesh)
    rim = boundary_points(truth)
    kept, true_kept = (_far_from(rim, x, _NEAR_BOUNDARY * scale) for x in (places, true_points))
    found = SurfaceDistances(
        to_truth[kept] / scale,
        to_mesh[true_kept] / scale,
        cosines.accuracy_cosine[kept],
        cosines.completeness_cosine[true_kept],
    )
    return found, to_truth / scale


def _far_from(rim: Tensor, points: Tensor, distance: float) -> Tensor:
    if len(rim) == 0:
        return torch.ones(len(points), dtype=torch.bool)
    return knn(rim, points, 1).squared_distances[:, 0].sqrt() > distance
