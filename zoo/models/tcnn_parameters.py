"""The flat parameter vectors of tiny-cuda-nn, in and out.

A ``Network`` keeps one vector: the matrices ``W_in (n, pad(in))``, ``W_hidden (n, n)`` and ``W_out (pad(out), n)``,
each ``(out, in)`` row-major, without biases, where ``pad`` rounds up to a multiple of 16. In the vector of a
``NetworkWithInputEncoding`` the encoding's parameters (the hash table) follow. Padding rules of the input columns:

- a network alone pads its input with **ones**, so the padded columns together act as one bias;
- the output of a grid encoding is padded with **zeros**, so the padded columns have no effect;
- padded rows of ``W_out`` are computed and thrown away.

FullyFusedMLP (widths 16, 32, 64, 128) and CutlassMLP (any width) have the same layout.

Source: tiny-cuda-nn, fully_fused_mlp.cu, cutlass_mlp.cu, network_with_input_encoding.h.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from zoo.ops.hash_grid_layout import HashGridLayout

ALIGNMENT = 16

Padding = Literal["ones", "zeros"]


def pad_width(width: int) -> int:
    """The next multiple of 16."""
    return -(-width // ALIGNMENT) * ALIGNMENT


def network_shapes(in_dim: int, hidden_dim: int, num_hidden_layers: int, out_dim: int) -> list[tuple[int, int]]:
    """Shapes ``(out, in)`` of the stored matrices, padding included.

    Example:
        >>> network_shapes(31, 64, 2, 3)
        [(64, 32), (64, 64), (16, 64)]
    """
    if min(in_dim, hidden_dim, out_dim) < 1 or num_hidden_layers < 0:
        raise ValueError(
            "network: expected positive widths and at least 0 hidden layers, found "
            f"in_dim={in_dim}, hidden_dim={hidden_dim}, num_hidden_layers={num_hidden_layers}, out_dim={out_dim}"
        )
    widths = [pad_width(in_dim), *[hidden_dim] * num_hidden_layers, pad_width(out_dim)]
    return [(after, before) for before, after in itertools.pairwise(widths)]


def network_parameter_count(in_dim: int, hidden_dim: int, num_hidden_layers: int, out_dim: int) -> int:
    """Length of a network's vector.

    Example:
        >>> network_parameter_count(32, 64, 1, 16), network_parameter_count(31, 64, 2, 3)
        (3072, 7168)
    """
    return sum(rows * columns for rows, columns in network_shapes(in_dim, hidden_dim, num_hidden_layers, out_dim))


def split_network_parameters(
    params: Tensor,
    *,
    in_dim: int,
    hidden_dim: int,
    num_hidden_layers: int,
    out_dim: int,
    padding: Padding = "ones",
) -> tuple[list[Tensor], Tensor]:
    """Take a vector apart into matrices without padding, and what follows them (an encoding's parameters, or nothing).

    Differentiable: gradients of the matrices reach the vector.

    Args:
        params: The vector ``(P,)``.
        in_dim: Input width before padding.
        hidden_dim: Width of the hidden layers.
        num_hidden_layers: Their number.
        out_dim: Output width before padding.
        padding: ``ones`` for a network alone: if its input was padded, the first matrix has ``in_dim + 1`` columns, the
            last of which (the sum of the padded ones) belongs to a constant input of 1. ``zeros`` behind a grid
            encoding: padded columns are dropped.

    Returns:
        Matrices ``(out, in)``, first layer first, and the rest ``(P - network_parameter_count(...),)``.

    Raises:
        ValueError: The vector is too short.
    """
    _check_vector(params)
    shapes = network_shapes(in_dim, hidden_dim, num_hidden_layers, out_dim)
    sizes = [rows * columns for rows, columns in shapes]
    if len(params) < sum(sizes):
        raise ValueError(f"params: found {len(params)} numbers, expected at least {sum(sizes)} for matrices {shapes}")
    *parts, rest = params.split([*sizes, len(params) - sum(sizes)])
    weights = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
    first = weights[0]
    if padding == "ones" and first.shape[1] > in_dim:
        weights[0] = torch.cat([first[:, :in_dim], first[:, in_dim:].sum(dim=1, keepdim=True)], dim=1)
    else:
        weights[0] = first[:, :in_dim]
    weights[-1] = weights[-1][:out_dim]
    return weights, rest


def join_network_parameters(
    weights: Sequence[Tensor], *, in_dim: int | None = None, encoding: Tensor | None = None
) -> Tensor:
    """The vector of matrices ``(out, in)``, padded with zeros; the inverse of `split_network_parameters`.

    Args:
        weights: Matrices, first layer first.
        in_dim: Input width before padding; a first matrix with ``in_dim + 1`` columns has the weights of the constant 1
            last. None: as many as the first matrix has columns.
        encoding: The encoding's parameters, any shape, to follow the matrices.

    Raises:
        ValueError: The matrices do not fit each other.
    """
    in_dim = weights[0].shape[1] if in_dim is None else in_dim
    hidden_dim = weights[0].shape[0] if len(weights) > 1 else 1
    shapes = network_shapes(in_dim, hidden_dim, len(weights) - 1, weights[-1].shape[0])
    parts = []
    for index, (weight, shape) in enumerate(zip(weights, shapes, strict=True)):
        rows, columns = shape[0] - weight.shape[0], shape[1] - weight.shape[1]
        may_pad = (rows == 0 or index == len(weights) - 1) and (columns == 0 or index == 0)
        if rows < 0 or columns < 0 or not may_pad:
            raise ValueError(f"weights[{index}]: found shape {tuple(weight.shape)}, expected {shape} before padding")
        parts.append(torch.nn.functional.pad(weight, (0, columns, 0, rows)).flatten())
    if encoding is not None:
        parts.append(encoding.flatten())
    return torch.cat(parts)


def table_from_parameters(params: Tensor, layout: HashGridLayout) -> Tensor:
    """The hash table ``(rows, F)`` that lies in an encoding's vector (or in the rest of a network's vector)."""
    _check_vector(params)
    if len(params) != layout.num_parameters:
        raise ValueError(
            f"params: found {len(params)} numbers, expected {layout.num_parameters}: {layout.num_rows} rows of "
            f"{layout.features_per_level}; split the network's matrices off first, and compare the layout's settings"
        )
    return params.view(layout.num_rows, layout.features_per_level)


def _check_vector(params: Tensor) -> None:
    if params.dim() != 1:
        raise ValueError(f"params: found shape {tuple(params.shape)}, expected one flat vector")
