r"""Emission-absorption rendering along rays, packed (flat samples with ``packed_info`` or ``ray_indices``) or batched.

With density :math:`\sigma_i` on interval :math:`[t^0_i, t^1_i]`:

.. math:: \alpha_i = 1 - e^{-\sigma_i (t^1_i - t^0_i)}, \quad T_i = \prod_{j < i} (1 - \alpha_j),
    \quad w_i = T_i \alpha_i

(Max 1995, "Optical models for direct volume rendering"; Mildenhall et al. 2020, NeRF, eq. 3). Packed samples are
one-dimensional tensors ``(N,)``, as in nerfacc: a trailing axis of size 1 would broadcast to ``(N, N)`` and is refused
by name.
Rendering runs in float32 (or float64), under autocast too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.ops import checks
from zoo.ops.backend import active_backend
from zoo.ops.packed import check_packed_info, exclusive_prod, exclusive_sum, pack_info, widen
from zoo.ops.segment import segment_sum


def check_alike(shape_name: str, shape_of: Tensor, packed: bool, **others: Tensor | None) -> None:
    """All sample tensors have one shape: (N,) when packed, (..., n_samples) when batched."""
    checks.check_dtype(shape_name, shape_of, checks.FLOATING_OR_HALF)
    if packed and shape_of.dim() != 1:
        raise ValueError(
            f"{shape_name}: found shape {tuple(shape_of.shape)}, expected (N,) for packed samples"
            + (f"; drop the last axis with {shape_name}.squeeze(-1)" if shape_of.shape[-1:] == (1,) else "")
        )
    for name, tensor in others.items():
        if tensor is None:
            continue
        if tensor.shape != shape_of.shape:
            hint = f"; drop the last axis with {name}.squeeze(-1)" if tensor.shape[-1:] == (1,) else ""
            raise ValueError(
                f"{name}: found shape {tuple(tensor.shape)}, expected {tuple(shape_of.shape)}, the shape of "
                f"{shape_name}{hint}"
            )
        checks.check_same_device(name, tensor, shape_name, shape_of)


def _resolve_packing(
    samples_name: str, samples: Tensor, packed_info: Tensor | None, ray_indices: Tensor | None, n_rays: int | None
) -> Tensor | None:
    """``packed_info`` from whichever description of the rays was given; None for batched samples."""
    if packed_info is None and ray_indices is not None:
        checks.check_shape("ray_indices", ray_indices, (samples.shape[0] if samples.dim() else "N",))
        if n_rays is None:
            raise ValueError("n_rays: found None, expected the number of rays beside ray_indices (rays may be empty)")
        packed_info = pack_info(ray_indices, n_rays)
    if packed_info is not None:
        check_packed_info(packed_info, samples_name, samples)
    return packed_info


def render_transmittance_from_alpha(
    alphas: Tensor,
    packed_info: Tensor | None = None,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    prefix_trans: Tensor | None = None,
) -> Tensor:
    """Transmittance T_i = prod_{j < i} (1 - alpha_j) in front of each sample; its gradient is exact where alpha is 1.

    Args:
        alphas: Opacities, ``(N,)`` packed or ``(..., n_samples)`` batched.
        packed_info: Start and count of each ray, ``(n_rays, 2)`` int64, for packed samples.
        ray_indices: Instead of it: ray of each sample, ascending, ``(N,)``, with ``n_rays``.
        n_rays: Number of rays.
        prefix_trans: Transmittance of what lies in front, shaped as ``alphas``; multiplies the result.

    Returns:
        Transmittances, shaped as ``alphas``.

    Raises:
        ValueError: Shapes that differ, or wrong dtype.

    Example:
        >>> render_transmittance_from_alpha(torch.tensor([0.5, 0.5, 0.5]), torch.tensor([[0, 2], [2, 1]]))
        tensor([1.0000, 0.5000, 1.0000])
    """
    check_alike("alphas", alphas, packed_info is not None or ray_indices is not None, prefix_trans=prefix_trans)
    packed_info = _resolve_packing("alphas", alphas, packed_info, ray_indices, n_rays)
    if active_backend() == "nerfacc":
        from zoo.ops.vendor import nerfacc

        trans = nerfacc.render_transmittance_from_alpha(widen(alphas), packed_info)
    else:
        trans = exclusive_prod(1 - widen(alphas), packed_info)
    return trans if prefix_trans is None else trans * prefix_trans


def render_transmittance_from_density(
    t_starts: Tensor,
    t_ends: Tensor,
    sigmas: Tensor,
    packed_info: Tensor | None = None,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    prefix_trans: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Transmittance T_i = exp(-sum_{j < i} sigma_j dt_j) in front of each sample, and its opacity alpha_i.

    Args:
        t_starts: Beginning of each interval, ``(N,)`` packed or ``(..., n_samples)`` batched.
        t_ends: End of each interval, same shape.
        sigmas: Densities, same shape.
        packed_info: Start and count of each ray, ``(n_rays, 2)`` int64, for packed samples.
        ray_indices: Instead of it: ray of each sample, ascending, ``(N,)``, with ``n_rays``.
        n_rays: Number of rays.
        prefix_trans: Transmittance of what lies in front, same shape; multiplies T.

    Returns:
        Transmittances and opacities, shaped as ``sigmas``.

    Raises:
        ValueError: Shapes that differ, or wrong dtype.

    Example:
        >>> t = torch.tensor([0.0, 1.0, 2.0])
        >>> trans, alphas = render_transmittance_from_density(t[:-1], t[1:], torch.tensor([1.0, 1.0]))
        >>> trans
        tensor([1.0000, 0.3679])
    """
    is_packed = packed_info is not None or ray_indices is not None
    check_alike("sigmas", sigmas, is_packed, t_starts=t_starts, t_ends=t_ends, prefix_trans=prefix_trans)
    packed_info = _resolve_packing("sigmas", sigmas, packed_info, ray_indices, n_rays)
    if active_backend() == "nerfacc":
        from zoo.ops.vendor import nerfacc

        trans, alphas = nerfacc.render_transmittance_from_density(t_starts, t_ends, widen(sigmas), packed_info)
    else:
        optical_depth = widen(sigmas) * (t_ends - t_starts)
        alphas = -torch.expm1(-optical_depth)
        trans = torch.exp(-exclusive_sum(optical_depth, packed_info))
    return (trans if prefix_trans is None else trans * prefix_trans), alphas


def render_weights_from_alpha(
    alphas: Tensor,
    packed_info: Tensor | None = None,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    prefix_trans: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Weights w_i = T_i alpha_i and transmittances T_i; arguments as `render_transmittance_from_alpha`.

    Args:
        alphas: Opacities, ``(N,)`` packed or ``(..., n_samples)`` batched.
        packed_info: Start and count of each ray, ``(n_rays, 2)`` int64, for packed samples.
        ray_indices: Instead of it: ray of each sample, ascending, ``(N,)``, with ``n_rays``.
        n_rays: Number of rays.
        prefix_trans: Transmittance of what lies in front, same shape.

    Returns:
        Weights and transmittances, shaped as ``alphas``.

    Example:
        >>> weights, trans = render_weights_from_alpha(torch.tensor([[0.5, 0.5, 1.0]]))
        >>> weights
        tensor([[0.5000, 0.2500, 0.2500]])
    """
    trans = render_transmittance_from_alpha(alphas, packed_info, ray_indices, n_rays, prefix_trans)
    return trans * alphas, trans


def render_weights_from_density(
    t_starts: Tensor,
    t_ends: Tensor,
    sigmas: Tensor,
    packed_info: Tensor | None = None,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    prefix_trans: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights w_i = T_i alpha_i, transmittances T_i and opacities alpha_i.

    Args:
        t_starts: Beginning of each interval, ``(N,)`` packed or ``(..., n_samples)`` batched.
        t_ends: End of each interval, same shape.
        sigmas: Densities, same shape.
        packed_info: Start and count of each ray, ``(n_rays, 2)`` int64, for packed samples.
        ray_indices: Instead of it: ray of each sample, ascending, ``(N,)``, with ``n_rays``.
        n_rays: Number of rays.
        prefix_trans: Transmittance of what lies in front, same shape.

    Returns:
        Weights, transmittances and opacities, shaped as ``sigmas``.

    Raises:
        ValueError: Shapes that differ, or wrong dtype.

    Example:
        >>> t = torch.tensor([0.0, 1.0, 2.0])
        >>> weights, trans, alphas = render_weights_from_density(t[:-1], t[1:], torch.tensor([1.0, 1.0]))
        >>> weights
        tensor([0.6321, 0.2325])
    """
    trans, alphas = render_transmittance_from_density(
        t_starts, t_ends, sigmas, packed_info, ray_indices, n_rays, prefix_trans
    )
    return trans * alphas, trans, alphas


render_weight_from_alpha = render_weights_from_alpha  # nerfacc's spelling
render_weight_from_density = render_weights_from_density


def _visible(trans: Tensor, alphas: Tensor, early_stop_eps: float, alpha_thre: float) -> Tensor:
    visible = trans >= early_stop_eps
    return visible & (alphas >= alpha_thre) if alpha_thre > 0 else visible


@torch.no_grad()
def render_visibility_from_alpha(
    alphas: Tensor,
    packed_info: Tensor | None = None,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    early_stop_eps: float = 1e-4,
    alpha_thre: float = 0.0,
    prefix_trans: Tensor | None = None,
) -> Tensor:
    """Which samples can be seen: T_i >= early_stop_eps and alpha_i >= alpha_thre.

    Args:
        alphas: Opacities, ``(N,)`` packed or ``(..., n_samples)`` batched.
        packed_info: Start and count of each ray, ``(n_rays, 2)`` int64, for packed samples.
        ray_indices: Instead of it: ray of each sample, ascending, ``(N,)``, with ``n_rays``.
        n_rays: Number of rays.
        early_stop_eps: Least transmittance.
        alpha_thre: Least opacity.
        prefix_trans: Transmittance of what lies in front, same shape.

    Returns:
        Mask, shaped as ``alphas``.

    Example:
        >>> render_visibility_from_alpha(torch.tensor([[0.9, 0.9, 0.9]]), early_stop_eps=0.05)
        tensor([[ True,  True, False]])
    """
    trans = render_transmittance_from_alpha(alphas, packed_info, ray_indices, n_rays, prefix_trans)
    return _visible(trans, alphas, early_stop_eps, alpha_thre)


@torch.no_grad()
def render_visibility_from_density(
    t_starts: Tensor,
    t_ends: Tensor,
    sigmas: Tensor,
    packed_info: Tensor | None = None,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    early_stop_eps: float = 1e-4,
    alpha_thre: float = 0.0,
    prefix_trans: Tensor | None = None,
) -> Tensor:
    """Which samples can be seen: T_i >= early_stop_eps and alpha_i >= alpha_thre.

    Args:
        t_starts: Beginning of each interval, ``(N,)`` packed or ``(..., n_samples)`` batched.
        t_ends: End of each interval, same shape.
        sigmas: Densities, same shape.
        packed_info: Start and count of each ray, ``(n_rays, 2)`` int64, for packed samples.
        ray_indices: Instead of it: ray of each sample, ascending, ``(N,)``, with ``n_rays``.
        n_rays: Number of rays.
        early_stop_eps: Least transmittance.
        alpha_thre: Least opacity.
        prefix_trans: Transmittance of what lies in front, same shape.

    Returns:
        Mask, shaped as ``sigmas``.

    Example:
        >>> t = torch.tensor([0.0, 1.0, 2.0, 3.0])
        >>> render_visibility_from_density(t[:-1], t[1:], torch.tensor([5.0, 5.0, 0.0]))
        tensor([ True,  True, False])
    """
    trans, alphas = render_transmittance_from_density(
        t_starts, t_ends, sigmas, packed_info, ray_indices, n_rays, prefix_trans
    )
    return _visible(trans, alphas, early_stop_eps, alpha_thre)


def accumulate_along_rays(
    weights: Tensor,
    values: Tensor | None = None,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    packed_info: Tensor | None = None,
) -> Tensor:
    """Weighted sum of values along each ray, sum_i w_i v_i.

    Args:
        weights: ``(N,)`` packed or ``(n_rays, n_samples)`` batched.
        values: ``(N, C)`` or ``(n_rays, n_samples, C)``; None sums the weights.
        ray_indices: Ray of each packed sample, in any order, ``(N,)``, with ``n_rays``.
        n_rays: Number of rays.
        packed_info: Instead of ``ray_indices``: start and count of each ray, ``(n_rays, 2)`` int64.

    Returns:
        Sums ``(n_rays, C)``; C = 1 without values.

    Raises:
        ValueError: Shapes that differ, or wrong dtype.

    Example:
        >>> accumulate_along_rays(torch.tensor([0.5, 0.25, 1.0]), ray_indices=torch.tensor([0, 0, 2]), n_rays=3)
        tensor([[0.7500],
                [0.0000],
                [1.0000]])
    """
    is_packed = packed_info is not None or ray_indices is not None
    check_alike("weights", weights, is_packed)
    if values is not None and (values.dim() != weights.dim() + 1 or values.shape[:-1] != weights.shape):
        raise ValueError(f"values: found shape {tuple(values.shape)}, expected {(*weights.shape, 'C')}")
    products = weights[..., None] if values is None else weights[..., None] * values
    if not is_packed:
        return widen(products).sum(-2)
    if packed_info is None and n_rays is None:
        raise ValueError("n_rays: found None, expected the number of rays beside ray_indices (rays may be empty)")
    return segment_sum(widen(products), ray_indices if packed_info is None else None, n_rays, packed_info=packed_info)
