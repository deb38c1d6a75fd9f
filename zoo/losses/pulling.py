r"""What makes a field of distances fit a cloud: pulled queries, zero at the cloud, one direction, few jumps.

Chen, Liu and Han, "GridPull" (ICCV 2023), section 3. Each function is a mean, unweighted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BandEdges", "band_edges", "continuity_loss", "normal_consistency_loss", "pull_loss", "surface_loss"]


def pull_loss(queries: Tensor, targets: Tensor, pulled: Tensor) -> Tensor:
    r"""Mean of :math:`e^{|q - t|} \, |t - q'|`: how far the pulled queries end from the nearest points of the cloud.

    Args:
        queries: ``(N, 3)``.
        targets: Nearest point of the cloud for each, ``(N, 3)``.
        pulled: ``(N, 3)``.
    """
    weight = (queries - targets).norm(dim=-1).exp()
    return (weight * (targets - pulled).norm(dim=-1)).mean()


def surface_loss(values: Tensor) -> Tensor:
    """Mean square of the field at points of the cloud ``(N,)``."""
    return values.square().mean()


def normal_consistency_loss(normals: Tensor, others: Tensor) -> Tensor:
    """One minus the mean cosine between the field's unit normals at queries and at their targets, ``(N, 3)`` each."""
    return 1 - (normals * others).sum(-1).mean()


@dataclass(frozen=True)
class BandEdges:
    """Weights of the differences between neighbouring corners of a part of a grid.

    Attributes:
        low: First corner of the part along each axis.
        high: One past the last.
        weights: For each axis, a weight for each pair of neighbours along it: the part's shape, one less on that axis.
    """

    low: tuple[int, int, int]
    high: tuple[int, int, int]
    weights: tuple[Tensor, Tensor, Tensor]


def band_edges(index: Tensor, weight: Tensor, shape: Sequence[int]) -> BandEdges:
    r"""Turn the continuity term's sum over corners into one over pairs of neighbours.

    :math:`\frac1M \sum_c w_c \sum_{e} (V_{c+e} - V_c)^2` over six neighbours counts the pair :math:`(a, b)` with
    :math:`(w_a + w_b) / M`, where corners that are not in the band weigh nothing.

    Args:
        index: Corners of the band, ``(M, 3)`` int64, each once.
        weight: ``(M,)``.
        shape: Of the grid.

    Raises:
        ValueError: No corner at all, or one outside of the grid.
    """
    if len(index) == 0:
        raise ValueError("index: found no corner in the band; does the cloud lie inside the grid?")
    size = index.new_tensor(shape)
    if bool((index < 0).any() | (index >= size).any()):
        raise ValueError(f"index: found corners outside of a grid of shape {tuple(shape)}")
    first = (index.amin(0) - 1).clamp_min(0)
    last = torch.minimum(index.amax(0) + 2, size)
    part = weight.new_zeros([int(extent) for extent in last - first])
    part[tuple((index - first).T)] = weight / len(index)
    weights = []
    for axis in range(3):
        length = part.shape[axis] - 1
        weights.append(part.narrow(axis, 0, length) + part.narrow(axis, 1, length))
    low, high = (tuple(int(value) for value in corner) for corner in (first, last))
    return BandEdges(low, high, (weights[0], weights[1], weights[2]))  # pyright: ignore[reportArgumentType]


def continuity_loss(values: Tensor, edges: BandEdges) -> Tensor:
    """The weighted sum of squared differences between neighbours, of a grid ``(X, Y, Z)``."""
    part = values[tuple(slice(low, high) for low, high in zip(edges.low, edges.high, strict=True))]
    terms = [(weight * part.diff(dim=axis).square()).sum() for axis, weight in enumerate(edges.weights)]
    return terms[0] + terms[1] + terms[2]
