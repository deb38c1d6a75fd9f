"""Multi-head attention within sets of rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from zoo.ops import checks
from zoo.ops.dispatch import define_op
from zoo.ops.reference import set_attention as reference
from zoo.ops.reference.set_attention import attend_slots, first_slots, padded_set_attention
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


class SlotSets(NamedTuple):
    """Sets as `slot_attention` takes them: nothing in them needs to be counted, so that a graph can hold them."""

    slots: Tensor  # (2, S, T) int64, row of every slot
    repeated: Tensor  # (2, S, T) bool, whether the slot holds the same row as the slot before it
    places: Tensor  # (2, N) int64, the slot s T + t in which each row stands first


def slot_sets(sets: SetPartition, *, num_rows: int | None = None, num_sets: int | None = None) -> SlotSets:
    """Sets for `slot_attention`, filled up to a fixed number of rows and sets.

    Args:
        sets: From `set_partition`.
        num_rows: Rows in all; those added form no set and are given the slot of another row. None: as there are.
        num_sets: Sets in all; each that is added holds row 0 alone, and no row reads it. None: as there are.

    Raises:
        ValueError: More rows or sets than there is room for.

    Example:
        >>> from zoo.ops import set_partition
        >>> sets = slot_sets(set_partition(torch.tensor([[0, 0, 0], [0, 3, 3]]), (4, 4), (2, 2), 2), num_sets=3)
        >>> sets.slots[0].tolist(), sets.places[0].tolist()
        ([[0, 0], [1, 1], [0, 0]], [0, 2])
    """
    found_rows, found_sets = sets.order.shape[1], sets.num_sets
    rows, count = num_rows or found_rows, num_sets or found_sets
    for name, room, found in (("num_rows", rows, found_rows), ("num_sets", count, found_sets)):
        if room < found:
            raise ValueError(f"{name}: found {room}, expected at least {found}; make more room")
    places = torch.stack([first_slots(sets.repeated[rotation], sets.order[rotation]) for rotation in range(2)])
    slots = functional.pad(sets.slots, (0, 0, 0, count - found_sets))
    repeated = functional.pad(sets.repeated, (0, 0, 0, count - found_sets), value=True)
    repeated[:, found_sets:, :1] = False  # a softmax over nothing would not be a number
    return SlotSets(slots, repeated, functional.pad(places, (0, rows - found_rows)))


def slot_attention(
    query: Tensor, key: Tensor, value: Tensor, sets: SlotSets, *, rotation: int, num_heads: int
) -> Tensor:
    """`set_attention` of gather, ``scaled_dot_product_attention`` and gather, for exported graphs.

    Args:
        query: ``(N, C)``.
        key: ``(N, C)``.
        value: ``(N, C)``.
        sets: From `slot_sets`.
        rotation: Which of the two rotations of the sets, 0 or 1.
        num_heads: Number of heads; divides C.

    Returns:
        ``(N, C)``, rows in the order of ``query``.

    Raises:
        ValueError: Rows that the sets do not have, an unknown rotation, or heads that do not divide the channels.

    Example:
        >>> from zoo.ops import set_partition
        >>> sets = slot_sets(set_partition(torch.tensor([[0, 0, 0], [0, 3, 3]]), (4, 4), (2, 2), 2))
        >>> rows = torch.eye(2)
        >>> slot_attention(rows, rows, rows, sets, rotation=0, num_heads=1)
        tensor([[1., 0.],
                [0., 1.]])
    """
    checks.check_shape("query", query, (sets.places.shape[1], "C"))
    _check_heads(query, rotation, num_heads)
    parts = (sets.slots[rotation], sets.repeated[rotation], sets.places[rotation])
    return attend_slots(query, key, value, *parts, num_heads)


def _check(query: Tensor, key: Tensor, value: Tensor, sets: SetPartition, rotation: int, num_heads: int) -> None:
    checks.check_shape("query", query, (sets.order.shape[1], "C"))
    checks.check_dtype("query", query, checks.FLOATING_OR_HALF)
    for name, tensor in (("key", key), ("value", value)):
        checks.check_shape(name, tensor, tuple(query.shape))
        checks.check_same_dtype(name, tensor, "query", query)
        checks.check_same_device(name, tensor, "query", query)
    checks.check_same_device("sets", sets.slots, "query", query)
    _check_heads(query, rotation, num_heads)


def _check_heads(query: Tensor, rotation: int, num_heads: int) -> None:
    if rotation not in (0, 1):
        raise ValueError(f"rotation: found {rotation}, expected 0 or 1")
    if num_heads < 1 or query.shape[1] % num_heads:
        raise ValueError(f"num_heads: found {num_heads} for {query.shape[1]} channels, expected a divisor")
