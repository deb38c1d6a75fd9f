"""What pictures of Gaussians keep whatever the scene: order of rows, placement of the world, cameras by themselves."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.ops.test_gaussians import SIZE, scene
from zoo.ops import intersect_gaussian_tiles, project_gaussians, rasterize_gaussians, render_gaussians
from zoo.ops.reference.gaussian_projection import rotations

counts = st.integers(0, 12)
seeds = st.integers(0, 1000)


def render(values: list[Tensor], **options):
    return render_gaussians(*values, *SIZE, **{"sh_degree": 1, "with_depth": True} | options)


def turned(values: list[Tensor], quat: Tensor, shift: Tensor) -> list[Tensor]:
    """The scene and its cameras after a rigid motion of the world; colours without direction."""
    means, quats, scales, opacities, coeffs, views, intrinsics = values
    rotation = rotations(quat[None])[0]
    w, x, y, z = quat / quat.norm()
    left = torch.stack(
        [torch.stack(row) for row in ((w, -x, -y, -z), (x, w, -z, y), (y, z, w, -x), (z, -y, x, w))]
    )  # q -> quat q
    motion = torch.eye(4, dtype=means.dtype)
    motion[:3, :3], motion[:3, 3] = rotation, shift
    moved = means @ rotation.T + shift
    return [moved, quats @ left.T, scales, opacities, coeffs, views @ torch.linalg.inv(motion), intrinsics]


@given(counts, seeds)
def test_order_of_rows_does_not_show(count, seed):
    values = scene(count, seed=seed)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    leaves = [value.clone().requires_grad_() for value in values[:5]]
    first = render([*leaves, *values[5:]])
    second = render([value[order] for value in values[:5]] + values[5:])
    assert torch.equal(first.colors, second.colors)
    assert torch.equal(first.alphas, second.alphas)
    assert torch.equal(first.projected.radii[:, order], second.projected.radii)


@given(counts, seeds)
def test_placement_of_the_world_does_not_show(count, seed):
    values = scene(count, cameras=2, dtype=torch.float64, coefficients=1, seed=seed)
    g = torch.Generator().manual_seed(seed)
    quat, shift = torch.randn(4, generator=g, dtype=torch.float64), torch.randn(3, generator=g, dtype=torch.float64)
    first, second = (
        project_gaussians(*moved[:3], *moved[5:], *SIZE) for moved in (values, turned(values, quat, shift))
    )
    seen = (first.radii > 0).all(-1) & (second.radii > 0).all(-1)
    for name in ("means2d", "depths", "conics"):
        torch.testing.assert_close(getattr(first, name)[seen], getattr(second, name)[seen], rtol=1e-6, atol=1e-8)
    assert int(((first.radii > 0).all(-1) != (second.radii > 0).all(-1)).sum()) == 0


@given(counts, seeds, st.floats(0.1, 10.0))
def test_length_of_quaternions_and_their_sign_do_not_show(count, seed, length):
    values = scene(count, dtype=torch.float64, seed=seed)
    expected = render(values).colors
    torch.testing.assert_close(render([values[0], -length * values[1], *values[2:]]).colors, expected)


@given(counts, seeds)
def test_each_camera_is_alone(count, seed):
    values = scene(count, cameras=3, seed=seed)
    together = render(values)
    for camera in range(3):
        alone = render([*values[:5], *(value[[camera]] for value in values[5:])])
        assert torch.equal(alone.colors[0], together.colors[camera])
        assert torch.equal(alone.alphas[0], together.alphas[camera])


@given(counts, seeds, st.integers(-3, 3), st.integers(-3, 3))
def test_whole_pixels_shift_the_picture(count, seed, right, down):
    values = scene(count, dtype=torch.float64, seed=seed)
    found = project_gaussians(*values[:3], *values[5:], *SIZE)
    colors, opacities = values[4][None, :, 0].contiguous(), values[3][None]

    def picture(means2d: Tensor) -> Tensor:
        tiles = intersect_gaussian_tiles(means2d, found.radii, found.depths, *SIZE)
        return rasterize_gaussians(means2d, found.conics, colors, opacities, tiles).colors[0]

    first = picture(found.means2d)
    second = picture(found.means2d + torch.tensor([right, down], dtype=torch.float64))
    inner = second[3 + down : SIZE[1] - 3 + down, 3 + right : SIZE[0] - 3 + right]
    torch.testing.assert_close(inner, first[3:-3, 3:-3], rtol=1e-9, atol=1e-9)


@given(counts, seeds)
def test_ranges_and_what_stands_behind_all(count, seed):
    values = scene(count, dtype=torch.float64, seed=seed)
    black, white = (render(values, backgrounds=torch.full((1, 3), shade, dtype=torch.float64)) for shade in (0.0, 1.0))
    assert float(black.alphas.min()) >= 0
    assert float(black.alphas.max()) < 1
    torch.testing.assert_close(white.colors - black.colors, (1 - black.alphas)[..., None].expand_as(white.colors))
    wall = [torch.tensor([[0.0, 0.0, 60.0]]), torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), 40.0), torch.ones(1)]
    coeffs = torch.zeros(1, 4, 3)
    more = [torch.cat((a, b.to(a))) for a, b in zip(values[:5], [*wall, coeffs], strict=True)]
    behind = render(more + values[5:])
    assert bool((behind.alphas >= black.alphas - 1e-12).all())


@given(seeds)
def test_empty_scenes_show_the_background(seed):
    values = scene(0, cameras=2, seed=seed)
    background = torch.rand(2, 3, generator=torch.Generator().manual_seed(seed))
    found = render(values, backgrounds=background)
    assert torch.equal(found.colors, background[:, None, None].expand_as(found.colors))
    assert found.depths is not None
    assert not bool(found.depths.any())
    assert math.isclose(float(found.expected_depths().abs().max()), 0.0)
