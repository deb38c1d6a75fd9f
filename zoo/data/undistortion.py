"""Pictures of a pinhole camera from those of a distorting lens, for methods that know no other."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from zoo.data.cameras import Cameras
from zoo.data.lens import LENSES
from zoo.data.posed_images import PosedImages

__all__ = ["undistorted"]

_ZOOM_STEP, _MOST_STEPS = 1.002, 500
_ROUNDING = 1e-2  # pixels


def undistorted(images: PosedImages) -> PosedImages:
    """The views as pinhole cameras of the same poses and size take them.

    The focal lengths grow by the least factor with which no pixel looks outside of its photograph. Colours are
    interpolated linearly, weighted by alpha.

    Raises:
        ValueError: A fisheye lens, or one whose pictures no pinhole camera can fill.
    """
    cameras = images.cameras
    if cameras.model == "pinhole":
        return images
    if LENSES[cameras.model].fisheye:
        raise ValueError(f"undistort: found the fisheye lens {cameras.model!r}, expected a perspective one")
    pinhole = _filled(cameras)
    pictures = torch.stack([_resampled(images, pinhole, index) for index in range(len(images))])
    return replace(images, images=pictures, cameras=pinhole)


def _filled(cameras: Cameras) -> Cameras:
    width, height = cameras.width, cameras.height
    across, down = torch.arange(width), torch.arange(height)
    rows = (torch.zeros_like(across), torch.full_like(across, height - 1), down, down)
    columns = (across, across, torch.zeros_like(down), torch.full_like(down, width - 1))
    border = torch.stack((torch.cat(columns), torch.cat(rows)), -1)
    last = torch.tensor([width, height]) - 0.5 + _ROUNDING  # the middle of the last pixel
    pinhole = replace(cameras, distortion=None, model="pinhole")
    for _ in range(_MOST_STEPS):
        uv = torch.cat([_places(cameras, pinhole, index, border) for index in range(len(cameras))])
        if bool(((uv >= 0.5 - _ROUNDING) & (uv <= last)).all()):
            return pinhole
        grown = pinhole.intrinsics * pinhole.intrinsics.new_tensor([_ZOOM_STEP, _ZOOM_STEP, 1.0, 1.0])
        pinhole = replace(pinhole, intrinsics=grown)
    raise ValueError(f"undistort: no pinhole camera up to {_ZOOM_STEP**_MOST_STEPS:.1f} times closer is filled")


def _places(cameras: Cameras, pinhole: Cameras, index: int, pixels: Tensor) -> Tensor:
    """Where in the photograph ``(P, 2)`` pixels of the pinhole camera look."""
    rays = pinhole.rays(torch.full((len(pixels),), index), pixels)
    return cameras[[index]].project(rays.origins + rays.directions)[0][0]


def _resampled(images: PosedImages, pinhole: Cameras, index: int) -> Tensor:
    height, width = pinhole.height, pinhole.width
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    uv = _places(images.cameras, pinhole, index, torch.stack((column, row), -1).reshape(-1, 2))
    grid = 2 * uv.reshape(1, height, width, 2) / uv.new_tensor([width, height]) - 1
    picture = images.images[index].float()
    if images.has_alpha:
        picture = torch.cat((picture[..., :3] * picture[..., 3:] / 255, picture[..., 3:]), -1)
    found = torch.nn.functional.grid_sample(
        picture.movedim(-1, 0)[None], grid.to(picture), align_corners=False, padding_mode="border"
    )[0].movedim(0, -1)
    if images.has_alpha:
        found = torch.cat((found[..., :3] / (found[..., 3:] / 255).clamp_min(1e-6), found[..., 3:]), -1)
    return found.round().clamp(0, 255).to(torch.uint8)
