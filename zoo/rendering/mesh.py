"""Surfaces of density fields: marching cubes on a regular grid of points, coloured by the field itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import trimesh
from torch import Tensor

from zoo.files import atomic_path
from zoo.ops.marching_cubes import SurfaceMesh, marching_cubes

__all__ = ["MESH_SUFFIXES", "as_trimesh", "extract_mesh", "sample_density", "write_mesh"]

MESH_SUFFIXES = (".ply", ".obj", ".glb")


class RadianceField(Protocol):
    """What a mesh needs to know of a field."""

    def density(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Density ``(N,)`` and geometry features ``(N, G)``."""
        ...

    def color(self, directions: Tensor, geometry: Tensor) -> Tensor:
        """Colours ``(N, 3)`` in [0, 1]."""
        ...


def _in_chunks(function: Callable[[Tensor], Tensor], positions: Tensor, chunk: int) -> Tensor:
    return torch.cat([function(part) for part in positions.split(chunk)]) if len(positions) else function(positions)


@torch.no_grad()
def sample_density(field: RadianceField, box: Tensor, resolution: int, *, chunk: int = 1 << 18) -> Tensor:
    """Densities ``(R, R, R)`` at the corners of a regular grid that spans ``box`` ``(6,)`` (minima, then maxima)."""
    if resolution < 2:
        raise ValueError(f"resolution: found {resolution}, expected at least 2 points along an axis")
    axes = [torch.linspace(float(box[i]), float(box[i + 3]), resolution, device=box.device) for i in range(3)]
    slabs = []
    for x in axes[0]:
        plane = torch.cartesian_prod(x[None], axes[1], axes[2])  # (R * R, 3)
        slabs.append(_in_chunks(lambda points: field.density(points)[0].float(), plane, chunk))
    return torch.stack(slabs).reshape(resolution, resolution, resolution)


@torch.no_grad()
def extract_mesh(
    field: RadianceField, box: Tensor, *, resolution: int = 256, threshold: float = 10.0, chunk: int = 1 << 18
) -> trimesh.Trimesh:
    """The surface where the density crosses ``threshold``, with vertex colours seen from straight above the surface.

    Args:
        field: The field.
        box: The part of the world to look at, ``(6,)``: three minima, three maxima.
        resolution: Points along each axis.
        threshold: Density in 1 / world unit.
        chunk: Points evaluated at once.

    Returns:
        A mesh in world coordinates; its faces wind so that normals point out of the dense side.

    Raises:
        ValueError: The density does not cross ``threshold`` inside the box.
    """
    volume = sample_density(field, box, resolution, chunk=chunk)
    low, high = float(volume.min()), float(volume.max())
    if not low < threshold < high:
        raise ValueError(
            f"threshold: found {threshold:g}, but the densities of the box span {low:.3g} to {high:.3g}; "
            "choose a value between, or another box"
        )
    surface = marching_cubes(volume, threshold)
    points = box[:3] + surface.vertices.to(box.device) / (resolution - 1) * (box[3:] - box[:3])
    inward = -surface.normals.to(box.device)
    colours = []
    for part, view in zip(points.split(chunk), inward.split(chunk), strict=True):
        _, geometry = field.density(part)
        colours.append(field.color(view, geometry))
    rgb = (torch.cat(colours).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return trimesh.Trimesh(points.cpu().numpy(), surface.faces.numpy(), vertex_colors=rgb, process=False)


def as_trimesh(surface: SurfaceMesh, to_world: Callable[[Tensor], Tensor] | None = None) -> trimesh.Trimesh:
    """The surface with its normals, for measuring and writing; ``to_world`` may move and scale the vertices."""
    vertices = surface.vertices if to_world is None else to_world(surface.vertices)
    normals = np.asarray(surface.normals, dtype=np.float64) if len(surface.normals) else None
    places = np.asarray(vertices.detach().cpu(), dtype=np.float64)
    return trimesh.Trimesh(places, surface.faces.numpy(), vertex_normals=normals, process=False)


def write_mesh(mesh: trimesh.Trimesh, path: Path) -> Path:
    """Write a mesh with normals as .ply, .obj or .glb, chosen by the suffix."""
    if path.suffix.lower() not in MESH_SUFFIXES:
        raise ValueError(f"path: found the suffix {path.suffix!r} in {path}, expected one of {list(MESH_SUFFIXES)}")
    with atomic_path(path) as draft:
        kind = path.suffix.lower().lstrip(".")
        if kind == "glb":
            mesh.export(draft, file_type=kind, include_normals=True)
        elif kind == "ply":
            mesh.export(draft, file_type=kind, vertex_normal=True)
        else:
            mesh.export(draft, file_type=kind, include_normals=True)
    return path
