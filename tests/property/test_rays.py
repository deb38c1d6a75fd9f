"""Properties of ray ops over random sizes."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.ops.ray_cases import generator, nested_grid, random_rays
from zoo.ops import exclusive_sum, inclusive_prod, inclusive_sum, march_rays, render_rays

counts = st.lists(st.integers(0, 7), min_size=0, max_size=12)
few = settings(max_examples=30, deadline=None, derandomize=True)


def packing(numbers):
    sizes = torch.tensor(numbers, dtype=torch.int64)
    return torch.stack([sizes.cumsum(0) - sizes, sizes], -1)


@few
@given(numbers=counts, seed=st.integers(0, 99))
def test_scans_restart_with_every_ray(numbers, seed):
    info = packing(numbers)
    x = torch.randn(sum(numbers), generator=generator(seed), dtype=torch.float64)
    parts = [x[a : a + n] for a, n in info.tolist()]
    for scan, expected in ((inclusive_sum, torch.cumsum), (inclusive_prod, torch.cumprod)):
        joined = torch.cat([expected(part, 0) for part in parts]) if parts else x
        torch.testing.assert_close(scan(x, info), joined)
    torch.testing.assert_close(exclusive_sum(x, info) + x, inclusive_sum(x, info))


@few
@given(numbers=counts, seed=st.integers(0, 99), eps=st.sampled_from([0.0, 0.1, 0.9]))
def test_weights_and_remaining_transmittance_add_up_to_one(numbers, seed, eps):
    info, gen = packing(numbers), generator(seed)
    starts = torch.rand(sum(numbers), generator=gen, dtype=torch.float64)
    widths, sigmas = (torch.rand(sum(numbers), generator=gen, dtype=torch.float64) * 3 for _ in range(2))
    out = render_rays(starts, starts + widths, sigmas, torch.ones(sum(numbers), 1).double(), info, early_stop_eps=eps)
    assert bool((out.weights >= 0).all())
    torch.testing.assert_close(out.colors, out.opacities)
    if eps == 0.0 and len(numbers):
        depth = torch.stack([(sigmas * widths)[a : a + n].sum() for a, n in info.tolist()])
        torch.testing.assert_close(1 - out.opacities[:, 0], torch.exp(-depth))


@few
@given(seed=st.integers(0, 99), levels=st.integers(1, 3), shape=st.tuples(*[st.integers(1, 9)] * 3))
def test_cell_intervals_tile_the_ray_inside_a_full_grid(seed, levels, shape):
    rays_o, rays_d = random_rays(12, torch.float64, seed)
    binaries, aabbs = nested_grid(levels, shape, share=1.1)
    samples = march_rays(rays_o, rays_d, binaries, aabbs, step_size=-1.0)
    whole = march_rays(rays_o, rays_d, torch.ones(1, 1, 1, 1, dtype=torch.bool), aabbs[-1:], step_size=-1.0)
    length = torch.zeros(12, dtype=torch.float64).index_add(0, samples.ray_indices, samples.t_ends - samples.t_starts)
    expected = torch.zeros(12, dtype=torch.float64).index_add(0, whole.ray_indices, whole.t_ends - whole.t_starts)
    torch.testing.assert_close(length, expected, rtol=0, atol=1e-9)


@few
@given(seed=st.integers(0, 99), levels=st.integers(1, 3), step=st.floats(0.03, 0.5))
def test_more_occupied_cells_never_lose_a_lattice_sample(seed, levels, step):
    rays_o, rays_d = random_rays(12, torch.float64, seed)
    binaries, aabbs = nested_grid(levels, seed=seed)
    some = march_rays(rays_o, rays_d, binaries, aabbs, step_size=step)
    full = march_rays(rays_o, rays_d, torch.ones_like(binaries), aabbs, step_size=step)
    keys = {(int(r), round(float(t) / step)) for r, t in zip(full.ray_indices, full.t_starts, strict=True)}
    assert all((int(r), round(float(t) / step)) in keys for r, t in zip(some.ray_indices, some.t_starts, strict=True))
