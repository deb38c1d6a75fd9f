"""Attention between the points of a cell and the cell: what every level of both U-Nets is made of."""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.ops import PointCells, cell_attention, grid_to_rows, point_cells, rows_to_grid, sample_point_grid

__all__ = ["Aggregation", "PointGridLayer", "Projection"]

Aggregation = Literal["attention", "mean"]
VALUE_GROUPS = 8  # channels that share one score


class Projection:
    """The points of a batch on one plane or in one volume; their cells are found once for each resolution.

    Args:
        coords: ``(B, N, D)`` in [0, 1).
    """

    def __init__(self, coords: Tensor) -> None:
        self.coords = coords
        self._cells: dict[int, PointCells] = {}

    def cells(self, resolution: int) -> PointCells:
        """The points by cell."""
        if resolution not in self._cells:
            self._cells[resolution] = point_cells(self.coords, resolution)
        return self._cells[resolution]

    def offsets(self, resolution: int) -> Tensor:
        """From the lower corner of the cell, in [0, 1/R), ``(B N, D)``."""
        scaled = self.coords * resolution
        return (self.coords - scaled.floor() / resolution).flatten(0, 1)


class PointValues(NamedTuple):
    """What the points bring to a level."""

    keys: Tensor  # (B N, C)
    values: Tensor  # (B N, C)


class PointGridLayer(nn.Module):
    """The layers by which points and cells exchange features; names are those of the published weights.

    A point's score in its cell is ``fc_w(k - Q[cell] + pos)`` with Q = conv_q(grid) and pos = fc_pos(offset in the
    cell); softmax runs over the points of the cell, for each of C / 8 score channels.

    Args:
        in_channels: Of the point features.
        channels: C, a multiple of 8.
        axes: 2 for planes, 3 for a volume.
        aggregation: ``"mean"`` replaces the attention weights by equal ones (Convolutional Occupancy Networks).
    """

    def __init__(self, *, in_channels: int, channels: int, axes: int, aggregation: Aggregation = "attention") -> None:
        super().__init__()
        if channels % VALUE_GROUPS:
            raise ValueError(f"channels: found {channels}, expected a multiple of {VALUE_GROUPS}")
        if aggregation not in ("attention", "mean"):
            raise ValueError(f"aggregation: found {aggregation!r}, expected 'attention' or 'mean'")
        self.channels, self.axes, self.aggregation = channels, axes, aggregation
        scores = channels // VALUE_GROUPS
        self.fc_k = nn.Sequential(nn.Linear(in_channels, channels))
        self.fc_v = nn.Sequential(
            nn.Linear(in_channels, channels),
            nn.ReLU(),
            nn.Linear(channels, 2 * channels),
            nn.ReLU(),
            nn.Linear(2 * channels, channels),
        )
        query = nn.Conv2d(channels, channels, 1) if axes == 2 else nn.Conv3d(channels, channels, 1)
        self.conv_q = nn.Sequential(query) if axes == 2 else query
        self.fc_pos = nn.Sequential(nn.Linear(axes, axes), nn.BatchNorm1d(axes), nn.ReLU(), nn.Linear(axes, channels))
        self.fc_w = nn.Sequential(nn.Linear(channels, scores), nn.BatchNorm1d(scores), nn.ReLU())

    def point_values(self, features: Tensor) -> PointValues:
        """Keys and values of the point features ``(B N, C_in)``."""
        return PointValues(self.fc_k(features), self.fc_v(features))

    def attend(self, values: PointValues, query: Tensor, projection: Projection) -> Tensor:
        """The grid ``(B, C, R..)`` that the points make; ``query`` is ``conv_q`` of the level's grid."""
        batch, resolution = len(query), int(query.shape[-1])
        cells = projection.cells(resolution)
        position = self.fc_pos(projection.offsets(resolution))
        scores = self._scores(values.keys, query, position, cells)
        rows = cell_attention(scores, values.values + position, cells)
        return rows_to_grid(rows, batch, resolution, self.axes)

    def _scores(self, keys: Tensor, query: Tensor, position: Tensor, cells: PointCells) -> Tensor:
        """``fc_w(k - Q[cell] + pos)``; its linear layer is applied before the gather, which is then C / 8 wide."""
        linear, norm = self.fc_w[0], self.fc_w[1]
        if self.aggregation == "mean":
            return keys.new_zeros(len(keys), self.channels // VALUE_GROUPS)
        assert isinstance(linear, nn.Linear)
        narrow = F.linear(grid_to_rows(query).flatten(0, 1), linear.weight)
        return torch.relu(norm(linear(keys + position) - narrow[cells.index]))

    def sample(self, grids: list[Tensor], projections: list[Projection]) -> Tensor:
        """Sum over the grids of their interpolation at the points, ``(B N, C)``."""
        sampled = [sample_point_grid(grid, p.coords) for grid, p in zip(grids, projections, strict=True)]
        return functools.reduce(torch.add, sampled).flatten(0, 1)  # a stack would be copied, and its gradient again
