"""Voxel features on a dense map in plain torch."""

from __future__ import annotations

from torch import Tensor


def _places(coords: Tensor, shape: list[int]) -> Tensor:
    """Number of the cell of each row in (batch, z, y, x) order."""
    batch, z, y, x = coords.long().unbind(-1)
    return ((batch * shape[0] + z) * shape[1] + y) * shape[2] + x


def scatter_to_bev(features: Tensor, coords: Tensor, batch_size: int, shape: list[int]) -> Tensor:
    """Features at their cells, zeros elsewhere, ``(B, C nz, ny, nx)``."""
    channels, cells = features.shape[1], shape[0] * shape[1] * shape[2]
    flat = features.new_zeros(batch_size * cells, channels)
    flat[_places(coords, shape)] = features
    grid = flat.view(batch_size, *shape, channels).permute(0, 4, 1, 2, 3)
    return grid.reshape(batch_size, channels * shape[0], shape[1], shape[2]).contiguous()


def scatter_to_bev_backward(grad: Tensor, coords: Tensor, shape: list[int]) -> Tensor:
    """The gradient at each voxel's cell, ``(N, C)``."""
    batch_size, channels = grad.shape[0], grad.shape[1] // shape[0]
    grid = grad.reshape(batch_size, channels, *shape).permute(0, 2, 3, 4, 1).flatten(0, 3)
    return grid[_places(coords, shape)].contiguous()
