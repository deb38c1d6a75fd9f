"""The Gaussian ops against their references, brute force and finite differences, and what they do with bad input."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from tests.unit.ops.op_harness import assert_native_matches_reference, assert_same_for_all_threads
from zoo.ops import (
    GAUSSIAN_RULES,
    GaussianRules,
    gaussian_colors,
    intersect_gaussian_tiles,
    project_gaussians,
    rasterize_gaussians,
    render_gaussians,
)

SIZE = (37, 21)


def scene(count: int, cameras: int = 1, dtype: torch.dtype = torch.float32, coefficients: int = 4, seed: int = 0):
    """Random Gaussians in front of (and some behind) random cameras."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    means = normal(count, 3) * torch.tensor([1.0, 0.7, 0.6]) + torch.tensor([0.0, 0.0, 3.0])
    scales = torch.exp(normal(count, 3) * 0.5 - 1.8)
    views = torch.eye(4, dtype=torch.float64).repeat(cameras, 1, 1)
    views[:, :3, 3] += 0.1 * normal(cameras, 3)
    intrinsics = torch.tensor([[30.0, 28.0, 19.0, 10.0]], dtype=torch.float64).repeat(cameras, 1)
    values = (
        means, normal(count, 4), scales, torch.sigmoid(normal(count) + 1), 0.4 * normal(count, coefficients, 3),
        views, intrinsics,
    )  # fmt: skip
    return [value.to(dtype) for value in values]


def op_arguments(count: int, cameras: int, dtype: torch.dtype, *, absolute: bool = False) -> dict[str, tuple]:
    """Arguments of every op, by name, on one scene."""
    means, quats, scales, opacities, coeffs, views, intrinsics = scene(count, cameras, dtype)
    g = torch.Generator().manual_seed(5)

    def like(value: Tensor) -> Tensor:
        return torch.randn(value.shape, generator=g, dtype=dtype)

    found = project_gaussians(means, quats, scales, views, intrinsics, *SIZE, opacities=opacities)
    tiles = intersect_gaussian_tiles(found.means2d, found.radii, found.depths, *SIZE)
    colors = gaussian_colors(means, coeffs, views[:, :3, 3], 1, radii=found.radii)
    seen = opacities.expand(cameras, -1).contiguous()
    background, rules = (
        like(colors[:, 0]) if count else torch.ones(cameras, 3, dtype=dtype),
        (0.99, 1 / 255, 1e-4, True),
    )
    inputs = (found.means2d, found.conics, colors, seen, background)
    lists = tiles[1:5]
    picture, through, last = torch.ops.zoo.rasterize_gaussians(*inputs, None, *lists, *SIZE, 16, *rules)
    projection = (means, quats, scales, views, intrinsics)
    return {
        "project_gaussians": (
            means, quats, scales, opacities, views, intrinsics, *SIZE, False, False, False, True, 0.3, 0.0, 0.01, 1e10,
        ),
        "project_gaussians_backward": (
            *(like(value) for value in found[1:]), *projection, found.radii, *SIZE, False, False, 0.3, 0.0, True,
        ),
        "gaussian_colors": (means, coeffs, views[:, :3, 3], found.radii, 1, True),
        "gaussian_colors_backward": (
            like(colors), colors, means, coeffs, views[:, :3, 3], found.radii, 1, True, True,
        ),
        "intersect_gaussian_tiles": (found.means2d, found.radii, found.depths, *SIZE, 16),
        "rasterize_gaussians": (*inputs, None, *lists, *SIZE, 16, *rules),
        "rasterize_gaussians_backward": (
            like(picture), like(through), *inputs, *lists, through, last, *SIZE, 16, *rules, absolute,
        ),
    }  # fmt: skip


OPS = (
    "project_gaussians",
    "project_gaussians_backward",
    "gaussian_colors",
    "gaussian_colors_backward",
    "intersect_gaussian_tiles",
    "rasterize_gaussians",
    "rasterize_gaussians_backward",
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 60])
def test_native_matches_reference(count, dtype):
    single = dtype == torch.float32
    for name, arguments in op_arguments(count, 2, dtype, absolute=True).items():
        tolerance = {"rtol": 2e-3, "atol": 2e-3} if single else {"rtol": 1e-9, "atol": 1e-9}
        assert_native_matches_reference(name, *arguments, **tolerance)


@pytest.mark.parametrize("name", OPS)
def test_opcheck(name):
    arguments = op_arguments(6, 1, torch.float64)[name]
    leaves = [
        value.requires_grad_()
        if isinstance(value, Tensor) and value.is_floating_point() and "backward" not in name
        else value
        for value in arguments
    ]
    utils = ("test_schema", "test_faketensor") if "backward" in name or "intersect" in name else None
    torch.library.opcheck(
        getattr(torch.ops.zoo, name).default, tuple(leaves), **({"test_utils": utils} if utils else {})
    )


@pytest.mark.parametrize("count", [1, 200])
def test_same_bits_for_all_threads(count):
    for name, arguments in op_arguments(count, 2, torch.float32, absolute=True).items():
        assert_same_for_all_threads(lambda name=name, arguments=arguments: getattr(torch.ops.zoo, name)(*arguments))


def brute_force(means, quats, scales, opacities, coeffs, views, intrinsics, rules: GaussianRules) -> Tensor:
    """Pixel by pixel and Gaussian by Gaussian in Python, first camera."""
    found = project_gaussians(means, quats, scales, views, intrinsics, *SIZE, rules=rules)
    colors = gaussian_colors(means, coeffs, torch.linalg.inv(views)[:, :3, 3], 1)[0]
    picture = torch.zeros(SIZE[1], SIZE[0], 3, dtype=means.dtype)
    order = [i for i in torch.argsort(found.depths[0], stable=True).tolist() if found.radii[0, i, 0] > 0]
    for row in range(SIZE[1]):
        for column in range(SIZE[0]):
            through = 1.0
            for i in order:
                dx, dy = (found.means2d[0, i] - torch.tensor([column + 0.5, row + 0.5])).tolist()
                a, b, c = found.conics[0, i].tolist()
                alpha = float(opacities[i]) * float(
                    torch.exp(torch.tensor(-(0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy)))
                )
                alpha = min(rules.max_alpha, alpha)
                if alpha < rules.min_alpha:
                    continue
                after = through * (1 - alpha)
                if after <= rules.stop if rules.stop_at_equal else after < rules.stop:
                    break
                picture[row, column] += through * alpha * colors[i]
                through = after
    return picture


@pytest.mark.parametrize("name", ["gsplat_1.5.3", "gsplat_main"])
def test_against_brute_force(name):
    values, rules = scene(25, dtype=torch.float64), GAUSSIAN_RULES[name]
    found = render_gaussians(*values, *SIZE, sh_degree=1, rules=rules).colors[0]
    torch.testing.assert_close(found, brute_force(*values, rules), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tile_size", [1, 5, 16, 20, 64])
def test_tiles_do_not_show(tile_size):
    values = scene(40)
    expected = render_gaussians(*values, *SIZE, sh_degree=1, with_depth=True)
    found = render_gaussians(*values, *SIZE, sh_degree=1, with_depth=True, tile_size=tile_size)
    torch.testing.assert_close(found.colors, expected.colors, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.depths, expected.depths, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("camera_model", ["pinhole", "ortho"])
def test_gradcheck(camera_model):
    values = scene(5, dtype=torch.float64, seed=3)
    values[2] = values[2] + 0.1
    leaves = [value.requires_grad_() for value in values[:6]]
    rules = GaussianRules(min_alpha=1e-12, max_alpha=0.99999, stop=1e-12)  # without steps

    def render(*parts: Tensor) -> Tensor:
        size = (6, 5)
        found = render_gaussians(
            *parts, values[6] * 0.2, *size, sh_degree=1, with_depth=True, antialiased=True, camera_model=camera_model,
            rules=rules, backgrounds=torch.ones(1, 3, dtype=torch.float64),
        )  # fmt: skip
        assert found.depths is not None
        return torch.cat((found.colors.flatten(), found.alphas.flatten(), found.depths.flatten()))

    assert torch.autograd.gradcheck(render, leaves, eps=1e-6, atol=1e-4, rtol=1e-3)


def test_absolute_gradients_bound_the_signed_ones():
    values = scene(30)
    sink = torch.zeros(1, 30, 2, requires_grad=True)
    leaf = values[0].requires_grad_()
    found = render_gaussians(leaf, *values[1:], *SIZE, sh_degree=1, absolute=sink)
    found.projected.means2d.retain_grad()
    found.colors.square().sum().backward()
    assert sink.grad is not None
    assert found.projected.means2d.grad is not None
    assert bool((sink.grad >= found.projected.means2d.grad.abs() * (1 - 1e-4) - 1e-6).all())


def test_rules_differ():
    values = scene(60)
    values[3] = torch.full_like(values[3], 0.9999)
    pictures = [render_gaussians(*values, *SIZE, sh_degree=1, rules=rules).colors for rules in GAUSSIAN_RULES.values()]
    assert not torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[1], pictures[2])


def test_broken_gaussians_are_left_out():
    values = scene(30)
    expected = render_gaussians(*(value[10:] for value in values[:5]), *values[5:], *SIZE, sh_degree=1).colors
    means, quats, scales, opacities = (value.clone() for value in values[:4])
    means[0], means[1, 2], quats[2], scales[3], means[4, 2] = torch.nan, torch.inf, 0, torch.nan, -1
    scales[5], opacities[6], opacities[7], means[8, 2], quats[9, 1] = torch.inf, 0, torch.nan, 0, torch.inf
    leaf = means.requires_grad_()
    found = render_gaussians(leaf, quats, scales, opacities, *values[4:], *SIZE, sh_degree=1)
    torch.testing.assert_close(found.colors, expected)
    found.colors.square().sum().backward()
    assert leaf.grad is not None
    assert bool(torch.isfinite(leaf.grad).all())


def test_zero_scales_draw_the_blur_only():
    values = scene(5)
    values[2] = torch.zeros_like(values[2]).requires_grad_()
    found = render_gaussians(*values, *SIZE, sh_degree=1)
    found.colors.sum().backward()
    assert float(found.alphas.detach().max()) > 0
    assert values[2].grad is not None
    assert bool(torch.isfinite(values[2].grad).all())


def test_one_pixel_no_gaussian_and_all_behind():
    values = scene(8)
    assert render_gaussians(*values, 1, 1, sh_degree=1).colors.shape == (1, 1, 1, 3)
    background = torch.tensor([[0.2, 0.3, 0.4]])
    empty = [value[:0] for value in values[:5]] + values[5:]
    behind = [values[0] * torch.tensor([1.0, 1.0, -1.0]), *values[1:]]
    for case in (empty, behind):
        found = render_gaussians(*case, *SIZE, sh_degree=1, backgrounds=background, with_depth=True)
        assert torch.equal(found.colors, background[:, None, None].expand_as(found.colors))
        assert float(found.alphas.max()) == 0


def test_wrong_arguments_are_refused():
    values = scene(4)
    with pytest.raises(ValueError, match="quats: found shape"):
        render_gaussians(values[0], values[1][:, :3], *values[2:], *SIZE)
    with pytest.raises(ValueError, match="scales: found dtype"):
        render_gaussians(values[0], values[1], values[2].double(), *values[3:], *SIZE)
    with pytest.raises(ValueError, match="degree: found 5"):
        render_gaussians(*values, *SIZE, sh_degree=5)
    with pytest.raises(ValueError, match="coeffs: found 4"):
        render_gaussians(*values, *SIZE, sh_degree=2)
    with pytest.raises(ValueError, match="width, height"):
        render_gaussians(*values, 0, 3)
    with pytest.raises(ValueError, match="camera_model"):
        render_gaussians(*values, *SIZE, camera_model="fisheye")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="intrinsics: found shape"):
        render_gaussians(*values[:6], torch.eye(3)[None], *SIZE)
    found = render_gaussians(*values, *SIZE)
    wrong = dataclasses.replace(GAUSSIAN_RULES["inria"])
    projected = found.projected
    with pytest.raises(ValueError, match="tiles: found lists of 4"):
        rasterize_gaussians(
            projected.means2d[:, :2],
            projected.conics[:, :2],
            torch.ones(1, 2, 3),
            torch.ones(1, 2),
            found.tiles,
            rules=wrong,
        )
