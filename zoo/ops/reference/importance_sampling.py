"""Inverse transform sampling along rays in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def first_above(keys: Tensor, starts: Tensor, lasts: Tensor, values: Tensor) -> Tensor:
    """First position in [start, last) whose key is greater than the value, else last; bisects for all at once."""
    low, high = starts.clone(), lasts.clone()
    longest = int((lasts - starts).max()) if len(starts) else 0
    for _ in range(longest.bit_length()):
        middle = torch.div(low + high, 2, rounding_mode="floor")
        above = keys[middle.clamp(max=len(keys) - 1)] > values
        searching = low < high
        low = torch.where(searching & ~above, middle + 1, low)
        high = torch.where(searching & above, middle, high)
    return low


def importance_sample(
    edges: Tensor, cdfs: Tensor, packed_info: Tensor, n_intervals: int, jitter: Tensor
) -> tuple[Tensor, Tensor]:
    """New edges ``(n_rays, n + 1)`` and samples ``(n_rays, n)``; zeros for a ray without edges."""
    n_rays = len(packed_info)
    if n_rays == 0 or len(edges) == 0:
        return edges.new_zeros(n_rays, n_intervals + 1), edges.new_zeros(n_rays, n_intervals)
    starts, counts = packed_info.unbind(-1)
    starts = starts.clamp(max=len(edges) - 1)
    lasts = starts + (counts - 1).clamp_min(0)
    floor, ceil = cdfs[starts], cdfs[lasts]
    rank = torch.arange(n_intervals, device=edges.device, dtype=edges.dtype)
    u = floor[:, None] + (rank + jitter[:, None]) * ((ceil - floor) / n_intervals)[:, None]
    begin, end = (x[:, None].expand_as(u).reshape(-1) for x in (starts, lasts))
    right = first_above(cdfs, begin, end, u.reshape(-1))
    left = torch.maximum(right - 1, begin)
    mass, span = cdfs[right] - cdfs[left], edges[right] - edges[left]
    inside = (u.reshape(-1) - cdfs[left]) * (span / mass) + edges[left]
    samples = torch.where(mass < 1e-10, (edges[left] + edges[right]) * 0.5, inside).view_as(u)
    first, final = edges[starts][:, None], edges[lasts][:, None]
    if n_intervals == 1:
        new_edges = torch.cat([first, final], dim=1)
    else:
        middles = (samples[:, 1:] + samples[:, :-1]) * 0.5
        before = torch.maximum(samples[:, :1] - (samples[:, 1:2] - samples[:, :1]) * 0.5, first)
        after = torch.minimum(samples[:, -1:] + (samples[:, -1:] - samples[:, -2:-1]) * 0.5, final)
        new_edges = torch.cat([before, middles, after], dim=1)
    some = (counts > 0)[:, None]
    return torch.where(some, new_edges, 0.0), torch.where(some, samples, 0.0)


def interval_search(edges: Tensor, packed_info: Tensor, values: Tensor, value_rays: Tensor) -> tuple[Tensor, Tensor]:
    """Flat positions of the edges on either side of each value, ``(M,)`` int64."""
    starts, counts = packed_info[value_rays].unbind(-1)
    lasts = starts + (counts - 1).clamp_min(0)
    right = first_above(edges, starts, lasts, values)
    return torch.maximum(right - 1, starts), right
