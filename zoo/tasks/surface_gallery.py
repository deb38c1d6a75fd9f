"""Turntables of one reconstruction for a report."""

from __future__ import annotations

import trimesh
from torch import Tensor

from zoo.rendering.report import Picture, ReportSection
from zoo.rendering.surface_pictures import UpAxis, error_colors, mesh_points, turntable, turntable_sheet
from zoo.tasks.surface_scores import SurfaceMeasurement

__all__ = ["surface_section"]

_LARGEST_ERROR = 0.01  # of the longest side, the darkest red


def surface_section(
    mesh: trimesh.Trimesh, cloud: Tensor, truth: trimesh.Trimesh | None, found: SurfaceMeasurement, *, up: UpAxis = "z"
) -> ReportSection:
    """Input, result, ground truth and a heat-map of the error, each from four sides."""
    pictures = [Picture(turntable_sheet([turntable(cloud, up=up)]), f"input: {len(cloud):,} points")]
    if len(mesh.faces):
        caption = f"result: {len(mesh.faces):,} triangles"
        pictures.append(Picture(turntable_sheet([turntable(*mesh_points(mesh), up=up)]), caption))
    if truth is not None:
        caption = f"ground truth: {len(truth.faces):,} triangles"
        pictures.append(Picture(turntable_sheet([turntable(*mesh_points(truth), up=up)]), caption))
    if len(found.places):
        heat = turntable(found.places, colors=error_colors(found.errors, _LARGEST_ERROR), up=up)
        what = "the cloud" if truth is None else "the truth"
        caption = f"distance to {what}: blue 0, dark red {_LARGEST_ERROR:.0%} of the longest side and more"
        pictures.append(Picture(turntable_sheet([heat]), caption))
    return ReportSection("Surface", pictures=pictures)
