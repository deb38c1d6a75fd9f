"""Points that others found: structure from motion, and depth maps from files."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from zoo.data.cameras import Cameras
from zoo.data.formats.colmap import ColmapModel
from zoo.models.point_seeds.plane_sweep import lift_pixels
from zoo.models.point_seeds.seeds import PointSeeds, check_views, pixel_positions

__all__ = ["depth_points", "sfm_points"]


def sfm_points(model: ColmapModel, world_to_scene: Tensor, *, error_scale: float = 1.0) -> PointSeeds:
    """The triangulated points of a reconstruction in the frame of its scene.

    Confidence is ``exp(-error / error_scale)`` with the mean reprojection error in pixels.

    Args:
        model: As ``zoo.data.formats.colmap.read_colmap_model`` gives it.
        world_to_scene: Similarity ``(4, 4)``, of the data module.
        error_scale: In pixels.
    """
    similarity = world_to_scene.double()
    points = torch.from_numpy(model.points).double() @ similarity[:3, :3].T + similarity[:3, 3]
    colors = torch.from_numpy(model.colors).float() / 255
    confidence = torch.exp(-torch.from_numpy(model.errors).float() / error_scale)
    return PointSeeds(points.float(), colors, confidence)


def depth_points(
    images: Tensor,
    cameras: Cameras,
    depths: Tensor,
    *,
    masks: Tensor | None = None,
    confidence: Tensor | None = None,
    stride: int = 1,
    kind: Literal["z", "ray"] = "z",
) -> PointSeeds:
    """Points of supplied depth maps in the units of the cameras; pixels without positive finite depth are left out.

    Args:
        images: ``(N, H, W, 3)`` in [0, 1].
        cameras: N cameras.
        depths: ``(N, H, W)``.
        masks: ``(N, H, W)``, pixels to keep; None: all.
        confidence: ``(N, H, W)`` in [0, 1]; None: 1.
        stride: Every how manieth pixel of a row and column becomes a point.
        kind: Whether depth is ``z`` in the camera's frame, or the distance along the ray.

    Raises:
        ValueError: Shapes do not fit, or ``kind`` is unknown.
    """
    check_views(images, cameras, 1)
    if tuple(depths.shape) != tuple(images.shape[:3]):
        raise ValueError(f"depths: found shape {tuple(depths.shape)}, expected {tuple(images.shape[:3])}")
    if kind not in ("z", "ray"):
        raise ValueError(f"kind: found {kind!r}, expected 'z' or 'ray'")
    pixels = pixel_positions(cameras.height, cameras.width, stride)
    parts = []
    for view in range(len(cameras)):
        usable = torch.isfinite(depths[view]) & (depths[view] > 0)
        if masks is not None:
            usable &= masks[view] != 0
        chosen = pixels[usable[pixels[:, 1], pixels[:, 0]]]
        at = (chosen[:, 1], chosen[:, 0])
        depth = depths[view][at]
        if kind == "ray":
            rays = cameras.rays(torch.full((len(chosen),), view), chosen)
            points = rays.origins + rays.directions * depth[:, None]
        else:
            points = lift_pixels(cameras, view, chosen, depth)
        trust = torch.ones_like(depth) if confidence is None else confidence[view][at]
        parts.append(PointSeeds(points, images[view][at], trust))
    return parts[0].joined(*parts[1:])
