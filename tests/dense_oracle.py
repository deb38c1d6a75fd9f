"""Random sparse tensors, and dense torch convolutions as the oracle of the sparse ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from zoo.ops import SparseTensor, VoxelGrid


def random_grid(shape: Sequence[int], batch_size: int = 2, density: float = 0.4, seed: int = 0) -> VoxelGrid:
    """A grid whose sites are drawn independently, given to the constructor in random order."""
    generator = torch.Generator().manual_seed(seed)
    coords = (torch.rand(batch_size, *shape, generator=generator) < density).nonzero()
    return VoxelGrid(coords[torch.randperm(len(coords), generator=generator)], shape, batch_size)


def random_sparse(
    shape: Sequence[int],
    channels: int,
    batch_size: int = 2,
    density: float = 0.4,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> SparseTensor:
    """Normal features on a random grid."""
    grid = random_grid(shape, batch_size, density, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    return SparseTensor(torch.randn(len(grid), channels, generator=generator, dtype=torch.float64).to(dtype), grid)


def random_weight(
    out_channels: int,
    kernel_size: Sequence[int],
    in_channels: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """A normal weight (C_out, k.., C_in)."""
    generator = torch.Generator().manual_seed(seed + 2)
    return torch.randn(out_channels, *kernel_size, in_channels, generator=generator, dtype=torch.float64).to(dtype)


def dense_conv(
    x: SparseTensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
) -> Tensor:
    """The convolution of the dense tensor, (B, C_out, S'..)."""
    function = (functional.conv1d, functional.conv2d, functional.conv3d)[x.grid.ndim - 1]
    return function(x.dense(), weight.movedim(-1, 1), None, tuple(stride), tuple(padding), tuple(dilation), groups)


def dense_conv_transpose(
    x: SparseTensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
    groups: int = 1,
) -> Tensor:
    """The transposed convolution of the dense tensor; torch wants the weight as (C_in, C_out / groups, k..)."""
    functions = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
    blocks = weight.unflatten(0, (groups, -1)).movedim(-1, 1)  # (G, C_in / G, C_out / G, k..)
    return functions[x.grid.ndim - 1](
        x.dense(),
        blocks.flatten(0, 1),
        None,
        tuple(stride),
        tuple(padding),
        tuple(output_padding),
        groups,
        tuple(dilation),
    )


def at_sites(dense: Tensor, grid: VoxelGrid) -> Tensor:
    """The values (N, C) of a dense tensor (B, C, S..) at a grid's sites."""
    return dense.movedim(1, -1)[tuple(grid.coords.long().unbind(1))]


def active_windows(
    x: SparseTensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Where a window holds a site, bool (B, S'..)."""
    ones = SparseTensor(torch.ones(len(x), 1, dtype=torch.float64), x.grid)
    weight = torch.ones(1, *kernel_size, 1, dtype=torch.float64)
    return dense_conv(ones, weight, stride, padding, dilation)[:, 0] > 0.5
