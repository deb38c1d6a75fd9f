"""Windows and sets of sites in plain torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def window_partition(
    coords: Tensor, window_shape: Sequence[int], shift: Sequence[int], num_windows: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Window number (N,) and coordinates inside of the window (N, D), both int64."""
    shifted = coords[:, 1:].to(torch.int64) + coords.new_tensor(shift, dtype=torch.int64)
    size = shifted.new_tensor(window_shape)
    window = torch.div(shifted, size, rounding_mode="floor")
    number = coords[:, 0].to(torch.int64)
    for axis, count in enumerate(num_windows):
        number = number * count + window[:, axis]
    return number, (shifted - window * size).contiguous()


def rotated_axes(ndim: int, rotation: int) -> tuple[int, ...]:
    """The axes of a rotation, slowest first: the second axis leads in rotation 0, the first in rotation 1."""
    return (1, 0, *range(2, ndim)) if rotation == 0 else tuple(range(ndim))


def set_keys(coords: Tensor, window_shape: Sequence[int], shift: Sequence[int], num_windows: Sequence[int]) -> Tensor:
    """Sort keys of both rotations (2, N) int64: the window, then the place in it."""
    window, inside = window_partition(coords, window_shape, shift, num_windows)
    keys = []
    for rotation in range(2):
        place = torch.zeros_like(window)
        for axis in rotated_axes(len(window_shape), rotation):
            place = place * window_shape[axis] + inside[:, axis]
        keys.append(window * math.prod(window_shape) + place)
    return torch.stack(keys)


def fill_sets(
    order: Tensor, set_window: Tensor, window_starts: Tensor, first_set: Tensor, set_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of every slot (2, S, T), whether a slot repeats the one before it (2, S, T), and the sets' runs (S + 1,)."""
    sites = window_starts.diff()[set_window][:, None]
    sets = first_set.diff()[set_window][:, None]
    number = (torch.arange(len(set_window), device=order.device) - first_set[set_window])[:, None]
    slot = torch.arange(set_size, device=order.device)
    start = window_starts[set_window][:, None]
    rank = start + torch.div((number * set_size + slot) * sites, sets * set_size, rounding_mode="floor")
    repeated = torch.zeros_like(rank, dtype=torch.bool)
    repeated[:, 1:] = rank[:, 1:] == rank[:, :-1]
    offsets = torch.cat([rank[:, 0], window_starts[-1:]])
    return order[:, rank].contiguous(), repeated.expand(2, -1, -1).contiguous(), offsets
