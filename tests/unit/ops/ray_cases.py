"""Rays, grids and packed samples for the tests of ray ops."""

from __future__ import annotations

import torch
from torch import Tensor


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_packing(n_rays: int, most: int, seed: int = 0) -> Tensor:
    """``packed_info`` of rays with 0 to ``most`` samples."""
    counts = torch.randint(0, most + 1, (n_rays,), generator=generator(seed))
    return torch.stack([counts.cumsum(0) - counts, counts], dim=-1)


def random_samples(
    info: Tensor, dtype: torch.dtype = torch.float32, seed: int = 1, channels: int = 3
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Starts, ends, densities and colours of the samples that ``info`` describes."""
    total, gen = int(info[:, 1].sum()), generator(seed)
    starts = torch.rand(total, generator=gen, dtype=dtype) * 4
    ends = starts + 0.02 + 0.2 * torch.rand(total, generator=gen, dtype=dtype)
    sigmas = 4 * torch.rand(total, generator=gen, dtype=dtype)
    return starts, ends, sigmas, torch.rand(total, channels, generator=gen, dtype=dtype)


def random_rays(n_rays: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rays from in and around the box [-1, 1]^3: some start inside, some miss, some run along an axis."""
    gen = generator(seed)
    origins = 4 * torch.rand(n_rays, 3, generator=gen, dtype=dtype) - 2
    targets = 1.6 * torch.rand(n_rays, 3, generator=gen, dtype=dtype) - 0.8
    directions = torch.nn.functional.normalize(targets - origins, dim=-1)
    directions[::5] = torch.nn.functional.normalize(
        torch.randn(directions[::5].shape, generator=gen, dtype=dtype), dim=-1
    )
    axes = torch.randint(3, directions[3::7].shape[:1], generator=gen)
    directions[3::7] = torch.nn.functional.one_hot(axes, 3).to(dtype)
    return origins, directions


def nested_grid(
    levels: int = 1, shape: tuple[int, int, int] = (6, 7, 8), share: float = 0.4, seed: int = 3
) -> tuple[Tensor, Tensor]:
    """Random cells of nested boxes around the origin, and the boxes."""
    binaries = torch.rand(levels, *shape, generator=generator(seed)) < share
    aabbs = torch.stack([torch.tensor([-1.0, -1, -1, 1, 1, 1]) * 2**level for level in range(levels)])
    return binaries, aabbs
