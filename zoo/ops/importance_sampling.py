"""Resampling of rays by the mass along them (proposal sampling, mip-NeRF 360), and the search that goes with it."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.ops import checks
from zoo.ops.backend import active_backend
from zoo.ops.dispatch import define_op
from zoo.ops.packed import check_packed_info
from zoo.ops.reference import importance_sampling as reference

SPACINGS = ("uniform", "lindisp")

_importance_sample = define_op(
    "importance_sample(Tensor edges, Tensor cdfs, Tensor packed_info, int n_intervals, Tensor jitter)"
    " -> (Tensor, Tensor)",
    reference=reference.importance_sample,
    fake=lambda edges, cdfs, packed_info, n_intervals, jitter: (
        edges.new_empty(packed_info.shape[0], n_intervals + 1),
        edges.new_empty(packed_info.shape[0], n_intervals),
    ),
    autocast="float32",
)
_interval_search = define_op(
    "interval_search(Tensor edges, Tensor packed_info, Tensor values, Tensor value_rays) -> (Tensor, Tensor)",
    reference=reference.interval_search,
    fake=lambda edges, packed_info, values, value_rays: (
        value_rays.new_empty(values.shape[0]),
        value_rays.new_empty(values.shape[0]),
    ),
    autocast="float32",
)


def _rows_as_chunks(batched: Tensor) -> Tensor:
    """``packed_info`` of ``(n_rays, n_edges)`` laid flat."""
    n_rays, count = batched.shape
    starts = torch.arange(n_rays, device=batched.device) * count
    return torch.stack([starts, torch.full_like(starts, count)], dim=-1)


def _check_edges(edges: Tensor, packed_info: Tensor | None) -> Tensor:
    """The packing of ``edges``, made from its shape where none is given."""
    checks.check_dtype("edges", edges, checks.FLOATING)
    if packed_info is None:
        checks.check_shape("edges", edges, ("n_rays", "n_edges"))
        return _rows_as_chunks(edges)
    checks.check_shape("edges", edges, ("N",))
    check_packed_info(packed_info, "edges", edges)
    return packed_info


@torch.no_grad()
def importance_sampling(
    edges: Tensor,
    cdfs: Tensor,
    n_intervals: int,
    *,
    packed_info: Tensor | None = None,
    jitter: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw new intervals on each ray so that each holds the same mass (inverse transform sampling).

    Sample k has mass u_k = cdf_first + (k + b) (cdf_last - cdf_first) / n in front of it, b = 1/2 without jitter, and
    lies where the piecewise linear cdf takes that value (in the middle of a step lower than 1e-10). New inner edges are
    the middles between neighbouring samples; the outer ones lie as far outside their sample as the next one lies
    inside, within the old edges. A single interval spans all old ones. Not differentiable.

    Args:
        edges: Ascending edges of the old intervals, ``(n_rays, n_edges)``, or ``(N,)`` with ``packed_info``.
        cdfs: Mass in front of each edge, ascending, same shape.
        n_intervals: Number of new intervals n of each ray.
        packed_info: Start and count of each ray's edges, ``(n_rays, 2)`` int64.
        jitter: b for each ray, ``(n_rays,)`` in [0, 1), for stratified sampling.

    Returns:
        New edges ``(n_rays, n + 1)`` and samples ``(n_rays, n)``; zeros for a ray without edges.

    Raises:
        ValueError: Wrong shape, dtype, device or number.

    Example:
        >>> edges, samples = importance_sampling(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0.0, 0.5, 1.0]]), 2)
        >>> edges, samples
        (tensor([[0., 1., 2.]]), tensor([[0.5000, 1.5000]]))
    """
    packing = _check_edges(edges, packed_info)
    checks.check_shape("cdfs", cdfs, edges.shape)
    checks.check_same_dtype("cdfs", cdfs, "edges", edges)
    checks.check_same_device("cdfs", cdfs, "edges", edges)
    if n_intervals < 1:
        raise ValueError(f"n_intervals: found {n_intervals}, expected 1 or more")
    n_rays = packing.shape[0]
    if jitter is None and active_backend() == "nerfacc":
        from zoo.ops.vendor import nerfacc

        return nerfacc.importance_sampling(edges, cdfs, n_intervals, packed_info)
    if jitter is None:
        jitter = edges.new_full((n_rays,), 0.5)
    checks.check_shape("jitter", jitter, (n_rays,))
    checks.check_same_device("jitter", jitter, "edges", edges)
    return _importance_sample(edges.reshape(-1), cdfs.reshape(-1), packing, n_intervals, jitter.to(edges.dtype))


@torch.no_grad()
def searchsorted(
    edges: Tensor,
    values: Tensor,
    *,
    packed_info: Tensor | None = None,
    value_rays: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the edges on either side of each value on its ray: edges[left] <= value < edges[right].

    A value in front of the first edge gets left = right = the first; one at or behind the last edge gets the last
    interval.

    Args:
        edges: Ascending edges, ``(n_rays, n_edges)``, or ``(N,)`` with ``packed_info``.
        values: ``(n_rays, n_values)``, or ``(M,)`` with ``value_rays``.
        packed_info: Start and count of each ray's edges, ``(n_rays, 2)`` int64.
        value_rays: Ray of each value, ``(M,)`` int64.

    Returns:
        Positions left and right, shaped as ``values``: within the row for batched edges, within the flat tensor for
        packed ones.

    Raises:
        ValueError: Wrong shape, dtype or device.

    Example:
        >>> searchsorted(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[-1.0, 0.5, 1.0, 5.0]]))
        (tensor([[0, 0, 1, 1]]), tensor([[0, 1, 2, 2]]))
    """
    packing = _check_edges(edges, packed_info)
    checks.check_same_dtype("values", values, "edges", edges)
    checks.check_same_device("values", values, "edges", edges)
    if value_rays is None:
        checks.check_shape("values", values, (packing.shape[0], "n_values"))
        rays = torch.arange(packing.shape[0], device=values.device)[:, None].expand_as(values).reshape(-1)
    else:
        checks.check_shape("values", values, ("M",))
        checks.check_shape("value_rays", value_rays, (values.shape[0],))
        checks.check_dtype("value_rays", value_rays, torch.int64)
        rays = value_rays
    if active_backend() == "nerfacc":
        from zoo.ops.vendor import nerfacc

        return nerfacc.searchsorted(edges, values, packed_info, value_rays)
    left, right = _interval_search(edges.reshape(-1), packing, values.reshape(-1), rays)
    if packed_info is None:
        first = packing[rays, 0]
        left, right = left - first, right - first
    return left.view(values.shape), right.view(values.shape)


def transform_stot(spacing: str, s: Tensor, near: float | Tensor, far: float | Tensor) -> Tensor:
    """Map normalised distance s in [0, 1] to t in [near, far].

    ``uniform``: t = s far + (1 - s) near. ``lindisp`` (linear in disparity): t = 1 / (s / far + (1 - s) / near).

    Args:
        spacing: ``uniform`` or ``lindisp``.
        s: Any shape.
        near: Nearest t, positive for ``lindisp``.
        far: Farthest t.

    Returns:
        t, shaped as ``s``.

    Raises:
        ValueError: Unknown spacing.

    Example:
        >>> transform_stot("lindisp", torch.tensor([0.0, 0.5, 1.0]), 1.0, 4.0)
        tensor([1.0000, 1.6000, 4.0000])
    """
    checks.check_option("spacing", spacing, SPACINGS)
    if spacing == "uniform":
        return s * far + (1 - s) * near
    return 1 / (s / far + (1 - s) / near)
