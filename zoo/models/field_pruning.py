"""After training: what of a hollow field can never be read, and its removal.

A cell of the saliency grid whose probability stays at or below a threshold is closed. A row of the hash table is needed
only if a point of an open cell can address it; the rest is dropped, level by level. The occupancy grid loses the cells
that touch no open cell, so rays do not stop there any more.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.models.hollownerf import HollowNeRF
from zoo.models.layers.occupancy_grid import OccupancyGrid
from zoo.models.saliency import SaliencyGrid
from zoo.ops import HashGridLayout, grid_rows

__all__ = ["CLOSED", "PruningReport", "addressable_rows", "cells_touching", "open_vertices", "prune"]

CLOSED = -1e4  # raw saliency whose sigmoid is exactly 0 in float32
_VERTICES_PER_CHUNK = 1 << 21


@dataclass(frozen=True)
class PruningReport:
    """What pruning did."""

    threshold: float
    rows_before: tuple[int, ...]  # by level
    rows_after: tuple[int, ...]
    cells: int  # of the saliency grid
    open_cells: int
    occupied_before: int  # cells of the occupancy grid, all levels together
    occupied_after: int


@torch.no_grad()
def prune(field: HollowNeRF, occupancy: OccupancyGrid | None = None, *, threshold: float = 1e-4) -> PruningReport:
    """Close the cells with ``p <= threshold``, zero the rows that are dropped, and thin the occupancy grid; in place.

    Renderings change only where density was left in closed cells.

    Raises:
        ValueError: The field has no saliency grid.
    """
    grid = field.saliency
    if grid is None:
        raise ValueError("field: it has no saliency grid, so nothing tells which rows are needed; prune a hollow field")
    layout = field.encoding.layout
    cells = grid.find_open_cells(threshold)
    needed = addressable_rows(layout, grid, cells)
    grid.close_cells(cells)
    grid.values.masked_fill_(~open_vertices(cells), CLOSED)
    field.encoding.table.masked_fill_(~needed[:, None], 0.0)
    before = after = 0
    if occupancy is not None:
        before = int(occupancy.binaries.sum())
        dilated = F.max_pool3d(cells[None, None].float(), kernel_size=3, stride=1, padding=1)[0, 0] > 0
        for level in range(len(occupancy.aabbs)):
            box = (occupancy.aabbs[level].view(2, 3) - field.aabb[:3]) / (field.aabb[3:] - field.aabb[:3])
            occupancy.binaries[level] &= cells_touching(dilated, grid, box, occupancy.binaries.shape[1:])
        after = int(occupancy.binaries.sum())
    offsets = layout.offsets
    return PruningReport(
        threshold=threshold,
        rows_before=tuple(level.rows for level in layout.levels),
        rows_after=tuple(int(needed[a:b].sum()) for a, b in itertools.pairwise(offsets)),
        cells=cells.numel(),
        open_cells=int(cells.sum()),
        occupied_before=before,
        occupied_after=after,
    )


def open_vertices(cells: Tensor) -> Tensor:
    """Vertices ``(T, T, T)`` bool that belong to an open cell of ``cells`` ``(T-1, T-1, T-1)``."""
    return F.max_pool3d(F.pad(cells[None, None].float(), [1] * 6), kernel_size=2, stride=1)[0, 0] > 0


def cell_borders(grid: SaliencyGrid) -> Tensor:
    """The least float32 coordinate of each cell along an axis, ``(T - 1,)``, by bisection over all float32 numbers.

    Cell ``i`` holds the numbers from ``borders[i]`` to the one before ``borders[i + 1]``, the last cell those up to 1:
    no tolerance enters, whatever the grid's own arithmetic rounds.
    """
    index = torch.arange(grid.resolution - 1)
    below = torch.full_like(index, -1, dtype=torch.int32)  # bit patterns of non-negative floats sort like the floats
    reached = torch.full_like(below, torch.tensor(1.0).view(torch.int32).item())
    while bool((reached - below > 1).any()):
        middle = below + (reached - below) // 2
        cell = grid.vertex_positions(middle.view(torch.float32)).floor()
        is_reached = cell >= index
        reached, below = torch.where(is_reached, middle, reached), torch.where(is_reached, below, middle)
    return reached.view(torch.float32)


def _vertex_ranges(layout: HashGridLayout, level: int, borders: Tensor) -> tuple[Tensor, Tensor]:
    """First and last hash-grid vertex along an axis that the points of each saliency cell read, ``(T - 1,)`` each."""
    scale = layout.levels[level].scale
    first, after = borders, borders[1:]
    last = torch.cat([torch.nextafter(after, torch.zeros(())), torch.ones(1)])
    low, high = ((x.double() * scale + layout.shift).float() for x in (first, last))  # one rounding, as in the kernels
    top = high.ceil() if layout.ceil_corners else high.floor() + 1
    return low.floor().long(), top.long()


@torch.no_grad()
def addressable_rows(layout: HashGridLayout, grid: SaliencyGrid, cells: Tensor) -> Tensor:
    """The table rows ``(rows,)`` bool that some point of an open cell of ``cells`` reads, with whatever weight."""
    needed = torch.zeros(layout.num_rows, dtype=torch.bool)
    borders, where = cell_borders(grid), cells.cpu().nonzero()
    for level in range(layout.num_levels):
        first, last = _vertex_ranges(layout, level, borders)
        begin, end = layout.offsets[level], layout.offsets[level + 1]
        width = int((last - first).max()) + 1
        for part in where.split(max(1, _VERTICES_PER_CHUNK // width**3)):
            # narrower cells repeat their last vertex
            axis = torch.minimum(first[part][..., None] + torch.arange(width), last[part][..., None])  # (n, 3, width)
            x, y, z = torch.broadcast_tensors(
                axis[:, 0, :, None, None], axis[:, 1, None, :, None], axis[:, 2, None, None, :]
            )
            needed[grid_rows(torch.stack([x, y, z], dim=-1), layout, level).flatten()] = True
            if bool(needed[begin:end].all()):
                break
    return needed.to(cells.device)


@torch.no_grad()
def cells_touching(cells: Tensor, grid: SaliencyGrid, box: Tensor, resolution: torch.Size | tuple[int, ...]) -> Tensor:
    """Cells, of a regular grid over ``box`` ``(2, 3)`` in units of the field's box, touching an open saliency cell."""
    touched = cells.float()
    for axis in range(3):
        edges = torch.linspace(float(box[0, axis]), float(box[1, axis]), resolution[axis] + 1)
        places = grid.vertex_positions(edges).clamp(max=grid.resolution - 1)
        index = torch.arange(grid.resolution - 1)
        overlaps = (places[:-1, None] <= index + 1) & (places[1:, None] >= index)  # (resolution, T - 1)
        touched = torch.einsum("iyz,xi->yzx", touched, overlaps.float().to(cells.device))
    return touched > 0
