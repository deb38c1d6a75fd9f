"""Points and grids in vectorised plain torch: the peers of `zoo.benchmark.surface`.

Attention is what GridFormer's release makes of torch_scatter, written with torch's own scatter functions: maximum, sum
and gather for each point, and a weighed copy of all values. Interpolation is ``grid_sample``, or one gather of all
corners at once.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.models.gridformer.attention import PointGridLayer, PointValues, Projection
from zoo.models.gridformer.network import GridFormerEncoder, Maps, normalized_projections

__all__ = ["SAMPLERS", "Sampler", "as_plain", "plain_attention", "plain_cells", "plain_sample"]

Sampler = Literal["grid_sample", "grid_sample, channels last", "gathered corners"]
SAMPLERS: tuple[Sampler, ...] = ("grid_sample", "grid_sample, channels last", "gathered corners")


def plain_cells(coords: Tensor, resolution: int) -> Tensor:
    """Cell of every point ``(B, N, D)``, counted through the batch, ``(B N,)``."""
    steps = torch.tensor([resolution**axis for axis in range(coords.shape[2])])
    flat = ((coords * resolution).long() * steps).sum(-1)
    return (flat + torch.arange(len(coords))[:, None] * resolution ** coords.shape[2]).flatten()


def plain_attention(scores: Tensor, values: Tensor, index: Tensor, num_cells: int) -> Tensor:
    """Softmax of the scores ``(M, S)`` among the points of a cell, and the weighed sums of values, ``(cells, C)``."""
    count = scores.shape[1]
    at = index[:, None].expand(-1, count)
    largest = scores.new_full((num_cells, count), -torch.inf).scatter_reduce(0, at, scores.detach(), "amax")
    raised = (scores - largest[index]).exp()
    total = scores.new_zeros(num_cells, count).index_add(0, index, raised)
    weights = raised / (total[index] + 1e-12)
    weighed = (values.unflatten(1, (-1, count)) * weights[:, None]).flatten(1)
    return values.new_zeros(num_cells, values.shape[1]).index_add(0, index, weighed)


def plain_sample(grid: Tensor, coords: Tensor, sampler: Sampler) -> Tensor:
    """Bilinear or trilinear interpolation of ``(B, C, R..)`` at ``(B, N, D)``, ``(B, N, C)``."""
    axes = coords.shape[2]
    if sampler == "gathered corners":
        return _gathered(grid, coords)
    wanted = torch.contiguous_format
    if sampler == "grid_sample, channels last":
        wanted = torch.channels_last if axes == 2 else torch.channels_last_3d
    place = (2 * coords - 1).view(*coords.shape[:2], *(1,) * (axes - 1), axes)
    grid = grid.contiguous(memory_format=wanted)
    return F.grid_sample(grid, place, align_corners=True, padding_mode="border").flatten(2).transpose(1, 2)


def _gathered(grid: Tensor, coords: Tensor) -> Tensor:
    batch, count, axes = coords.shape
    resolution = grid.shape[-1]
    place = (coords * (resolution - 1)).clamp(0, resolution - 1)
    base = place.floor().clamp(max=resolution - 2)
    upper = torch.tensor([[corner >> axis & 1 for axis in range(axes)] for corner in range(1 << axes)])  # (K, D)
    part = (place - base)[:, :, None]
    weights = torch.where(upper.bool(), part, 1 - part).prod(-1)  # (B, N, K)
    steps = torch.tensor([resolution**axis for axis in range(axes)])
    rows = ((base.long()[:, :, None] + upper) * steps).sum(-1) + (torch.arange(batch) * resolution**axes)[:, None, None]
    known = grid.movedim(1, -1).reshape(-1, grid.shape[1]).index_select(0, rows.flatten())
    return torch.einsum("bnk,bnkc->bnc", weights, known.view(batch, count, -1, grid.shape[1]))


class _PlainLayer(PointGridLayer):
    """`PointGridLayer` as the release computes it: cells are gathered before the linear layer of the scores."""

    sampler: Sampler = "grid_sample"

    def attend(self, values: PointValues, query: Tensor, projection: Projection) -> Tensor:
        batch, resolution = len(query), int(query.shape[-1])
        index = plain_cells(projection.coords, resolution)
        position = self.fc_pos(projection.offsets(resolution))
        cells = query.flatten(2).transpose(1, 2).flatten(0, 1)
        scores = self.fc_w(values.keys - cells[index] + position)
        made = plain_attention(scores, values.values + position, index, batch * resolution**self.axes)
        return made.view(batch, *(resolution,) * self.axes, self.channels).movedim(-1, 1)

    def sample(self, grids: list[Tensor], projections: list[Projection]) -> Tensor:
        sampled = [plain_sample(grid, p.coords, self.sampler) for grid, p in zip(grids, projections, strict=True)]
        return torch.stack(sampled).sum(0).flatten(0, 1)


class _PlainEncoder(GridFormerEncoder):
    """The encoder whose first grid of means is summed by ``index_add``."""

    def forward(self, points: Tensor) -> Maps:
        projections = normalized_projections(points, self.kind, self.padding)
        features = self.fc_pos(points).flatten(0, 1)
        grids = []
        for projection in projections:
            axes = projection.coords.shape[2]
            index = plain_cells(projection.coords, self.resolution)
            cells = len(points) * self.resolution**axes
            total = features.new_zeros(cells, features.shape[1]).index_add(0, index, features)
            means = total / index.bincount(minlength=cells).clamp(min=1)[:, None]
            grids.append(means.view(len(points), *(self.resolution,) * axes, -1).movedim(-1, 1))
        return (self.unet if self.kind == "planes" else self.unet3d)(grids, features, projections)


def as_plain(encoder: GridFormerEncoder, sampler: Sampler) -> GridFormerEncoder:
    """Turn an encoder's ops into plain torch, its weights stay; returns it."""
    encoder.__class__ = _PlainEncoder
    for layer in [module for module in encoder.modules() if isinstance(module, PointGridLayer)]:
        own = type(layer)
        layer.__class__ = type(f"Plain{own.__name__}", (_PlainLayer, own), {"sampler": sampler})
    return encoder
