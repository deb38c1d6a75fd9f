"""Ray marching, rendering and proposal sampling by nerfacc 0.5, chosen with ``zoo.ops.use_backend("nerfacc")``.

The functions have the signatures and, up to rounding, the results of ours. nerfacc runs batched rendering anywhere; its
packed samples, ray traversal and importance sampling exist for CUDA tensors only, and are compiled by nvcc at their
first use, which takes minutes. CPU tensors are refused here with the reason, before that attempt.

Where nerfacc differs: its packed functions compute in float32 only; its gradient of products is wrong where a factor is
exactly 0 (alpha exactly 1), so `render_weights_from_alpha` differs there; it knows no early stop in rendering, so
`render_rays` masks the samples behind it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.ops.packed import pack_info


def _nerfacc() -> Any:
    import nerfacc

    return nerfacc


def _require_cuda(function: str, tensor: Tensor, remedy: str) -> None:
    if tensor.device.type != "cuda":
        raise ValueError(
            f"{function}: found tensors on {tensor.device} with backend 'nerfacc', expected CUDA tensors, the only "
            f"ones for which nerfacc has this function; {remedy}"
        )


def march_rays(
    rays_o: Tensor,
    rays_d: Tensor,
    binaries: Tensor,
    aabbs: Tensor,
    near_planes: Tensor,
    far_planes: Tensor,
    step_size: float,
    cone_angle: float,
    max_samples: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `zoo.ops.march_rays`; the fields of `zoo.ops.RaySamples`."""
    _require_cuda("march_rays", rays_o, "use backend 'native'")
    intervals, samples, terminations = _nerfacc().traverse_grids(
        rays_o.float(),
        rays_d.float(),
        binaries,
        aabbs.float(),
        near_planes=near_planes.float(),
        far_planes=far_planes.float(),
        step_size=step_size,
        cone_angle=cone_angle,
        traverse_steps_limit=max_samples if max_samples > 0 else None,
    )
    t_starts, t_ends = intervals.vals[intervals.is_left], intervals.vals[intervals.is_right]
    return t_starts, t_ends, samples.ray_indices, samples.packed_info, terminations


def render_transmittance_from_alpha(alphas: Tensor, packed_info: Tensor | None) -> Tensor:
    """See `zoo.ops.render_transmittance_from_alpha`."""
    if packed_info is not None:
        _require_cuda("render_transmittance_from_alpha", alphas, "use batched samples or backend 'native'")
    return _nerfacc().render_transmittance_from_alpha(alphas, packed_info=packed_info)


def render_transmittance_from_density(
    t_starts: Tensor, t_ends: Tensor, sigmas: Tensor, packed_info: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See `zoo.ops.render_transmittance_from_density`."""
    if packed_info is not None:
        _require_cuda("render_transmittance_from_density", sigmas, "use batched samples or backend 'native'")
    return _nerfacc().render_transmittance_from_density(t_starts, t_ends, sigmas, packed_info=packed_info)


def render_rays(
    t_starts: Tensor, t_ends: Tensor, sigmas: Tensor, rgbs: Tensor, packed_info: Tensor | None, early_stop_eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Colours ``(n_rays, C)``, opacities and depth sums ``(n_rays,)``, weights ``(N,)``; see `zoo.ops.render_rays`."""
    trans, alphas = render_transmittance_from_density(t_starts.detach(), t_ends.detach(), sigmas, packed_info)
    weights = torch.where(trans >= early_stop_eps, trans * alphas, 0.0)
    middles = ((t_starts + t_ends) * 0.5).detach()[..., None]
    rays, n_rays = None, None
    if packed_info is not None:
        n_rays = packed_info.shape[0]
        rays = torch.repeat_interleave(torch.arange(n_rays, device=sigmas.device), packed_info[:, 1])
    colors, opacities, depths = (
        _nerfacc().accumulate_along_rays(weights, values, ray_indices=rays, n_rays=n_rays)
        for values in (rgbs, None, middles)
    )
    return colors, opacities[:, 0], depths[:, 0], weights


def importance_sampling(
    edges: Tensor, cdfs: Tensor, n_intervals: int, packed_info: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See `zoo.ops.importance_sampling`, without jitter: nerfacc draws its own."""
    _require_cuda("importance_sampling", edges, "use backend 'native'")
    old = _nerfacc().RayIntervals(vals=edges, packed_info=packed_info)
    intervals, samples = _nerfacc().importance_sampling(old, cdfs, n_intervals, False)
    return intervals.vals, samples.vals


def searchsorted(
    edges: Tensor, values: Tensor, packed_info: Tensor | None, value_rays: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See `zoo.ops.searchsorted`; packed values must be sorted by ray."""
    _require_cuda("searchsorted", edges, "use backend 'native'")
    keys = _nerfacc().RayIntervals(vals=edges, packed_info=packed_info)
    info = None
    if value_rays is not None:
        info = pack_info(value_rays, packed_info.shape[0] if packed_info is not None else edges.shape[0])
    queries = _nerfacc().RayIntervals(vals=values, packed_info=info, ray_indices=value_rays)
    return _nerfacc().searchsorted(keys, queries)
