"""Surfaces of functions that are dear to evaluate: refine a grid where the surface is, or follow it from a cloud.

A function takes positions ``(N, 3)`` and returns values ``(N,)``. Both ways ask it only near the surface.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import max_pool3d

from zoo.ops.marching_cubes import SurfaceMesh, marching_cubes

__all__ = [
    "BandVolume",
    "Evaluate",
    "MiseVolume",
    "evaluate_in_chunks",
    "extract_band",
    "march_band",
    "mise",
    "refine_vertices",
]

Evaluate = Callable[[Tensor], Tensor]
_REACH = torch.arange(-2, 2)  # a cell of the front asks for these shifts along each axis


def evaluate_in_chunks(evaluate: Evaluate, positions: Tensor, chunk: int = 1 << 16) -> Tensor:
    """``evaluate`` on at most ``chunk`` positions at a time, ``(N,)``."""
    return torch.cat([evaluate(part) for part in positions.split(chunk)]) if len(positions) else positions.new_zeros(0)


class MiseVolume(NamedTuple):
    """What `mise` finds.

    Attributes:
        values: ``(R + 1, R + 1, R + 1)`` float32, those never asked for filled from a neighbour.
        rounds: The positions that were asked for in each round, ``(N, 3)`` int64.
    """

    values: Tensor
    rounds: tuple[Tensor, ...]


def mise(evaluate: Evaluate, resolution: int, depth: int, threshold: float) -> MiseVolume:
    """Multi-resolution iso-surface extraction: cells are split where the surface may pass.

    Mescheder et al., "Occupancy Networks" (CVPR 2019), section 3.3. All ``(resolution + 1)^3`` corners are evaluated
    first. In each round every cell that touches a value of at least and one of at most the threshold is split in eight,
    down to cells of size one, and the corners that are new are evaluated. What was never asked for takes the value of
    its lower neighbour, along x, then y, then z.

    Args:
        evaluate: Takes corners ``(N, 3)`` int64 of the finest grid.
        resolution: Cells along each axis at the start.
        depth: How often a cell may be split; the finest grid has ``R = resolution * 2^depth`` cells along each axis.
        threshold: Value on the surface.

    Raises:
        ValueError: No cell, or a negative depth.
    """
    if resolution < 1 or depth < 0:
        raise ValueError(f"resolution, depth: found {resolution}, {depth}; expected at least 1 and 0")
    edge = (resolution << depth) + 1
    values = torch.full((edge, edge, edge), float("nan"))
    asked = torch.zeros(edge, edge, edge, dtype=torch.bool)
    leaves = [torch.ones(resolution, resolution, resolution, dtype=torch.bool)]
    leaves += [torch.zeros((resolution << level,) * 3, dtype=torch.bool) for level in range(1, depth + 1)]
    new = torch.cartesian_prod(*(torch.arange(0, edge, 1 << depth) for _ in range(3))).view(-1, 3)
    rounds = []
    while len(new):
        rounds.append(new)
        asked[tuple(new.T)] = True
        values[tuple(new.T)] = evaluate(new).detach().float().cpu()
        new = _split(values, asked, leaves, depth, threshold)
    return MiseVolume(_fill(values), tuple(rounds))


def _split(values: Tensor, asked: Tensor, leaves: list[Tensor], depth: int, threshold: float) -> Tensor:
    """Split the leaves that the surface may pass; the corners that this adds, each once."""
    signs = torch.stack([values >= threshold, values <= threshold]).float()  # NaN is neither
    chosen = []
    for level in range(depth):
        size = 1 << (depth - level)
        passed = max_pool3d(signs, size + 1, stride=size).bool().all(dim=0) & leaves[level]
        chosen.append(passed.nonzero())
    added = []
    for level, cells in enumerate(chosen):  # all were chosen before any was split: one pass
        half = 1 << (depth - level - 1)
        leaves[level][tuple(cells.T)] = False
        children = (2 * cells[:, None] + _lattice(2)).reshape(-1, 3)
        leaves[level + 1][tuple(children.T)] = True
        added.append((2 * half * cells[:, None] + half * _lattice(3)).reshape(-1, 3))
    mask = torch.zeros_like(asked)
    if added:
        mask[tuple(torch.cat(added).T)] = True
    return (mask & ~asked).nonzero()


def _lattice(count: int) -> Tensor:
    steps = torch.arange(count)
    return torch.cartesian_prod(steps, steps, steps)


def _fill(values: Tensor) -> Tensor:
    """Along each axis in turn, NaN becomes the last known value before it."""
    for axis in range(3):
        length = values.shape[axis]
        place = torch.arange(length).view([-1 if i == axis else 1 for i in range(3)]).expand_as(values)
        last = torch.where(values.isnan(), 0, place).cummax(dim=axis).values
        values = values.gather(axis, last)
    return values


class BandVolume(NamedTuple):
    """What `march_band` finds.

    Attributes:
        values: Signed values, inside negative, NaN where never asked: ``(R, R, R)``.
        evaluated: Number of positions that were asked for in each round.
    """

    values: Tensor
    evaluated: tuple[int, ...]

    @property
    def crosses(self) -> bool:
        """Whether the values have both signs."""
        return bool((self.values < 0).any() and (self.values > 0).any())


def march_band(evaluate: Evaluate, seeds: Tensor, resolution: int, *, max_rounds: int = 10_000) -> BandVolume:
    """Evaluate a grid in a narrow band that grows from seeds along the surface.

    Boulch and Marlet, "POCO" (CVPR 2022), section 3.4. Around each cell of the front the corners at shifts -2 to 1
    along each axis are evaluated. The next front are corners that were in no front yet, near one of the present front
    with the other sign. Corners on the outermost layer count as outside.

    Args:
        evaluate: Takes corners ``(N, 3)`` int64 and returns values below 0 inside and above 0 outside.
        seeds: Corners near the surface, ``(N, 3)`` int64.
        resolution: R, corners along each axis.
        max_rounds: A bound on the rounds.

    Raises:
        ValueError: A seed outside of the grid, or no seed.
    """
    if len(seeds) == 0 or bool((seeds < 0).any() | (seeds >= resolution).any()):
        raise ValueError(f"seeds: found {len(seeds)}, some outside of 0 to {resolution - 1}; expected one at least")
    strides = torch.tensor([resolution**2, resolution, 1])
    values = torch.full((resolution**3,), float("nan"))
    untouched = torch.ones(resolution**3, dtype=torch.bool)
    near_inside, near_outside = torch.zeros_like(untouched), torch.zeros_like(untouched)
    front, evaluated = seeds.unique(dim=0), []
    while len(front) and len(evaluated) < max_rounds:
        active = _boxes(front, resolution, strides).unique()
        corners = torch.stack([active // strides[0], active // resolution % resolution, active % resolution], dim=-1)
        values[active] = evaluate(corners).detach().float().cpu()
        evaluated.append(len(active))
        rows = front @ strides
        untouched[rows] = False
        near_inside[_boxes(front[values[rows] <= 0], resolution, strides)] = True
        near_outside[_boxes(front[values[rows] >= 0], resolution, strides)] = True
        reached = values[active]
        crossing = (near_inside[active] & (reached >= 0)) | (near_outside[active] & (reached <= 0))
        front = corners[untouched[active] & crossing]
    volume = values.view(resolution, resolution, resolution)
    for axis in range(3):
        volume.select(axis, 0).fill_(1)
        volume.select(axis, -1).fill_(1)
    return BandVolume(volume, tuple(evaluated))


def _boxes(front: Tensor, resolution: int, strides: Tensor) -> Tensor:
    """Rows of the corners around each cell of the front, those outside of the grid left out."""
    shifts = torch.cartesian_prod(_REACH, _REACH, _REACH)
    corners = (front[:, None] + shifts).reshape(-1, 3)
    return corners[((corners >= 0) & (corners < resolution)).all(dim=1)] @ strides


def refine_vertices(
    evaluate: Evaluate, volume: Tensor, mesh: SurfaceMesh, *, iterations: int = 10, chunk: int = 50_000
) -> SurfaceMesh:
    """Move the vertices along the edges of the grid that they lie on, to where the function itself changes sign.

    Args:
        evaluate: Takes positions ``(N, 3)`` float32 in units of cells.
        volume: The values that the mesh was made of, with level 0.
        mesh: In units of cells.
        iterations: Halvings of each edge.
        chunk: Positions asked for at once.
    """
    vertices = mesh.vertices.clone()
    fraction = vertices != vertices.floor()
    rows = (fraction.sum(dim=1) == 1).nonzero()[:, 0]
    lower, upper = vertices[rows].floor(), vertices[rows].ceil()
    at_lower, at_upper = volume[tuple(lower.long().T)], volume[tuple(upper.long().T)]
    known = ~(at_lower.isnan() | at_upper.isnan())
    rows, lower, upper, at_lower, at_upper = (x[known] for x in (rows, lower, upper, at_lower, at_upper))
    middle = vertices[rows]
    for _ in range(iterations):
        value = evaluate_in_chunks(evaluate, middle, chunk).detach().float().cpu()
        first, second = (value * at_lower > 0)[:, None], (value * at_upper > 0)[:, None]
        lower, upper = torch.where(first, middle, lower), torch.where(second, middle, upper)
        at_lower = torch.where(first[:, 0], value, at_lower)
        at_upper = torch.where(second[:, 0], value, at_upper)
        middle = (lower + upper) / 2
    vertices[rows] = middle
    return mesh._replace(vertices=vertices)


def extract_band(
    evaluate: Evaluate, seeds: Tensor, resolution: int, *, refine_iterations: int = 0
) -> tuple[SurfaceMesh, BandVolume]:
    """`march_band`, marching cubes at 0, and on request `refine_vertices`; no crossing gives a mesh without triangles.

    Args:
        evaluate: Takes positions ``(N, 3)`` float32 in units of cells; below 0 inside.
        seeds: Corners near the surface, ``(N, 3)`` int64.
        resolution: Corners along each axis.
        refine_iterations: Halvings of the edges that vertices lie on.
    """
    band = march_band(lambda corners: evaluate(corners.float()), seeds, resolution)
    if not band.crosses:
        return SurfaceMesh.empty(), band
    mesh = marching_cubes(band.values, 0.0, inside="below")
    if refine_iterations:
        mesh = refine_vertices(evaluate, band.values, mesh, iterations=refine_iterations)
    return mesh, band
