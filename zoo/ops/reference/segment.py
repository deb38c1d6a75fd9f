"""Reductions over runs of rows in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.ops.reference.packed import sample_rays


def segment_total(values: Tensor, packed_info: Tensor) -> Tensor:
    """Sum of the rows of each segment, ``(S, C)``."""
    rays = sample_rays(packed_info, len(values))
    return values.new_zeros(len(packed_info), values.shape[1]).index_add(0, rays, values)


def segment_spread(totals: Tensor, packed_info: Tensor, num_rows: int) -> Tensor:
    """Each row's segment value, ``(N, C)``: the transpose of `segment_total`."""
    return totals[sample_rays(packed_info, num_rows)]


def segment_extreme(values: Tensor, packed_info: Tensor, largest: bool) -> tuple[Tensor, Tensor]:
    """Largest or smallest value of each segment and column, and its first row; 0 and -1 where a segment is empty."""
    num_rows, rays = len(values), sample_rays(packed_info, len(values))
    index = rays[:, None].expand_as(values)
    best = values.new_zeros(len(packed_info), values.shape[1])
    best = best.scatter_reduce(0, index, values, "amax" if largest else "amin", include_self=False)
    rows = torch.arange(num_rows, device=values.device)[:, None].expand_as(values)
    rows = torch.where((values == best[rays]) | values.isnan(), rows, num_rows)
    first = torch.full_like(best, num_rows, dtype=torch.int64).scatter_reduce(0, index, rows, "amin")
    return best, torch.where(first < num_rows, first, -1)
