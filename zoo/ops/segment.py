"""Sums, means and extremes over groups of rows, given as sorted runs (``packed_info``) or as an index of each row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.ops import checks
from zoo.ops.dispatch import define_op
from zoo.ops.packed import check_packed_info, widen
from zoo.ops.reference import segment as reference


def _setup_total(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    values, packed_info = inputs
    ctx.num_rows = values.shape[0]
    ctx.save_for_backward(packed_info)


def _backward_total(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (packed_info,) = ctx.saved_tensors
    return _segment_spread(grad, packed_info, ctx.num_rows), None


def _setup_spread(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _backward_spread(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (packed_info,) = ctx.saved_tensors
    return _segment_total(grad, packed_info), None, None


def _setup_extreme(ctx: Any, inputs: tuple[Tensor, Tensor, bool], output: tuple[Tensor, Tensor]) -> None:
    ctx.num_rows = inputs[0].shape[0]
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _backward_extreme(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
    (rows,) = ctx.saved_tensors
    result = grad.new_zeros(ctx.num_rows + 1, grad.shape[1])  # an empty segment's row is -1: the one cut off below
    return result.scatter(0, rows % (ctx.num_rows + 1), grad)[:-1], None, None


_segment_total = define_op(
    "segment_total(Tensor values, Tensor packed_info) -> Tensor",
    reference=reference.segment_total,
    fake=lambda values, packed_info: values.new_empty(packed_info.shape[0], values.shape[1]),
    backward=(_setup_total, _backward_total),
    autocast="float32",
)
_segment_spread = define_op(
    "segment_spread(Tensor totals, Tensor packed_info, SymInt num_rows) -> Tensor",
    reference=reference.segment_spread,
    fake=lambda totals, packed_info, num_rows: totals.new_empty(num_rows, totals.shape[1]),
    backward=(_setup_spread, _backward_spread),
    autocast="float32",
)
_segment_extreme = define_op(
    "segment_extreme(Tensor values, Tensor packed_info, bool largest) -> (Tensor, Tensor)",
    reference=reference.segment_extreme,
    fake=lambda values, packed_info, largest: (
        values.new_empty(packed_info.shape[0], values.shape[1]),
        packed_info.new_empty(packed_info.shape[0], values.shape[1]),
    ),
    backward=(_setup_extreme, _backward_extreme),
    autocast="float32",
)


def _as_runs(
    values: Tensor, segment_ids: Tensor | None, num_segments: int | None, packed_info: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The rows in order of their segments, and the runs that these form."""
    checks.check_shape("values", values, ("N", "C"))
    checks.check_dtype("values", values, checks.FLOATING_OR_HALF)
    values = widen(values)
    if (segment_ids is None) == (packed_info is None):
        raise ValueError("segment_ids, packed_info: found both or neither, expected one of them")
    if packed_info is not None:
        check_packed_info(packed_info, "values", values)
        return values, packed_info
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
    edges = torch.searchsorted(ordered, torch.arange(num_segments + 1, device=values.device))
    return values[order], torch.stack([edges[:-1], edges[1:] - edges[:-1]], dim=-1)


def segment_sum(
    values: Tensor,
    segment_ids: Tensor | None = None,
    num_segments: int | None = None,
    *,
    packed_info: Tensor | None = None,
) -> Tensor:
    """Sum of the rows of each segment, 0 for an empty one.

    Args:
        values: ``(N, C)``.
        segment_ids: Segment of each row, in any order, ``(N,)`` int64, with ``num_segments``.
        num_segments: Number of segments S.
        packed_info: Instead of them: start and count of each segment's run, ``(S, 2)`` int64.

    Returns:
        ``(S, C)``; rows are added in the caller's order, so the result does not depend on the number of threads.

    Raises:
        ValueError: Wrong shape, dtype, device or segment number.

    Example:
        >>> segment_sum(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([2, 0, 2]), 3).squeeze(1)
        tensor([2., 0., 5.])
    """
    return _segment_total(*_as_runs(values, segment_ids, num_segments, packed_info))


def segment_mean(
    values: Tensor,
    segment_ids: Tensor | None = None,
    num_segments: int | None = None,
    *,
    packed_info: Tensor | None = None,
) -> Tensor:
    """Mean of the rows of each segment, 0 for an empty one; arguments as `segment_sum`.

    Args:
        values: ``(N, C)``.
        segment_ids: Segment of each row, in any order, ``(N,)`` int64, with ``num_segments``.
        num_segments: Number of segments S.
        packed_info: Instead of them: start and count of each segment's run, ``(S, 2)`` int64.

    Returns:
        ``(S, C)``.

    Example:
        >>> segment_mean(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([2, 0, 2]), 3).squeeze(1)
        tensor([2.0000, 0.0000, 2.5000])
    """
    rows, runs = _as_runs(values, segment_ids, num_segments, packed_info)
    totals = _segment_total(rows, runs)
    return totals / runs[:, 1:].clamp_min(1).to(totals.dtype)


def segment_max(
    values: Tensor,
    segment_ids: Tensor | None = None,
    num_segments: int | None = None,
    *,
    packed_info: Tensor | None = None,
) -> Tensor:
    """Largest value of each segment and column, 0 for an empty one; the gradient goes to the first such row.

    Args:
        values: ``(N, C)``.
        segment_ids: Segment of each row, in any order, ``(N,)`` int64, with ``num_segments``.
        num_segments: Number of segments S.
        packed_info: Instead of them: start and count of each segment's run, ``(S, 2)`` int64.

    Returns:
        ``(S, C)``.

    Example:
        >>> segment_max(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([2, 0, 2]), 3).squeeze(1)
        tensor([2., 0., 4.])
    """
    return _segment_extreme(*_as_runs(values, segment_ids, num_segments, packed_info), True)[0]


def segment_min(
    values: Tensor,
    segment_ids: Tensor | None = None,
    num_segments: int | None = None,
    *,
    packed_info: Tensor | None = None,
) -> Tensor:
    """Smallest value of each segment and column, 0 for an empty one; the gradient goes to the first such row.

    Args:
        values: ``(N, C)``.
        segment_ids: Segment of each row, in any order, ``(N,)`` int64, with ``num_segments``.
        num_segments: Number of segments S.
        packed_info: Instead of them: start and count of each segment's run, ``(S, 2)`` int64.

    Returns:
        ``(S, C)``.

    Example:
        >>> segment_min(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([2, 0, 2]), 3).squeeze(1)
        tensor([2., 0., 1.])
    """
    return _segment_extreme(*_as_runs(values, segment_ids, num_segments, packed_info), False)[0]
