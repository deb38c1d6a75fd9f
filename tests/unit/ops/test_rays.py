"""Ray-box tests and marching: brute force, native against reference, threads, odd inputs, errors."""

from __future__ import annotations

import math

import pytest
import torch

from tests.unit.ops.op_harness import assert_native_matches_reference, assert_same_for_all_threads
from tests.unit.ops.ray_cases import nested_grid, random_rays
from zoo.ops import march_rays, ray_aabb_intersect

MODES = {"lattice": (0.07, 0.0), "cone": (0.05, 0.03), "cells": (-1.0, 0.0)}


def brute_force_lattice(origin, direction, binaries, aabbs, near, far, step):
    """Every step of the lattice, one by one: its midpoint decides."""
    levels, resolution = len(aabbs), torch.tensor(binaries.shape[1:])
    taken = []
    for k in range(math.ceil(20 / step)):
        t = near + (k + 0.5) * step
        point = origin + t * direction
        for level in range(levels):
            low, high = aabbs[level, :3].double(), aabbs[level, 3:].double()
            unit = (point - low) / (high - low)
            if bool(((unit > 0) & (unit < 1)).all()):
                cell = (unit * resolution).long().minimum(resolution - 1)
                if bool(binaries[level][tuple(cell)]) and t < far:
                    taken.append((near + k * step, near + (k + 1) * step))
                break
    return taken


@pytest.mark.parametrize("levels", [1, 3])
def test_lattice_equals_brute_force(levels):
    rays_o, rays_d = random_rays(24, torch.float64)
    binaries, aabbs = nested_grid(levels)
    near, far = torch.linspace(0, 1, 24, dtype=torch.float64), torch.linspace(8, 2, 24, dtype=torch.float64)
    samples = march_rays(rays_o, rays_d, binaries, aabbs, near_planes=near, far_planes=far, step_size=0.07)
    for ray in range(24):
        expected = brute_force_lattice(
            rays_o[ray], rays_d[ray], binaries, aabbs, float(near[ray]), float(far[ray]), 0.07
        )
        start, count = samples.packed_info[ray].tolist()
        assert count == len(expected)
        if expected:
            found = torch.stack([samples.t_starts, samples.t_ends], -1)[start : start + count]
            torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("limit", [-1, 5])
@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_native_equals_reference(dtype, mode, levels, limit):
    rays_o, rays_d = random_rays(200, dtype)
    binaries, aabbs = nested_grid(levels)
    near, far = torch.rand(200, dtype=dtype), torch.full((200,), 3.0, dtype=dtype)
    walk = (rays_o, rays_d, binaries, aabbs.to(dtype), near, far, *MODES[mode], limit)
    assert_native_matches_reference("march_count", *walk)
    assert_native_matches_reference("march_rays", *walk, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_results_do_not_depend_on_threads(mode):
    rays_o, rays_d = random_rays(2000)
    binaries, aabbs = nested_grid(2)
    step, cone = MODES[mode]
    assert_same_for_all_threads(lambda: march_rays(rays_o, rays_d, binaries, aabbs, step_size=step, cone_angle=cone))
    assert_same_for_all_threads(lambda: ray_aabb_intersect(rays_o, rays_d, aabbs))


@pytest.mark.parametrize("mode", MODES)
def test_samples_are_ordered_and_disjoint_along_each_ray(mode):
    rays_o, rays_d = random_rays(300)
    step, cone = MODES[mode]
    samples = march_rays(rays_o, rays_d, *nested_grid(2), step_size=step, cone_angle=cone)
    assert bool((samples.t_ends > samples.t_starts).all())
    same_ray = samples.ray_indices[1:] == samples.ray_indices[:-1]
    assert bool((samples.t_starts[1:] >= samples.t_ends[:-1])[same_ray].all())
    counts = torch.bincount(samples.ray_indices, minlength=300)
    assert torch.equal(samples.packed_info[:, 1], counts)
    assert torch.equal(samples.packed_info[:, 0], counts.cumsum(0) - counts)


@pytest.mark.parametrize("mode", ["lattice", "cone"])
def test_marching_on_from_where_a_limit_stopped_it_takes_the_rest(mode):
    rays_o, rays_d = random_rays(60, torch.float64)
    grid, (step, cone) = nested_grid(2), MODES[mode]
    options = {"step_size": step, "cone_angle": cone}
    whole = march_rays(rays_o, rays_d, *grid, **options)
    first = march_rays(rays_o, rays_d, *grid, max_samples_per_ray=4, **options)
    rest = march_rays(rays_o, rays_d, *grid, near_planes=first.terminations, **options)
    assert int(first.packed_info[:, 1].max()) == 4
    rays = torch.cat([first.ray_indices, rest.ray_indices])
    order = torch.argsort(rays, stable=True)
    assert torch.equal(rays[order], whole.ray_indices)
    torch.testing.assert_close(torch.cat([first.t_starts, rest.t_starts])[order], whole.t_starts, rtol=0, atol=1e-9)


def test_jitter_shifts_the_lattice_by_a_part_of_a_step():
    rays_o, rays_d = torch.tensor([[-3.0, 0.1, 0.1]]), torch.tensor([[1.0, 0.0, 0.0]])
    grid = (torch.ones(1, 4, 4, 4, dtype=torch.bool), torch.tensor([[-1.0, -1, -1, 1, 1, 1]]))
    plain = march_rays(rays_o, rays_d, *grid, step_size=0.25)
    shifted = march_rays(rays_o, rays_d, *grid, step_size=0.25, jitter=torch.tensor([0.25]))
    torch.testing.assert_close(shifted.t_starts, plain.t_starts + 0.0625)


def test_directions_of_another_length_scale_the_units_of_t():
    rays_o, rays_d = random_rays(50, torch.float64)
    grid = nested_grid(1)
    unit = march_rays(rays_o, rays_d, *grid, step_size=0.1)
    double = march_rays(rays_o, 2 * rays_d, *grid, step_size=0.05)
    assert torch.equal(unit.ray_indices, double.ray_indices)
    torch.testing.assert_close(unit.t_starts, 2 * double.t_starts)


def test_non_contiguous_rays():
    rays_o, rays_d = random_rays(20)
    grid = nested_grid(1)
    columns = [x.T.contiguous().T for x in (rays_o, rays_d)]
    expected, found = march_rays(rays_o, rays_d, *grid, step_size=0.1), march_rays(*columns, *grid, step_size=0.1)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_no_rays_misses_and_empty_grids_give_no_samples(mode):
    step, cone = MODES[mode]
    binaries, aabbs = nested_grid(2)
    options = {"step_size": step, "cone_angle": cone}
    none = march_rays(torch.empty(0, 3), torch.empty(0, 3), binaries, aabbs, **options)
    assert none.packed_info.shape == (0, 2)
    assert none.t_starts.shape == none.ray_indices.shape == (0,)
    rays_o, rays_d = torch.full((3, 3), 9.0), torch.tensor([[1.0, 0.0, 0.0], [math.nan] * 3, [0.0, 0.0, 0.0]])
    assert march_rays(rays_o, rays_d, binaries, aabbs, **options).packed_info.tolist() == [[0, 0]] * 3
    rays_o, rays_d = random_rays(10)
    assert len(march_rays(rays_o, rays_d, torch.zeros_like(binaries), aabbs, **options).t_starts) == 0
    assert len(march_rays(rays_o, rays_d, binaries, aabbs, near_planes=5.0, far_planes=4.0, **options).t_starts) == 0


def test_a_step_below_the_precision_of_t_ends_the_ray():
    rays_o, rays_d = torch.tensor([[-1e6, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    grid = (torch.ones(1, 1, 1, 1, dtype=torch.bool), torch.tensor([[-1.0, -1, -1, 1, 1, 1]]))
    samples = march_rays(rays_o, rays_d, *grid, near_planes=1e6 - 1, step_size=1e-3, cone_angle=1e-12)
    assert len(samples.t_starts) == 0


def test_box_hits_of_parallel_and_touching_rays():
    box = torch.tensor([[-1.0, -1, -1, 1, 1, 1]])
    origins = torch.tensor([[-2.0, 0, 0], [-2.0, 1, 0], [-2.0, 1.5, 0], [0.0, 0, 0], [2.0, 0, 0]])
    directions = torch.tensor([[1.0, 0.0, -0.0]]).expand(5, 3)
    t_mins, t_maxs, hits = ray_aabb_intersect(origins, directions, box)
    assert hits[:, 0].tolist() == [True, True, False, True, False]
    assert t_mins[:, 0].tolist() == [1.0, 1.0, math.inf, -1.0, math.inf]
    assert t_maxs[:, 0].tolist() == [3.0, 3.0, math.inf, 1.0, math.inf]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_box_hits_native_equals_reference(dtype):
    rays_o, rays_d = random_rays(300, dtype)
    boxes = torch.cat([nested_grid(3)[1], torch.tensor([[0.1, 0.1, 0.1, 0.5, 0.6, 0.7]])]).to(dtype)
    for planes in ((-math.inf, math.inf, math.inf), (0.5, 3.0, 1e10)):
        assert_native_matches_reference("ray_aabb_intersect", rays_o, rays_d, boxes, *planes)


def test_opcheck():
    rays_o, rays_d = random_rays(4)
    binaries, aabbs = nested_grid(2)
    walk = (rays_o, rays_d, binaries, aabbs, torch.zeros(4), torch.full((4,), 9.0), 0.2, 0.0, -1)
    samples = march_rays(rays_o, rays_d, binaries, aabbs, step_size=0.2)
    torch.library.opcheck(torch.ops.zoo.march_count, walk)
    torch.library.opcheck(torch.ops.zoo.march_fill, (*walk, samples.packed_info, len(samples.t_starts)))
    torch.library.opcheck(torch.ops.zoo.march_rays, walk)
    torch.library.opcheck(torch.ops.zoo.ray_aabb_intersect, (rays_o, rays_d, aabbs, 0.0, 9.0, 1e10))


def test_marching_inside_a_compiled_graph():
    rays_o, rays_d = random_rays(30)
    binaries, aabbs = nested_grid(1)

    def middles(origins, directions):
        samples = march_rays(origins, directions, binaries, aabbs, step_size=0.1)
        return (samples.t_starts + samples.t_ends) / 2, samples.packed_info

    march_rays(rays_o, rays_d, binaries, aabbs)  # loads the kernels
    compiled = torch.compile(middles, backend="aot_eager", fullgraph=True)
    assert all(torch.equal(a, b) for a, b in zip(compiled(rays_o, rays_d), middles(rays_o, rays_d), strict=True))


def bad(**changes):
    rays_o, rays_d = random_rays(4)
    binaries, aabbs = nested_grid(1)
    return {"rays_o": rays_o, "rays_d": rays_d, "binaries": binaries, "aabbs": aabbs} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rays_o": torch.zeros(4, 2)}, r"rays_o: found shape \(4, 2\), expected \(n_rays, 3\)"),
        ({"rays_d": torch.zeros(3, 3)}, r"rays_d: found shape \(3, 3\), expected \(4, 3\)"),
        ({"rays_d": torch.zeros(4, 3, dtype=torch.float64)}, "rays_d: found dtype"),
        ({"rays_o": torch.zeros(4, 3, dtype=torch.int64)}, "rays_o: found dtype int64"),
        ({"binaries": torch.zeros(1, 2, 2, 2)}, "binaries: found dtype float32, expected bool"),
        ({"binaries": torch.zeros(9, 2, 2, 2, dtype=torch.bool)}, "binaries: found shape .* expected 1 to 8 levels"),
        ({"binaries": torch.zeros(2, 2, 2, 2, dtype=torch.bool)}, r"aabbs: found shape \(1, 6\), expected \(2, 6\)"),
        ({"near_planes": torch.zeros(4, 1)}, r"near_planes: found shape \(4, 1\), expected \(4,\); drop the last axis"),
        ({"far_planes": torch.zeros(3)}, "far_planes: found shape"),
        ({"jitter": torch.zeros(4, 1)}, "jitter: found shape"),
        ({"step_size": math.nan}, "step_size: found nan"),
        ({"cone_angle": -1.0}, "cone_angle: found -1.0"),
        ({"max_samples_per_ray": 0}, "max_samples_per_ray: found 0"),
        ({"binaries": torch.ones(1, 1, 1, 1, dtype=torch.bool), "step_size": 1e-12}, "samples, expected at most"),
    ],
)
def test_bad_inputs_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        march_rays(**bad(**changes))


def test_values_are_checked_on_demand(monkeypatch):
    monkeypatch.setenv("ZOO_CHECK", "1")
    with pytest.raises(ValueError, match="rays_o: found 3 values that are NaN"):
        march_rays(**bad(rays_o=torch.tensor([[math.nan] * 3] + [[0.0] * 3] * 3)))
    with pytest.raises(ValueError, match=r"aabbs: .* expected min < max"):
        march_rays(**bad(aabbs=torch.ones(1, 6)))
