"""Dense matching between the input views: sweep planes through the scene and keep the depth at which they agree.

For each reference view, every pixel is tried at depths spaced evenly in inverse depth; at each its neighbourhood is
looked up in the other views and compared by normalised cross-correlation of small windows (Collins 1996; Gallup et
al. 2007). The best depth is refined by a parabola through its neighbours, and a pixel survives where the correlation is
high, stands out from the other depths, and the depths of other views agree.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.data.cameras import Cameras
from zoo.models.point_seeds.seeds import PointSeeds, check_views, look_up, pixel_positions

__all__ = ["SweptDepth", "plane_sweep_points", "sweep_depth"]


class SweptDepth(NamedTuple):
    """The depth that a view's pixels were matched at."""

    depth: Tensor  # (H, W) z in the view's frame
    score: Tensor  # (H, W) correlation of the best plane in [-1, 1]
    lead: Tensor  # (H, W) by how much it beats planes that are not its neighbours


def _window_mean(values: Tensor, window: int) -> Tensor:
    return torch.nn.functional.avg_pool2d(values[:, None], window, stride=1, padding=window // 2)[:, 0]


def _correlation(reference: Tensor, others: Tensor, window: int) -> Tensor:
    """Normalised cross-correlation of windows: of ``(1, H, W)`` with each of ``(N, H, W)``."""
    mean_r, mean_o = _window_mean(reference, window), _window_mean(others, window)
    var_r = (_window_mean(reference**2, window) - mean_r**2).clamp_min(0)
    var_o = (_window_mean(others**2, window) - mean_o**2).clamp_min(0)
    both = _window_mean(reference * others, window) - mean_r * mean_o
    return both / torch.sqrt((var_r + 1e-5) * (var_o + 1e-5))  # flat windows correlate with nothing


@torch.no_grad()
def sweep_depth(
    images: Tensor, cameras: Cameras, reference: int, *, near: float, far: float, planes: int = 64, window: int = 5
) -> SweptDepth:
    """Match one view against the others.

    A plane's score is the mean correlation of the better half of the other views, so that a view which does not see a
    point cannot spoil it.

    Args:
        images: ``(N, H, W, 3)`` in [0, 1].
        cameras: N pinhole cameras.
        reference: The view to find depth for.
        near: Nearest plane, z in the view's frame.
        far: Farthest plane.
        planes: Their number.
        window: Side of the windows in pixels, odd.

    Raises:
        ValueError: Shapes do not fit, fewer than 2 views, or options out of range.
    """
    check_views(images, cameras, 2)
    if not 0 < near < far or planes < 3 or window < 3 or window % 2 == 0:
        raise ValueError(
            f"near, far, planes, window: found {near}, {far}, {planes}, {window}, expected 0 < near < far, at least 3 "
            "planes, and an odd window of at least 3"
        )
    height, width = cameras.height, cameras.width
    others = [view for view in range(len(cameras)) if view != reference]
    gray = images.mean(-1)
    rays = cameras.image_rays(reference)
    slope = (rays.directions * cameras.camera_to_world[reference, :3, 2]).sum(-1)  # z for each unit along the ray
    inverse = torch.linspace(1 / near, 1 / far, planes)
    size = images.new_tensor([width, height])
    kept = (len(others) + 1) // 2
    scores = images.new_empty(planes, height, width)
    for number, value in enumerate(inverse):
        points = rays.origins + rays.directions * (1 / value / slope)[:, None]
        uv, depth = cameras[others].project(points)
        values = look_up(gray[others][..., None], uv)[..., 0].reshape(-1, height, width)
        valid = ((depth > 0) & (uv >= 0).all(-1) & (uv <= size).all(-1)).reshape(-1, height, width)
        found = _correlation(gray[None, reference], values, window)
        found = torch.where(valid, found, torch.full_like(found, -1.0))
        scores[number] = found.topk(kept, dim=0).values.mean(0)
    return _best_plane(scores, inverse)


def _best_plane(scores: Tensor, inverse: Tensor) -> SweptDepth:
    """The best plane of a cost volume ``(D, H, W)``, refined by the parabola through it and its neighbours."""
    best, index = scores.max(0)
    inner = index.clamp(1, len(inverse) - 2)
    left, middle, right = (scores.gather(0, (inner + shift)[None])[0] for shift in (-1, 0, 1))
    bend = (left - 2 * middle + right).clamp(max=-1e-6)
    shift = (0.5 * (left - right) / bend).clamp(-0.5, 0.5)
    shift = torch.where(index == inner, shift, torch.zeros_like(shift))
    step = inverse[1] - inverse[0]
    depth = 1 / (inverse[index] + shift * step)
    place = torch.arange(len(inverse))[:, None, None]
    rest = scores.masked_fill((place - index).abs() <= 2, -1.0).amax(0)
    return SweptDepth(depth, best, best - rest)


@torch.no_grad()
def plane_sweep_points(
    images: Tensor,
    cameras: Cameras,
    *,
    near: float,
    far: float,
    masks: Tensor | None = None,
    planes: int = 64,
    window: int = 5,
    stride: int = 1,
    min_score: float = 0.6,
    min_lead: float = 0.02,
    tolerance: float = 0.01,
    min_agreeing: int = 1,
) -> PointSeeds:
    """Points of all views whose matches agree between the views.

    Args:
        images: ``(N, H, W, 3)`` in [0, 1].
        cameras: N pinhole cameras.
        near: Nearest plane.
        far: Farthest plane.
        masks: ``(N, H, W)``, pixels to keep; None: all.
        planes: Depths to try.
        window: Side of the windows.
        stride: Every how manieth pixel of a row and column becomes a point.
        min_score: Least correlation.
        min_lead: Least lead over planes that are not neighbours.
        tolerance: Share by which the depth that another view found may differ.
        min_agreeing: Other views that must agree.

    Returns:
        Points, the colours of their pixels, and the correlation as confidence.

    Raises:
        ValueError: As `sweep_depth`.
    """
    swept = [
        sweep_depth(images, cameras, view, near=near, far=far, planes=planes, window=window)
        for view in range(len(cameras))
    ]
    depths = torch.stack([found.depth for found in swept])
    pixels = pixel_positions(cameras.height, cameras.width, stride)
    column, row = pixels.unbind(-1)
    parts = []
    for view, found in enumerate(swept):
        keep = (found.score >= min_score) & (found.lead >= min_lead)
        if masks is not None:
            keep &= masks[view] != 0
        chosen = pixels[keep[row, column]]
        points = lift_pixels(cameras, view, chosen, found.depth[chosen[:, 1], chosen[:, 0]])
        agreeing = _agreeing(points, cameras, depths, view, tolerance) >= min_agreeing
        chosen, points = chosen[agreeing], points[agreeing]
        at = (chosen[:, 1], chosen[:, 0])
        parts.append(PointSeeds(points, images[view][at], found.score[at].clamp(0, 1)))
    return parts[0].joined(*parts[1:])


def lift_pixels(cameras: Cameras, view: int, pixels: Tensor, depth: Tensor) -> Tensor:
    """World points ``(P, 3)`` of pixels ``(P, 2)`` of a view at depths z ``(P,)``."""
    rays = cameras.rays(torch.full((len(pixels),), view), pixels)
    slope = (rays.directions * cameras.camera_to_world[view, :3, 2]).sum(-1)
    return rays.origins + rays.directions * (depth / slope)[:, None]


def _agreeing(points: Tensor, cameras: Cameras, depths: Tensor, view: int, tolerance: float) -> Tensor:
    """How many other views found about the same depth where a point of ``view`` projects to, ``(P,)``."""
    uv, z = cameras.project(points)
    column, row = uv[..., 0].floor().long(), uv[..., 1].floor().long()
    inside = (z > 0) & (column >= 0) & (column < cameras.width) & (row >= 0) & (row < cameras.height)
    count = torch.zeros(len(points), dtype=torch.int64)
    for other in range(len(cameras)):
        if other == view:
            continue
        at = inside[other].nonzero()[:, 0]
        found = depths[other, row[other, at], column[other, at]]
        count[at] += ((found - z[other, at]).abs() <= tolerance * z[other, at]).long()
    return count
