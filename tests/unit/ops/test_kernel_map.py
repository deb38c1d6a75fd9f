"""Kernel maps and output sites: reference against a loop over sites, native against reference, caching."""

from __future__ import annotations

import gc
import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.dense_oracle import active_windows, random_grid
from zoo.ops import KernelMap, SparseTensor, VoxelGrid, apply_kernel_map, build_kernel_map, downsample, sparse_conv
from zoo.ops.dispatch import REFERENCES
from zoo.ops.kernel_map import ConvGeometry, _conv_output_coords, _kernel_map, find_map, strided_grid, transposed_grid

GEOMETRIES = [
    ((7,), (3,), (1,), (1,), (1,)),
    ((9,), (4,), (3,), (2,), (2,)),
    ((6, 5), (3, 3), (1, 1), (1, 1), (1, 1)),
    ((7, 6), (2, 3), (2, 1), (0, 2), (1, 2)),
    ((5, 6, 4), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    ((5, 6, 7), (3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
    ((4, 6, 5), (2, 2, 2), (2, 2, 2), (0, 0, 0), (1, 1, 1)),
    ((6, 4, 5), (3, 1, 2), (2, 1, 3), (1, 0, 0), (2, 1, 1)),
    ((5, 5, 5), (5, 3, 3), (1, 1, 1), (2, 1, 1), (1, 1, 1)),
]


def loop_over_pairs(in_grid: VoxelGrid, out_grid: VoxelGrid, geometry: ConvGeometry) -> Iterator[tuple[int, int, int]]:
    """(offset, input row, output row) by the definition."""
    rows = {tuple(site): row for row, site in enumerate(in_grid.coords.tolist())}
    cells = itertools.product(*(range(size) for size in geometry.kernel_size))
    for number, cell in enumerate(cells):
        for out_row, (batch, *site) in enumerate(out_grid.coords.tolist()):
            zipped = zip(site, cell, geometry.stride, geometry.padding, geometry.dilation, strict=True)
            source = (batch, *(c * s - p + k * d for c, k, s, p, d in zipped))
            if source in rows:
                yield number, rows[source], out_row


def as_triples(kernel_map: KernelMap) -> list[tuple[int, int, int]]:
    offset = torch.repeat_interleave(torch.arange(kernel_map.volume), kernel_map.offsets.diff())
    return list(zip(offset.tolist(), kernel_map.pairs_in.tolist(), kernel_map.pairs_out.tolist(), strict=True))


@pytest.mark.parametrize("values", GEOMETRIES)
def test_maps_equal_a_loop_over_sites(values: tuple) -> None:
    shape, *geometry = values
    geometry = ConvGeometry(*geometry)
    grid = random_grid(shape, density=0.35)
    out_grid, kernel_map = strided_grid(grid, geometry)
    assert as_triples(kernel_map) == list(loop_over_pairs(grid, out_grid, geometry))
    active = active_windows(SparseTensor(torch.zeros(len(grid), 1), grid), *values[1:])
    assert torch.equal(out_grid.coords.long(), active.nonzero())
    assert kernel_map.pairs_in.dtype == kernel_map.pairs_out.dtype == torch.int32
    made, back = transposed_grid(grid, geometry, (0,) * len(shape))
    assert as_triples(back.swapped()) == list(loop_over_pairs(made, grid, geometry))
    assert set(back.pairs_out.tolist()) == set(range(len(made)))


@pytest.mark.parametrize("values", GEOMETRIES)
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_native_equals_reference(values: tuple, threads: int) -> None:
    shape, *geometry = values
    grid = random_grid(tuple(3 * size for size in shape), density=0.15)
    out_shape = ConvGeometry(*geometry).output_shape(grid.spatial_shape)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        arguments = (grid.coords, grid.spatial_shape, out_shape, 2, *geometry)
        for transposed in (False, True):
            expected = REFERENCES["conv_output_coords"](*arguments, transposed)
            assert torch.equal(_conv_output_coords(*arguments, transposed), expected)
        coords = _conv_output_coords(*arguments, False)
        for out_coords, target in ((coords, out_shape), (grid.coords, grid.spatial_shape)):
            arguments = (grid.coords, out_coords, grid.spatial_shape, target, 2, *geometry)
            for found, expected in zip(_kernel_map(*arguments), REFERENCES["kernel_map"](*arguments), strict=True):
                assert found.dtype == expected.dtype
                assert torch.equal(found, expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("rows", [[], [[0, 2, 3]], [[1, 0, 0]]])
def test_empty_and_single_sites(rows: list) -> None:
    grid = VoxelGrid(torch.tensor(rows, dtype=torch.int64).reshape(-1, 3), (4, 5), 3)
    for geometry in (ConvGeometry.submanifold(2, 3), ConvGeometry.of(2, 2, 2), ConvGeometry.of(2, 3, 2, 1)):
        out_grid, kernel_map = strided_grid(grid, geometry)
        assert as_triples(kernel_map) == list(loop_over_pairs(grid, out_grid, geometry))
        made, back = transposed_grid(grid, geometry, (0, 0))
        assert as_triples(back.swapped()) == list(loop_over_pairs(made, grid, geometry))


def test_explicit_grids_have_their_map_cached_while_they_live() -> None:
    grid, other = random_grid((6, 6), seed=1), random_grid((6, 6), seed=2)
    geometry = ConvGeometry.of(2, 3, padding=1)
    found = build_kernel_map(grid, other, 3, padding=1)
    assert as_triples(found) == list(loop_over_pairs(grid, other, geometry))
    assert find_map(grid, other, geometry) is found
    assert build_kernel_map(other, grid, 3, padding=1) is not found
    del other
    gc.collect()
    find_map(grid, random_grid((6, 6), seed=3), geometry)
    assert len(grid.maps.explicit[geometry]) <= 1


def test_explicit_grids_may_have_another_shape() -> None:
    grid, coarse = random_grid((7, 7)), random_grid((4, 3), seed=5)
    geometry = ConvGeometry.of(2, 3, 2, 1)
    found = build_kernel_map(grid, coarse, 3, stride=2, padding=1)
    assert as_triples(found) == list(loop_over_pairs(grid, coarse, geometry))


def test_downsample_keeps_every_site() -> None:
    grid = random_grid((7, 5), density=0.3)
    coarse = downsample(grid, (2, 3))
    assert coarse.spatial_shape == (4, 2)
    halves = grid.coords.clone()
    halves[:, 1:] //= torch.tensor([2, 3], dtype=torch.int32)
    assert torch.equal(coarse.coords, torch.unique(halves, dim=0))
    fine, kernel_map = coarse.paired_input()
    assert fine is grid
    assert kernel_map.num_pairs == len(grid)


def test_maps_enter_the_convolution() -> None:
    grid = random_grid((6, 6))
    features, weight = torch.randn(len(grid), 2), torch.randn(3, 2, 2, 2)
    out_grid, kernel_map = strided_grid(grid, ConvGeometry.of(2, 2, 2))
    out = apply_kernel_map(features, weight, kernel_map, len(out_grid))
    assert torch.equal(out, sparse_conv(SparseTensor(features, grid), weight, stride=2).features)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"kernel_size": 0}, "kernel_size"),
        ({"kernel_size": (3, 3, 3)}, "kernel_size: found 3 values"),
        ({"kernel_size": 3, "stride": 0}, "stride"),
        ({"kernel_size": 3, "padding": -1}, "padding"),
        ({"kernel_size": 3, "dilation": 0}, "dilation"),
    ],
)
def test_bad_geometry(arguments: dict, match: str) -> None:
    grid = random_grid((4, 4))
    with pytest.raises(ValueError, match=match):
        build_kernel_map(grid, grid, **arguments)


def test_bad_grids() -> None:
    grid = random_grid((4, 4))
    with pytest.raises(ValueError, match="out_grid: found batch_size 3"):
        build_kernel_map(grid, random_grid((4, 4), batch_size=3), 3)
    with pytest.raises(ValueError, match="out_grid: found batch_size 2 and 1 axes"):
        build_kernel_map(grid, random_grid((4,)), 3)
    with pytest.raises(ValueError, match="smaller than kernel"):
        strided_grid(grid, ConvGeometry.of(2, 5))
    with pytest.raises(ValueError, match="padding"):
        transposed_grid(grid, ConvGeometry.of(2, 3, padding=4), (0, 0))
    with pytest.raises(ValueError, match="odd sizes"):
        ConvGeometry.submanifold(2, (3, 2))


def test_shapes_equal_torch() -> None:
    for size, kernel, stride, padding, dilation in itertools.product((5, 8), (1, 2, 3), (1, 2, 3), (0, 1), (1, 2)):
        geometry = ConvGeometry((kernel,), (stride,), (padding,), (dilation,))
        dense: Tensor = torch.zeros(1, 1, size)
        conv = torch.nn.Conv1d(1, 1, kernel, stride, padding, dilation)
        assert geometry.output_shape((size,)) == conv(dense).shape[2:]
        for extra in range(min(stride, 2)):
            up = torch.nn.ConvTranspose1d(1, 1, kernel, stride, padding, extra, dilation=dilation)
            assert geometry.transposed_shape((size,), (extra,)) == up(dense).shape[2:]
    assert math.prod(ConvGeometry.of(3, 3).kernel_size) == 27
