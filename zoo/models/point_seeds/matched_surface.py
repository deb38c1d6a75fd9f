"""What patch-match finds in all views: planes that agree between views, their points, and the space that they empty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zoo.data.cameras import Cameras
from zoo.data.posed_images import PosedImages, step_generator
from zoo.models.point_seeds.patch_match import PatchMatch, PlaneMap, patch_match
from zoo.models.point_seeds.plane_sweep import lift_pixels
from zoo.models.point_seeds.seeds import PointSeeds, pixel_positions
from zoo.models.point_seeds.visual_hull import inside_hull, silhouettes

__all__ = ["MatchedSurface", "SurfaceMatching", "depth_bounds"]

_DEPTHS = 64  # tried along a ray for the bounds


@dataclass(frozen=True, eq=False)
class MatchedSurface:
    """Depth of N views at every ``stride``-th pixel, where other views agree.

    Attributes:
        cameras: N cameras.
        stride: every how manieth pixel has a depth.
        depth: ``(N, h, w)`` z in the frame of the view; 0 where nothing is known.
        normals: ``(N, h, w, 3)`` of length 1, in the world.
        score: ``(N, h, w)`` correlation.
    """

    cameras: Cameras
    stride: int
    depth: Tensor
    normals: Tensor
    score: Tensor

    def points(self, images: Tensor) -> PointSeeds:
        """The points with the colours of their pixels in ``images (N, H, W, 3)``, the correlation as confidence."""
        pixels = pixel_positions(self.cameras.height, self.cameras.width, self.stride)
        parts = []
        for view, depth in enumerate(self.depth.flatten(1)):
            known = depth > 0
            chosen = pixels[known]
            points = lift_pixels(self.cameras, view, chosen, depth[known])
            score = self.score[view].reshape(-1)[known]
            normals = self.normals[view].reshape(-1, 3)[known]
            parts.append(PointSeeds(points, images[view, chosen[:, 1], chosen[:, 0]], score.clamp(0, 1), normals))
        return parts[0].joined(*parts[1:])

    def depth_maps(self) -> Tensor:
        """Depth z ``(N, H, W)`` at the views' pixels, 0 where nothing is known."""
        count, start = len(self.cameras), self.stride // 2
        maps = self.depth.new_zeros(count, self.cameras.height, self.cameras.width)
        maps[:, start :: self.stride, start :: self.stride] = self.depth
        return maps

    def distance_maps(self) -> Tensor:
        """As `depth_maps`, along the rays."""
        shape = (self.cameras.height, self.cameras.width)
        slopes = [
            (self.cameras.image_rays(view).directions * pose[:3, 2]).sum(-1).reshape(shape)
            for view, pose in enumerate(self.cameras.camera_to_world)
        ]
        return self.depth_maps() / torch.stack(slopes)

    def is_empty(self, points: Tensor, *, margin: float = 0.02) -> Tensor:
        """Points ``(P,)`` bool that some view sees through: they lie in front of what it shows.

        A view speaks where most of the 3 x 3 depths around are known, and then by the nearest of them.

        Args:
            points: ``(P, 3)``.
            margin: share of the depth by which a point must lie in front.
        """
        around, nearest, _ = self._range(3)
        empty = torch.zeros(len(points), dtype=torch.bool)
        for view, at, place, z in self._seen(points):
            empty[at] |= around[view][place] & (z < (1 - margin) * nearest[view][place])
        return empty

    def is_hidden(self, points: Tensor, *, margin: float = 0.02) -> Tensor:
        """Points ``(P,)`` bool that lie behind what each view shows which they project into.

        A view speaks where most of the 7 x 7 depths around are known, and then by the farthest of them.

        Args:
            points: ``(P, 3)``.
            margin: share of the depth by which a point must lie behind.
        """
        around, _, farthest = self._range(7)
        hidden = torch.ones(len(points), dtype=torch.bool)
        for view, at, place, z in self._seen(points):
            hidden[at] &= around[view][place] & (z > (1 + margin) * farthest[view][place])
        return hidden

    def _range(self, window: int) -> tuple[Tensor, Tensor, Tensor]:
        """Where most depths of a window are known, the least and the largest of them, each ``(N, h, w)``."""
        known, half = self.depth > 0, window // 2
        around = torch.nn.functional.avg_pool2d(known.float(), window, stride=1, padding=half) > 0.5
        inverse = torch.where(known, 1 / self.depth.clamp_min(1e-9), 0)
        nearest = 1 / torch.nn.functional.max_pool2d(inverse, window, stride=1, padding=half).clamp_min(1e-9)
        return around, nearest, torch.nn.functional.max_pool2d(self.depth, window, stride=1, padding=half)

    def _seen(self, points: Tensor) -> Iterator[tuple[int, Tensor, tuple[Tensor, Tensor], Tensor]]:
        """For each view the points in its picture: their numbers, their rows and columns in its map, and z."""
        uv, z = self.cameras.project(points)
        column, row = (uv[..., axis].div(self.stride).floor().long() for axis in (0, 1))
        height, width = self.depth.shape[1:]
        sees = (z > 0) & (uv >= 0).all(-1) & (column < width) & (row < height)
        for view in range(len(self.cameras)):
            at = sees[view].nonzero()[:, 0]
            yield view, at, (row[view, at], column[view, at]), z[view, at]


def depth_bounds(
    cameras: Cameras, view: int, aabb: Sequence[float] | Tensor, *, masks: Tensor | None = None, stride: int = 1
) -> tuple[Tensor, Tensor]:
    """Least and largest depth z ``(h, w)`` at which rays of a view are inside of the box and of the silhouettes' hull.

    Both are 0 for rays that miss it.

    Args:
        cameras: N cameras.
        view: Whose rays.
        aabb: Box, xmin ymin zmin xmax ymax zmax.
        masks: ``(N, H, W)``, not zero on the object; None: the box alone.
        stride: Every how manieth pixel.
    """
    box = torch.as_tensor(aabb, dtype=torch.float32)
    pixels = pixel_positions(cameras.height, cameras.width, stride)
    depth = cameras[[view]].project(torch.cartesian_prod(*box.reshape(2, 3).unbind(1)))[1]
    far = float(depth.max())
    near = max(float(depth.min()), 0.05 * far)
    steps = 1 / torch.linspace(1 / near, 1 / far, _DEPTHS)
    least, most = torch.full((len(pixels),), float("inf")), torch.zeros(len(pixels))
    for number, value in enumerate(steps):
        points = lift_pixels(cameras, view, pixels, value.expand(len(pixels)))
        inside = ((points >= box[:3]) & (points <= box[3:])).all(-1)
        if masks is not None:
            inside[inside.clone()] = inside_hull(points[inside], cameras, masks, margin=2)
        before, behind = steps[max(number - 1, 0)], steps[min(number + 1, _DEPTHS - 1)]
        least = torch.where(inside, least.minimum(before), least)
        most = torch.where(inside, most.maximum(behind), most)
    least = torch.where(torch.isfinite(least), least, 0)
    shape = (len(range(stride // 2, cameras.height, stride)), len(range(stride // 2, cameras.width, stride)))
    return least.reshape(shape), most.reshape(shape)


@dataclass(frozen=True, kw_only=True)
class SurfaceMatching:
    """Matches every view against the others and keeps what they agree on.

    Attributes:
        options: how a view is matched.
        min_score: least correlation.
        tolerance: share by which the depth that another view found may differ.
        min_agreeing: other views that must agree.
        in_hull: whether depth is sought in the silhouettes' hull, widened by 2 pixels, alone.
    """

    options: PatchMatch = field(default_factory=PatchMatch)
    min_score: float = 0.6
    tolerance: float = 0.01
    min_agreeing: int = 1
    in_hull: bool = True

    def __call__(self, images: PosedImages, aabb: Sequence[float] | Tensor, *, seed: int) -> MatchedSurface:
        """The surface in a box.

        Args:
            images: Pinhole views, on the CPU; with silhouettes for ``in_hull``.
            aabb: Box that holds the scene.
            seed: Of the guesses.

        Raises:
            ValueError: As `patch_match`, or there are no silhouettes.
        """
        masks = silhouettes(images) if self.in_hull else None
        cameras, stride, found = images.cameras, self.options.stride, []
        for view in range(len(cameras)):
            nearest, farthest = depth_bounds(cameras, view, aabb, masks=masks, stride=stride)
            if masks is not None:
                shown = masks[view, stride // 2 :: stride, stride // 2 :: stride]
                farthest = torch.where(shown, farthest, 0)
            found.append(
                patch_match(
                    images.images[..., :3].float() / 255, cameras, view, nearest=nearest, farthest=farthest,
                    options=self.options, generator=step_generator(seed, view),
                )
            )  # fmt: skip
        return _agreeing(found, cameras, stride, self.min_score, self.tolerance, self.min_agreeing)


def _agreeing(
    maps: Sequence[PlaneMap], cameras: Cameras, stride: int, min_score: float, tolerance: float, least: int
) -> MatchedSurface:
    score = torch.stack([found.score for found in maps])
    inverse = torch.stack([found.inverse for found in maps])
    depth = torch.where(score >= min_score, 1 / inverse.clamp_min(1e-9), 0)
    pixels = pixel_positions(cameras.height, cameras.width, stride)
    height, width = depth.shape[1:]
    kept = torch.zeros_like(depth)
    for view in range(len(maps)):
        known = (depth[view].reshape(-1) > 0).nonzero()[:, 0]
        uv, z = cameras.project(lift_pixels(cameras, view, pixels[known], depth[view].reshape(-1)[known]))
        column, row = (uv[..., axis].div(stride).floor().long() for axis in (0, 1))
        inside = (z > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        count = torch.zeros(len(known), dtype=torch.int64)
        for other, plane in enumerate(maps):
            if other == view:
                continue
            at = inside[other].nonzero()[:, 0]
            place = (row[other, at], column[other, at])
            center = torch.stack(place[::-1], -1) * stride + stride // 2 + 0.5
            offset = (uv[other, at] - center) / cameras.intrinsics[other, :2]
            expected = plane.inverse[place] + (plane.slope[place] * offset).sum(-1)  # the plane where the point is seen
            agrees = (expected * z[other, at] - 1).abs() <= tolerance
            count[at] += (agrees & (depth[other][place] > 0)).long()
        good = known[count >= least]
        kept[view].view(-1)[good] = depth[view].reshape(-1)[good]
    normals = torch.stack([_normals(plane, cameras, view, pixels) for view, plane in enumerate(maps)])
    return MatchedSurface(cameras, stride, kept, normals, score)


def _normals(plane: PlaneMap, cameras: Cameras, view: int, pixels: Tensor) -> Tensor:
    """World normals ``(h, w, 3)`` of planes: ``n X = 1`` holds on one for ``n = (slope, w - slope d)``."""
    focal, middle = cameras.intrinsics[view].split(2)
    direction = ((pixels + 0.5 - middle) / focal).reshape(plane.slope.shape)
    rest = plane.inverse - (plane.slope * direction).sum(-1)
    local = torch.cat((plane.slope, rest[..., None]), -1)
    return torch.nn.functional.normalize(local @ cameras.camera_to_world[view, :3, :3].T, dim=-1)
