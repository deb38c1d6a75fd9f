"""Occupancy of scenes larger than the cube that the network saw in training."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor

from zoo.models.gridformer.network import GridFormer, Maps

__all__ = ["SlidingWindow"]

_EMPTY = -20.0  # logit where no window holds a point


class SlidingWindow:
    """A scene cut into overlapping cubes; a position is decoded in the cube whose middle is nearest.

    Cubes stand on a lattice that begins at the scene's lowest corner; those without a point are left out, and what lies
    in them is empty. Memory holds the maps of ``cached`` cubes.

    Args:
        model: Trained on clouds in the unit cube.
        points: The scene ``(N, 3)``.
        window: Edge of a cube in the scene's units; it is what training scaled to 1.
        overlap: Share of the edge that neighbours have in common, in [0, 1).
        max_points: As many points of a cube at most are used, the same random ones each time; None: all.
        cached: Maps kept, those used last; a scene of no more cubes is encoded once.

    Raises:
        ValueError: On arguments out of range, or positions that are NaN or infinite.
    """

    def __init__(
        self,
        model: GridFormer,
        points: Tensor,
        *,
        window: float,
        overlap: float = 0.5,
        max_points: int | None = None,
        cached: int = 1,
    ) -> None:
        if points.dim() != 2 or points.shape[1] != 3 or not len(points):
            raise ValueError(f"points: found shape {tuple(points.shape)}, expected (N, 3) with at least one point")
        if not bool(torch.isfinite(points).all()):
            raise ValueError("points: found NaN or infinite positions, expected none; drop them first")
        if window <= 0 or not 0 <= overlap < 1:
            raise ValueError(f"window={window}, overlap={overlap}: expected above 0 and a share in [0, 1)")
        if cached < 1 or (max_points is not None and max_points < 1):
            raise ValueError(f"max_points={max_points}, cached={cached}: expected at least 1 each")
        if max_points is not None:  # the first ones of a cube are then random ones
            points = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0)).to(points.device)]
        self.model, self.points, self.window = model, points, window
        self.max_points, self.cached = max_points, cached
        self._maps: OrderedDict[int, Maps | None] = OrderedDict()
        self.stride = window * (1 - overlap)
        self.origin = points.amin(0) + window / 2
        extent = points.amax(0) - points.amin(0) - window
        self.counts = [int(c) for c in (extent / self.stride).ceil().clamp_min(0).long() + 1]

    def centre(self, index: Tensor) -> Tensor:
        """Middle of the cubes ``(..., 3)`` int64 on the lattice."""
        return self.origin + index * self.stride

    def _encode(self, number: int, centre: Tensor) -> Maps | None:
        if number not in self._maps:
            local = (self.points - centre) / self.window
            local = local[(local.abs() <= 0.5 + 1e-6).all(dim=1)][: self.max_points]
            if len(self._maps) == self.cached:
                self._maps.popitem(last=False)
            self._maps[number] = self.model.encode(local[None]) if len(local) else None
        self._maps.move_to_end(number)
        return self._maps[number]

    @torch.no_grad()
    def logits(self, queries: Tensor, *, chunk_size: int = 50000) -> Tensor:
        """Occupancy logits ``(Q,)`` at positions ``(Q, 3)`` of the scene."""
        counts = torch.tensor(self.counts, device=queries.device)
        nearest = ((queries - self.origin) / self.stride).round().long().clamp_min(0).minimum(counts - 1)
        key = (nearest[:, 0] * counts[1] + nearest[:, 1]) * counts[2] + nearest[:, 2]
        out = queries.new_full((len(queries),), _EMPTY)
        for number in key.unique().tolist():
            rows = (key == number).nonzero()[:, 0]
            centre = self.centre(nearest[rows[0]])
            maps = self._encode(number, centre)
            if maps is None:
                continue
            for part in rows.split(chunk_size):
                out[part] = self.model.decode(maps, ((queries[part] - centre) / self.window)[None])[0]
        return out
