"""Voxel features on a dense map in plain torch, channels last."""

from __future__ import annotations

from torch import Tensor


def _places(coords: Tensor, shape: list[int]) -> Tensor:
    """Number of the cell of each row in (batch, z, y, x) order."""
    batch, z, y, x = coords.long().unbind(-1)
    return ((batch * shape[0] + z) * shape[1] + y) * shape[2] + x


def scatter_to_bev(features: Tensor, coords: Tensor, batch_size: int, shape: list[int]) -> Tensor:
    """Features at their cells, zeros elsewhere, channels last: ``(B, ny, nx, C nz)``."""
    channels, cells = features.shape[1], shape[0] * shape[1] * shape[2]
    flat = features.new_zeros(batch_size * cells, channels).index_copy(0, _places(coords, shape), features)
    grid = flat.view(batch_size, *shape, channels).permute(0, 2, 3, 4, 1)
    return grid.reshape(batch_size, shape[1], shape[2], channels * shape[0]).contiguous()


def scatter_to_bev_backward(grad: Tensor, coords: Tensor, shape: list[int]) -> Tensor:
    """The gradient at each voxel's cell, ``(N, C)``."""
    batch_size, channels = grad.shape[0], grad.shape[3] // shape[0]
    grid = grad.reshape(batch_size, *shape[1:], channels, shape[0]).permute(0, 4, 1, 2, 3).flatten(0, 3)
    return grid[_places(coords, shape)].contiguous()
