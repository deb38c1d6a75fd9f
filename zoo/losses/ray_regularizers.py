"""Regularisers on the samples along rays: distortion, entropy and occlusion.

Samples are packed as everywhere in `zoo.ops`: flat ``(N,)`` tensors in the order of the rays, with ``packed_info``
``(R, 2)``, start and count of each ray.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.ops.packed import exclusive_sum
from zoo.ops.segment import segment_sum

__all__ = ["dark_or_bright", "distortion_loss", "first_samples", "occlusion_loss", "ray_entropy", "ray_entropy_loss"]


def _sum_of_rays(values: Tensor, packed_info: Tensor) -> Tensor:
    return segment_sum(values[:, None], packed_info=packed_info)[:, 0]


def distortion_loss(weights: Tensor, t_starts: Tensor, t_ends: Tensor, packed_info: Tensor) -> Tensor:
    """How far the weights of each ray are spread (mip-NeRF 360, eq. 15), ``(R,)``.

    ``sum_ij w_i w_j |m_i - m_j| + 1/3 sum_i w_i^2 (t_end_i - t_start_i)`` with the middles ``m``, computed in linear
    time because samples come in order: the first sum is ``2 sum_i w_i (m_i W_i - M_i)`` with the sums ``W`` of the
    weights and ``M`` of weight times middle in front of sample ``i``. Distances are meant to be normalised.

    Args:
        weights: Rendering weights ``(N,)``.
        t_starts: Beginnings of the samples ``(N,)``, ascending along each ray.
        t_ends: Their ends ``(N,)``.
        packed_info: ``(R, 2)``.

    Returns:
        One value for each ray, 0 for a ray without samples.

    Example:
        >>> edges = torch.tensor([0.0, 0.5, 1.0])
        >>> distortion_loss(torch.tensor([0.5, 0.5]), edges[:-1], edges[1:], torch.tensor([[0, 2]]))
        tensor([0.3333])
    """
    middles = (t_starts + t_ends) * 0.5
    before, moment = exclusive_sum(weights, packed_info), exclusive_sum(weights * middles, packed_info)
    between = 2 * weights * (middles * before - moment)
    return _sum_of_rays(between + weights**2 * (t_ends - t_starts) / 3, packed_info)


def ray_entropy(alphas: Tensor, packed_info: Tensor) -> Tensor:
    """Entropy in bits of where a ray is stopped (InfoNeRF), ``(R,)``.

    ``-sum p log2(p + 1e-10)`` with ``p = alpha / (sum alpha + 1e-10)`` over the samples of the ray.
    """
    total = _sum_of_rays(alphas, packed_info) + 1e-10
    share = alphas / total.repeat_interleave(packed_info[:, 1])
    return _sum_of_rays(-share * torch.log2(share + 1e-10), packed_info)


def ray_entropy_loss(alphas: Tensor, opacities: Tensor, packed_info: Tensor, threshold: float = 0.1) -> Tensor:
    """Mean over all rays of the entropy of those whose opacity ``(R,)`` exceeds ``threshold``; a scalar, 0 for R = 0.

    Rays that see nothing must be free to spread their little density, so they count as 0.
    """
    if len(packed_info) == 0:
        return alphas.sum()
    return (ray_entropy(alphas, packed_info) * (opacities.detach() > threshold)).mean()


def first_samples(packed_info: Tensor, count: int) -> Tensor:
    """Which samples are among the first ``count`` of their ray, ``(N,)`` bool."""
    lengths = packed_info[:, 1]
    total = int(lengths.sum())
    starts = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    return torch.arange(total, device=packed_info.device) - starts < count


def dark_or_bright(rgb: Tensor) -> Tensor:
    """Which colours ``(N, 3)`` have a mean above 0.99 or below 0.01: the table and the backdrop of DTU's rig."""
    mean = rgb.detach().mean(-1)
    return (mean > 0.99) | (mean < 0.01)


def occlusion_loss(densities: Tensor, penalised: Tensor) -> Tensor:
    """Mean over all samples of the density where ``penalised`` ``(N,)`` says so (FreeNeRF), a scalar; 0 for N = 0.

    With few views a field explains each picture by a wall right in front of its camera; this forbids density there.
    """
    if densities.numel() == 0:
        return densities.sum()
    return (densities * penalised).mean()
