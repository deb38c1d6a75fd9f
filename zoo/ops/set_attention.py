"""Multi-head attention within sets of rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from zoo.ops import checks
from zoo.ops.set_partition import SetPartition


def set_attention(
    query: Tensor, key: Tensor, value: Tensor, sets: SetPartition, *, rotation: int, num_heads: int
) -> Tensor:
    r"""Attention of every row to the rows of its set, with ``num_heads`` heads of D = C / num_heads channels.

    .. math:: o_i = \sum_{j \in \text{set}(i)} \mathrm{softmax}_j(q_i \cdot k_j / \sqrt{D}) \, v_j

    Every row is counted once, however often it repeats in the set's slots. Rows are projected before they are gathered
    (``query``, ``key`` and ``value`` are rows, not slots), so that repeats cost nothing outside of the attention.

    Args:
        query: ``(N, C)``.
        key: ``(N, C)``.
        value: ``(N, C)``.
        sets: The sets of the N rows, from `set_partition`.
        rotation: Which of the two rotations of the sets, 0 or 1.
        num_heads: Number of heads; divides C.

    Returns:
        ``(N, C)``, rows in the order of ``query``.

    Raises:
        ValueError: Wrong shape, dtype or device, an unknown rotation, or heads that do not divide the channels.

    Example:
        >>> from zoo.ops import set_partition
        >>> sets = set_partition(torch.tensor([[0, 0, 0], [0, 3, 3]]), (4, 4), (2, 2), 2)
        >>> rows = torch.eye(2)
        >>> set_attention(rows, rows, rows, sets, rotation=0, num_heads=1)  # each row is alone in its set
        tensor([[1., 0.],
                [0., 1.]])
    """
    _check(query, key, value, sets, rotation, num_heads)
    slots, repeated = sets.slots[rotation], sets.repeated[rotation]
    num_sets, set_size = slots.shape
    rows, channels = query.shape
    flat = slots.reshape(-1)

    def gather(values: Tensor) -> Tensor:
        picked = values.index_select(0, flat).view(num_sets, set_size, num_heads, channels // num_heads)
        return picked.transpose(1, 2)  # (S, heads, T, D)

    seen = ~repeated[:, None, None, :]  # (S, 1, 1, T)
    out = functional.scaled_dot_product_attention(gather(query), gather(key), gather(value), attn_mask=seen)
    out = out.transpose(1, 2).reshape(num_sets * set_size, channels)
    first_slots = seen.reshape(-1).nonzero().squeeze(1)  # in the order of sets.order
    slot_of_row = torch.empty_like(first_slots).index_copy_(0, sets.order[rotation], first_slots)
    assert len(slot_of_row) == rows
    return out.index_select(0, slot_of_row)


def _check(query: Tensor, key: Tensor, value: Tensor, sets: SetPartition, rotation: int, num_heads: int) -> None:
    checks.check_shape("query", query, (sets.order.shape[1], "C"))
    checks.check_dtype("query", query, checks.FLOATING_OR_HALF)
    for name, tensor in (("key", key), ("value", value)):
        checks.check_shape(name, tensor, tuple(query.shape))
        checks.check_same_dtype(name, tensor, "query", query)
        checks.check_same_device(name, tensor, "query", query)
    checks.check_same_device("sets", sets.slots, "query", query)
    if rotation not in (0, 1):
        raise ValueError(f"rotation: found {rotation}, expected 0 or 1")
    if num_heads < 1 or query.shape[1] % num_heads:
        raise ValueError(f"num_heads: found {num_heads} for {query.shape[1]} channels, expected a divisor")
