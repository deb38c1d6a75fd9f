"""Random sites and their kernel maps, made by the references, for the tests of the sparse CUDA sources."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.ops.dispatch import REFERENCES
from zoo.ops.reference.grid_keys import unravel_keys

Geometry = tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int]]  # kernel, stride, padding, dilation
POINT: Geometry = ([1, 1, 1], [1, 1, 1], [0, 0, 0], [1, 1, 1])
SUBMANIFOLD: Geometry = ([3, 3, 3], [1, 1, 1], [1, 1, 1], [1, 1, 1])
STRIDED: Geometry = ([3, 2, 3], [2, 1, 2], [1, 0, 0], [1, 2, 1])
BATCH_SIZE = 2


def random_sites(count: int, shape: Sequence[int], seed: int = 0) -> Tensor:
    """Sorted distinct rows (count, 1 + D) of two samples, int32."""
    cells = BATCH_SIZE * math.prod(shape)
    keys = torch.randperm(cells, generator=torch.Generator().manual_seed(seed))[:count].sort()[0]
    return unravel_keys(keys, shape)


def output_shape(shape: Sequence[int], geometry: Geometry) -> list[int]:
    return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(shape, *geometry, strict=True)]


def output_sites(sites: Tensor, shape: Sequence[int], geometry: Geometry) -> Tensor:
    """The sites themselves for stride 1 and an unchanged shape, else all that a convolution reaches."""
    out_shape = output_shape(shape, geometry)
    if list(shape) == out_shape and set(geometry[1]) == {1}:
        return sites
    return REFERENCES["conv_output_coords"](sites, shape, out_shape, BATCH_SIZE, *geometry, False)


def random_map(count: int, shape: Sequence[int], geometry: Geometry) -> tuple[tuple[Tensor, Tensor, Tensor], int]:
    """A kernel map between random sites and the sites of its output, and the number of the latter."""
    sites = random_sites(count, shape)
    out = output_sites(sites, shape, geometry)
    shapes = shape, output_shape(shape, geometry)
    return REFERENCES["kernel_map"](sites, out, *shapes, BATCH_SIZE, *geometry), len(out)
