"""Grid sampling of point clouds: one point for each occupied cell, or fragments that cover every point."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.ops.checks import FLOATING, check_dtype, check_option

FNV_OFFSET = 14695981039346656037 - 2**64  # as int64
FNV_PRIME = 1099511628211
SIGN_BIT = -(2**63)


class GridSample(NamedTuple):
    """The result of `grid_sample_points`."""

    fragments: tuple[Tensor, ...]  # each (M,) int64: one point of every cell
    grid_coords: Tensor  # (P, D) int64: cell of every point, smallest 0 on each axis
    inverse: Tensor  # (P,) int64: rank of the point's cell in key order
    counts: Tensor  # (M,) int64: points in each cell


def fnv_keys(cells: Tensor) -> Tensor:
    """The 64-bit FNV-1 style hash of integer cells (P, D), as int64 bits: ``h = (h * prime) xor c`` over the columns.

    Example:
        >>> import torch
        >>> fnv_keys(torch.tensor([[0, 0, 0]])).tolist()
        [-2788552698171019337]
    """
    keys = torch.full((len(cells),), FNV_OFFSET, dtype=torch.int64, device=cells.device)
    for column in cells.to(torch.int64).unbind(1):
        keys = (keys * FNV_PRIME) ^ column
    return keys


def grid_sample_points(
    coords: Tensor,
    grid_size: float,
    *,
    mode: str = "train",
    key: str = "fnv",
    generator: torch.Generator | None = None,
) -> GridSample:
    """Sample a cloud on a grid of cells ``floor(coords / grid_size) - min``, as the Pointcept data pipelines do.

    ``"train"`` picks one random point of each cell. ``"test"`` returns as many fragments as the fullest cell has
    points; fragment i takes point ``i mod count`` of each cell (points of a cell in row order), so that every point is
    in one.

    Args:
        coords: Positions (P, D), float32 or float64; the division is done in float64.
        grid_size: Edge of a cell.
        mode: ``"train"`` or ``"test"``.
        key: Order of the cells: ``"fnv"`` (ascending unsigned FNV hash, as upstream) or ``"linear"`` (lexicographic).
        generator: Source of the random picks.

    Returns:
        `GridSample` with 1 fragment (train; none for an empty cloud in test) or several.

    Raises:
        ValueError: Wrong shape, dtype, mode or key, a grid size that is not positive, or positions that are not finite.

    Example:
        >>> import torch
        >>> sample = grid_sample_points(torch.tensor([[0.1], [0.9], [0.2]]), 0.5, mode="test", key="linear")
        >>> [fragment.tolist() for fragment in sample.fragments], sample.inverse.tolist()
        ([[0, 1], [2, 1]], [0, 1, 0])
    """
    check_option("mode", mode, ("train", "test"))
    check_option("key", key, ("fnv", "linear"))
    check_dtype("coords", coords, FLOATING)
    if coords.dim() != 2:
        raise ValueError(f"coords: found shape {tuple(coords.shape)}, expected (P, D)")
    if not grid_size > 0:
        raise ValueError(f"grid_size: found {grid_size}, expected a size above 0")
    if not bool(torch.isfinite(coords).all()):
        raise ValueError("coords: found NaN or infinite positions, expected finite ones; drop them first")
    cells = torch.floor(coords.to(torch.float64) / grid_size).to(torch.int64)
    cells = cells - cells.amin(dim=0) if len(cells) else cells
    order, inverse = _cell_order(cells, key)
    counts = torch.bincount(inverse)
    starts = counts.cumsum(0) - counts
    deepest = int(counts.max()) if len(counts) else 0
    if mode == "train":
        pick = torch.randint(0, max(deepest, 1), (len(counts),), generator=generator, device=_device(generator))
        fragments = (order[starts + pick.to(coords.device) % counts],)
    else:
        fragments = tuple(order[starts + index % counts] for index in range(deepest))
    return GridSample(fragments, cells, inverse, counts)


def _cell_order(cells: Tensor, key: str) -> tuple[Tensor, Tensor]:
    """The points sorted by cell, stable, and the rank of every point's cell."""
    if key == "fnv":
        keys = fnv_keys(cells) ^ SIGN_BIT  # unsigned order
        sorted_keys, order = torch.sort(keys, stable=True)
        changes = sorted_keys[1:] != sorted_keys[:-1]
    else:
        order = torch.arange(len(cells), device=cells.device)
        for column in reversed(cells.unbind(1)):
            order = order[torch.argsort(column[order], stable=True)]
        changes = (cells[order][1:] != cells[order][:-1]).any(dim=1)
    rank = torch.cat([changes.new_zeros(min(1, len(cells)), dtype=torch.int64), changes.cumsum(0)])
    inverse = torch.empty_like(order)
    inverse[order] = rank
    return order, inverse


def _device(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device
