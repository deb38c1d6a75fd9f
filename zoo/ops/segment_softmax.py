"""Softmax over groups of rows: attention weights among the points of a cell or the members of a set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.ops import checks
from zoo.ops.dispatch import define_op
from zoo.ops.packed import check_packed_info, pack_info, widen
from zoo.ops.reference import segment_softmax as reference


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(output, inputs[1])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    softmax, packed_info = ctx.saved_tensors
    return _segment_softmax_backward(grad, softmax, packed_info), None


_segment_softmax = define_op(
    "segment_softmax(Tensor values, Tensor packed_info) -> Tensor",
    reference=reference.segment_softmax,
    fake=lambda values, packed_info: values.new_empty(values.shape),
    backward=(_setup, _backward),
    autocast="float32",
)
_segment_softmax_backward = define_op(
    "segment_softmax_backward(Tensor grad, Tensor softmax, Tensor packed_info) -> Tensor",
    reference=reference.segment_softmax_backward,
    fake=lambda grad, softmax, packed_info: softmax.new_empty(softmax.shape),
)


def segment_softmax(
    values: Tensor,
    segment_ids: Tensor | None = None,
    num_segments: int | None = None,
    *,
    packed_info: Tensor | None = None,
) -> Tensor:
    r"""Softmax of each column among the rows of each segment.

    .. math:: y_{ic} = \frac{e^{x_{ic} - m_{sc}}}{\sum_{j \in s} e^{x_{jc} - m_{sc}}},
        \quad m_{sc} = \max_{j \in s} x_{jc}

    Args:
        values: ``(N, C)``; half precision is computed and returned in float32.
        segment_ids: Segment of each row, in any order, ``(N,)`` int64, with ``num_segments``.
        num_segments: Number of segments S.
        packed_info: Instead of them: start and count of each segment's run, ``(S, 2)`` int64, as `pack_info` makes it.

    Returns:
        ``(N, C)`` in the caller's order of rows; sums run in that order too, whatever the number of threads.

    Raises:
        ValueError: Wrong shape, dtype, device or segment number.

    Example:
        >>> segment_softmax(torch.tensor([[1.0], [5.0], [1.0]]), torch.tensor([2, 0, 2]), 3).squeeze(1)
        tensor([0.5000, 1.0000, 0.5000])
    """
    checks.check_shape("values", values, ("N", "C"))
    checks.check_dtype("values", values, checks.FLOATING_OR_HALF)
    values = widen(values)
    if (segment_ids is None) == (packed_info is None):
        raise ValueError("segment_ids, packed_info: found both or neither, expected one of them")
    if packed_info is not None:
        check_packed_info(packed_info, "values", values)
        return _segment_softmax(values.contiguous(), packed_info)
    assert segment_ids is not None
    checks.check_shape("segment_ids", segment_ids, (values.shape[0],))
    checks.check_dtype("segment_ids", segment_ids, torch.int64)
    checks.check_same_device("segment_ids", segment_ids, "values", values)
    if num_segments is None:
        raise ValueError("num_segments: found None, expected the number of segments beside segment_ids")
    ordered, order = torch.sort(segment_ids, stable=True)
    if len(ordered) and (checks.checks_values() or ordered.device.type == "cpu"):
        low, high = int(ordered[0]), int(ordered[-1])
        if low < 0 or high >= num_segments:
            raise ValueError(
                f"segment_ids: found values from {low} to {high}, expected 0 to {num_segments - 1} for "
                f"num_segments={num_segments}"
            )
    inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return _segment_softmax(values[order], pack_info(ordered, num_segments))[inverse]
