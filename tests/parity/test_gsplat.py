"""Golden cases of Gaussian splatting: projection, colours, rendering, densification and files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.parity.cases import Case, assert_close, assert_close_to_peak, dispatch, find_cases
from zoo.data.formats.gaussian_ply import (
    GaussianParameters,
    read_gaussian_ply,
    read_splat,
    write_gaussian_ply,
    write_splat,
)
from zoo.models.gaussians.densification import DefaultDensification, relocation
from zoo.models.gaussians.parameters import GaussianRows
from zoo.ops import GaussianRules, gaussian_colors, gaussian_covariances, project_gaussians, render_gaussians

DTYPES = (torch.float64, torch.float32)
CASES = find_cases("gsplat")


def _leaf(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype).clone().requires_grad_()


def _intrinsics(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.stack([matrices[:, 0, 0], matrices[:, 1, 1], matrices[:, 0, 2], matrices[:, 1, 2]], -1).to(dtype)


def _check_projection(case: Case) -> None:
    assert case.meta["tolerance"]["float32"].startswith("outputs rel 1e-4")
    for dtype in DTYPES:
        means, quats, scales, views = (
            _leaf(case[f"input/{k}"], dtype) for k in ("means", "quats", "scales", "viewmats")
        )
        config = case.config
        found = project_gaussians(
            means, quats, scales, views, _intrinsics(case["input/Ks"], dtype), config["width"], config["height"],
            camera_model=config["camera_model"], far_plane=config["far_plane"],
            rules=GaussianRules(near_plane=config["near_plane"], blur=config["eps2d"]),
        )  # fmt: skip
        assert torch.equal(found.radii.long(), case["output/radii"])
        xx, xy, yy = found.covariances.unbind(-1)
        matrices = torch.stack([torch.stack([xx, xy], -1), torch.stack([xy, yy], -1)], -2)
        covariances = gaussian_covariances(quats, scales)
        rotation = views[:, None, :3, :3]
        outputs = {
            "means2d": found.means2d, "depths": found.depths, "conics": found.conics, "cov2d_no_blur": matrices,
            "compensations": found.compensations, "covars": covariances,
            "precis": gaussian_covariances(quats, 1 / scales),
            "covars_triu": covariances.reshape(-1, 9)[:, [0, 1, 2, 4, 5, 8]],
            "means_cam": torch.einsum("cij,nj->cni", views[:, :3, :3], means) + views[:, None, :3, 3],
            "covars_cam": rotation @ covariances @ rotation.transpose(-1, -2),
        }  # fmt: skip
        visible = found.radii[..., 0] > 0
        for name, value in outputs.items():
            expected = case[f"output/{name}"]
            if name == "cov2d_no_blur":
                value, expected = value[visible], expected[visible]
            assert_close_to_peak(value, expected, rtol=1e-3 if name == "precis" else 1e-4, what=f"{name} {dtype}")
        loss = sum(
            (outputs[key.removeprefix("cotangent_")] * case[f"input/{key}"].to(dtype)).sum()
            for key in case.group("input")
            if key.startswith("cotangent_")
        )
        grads = torch.autograd.grad(loss, (means, quats, scales, views))
        for name, grad in zip(("means", "quats", "scales", "viewmats"), grads, strict=True):
            assert_close_to_peak(grad, case[f"grad/{name}"], rtol=1e-3, what=f"grad {name} {dtype}")


def _check_sh(case: Case) -> None:
    assert case.meta["tolerance"]["float32"] == "abs 1e-5, grads abs 1e-4"
    degrees = sorted(int(key.removeprefix("color_deg")) for key in case.group("output") if key.startswith("color_deg"))
    for dtype in DTYPES:
        for degree in degrees:
            directions, coeffs = _leaf(case["input/dirs"], dtype), _leaf(case["input/coeffs"], dtype)
            color = gaussian_colors(directions, coeffs, directions.new_zeros(1, 3), degree, rectify=False)[0]
            assert_close(color, case[f"output/color_deg{degree}"], atol=1e-5, what=f"degree {degree}")
            loss = (color * case["input/cotangent"].to(dtype)).sum()
            grads = torch.autograd.grad(loss, (directions, coeffs))
            assert_close(grads[0], case[f"grad/dirs_deg{degree}"], atol=1e-4, what=f"directions, degree {degree}")
            assert_close(grads[1], case[f"grad/coeffs_deg{degree}"], atol=1e-4, what=f"coefficients, degree {degree}")
        count = case["output/bases_deg4"].shape[1]
        basis = []
        for k in range(count):
            one = torch.zeros(len(case["input/dirs"]), count, 3, dtype=dtype)
            one[:, k] = 1
            points = case["input/dirs"].to(dtype)
            basis.append(gaussian_colors(points, one, points.new_zeros(1, 3), 4, rectify=False)[0, :, 0])
        assert_close(torch.stack(basis, -1), case["output/bases_deg4"], atol=1e-5, what="basis")


def _render(case: Case, dtype: torch.dtype):
    config = case.config
    names = ["means", "quats", "scales", "opacities", "sh", "viewmats"]
    leaves = {name: _leaf(case[f"input/{name}"], dtype) for name in names}
    background = None
    if "input/backgrounds" in case:
        background = leaves["backgrounds"] = _leaf(case["input/backgrounds"], dtype)
    numerator, denominator = config["alpha_min"].split("/")
    found = render_gaussians(
        *(leaves[name] for name in names), _intrinsics(case["input/Ks"], dtype), config["width"], config["height"],
        sh_degree=config["sh_degree"], backgrounds=background, with_depth=True, tile_size=config["tile_size"],
        antialiased=config["rasterize_mode"] == "antialiased", far_plane=config["far_plane"],
        rules=GaussianRules(
            near_plane=config["near_plane"], blur=config["eps2d"], max_alpha=config["max_alpha"],
            min_alpha=int(numerator) / int(denominator), stop=config["transmittance_stop"],
        ),
    )  # fmt: skip
    return leaves, found


def _check_render(case: Case) -> None:
    config, tolerance = case.config, case.meta["tolerance"]
    assert tolerance["float64 implementation"] == "outputs abs 1e-5 / grads rel 1e-5 of the max entry"
    assert tolerance["float32 implementation"].startswith("rgb, alphas abs 2e-5; depth abs 1e-4; grads: max abs diff")
    for dtype in DTYPES:
        exact = dtype == torch.float64
        leaves, found = _render(case, dtype)
        picture, depth, rtol = (1e-5, 1e-5, 1e-5) if exact else (2e-5, 1e-4, 1e-4)
        assert_close(found.colors, case["output/rgb"], atol=picture, what=f"rgb {dtype}")
        assert_close(found.alphas[..., None], case["output/alphas"], atol=picture, what=f"alphas {dtype}")
        assert_close(found.depths[..., None], case["output/depth_accum"], atol=depth, what=f"depth {dtype}")
        expected_depth = found.expected_depths()[..., None]
        assert_close(expected_depth, case["output/depth_expected"], atol=depth, what=f"expected depth {dtype}")
        for prefix, loss in (
            ("grad", (found.colors**2).sum() + (found.alphas**2).sum()),
            ("grad_depth", (found.depths**2).sum()),
        ):
            wanted = case.group(prefix)
            inputs = {**leaves, "means2d": found.projected.means2d}
            grads = torch.autograd.grad(loss, [inputs[name] for name in wanted], retain_graph=True)
            for name, grad in zip(wanted, grads, strict=True):
                value, expected = grad, wanted[name]
                if name == "viewmats":
                    value, expected = value[:, :3], expected[:, :3]
                assert_close_to_peak(value, expected, rtol=rtol, what=f"{prefix} {name} {dtype}")
        _check_intermediates(case, leaves, dtype, config)


def _check_intermediates(case: Case, leaves: dict[str, Tensor], dtype: torch.dtype, config: dict) -> None:
    from zoo.ops import intersect_gaussian_tiles

    found = project_gaussians(
        leaves["means"], leaves["quats"], leaves["scales"], leaves["viewmats"],
        _intrinsics(case["input/Ks"], dtype), config["width"], config["height"],
    )  # fmt: skip
    assert torch.equal(found.radii.long(), case["output/radii"])
    tiles = intersect_gaussian_tiles(
        found.means2d, found.radii, found.depths, config["width"], config["height"], tile_size=config["tile_size"]
    )
    assert torch.equal(tiles.tiles_per_gaussian.long(), case["output/tiles_per_gauss"])
    centers = torch.linalg.inv(leaves["viewmats"])[:, :3, 3]
    colors = gaussian_colors(leaves["means"], leaves["sh"], centers, config["sh_degree"], radii=found.radii)
    outputs = {"means2d": found.means2d, "depths": found.depths, "conics": found.conics, "sh_colors": colors}
    if "output/compensations" in case:
        outputs["compensations"] = found.compensations
    for name, value in outputs.items():
        if dtype == torch.float64:
            assert_close(value, case[f"output/{name}"], atol=1e-5, what=name)


def _check_densification(case: Case) -> None:
    assert case.meta["tolerance"]["float32"] == "abs 1e-5"
    config = case.config
    names = ("means", "scales", "quats", "opacities", "sh0", "shN")
    rows = GaussianRows({name: case[f"input/{name}"].clone() for name in names})
    moments = {name: torch.ones_like(case[f"input/{name}"]) for name in names}
    rule = DefaultDensification(
        grow_gradient=config["grow_grad2d"], grow_scale=config["grow_scale3d"], split_radius=config["grow_scale2d"],
        prune_opacity=config["prune_opa"], prune_scale=config["prune_scale3d"], prune_radius=config["prune_scale2d"],
        reset_every=config["reset_every"], radius_until=config["refine_scale2d_stop_iter"],
        revised_opacity=config["revised_opacity"],
    )  # fmt: skip
    radii = case.tensors.get("input/state_radii")
    statistics = (case["input/state_grad2d"], case["input/state_count"], radii)
    duplicated, split = rule.choose(rows, *statistics, scene_scale=config["scene_scale"], step=config["step"])
    assert torch.equal(duplicated.long(), case["output/is_dupli"])
    assert torch.equal(split.long(), case["output/is_split"])
    change = rule.grow(rows, duplicated, split, case["input/split_noise"])
    for name in names:
        assert_close(change.rows[name], case[f"output/after_grow_{name}"], atol=1e-5, what=name)
    grown_moments = change.carry(_first_moments(case, moments))
    for name in ("means", "opacities"):
        assert_close(grown_moments[name], case[f"output/after_grow_exp_avg_{name}"], atol=1e-5, what=f"moment {name}")
    radii = None if radii is None else change.carry({"radii": radii}, inherit=True)["radii"]
    pruned = rule.prunable(change.rows, radii, scene_scale=config["scene_scale"], step=config["step"])
    kept = change.rows.select(~pruned)
    for name in names:
        assert_close(kept[name], case[f"output/after_prune_{name}"], atol=1e-5, what=name)
    counts = [int(duplicated.sum()), int(split.sum()), int(pruned.sum()), len(kept)]
    assert counts == case["output/counts"].tolist()
    assert_close(rule.reset(kept["opacities"]), case["output/opacities_after_reset"], atol=1e-5, what="reset")


def _first_moments(case: Case, fallback: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adam's first moments before growing, as far as the case tells them: rows that were kept carry theirs on."""
    split, moments = case["output/is_split"].bool(), dict(fallback)
    for name in ("means", "opacities"):
        after = case[f"output/after_grow_exp_avg_{name}"]
        moment = torch.full_like(case[f"input/{name}"], torch.nan)
        moment[~split] = after[: int((~split).sum())]
        moments[name] = moment
    return moments


def _check_relocation(case: Case) -> None:
    assert case.meta["tolerance"]["float32"] == "rel 1e-3"
    for dtype in DTYPES:
        opacities, scales = case["input/opacities"].to(dtype), case["input/scales"].to(dtype)
        found = relocation(opacities, scales, case["input/ratios"], most=case.config["n_max"])
        for name, value in zip(("new_opacities", "new_scales"), found, strict=True):
            assert_close(value, case[f"output/{name}"], rtol=1e-3, what=name)


def _check_files(case: Case, tmp_path) -> None:
    assert case.meta["tolerance"]["ply"] == "exact float32"
    state = GaussianParameters(**case.group("state"))
    ply, splat = case.path.with_suffix(".ply"), case.path.with_suffix(".splat")
    read = read_gaussian_ply(ply)
    for name, value in case.group("state").items():
        assert torch.equal(getattr(read, name), value), name
    write_gaussian_ply(tmp_path / "a.ply", state)
    assert (tmp_path / "a.ply").read_bytes() == ply.read_bytes()
    write_splat(tmp_path / "a.splat", state)
    assert (tmp_path / "a.splat").read_bytes() == splat.read_bytes()
    assert len(read_splat(splat).means) == len(state.means)
    assert np.fromfile(splat, np.uint8).size == 32 * len(state.means)


@pytest.mark.parametrize("case", CASES)
def test_case(case, tmp_path):
    handlers = {
        "projection_pinhole": _check_projection,
        "projection_ortho": _check_projection,
        "sh_eval": _check_sh,
        "render": _check_render,
        "densify_default": _check_densification,
        "mcmc_relocation": _check_relocation,
        "ply_export": lambda found: _check_files(found, tmp_path),
    }
    dispatch(case, handlers)


@pytest.mark.parametrize("case", [c for c in CASES if str(c.id).startswith("render")])
def test_pictures_are_bitwise_equal_for_all_threads(case):
    from tests.unit.ops.op_harness import assert_same_for_all_threads

    def run() -> list[Tensor]:
        leaves, found = _render(case, torch.float32)
        loss = (found.colors**2).sum(dim=-1).double()  # the sum is torch's own
        return [found.colors, found.alphas, *torch.autograd.grad(loss, list(leaves.values()), torch.ones_like(loss))]

    assert_same_for_all_threads(run)
