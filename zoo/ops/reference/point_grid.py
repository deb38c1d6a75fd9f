"""Points and the cells of a regular grid in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.ops.reference.autograd import vjp
from zoo.ops.reference.segment import segment_total
from zoo.ops.reference.segment_softmax import segment_softmax, segment_softmax_backward


def flat_index(cells: Tensor, resolution: int) -> Tensor:
    """Cells ``(B, N, D)`` counted through the batch, ``(B N,)``."""
    batch, _, axes = cells.shape
    flat = cells[..., -1]
    for axis in reversed(range(axes - 1)):
        flat = flat * resolution + cells[..., axis]
    return (flat + torch.arange(batch, device=cells.device)[:, None] * resolution**axes).flatten()


def cell_index(coords: Tensor, scale: int, largest: int, resolution: int) -> Tensor:
    """``floor(coords scale)`` held within [0, ``largest``] and counted through the batch, ``(B N,)``; NaN gives 0."""
    return flat_index((coords * scale).floor().nan_to_num(0.0).clamp(0, largest).long(), resolution)


def cell_order(index: Tensor, num_cells: int) -> tuple[Tensor, Tensor]:
    """Stable order of the points by cell ``(M,)``, and start and count of each cell's run ``(num_cells, 2)``."""
    ordered, order = torch.sort(index, stable=True)
    edges = torch.searchsorted(ordered, torch.arange(num_cells + 1, device=index.device))
    return order, torch.stack([edges[:-1], edges[1:] - edges[:-1]], dim=-1)


def _groups(rows: Tensor, channels: int) -> Tensor:
    """``(M, C)`` as ``(M, C / channels, channels)``."""
    return rows.unflatten(1, (-1, channels))


def cell_attention(
    scores: Tensor, values: Tensor, index: Tensor, order: Tensor, packed_info: Tensor
) -> tuple[Tensor, Tensor]:
    """Weighted sums ``(cells, C)`` and the weights ``(M, S)``."""
    weights = torch.empty_like(scores)
    weights[order] = segment_softmax(scores[order], packed_info)
    weighted = (_groups(values, scores.shape[1]) * weights[:, None]).flatten(1)
    return segment_total(weighted[order], packed_info), weights


def cell_attention_backward(
    grad: Tensor, weights: Tensor, values: Tensor, index: Tensor, order: Tensor, packed_info: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients to the scores ``(M, S)`` and the values ``(M, C)``."""
    spread = grad[index]
    to_values = (_groups(spread, weights.shape[1]) * weights[:, None]).flatten(1)
    to_weights = (_groups(spread, weights.shape[1]) * _groups(values, weights.shape[1])).sum(1)
    to_scores = torch.empty_like(weights)
    to_scores[order] = segment_softmax_backward(to_weights[order], weights[order], packed_info)
    return to_scores, to_values


def sample_rows(
    rows: Tensor, coords: Tensor, resolution: int, order: Tensor | None = None, packed_info: Tensor | None = None
) -> Tensor:
    """Multilinear interpolation of ``(B, cells, C)`` at coordinates in [0, 1] ``(B, N, D)``, ``(B, N, C)``.

    The points by the cell between nodes (`cell_order`) only help kernels.
    """
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


def sample_rows_backward(grad: Tensor, coords: Tensor, resolution: int, order: Tensor, packed_info: Tensor) -> Tensor:
    """Gradient to the rows, ``(B, cells, C)``."""
    rows = grad.new_zeros(grad.shape[0], resolution ** coords.shape[2], grad.shape[2])
    return vjp(lambda r: sample_rows(r, coords, resolution), (rows,), grad)[0]


def sample_coords_backward(grad: Tensor, rows: Tensor, coords: Tensor, resolution: int) -> Tensor:
    """Gradient to the coordinates, ``(B, N, D)``."""
    return vjp(lambda c: sample_rows(rows, c, resolution), (coords,), grad)[0]
