"""The group ``gaussians``: projecting, colouring, listing and compositing Gaussians, and a whole training step.

Gaussians lie in a box before the camera, as many as a trained scene has at this size of picture, with scales spread
log-normally. The peer composites all pixels and Gaussians of many tiles at once in plain torch (the project's
reference), and differentiates that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from zoo.benchmark.harness import Case, close
from zoo.losses.photometric import l1_dssim_loss
from zoo.ops import (
    GaussianTiles,
    ProjectedGaussians,
    gaussian_colors,
    intersect_gaussian_tiles,
    project_gaussians,
    rasterize_gaussians,
    render_gaussians,
)
from zoo.ops.reference import gaussian_rasterization as reference

Gaussians = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
RULES = (0.999, 1 / 255, 1e-4, True)
THREADS = 2


def scene(count: int, width: int, height: int, pixels: float, coefficients: int) -> tuple[Gaussians, Tensor, Tensor]:
    """Gaussians whose standard deviations are about ``pixels`` in the picture, a view matrix and intrinsics."""
    g = torch.Generator().manual_seed(0)
    depth = 2 + 6 * torch.rand(count, generator=g)
    focal = float(width)
    place = torch.rand(count, 2, generator=g) - 0.5
    means = torch.stack((place[:, 0] * depth, place[:, 1] * depth * height / width, depth), dim=-1)
    spread = torch.exp(0.5 * torch.randn(count, 3, generator=g))
    scales = spread * (pixels * depth / focal)[:, None]
    coeffs = 0.3 * torch.randn(count, coefficients, 3, generator=g)
    values = (means, torch.randn(count, 4, generator=g), scales, torch.rand(count, generator=g), coeffs)
    return values, torch.eye(4)[None], torch.tensor([[focal, focal, width / 2, height / 2]])


def evaluated_pairs(found: ProjectedGaussians, opacities: Tensor, tiles: GaussianTiles) -> int:
    """Pairs of a pixel and a Gaussian that contribute: alpha of at least 1/255 before the pixel is finished."""
    tiling = reference.Tiling(tiles.tile_offsets, tiles.ids, tiles.width, tiles.height, tiles.tile_size)
    flat = [value.reshape(-1, *value.shape[2:]) for value in (found.means2d, found.conics, opacities)]
    total = 0
    for chosen in reference.tile_batches(tiles.tile_offsets, tiles.tile_size**2):
        members, real = tiling.members(chosen)
        offsets = flat[0][members][:, None] - tiling.pixels(chosen)[:, :, None]
        counts = reference.contributors(offsets, flat[1][members], flat[2][members], real, RULES)[1]
        x, y = tiling.pixels(chosen).unbind(-1)
        inside = (x < tiles.width) & (y < tiles.height)
        total += int((counts & inside[..., None]).sum())
    return total


def cases() -> Iterator[Case]:
    """100,000 Gaussians at 800 x 600, and a training step of 3,400 at 706 x 532."""
    yield from _compositing(100_000, 800, 600)
    yield _training_step(3400, 706, 532)


def _compositing(count: int, width: int, height: int) -> Iterator[Case]:
    (means, quats, scales, opacities, coeffs), view, intrinsics = scene(count, width, height, 2.5, 16)

    def prepare() -> tuple[ProjectedGaussians, Tensor, GaussianTiles]:
        found = project_gaussians(means, quats, scales, view, intrinsics, width, height, opacities=opacities)
        colors = gaussian_colors(means, coeffs, torch.zeros(1, 3), 3, radii=found.radii)
        return found, colors, intersect_gaussian_tiles(found.means2d, found.radii, found.depths, width, height)

    found, colors, tiles = prepare()
    lengths = (tiles.tile_offsets[1:] - tiles.tile_offsets[:-1]).double()
    middle, high = (int(value) for value in lengths.quantile(torch.tensor([0.5, 0.9], dtype=torch.float64)))
    pairs = evaluated_pairs(found, opacities[None], tiles)
    name = f"{count:,} Gaussians, {width} x {height}"
    what = f"lists of {middle} (median), {high} (90 %), {int(lengths.max())} (longest); {pairs:,} contributing pairs"
    yield Case(f"{name}: projection, colours (degree 3), lists", what, THREADS, prepare)

    g = torch.Generator().manual_seed(1)
    grad = torch.randn(1, height, width, 3, generator=g)
    leaves = [value.detach().requires_grad_() for value in (found.means2d, found.conics, colors, opacities[None])]
    background = torch.zeros(1, 3)

    def ours() -> tuple[Tensor, ...]:
        picture = rasterize_gaussians(*leaves, tiles=tiles).colors
        return (picture.detach(), *torch.autograd.grad(picture, leaves, grad))

    def peer() -> tuple[Tensor, ...]:
        inputs: tuple[Any, ...] = (*leaves, background, None, *tiles[1:5], width, height, tiles.tile_size, *RULES)
        picture = reference.rasterize_gaussians(*inputs)[0]
        return (picture.detach(), *torch.autograd.grad(picture, leaves, grad))

    yield Case(
        f"{name}: compositing forward + backward", what, THREADS, ours, "plain torch, batches of tiles", peer,
        compare=lambda a, b: close(a, b, rtol=2e-3), repeats=1,
    )  # fmt: skip
    yield Case(f"{name}: compositing forward + backward", f"the same, {pairs:,} pairs, 9 repeats", THREADS, ours)


def _training_step(count: int, width: int, height: int) -> Case:
    values, view, intrinsics = scene(count, width, height, 8.0, 16)
    leaves = [torch.nn.Parameter(value.clone()) for value in values]
    inputs: tuple[Any, ...] = (*leaves, view, intrinsics, width, height)
    optimizer = torch.optim.Adam(leaves, lr=1e-6, eps=1e-15, fused=True)
    target = torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(2))

    def step() -> Tensor:
        picture = render_gaussians(*inputs, sh_degree=3).colors
        loss = l1_dssim_loss(picture, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    what = "render, 0.8 L1 + 0.2 D-SSIM, backward, Adam; 16 coefficients"
    return Case(f"training step, {count:,} Gaussians, {width} x {height}", what, THREADS, step)
