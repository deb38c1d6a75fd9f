"""Where Gaussians begin, chosen by a configuration: each class makes points from the views that are trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from zoo.data.cameras import Cameras
from zoo.data.formats.gaussian_ply import SH_C0, read_gaussian_ply
from zoo.data.posed_images import PosedImages, step_generator
from zoo.models.point_seeds.matched_surface import MatchedSurface
from zoo.models.point_seeds.plane_sweep import plane_sweep_points
from zoo.models.point_seeds.seeds import PointSeeds
from zoo.models.point_seeds.visual_hull import hull_points, inside_hull, silhouettes

__all__ = [
    "Beginning",
    "FindSurface",
    "HullBeginning",
    "JoinedBeginning",
    "MatchedBeginning",
    "RandomBeginning",
    "SavedBeginning",
]

FindSurface = Callable[[], MatchedSurface]


class Beginning(Protocol):
    """Makes the first points of a scene."""

    def __call__(
        self, images: PosedImages, aabb: Tensor, *, seed: int, find_surface: FindSurface | None = None
    ) -> PointSeeds:
        """The points.

        Args:
            images: The training views.
            aabb: Box to model, ``(6,)``.
            seed: Of whatever is drawn.
            find_surface: Gives what patch-match finds in the views; matched once, when first asked for. None: nobody
                matches.

        Raises:
            ValueError: The views do not allow it.
        """
        ...


def _colors(images: PosedImages) -> Tensor:
    return images.images[..., :3].float() / 255


def _depth_range(cameras: Cameras, aabb: Tensor) -> tuple[float, float]:
    """Smallest and largest depth of the box in any view."""
    corners = torch.cartesian_prod(*aabb.reshape(2, 3).unbind(1))
    depth = cameras.project(corners)[1]
    far = float(depth.max())
    return max(float(depth.min()), 0.05 * far), far


@dataclass(frozen=True, kw_only=True)
class RandomBeginning:
    """Points of random colours, uniform in the box (3DGS without points from structure from motion).

    Attributes:
        count: of points.
    """

    count: int = 10_000

    def __call__(
        self, images: PosedImages, aabb: Tensor, *, seed: int, find_surface: FindSurface | None = None
    ) -> PointSeeds:
        """The points."""
        generator = step_generator(seed, 1)
        points = aabb[:3] + torch.rand(self.count, 3, generator=generator) * (aabb[3:] - aabb[:3])
        return PointSeeds(points, torch.rand(self.count, 3, generator=generator), torch.ones(self.count))


@dataclass(frozen=True, kw_only=True)
class HullBeginning:
    """Cells of the silhouettes' visual hull, see `hull_points`.

    Attributes:
        resolution: cells along each side of the box.
        surface_only: whether cells inside of the hull are left out.
        most: largest number of points; where there are more, they are drawn by the agreement of the views.
    """

    resolution: int = 64
    surface_only: bool = True
    most: int = 20_000

    def __call__(
        self, images: PosedImages, aabb: Tensor, *, seed: int, find_surface: FindSurface | None = None
    ) -> PointSeeds:
        """The points."""
        found = hull_points(
            _colors(images), images.cameras, silhouettes(images), aabb, resolution=self.resolution,
            surface_only=self.surface_only,
        )  # fmt: skip
        if not len(found.points):
            raise ValueError("data.aabb: found no cell inside of all silhouettes; check the box and the masks")
        return found.thinned(self.most, step_generator(seed, 2))


@dataclass(frozen=True, kw_only=True)
class MatchedBeginning:
    """Points that dense matching of the views finds, see `plane_sweep_points`.

    Attributes:
        planes: depths to try.
        window: side of the compared windows in pixels.
        stride: every how manieth pixel becomes a point.
        min_score: least correlation.
        min_lead: least lead over other depths.
        tolerance: share by which the depths of two views may differ.
        most: largest number of points.
        in_hull: whether points outside of the silhouettes' hull, widened by 2 pixels, are left out.
    """

    planes: int = 96
    window: int = 7
    stride: int = 2
    min_score: float = 0.6
    min_lead: float = 0.02
    tolerance: float = 0.01
    most: int = 20_000
    in_hull: bool = True

    def __call__(
        self, images: PosedImages, aabb: Tensor, *, seed: int, find_surface: FindSurface | None = None
    ) -> PointSeeds:
        """The points."""
        masks = silhouettes(images) if self.in_hull else None
        near, far = _depth_range(images.cameras, aabb)
        found = plane_sweep_points(
            _colors(images), images.cameras, near=near, far=far, masks=masks, planes=self.planes, window=self.window,
            stride=self.stride, min_score=self.min_score, min_lead=self.min_lead, tolerance=self.tolerance,
        )  # fmt: skip
        inside = ((found.points >= aabb[:3]) & (found.points <= aabb[3:])).all(-1)
        if masks is not None:
            inside &= inside_hull(found.points, images.cameras, masks, margin=2)
        return found.select(inside).thinned(self.most, step_generator(seed, 3))


@dataclass(frozen=True, kw_only=True)
class JoinedBeginning:
    """The points of several beginnings.

    Attributes:
        parts: the beginnings by name; null entries are left out.
    """

    parts: Mapping[str, Beginning | None]

    def __call__(
        self, images: PosedImages, aabb: Tensor, *, seed: int, find_surface: FindSurface | None = None
    ) -> PointSeeds:
        """All points, in the order of the parts."""
        found = [
            part(images, aabb, seed=seed, find_surface=find_surface) for part in self.parts.values() if part is not None
        ]
        if not found:
            raise ValueError("parts: found none, expected at least one beginning")
        return found[0].joined(*found[1:])


@dataclass(frozen=True, kw_only=True)
class SavedBeginning:
    """Positions and colours of a PLY file of Gaussians: points from elsewhere, in the frame of the scene.

    Attributes:
        path: of the file.
    """

    path: str

    def __call__(
        self, images: PosedImages, aabb: Tensor, *, seed: int, find_surface: FindSurface | None = None
    ) -> PointSeeds:
        """The points."""
        found = read_gaussian_ply(Path(self.path))
        return PointSeeds(found.means, (found.sh0[:, 0] * SH_C0 + 0.5).clamp(0, 1), torch.ones(len(found.means)))
