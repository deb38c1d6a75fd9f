"""Volume rendering of radiance fields: rays to samples, samples to colours, cameras to pictures."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from zoo.data.cameras import Cameras, Rays
from zoo.models.layers.occupancy_grid import OccupancyGrid
from zoo.ops import (
    RaySamples,
    march_rays,
    pack_info,
    render_rays,
    render_visibility_from_density,
    render_weights_from_density,
)

__all__ = ["FieldRenderer", "RenderedImage", "RenderedRays", "RenderedSamples"]


class RadianceField(Protocol):
    """What the renderer asks of a field."""

    def density(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Density ``(N,)`` in 1 / world unit and geometry features ``(N, G)``."""
        ...

    def color(self, directions: Tensor, geometry: Tensor) -> Tensor:
        """Colours ``(N, 3)`` in [0, 1]."""
        ...


class RenderedSamples(NamedTuple):
    """The ``N`` samples along the rays, in order, with their gradients: for losses on how a ray is stopped."""

    t_starts: Tensor  # (N,)
    t_ends: Tensor  # (N,)
    density: Tensor  # (N,)
    weights: Tensor  # (N,)
    alphas: Tensor  # (N,)
    packed_info: Tensor  # (M, 2) start and count of each ray


class RenderedRays(NamedTuple):
    """What ``M`` rays see."""

    rgb: Tensor  # (M, 3), over the background
    opacity: Tensor  # (M,) in [0, 1]
    depth: Tensor  # (M,) mean distance along the ray of what is seen, 0 where nothing is
    num_samples: int  # samples that the field was evaluated at with colours
    num_marched: int  # samples in occupied cells
    samples: RenderedSamples | None = None  # where they were asked for


class RenderedImage(NamedTuple):
    """What a camera sees."""

    rgb: Tensor  # (H, W, 3) in [0, 1]
    opacity: Tensor  # (H, W)
    depth: Tensor  # (H, W) distance along the ray


class FieldRenderer(nn.Module):
    """Marches rays through an occupancy grid and composites the samples.

    Along a ray with samples of width ``dt_i``: ``alpha_i = 1 - exp(-density_i dt_i)``,
    ``T_i = prod_{j<i} (1 - alpha_j)``, colour ``sum T_i alpha_i c_i + (1 - sum T_i alpha_i) background``.

    Args:
        occupancy: The grid of occupied cells; it is part of the renderer's state.
        step_size: Distance between samples in world units (the smallest one with a cone).
        near: Rays begin at this distance.
        far: Rays end at this distance.
        cone_angle: Growth of the step with the distance; 0 keeps it constant.
        early_stop: Samples behind a transmittance below this are dropped; 0 keeps all.
        alpha_threshold: Samples with a smaller alpha are dropped.
        picture_alpha_threshold: The same in evaluation mode; None: as in training. In training faint samples must
            stay, or they could never grow; in pictures they are specks in empty space.
        skip_hidden: Whether a first pass without gradients finds the samples that the two rules above drop.
    """

    def __init__(
        self,
        *,
        occupancy: OccupancyGrid,
        step_size: float,
        near: float = 0.0,
        far: float = 1e10,
        cone_angle: float = 0.0,
        early_stop: float = 1e-4,
        alpha_threshold: float = 0.0,
        picture_alpha_threshold: float | None = None,
        skip_hidden: bool = True,
    ) -> None:
        super().__init__()
        if step_size <= 0:
            raise ValueError(f"step_size: found {step_size}, expected a positive distance")
        if not 0 <= near < far:
            raise ValueError(f"near, far: found {near}, {far}, expected 0 <= near < far")
        self.occupancy = occupancy
        self.step_size, self.near, self.far, self.cone_angle = step_size, near, far, cone_angle
        self.early_stop, self.alpha_threshold, self.skip_hidden = early_stop, alpha_threshold, skip_hidden
        self.picture_alpha_threshold = alpha_threshold if picture_alpha_threshold is None else picture_alpha_threshold

    def forward(
        self,
        field: RadianceField,
        rays: Rays,
        background: Tensor,
        *,
        jitter: Tensor | None = None,
        keep_samples: bool = False,
    ) -> RenderedRays:
        """Render ``M`` rays over background colours ``(M, 3)``.

        ``jitter`` ``(M,)`` in [0, 1) moves the start of each ray by that share of a step (stratified sampling).
        ``keep_samples`` also returns the samples that were composited.
        """
        samples = march_rays(
            rays.origins,
            rays.directions,
            self.occupancy.binaries,
            self.occupancy.aabbs,
            near_planes=self.near,
            far_planes=self.far,
            step_size=self.step_size,
            cone_angle=self.cone_angle,
            jitter=jitter,
        )
        starts, ends, ray_indices, packed = samples.t_starts, samples.t_ends, samples.ray_indices, samples.packed_info
        num_marched = len(starts)
        if self.skip_hidden and num_marched:
            kept = self._find_visible(field, rays, samples)
            starts, ends, ray_indices = starts[kept], ends[kept], ray_indices[kept]
            packed = pack_info(ray_indices, len(rays))
        middles = (starts + ends) * 0.5
        directions = rays.directions[ray_indices]
        density, geometry = field.density(rays.origins[ray_indices] + directions * middles[:, None])
        rgb = field.color(directions, geometry)
        seen = render_rays(starts, ends, density, rgb, packed, early_stop_eps=self.early_stop, background=background)
        samples_kept = None
        if keep_samples:
            weights, _, alphas = render_weights_from_density(starts, ends, density, packed_info=packed)
            samples_kept = RenderedSamples(starts, ends, density, weights, alphas, packed)
        return RenderedRays(
            seen.colors, seen.opacities[:, 0], seen.depths[:, 0], len(middles), num_marched, samples_kept
        )

    @torch.no_grad()
    def _find_visible(self, field: RadianceField, rays: Rays, samples: RaySamples) -> Tensor:
        """Indices of the samples that are neither hidden nor empty, in order."""
        starts, ends, ray_indices = samples.t_starts, samples.t_ends, samples.ray_indices
        middles = (starts + ends) * 0.5
        density, _ = field.density(rays.origins[ray_indices] + rays.directions[ray_indices] * middles[:, None])
        visible = render_visibility_from_density(
            starts,
            ends,
            density,
            samples.packed_info,
            early_stop_eps=self.early_stop,
            alpha_thre=self.alpha_threshold if self.training else self.picture_alpha_threshold,
        )
        return visible.nonzero()[:, 0]

    @torch.no_grad()
    def render_image(
        self, field: RadianceField, camera: Cameras, *, background: Tensor, rays_per_chunk: int = 8192
    ) -> RenderedImage:
        """Render the only camera of ``camera`` over one background colour ``(3,)``."""
        if len(camera) != 1:
            raise ValueError(f"camera: found {len(camera)} cameras, expected one; pass cameras[[i]]")
        rays, parts = camera.image_rays(0), []
        for start in range(0, len(rays), rays_per_chunk):
            chunk = Rays(rays.origins[start : start + rays_per_chunk], rays.directions[start : start + rays_per_chunk])
            parts.append(self(field, chunk, background.expand(len(chunk), 3)))
        height, width = camera.height, camera.width
        rgb = torch.cat([part.rgb for part in parts]).clamp(0, 1).reshape(height, width, 3)
        opacity = torch.cat([part.opacity for part in parts]).reshape(height, width)
        return RenderedImage(rgb, opacity, torch.cat([part.depth for part in parts]).reshape(height, width))

    def exclude_unseen(self, cameras: Cameras, *, margin: float = 0.05) -> int:
        """Leave out for good the cells that no camera sees, or that lie in front of a camera's near distance.

        Nothing in the photographs speaks about such cells, so what a field puts there can only disturb: floaters.

        Args:
            cameras: The training views.
            margin: Share by which pictures are widened, for what a lens bends in and for cells at their border.

        Returns:
            The number of cells left out, all levels together.
        """
        matrices = torch.eye(3).repeat(len(cameras), 1, 1)
        fx, fy, cx, cy = cameras.intrinsics.cpu().unbind(-1)
        matrices[:, 0, 0], matrices[:, 1, 1] = fx * (1 - margin), fy * (1 - margin)
        matrices[:, 0, 2], matrices[:, 1, 2] = cx, cy
        return self.occupancy.mark_invisible_cells(
            matrices, cameras.camera_to_world, cameras.width, cameras.height, self.near
        )

    def update_occupancy(self, field: RadianceField, step: int, generator: torch.Generator) -> None:
        """Let the occupancy grid follow the field; the grid itself decides whether it is due at ``step``."""
        self.occupancy.update(step, lambda x: field.density(x)[0] * self.step_size, generator=generator)
