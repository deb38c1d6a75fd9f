"""Packed scans in plain torch: a doubling scan over the flat samples, log2(longest ray) vectorised steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.ops.reference.autograd import vjp


def sample_rays(packed_info: Tensor, num_samples: int) -> Tensor:
    """Ray of each sample, ``(N,)``, from ``packed_info`` ``(n_rays, 2)`` whose chunks tile the samples in order."""
    rays = torch.arange(len(packed_info), device=packed_info.device)
    return torch.repeat_interleave(rays, packed_info[:, 1], output_size=num_samples)


def _scan(x: Tensor, packed_info: Tensor, identity: float, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Inclusive scan along each ray: after step s every sample holds the result over the last 2^s samples."""
    counts = packed_info[:, 1]
    rays = sample_rays(packed_info, len(x))
    rank = torch.arange(len(x), device=x.device) - packed_info[rays, 0]
    longest = int(counts.max()) if len(counts) else 0
    shift = 1
    while shift < longest:
        before = torch.where(rank >= shift, torch.roll(x, shift), identity)
        x = combine(before, x)
        shift *= 2
    return x


def _shift_by_one(x: Tensor, packed_info: Tensor, identity: float) -> Tensor:
    """Each sample's predecessor on its ray, ``identity`` for the first one."""
    rays = sample_rays(packed_info, len(x))
    rank = torch.arange(len(x), device=x.device) - packed_info[rays, 0]
    return torch.where(rank >= 1, torch.roll(x, 1), identity)


def _mirror(packed_info: Tensor, num_samples: int) -> Tensor:
    """The chunks of the flat samples read backwards."""
    starts, counts = packed_info.flip(0).unbind(-1)
    return torch.stack([num_samples - starts - counts, counts], dim=-1)


def packed_sum(x: Tensor, packed_info: Tensor, exclusive: bool, reverse: bool) -> Tensor:
    """Running sum along each ray, ``(N,)``, forwards or backwards, with or without the sample itself."""
    if reverse:
        return packed_sum(x.flip(0), _mirror(packed_info, len(x)), exclusive, False).flip(0)
    if exclusive:
        x = _shift_by_one(x, packed_info, 0.0)
    return _scan(x, packed_info, 0.0, torch.add).clone()


def packed_prod(x: Tensor, packed_info: Tensor, exclusive: bool) -> Tensor:
    """Running product along each ray, ``(N,)``, with or without the sample itself."""
    if exclusive:
        x = _shift_by_one(x, packed_info, 1.0)
    return _scan(x, packed_info, 1.0, torch.mul).clone()


def packed_prod_backward(grad: Tensor, x: Tensor, packed_info: Tensor, exclusive: bool) -> Tensor:
    """Gradient of `packed_prod` by differentiating it; exact where factors are zero, as nothing is divided."""
    return vjp(lambda factors: packed_prod(factors, packed_info, exclusive), [x], grad)[0]
