"""Kernel maps and output sites of sparse convolutions in plain torch, one kernel offset at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from zoo.ops.reference.grid_keys import linear_keys, unravel_keys


def kernel_offsets(kernel_size: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The cells of a kernel in row-major order, last axis fastest."""
    return itertools.product(*(range(size) for size in kernel_size))


def kernel_map(
    in_coords: Tensor,
    out_coords: Tensor,
    in_shape: Sequence[int],
    out_shape: Sequence[int],
    batch_size: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of rows with ``in = out * stride - padding + k * dilation``, grouped by k, ascending in the output row."""
    volume = 1
    for size in kernel_size:
        volume *= size
    if len(in_coords) == 0 or len(out_coords) == 0:
        empty = in_coords.new_zeros(0, dtype=torch.int32)
        return empty, empty.clone(), in_coords.new_zeros(volume + 1, dtype=torch.int64)
    in_keys = linear_keys(in_coords, in_shape)
    limit = in_keys.new_tensor(in_shape)
    base = out_coords[:, 1:].to(torch.int64) * in_keys.new_tensor(stride) - in_keys.new_tensor(padding)
    pairs_in, pairs_out, counts = [], [], [0]
    for offset in kernel_offsets(kernel_size):
        site = base + in_keys.new_tensor([k * step for k, step in zip(offset, dilation, strict=True)])
        inside = ((site >= 0) & (site < limit)).all(dim=1)
        keys = linear_keys(torch.cat([out_coords[:, :1].to(torch.int64), site], dim=1), in_shape)
        rows = torch.searchsorted(in_keys, keys).clamp_(max=len(in_keys) - 1)
        out_rows = (inside & (in_keys[rows] == keys)).nonzero().squeeze(1)
        pairs_in.append(rows[out_rows].to(torch.int32))
        pairs_out.append(out_rows.to(torch.int32))
        counts.append(len(out_rows))
    return torch.cat(pairs_in), torch.cat(pairs_out), in_keys.new_tensor(counts).cumsum(0)


def conv_output_coords(
    in_coords: Tensor,
    in_shape: Sequence[int],
    out_shape: Sequence[int],
    batch_size: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
) -> Tensor:
    """Every output site that some input site reaches through some kernel offset, sorted by linear key."""
    batch, sites = in_coords[:, :1].to(torch.int64), in_coords[:, 1:].to(torch.int64)
    step, pad, limit = sites.new_tensor(stride), sites.new_tensor(padding), sites.new_tensor(out_shape)
    found = [sites.new_zeros(0)]
    for offset in kernel_offsets(kernel_size):
        shift = sites.new_tensor([k * d for k, d in zip(offset, dilation, strict=True)])
        if transposed:
            out = sites * step - pad + shift
            reached = (out >= 0).all(dim=1)
        else:
            scaled = sites + pad - shift
            out = torch.div(scaled, step, rounding_mode="floor")
            reached = ((scaled >= 0) & (out * step == scaled)).all(dim=1)
        reached &= (out < limit).all(dim=1)
        found.append(torch.unique(linear_keys(torch.cat([batch, out], dim=1)[reached], out_shape)))
    return unravel_keys(torch.unique(torch.cat(found)), out_shape)
