"""Which tiles of a picture each Gaussian's box touches, ordered by tile and depth, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def intersect_gaussian_tiles(
    means2d: Tensor, radii: Tensor, depths: Tensor, width: int, height: int, tile_size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Tiles per Gaussian, offsets of the tiles' lists, Gaussians in them, and where each Gaussian stands in them."""
    num_cameras, count = depths.shape
    columns, rows = -(-width // tile_size), -(-height // tile_size)
    visible = (radii > 0).all(-1)
    low = torch.floor((means2d - radii) / tile_size)
    high = torch.ceil((means2d + radii) / tile_size)
    limit = means2d.new_tensor([columns, rows])
    low = torch.where(visible[..., None], low, 0).clamp_min(0).minimum(limit).long().reshape(-1, 2)
    high = torch.where(visible[..., None], high, 0).clamp_min(0).minimum(limit).long().reshape(-1, 2)
    span = (high - low).clamp_min(0)
    tiles = span[:, 0] * span[:, 1]
    slot_offsets = torch.zeros(len(tiles) + 1, dtype=torch.int64, device=tiles.device)
    torch.cumsum(tiles, 0, out=slot_offsets[1:])
    gaussians = torch.repeat_interleave(torch.arange(len(tiles), device=tiles.device), tiles)
    step = torch.arange(len(gaussians), device=tiles.device) - slot_offsets[gaussians]
    wide = span[gaussians, 0].clamp_min(1)
    column, row = low[gaussians, 0] + step % wide, low[gaussians, 1] + step // wide
    camera = gaussians // max(count, 1)
    tile = (camera * rows + row) * columns + column
    by_depth = torch.argsort(depths.reshape(-1)[gaussians], stable=True)
    order = by_depth[torch.argsort(tile[by_depth], stable=True)]
    num_tiles = num_cameras * rows * columns
    tile_offsets = torch.zeros(num_tiles + 1, dtype=torch.int64, device=tiles.device)
    torch.cumsum(torch.bincount(tile, minlength=num_tiles), 0, out=tile_offsets[1:])
    slots = torch.empty_like(order)
    slots[order] = torch.arange(len(order), device=order.device)
    return (
        tiles.reshape(num_cameras, count).to(torch.int32),
        tile_offsets,
        gaussians[order].to(torch.int32),
        slot_offsets,
        slots.to(torch.int32),
    )
