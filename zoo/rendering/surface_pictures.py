"""Turntables of clouds and meshes, and heat-maps of errors, drawn from points without a graphics library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import trimesh
from torch import Tensor

from zoo.data.surface_cloud import sample_faces
from zoo.rendering.images import image_sheet
from zoo.rendering.point_pictures import draw_cloud

__all__ = ["UpAxis", "error_colors", "mesh_points", "shaded", "turntable", "turntable_sheet"]

UpAxis = Literal["x", "y", "z"]
_TURNS = {"x": (1, 2, 0), "y": (2, 0, 1), "z": (0, 1, 2)}  # which axes become x, y, z with z up
_HEAT = ((0.16, 0.27, 0.60), (0.20, 0.60, 0.75), (0.85, 0.85, 0.45), (0.93, 0.50, 0.20), (0.65, 0.05, 0.10))


def mesh_points(mesh: trimesh.Trimesh, count: int = 150_000, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points on a mesh and normals there, smooth where the vertices have some, ``(count, 3)`` float32 each."""
    points, faces = sample_faces(mesh, count, seed=seed)
    weights = trimesh.triangles.points_to_barycentric(mesh.triangles[faces], points)
    normals = (np.asarray(mesh.vertex_normals)[mesh.faces[faces]] * weights[:, :, None]).sum(axis=1)
    return torch.from_numpy(points).float(), torch.from_numpy(normals).float()


def error_colors(errors: Tensor, largest: float) -> Tensor:
    """Blue for 0 over yellow to dark red for ``largest`` and more: ``(N, 3)`` from ``(N,)``."""
    colours = torch.tensor(_HEAT)
    place = (errors.float() / max(largest, 1e-12)).clamp(0, 1) * (len(colours) - 1)
    index = place.floor().long().clamp(max=len(colours) - 2)
    return torch.lerp(colours[index], colours[index + 1], (place - index)[:, None])


def shaded(normals: Tensor, azimuth: float, elevation: float, colors: Tensor | None = None) -> Tensor:
    """Colours ``(N, 3)`` under a lamp beside the viewer; both sides of a surface are lit. z is up."""
    a, e = math.radians(azimuth + 25), math.radians(elevation + 20)
    lamp = normals.new_tensor([math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)])
    light = 0.25 + 0.75 * (torch.nn.functional.normalize(normals, dim=-1) @ lamp).abs()[:, None]
    return light * (normals.new_tensor([0.80, 0.82, 0.86]) if colors is None else colors.to(normals))


def turntable(
    points: Tensor,
    normals: Tensor | None = None,
    colors: Tensor | None = None,
    *,
    up: UpAxis = "z",
    views: int = 4,
    size: int = 220,
    elevation: float = 15.0,
) -> list[Tensor]:
    """Pictures ``(size, size, 3)`` from directions all around.

    Args:
        points: ``(N, 3)``.
        normals: ``(N, 3)`` to shade by; None: shaded by depth, unless there are colours.
        colors: ``(N, 3)`` in [0, 1].
        up: The axis that points up.
        views: Number of directions.
        size: Of a picture in pixels.
        elevation: Of the viewer in degrees.
    """
    axes = list(_TURNS[up])
    placed = points[:, axes].float()
    frames = []
    for number in range(views):
        azimuth = 30.0 + 360.0 * number / views
        seen = colors if normals is None else shaded(normals[:, axes].float(), azimuth, elevation, colors)
        frames.append(draw_cloud(placed, seen, size=size, azimuth=azimuth, elevation=elevation))
    return frames


def turntable_sheet(rows: Sequence[Sequence[Tensor]]) -> np.ndarray:
    """Turntables under each other, ``(H, W, 3)`` uint8."""
    return image_sheet(rows)
