"""Voxel grids: canonical order, the caller's order, value checks, caches and their life."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import Tensor

from tests.dense_oracle import random_grid, random_weight
from zoo.ops import SparseTensor, VoxelGrid, downsample, sort_keys, sparse_conv, sparse_inverse_conv, subm_conv
from zoo.ops.dispatch import REFERENCES
from zoo.ops.grid_keys import linear_keys, unique_keys, unravel_keys

LIMIT = 2**31


def shuffled_rows() -> Tensor:
    rows = torch.tensor([[1, 0, 2], [0, 1, 1], [0, 0, 3], [1, 2, 0], [0, 1, 0]])
    return rows.to(torch.int32)


def test_rows_are_sorted_and_the_permutation_is_kept() -> None:
    rows = shuffled_rows()
    grid = VoxelGrid(rows, (3, 4), 2)
    assert grid.coords.tolist() == sorted(rows.tolist())
    assert grid.coords.dtype == torch.int32
    assert torch.equal(rows[grid.order], grid.coords)
    assert torch.equal(grid.coords[grid.inverse], rows)
    assert torch.equal(grid.to_caller_order(grid.coords), rows)
    assert torch.equal(grid.from_caller_order(rows), grid.coords)
    assert not grid.is_caller_order
    assert grid.sample_offsets.tolist() == [0, 3, 5]


def test_sorted_rows_are_taken_as_they_are() -> None:
    rows = VoxelGrid(shuffled_rows(), (3, 4), 2).coords
    grid = VoxelGrid(rows, (3, 4), 2)
    assert grid.is_caller_order
    assert grid.order.tolist() == grid.inverse.tolist() == list(range(5))
    values = torch.arange(5.0)
    assert grid.to_caller_order(values) is values


def test_rows_of_given_sites() -> None:
    grid = VoxelGrid(shuffled_rows(), (3, 4), 2)
    assert torch.equal(grid.rows_of(shuffled_rows()), grid.inverse)
    absent = torch.tensor([[0, 0, 0], [0, -1, 3], [0, 0, 4], [2, 0, 0], [-1, 0, 0], [0, 3, 0], [0, 0, -1]])
    assert grid.rows_of(absent).tolist() == [-1] * 7
    assert VoxelGrid(torch.zeros(0, 3, dtype=torch.int32), (3, 4), 2).rows_of(absent).tolist() == [-1] * 7


def test_unique_merges_repeated_rows() -> None:
    rows = shuffled_rows()[[0, 1, 0, 2, 1, 0]]
    grid, row = VoxelGrid.unique(rows, (3, 4), 2)
    assert torch.equal(grid.coords[row], rows)
    assert grid.num_sites == 3


def test_keys_round_trip_and_native_sort_equals_reference() -> None:
    grid = random_grid((5, 6, 7), seed=4)
    assert torch.equal(unravel_keys(linear_keys(grid.coords, (5, 6, 7)), (5, 6, 7)), grid.coords)
    generator = torch.Generator().manual_seed(0)
    for high in (3, 1000, 2**40, 2**62):
        for count in (0, 1, 2, 5000):
            keys = torch.randint(0, high, (count,), generator=generator)
            sorted_keys, order = sort_keys(keys)
            expected = REFERENCES["sort_keys"](keys)
            assert torch.equal(sorted_keys, expected[0])
            assert torch.equal(order, expected[1])
            distinct, rank, offsets = unique_keys(keys)
            assert torch.equal(distinct[rank], keys)
            assert torch.equal(offsets.diff(), torch.bincount(rank, minlength=len(distinct)))


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_sort_does_not_depend_on_threads(threads: int) -> None:
    keys = torch.randint(0, 2**40, (70_000,), generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        sorted_keys, order = sort_keys(keys)
    finally:
        torch.set_num_threads(before)
    expected = torch.sort(keys, stable=True)
    assert torch.equal(sorted_keys, expected[0])
    assert torch.equal(order, expected[1])


@pytest.mark.parametrize(
    ("rows", "shape", "batch_size", "match"),
    [
        ([[0, -1, 0]], (3, 4), 1, r"found \[0, -1, 0\] in row 0, expected 0 to 2 on axis 0"),
        ([[0, 0, 0], [0, 0, 4]], (3, 4), 1, r"found \[0, 0, 4\] in row 1, expected 0 to 3 on axis 1"),
        ([[1, 0, 0]], (3, 4), 1, r"batch index from 0 to 0 \(batch_size 1\)"),
        ([[-1, 0, 0]], (3, 4), 1, "batch index"),
        ([[0, 1, 1], [0, 0, 0], [0, 1, 1]], (3, 4), 1, r"found \[0, 1, 1\] in rows 0 and 2 \(1 repeated"),
        ([[0, LIMIT, 0]], (LIMIT, 4), 1, "axis 0"),
        ([[0, 1]], (3, 4), 1, r"coords: found shape \(1, 2\)"),
        ([[0, 1, 1]], (3, 0), 1, "spatial_shape"),
        ([[0, 1, 1]], (LIMIT + 1, 4), 1, "spatial_shape"),
        ([[0, 1, 1, 1, 1]], (3, 3, 3, 3), 1, "1 to 3 axes"),
        ([[0, 1, 1]], (3, 4), -1, "batch_size"),
        ([[0, 1, 1, 1]], (LIMIT, LIMIT, 2), 2, r"expected at most 2\^63"),
    ],
)
def test_bad_values_are_named(rows: list, shape: tuple, batch_size: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        VoxelGrid(torch.tensor(rows), shape, batch_size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16, torch.bool])
def test_wrong_dtype(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="coords: found dtype"):
        VoxelGrid(torch.zeros(1, 3).to(dtype), (3, 4), 1)


def test_coordinates_at_the_int32_limit() -> None:
    """Neighbours of the last cell would overflow int32; they lie outside, and are not wrapped to the first."""
    top = LIMIT - 1
    rows = torch.tensor([[0, top, top], [0, 0, 0], [0, top - 1, top], [0, top, top - 2]])
    grid = VoxelGrid(rows, (LIMIT, LIMIT), 1)
    assert torch.equal(grid.to_caller_order(grid.coords).long(), rows)
    x = SparseTensor(torch.ones(4, 1), grid)
    out = subm_conv(x, torch.ones(1, 3, 3, 1)).to_caller_order()
    assert out.flatten().tolist() == [2.0, 1.0, 2.0, 1.0]
    wide = subm_conv(x, torch.ones(1, 3, 3, 1), dilation=2).to_caller_order()
    assert wide.flatten().tolist() == [2.0, 1.0, 1.0, 2.0]
    down = sparse_conv(x, torch.ones(1, 3, 3, 1), stride=2, padding=1)
    assert down.coords.long().tolist() == [[0, 0, 0], [0, top // 2, top // 2 - 1], [0, top // 2, top // 2]]
    assert int(down.coords.min()) >= 0
    back = sparse_inverse_conv(down, torch.ones(1, 3, 3, 1))
    assert back.grid is grid
    assert downsample(grid, 2).coords.tolist() == [[0, 0, 0], [0, top // 2, top // 2 - 1], [0, top // 2, top // 2]]


def test_maps_are_made_once_and_shared() -> None:
    grid = random_grid((6, 6))
    x = SparseTensor(torch.ones(len(grid), 1), grid)
    first = sparse_conv(x, torch.ones(1, 2, 2, 1), stride=2)
    second = sparse_conv(x, torch.zeros(4, 2, 2, 1), stride=2)
    assert first.grid is second.grid
    subm_conv(x, torch.ones(1, 3, 3, 1))
    subm_conv(x, torch.zeros(1, 3, 3, 1))
    assert len(grid.maps.submanifold) == 1
    assert downsample(grid, 2) is downsample(grid, 2)


def test_maps_die_with_their_grid_without_the_cycle_collector() -> None:
    gc.disable()
    try:
        grid = random_grid((6, 6))
        x = SparseTensor(torch.ones(len(grid), 1), grid)
        down = sparse_conv(subm_conv(x, torch.ones(1, 3, 3, 1)), torch.ones(1, 2, 2, 1), stride=2)
        watched = [weakref.ref(grid), weakref.ref(down.grid), weakref.ref(next(iter(grid.maps.submanifold.values())))]
        del x, grid, down
        assert [item() for item in watched] == [None] * 3
    finally:
        gc.enable()


def test_inverse_convolution_finds_its_sites_after_the_fine_tensor_is_gone() -> None:
    weight = random_weight(1, (2, 2), 1)
    x = SparseTensor(torch.randn(len(random_grid((6, 6))), 1, dtype=torch.float64), random_grid((6, 6)))
    coords, order = x.coords.clone(), x.grid.order.clone()
    expected = sparse_inverse_conv(sparse_conv(x, weight, stride=2), weight).features
    x = sparse_conv(sparse_conv(x, weight, stride=2), weight, stride=2)
    gc.collect()
    x = sparse_inverse_conv(sparse_inverse_conv(x, weight), weight)
    assert torch.equal(x.coords, coords)
    assert torch.equal(x.grid.order, order)
    assert expected.shape == x.features.shape


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda grid: pickle.loads(pickle.dumps(grid))])
def test_copies_have_the_sites_and_not_the_maps(copier) -> None:
    grid = random_grid((6, 6))
    x = SparseTensor(torch.ones(len(grid), 1), grid)
    down = sparse_conv(subm_conv(x, torch.ones(1, 3, 3, 1)), torch.ones(1, 2, 2, 1), stride=2)
    twin = copier(grid)
    assert torch.equal(twin.coords, grid.coords)
    assert torch.equal(twin.order, grid.order)
    assert grid.same_sites(twin)
    assert not twin.maps.submanifold
    assert not twin.maps.strided
    with pytest.raises(ValueError, match="no strided layer"):
        copier(down.grid).paired_input()


def test_moving_to_the_same_device_keeps_the_grid() -> None:
    grid = random_grid((3, 3))
    assert grid.to("cpu") is grid
    assert grid.to("meta").coords.is_meta


def test_empty_grid() -> None:
    grid = VoxelGrid(torch.zeros(0, 3, dtype=torch.int64), (3, 4), 2)
    assert len(grid) == 0
    assert bool(grid)
    assert grid.sample_offsets.tolist() == [0, 0, 0]
    assert downsample(grid, 2).num_sites == 0
    none = VoxelGrid(torch.zeros(0, 3, dtype=torch.int64), (3, 4), 0)
    assert none.sample_offsets.tolist() == [0]


def test_changing_the_order_is_differentiable() -> None:
    grid = random_grid((4, 4))
    values = torch.randn(len(grid), 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(grid.to_caller_order, (values,))
    assert torch.autograd.gradgradcheck(grid.from_caller_order, (values,))
    assert torch.equal(grid.to_caller_order(grid.from_caller_order(values)), values)
