"""Pooling over a kernel map in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.ops.reference.sparse_conv import accumulation_dtype, offset_groups


def sparse_max_pool(
    features: Tensor, pairs_in: Tensor, pairs_out: Tensor, offsets: Tensor, num_out: int
) -> tuple[Tensor, Tensor]:
    """Maximum over the active inputs of each output, and the int32 row that holds it (the first in kernel order).

    NaN wins over numbers. An output without inputs is 0 with row -1.
    """
    out = features.new_full((num_out, features.shape[1]), -torch.inf)
    argmax = torch.full((num_out, features.shape[1]), -1, dtype=torch.int32, device=features.device)
    for _, rows_in, rows_out in offset_groups(pairs_in, pairs_out, offsets):
        value, best, row = features[rows_in], out[rows_out], argmax[rows_out]
        wins = (row < 0) | (value > best) | (value.isnan() & ~best.isnan())
        out = out.index_put((rows_out,), torch.where(wins, value, best))
        argmax = argmax.index_put((rows_out,), torch.where(wins, rows_in.to(torch.int32)[:, None], row))
    return torch.where(argmax >= 0, out, 0), argmax


def sparse_max_pool_backward(grad_out: Tensor, argmax: Tensor, num_in: int) -> Tensor:
    """Each output's gradient goes to the row that held its maximum."""
    grad = grad_out.new_zeros(num_in, grad_out.shape[1], dtype=accumulation_dtype(grad_out.dtype))
    taken = torch.where(argmax >= 0, grad_out, 0).to(grad.dtype)
    if num_in == 0:
        return grad.to(grad_out.dtype)
    return grad.scatter_add_(0, argmax.clamp(min=0).to(torch.int64), taken).to(grad_out.dtype)


def input_counts(pairs_out: Tensor, num_out: int) -> Tensor:
    """The number of active inputs of each output, at least 1, int64 ``(num_out,)``."""
    return torch.bincount(pairs_out, minlength=num_out).clamp_(min=1)


def sparse_avg_pool(features: Tensor, pairs_in: Tensor, pairs_out: Tensor, offsets: Tensor, num_out: int) -> Tensor:
    """Mean over the active inputs of each output; 0 for an output without inputs."""
    values = features.to(accumulation_dtype(features.dtype))
    out = values.new_zeros(num_out, features.shape[1])
    for _, rows_in, rows_out in offset_groups(pairs_in, pairs_out, offsets):
        out.index_add_(0, rows_out, values[rows_in])
    return (out / input_counts(pairs_out, num_out)[:, None]).to(features.dtype)


def sparse_avg_pool_backward(
    grad_out: Tensor, pairs_in: Tensor, pairs_out: Tensor, offsets: Tensor, num_in: int
) -> Tensor:
    """Each output's gradient, divided by its number of inputs, goes to every one of them."""
    values = grad_out.to(accumulation_dtype(grad_out.dtype)) / input_counts(pairs_out, len(grad_out))[:, None]
    grad = values.new_zeros(num_in, grad_out.shape[1])
    for _, rows_in, rows_out in offset_groups(pairs_in, pairs_out, offsets):
        grad.index_add_(0, rows_in, values[rows_out])
    return grad.to(grad_out.dtype)
