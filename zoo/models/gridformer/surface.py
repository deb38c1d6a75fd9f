"""The surface on which occupancy crosses a level: a mesh from a function of logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.ops.marching_cubes import SurfaceMesh, marching_cubes
from zoo.ops.surface_extraction import Evaluate, evaluate_in_chunks, extract_band, mise, refine_vertices

__all__ = ["occupancy_surface", "occupancy_surface_near"]

_COARSEST = 32  # cells along an axis that multi-resolution extraction begins with at least
_OUTSIDE = -1e6  # logit around the cube, so that what reaches its border is closed there
_MARGIN = 4  # cells around a cloud
_LARGEST = 1024  # corners along an axis


def _threshold(level: float) -> float:
    """The logit of a probability."""
    if not 0 < level < 1:
        raise ValueError(f"level: found {level}, expected a probability within (0, 1)")
    return math.log(level / (1 - level))


@torch.no_grad()
def occupancy_surface(
    logits: Evaluate,
    resolution: int,
    *,
    side: float = 1.1,
    level: float = 0.5,
    refinements: int = 0,
    chunk_size: int = 50_000,
) -> SurfaceMesh:
    """The closed surface in the cube of an edge ``side`` about the origin, by `zoo.ops.surface_extraction.mise`.

    Mescheder et al., "Occupancy Networks" (CVPR 2019), section 3.3: the grid begins with the smallest number of cells,
    at least 32, of which ``resolution`` is a power of two times, and is split near the surface. Outside of the cube
    nothing is occupied.

    Args:
        logits: Takes positions ``(N, 3)`` float32, returns logits of occupancy ``(N,)``.
        resolution: Cells along an axis of the finest grid.
        side: Edge of the cube.
        level: Probability on the surface.
        refinements: Halvings of the edges that vertices lie on; 0: linear interpolation of the logits.
        chunk_size: Positions asked for at once.

    Returns:
        A mesh with vertices in the units of the positions; without triangles where no logit crosses the level.

    Raises:
        ValueError: Numbers out of range.
    """
    if resolution < 1 or not side > 0:
        raise ValueError(f"resolution={resolution}, side={side}: expected at least 1 and above 0")
    threshold, depth = _threshold(level), 0
    while resolution % (2 << depth) == 0 and resolution >> (depth + 1) >= _COARSEST:
        depth += 1

    def above(corners: Tensor) -> Tensor:
        places = side * (corners.float() / resolution - 0.5)
        return evaluate_in_chunks(logits, places, chunk_size).float().cpu() - threshold

    def above_padded(corners: Tensor) -> Tensor:
        inner = corners - 1  # the padding has shifted the grid by a cell
        within = ((inner >= 0) & (inner <= resolution)).all(dim=1)
        return torch.where(within, above(inner), _OUTSIDE)

    found = mise(above, resolution >> depth, depth, 0.0)
    volume = torch.nn.functional.pad(found.values, (1,) * 6, value=_OUTSIDE)
    mesh = marching_cubes(volume, 0.0, inside="above")
    if refinements and len(mesh.faces):
        mesh = refine_vertices(above_padded, volume, mesh, iterations=refinements, chunk=chunk_size)
    return mesh._replace(vertices=side * ((mesh.vertices - 1) / resolution - 0.5))


@torch.no_grad()
def occupancy_surface_near(
    logits: Evaluate,
    cloud: Tensor,
    cell: float,
    *,
    level: float = 0.5,
    refinements: int = 0,
    chunk_size: int = 50_000,
) -> SurfaceMesh:
    """The surface near a cloud, followed from its points by `zoo.ops.surface_extraction.extract_band`.

    For scenes of any size: nothing is evaluated far from the surface, and pieces that no point is near are not found.

    Args:
        logits: Takes positions ``(N, 3)`` float32, returns logits of occupancy ``(N,)``.
        cloud: Points near the surface, ``(P, 3)``.
        cell: Edge of a cell in the units of the positions.
        level: Probability on the surface.
        refinements: Halvings of the edges that vertices lie on.
        chunk_size: Positions asked for at once.

    Returns:
        A mesh with vertices in the units of the positions; without triangles where no logit crosses the level.

    Raises:
        ValueError: No point, numbers out of range, or a grid that memory does not hold.
    """
    if len(cloud) == 0 or not cell > 0:
        raise ValueError(f"cloud, cell: found {len(cloud)} points, {cell}; expected at least one, and above 0")
    threshold = _threshold(level)
    low = cloud.amin(0).float() - _MARGIN * cell
    resolution = int(((cloud.amax(0) - cloud.amin(0)).amax() / cell).ceil()) + 2 * _MARGIN + 1
    if resolution > _LARGEST:
        raise ValueError(
            f"cell={cell:g}: the cloud would need {resolution} corners along an axis, expected at most {_LARGEST}; "
            "choose larger cells"
        )

    def below(corners: Tensor) -> Tensor:
        places = low + cell * corners.float()
        return threshold - evaluate_in_chunks(logits, places, chunk_size).float().cpu()

    seeds = ((cloud - low) / cell).floor().long().cpu()
    mesh, _ = extract_band(below, seeds, resolution, refine_iterations=refinements)
    return mesh._replace(vertices=low.cpu() + cell * mesh.vertices)
