"""Points to begin with from patch-match, and of what silhouettes and matches leave open."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.data.posed_images import PosedImages, step_generator
from zoo.models.point_seeds.beginnings import FindSurface
from zoo.models.point_seeds.matched_surface import MatchedSurface
from zoo.models.point_seeds.seeds import PointSeeds
from zoo.models.point_seeds.visual_hull import hull_points, silhouettes

__all__ = ["SurfaceBeginning"]


@dataclass(frozen=True, kw_only=True)
class SurfaceBeginning:
    """Points of the matched surface, and cells of the silhouettes' hull where neither matches nor empty space are.

    Attributes:
        most: largest number of its points.
        fill: largest number of cells beside it; 0 with captures without silhouettes.
        resolution: cells along each side of the box.
        margin: share of the depth by which a cell in front of what a view shows is empty; those as far behind what
            all views show are left out too, since nothing says what they hold.
    """

    most: int = 20_000
    fill: int = 5_000
    resolution: int = 64
    margin: float = 0.02

    def __call__(
        self, images: PosedImages, aabb: Tensor, *, seed: int, find_surface: FindSurface | None = None
    ) -> PointSeeds:
        """The points, those of the surface first."""
        if find_surface is None:
            raise ValueError("find_surface: found None, expected what matches the views (task.matching)")
        surface = find_surface()
        colors = images.images[..., :3].float() / 255
        found = surface.points(colors)
        inside = ((found.points >= aabb[:3]) & (found.points <= aabb[3:])).all(-1)
        points = found.select(inside).thinned(self.most, step_generator(seed, 3))
        return points.joined(self._filling(images, colors, aabb, surface, points, seed)) if self.fill else points

    def _filling(
        self, images: PosedImages, colors: Tensor, aabb: Tensor, surface: MatchedSurface, points: PointSeeds, seed: int
    ) -> PointSeeds:
        cells = hull_points(
            colors, images.cameras, silhouettes(images), aabb, resolution=self.resolution,
            is_empty=lambda places: surface.is_empty(places, margin=self.margin),
        )  # fmt: skip
        cells = cells.select(~surface.is_hidden(cells.points, margin=self.margin))
        size = (aabb[3:] - aabb[:3]) / self.resolution
        grid = torch.zeros([self.resolution] * 3, dtype=torch.bool)
        taken = ((points.points - aabb[:3]) / size).long().clamp(0, self.resolution - 1)
        grid[tuple(taken.unbind(-1))] = True
        near = torch.nn.functional.max_pool3d(grid.float()[None, None], 3, stride=1, padding=1)[0, 0] > 0
        place = ((cells.points - aabb[:3]) / size).long().clamp(0, self.resolution - 1)
        open_cells = ~near[tuple(place.unbind(-1))]
        return cells.select(open_cells).thinned(self.fill, step_generator(seed, 2))
