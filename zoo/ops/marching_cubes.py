"""Triangles of a level set of values on a regular grid, and the pieces they fall into."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from zoo.ops.checks import FLOATING, check_dtype, check_option, check_shape

__all__ = ["SurfaceMesh", "largest_component", "marching_cubes"]


class SurfaceMesh(NamedTuple):
    """Triangles.

    Attributes:
        vertices: ``(V, 3)`` float32.
        faces: Rows of the vertices, counter-clockwise seen from outside, ``(F, 3)`` int64.
        normals: Unit vectors that point outside, ``(V, 3)`` float32.
    """

    vertices: Tensor
    faces: Tensor
    normals: Tensor

    @classmethod
    def empty(cls) -> SurfaceMesh:
        """A mesh without any triangle."""
        return cls(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 3))

    def kept(self, faces: Tensor) -> SurfaceMesh:
        """The triangles that a mask ``(F,)`` selects, and the vertices that they use."""
        chosen = self.faces[faces]
        used = torch.zeros(len(self.vertices), dtype=torch.bool)
        used[chosen.reshape(-1)] = True
        rows = used.cumsum(0) - 1
        return SurfaceMesh(self.vertices[used], rows[chosen], self.normals[used])


def marching_cubes(volume: Tensor, level: float, *, inside: str = "above") -> SurfaceMesh:
    """The surface on which values on a grid cross a level, by scikit-image's marching cubes (Lewiner et al.).

    Cells with a corner that is NaN hold no surface, so that a volume may be known only near it. A volume that does not
    cross the level gives a mesh without triangles, no error.

    Args:
        volume: ``(X, Y, Z)``, each axis at least 2 long.
        level: Value on the surface.
        inside: ``"above"`` if values above the level lie inside (densities, logits of occupancy), ``"below"`` if those
            below do (signed distances).

    Returns:
        A mesh on the CPU whose vertices are in units of cells: corner (i, j, k) of the volume is at (i, j, k).

    Raises:
        ValueError: Wrong shape, dtype or option.

    Example:
        >>> volume = torch.zeros(3, 3, 3)
        >>> volume[1, 1, 1] = 1.0
        >>> mesh = marching_cubes(volume, 0.5)
        >>> len(mesh.vertices), len(mesh.faces), len(marching_cubes(volume, 2.0).faces)
        (6, 8, 0)
    """
    check_shape("volume", volume, ("X", "Y", "Z"))
    check_dtype("volume", volume, FLOATING)
    check_option("inside", inside, ("above", "below"))
    if min(volume.shape) < 2:
        raise ValueError(f"volume: found shape {tuple(volume.shape)}, expected at least 2 corners on each axis")
    array = volume.detach().cpu().float().numpy()
    known = np.isfinite(array)
    if not known.any() or not array[known].min() < level < array[known].max():
        return SurfaceMesh.empty()
    from skimage.measure import marching_cubes as lewiner

    direction = "descent" if inside == "below" else "ascent"
    try:
        vertices, faces, normals, _ = lewiner(array, level, gradient_direction=direction)
    except RuntimeError:  # scikit-image's word for a surface that lies in no complete cell
        return SurfaceMesh.empty()
    mesh = SurfaceMesh(
        torch.from_numpy(np.ascontiguousarray(vertices, dtype=np.float32)),
        torch.from_numpy(faces.astype(np.int64)),
        torch.from_numpy(np.ascontiguousarray(-normals if inside == "below" else normals, dtype=np.float32)),
    )
    if not known.all():
        whole = mesh.vertices.isfinite().all(dim=1)
        mesh = mesh.kept(whole[mesh.faces].all(dim=1))
    return mesh._replace(normals=_unit_normals(mesh))


def _unit_normals(mesh: SurfaceMesh) -> Tensor:
    """The gradients' directions; where a neighbouring corner is NaN, the mean of the adjacent triangles by area."""
    corners = mesh.vertices[mesh.faces]
    areas = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    sums = torch.zeros_like(mesh.vertices).index_add_(0, mesh.faces.reshape(-1), areas.repeat_interleave(3, dim=0))
    sound = mesh.normals.isfinite().all(dim=1, keepdim=True) & (mesh.normals.abs().amax(dim=1, keepdim=True) > 0)
    return torch.nn.functional.normalize(torch.where(sound, mesh.normals, sums), dim=-1)


def largest_component(mesh: SurfaceMesh) -> SurfaceMesh:
    """The connected piece with the largest area; of equal ones that with the lowest vertex. Nothing stays nothing.

    Example:
        >>> volume = torch.zeros(8, 5, 5)
        >>> volume[1, 1, 1] = volume[4:7, 1:4, 1:4] = 1.0
        >>> both = marching_cubes(volume, 0.5)
        >>> len(both.faces) - len(largest_component(both).faces)
        8
    """
    if len(mesh.faces) == 0:
        return SurfaceMesh.empty()
    faces = mesh.faces.numpy()
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    links = coo_matrix((np.ones(len(ends), dtype=bool), (ends[:, 0], ends[:, 1])), shape=(len(mesh.vertices),) * 2)
    _, piece = connected_components(links, directed=False)
    corners = mesh.vertices.double()[mesh.faces]
    areas = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=-1)
    owner = piece[faces[:, 0]]
    totals = np.bincount(owner, weights=areas.numpy())
    return mesh.kept(torch.from_numpy(owner == totals.argmax()))
