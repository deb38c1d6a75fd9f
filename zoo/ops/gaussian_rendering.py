"""From 3D Gaussians to pictures: projection, colours, tiles and compositing in one call."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.ops import checks
from zoo.ops.gaussian_colors import gaussian_colors
from zoo.ops.gaussian_projection import (
    GSPLAT_1_5_3,
    CameraModel,
    GaussianRules,
    ProjectedGaussians,
    project_gaussians,
)
from zoo.ops.gaussian_rasterization import rasterize_gaussians
from zoo.ops.gaussian_tiles import GaussianTiles, intersect_gaussian_tiles


class RenderedGaussians(NamedTuple):
    """Pictures of each camera and what was computed on the way."""

    colors: Tensor  # (C, H, W, 3) over the background
    alphas: Tensor  # (C, H, W)
    depths: Tensor | None  # (C, H, W)
    projected: ProjectedGaussians
    tiles: GaussianTiles

    def expected_depths(self) -> Tensor:
        """Mean depth of what each pixel shows: ``depths / max(alphas, 1e-10)``.

        Raises:
            ValueError: The depth was not rendered.
        """
        if self.depths is None:
            raise ValueError("depths: found None; render with with_depth=True")
        return self.depths / self.alphas.clamp_min(1e-10)


def render_gaussians(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    coeffs: Tensor,
    viewmats: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    *,
    sh_degree: int | None = 0,
    backgrounds: Tensor | None = None,
    with_depth: bool = False,
    antialiased: bool = False,
    camera_model: CameraModel = "pinhole",
    far_plane: float = 1e10,
    absolute: Tensor | None = None,
    tile_size: int = 16,
    rules: GaussianRules = GSPLAT_1_5_3,
) -> RenderedGaussians:
    """Render 3D Gaussians; differentiable in all tensors but the intrinsics.

    Args:
        means: Centres ``(N, 3)``.
        quats: Rotations ``(N, 4)`` w, x, y, z; normalised here.
        scales: Standard deviations ``(N, 3)``.
        opacities: ``(N,)`` in [0, 1].
        coeffs: Spherical harmonics ``(N, K, 3)``, or colours ``(N, 3)`` with ``sh_degree=None``.
        viewmats: World to camera ``(C, 4, 4)``, OpenCV axes.
        intrinsics: ``(C, 4)`` fx, fy, cx, cy.
        width: Columns of the picture.
        height: Rows of the picture.
        sh_degree: Highest band that is used, 0 to 4.
        backgrounds: ``(C, 3)``, else black.
        with_depth: Also accumulate the depths ``sum of weight * z``.
        antialiased: Multiply opacities by the projection's compensations.
        camera_model: ``"pinhole"`` or ``"ortho"``.
        far_plane: Largest depth that is shown.
        absolute: ``(C, N, 2)``, see `rasterize_gaussians`.
        tile_size: Pixels along the side of a tile.
        rules: See `GaussianRules`.

    Returns:
        See `RenderedGaussians`. Call ``projected.means2d.retain_grad()`` for the statistic of densification.

    Raises:
        ValueError: Wrong shape, dtype, device or option.

    Example:
        >>> one = torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), 0.2)
        >>> camera = torch.eye(4)[None], torch.tensor([[20.0, 20.0, 8.0, 8.0]])
        >>> picture = render_gaussians(*one, torch.ones(1), torch.ones(1, 1, 3), *camera, 16, 16)
        >>> picture.colors.shape, round(float(picture.alphas.max()), 2)
        (torch.Size([1, 16, 16, 3]), 0.94)
    """
    checks.check_shape("opacities", opacities, (means.shape[0],))
    projected = project_gaussians(
        means, quats, scales, viewmats, intrinsics, width, height,
        opacities=opacities, camera_model=camera_model, antialiased=antialiased, far_plane=far_plane, rules=rules,
    )  # fmt: skip
    if sh_degree is None:
        checks.check_shape("coeffs", coeffs, (means.shape[0], 3))
        colors = coeffs.expand(len(viewmats), -1, -1)
    else:
        centers = torch.linalg.inv(viewmats)[:, :3, 3]
        colors = gaussian_colors(means, coeffs, centers, sh_degree, radii=projected.radii)
    tiles = intersect_gaussian_tiles(
        projected.means2d, projected.radii, projected.depths, width, height, tile_size=tile_size
    )
    seen = opacities[None] * projected.compensations if antialiased else opacities.expand(len(viewmats), -1)
    if backgrounds is not None:
        checks.check_shape("backgrounds", backgrounds, (len(viewmats), 3))
    if with_depth:
        colors = torch.cat((colors, projected.depths[..., None]), dim=-1)
        backgrounds = None if backgrounds is None else torch.nn.functional.pad(backgrounds, (0, 1))
    picture = rasterize_gaussians(
        projected.means2d, projected.conics, colors, seen, tiles,
        backgrounds=backgrounds, absolute=absolute, rules=rules,
    )  # fmt: skip
    depths = picture.colors[..., 3] if with_depth else None
    return RenderedGaussians(picture.colors[..., :3], picture.alphas, depths, projected, tiles)
