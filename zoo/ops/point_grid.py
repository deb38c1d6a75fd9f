"""Points and the cells of a regular grid: which points share a cell, attention among them, and interpolation.

Coordinates lie in [0, 1] on each axis. The first coordinate is the innermost axis: cell ``c0 + R (c1 + R c2)``, so that
a grid tensor ``(B, C, ...)`` ends in the axis of the first coordinate.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.ops import checks
from zoo.ops.dispatch import define_op
from zoo.ops.packed import check_packed_info, widen
from zoo.ops.reference import point_grid as reference

__all__ = ["PointCells", "cell_attention", "grid_to_rows", "point_cells", "rows_to_grid", "sample_point_grid"]


class PointCells(NamedTuple):
    """The points of a batch by the cell that they lie in, as `point_cells` finds it."""

    index: Tensor  # (B N,) int64: cell of every point, counted through the batch
    order: Tensor  # (B N,) int64: points sorted by cell, stable
    packed_info: Tensor  # (B R^D, 2) int64: start and count of each cell's run in ``order``
    resolution: int  # R
    axes: int  # D


_cell_index = define_op(
    "cell_index(Tensor coords, SymInt scale, SymInt largest, SymInt resolution) -> Tensor",
    reference=reference.cell_index,
    fake=lambda coords, scale, largest, resolution: coords.new_empty(
        coords.shape[0] * coords.shape[1], dtype=torch.int64
    ),
)
_cell_order = define_op(
    "cell_order(Tensor index, SymInt num_cells) -> (Tensor, Tensor)",
    reference=reference.cell_order,
    fake=lambda index, num_cells: (index.new_empty(index.shape), index.new_empty(num_cells, 2)),
)


def _setup_attention(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    _, values, index, order, packed_info = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], values, index, order, packed_info)


def _backward_attention(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*_cell_attention_backward(grad, *ctx.saved_tensors), None, None, None)


_cell_attention = define_op(
    "cell_attention(Tensor scores, Tensor values, Tensor index, Tensor order, Tensor packed_info) -> (Tensor, Tensor)",
    reference=reference.cell_attention,
    fake=lambda scores, values, index, order, packed_info: (
        values.new_empty(packed_info.shape[0], values.shape[1]),
        scores.new_empty(scores.shape),
    ),
    backward=(_setup_attention, _backward_attention),
    autocast="float32",
)
_cell_attention_backward = define_op(
    "cell_attention_backward(Tensor grad, Tensor weights, Tensor values, Tensor index, Tensor order, "
    "Tensor packed_info) -> (Tensor, Tensor)",
    reference=reference.cell_attention_backward,
    fake=lambda grad, weights, values, index, order, packed_info: (
        weights.new_empty(weights.shape),
        values.new_empty(values.shape),
    ),
)


def _between_nodes(coords: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Points by the cell between nodes: their order, and each cell's run in it."""
    index = _cell_index(coords, resolution - 1, max(resolution - 2, 0), resolution)
    return _cell_order(index, coords.shape[0] * resolution ** coords.shape[2])


def _setup_sample(ctx: Any, inputs: tuple[Tensor, Tensor, int, Tensor | None, Tensor | None], output: Tensor) -> None:
    ctx.resolution = inputs[2]
    ctx.save_for_backward(inputs[0], inputs[1], inputs[3], inputs[4])


def _backward_sample(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rows, coords, order, packed_info = ctx.saved_tensors
    resolution = ctx.resolution
    to_rows = to_coords = None
    if ctx.needs_input_grad[0]:
        if order is None or packed_info is None:
            order, packed_info = _between_nodes(coords, resolution)
        to_rows = _sample_rows_backward(grad, coords, resolution, order, packed_info)
    if ctx.needs_input_grad[1]:
        to_coords = _sample_coords_backward(grad, rows, coords, resolution)
    return to_rows, to_coords, None, None, None


_sample_rows = define_op(
    "sample_rows(Tensor rows, Tensor coords, SymInt resolution, Tensor? order, Tensor? packed_info) -> Tensor",
    reference=reference.sample_rows,
    fake=lambda rows, coords, resolution, order, packed_info: rows.new_empty(
        coords.shape[0], coords.shape[1], rows.shape[2]
    ),
    backward=(_setup_sample, _backward_sample),
    autocast="float32",
)
_sample_rows_backward = define_op(
    "sample_rows_backward(Tensor grad, Tensor coords, SymInt resolution, Tensor order, Tensor packed_info) -> Tensor",
    reference=reference.sample_rows_backward,
    fake=lambda grad, coords, resolution, order, packed_info: grad.new_empty(
        grad.shape[0], resolution ** coords.shape[2], grad.shape[2]
    ),
)
_sample_coords_backward = define_op(
    "sample_coords_backward(Tensor grad, Tensor rows, Tensor coords, SymInt resolution) -> Tensor",
    reference=reference.sample_coords_backward,
    fake=lambda grad, rows, coords, resolution: coords.new_empty(coords.shape),
)


def _check_coords(coords: Tensor, resolution: int) -> None:
    checks.check_shape("coords", coords, ("B", "N", "D"))
    checks.check_dtype("coords", coords, checks.FLOATING)
    if coords.shape[2] not in (2, 3):
        raise ValueError(f"coords: found {coords.shape[2]} axes, expected 2 (a plane) or 3 (a volume)")
    if resolution < 1:
        raise ValueError(f"resolution: found {resolution}, expected at least 1 cell along an axis")


def point_cells(coords: Tensor, resolution: int) -> PointCells:
    """The cell ``floor(coords * resolution)`` of every point, and the points of every cell.

    Args:
        coords: ``(B, N, D)`` in [0, 1), D = 2 or 3.
        resolution: Cells along an axis, R.

    Raises:
        ValueError: Wrong shape or dtype, or coordinates that are NaN or outside [0, 1).

    Example:
        >>> import torch
        >>> cells = point_cells(torch.tensor([[[0.9, 0.1], [0.1, 0.6], [0.8, 0.2]]]), 2)
        >>> cells.index.tolist(), cells.order.tolist(), cells.packed_info[:, 1].tolist()
        ([1, 2, 1], [0, 2, 1], [0, 2, 1, 0])
    """
    _check_coords(coords, resolution)
    if coords.numel() and (checks.checks_values() or coords.device.type == "cpu"):
        low, high = coords.detach().aminmax()
        if not bool((low >= 0) & (high < 1)):
            outside = int((~((coords >= 0) & (coords < 1))).sum())
            raise ValueError(
                f"coords: found {outside} values that are NaN or outside [0, 1), expected none; "
                "normalise and clamp the points first"
            )
    index = _cell_index(coords.detach(), resolution, resolution - 1, resolution)
    axes = coords.shape[2]
    order, packed_info = _cell_order(index, coords.shape[0] * resolution**axes)
    return PointCells(index, order, packed_info, resolution, axes)


def cell_attention(scores: Tensor, values: Tensor, cells: PointCells) -> Tensor:
    r"""Attention of every cell over its points: softmax of the scores among them, then the weighted sum of the values.

    .. math:: G_{s, gS + j} = \sum_{i \in s} \mathrm{softmax}_{i \in s}(x_{ij}) \, v_{i, gS + j}

    The weights are never spread over the C channels, nor the values sorted.

    Args:
        scores: ``(M, S)`` of all points of the batch; score j weighs the channels ``j, S + j, 2 S + j, ...``.
        values: ``(M, C)``, C a multiple of S.
        cells: Where the points lie.

    Returns:
        ``(B R^D, C)``, 0 in empty cells; half precision is computed and returned in float32. Bitwise the same for any
        number of threads.

    Raises:
        ValueError: Wrong shape, dtype or device.

    Example:
        >>> import torch
        >>> cells = point_cells(torch.tensor([[[0.9, 0.1], [0.1, 0.6], [0.8, 0.2]]]), 2)
        >>> cell_attention(torch.zeros(3, 1), torch.tensor([[1.0], [5.0], [2.0]]), cells).squeeze(1)
        tensor([0.0000, 1.5000, 5.0000, 0.0000])
    """
    count = len(cells.index)
    checks.check_shape("scores", scores, (count, "S"))
    checks.check_shape("values", values, (count, "C"))
    for name, tensor in (("scores", scores), ("values", values)):
        checks.check_dtype(name, tensor, checks.FLOATING_OR_HALF)
        checks.check_same_device(name, tensor, "cells.index", cells.index)
    if scores.shape[1] < 1 or values.shape[1] % scores.shape[1]:
        raise ValueError(
            f"values: found {values.shape[1]} channels for {scores.shape[1]} scores, expected a multiple of them"
        )
    scores, values = widen(scores), widen(values)
    check_packed_info(cells.packed_info, "values", values)
    return _cell_attention(scores, values.to(scores.dtype), cells.index, cells.order, cells.packed_info)[0]


def grid_to_rows(grid: Tensor) -> Tensor:
    """``(B, C, R, R[, R])`` as one row for each cell, ``(B, R^D, C)``; free of copies for channels-last memory.

    Example:
        >>> import torch
        >>> grid_to_rows(torch.zeros(2, 5, 4, 4)).shape
        torch.Size([2, 16, 5])
    """
    return grid.flatten(2).transpose(1, 2)


def rows_to_grid(rows: Tensor, batch: int, resolution: int, axes: int) -> Tensor:
    """The inverse of `grid_to_rows` for ``(B R^D, C)`` or ``(B, R^D, C)``: a channels-last view ``(B, C, R, R[, R])``.

    Example:
        >>> import torch
        >>> rows_to_grid(torch.zeros(8, 5), 2, 2, 2).shape
        torch.Size([2, 5, 2, 2])
    """
    shaped = rows.reshape(batch, *(resolution,) * axes, rows.shape[-1])
    return shaped.movedim(-1, 1)


def sample_point_grid(grid: Tensor, coords: Tensor) -> Tensor:
    """Bilinear or trilinear interpolation of a grid whose outermost nodes lie at 0 and 1.

    What ``torch.nn.functional.grid_sample(grid, 2 coords - 1, align_corners=True, padding_mode="border")`` computes.

    Args:
        grid: ``(B, C, R, R)`` or ``(B, C, R, R, R)``; its last axis is the first coordinate. Channels-last memory
            spares a copy.
        coords: ``(B, N, D)``; positions outside [0, 1] take the border's value and pass no gradient.

    Returns:
        ``(B, N, C)``, differentiable in the grid and the coordinates, gradients summed in a fixed order.

    Raises:
        ValueError: Wrong shape, dtype or device, or a grid with unequal sides.

    Example:
        >>> import torch
        >>> sample_point_grid(torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]]), torch.tensor([[[0.5, 0.25]]]))
        tensor([[[1.]]])
    """
    axes = grid.dim() - 2
    resolution = int(grid.shape[-1])
    _check_coords(coords, resolution)
    if axes != coords.shape[2] or any(side != resolution for side in grid.shape[2:]):
        raise ValueError(
            f"grid: found shape {tuple(grid.shape)} for coordinates with {coords.shape[2]} axes, expected (B, C) and "
            "as many equal sides"
        )
    if grid.shape[0] != coords.shape[0]:
        raise ValueError(f"coords: found a batch of {coords.shape[0]}, expected {grid.shape[0]}, the grid's")
    checks.check_dtype("grid", grid, checks.FLOATING_OR_HALF)
    checks.check_same_device("coords", coords, "grid", grid)
    rows = grid_to_rows(widen(grid)).contiguous()
    coords = coords.to(rows.dtype)
    nodes = (None, None)  # the order is found once for both directions
    if rows.requires_grad and torch.is_grad_enabled():
        nodes = _between_nodes(coords.detach(), resolution)
    return _sample_rows(rows, coords, resolution, *nodes)
