"""Attention within sets in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from zoo.ops.reference.autograd import vjp


def first_slots(repeated: Tensor, order: Tensor) -> Tensor:
    """The flat slot (S T) that each row (N,) stands in first."""
    slots = (~repeated).reshape(-1).nonzero().squeeze(1)  # in the order of `order`
    return torch.empty_like(slots).index_copy_(0, order, slots)


def gather_slots(values: Tensor, slots: Tensor, num_heads: int) -> Tensor:
    """Rows (N, C) to (S, heads, T, D)."""
    picked = values.index_select(0, slots.reshape(-1))
    return picked.view(*slots.shape, num_heads, values.shape[1] // num_heads).transpose(1, 2)


def padded_set_attention(
    query: Tensor, key: Tensor, value: Tensor, slots: Tensor, repeated: Tensor, order: Tensor, num_heads: int
) -> Tensor:
    """Gather slots, attend with torch's own kernel, and take every row from the slot it stands in first."""
    return attend_slots(query, key, value, slots, repeated, first_slots(repeated, order), num_heads)


def attend_slots(
    query: Tensor, key: Tensor, value: Tensor, slots: Tensor, repeated: Tensor, places: Tensor, num_heads: int
) -> Tensor:
    """The same where the flat slot (N,) that each row stands in first is known."""
    q, k, v = (gather_slots(part, slots, num_heads) for part in (query, key, value))
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=~repeated[:, None, None, :])
    flat = out.transpose(1, 2).reshape(slots.numel(), query.shape[1])
    return flat.index_select(0, places)


def set_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    slots: Tensor,
    repeated: Tensor,
    order: Tensor,
    offsets: Tensor,
    num_heads: int,
) -> tuple[Tensor, Tensor]:
    """Attention (N, C) and the logarithm of the sums of exponentials (N, heads)."""
    q, k, v = (gather_slots(part, slots, num_heads) for part in (query, key, value))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    scores = scores.masked_fill(repeated[:, None, None, :], -torch.inf)
    sums = scores.logsumexp(dim=-1)  # (S, heads, T)
    out = (torch.exp(scores - sums[..., None]) @ v).transpose(1, 2).reshape(slots.numel(), query.shape[1])
    rows = first_slots(repeated, order)
    return out.index_select(0, rows), sums.transpose(1, 2).reshape(slots.numel(), num_heads).index_select(0, rows)


def set_attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    logsumexp: Tensor,
    slots: Tensor,
    repeated: Tensor,
    order: Tensor,
    offsets: Tensor,
    num_heads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, (N, C) each."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return set_attention(q, k, v, slots, repeated, order, offsets, num_heads)[0]

    grad_query, grad_key, grad_value = (part.contiguous() for part in vjp(attend, (query, key, value), grad))
    return grad_query, grad_key, grad_value
