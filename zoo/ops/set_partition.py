"""Windows of sites, and their split into sets of equal size: where DSVT's attention takes place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.ops import checks
from zoo.ops.dispatch import define_op
from zoo.ops.grid_keys import check_extent, sort_keys
from zoo.ops.reference import set_partition as reference


class Windows(NamedTuple):
    """The result of `window_partition`."""

    window: Tensor  # (N,) int64, number of the window in the batch
    inside: Tensor  # (N, D) int64, coordinates in the window


class SetPartition(NamedTuple):
    """The result of `set_partition`: S sets of T slots in each of two rotations, holding every site once.

    Without repeats a set is a run of `order`: set s of rotation r holds ``order[r, offsets[s]:offsets[s + 1]]``.
    """

    slots: Tensor  # (2, S, T) int64, caller's row of every slot, sets in ascending order of their windows
    repeated: Tensor  # (2, S, T) bool, whether the slot holds the same row as the slot before it
    order: Tensor  # (2, N) int64, caller's rows, set by set
    offsets: Tensor  # (S + 1,) int64, the same for both rotations

    @property
    def num_sets(self) -> int:
        """Number of sets S."""
        return self.slots.shape[1]


def num_windows(spatial_shape: Sequence[int], window_shape: Sequence[int]) -> tuple[int, ...]:
    """Windows on each axis, ``ceil(shape / window) + 1``: room for any shift of less than a window."""
    return tuple(-(-size // window) + 1 for size, window in zip(spatial_shape, window_shape, strict=True))


def window_partition(
    coords: Tensor, spatial_shape: Sequence[int], window_shape: Sequence[int], *, shift: Sequence[int] | None = None
) -> Windows:
    r"""The window that holds each site, and where in it the site lies.

    .. math:: q = (c + s) \bmod w, \quad W = \lfloor (c + s) / w \rfloor, \quad
        \text{window} = ((b n_0 + W_0) n_1 + W_1) n_2 + W_2, \quad n = \lceil S / w \rceil + 1

    Args:
        coords: Sites (N, 1 + D), batch index first, int32 or int64, in any order; D = 2 or 3.
        spatial_shape: Extent S of the D axes.
        window_shape: Sites w along each axis of a window.
        shift: Added to the coordinates, from 0 to below the window on each axis; none if None.

    Returns:
        `Windows`, rows in the caller's order, axes in the order of the coordinate columns.

    Raises:
        ValueError: Wrong shape or dtype, a window below 1, or a shift that is not inside of the window.

    Example:
        >>> window_partition(torch.tensor([[0, 5, 1], [0, 0, 3]]), (8, 8), (4, 4), shift=(2, 2)).window
        tensor([3, 1])
    """
    shape, window, moved = _check_windows(coords, spatial_shape, window_shape, shift)
    return Windows(*_window_partition(coords.to(torch.int32).contiguous(), window, moved, num_windows(shape, window)))


def set_partition(
    coords: Tensor,
    spatial_shape: Sequence[int],
    window_shape: Sequence[int],
    set_size: int,
    *,
    shift: Sequence[int] | None = None,
) -> SetPartition:
    r"""Split the sites of every window evenly into the fewest sets of at most ``set_size`` sites.

    A window of M sites gives :math:`k = \lceil M / T \rceil` sets; slot t of set i holds the site of rank
    :math:`\lfloor (iT + t) M / (kT) \rfloor`, so that sites repeat where M is no multiple of T, next to each other and
    never across sets. Ranks follow the second axis, then the first, then the third in rotation 0, and the first, second
    and third in rotation 1 ("rotated sets", DSVT section 3.2).

    Args:
        coords: Distinct sites (N, 1 + D), batch index first, int32 or int64, in any order; D = 2 or 3.
        spatial_shape: Extent of the D axes.
        window_shape: Sites along each axis of a window.
        set_size: T, slots of a set.
        shift: Added to the coordinates before they are divided into windows; none if None.

    Returns:
        `SetPartition`, whose rows are the caller's.

    Raises:
        ValueError: Wrong shape or dtype, a window or set below 1, or a shift that is not inside of the window.

    Example:
        >>> sets = set_partition(torch.tensor([[0, 0, 1], [0, 1, 0], [0, 1, 1]]), (2, 2), (2, 2), 2)
        >>> sets.slots.tolist()
        [[[1, 1], [0, 2]], [[0, 0], [1, 2]]]
    """
    shape, window, moved = _check_windows(coords, spatial_shape, window_shape, shift)
    if set_size < 1:
        raise ValueError(f"set_size: found {set_size}, expected at least 1")
    keys = _set_keys(coords.to(torch.int32).contiguous(), window, moved, num_windows(shape, window))
    (sorted_keys, first_order), (_, second_order) = sort_keys(keys[0]), sort_keys(keys[1])
    window_of_rank = torch.div(sorted_keys, math.prod(window), rounding_mode="floor")
    begins = torch.ones_like(window_of_rank, dtype=torch.bool)
    torch.ne(window_of_rank[1:], window_of_rank[:-1], out=begins[1:])
    starts = torch.cat([begins.nonzero().squeeze(1), keys.new_tensor([len(coords)])])
    sets = torch.div(starts.diff() + (set_size - 1), set_size, rounding_mode="floor")
    first_set = torch.cat([starts.new_zeros(1), sets.cumsum(0)])
    set_window = torch.repeat_interleave(sets)
    order = torch.stack([first_order, second_order])
    slots, repeated, offsets = _fill_sets(order, set_window, starts, first_set, set_size)
    return SetPartition(slots, repeated, order, offsets)


def _check_windows(
    coords: Tensor, spatial_shape: Sequence[int], window_shape: Sequence[int], shift: Sequence[int] | None
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    shape, window = check_extent(spatial_shape, 1), tuple(int(size) for size in window_shape)
    moved = (0,) * len(shape) if shift is None else tuple(int(step) for step in shift)
    if len(shape) < 2:
        raise ValueError(f"spatial_shape: found {shape}, expected 2 or 3 axes")
    checks.check_shape("coords", coords, ("N", 1 + len(shape)))
    checks.check_dtype("coords", coords, (torch.int32, torch.int64))
    if len(window) != len(shape) or min(window) < 1:
        raise ValueError(f"window_shape: found {window}, expected {len(shape)} sizes of at least 1")
    if len(moved) != len(shape) or any(not 0 <= step < size for step, size in zip(moved, window, strict=True)):
        raise ValueError(f"shift: found {moved}, expected {len(shape)} steps from 0 to below the window {window}")
    samples = 1 if not len(coords) or not checks.checks_values() else int(coords[:, 0].max()) + 1
    check_extent([count * size for count, size in zip(num_windows(shape, window), window, strict=True)], samples)
    if checks.checks_values() and len(coords):
        space = coords[:, 1:]
        if bool(((space < 0) | (space >= space.new_tensor(shape))).any()) or bool((coords[:, 0] < 0).any()):
            raise ValueError(f"coords: found sites outside of spatial_shape {shape}, expected sites inside")
    return shape, window, moved


_window_partition = define_op(
    "window_partition(Tensor coords, int[] window_shape, int[] shift, int[] num_windows) -> (Tensor, Tensor)",
    reference=reference.window_partition,
    fake=lambda coords, window_shape, shift, num_windows: (
        coords.new_empty(coords.shape[0], dtype=torch.int64),
        coords.new_empty(coords.shape[0], coords.shape[1] - 1, dtype=torch.int64),
    ),
)
_set_keys = define_op(
    "set_keys(Tensor coords, int[] window_shape, int[] shift, int[] num_windows) -> Tensor",
    reference=reference.set_keys,
    fake=lambda coords, window_shape, shift, num_windows: coords.new_empty(2, coords.shape[0], dtype=torch.int64),
)
_fill_sets = define_op(
    "fill_sets(Tensor order, Tensor set_window, Tensor window_starts, Tensor first_set, int set_size)"
    " -> (Tensor slots, Tensor repeated, Tensor offsets)",
    reference=reference.fill_sets,
    fake=lambda order, set_window, window_starts, first_set, set_size: (
        order.new_empty(2, set_window.shape[0], set_size),
        order.new_empty(2, set_window.shape[0], set_size, dtype=torch.bool),
        order.new_empty(set_window.shape[0] + 1),
    ),
)
