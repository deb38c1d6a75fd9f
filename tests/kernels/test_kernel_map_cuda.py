"""The CUDA sources of kernel maps, output sites, sorting and pooling on the fibre emulator against the references."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from tests.kernels.emulation import emulated_ops
from tests.kernels.sparse_maps import (
    BATCH_SIZE,
    POINT,
    STRIDED,
    SUBMANIFOLD,
    output_shape,
    output_sites,
    random_map,
    random_sites,
)
from zoo.ops import dispatch

SHAPE = (5, 6, 7)
LIMIT = 2**31  # cells on an axis
HALVED = ([2, 2, 2], [2, 2, 2], [0, 0, 0], [1, 1, 1])
geometries = pytest.mark.parametrize(
    "geometry", [POINT, SUBMANIFOLD, STRIDED, HALVED], ids=["point", "submanifold", "strided", "halved"]
)


def check_equal(name: str, *arguments) -> None:
    found, expected = getattr(emulated_ops(), name)(*arguments), dispatch.REFERENCES[name](*arguments)
    pairs = [(found, expected)] if isinstance(found, Tensor) else zip(found, expected, strict=True)
    for mine, wanted in pairs:
        assert mine.dtype == wanted.dtype, name
        assert torch.equal(mine, wanted), name


def check_maps(sites: Tensor, shape, geometry) -> None:
    out_shape = output_shape(shape, geometry)
    out = output_sites(sites, shape, geometry)
    check_equal("kernel_map", sites, out, shape, out_shape, BATCH_SIZE, *geometry)
    check_equal("conv_output_coords", sites, shape, out_shape, BATCH_SIZE, *geometry, False)
    zipped = zip(shape, *geometry, strict=True)
    wide = [min(max(1, (n - 1) * s - 2 * p + d * (k - 1) + 1), LIMIT) for n, k, s, p, d in zipped]
    check_equal("conv_output_coords", sites, shape, wide, BATCH_SIZE, *geometry, True)


@geometries
@pytest.mark.parametrize("count", [0, 1, 150])
@pytest.mark.parametrize("seed", ["1", "2"])
def test_maps(geometry, count, seed, monkeypatch):
    monkeypatch.setenv("ZOO_EMULATOR_SEED", seed)
    check_maps(random_sites(count, SHAPE), SHAPE, geometry)


@pytest.mark.parametrize("seed", range(12))
def test_maps_of_random_geometry(seed):
    draw = random.Random(seed)
    ndim = 1 + seed % 3
    kernel, stride = ([draw.randint(1, 4 if ndim < 3 else 3) for _ in range(ndim)] for _ in range(2))
    dilation = [draw.randint(1, 2) for _ in range(ndim)]
    padding = [draw.randint(0, d * (k - 1)) for k, d in zip(kernel, dilation, strict=True)]
    shape = [draw.randint(7, 11) for _ in range(ndim)]
    sites = random_sites(min(120, math.prod(shape)), shape, seed)
    check_maps(sites, shape, (kernel, stride, padding, dilation))


def test_sites_at_the_limits_of_keys():
    shape, top = (LIMIT, LIMIT), LIMIT - 1
    sites = torch.tensor([[0, 0, 0], [0, 5, top], [0, top, 0], [1, top, top]], dtype=torch.int32)
    check_maps(sites, shape, ([3, 3], [1, 1], [1, 1], [1, 1]))
    check_maps(sites, shape, ([2, 2], [2, 2], [0, 0], [1, 1]))


def test_more_sites_than_one_block_scans():
    check_maps(random_sites(1300, (14, 12, 11)), (14, 12, 11), SUBMANIFOLD)


def test_maps_to_other_sites():
    sites, others = random_sites(100, SHAPE), random_sites(60, (3, 6, 4), seed=1)
    for a, b, shapes in ((sites, others, (SHAPE, (3, 6, 4))), (others, sites, ((3, 6, 4), SHAPE))):
        check_equal("kernel_map", a, b, *shapes, BATCH_SIZE, *STRIDED)
    check_equal("kernel_map", sites, others[:0], SHAPE, (3, 6, 4), BATCH_SIZE, *STRIDED)


def test_axes_that_do_not_fit_are_refused():
    sites = random_sites(10, SHAPE)
    with pytest.raises(RuntimeError, match="kernel_map: coordinates, shapes and kernel"):
        emulated_ops().kernel_map(sites, sites, SHAPE[:2], SHAPE, BATCH_SIZE, *SUBMANIFOLD)


@pytest.mark.parametrize("count", [0, 1, 1500])
def test_sorting_is_stable(count):
    check_equal("sort_keys", torch.randint(0, 40, (count,), generator=torch.Generator().manual_seed(0)))


@geometries
@pytest.mark.parametrize("count", [0, 1, 90])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_pooling(geometry, count, dtype):
    pairs, num_out = random_map(count, SHAPE, geometry)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 5, generator=generator, dtype=torch.float64).mul(4).round().div(4).to(dtype)  # ties
    x[torch.rand(x.shape, generator=generator) < 0.05] = torch.nan
    grad = torch.randn(num_out + 3, 5, generator=generator, dtype=torch.float64).to(dtype)
    found = emulated_ops().sparse_max_pool(x, *pairs, num_out + 3)  # the last rows have no pairs
    out, argmax = dispatch.REFERENCES["sparse_max_pool"](x, *pairs, num_out + 3)
    assert torch.equal(found[1], argmax)
    torch.testing.assert_close(found[0], out, rtol=0, atol=0, equal_nan=True)
    for name, arguments in (
        ("sparse_max_pool_backward", (grad, argmax, count)),
        ("sparse_avg_pool", (x.nan_to_num(), *pairs, num_out + 3)),
        ("sparse_avg_pool_backward", (grad, *pairs, count)),
    ):
        result = getattr(emulated_ops(), name)(*arguments)
        torch.testing.assert_close(result, dispatch.REFERENCES[name](*arguments))


def test_wrong_maps_of_pools_do_not_reach_outside():
    ops, x = emulated_ops(), torch.ones(4, 3)
    for rows, offsets in (([0, 9, 3], [0, 2, 3]), ([-5, 1, 2], [0, 1, 3]), ([3, 1, 0], [-7, 2**40, 1])):
        pairs = torch.tensor(rows, dtype=torch.int32)
        for sides in ((pairs, pairs.clamp(0, 3)), (pairs.clamp(0, 3), pairs)):
            ops.sparse_max_pool(x, *sides, torch.tensor(offsets), 4)
            ops.sparse_avg_pool(x, *sides, torch.tensor(offsets), 4)
            ops.sparse_avg_pool_backward(x, *sides, torch.tensor(offsets), 4)
    ops.sparse_max_pool_backward(x, torch.full((4, 3), 7, dtype=torch.int32), 4)
