"""GridPull: a surface from a point cloud without normals or training data, as the zero level of a grid of distances.

Chen, Liu and Han, "GridPull: Towards Scalability in Learning Implicit Representations from 3D Point Clouds" (ICCV
2023). The distances at the corners of a regular grid are the only variables. A query near the cloud is pulled along the
field's gradient by the field's value; where it should arrive is its nearest point of the cloud.

Axes: the grid is ``(X, Y, Z)`` and positions are (x, y, z), nothing is permuted. The grid spans
``[-half_extent, half_extent]`` on each axis of a frame in which the cloud's longest side is 1 and the middle of its
bounding box is the origin.

Differences from upstream: the box of the cloud is centred on every axis (upstream shifts all axes by one number, which
leaves the shorter ones off-centre); the start may be the cloud's own distance with the sign of a flood fill, or that to
a ball, where upstream stores the latter in cells and reads them as distances; a query's value and gradient come from
the closed trilinear form, where upstream inverts an 8 x 8 system for each query.
"""

from __future__ import annotations

import logging
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from zoo.models.flooded_distance import flooded_distance
from zoo.ops.marching_cubes import SurfaceMesh, largest_component, marching_cubes

__all__ = ["DistanceGrid", "FieldSample", "Start", "band_cells", "pull", "sample_field"]

log = logging.getLogger(__name__)

Start = Literal["flood", "ball", "upstream"]


class FieldSample(NamedTuple):
    """The field at some positions.

    Attributes:
        value: ``(N,)``.
        gradient: ``(N, 3)``, for each step of one cell.
        normal: ``(N, 3)``, the gradient divided by ``sqrt(|gradient|^2 + 1e-12)``.
    """

    value: Tensor
    gradient: Tensor
    normal: Tensor


def sample_field(values: Tensor, cells: Tensor) -> FieldSample:
    """Trilinear value and its analytic gradient; both are differentiable in ``values``.

    Args:
        values: ``(X, Y, Z)``.
        cells: Positions ``(N, 3)`` in units of cells; those outside continue the outermost cell's polynomial.
    """
    size = torch.tensor(values.shape, device=cells.device)
    first = torch.minimum(cells.detach().floor().long().clamp_min(0), size - 2)
    x, y, z = (cells - first).unbind(-1)  # shares of the upper corners
    row_y, row_x = values.shape[2], values.shape[1] * values.shape[2]
    offsets = torch.tensor([0, 1, row_y, row_y + 1], device=cells.device)
    offsets = torch.cat([offsets, offsets + row_x])[:, None]  # (8, 1)
    rows = first[:, 0] * row_x + first[:, 1] * row_y + first[:, 2]
    known = values.reshape(-1).index_select(0, (rows + offsets).reshape(-1)).view(2, 2, 2, -1)  # x, y, z, query
    slope_z = known[:, :, 1] - known[:, :, 0]
    at_z = torch.lerp(known[:, :, 0], known[:, :, 1], z)  # (2, 2, N)
    slope_y, slope_zy = at_z[:, 1] - at_z[:, 0], torch.lerp(slope_z[:, 0], slope_z[:, 1], y)
    at_zy = torch.lerp(at_z[:, 0], at_z[:, 1], y)  # (2, N)
    gradient = torch.stack(
        [at_zy[1] - at_zy[0], torch.lerp(slope_y[0], slope_y[1], x), torch.lerp(slope_zy[0], slope_zy[1], x)], dim=-1
    )
    value = torch.lerp(at_zy[0], at_zy[1], x)
    return FieldSample(value, gradient, gradient / (gradient.square().sum(-1, keepdim=True) + 1e-12).sqrt())


def pull(points: Tensor, field: FieldSample) -> Tensor:
    r"""Where the field takes the points: :math:`q - f(q) \, n(q)`, ``(N, 3)``."""
    return points - field.value[:, None] * field.normal


def band_cells(cells: Tensor, resolution: int, level: int) -> tuple[Tensor, Tensor]:
    r"""The grid's corners near a cloud, and their weights in the continuity term.

    A corner belongs to the band if it is ``c + d`` for the corner ``c`` nearest to a point and a shift ``d`` in
    :math:`[-level, level - 1]^3`. Its weight is :math:`1 + |d_x| + |d_y| + |d_z|` of the first such shift in
    lexicographic order, upstream's rule. Corners on the outermost layer of the grid, which lack a neighbour, are left
    out.

    Args:
        cells: The cloud in units of cells, ``(N, 3)``.
        resolution: Corners along each axis.
        level: Half width of the band in cells, at least 1.

    Returns:
        ``(M, 3)`` int64 in lexicographic order, and weights ``(M,)`` float32.

    Example:
        >>> index, weight = band_cells(torch.tensor([[2.2, 2.0, 1.9]]), resolution=5, level=1)
        >>> len(index), weight.tolist()
        (8, [4.0, 3.0, 3.0, 2.0, 3.0, 2.0, 2.0, 1.0])
    """
    if level < 1 or resolution < 3:
        raise ValueError(f"level, resolution: found {level}, {resolution}; expected at least 1 and 3")
    near = np.rint(cells.detach().double().cpu().numpy()).astype(np.int64)
    near = near[((near >= 0) & (near < resolution)).all(axis=1)]
    strides = np.array([resolution**2, resolution, 1])
    keys = np.full(resolution**3, -1, dtype=np.int64)
    rows = near @ strides
    keys[rows] = rows
    nearest: Any = keys.reshape(resolution, resolution, resolution)
    for axis in range(3):  # the first shift comes from the last corner in reach, which has the largest key
        nearest = ndimage.maximum_filter1d(nearest, 2 * level, axis=axis, mode="constant", cval=-1, origin=-1)
    inside = np.zeros_like(nearest, dtype=bool)
    inside[1:-1, 1:-1, 1:-1] = nearest[1:-1, 1:-1, 1:-1] >= 0
    index = np.argwhere(inside)
    source = np.stack(np.unravel_index(nearest[inside], nearest.shape), axis=-1)
    weight = 1.0 + np.abs(index - source).sum(axis=1)
    return torch.from_numpy(index).to(cells.device), torch.from_numpy(weight.astype(np.float32)).to(cells.device)


class DistanceGrid(nn.Module):
    """Distances at the corners of a grid, read by trilinear interpolation.

    Args:
        resolution: S, corners along each axis.
        half_extent: The grid spans ``[-half_extent, half_extent]``; the cloud lies in [-0.5, 0.5]. Upstream's is 1.
        start: What the field is before the first step. ``"flood"``: the distance to the cloud, with signs of a flood
            fill, see `zoo.models.flooded_distance`; until `begin` knows the cloud, and for a cloud that encloses
            nothing, the ball. ``"ball"``: the distance to a ball in the middle. ``"upstream"``: the same counted in
            cells and read as distances.
        radius: Of the ball: in units of the cloud; for ``"upstream"`` as a share of ``resolution``.

    Attributes:
        values: ``(S, S, S)``, positive outside.
        centre: Middle of the cloud's box in the world, ``(3,)``.
        scale: Longest side of that box.
    """

    centre: Tensor
    scale: Tensor

    def __init__(
        self, *, resolution: int = 128, half_extent: float = 1.0, start: Start = "flood", radius: float = 0.01
    ) -> None:
        super().__init__()
        if start not in ("flood", "ball", "upstream"):
            raise ValueError(f"start: found {start!r}, expected 'flood', 'ball' or 'upstream'")
        if resolution < 4 or not half_extent > 0.5 or radius < 0:
            raise ValueError(
                f"resolution, half_extent, radius: found {resolution}, {half_extent}, {radius}; expected at least 4, "
                "more than 0.5 (the cloud must lie inside) and at least 0"
            )
        self.resolution, self.half_extent = resolution, half_extent
        self.start: Start = start
        self.values = nn.Parameter(self._ball(radius, in_cells=start == "upstream"))
        self.register_buffer("centre", torch.zeros(3, dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def _ball(self, radius: float, *, in_cells: bool) -> Tensor:
        """Distance to a sphere about the middle of the grid."""
        middle = self.resolution / 2 if in_cells else (self.resolution - 1) / 2
        axis = torch.arange(self.resolution, dtype=torch.float32) - middle
        distance = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
        return distance - radius * self.resolution if in_cells else distance * self.cell_size - radius

    @torch.no_grad()
    def begin(self, cloud: Tensor) -> None:
        """Start from the distance to a cloud ``(N, 3)`` in the frame, where ``start`` says so."""
        if self.start != "flood":
            return
        distance = flooded_distance(self.to_cells(cloud), self.resolution)
        if distance is None:
            log.warning("the cloud encloses nothing at %d corners an axis; starting from a ball", self.resolution)
            return
        self.values.copy_(distance * self.cell_size)

    @property
    def cell_size(self) -> float:
        """Edge of a cell in the frame of the cloud."""
        return 2 * self.half_extent / (self.resolution - 1)

    @torch.no_grad()
    def place(self, low: Tensor, high: Tensor) -> None:
        """Put the frame onto a bounding box of the world, ``(3,)`` each.

        Raises:
            ValueError: The box has no extent on any axis.
        """
        side = (high - low).double().amax()
        if not 0 < float(side) < float("inf"):
            raise ValueError(f"low, high: found a box whose longest side is {float(side)}; expected one above 0")
        self.centre.copy_((low.double() + high.double()) / 2)
        self.scale.copy_(side)

    def to_frame(self, points: Tensor) -> Tensor:
        """World ``(N, 3)`` to the frame of the cloud, float32."""
        return ((points.double() - self.centre) / self.scale).float()

    def to_world(self, points: Tensor) -> Tensor:
        """The frame of the cloud to world ``(N, 3)``, float64."""
        return points.double() * self.scale + self.centre

    def to_cells(self, points: Tensor) -> Tensor:
        """The frame of the cloud to units of cells, ``(N, 3)``; whole numbers are corners."""
        half = (self.resolution - 1) / 2
        return points * (half / self.half_extent) + half

    def forward(self, points: Tensor) -> FieldSample:
        """The field at positions ``(N, 3)`` in the frame of the cloud."""
        return sample_field(self.values, self.to_cells(points))

    @torch.no_grad()
    def surface(self, cloud: Tensor, level: int, *, resolution: int | None = None) -> SurfaceMesh:
        """The largest piece of the zero level, in the frame of the cloud.

        Only cells of the band are fitted. What the band shuts off from the outside is inside, and the rest is outside,
        whatever the start of the field was there: this takes away the inner shell that thick shapes would have.

        Args:
            cloud: In the frame, ``(N, 3)``.
            level: Half width of the band that the field was fitted in.
            resolution: Corners along each axis at which the field is read; None: the grid's own.

        Returns:
            A mesh without triangles where the field has no zero.
        """
        index, _ = band_cells(self.to_cells(cloud), self.resolution, level)
        band = torch.zeros(self.values.shape, dtype=torch.bool)
        band[tuple(index.cpu().T)] = True
        labelled: Any = ndimage.label(~band.numpy())
        pieces = labelled[0]
        shut_off = torch.from_numpy((pieces != pieces[0, 0, 0]) & (pieces > 0))
        values = self.values.detach().cpu().float()
        values = torch.where(band, values, torch.where(shut_off, -values.abs(), values.abs()).clamp(-1, 1))
        if resolution is not None and resolution != self.resolution:
            size = (resolution,) * 3
            values = nn.functional.interpolate(values[None, None], size=size, mode="trilinear", align_corners=True)[
                0, 0
            ]
        mesh = largest_component(marching_cubes(values, 0.0, inside="below"))
        edge = 2 * self.half_extent / (values.shape[0] - 1)
        return mesh._replace(vertices=mesh.vertices * edge - self.half_extent)
