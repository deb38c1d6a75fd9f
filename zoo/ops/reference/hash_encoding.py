"""Multi-level grid encoding in plain torch, vectorised over points and corners, one level at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from zoo.ops.reference.autograd import vjp

LINEAR, SMOOTHSTEP, NEAREST = range(3)
_UINT32 = 0xFFFFFFFF


def vertex_rows(vertices: Tensor, level: list[int]) -> Tensor:
    """Rows within the level of grid vertices ``(..., D)`` int64; level = first row, rows, hashed, multipliers."""
    _, rows, hashed, *multipliers = level
    products = vertices * vertices.new_tensor(multipliers) & _UINT32
    index = products[..., 0]
    for axis in range(1, len(multipliers)):
        index = index ^ products[..., axis] if hashed else index + products[..., axis] & _UINT32
    return index % rows


def _corner_rows(low: Tensor, high: Tensor, level: list[int]) -> Tensor:
    """Rows of the 2^D corners between the vertices ``low`` and ``high`` ``(N, D)``; bit d of a corner is its axis d."""
    _, rows, hashed, *multipliers = level
    index = low.new_zeros(len(low), 1)
    for axis, multiplier in enumerate(multipliers):
        term = torch.stack([low[:, axis], high[:, axis]], dim=1) * multiplier & _UINT32
        index, term = index[:, None, :], term[:, :, None]
        index = (index ^ term if hashed else index + term & _UINT32).flatten(1)  # (N, 2^(axis + 1))
    return index % rows


def _corner_weights(upper: Tensor) -> Tensor:
    """Products over the axes of the weight of a corner's side; ``upper`` ``(N, D)`` is the weight of the upper side."""
    weight = upper.new_ones(len(upper), 1)
    for axis in range(upper.shape[1]):
        side = torch.stack([1 - upper[:, axis], upper[:, axis]], dim=1)
        weight = (weight[:, None, :] * side[:, :, None]).flatten(1)
    return weight


def place(
    x: Tensor, scale: float, level: list[int], shift: float, interpolation: int, bounded: bool, ceil_corners: bool
) -> tuple[Tensor, Tensor]:
    """Rows within the level and weights, both ``(N, 2^D)``, of the corners around points; ``(N, 1)`` if nearest."""
    position = (x.double() * scale + shift).to(x.dtype)  # one rounding, as a fused multiply-add has
    floor = position.detach().floor()
    low = floor.clamp(-(2.0**31), 2.0**31 - 128).to(torch.int64)
    fraction = position - floor
    if interpolation == NEAREST:
        index, weight = vertex_rows(low, level)[:, None], x.new_ones(len(x), 1)
    else:
        high = low + (fraction.detach() > 0).to(torch.int64) if ceil_corners else low + 1
        if interpolation == SMOOTHSTEP:
            fraction = fraction * fraction * (3 - 2 * fraction)
        index, weight = _corner_rows(low, high, level), _corner_weights(fraction)
    if bounded:
        inside = ((x >= 0) & (x <= 1)).all(dim=1)
        weight = torch.where(inside[:, None], weight, 0)
    return index, weight


def _levels(scales: Tensor, levels: Tensor) -> Iterator[tuple[float, list[int]]]:
    return zip(scales.tolist(), levels.tolist(), strict=True)


def hash_encode(
    x: Tensor,
    table: Tensor,
    scales: Tensor,
    levels: Tensor,
    shift: float,
    interpolation: int,
    bounded: bool,
    ceil_corners: bool,
) -> Tensor:
    """Encoding ``(N, L F)``: for each level the weighted sum of the rows ``(N, 2^D, F)`` at the corners."""
    parts = []
    for scale, level in _levels(scales, levels):
        index, weight = place(x, scale, level, shift, interpolation, bounded, ceil_corners)
        parts.append((table[index + level[0]] * weight[..., None]).sum(dim=1))
    return torch.cat(parts, dim=1)


def hash_encode_table_grad(
    grad: Tensor,
    x: Tensor,
    scales: Tensor,
    levels: Tensor,
    num_rows: int,
    shift: float,
    interpolation: int,
    bounded: bool,
    ceil_corners: bool,
) -> Tensor:
    """Gradient of the table ``(rows, F)``: every corner's row collects weight times output gradient."""
    features = grad.shape[1] // len(levels)
    result = grad.new_zeros(num_rows, features)
    for (scale, level), part in zip(_levels(scales, levels), grad.split(features, dim=1), strict=True):
        index, weight = place(x, scale, level, shift, interpolation, bounded, ceil_corners)
        result.index_add_(0, (index + level[0]).flatten(), (weight[..., None] * part[:, None, :]).flatten(0, 1))
    return result


def hash_encode_input_grad(
    grad: Tensor,
    x: Tensor,
    table: Tensor,
    scales: Tensor,
    levels: Tensor,
    shift: float,
    interpolation: int,
    bounded: bool,
    ceil_corners: bool,
) -> Tensor:
    """Gradient of the positions ``(N, D)``, by differentiating the forward."""
    if interpolation == NEAREST:
        return torch.zeros_like(x)
    settings = (shift, interpolation, bounded, ceil_corners)
    return vjp(lambda points: hash_encode(points, table.detach(), scales, levels, *settings), [x], grad)[0]
