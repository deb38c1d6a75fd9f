"""What every initialisation returns: points with colours and how far they can be trusted."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.data.cameras import Cameras

__all__ = ["PointSeeds", "look_up", "pixel_positions"]


class PointSeeds(NamedTuple):
    """``P`` points of a scene."""

    points: Tensor  # (P, 3)
    colors: Tensor  # (P, 3) in [0, 1]
    confidence: Tensor  # (P,) in [0, 1]
    normals: Tensor | None = None  # (P, 3) of the surface, of length 1, or 0 where it is not known

    def select(self, rows: Tensor) -> PointSeeds:
        """The points of a mask or of indices."""
        normals = None if self.normals is None else self.normals[rows]
        return PointSeeds(self.points[rows], self.colors[rows], self.confidence[rows], normals)

    def thinned(self, most: int, generator: torch.Generator | None = None) -> PointSeeds:
        """At most ``most`` of the points, drawn by their confidence without replacement, in their order."""
        if len(self.points) <= most:
            return self
        weight = self.confidence.clamp_min(1e-6)
        chosen = torch.multinomial(weight.cpu(), most, generator=generator).sort().values.to(self.points.device)
        return self.select(chosen)

    def joined(self, *others: PointSeeds) -> PointSeeds:
        """All points, in the order of the sets."""
        every = (self, *others)
        normals = None
        if any(part.normals is not None for part in every):
            normals = torch.cat(
                [torch.zeros_like(part.points) if part.normals is None else part.normals for part in every]
            )
        points, colors, confidence = (torch.cat(list(column)) for column in list(zip(*every, strict=True))[:3])
        return PointSeeds(points, colors, confidence, normals)


def look_up(images: Tensor, uv: Tensor) -> Tensor:
    """Bilinear values ``(N, P, C)`` of pictures ``(N, H, W, C)`` at pixels ``(N, P, 2)``; 0 outside.

    ``uv`` is column and row, ``(0.5, 0.5)`` the centre of the first pixel.
    """
    size = uv.new_tensor([images.shape[2], images.shape[1]])
    grid = (2 * uv / size - 1)[:, None].to(images.dtype)  # (N, 1, P, 2)
    values = torch.nn.functional.grid_sample(images.movedim(-1, 1), grid, align_corners=False, padding_mode="zeros")
    return values[:, :, 0].movedim(1, -1)


def pixel_positions(height: int, width: int, stride: int = 1) -> Tensor:
    """Columns and rows ``(P, 2)`` of every ``stride``-th pixel."""
    rows, columns = torch.meshgrid(
        torch.arange(stride // 2, height, stride), torch.arange(stride // 2, width, stride), indexing="ij"
    )
    return torch.stack((columns, rows), -1).reshape(-1, 2)


def check_views(images: Tensor, cameras: Cameras, least: int) -> None:
    """Raise ValueError unless ``images`` are ``(N, H, W, 3)`` floats of at least ``least`` cameras."""
    expected = (len(cameras), cameras.height, cameras.width, 3)
    if tuple(images.shape) != expected or not images.is_floating_point():
        raise ValueError(f"images: found {images.dtype} {tuple(images.shape)}, expected floats {expected}")
    if len(cameras) < least:
        raise ValueError(f"cameras: found {len(cameras)}, expected at least {least}")
