"""Ray ops of the CUDA sources on the fibre emulator against the references."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.emulation import emulated_ops
from tests.unit.ops.ray_cases import generator, nested_grid, random_packing, random_rays, random_samples
from zoo.ops import dispatch

floating = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
PACKINGS = {
    "no rays": torch.empty(0, 2, dtype=torch.int64),
    "no samples": random_packing(5, 0),
    "short rays": random_packing(21, 9),
    "rays of several warps": random_packing(6, 150, seed=4),
}
packings = pytest.mark.parametrize("info", PACKINGS.values(), ids=PACKINGS.keys())


def check(name, *arguments, rtol=1e-5, atol=1e-6):
    found = getattr(emulated_ops(), name)(*arguments)
    torch.testing.assert_close(found, dispatch.REFERENCES[name](*arguments), rtol=rtol, atol=atol)


@floating
@packings
def test_packed_scans(info, dtype):
    total, gen = int(info[:, 1].sum()), generator(7)
    x = 0.9 + 0.2 * torch.rand(total, generator=gen, dtype=dtype)
    grad = torch.randn(total, generator=gen, dtype=dtype)
    for exclusive in (False, True):
        for reverse in (False, True):
            check("packed_sum", x, info, exclusive, reverse)
        check("packed_prod", x, info, exclusive)
        check("packed_prod_backward", grad, x, info, exclusive, rtol=1e-4, atol=1e-4)


@floating
def test_packed_products_with_zero_factors(dtype):
    info = random_packing(10, 40, seed=2)
    gen = generator(7)
    x = torch.rand(int(info[:, 1].sum()), generator=gen, dtype=dtype) + 0.5
    x[torch.rand(len(x), generator=gen) < 0.1] = 0.0
    grad = torch.randn(len(x), generator=gen, dtype=dtype)
    for exclusive in (False, True):
        check("packed_prod_backward", grad, x, info, exclusive, rtol=1e-4, atol=1e-4)


@floating
@packings
def test_compositing(info, dtype):
    starts, ends, sigmas, colors = random_samples(info, dtype)
    check("render_rays", starts, ends, sigmas, colors, info, 0.1, rtol=1e-4, atol=1e-5)
    outputs = dispatch.REFERENCES["render_rays"](starts, ends, sigmas, colors, info, 0.1)
    gen = generator(9)
    grads = [torch.randn(x.shape, generator=gen, dtype=dtype) for x in outputs[:4]]
    for given in (grads, [grads[0], None, None, None]):
        check("render_rays_backward", *given, starts, ends, colors, *outputs[3:], info, rtol=1e-4, atol=1e-5)


@floating
@packings
def test_segments_and_importance_sampling(info, dtype):
    total, gen = int(info[:, 1].sum()), generator(7)
    rows = torch.randn(total, 3, generator=gen, dtype=dtype)
    check("segment_total", rows, info, atol=1e-5)
    check("segment_spread", torch.randn(len(info), 3, generator=gen, dtype=dtype), info, total)
    check("segment_extreme", rows, info, True)
    edges, cdfs = (torch.rand(total, generator=gen, dtype=dtype).cumsum(0) for _ in range(2))
    check("importance_sample", edges, cdfs, info, 5, torch.rand(len(info), generator=gen, dtype=dtype), atol=1e-4)
    values = torch.rand(30 if total else 0, generator=gen, dtype=dtype)
    rays = torch.randint(max(len(info), 1), values.shape, generator=gen)
    check("interval_search", edges, info, values, rays)


@floating
@pytest.mark.parametrize(("step", "cone", "limit"), [(0.07, 0.0, -1), (0.05, 0.03, 6), (-1.0, 0.0, -1)])
def test_marching(step, cone, limit, dtype):
    rays_o, rays_d = random_rays(60, dtype)
    binaries, aabbs = nested_grid(2)
    near, far = torch.rand(60, generator=generator(1), dtype=dtype), torch.full((60,), 3.0, dtype=dtype)
    walk = (rays_o, rays_d, binaries, aabbs.to(dtype), near, far, step, cone, limit)
    check("march_count", *walk)
    counts = dispatch.REFERENCES["march_count"](*walk)
    info = torch.stack([counts.cumsum(0) - counts, counts], -1)
    check("march_fill", *walk, info, int(counts.sum()), atol=1e-5)
    check("ray_aabb_intersect", rays_o, rays_d, aabbs.to(dtype), 0.1, 5.0, 1e10)


def test_wrong_packings_do_not_reach_outside():
    ops, x = emulated_ops(), torch.ones(8)
    for wrong in ([[0, 100]], [[-4, 6]], [[6, 4]], [[2**62, 2**62]]):
        info = torch.tensor(wrong)
        ops.packed_sum(x, info, False, False)
        ops.segment_total(x[:, None], info)
        ops.render_rays(x, x, x, x[:, None], info, 0.0)
