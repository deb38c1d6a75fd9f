"""Turntables of reconstructions for a report."""

from __future__ import annotations

from typing import NamedTuple

import trimesh
from torch import Tensor

from zoo.rendering.report import Picture, ReportSection
from zoo.rendering.surface_pictures import UpAxis, error_colors, mesh_points, turntable, turntable_sheet

__all__ = ["Turntable", "surface_picture", "surface_section", "surface_turntables"]


class Turntable(NamedTuple):
    """Something from all sides."""

    caption: str
    frames: list[Tensor]  # (H, W, 3) each


def surface_turntables(
    mesh: trimesh.Trimesh,
    cloud: Tensor,
    truth: trimesh.Trimesh | tuple[Tensor, Tensor] | None,
    places: Tensor,
    errors: Tensor,
    *,
    up: UpAxis = "z",
    largest_error: float = 0.01,
) -> list[Turntable]:
    """Input, result, ground truth and a heat-map of the error, each from four sides.

    Args:
        mesh: The result; without triangles it is left out.
        cloud: The input, ``(N, 3)``.
        truth: The true mesh, or points of it and normals there, ``(M, 3)`` each; None: unknown.
        places: Points on the result, ``(P, 3)``.
        errors: There, as a share of the longest side, ``(P,)``.
        up: The axis that points up.
        largest_error: Drawn in the darkest red, as a share of the longest side.
    """
    rows = [Turntable(f"input: {len(cloud):,} points", turntable(cloud, up=up))]
    if len(mesh.faces):
        rows.append(Turntable(f"result: {len(mesh.faces):,} triangles", turntable(*mesh_points(mesh), up=up)))
    if isinstance(truth, trimesh.Trimesh):
        rows.append(Turntable(f"ground truth: {len(truth.faces):,} triangles", turntable(*mesh_points(truth), up=up)))
    elif truth is not None:
        rows.append(Turntable(f"ground truth: {len(truth[0]):,} points", turntable(*truth, up=up)))
    if len(places):
        what = "the cloud" if truth is None else "the truth"
        caption = f"distance to {what}: blue 0, dark red {largest_error:.0%} of the longest side and more"
        heat = turntable(places, colors=error_colors(errors, largest_error), up=up)
        rows.append(Turntable(caption, heat))
    return rows


def surface_section(rows: list[Turntable]) -> ReportSection:
    """One reconstruction, a picture for each turntable."""
    return ReportSection("Surface", pictures=[Picture(turntable_sheet([row.frames]), row.caption) for row in rows])


def surface_picture(name: str, rows: list[Turntable]) -> Picture:
    """One of several reconstructions as a single picture."""
    return Picture(turntable_sheet([row.frames for row in rows]), f"{name}. {'; '.join(row.caption for row in rows)}")
