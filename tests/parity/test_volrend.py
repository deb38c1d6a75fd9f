"""Golden cases of ray traversal, packed scans, volume rendering, the occupancy grid, proposal sampling and cameras."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.parity import volrend_cameras
from tests.parity.cases import assert_close, dispatch, find_cases, require_keys
from zoo.losses.proposal import pdf_loss
from zoo.ops import (
    compositing,
    importance_sampling,
    packed,
    rays,
    searchsorted,
    segment,
    transform_stot,
)
from zoo.ops import volume_rendering as volrend

RENDERED = {"atol": 2e-5}
GRADIENT = {"atol": 1e-4, "rtol": 1e-4}


def leaf(tensor):
    return tensor.clone().requires_grad_()


def check_outputs(case, names, values):
    """Outputs named like the golden ones, within the tolerance of outputs."""
    for name, value in zip(names, values, strict=True):
        assert_close(value, case[f"output/{name}"], **RENDERED, what=name)


def render_inputs(case):
    """Sample tensors, and the packing or None for batched cases."""
    info = case.tensors.get("input/packed_info")
    return info, *(case[f"input/{name}"] for name in ("t_starts", "t_ends", "sigmas", "rgbs"))


def render_loss(case, colors, opacities, depths, batched):
    loss = (colors * case["input/grad_colors"]).sum() + (opacities * case["input/grad_opacities"]).sum()
    first = 2 if batched else 0  # the batched cases leave the depth of their two degenerate rays out
    return loss + 0.1 * (depths * case["input/grad_depths"])[first:].sum()


def composed(case, info, t_starts, t_ends, sigmas, rgbs, background):
    """Rendering put together from weights and sums."""
    ids = case.tensors.get("input/ray_indices")
    n_rays = len(case["output/colors"])
    weights, trans, alphas = volrend.render_weights_from_density(t_starts, t_ends, sigmas, info)
    check_outputs(case, ("weights", "trans", "alphas"), (weights, trans, alphas))
    middles = ((t_starts + t_ends) / 2)[..., None]
    colors, opacities, depths = (
        volrend.accumulate_along_rays(weights, values, ids, n_rays) for values in (rgbs, None, middles)
    )
    depths = depths / opacities.clamp_min(torch.finfo(depths.dtype).eps)
    return colors + background * (1 - opacities), opacities, depths, weights


def check_render(case):
    info, t_starts, t_ends, sigmas, rgbs = render_inputs(case)
    background = case["input/bkgd"]
    for fused in (True, False):
        density, color = leaf(sigmas), leaf(rgbs)
        if fused:
            out = compositing.render_rays(t_starts, t_ends, density, color, info, background=background)
            assert_close(out.weights, case["output/weights"], **RENDERED, what="weights")
        else:
            out = composed(case, info, t_starts, t_ends, density, color, background)
        colors, opacities, depths = out[:3]
        check_outputs(case, ("colors", "opacities", "depths"), (colors, opacities, depths))
        loss = render_loss(case, colors, opacities, depths, batched=info is None)
        if "input/features" in case:
            features = leaf(case["input/features"])
            summed = volrend.accumulate_along_rays(out[3], features, packed_info=info)
            assert_close(summed, case["output/feat_acc"], **RENDERED, what="feat_acc")
            loss = loss + (summed * case["input/grad_feat"]).sum()
        loss.backward()
        assert_close(density.grad, case["grad/sigmas"], **GRADIENT, what="grad sigmas")
        assert_close(color.grad, case["grad/rgbs"], **GRADIENT, what="grad rgbs")
        if "input/features" in case:
            assert_close(features.grad, case["grad/features"], **GRADIENT, what="grad features")
    check_alpha_path(case, info)
    return info, t_starts, t_ends, sigmas


def check_alpha_path(case, info):
    alphas = leaf(case["input/alphas2"])
    weights, trans = volrend.render_weights_from_alpha(alphas, info)
    check_outputs(case, ("weights2", "trans2"), (weights, trans))
    (weights * case["input/grad_weights2"]).sum().backward()
    assert_close(alphas.grad, case["grad/alphas2"], **GRADIENT, what="grad alphas2")


def packed_render(case):
    info, t_starts, t_ends, sigmas = check_render(case)
    assert torch.equal(packed.pack_info(case["input/ray_indices"], len(info)), info)
    visible = volrend.render_visibility_from_density(
        t_starts, t_ends, sigmas, info, early_stop_eps=0.1, alpha_thre=0.05
    )
    assert torch.equal(visible.long(), case["output/visibility"])


def dense_render(case):
    _, t_starts, t_ends, sigmas = check_render(case)
    visible = volrend.render_visibility_from_density(t_starts, t_ends, sigmas, early_stop_eps=0.05, alpha_thre=0.02)
    assert torch.equal(visible.long(), case["output/visibility"])
    weights, _, _ = volrend.render_weights_from_density(
        t_starts, t_ends, sigmas, prefix_trans=case["input/prefix_trans"]
    )
    assert_close(weights, case["output/weights_prefix"], **RENDERED, what="weights_prefix")


def packed_scans(case):
    info, ids = case["input/packed_info"], case["input/ray_indices"]
    for name in ("inclusive_sum", "exclusive_sum", "inclusive_prod", "exclusive_prod"):
        x = leaf(case[f"input/{name}/x"])
        y = getattr(packed, name)(x, info)
        y.backward(case[f"input/{name}/grad"])
        rtol = 1e-5 if name.endswith("prod") else 0.0
        assert_close(y, case[f"output/{name}/y"], atol=1e-5, rtol=rtol, what=name)
        assert_close(x.grad, case[f"grad/{name}/x"], **GRADIENT, what=f"grad {name}")
    order = case["input/seg/perm"]
    for reduction in ("sum", "mean", "max", "min"):
        reduce, expected = getattr(segment, f"segment_{reduction}"), case[f"output/seg/{reduction}"]
        values = case["input/seg/values"]
        assert_close(reduce(values, packed_info=info), expected, atol=1e-5, what=reduction)
        shuffled = reduce(values[order], ids[order], len(info))
        assert_close(shuffled, expected, atol=1e-5, what=f"{reduction}, unsorted")
    values = leaf(case["input/seg/values"])
    segment.segment_mean(values, ids, len(info)).backward(case["input/seg/grad_mean"])
    assert_close(values.grad, case["grad/seg/values"], **GRADIENT, what="grad seg/values")


def ray_aabb(case):
    rays_o, rays_d, aabbs = (case[f"input/{name}"] for name in ("rays_o", "rays_d", "aabbs"))
    config = case.config
    miss = config["miss_value"]
    for suffix, near, far in (
        ("", -torch.inf, torch.inf),
        ("_clipped", config["near_plane"], config["far_plane"]),
    ):
        t_mins, t_maxs, hits = rays.ray_aabb_intersect(rays_o, rays_d, aabbs, near, far, miss)
        assert torch.equal(hits.long(), case[f"output/hits{suffix}"])
        for name, value in (("t_mins", t_mins), ("t_maxs", t_maxs)):
            assert_close(value, case[f"output/{name}{suffix}"], atol=1e-5, rtol=1e-5, what=name + suffix)


def traverse(case):
    limit = case.config["traverse_steps_limit"]
    samples = rays.march_rays(
        case["input/rays_o"],
        case["input/rays_d"],
        case["input/binaries"].bool(),
        case["input/aabbs"],
        near_planes=case["input/near_planes"],
        far_planes=case["input/far_planes"],
        step_size=case.config["step_size"],
        cone_angle=case.config["cone_angle"],
        max_samples_per_ray=limit if limit > 0 else None,
    )
    assert torch.equal(samples.packed_info, case["output/packed_info"])
    for prefix in ("", "upstream_"):
        assert torch.equal(samples.ray_indices, case["output/ray_indices"])
        assert_close(samples.t_starts, case[f"output/{prefix}t_starts"], atol=2e-4, what=f"{prefix}t_starts")
        assert_close(samples.t_ends, case[f"output/{prefix}t_ends"], atol=2e-4, what=f"{prefix}t_ends")
    taken = samples.packed_info[:, 1] > 0
    assert_close(samples.terminations[taken], case["output/upstream_terminate"][taken], atol=2e-4, what="terminations")


def prop_sampling(case):
    edges, cdfs = case["input/edges"], leaf(case["input/cdfs"])
    config = case.config
    new_edges, samples = importance_sampling(edges, cdfs.detach(), config["n_intervals"])
    assert_close(samples, case["output/samples"], atol=1e-5, what="samples")
    assert_close(new_edges, case["output/new_edges"], atol=1e-5, what="new_edges")
    query = case["output/new_edges"]
    left, right = searchsorted(edges, query)
    clear = (edges[:, None, :] - query[:, :, None]).abs().amin(-1) > 1e-6
    for name, found in (("ids_left", left), ("ids_right", right)):
        assert torch.equal(found[clear], case[f"output/{name}"][clear]), name
    loss = pdf_loss(query, case["input/cdfs_query"], edges, cdfs)
    assert_close(loss, case["output/pdf_loss"], atol=1e-5, what="pdf_loss")
    loss.mean().backward()
    assert_close(cdfs.grad, case["grad/cdfs"], rtol=1e-3, atol=1e-12, what="grad cdfs")
    for spacing in ("lindisp", "uniform"):
        t = transform_stot(spacing, query, config["near"], config["far"])
        assert_close(t, case[f"output/t_{spacing}"], atol=1e-5, what=spacing)


def occupancies_after(case, steps):
    """The occupancy behind each update.

    Upstream updates its buffer in place. Where the recorder kept the buffer itself, every step shows the last one's
    values (and contradicts its own binaries); the true ones are then what the next update began with.
    """
    after = {step: case[f"output/{step}/occs_after"] for step in steps}
    if len(steps) > 1 and all(torch.equal(value, after[steps[-1]]) for value in after.values()):
        for step, following in itertools.pairwise(steps):
            after[step] = case[f"input/{following}/occs_before"]
    return after


def occgrid_update(case):
    from zoo.models.layers.occupancy_grid import OccupancyGrid

    config = case.config
    grid = OccupancyGrid(roi_aabb=config["roi_aabb"], resolution=config["resolution"], levels=config["levels"])
    steps = {key.split("/")[1] for key in case.tensors if key.startswith("input/step")}
    steps = sorted(steps, key=lambda step: int(step.removeprefix("step")))
    require_keys(case, [f"output/{step}/occs_after" for step in steps])
    expected_after = occupancies_after(case, steps)
    for step in steps:
        grid.occs.copy_(case[f"input/{step}/occs_before"])
        ids, values = case[f"input/{step}/cell_ids"], case[f"input/{step}/occ_values"]
        grid.update_cells(ids, values, ema_decay=config["ema_decay"])
        once = torch.bincount(ids, minlength=len(grid.occs)) <= 1
        expected = expected_after[step]
        assert_close(grid.occs[once], expected[once], atol=1e-6, what=f"{step} occs_after")
        grid.occs.copy_(expected)
        grid.binarize(config["occ_thre"])
        assert torch.equal(grid.binaries.long(), case[f"output/{step}/binaries"]), step
    values, inside = grid.query(case["input/query_points"])
    assert_close(values, case["output/query_values"], atol=1e-6, what="query_values")
    assert torch.equal(inside.long(), case["output/query_inside"])


HANDLERS = {
    "packed_render": packed_render,
    "dense_render": dense_render,
    "packed_scans": packed_scans,
    "ray_aabb": ray_aabb,
    "traverse": traverse,
    "prop_sampling": prop_sampling,
    "occgrid_update": occgrid_update,
    "camera_conventions": volrend_cameras.camera_conventions,
    "colmap_model": volrend_cameras.colmap_model,
}


@pytest.mark.parametrize("case", find_cases("volrend"))
def test_case(case):
    dispatch(case, HANDLERS)
