"""The ray part of the group ``fields``: marching, compositing and scanning a million samples.

The scene is a hollow shell with a core in a grid of 128^3 cells, seen by rays from outside, so that rays cross empty,
occupied and again empty space as they do in a trained field. Peers are plain torch, vectorised over rays and samples:
marching tests every step of every ray's lattice against the grid; scans are differences of one running sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from zoo.benchmark.harness import Case, close
from zoo.ops import RaySamples, exclusive_sum, march_rays, render_rays

STEP = 5e-3
BOX = (-1.5, -1.5, -1.5, 1.5, 1.5, 1.5)
RESOLUTION = 128
NUM_SAMPLES = 1_000_000
_RAYS_PER_CHUNK = 1024


def shell_grid() -> tuple[Tensor, Tensor]:
    """Occupied cells ``(1, 128, 128, 128)`` of a shell of radius 0.85 to 1 around a core of radius 0.3, and the box."""
    places = (torch.arange(RESOLUTION) + 0.5) / RESOLUTION * 3 - 1.5
    radius = torch.stack(torch.meshgrid(places, places, places, indexing="ij"), -1).norm(dim=-1)
    return ((radius > 0.85) & (radius < 1.0) | (radius < 0.3))[None], torch.tensor([BOX])


def outside_rays(number: int) -> tuple[Tensor, Tensor]:
    """Rays from a sphere of radius 4 to points in the middle of the scene."""
    generator = torch.Generator().manual_seed(0)
    origins = 4 * torch.nn.functional.normalize(torch.randn(number, 3, generator=generator), dim=-1)
    targets = 1.6 * torch.rand(number, 3, generator=generator) - 0.8
    return origins, torch.nn.functional.normalize(targets - origins, dim=-1)


def million_samples() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], RaySamples]:
    """Just enough rays for a million samples, the grid, and the samples."""
    grid = shell_grid()
    rays_o, rays_d = outside_rays(16_384)
    counts = march_rays(rays_o, rays_d, *grid, step_size=STEP).packed_info[:, 1]
    number = int((counts.cumsum(0) < NUM_SAMPLES).sum()) + 1
    rays = rays_o[:number], rays_d[:number]
    return rays, grid, march_rays(*rays, *grid, step_size=STEP)


def march_plainly(rays_o: Tensor, rays_d: Tensor, binaries: Tensor, aabbs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Starts, ends and rays of the lattice samples of one-level grids in plain torch."""
    low, high = aabbs[0, :3], aabbs[0, 3:]
    resolution = torch.tensor(binaries.shape[1:])
    slabs = torch.stack([(low - rays_o) / rays_d, (high - rays_o) / rays_d])
    begin, end = slabs.amin(0).amax(-1).clamp_min(0), slabs.amax(0).amin(-1)
    steps = int(((end - begin).clamp_min(0) / STEP).max()) + 2
    parts = []
    for first in range(0, len(rays_o), _RAYS_PER_CHUNK):
        rows = slice(first, first + _RAYS_PER_CHUNK)
        k = torch.floor(begin[rows] / STEP)[:, None] + torch.arange(steps)
        middle = (k + 0.5) * STEP
        rays, columns = torch.nonzero((middle >= begin[rows, None]) & (middle < end[rows, None]), as_tuple=True)
        points = rays_o[rows][rays] + rays_d[rows][rays] * middle[rays, columns, None]
        cell = ((points - low) / (high - low) * resolution).long().clamp(min=0).minimum(resolution - 1)
        kept = binaries[0].flatten()[(cell[:, 0] * resolution[1] + cell[:, 1]) * resolution[2] + cell[:, 2]]
        parts.append((k[rays[kept], columns[kept]] * STEP, rays[kept] + first))
    starts, rays = (torch.cat(part) for part in zip(*parts, strict=True))
    return starts, starts + STEP, rays


def exclusive_sum_plainly(x: Tensor, rays: Tensor, starts: Tensor) -> Tensor:
    """Running sums along rays as differences of one running sum, in float64 against cancellation."""
    before = torch.cumsum(x, 0, dtype=torch.float64) - x
    return (before - before[starts[rays].clamp(max=len(x) - 1)]).float()


def render_plainly(
    t_starts: Tensor, t_ends: Tensor, sigmas: Tensor, rgbs: Tensor, rays: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Colours, opacities and depths in plain torch."""
    optical_depth = sigmas * (t_ends - t_starts)
    transmittance = torch.exp(-exclusive_sum_plainly(optical_depth, rays, starts))
    weights = transmittance * (1 - torch.exp(-optical_depth))
    values = torch.cat([rgbs, ((t_starts + t_ends) * 0.5)[:, None], torch.ones_like(rgbs[:, :1])], dim=1)
    sums = values.new_zeros(len(starts), 5).index_add(0, rays, weights[:, None] * values)
    return sums[:, :3], sums[:, 4:], sums[:, 3:4] / sums[:, 4:].clamp_min(torch.finfo(sums.dtype).eps)


def _same_samples(ours: RaySamples, peer: tuple[Tensor, Tensor, Tensor]) -> None:
    """The same samples but for those whose midpoint lies on a cell's border within rounding."""
    counts = torch.bincount(peer[2], minlength=len(ours.packed_info))
    wrong = int((counts - ours.packed_info[:, 1]).abs().sum())
    assert wrong <= 1e-3 * len(ours.t_starts), f"{wrong} of {len(ours.t_starts)} samples differ from the peer's"


def cases() -> Iterator[Case]:
    """Marching, compositing forward and backward, and a scan; 1 and 2 threads."""
    rays, grid, samples = million_samples()
    for threads in (1, 2):
        yield _marching(rays, grid, samples, threads)
        yield from _compositing(samples, threads)


def _marching(rays: tuple[Tensor, Tensor], grid: tuple[Tensor, Tensor], samples: RaySamples, threads: int) -> Case:
    number = len(samples.t_starts)
    return Case(
        case="march_rays",
        what=f"{number:,} samples on {len(rays[0]):,} rays, {RESOLUTION}^3 cells",
        threads=threads,
        ours=lambda: march_rays(*rays, *grid, step_size=STEP),
        peer_name="plain torch, every step of the lattice",
        peer=lambda: march_plainly(*rays, *grid),
        compare=_same_samples,
        limit="copy",
        work=number * 16.0,  # two floats and an int64 written
        repeats=9 if threads > 1 else 3,
    )


def _compositing(samples: RaySamples, threads: int) -> Iterator[Case]:
    t_starts, t_ends, rays, packed_info, _ = samples
    number, starts = len(t_starts), packed_info[:, 0].contiguous()
    generator = torch.Generator().manual_seed(1)
    sigmas = (20 * torch.rand(number, generator=generator)).requires_grad_()
    rgbs = torch.rand(number, 3, generator=generator).requires_grad_()
    grad = torch.randn(len(packed_info), 3, generator=generator)

    def ours() -> tuple[Tensor, ...]:
        return render_rays(t_starts, t_ends, sigmas, rgbs, packed_info)

    def peer() -> tuple[Tensor, ...]:
        return render_plainly(t_starts, t_ends, sigmas, rgbs, rays, starts)

    def detached(render: Callable[[], tuple[Tensor, ...]]) -> Callable[[], Any]:
        return lambda: [value.detach() for value in render()[:3]]

    def backward(render: Callable[[], tuple[Tensor, ...]]) -> Callable[[], Any]:
        colors = render()[0]
        return lambda: torch.autograd.grad(colors, (sigmas, rgbs), grad, retain_graph=True)

    what = f"{number:,} samples on {len(starts):,} rays, float32"
    peer_name = "plain torch"
    yield Case(
        "render_rays forward", what, threads, detached(ours), peer_name, detached(peer),
        compare=close, limit="copy", work=number * 28.0,
    )  # fmt: skip
    yield Case(
        "render_rays backward", what, threads, backward(ours), peer_name, backward(peer),
        compare=lambda a, b: close(a, b, rtol=1e-3), limit="copy", work=number * 40.0,
    )  # fmt: skip
    yield Case(
        "exclusive_sum", what, threads, lambda: exclusive_sum(sigmas.detach(), packed_info), peer_name,
        lambda: exclusive_sum_plainly(sigmas.detach(), rays, starts), compare=close, limit="copy", work=number * 8.0,
    )  # fmt: skip
