"""Points and the cells of a regular grid in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.ops.reference.autograd import vjp
from zoo.ops.reference.packed import sample_rays
from zoo.ops.reference.segment import segment_total
from zoo.ops.reference.segment_softmax import segment_softmax, segment_softmax_backward


def cell_order(index: Tensor, num_cells: int) -> tuple[Tensor, Tensor]:
    """Stable order of the points by cell ``(M,)``, and start and count of each cell's run ``(num_cells, 2)``."""
    ordered, order = torch.sort(index, stable=True)
    edges = torch.searchsorted(ordered, torch.arange(num_cells + 1, device=index.device))
    return order, torch.stack([edges[:-1], edges[1:] - edges[:-1]], dim=-1)


def _groups(rows: Tensor, channels: int) -> Tensor:
    """``(M, C)`` as ``(M, C / channels, channels)``."""
    return rows.unflatten(1, (-1, channels))


def cell_attention(scores: Tensor, values: Tensor, order: Tensor, packed_info: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted sums ``(cells, C)`` and the weights ``(M, S)``."""
    weights = torch.empty_like(scores)
    weights[order] = segment_softmax(scores[order], packed_info)
    weighted = (_groups(values, scores.shape[1]) * weights[:, None]).flatten(1)
    return segment_total(weighted[order], packed_info), weights


def cell_attention_backward(
    grad: Tensor, weights: Tensor, values: Tensor, order: Tensor, packed_info: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients to the scores ``(M, S)`` and the values ``(M, C)``."""
    rows = sample_rays(packed_info, len(order))
    spread = torch.empty_like(values)
    spread[order] = grad[rows]
    to_values = (_groups(spread, weights.shape[1]) * weights[:, None]).flatten(1)
    to_weights = (_groups(spread, weights.shape[1]) * _groups(values, weights.shape[1])).sum(1)
    to_scores = torch.empty_like(weights)
    to_scores[order] = segment_softmax_backward(to_weights[order], weights[order], packed_info)
    return to_scores, to_values


def sample_rows(rows: Tensor, coords: Tensor, resolution: int) -> Tensor:
    """Multilinear interpolation of ``(B, cells, C)`` at coordinates in [0, 1] ``(B, N, D)``, ``(B, N, C)``."""
    batch, count, axes = coords.shape
    place = (coords * (resolution - 1)).clamp(0, resolution - 1)
    base = place.detach().floor().clamp(max=max(resolution - 2, 0))
    part = place - base
    out = rows.new_zeros(batch, count, rows.shape[2])
    for corner in range(1 << axes):
        offset = torch.tensor([corner >> axis & 1 for axis in range(axes)], device=rows.device)
        at = (base.long() + offset).clamp(max=resolution - 1)
        index = sum((at[..., axis] * resolution**axis for axis in range(axes)), torch.zeros_like(at[..., 0]))
        weight = torch.where(offset.bool(), part, 1 - part).prod(-1)
        out = out + rows.gather(1, index[..., None].expand(-1, -1, rows.shape[2])) * weight[..., None]
    return out


def sample_rows_backward(
    grad: Tensor, rows: Tensor, coords: Tensor, resolution: int, order: Tensor, packed_info: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients to the rows ``(B, cells, C)`` and the coordinates ``(B, N, D)``."""
    to_rows, to_coords = vjp(lambda r, c: sample_rows(r, c, resolution), (rows, coords), grad)
    return to_rows, to_coords
