"""Convolution over a kernel map in plain torch: gather, multiply, scatter-add, one kernel offset at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor


def offset_groups(pairs_in: Tensor, pairs_out: Tensor, offsets: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The kernel offsets that have pairs, each with its input rows and output rows (int64)."""
    for k, (start, stop) in enumerate(itertools.pairwise(offsets.tolist())):
        if stop > start:
            yield k, pairs_in[start:stop].to(torch.int64), pairs_out[start:stop].to(torch.int64)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for half-precision values, else the dtype itself."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _grouped(values: Tensor, groups: int) -> Tensor:
    return values.unflatten(-1, (groups, values.shape[-1] // groups))  # (P, C) -> (P, G, C / G)


def sparse_conv(
    features: Tensor,
    weight: Tensor,
    pairs_in: Tensor,
    pairs_out: Tensor,
    offsets: Tensor,
    num_out: int,
    groups: int,
) -> Tensor:
    """``out[o] = sum over the pairs (i, o) of k of weight[:, k] @ features[i]``, weight (C_out, K, C_in / groups)."""
    dtype = accumulation_dtype(features.dtype)
    features_acc, weight_acc = features.to(dtype), weight.to(dtype)
    out = features_acc.new_zeros(num_out, weight.shape[0])
    for k, rows_in, rows_out in offset_groups(pairs_in, pairs_out, offsets):
        kernel = weight_acc[:, k].unflatten(0, (groups, -1))  # (G, C_out / G, C_in / G)
        out.index_add_(
            0, rows_out, torch.einsum("pgi,goi->pgo", _grouped(features_acc[rows_in], groups), kernel).flatten(1)
        )
    return out.to(features.dtype)


def sparse_conv_dgrad(
    grad_out: Tensor, weight: Tensor, pairs_in: Tensor, pairs_out: Tensor, offsets: Tensor, num_in: int, groups: int
) -> Tensor:
    """Gradient of `sparse_conv` with respect to its features, ``(num_in, C_in)``."""
    dtype = accumulation_dtype(grad_out.dtype)
    grad_acc, weight_acc = grad_out.to(dtype), weight.to(dtype)
    out = grad_acc.new_zeros(num_in, weight.shape[2] * groups)
    for k, rows_in, rows_out in offset_groups(pairs_in, pairs_out, offsets):
        kernel = weight_acc[:, k].unflatten(0, (groups, -1))
        out.index_add_(
            0, rows_in, torch.einsum("pgo,goi->pgi", _grouped(grad_acc[rows_out], groups), kernel).flatten(1)
        )
    return out.to(grad_out.dtype)


def sparse_conv_wgrad(
    features: Tensor, grad_out: Tensor, pairs_in: Tensor, pairs_out: Tensor, offsets: Tensor, groups: int
) -> Tensor:
    """Gradient of `sparse_conv` with respect to its weight, ``(C_out, K, C_in / groups)``."""
    dtype = accumulation_dtype(features.dtype)
    features_acc, grad_acc = features.to(dtype), grad_out.to(dtype)
    out = features_acc.new_zeros(grad_out.shape[1], offsets.shape[0] - 1, features.shape[1] // groups)
    for k, rows_in, rows_out in offset_groups(pairs_in, pairs_out, offsets):
        gathered = _grouped(features_acc[rows_in], groups)
        out[:, k] = torch.einsum("pgo,pgi->goi", _grouped(grad_acc[rows_out], groups), gathered).flatten(0, 1)
    return out.to(features.dtype)
