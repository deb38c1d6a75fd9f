"""Pooling: a loop over windows as oracle, signs, NaN, ties, gradients, threads, empty input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.dense_oracle import random_grid, random_sparse
from zoo.ops import SparseTensor, VoxelGrid, global_avg_pool, global_max_pool, sparse_avg_pool, sparse_max_pool
from zoo.ops.dispatch import REFERENCES
from zoo.ops.kernel_map import ConvGeometry, strided_grid
from zoo.ops.sparse_pool import (
    _sparse_avg_pool,
    _sparse_avg_pool_backward,
    _sparse_max_pool,
    _sparse_max_pool_backward,
)

GEOMETRIES = [((2, 2), (2, 2), (0, 0), (1, 1)), ((3, 2), (2, 1), (1, 0), (1, 2)), ((3, 3), (1, 1), (1, 1), (1, 1))]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_windows_equal_a_loop(geometry: tuple) -> None:
    x = random_sparse((7, 6), 3, density=0.3)
    kernel, stride, padding, dilation = geometry
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    largest, mean = sparse_max_pool(x, kernel, **options), sparse_avg_pool(x, kernel, **options)
    assert largest.grid is mean.grid
    for row, (batch, *cell) in enumerate(largest.coords.tolist()):
        inside = []
        for source, (other, *site) in enumerate(x.coords.tolist()):
            steps = [s - c * t + p for s, c, t, p in zip(site, cell, stride, padding, strict=True)]
            if other == batch and all(
                s % d == 0 and 0 <= s // d < k for s, d, k in zip(steps, dilation, kernel, strict=True)
            ):
                inside.append(x.features[source])
        torch.testing.assert_close(largest.features[row], torch.stack(inside).amax(0))
        torch.testing.assert_close(mean.features[row], torch.stack(inside).mean(0))


def test_the_maximum_is_over_active_sites_only() -> None:
    x = SparseTensor.from_coords(torch.tensor([[-3.0], [-1.0]]), torch.tensor([[0, 0], [0, 1]]), (4,), 1)
    assert sparse_max_pool(x, 2).features.tolist() == [[-1.0]]


def test_nan_wins_and_ties_go_to_the_first() -> None:
    features = torch.tensor([[1.0, 2.0], [torch.nan, 2.0], [5.0, 2.0]], requires_grad=True)
    x = SparseTensor(features, VoxelGrid(torch.tensor([[0, 0], [0, 1], [0, 2]]), (3,), 1))
    out = sparse_max_pool(x, 3).features
    assert bool(out[0, 0].isnan())
    out[0, 1].backward()
    assert features.grad.tolist() == [[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("pool", [sparse_max_pool, sparse_avg_pool])
def test_given_sites(pool) -> None:
    x = SparseTensor(torch.tensor([[-2.0]]), VoxelGrid(torch.tensor([[0, 0]]), (8,), 1))
    sites = VoxelGrid(torch.tensor([[0, 0], [0, 3]]), (4,), 1)
    assert pool(x, 2, out_grid=sites).features.tolist() == [[-2.0], [0.0]]


def run_ops(dtype: torch.dtype, ops: list) -> list[Tensor]:
    grid = random_grid((9, 8, 7), density=0.3)
    out_grid, kernel_map = strided_grid(grid, ConvGeometry.of(3, 3, 2, 1))
    pairs = kernel_map.pairs_in, kernel_map.pairs_out, kernel_map.offsets
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(len(grid), 5, generator=generator, dtype=torch.float64).to(dtype)
    grad = torch.randn(len(out_grid), 5, generator=generator, dtype=torch.float64).to(dtype)
    largest, argmax = ops[0](features, *pairs, len(out_grid))
    return [
        largest,
        argmax,
        ops[1](grad, argmax, len(grid)),
        ops[2](features, *pairs, len(out_grid)),
        ops[3](grad, *pairs, len(grid)),
    ]


NATIVE = [_sparse_max_pool, _sparse_max_pool_backward, _sparse_avg_pool, _sparse_avg_pool_backward]
NAMES = ["sparse_max_pool", "sparse_max_pool_backward", "sparse_avg_pool", "sparse_avg_pool_backward"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_native_equals_reference_for_any_number_of_threads(dtype: torch.dtype) -> None:
    expected = run_ops(dtype, [REFERENCES[name] for name in NAMES])
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(run_ops(dtype, NATIVE))
    finally:
        torch.set_num_threads(before)
    for found in results:
        assert all(torch.equal(a, b) for a, b in zip(results[0], found, strict=True))
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-6
    for found, wanted in zip(results[0], expected, strict=True):
        assert found.dtype == wanted.dtype
        torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("pool", [sparse_max_pool, sparse_avg_pool])
def test_gradcheck(pool) -> None:
    x = random_sparse((5, 5), 2)
    assert torch.autograd.gradcheck(
        lambda f: pool(SparseTensor(f, x.grid), 3, stride=2, padding=1).features, (x.features.requires_grad_(),)
    )


@pytest.mark.parametrize("pool", [global_avg_pool, global_max_pool])
def test_global_pools(pool) -> None:
    rows = torch.tensor([[0, 1, 1], [2, 0, 0], [2, 1, 0], [2, 1, 1]])
    grid = VoxelGrid(rows, (2, 2), 4)
    features = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    out = pool(SparseTensor(features, grid))
    whole = features[1:].mean(0) if pool is global_avg_pool else features[1:].amax(0)
    torch.testing.assert_close(out, torch.stack([features[0], 0 * whole, whole, 0 * whole]))
    assert torch.autograd.gradcheck(lambda f: pool(SparseTensor(f, grid)), (features,))


@pytest.mark.parametrize("rows", [[], [[1, 2, 2]]])
def test_empty_batch_and_empty_samples(rows: list) -> None:
    grid = VoxelGrid(torch.tensor(rows, dtype=torch.int64).reshape(-1, 3), (4, 4), 3)
    for pool in (sparse_max_pool, sparse_avg_pool):
        features = torch.randn(len(grid), 2, requires_grad=True)
        y = pool(SparseTensor(features, grid), 2)
        (global_avg_pool(y).sum() + global_max_pool(y).sum()).backward()
        assert features.grad.shape == features.shape


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name: str) -> None:
    grid = random_grid((5, 4))
    out_grid, kernel_map = strided_grid(grid, ConvGeometry.of(2, 2, 2))
    pairs = kernel_map.pairs_in, kernel_map.pairs_out, kernel_map.offsets
    features = torch.randn(len(grid), 3, requires_grad=True)
    grad = torch.randn(len(out_grid), 3)
    arguments = {
        "sparse_max_pool": (features, *pairs, len(out_grid)),
        "sparse_max_pool_backward": (grad, torch.zeros(grad.shape, dtype=torch.int32), len(grid)),
        "sparse_avg_pool": (features, *pairs, len(out_grid)),
        "sparse_avg_pool_backward": (grad, *pairs, len(grid)),
    }
    torch.library.opcheck(getattr(torch.ops.zoo, name).default, arguments[name])
