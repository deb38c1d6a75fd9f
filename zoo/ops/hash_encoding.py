"""Multi-resolution hash encoding of points, with gradients to the table and to the positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.ops.backend import active_backend
from zoo.ops.checks import (
    FLOATING,
    FLOATING_OR_HALF,
    check_dtype,
    check_finite,
    check_same_device,
    check_same_dtype,
    check_shape,
    checks_values,
)
from zoo.ops.dispatch import define_op
from zoo.ops.hash_grid_layout import INTERPOLATIONS, HashGridLayout
from zoo.ops.reference import hash_encoding as reference
from zoo.ops.reference.autograd import vjp

__all__ = ["HashGridLayout", "grid_rows", "hash_encode"]


def hash_encode(x: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    r"""Interpolate the features of a multi-level grid at points of the unit cube.

    .. math:: y_{l} = \sum_{c \in \{0, 1\}^D} \Big( \prod_d c_d w_{ld} + (1 - c_d)(1 - w_{ld}) \Big)
        \; \mathrm{table}[\mathrm{row}_l(\lfloor p_l \rfloor + c)], \qquad p_l = \operatorname{fma}(s_l, x, h)

    with :math:`w = f` (linear) or :math:`f^2 (3 - 2 f)` (smoothstep) of the fractional part :math:`f` of :math:`p`, or
    the single row of the cell (nearest; no gradient to ``x``). Rows and what happens outside of [0, 1] follow
    ``layout``. Differentiable with respect to ``x`` and ``table``, twice.

    A half-precision table is widened, computed in float32, and the output has the table's dtype. Under autocast the op
    runs in float32, since a table is read where it lies and casting it would cost more than the encoding.

    On the CPU the result and both gradients are the same for any number of threads; on CUDA the table's gradient is
    summed by atomic additions in no fixed order.

    Args:
        x: Points (N, D), float32 (or float64 with a float64 table), mostly in [0, 1].
        table: Features (rows, F) of all levels, one below the other.
        layout: Sizes and convention; see :class:`HashGridLayout`.

    Returns:
        Encoding (N, L F), level-major.

    Raises:
        ValueError: Wrong shape, dtype or device.

    Source: Mueller et al., "Instant Neural Graphics Primitives with a Multiresolution Hash Encoding", section 3.

    Example:
        >>> import torch
        >>> from zoo.ops import HashGridLayout
        >>> layout = HashGridLayout.build(num_levels=4, base_resolution=4, log2_table_size=8)
        >>> hash_encode(torch.rand(5, 3), torch.ones(layout.num_rows, 2), layout).shape
        torch.Size([5, 8])
    """
    check_shape("x", x, ("N", layout.num_dims))
    check_shape("table", table, (layout.num_rows, layout.features_per_level))
    check_dtype("x", x, FLOATING)
    check_dtype("table", table, FLOATING_OR_HALF)
    check_same_device("table", table, "x", x)
    if checks_values():
        check_finite("x", x)
    wide = table if table.dtype in FLOATING else table.float()
    check_same_dtype("x", x, "table (float32 where that is half)", wide)
    if active_backend() == "tcnn":
        from zoo.ops.vendor import tcnn

        return tcnn.hash_encode(x, wide, layout).to(table.dtype)
    encoded = _hash_encode(x, wide, layout.scale_table, layout.level_table, *_settings(layout))
    return encoded if table.dtype in FLOATING else encoded.to(table.dtype)


def grid_rows(vertices: Tensor, layout: HashGridLayout, level: int) -> Tensor:
    """The table rows ``(...)`` at which integer grid vertices ``(..., D)`` of one level are stored.

    Raises:
        ValueError: Wrong shape or dtype, or there is no such level.

    Example:
        >>> import torch
        >>> from zoo.ops import HashGridLayout
        >>> layout = HashGridLayout.build(num_levels=2, base_resolution=4)
        >>> grid_rows(torch.tensor([[1, 2, 0]]), layout, level=1)
        tensor([81])
    """
    if not 0 <= level < layout.num_levels:
        raise ValueError(f"level: found {level}, expected 0 to {layout.num_levels - 1}")
    if vertices.dim() == 0 or vertices.shape[-1] != layout.num_dims:
        raise ValueError(f"vertices: found shape {tuple(vertices.shape)}, expected (..., {layout.num_dims})")
    check_dtype("vertices", vertices, torch.int64)
    entry = layout.level_table[level].tolist()
    return reference.vertex_rows(vertices, entry) + entry[0]


def _settings(layout: HashGridLayout) -> tuple[float, int, bool, bool]:
    return layout.shift, INTERPOLATIONS.index(layout.interpolation), layout.bounded, layout.ceil_corners


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, table, scales, levels, *ctx.settings = inputs
    ctx.save_for_backward(x, table, scales, levels)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, table, scales, levels = ctx.saved_tensors
    grad_x = grad_table = None
    if ctx.needs_input_grad[0]:
        grad_x = _input_grad(grad, x, table, scales, levels, *ctx.settings)
    if ctx.needs_input_grad[1]:
        grad_table = _table_grad(grad, x, scales, levels, table.shape[0], *ctx.settings)
    return grad_x, grad_table, *[None] * 6


def _setup_table_grad(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, x, scales, levels, _, *ctx.settings = inputs
    ctx.save_for_backward(grad, x, scales, levels)


def _table_grad_backward(ctx: Any, grad_table: Tensor) -> tuple[Tensor | None, ...]:
    """<grad_table, table_grad(grad, x)> = <grad, hash_encode(x, grad_table)>, differentiated by grad and by x."""
    grad, x, scales, levels = ctx.saved_tensors
    grad_grad = grad_x = None
    if ctx.needs_input_grad[0]:
        grad_grad = _hash_encode(x, grad_table, scales, levels, *ctx.settings)
    if ctx.needs_input_grad[1]:
        grad_x = _input_grad(grad, x, grad_table, scales, levels, *ctx.settings)
    return grad_grad, grad_x, *[None] * 7


def _setup_input_grad(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, x, table, scales, levels, *ctx.settings = inputs
    ctx.save_for_backward(grad, x, table, scales, levels)


def _input_grad_backward(ctx: Any, grad_x: Tensor) -> tuple[Tensor | None, ...]:
    """Second derivatives, by differentiating the reference twice: exact, but at the reference's speed."""
    grad, x, table, scales, levels = ctx.saved_tensors
    if ctx.settings[1] == reference.NEAREST:
        return torch.zeros_like(grad), torch.zeros_like(x), torch.zeros_like(table), *[None] * 6

    def first_derivative(grad: Tensor, x: Tensor, table: Tensor) -> Tensor:
        encoded = reference.hash_encode(x, table, scales, levels, *ctx.settings)
        return torch.autograd.grad(encoded, x, grad, create_graph=True)[0]

    return *vjp(first_derivative, [grad, x, table], grad_x), *[None] * 6


_SETTINGS = "float shift, int interpolation, bool bounded, bool ceil_corners"

_hash_encode = define_op(
    f"hash_encode(Tensor x, Tensor table, Tensor scales, Tensor levels, {_SETTINGS}) -> Tensor",
    reference=reference.hash_encode,
    fake=lambda x, table, scales, levels, *settings: x.new_empty(x.shape[0], levels.shape[0] * table.shape[1]),
    backward=(_setup_context, _backward),
    autocast="float32",
)
_table_grad = define_op(
    f"hash_encode_table_grad(Tensor grad, Tensor x, Tensor scales, Tensor levels, SymInt num_rows, {_SETTINGS})"
    " -> Tensor",
    reference=reference.hash_encode_table_grad,
    fake=lambda grad, x, scales, levels, num_rows, *settings: grad.new_empty(
        num_rows, grad.shape[1] // levels.shape[0]
    ),
    backward=(_setup_table_grad, _table_grad_backward),
)
_input_grad = define_op(
    f"hash_encode_input_grad(Tensor grad, Tensor x, Tensor table, Tensor scales, Tensor levels, {_SETTINGS}) -> Tensor",
    reference=reference.hash_encode_input_grad,
    fake=lambda grad, x, table, scales, levels, *settings: x.new_empty(x.shape),
    backward=(_setup_input_grad, _input_grad_backward),
)
