"""Compositing along packed rays in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.ops.reference.packed import packed_sum, sample_rays


def render_rays(
    t_starts: Tensor, t_ends: Tensor, sigmas: Tensor, rgbs: Tensor, packed_info: Tensor, early_stop_eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Colours, opacities, depths, weights, last transmittances and numbers of composited samples; differentiable."""
    rays, n_rays = sample_rays(packed_info, len(sigmas)), len(packed_info)
    optical_depth = sigmas * (t_ends - t_starts)
    transmittance = torch.exp(-packed_sum(optical_depth, packed_info, True, False))
    seen = transmittance >= early_stop_eps
    weights = torch.where(seen, transmittance * -torch.expm1(-optical_depth), 0.0)

    def per_ray(values: Tensor) -> Tensor:
        return values.new_zeros(n_rays, *values.shape[1:]).index_add(0, rays, values)

    colors = per_ray(weights[:, None] * rgbs)
    opacities, depths = per_ray(weights), per_ray(weights * ((t_starts + t_ends) * 0.5))
    transmittances = torch.exp(-per_ray(torch.where(seen, optical_depth, 0.0)))
    return colors, opacities, depths, weights, transmittances, per_ray(seen.long())


def render_rays_backward(
    grad_colors: Tensor | None,
    grad_opacities: Tensor | None,
    grad_depths: Tensor | None,
    grad_weights: Tensor | None,
    t_starts: Tensor,
    t_ends: Tensor,
    rgbs: Tensor,
    weights: Tensor,
    transmittances: Tensor,
    composited: Tensor,
    packed_info: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of densities and colours: dL/dsigma_i = dt_i (T_{i+1} G_i - sum_{j > i} w_j G_j), G_i = dL/dw_i."""
    rays = sample_rays(packed_info, len(weights))
    grad_weight = torch.zeros_like(weights) if grad_weights is None else grad_weights
    grad_rgbs = torch.zeros_like(rgbs)
    if grad_colors is not None:
        grad_weight = grad_weight + (grad_colors[rays] * rgbs).sum(-1)
        grad_rgbs = weights[:, None] * grad_colors[rays]
    if grad_opacities is not None:
        grad_weight = grad_weight + grad_opacities[rays]
    if grad_depths is not None:
        grad_weight = grad_weight + grad_depths[rays] * ((t_starts + t_ends) * 0.5)
    behind = packed_sum(weights * grad_weight, packed_info, True, True)
    transmittance = transmittances[rays] + packed_sum(weights, packed_info, True, True)
    grad_sigmas = (t_ends - t_starts) * (transmittance * grad_weight - behind)
    rank = torch.arange(len(weights), device=weights.device) - packed_info[rays, 0]
    return torch.where(rank < composited[rays], grad_sigmas, 0.0), grad_rgbs
