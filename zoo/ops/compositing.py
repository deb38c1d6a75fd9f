"""Compositing of samples into pixels: colour, opacity and depth of each ray in one fused, differentiable pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.ops import checks
from zoo.ops.backend import active_backend
from zoo.ops.dispatch import define_op
from zoo.ops.packed import check_packed_info
from zoo.ops.reference import compositing as reference
from zoo.ops.volume_rendering import check_alike


class RenderedRays(NamedTuple):
    """What `render_rays` returns.

    Attributes:
        colors: ``(n_rays, C)``.
        opacities: ``(n_rays, 1)``.
        depths: ``(n_rays, 1)``.
        weights: Of each sample, shaped as the densities; 0 behind an early stop.
    """

    colors: Tensor
    opacities: Tensor
    depths: Tensor
    weights: Tensor


def _fake_render(
    t_starts: Tensor, t_ends: Tensor, sigmas: Tensor, rgbs: Tensor, packed_info: Tensor, early_stop_eps: float
) -> tuple[Tensor, ...]:
    n_rays = packed_info.shape[0]
    per_ray = [sigmas.new_empty(n_rays) for _ in range(3)]
    return (
        sigmas.new_empty(n_rays, rgbs.shape[1]),
        per_ray[0],
        per_ray[1],
        sigmas.new_empty(sigmas.shape[0]),
        per_ray[2],
        packed_info.new_empty(n_rays),
    )


def _setup_render(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    t_starts, t_ends, _, rgbs, packed_info, _ = inputs
    *_, weights, transmittances, composited = output
    ctx.mark_non_differentiable(transmittances, composited)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(t_starts, t_ends, rgbs, weights, transmittances, composited, packed_info)


def _backward_render(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    grad_sigmas, grad_rgbs = _render_rays_backward(*grads[:4], *ctx.saved_tensors)
    return None, None, grad_sigmas, grad_rgbs, None, None


_render_rays = define_op(
    "render_rays(Tensor t_starts, Tensor t_ends, Tensor sigmas, Tensor rgbs, Tensor packed_info, float early_stop_eps)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=reference.render_rays,
    fake=_fake_render,
    backward=(_setup_render, _backward_render),
    autocast="float32",
)
_render_rays_backward = define_op(
    "render_rays_backward(Tensor? grad_colors, Tensor? grad_opacities, Tensor? grad_depths, Tensor? grad_weights, "
    "Tensor t_starts, Tensor t_ends, Tensor rgbs, Tensor weights, Tensor transmittances, Tensor composited, "
    "Tensor packed_info) -> (Tensor, Tensor)",
    reference=reference.render_rays_backward,
    fake=lambda *args: (args[7].new_empty(args[7].shape), args[6].new_empty(args[6].shape)),
    autocast="float32",
)


def _uniform_packing(samples: Tensor) -> Tensor:
    """``packed_info`` of batched samples ``(n_rays, n_samples)`` laid flat."""
    n_rays, count = samples.shape
    starts = torch.arange(n_rays, device=samples.device) * count
    return torch.stack([starts, torch.full_like(starts, count)], dim=-1)


def render_rays(
    t_starts: Tensor,
    t_ends: Tensor,
    sigmas: Tensor,
    rgbs: Tensor,
    packed_info: Tensor | None = None,
    *,
    early_stop_eps: float = 0.0,
    background: Tensor | None = None,
    normalize_depth: bool = True,
) -> RenderedRays:
    """Composite samples into colour, opacity and depth in one fused pass; differentiable in ``sigmas`` and ``rgbs``.

    colour = sum_i w_i c_i + background (1 - opacity), opacity = sum_i w_i, depth = sum_i w_i (t0_i + t1_i) / 2, divided
    by the opacity (at least the dtype's epsilon) if ``normalize_depth``. A ray stops in front of the first sample with
    T_i < ``early_stop_eps``; what lies behind has weight and gradient 0. No gradient flows to the interval's ends.

    Args:
        t_starts: Beginning of each interval, ``(N,)`` packed or ``(n_rays, n_samples)`` batched.
        t_ends: End of each interval, same shape.
        sigmas: Densities, same shape.
        rgbs: Colours or other features, ``(N, C)`` or ``(n_rays, n_samples, C)``.
        packed_info: Start and count of each ray, ``(n_rays, 2)`` int64, for packed samples.
        early_stop_eps: Transmittance below which a ray stops; 0 composites everything.
        background: Colour behind everything, ``(C,)`` or ``(n_rays, C)``.
        normalize_depth: Mean depth of what was hit, as nerfacc gives it; False leaves the plain sum.

    Returns:
        Colours, opacities, depths and weights. A ray without samples has the background's colour, opacity and depth 0.

    Raises:
        ValueError: Shapes that differ, wrong dtype, or a packing that does not fit.

    Example:
        >>> t = torch.tensor([0.0, 1.0, 2.0])
        >>> rgbs = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> render_rays(t[:-1], t[1:], torch.tensor([1.0, 1.0]), rgbs, torch.tensor([[0, 2]])).colors
        tensor([[0.6321, 0.2325, 0.0000]])
    """
    check_alike("sigmas", sigmas, packed_info is not None, t_starts=t_starts, t_ends=t_ends)
    if rgbs.dim() != sigmas.dim() + 1 or rgbs.shape[:-1] != sigmas.shape:
        raise ValueError(f"rgbs: found shape {tuple(rgbs.shape)}, expected {(*sigmas.shape, 'C')}")
    checks.check_same_device("rgbs", rgbs, "sigmas", sigmas)
    dtype = torch.float64 if sigmas.dtype == torch.float64 else torch.float32
    samples = (t_starts.to(dtype), t_ends.to(dtype), sigmas.to(dtype), rgbs.to(dtype))
    if packed_info is not None:
        check_packed_info(packed_info, "sigmas", sigmas)
    elif sigmas.dim() != 2:
        raise ValueError(f"sigmas: found shape {tuple(sigmas.shape)}, expected (n_rays, n_samples) without packed_info")
    if active_backend() == "nerfacc":
        from zoo.ops.vendor import nerfacc

        colors, opacities, depths, weights = nerfacc.render_rays(*samples, packed_info, early_stop_eps)
    else:
        flat = samples if packed_info is not None else [value.flatten(0, 1) for value in samples]
        packing = packed_info if packed_info is not None else _uniform_packing(sigmas)
        colors, opacities, depths, weights, *_ = _render_rays(*flat, packing, float(early_stop_eps))
    opacities, depths = opacities[:, None], depths[:, None]
    if normalize_depth:
        depths = depths / opacities.clamp_min(torch.finfo(dtype).eps)
    if background is not None:
        if background.shape not in ((rgbs.shape[-1],), tuple(colors.shape)):
            raise ValueError(
                f"background: found shape {tuple(background.shape)}, expected ({rgbs.shape[-1]},) or "
                f"{tuple(colors.shape)}"
            )
        colors = colors + background * (1 - opacities)
    return RenderedRays(colors, opacities, depths, weights.view(sigmas.shape))
