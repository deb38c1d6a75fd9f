"""Lists of the Gaussians that touch each tile of a picture, nearest first."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.ops import checks
from zoo.ops.dispatch import define_op
from zoo.ops.reference import gaussian_tiles as reference


class GaussianTiles(NamedTuple):
    """The tiles' lists of Gaussians. A Gaussian of camera c is counted as ``c N + n``, a tile row by row."""

    tiles_per_gaussian: Tensor  # (C, N) int32
    tile_offsets: Tensor  # (C * tile rows * tile columns + 1,) int64, begin of each tile's list
    ids: Tensor  # (I,) int32, Gaussians of the lists
    slot_offsets: Tensor  # (C * N + 1,) int64, begin of each Gaussian's run in `slots`
    slots: Tensor  # (I,) int32, the places in `ids` at which each Gaussian stands
    width: int
    height: int
    tile_size: int


def _fake(means2d: Tensor, radii: Tensor, depths: Tensor, width: int, height: int, tile_size: int) -> Any:
    total = torch.library.get_ctx().new_dynamic_size()
    cameras, count = depths.shape
    tiles = cameras * -(-width // tile_size) * -(-height // tile_size)
    return (
        depths.new_empty((cameras, count), dtype=torch.int32),
        depths.new_empty((tiles + 1,), dtype=torch.int64),
        depths.new_empty((total,), dtype=torch.int32),
        depths.new_empty((cameras * count + 1,), dtype=torch.int64),
        depths.new_empty((total,), dtype=torch.int32),
    )


_intersect_gaussian_tiles = define_op(
    "intersect_gaussian_tiles(Tensor means2d, Tensor radii, Tensor depths, int width, int height, int tile_size)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=reference.intersect_gaussian_tiles,
    fake=_fake,
)


def intersect_gaussian_tiles(
    means2d: Tensor, radii: Tensor, depths: Tensor, width: int, height: int, *, tile_size: int = 16
) -> GaussianTiles:
    """List the Gaussians whose box touches each tile, by rising depth (equal depths by number).

    The box of a Gaussian touches the tiles ``floor((u - r) / tile_size)`` to ``ceil((u + r) / tile_size) - 1``.

    Args:
        means2d: ``(C, N, 2)``.
        radii: ``(C, N, 2)`` int32; a Gaussian with a zero is in no tile.
        depths: ``(C, N)``.
        width: Columns of the picture.
        height: Rows of the picture.
        tile_size: Pixels along the side of a tile, 1 to 64.

    Returns:
        See `GaussianTiles`; not differentiable.

    Raises:
        ValueError: Wrong shape, dtype, device or tile size.

    Example:
        >>> where, radius = torch.tensor([[[8.0, 8.0], [17.0, 8.0]]]), torch.full((1, 2, 2), 4, dtype=torch.int32)
        >>> tiles = intersect_gaussian_tiles(where, radius, torch.tensor([[2.0, 1.0]]), 32, 16)
        >>> tiles.tile_offsets.tolist(), tiles.ids.tolist()
        ([0, 2, 3], [1, 0, 1])
    """
    checks.check_shape("depths", depths, ("C", "N"))
    checks.check_dtype("depths", depths, checks.FLOATING)
    checks.check_shape("means2d", means2d, (*depths.shape, 2))
    checks.check_same_dtype("means2d", means2d, "depths", depths)
    checks.check_shape("radii", radii, (*depths.shape, 2))
    checks.check_dtype("radii", radii, torch.int32)
    for name, tensor in (("means2d", means2d), ("radii", radii)):
        checks.check_same_device(name, tensor, "depths", depths)
    if not 1 <= tile_size <= 64:
        raise ValueError(f"tile_size: found {tile_size}, expected 1 to 64")
    if width < 1 or height < 1:
        raise ValueError(f"width, height: found {width} x {height}, expected at least 1 x 1 pixels")
    lists = _intersect_gaussian_tiles(means2d.detach(), radii, depths.detach(), width, height, tile_size)
    return GaussianTiles(*lists, width=width, height=height, tile_size=tile_size)
