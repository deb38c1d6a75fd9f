"""Linear keys of sites and the sort that every voxel grid is kept in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.ops.checks import check_dtype, check_shape
from zoo.ops.dispatch import define_op
from zoo.ops.reference import grid_keys as reference
from zoo.ops.reference.grid_keys import linear_keys, unravel_keys

__all__ = ["check_extent", "linear_keys", "sort_keys", "unique_keys", "unravel_keys"]

INT32_LIMIT = 2**31
INT64_LIMIT = 2**63


def check_extent(spatial_shape: Sequence[int], batch_size: int) -> tuple[int, ...]:
    """The shape as a tuple of ints, if coordinates fit int32 and linear keys int64.

    Raises:
        ValueError: Not 1 to 3 axes, an axis below 1 or above 2^31, a negative batch size, or
            ``batch_size * prod(spatial_shape) > 2^63``.
    """
    shape = tuple(int(size) for size in spatial_shape)
    if not 1 <= len(shape) <= 3:
        raise ValueError(f"spatial_shape: found {shape}, expected 1 to 3 axes")
    if any(size < 1 or size > INT32_LIMIT for size in shape):
        raise ValueError(f"spatial_shape: found {shape}, expected sizes from 1 to 2^31 (coordinates are int32)")
    if not 0 <= batch_size <= INT32_LIMIT:
        raise ValueError(f"batch_size: found {batch_size}, expected 0 to 2^31")
    volume = int(batch_size)
    for size in shape:
        volume *= size
    if volume > INT64_LIMIT:
        raise ValueError(
            f"spatial_shape: {batch_size} samples of {shape} have {volume} cells, expected at most 2^63, the range of "
            "a linear key; use a smaller shape or larger voxels"
        )
    return shape


def sort_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Sort int64 keys and return the stable permutation that sorts them.

    Args:
        keys: Linear keys (N,), int64, not negative.

    Returns:
        Sorted keys (N,) and ``order`` (N,) int64 with ``sorted = keys[order]``; equal keys keep their order.

    Raises:
        ValueError: Wrong shape or dtype.

    Example:
        >>> import torch
        >>> sort_keys(torch.tensor([7, 3, 7, 1]))
        (tensor([1, 3, 7, 7]), tensor([3, 1, 0, 2]))
    """
    check_shape("keys", keys, ("N",))
    check_dtype("keys", keys, torch.int64)
    return _sort_keys(keys)


def unique_keys(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct keys in ascending order, the rank of every key among them, and the CSR offsets of their sorted runs.

    Args:
        keys: Linear keys (P,), int64, not negative.

    Returns:
        Distinct keys (N,), ranks (P,) int64, and offsets (N + 1,) int64 into the stably sorted keys.
    """
    sorted_keys, order = sort_keys(keys)
    first = torch.ones_like(sorted_keys, dtype=torch.bool)
    torch.ne(sorted_keys[1:], sorted_keys[:-1], out=first[1:])
    ranks = torch.empty_like(order)
    ranks[order] = first.cumsum(0) - 1
    starts = first.nonzero().squeeze(1)
    return sorted_keys[starts], ranks, torch.cat([starts, starts.new_tensor([len(keys)])])


_sort_keys = define_op(
    "sort_keys(Tensor keys) -> (Tensor sorted, Tensor order)",
    reference=reference.sort_keys,
    fake=lambda keys: (torch.empty_like(keys), torch.empty_like(keys)),
)
