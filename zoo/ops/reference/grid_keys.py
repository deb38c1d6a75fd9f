"""Linear keys of integer sites: the sort order of every voxel grid, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def linear_keys(coords: Tensor, spatial_shape: Sequence[int]) -> Tensor:
    """int64 keys ``((b * S0 + c0) * S1 + c1) ...`` of rows ``(b, c0, c1, ...)``."""
    keys = coords[:, 0].to(torch.int64)
    for axis, size in enumerate(spatial_shape, start=1):
        keys = keys * size + coords[:, axis]
    return keys


def unravel_keys(keys: Tensor, spatial_shape: Sequence[int]) -> Tensor:
    """The int32 rows ``(b, c0, c1, ...)`` of linear keys; the inverse of `linear_keys`."""
    columns = []
    for size in reversed(spatial_shape):
        columns.append(keys % size)
        keys = torch.div(keys, size, rounding_mode="floor")
    columns.append(keys)
    return torch.stack(columns[::-1], dim=1).to(torch.int32)


def sort_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted keys and the stable permutation that sorts them."""
    sorted_keys, order = torch.sort(keys, stable=True)
    return sorted_keys, order
