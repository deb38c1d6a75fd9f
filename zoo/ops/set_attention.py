"""Multi-head attention within sets of rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.ops import checks
from zoo.ops.dispatch import define_op
from zoo.ops.reference import set_attention as reference
from zoo.ops.reference.set_attention import padded_set_attention
from zoo.ops.set_partition import SetPartition


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, slots, repeated, order, offsets, ctx.num_heads = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(query, key, value, *output, slots, repeated, order, offsets)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *_set_attention_backward(grad, *ctx.saved_tensors, ctx.num_heads), None, None, None, None, None


_set_attention = define_op(
    "set_attention(Tensor query, Tensor key, Tensor value, Tensor slots, Tensor repeated, Tensor order, "
    "Tensor offsets, int num_heads) -> (Tensor out, Tensor logsumexp)",
    reference=reference.set_attention,
    fake=lambda query, key, value, slots, repeated, order, offsets, num_heads: (
        query.new_empty(query.shape),
        query.new_empty(query.shape[0], num_heads),
    ),
    backward=(_setup, _backward),
    autocast="float32",
)
_set_attention_backward = define_op(
    "set_attention_backward(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor output, Tensor logsumexp, "
    "Tensor slots, Tensor repeated, Tensor order, Tensor offsets, int num_heads) -> (Tensor, Tensor, Tensor)",
    reference=reference.set_attention_backward,
    fake=lambda grad, query, *others: tuple(query.new_empty(query.shape) for _ in range(3)),
)


def set_attention(
    query: Tensor, key: Tensor, value: Tensor, sets: SetPartition, *, rotation: int, num_heads: int
) -> Tensor:
    r"""Attention of every row to the rows of its set, with ``num_heads`` heads of D = C / num_heads channels.

    .. math:: o_i = \sum_{j \in \text{set}(i)} \mathrm{softmax}_j(q_i \cdot k_j / \sqrt{D}) \, v_j

    Every row is counted once, however often it repeats in the set's slots. On the CPU each set is gathered, attended
    and scattered on its own, and no padded copy of the sets exists; elsewhere, in half precision and in exported graphs
    the slots are gathered and go through torch's ``scaled_dot_product_attention``.

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
    slots, repeated, order = sets.slots[rotation], sets.repeated[rotation], sets.order[rotation]
    exported = torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
    if query.device.type != "cpu" or query.dtype not in checks.FLOATING or exported:
        return padded_set_attention(query, key, value, slots, repeated, order, num_heads)
    return _set_attention(query, key, value, slots, repeated, order, sets.offsets, num_heads)[0]


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
