"""Reconstruction from a few photographs: a radiance field with the regularisers that few views need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.data.cameras import Cameras, Rays
from zoo.data.posed_images import PosedImages, RayBatch, step_generator
from zoo.data.unseen_poses import unseen_poses
from zoo.metrics.spare_scores import SpareScores
from zoo.models.point_seeds.matched_surface import MatchedSurface, SurfaceMatching
from zoo.models.point_seeds.visual_hull import inside_hull
from zoo.rendering.backgrounds import background_colors
from zoo.rendering.field_renderer import RenderedRays
from zoo.tasks.radiance_field import RadianceFieldTask
from zoo.tasks.sparse_view_terms import DepthRanking, MatchedDepth, SparseViewTerm, StepRays

__all__ = ["SparseViewTask"]

_UNSEEN_STREAM, _RANKED_STREAM = 3 << 32, 4 << 32  # added to the seed, beside those of the radiance field


class SparseViewTask(RadianceFieldTask):
    """A `RadianceFieldTask` with named terms, each of which can be switched off by null.

    Args:
        terms: The terms by name; null entries are left out.
        carve: Whether cells outside of the silhouettes' visual hull are left out of the occupancy grid from the start;
            it needs photographs with alpha.
        carve_margin: Pixels by which the silhouettes are widened for it.
        matching: Matches the photographs; cells that lie in front of what it finds are left out of the grid as well.
            None: no matching.
        unseen_patches: Patches of unseen views in each step, where a term needs them.
        patch: Their side in pixels.
        pose_jitter: Deviation of what unseen views look at, see `zoo.data.unseen_poses`.
        object_scores: How test views are measured; None: as `SpareScores` does by default.
        options: Of `RadianceFieldTask`.

    Raises:
        ValueError: An option is out of range.
    """

    keep_samples = True

    def __init__(
        self,
        *,
        terms: Mapping[str, SparseViewTerm | None],
        carve: bool = False,
        carve_margin: int = 2,
        matching: SurfaceMatching | None = None,
        unseen_patches: int = 4,
        patch: int = 8,
        pose_jitter: float = 0.125,
        object_scores: SpareScores | None = None,
        **options: Any,
    ) -> None:
        super().__init__(object_scores=object_scores or SpareScores(), **options)
        if unseen_patches < 1 or patch < 2 or carve_margin < 0:
            raise ValueError(
                f"unseen_patches, patch, carve_margin: found {unseen_patches}, {patch}, {carve_margin}, expected at "
                "least 1, 2 and 0"
            )
        self.terms = {name: term for name, term in terms.items() if term is not None}
        self.carve, self.carve_margin, self.matching = carve, carve_margin, matching
        self.unseen_patches, self.patch, self.pose_jitter = unseen_patches, patch, pose_jitter
        self._inverse_depths: Tensor | None = None
        self._distances: Tensor | None = None

    def on_train_start(self) -> None:
        """Carve the occupancy grid, once: a resumed run has it in its state."""
        super().on_train_start()
        images = self.images("train")
        if any(term.needs == "ranked" for term in self.terms.values()):
            self._inverse_depths = self._supplied_depth()
        surface = self._match(images)
        if self.global_step > 0:
            return
        if surface is not None:
            self.renderer.occupancy.exclude_cells(lambda points: ~surface.is_empty(points.cpu()).to(points.device))
        if self.carve:
            self._carve(images)

    def _match(self, images: PosedImages) -> MatchedSurface | None:
        """The matched surface, where it is needed: a resumed run has the grid, but no distances."""
        if not any(isinstance(term, MatchedDepth) for term in self.terms.values()):
            if self.matching is None or self.global_step > 0:
                return None
        elif self.matching is None:
            raise ValueError("task.matching: found null, which terms.matched_depth needs")
        aabb = self.trainer.datamodule.aabb  # pyright: ignore[reportAttributeAccessIssue]
        surface = self.matching(images.to("cpu"), aabb, seed=self.seed)
        self._distances = surface.distance_maps()
        return surface

    def _carve(self, images: PosedImages) -> None:
        if not images.has_alpha:
            raise ValueError("carve: the photographs have no alpha to carve with; set data.silhouette, or carve=false")
        cameras, masks = images.cameras, images.images[..., 3] >= 128
        self.renderer.occupancy.exclude_cells(
            lambda points: inside_hull(points.to(masks.device), cameras, masks, margin=self.carve_margin).to(
                points.device
            )
        )

    def _supplied_depth(self) -> Tensor:
        supply = getattr(self.trainer.datamodule, "inverse_depths", None)  # pyright: ignore[reportAttributeAccessIssue]
        found = None if supply is None else supply()
        if found is None:
            raise ValueError("terms.depth_ranking: needs supplied depth; set data.depths to its folder, or null here")
        return found

    def regularization(self, step: int, rays: RayBatch, rendered: RenderedRays) -> Tensor:
        """The sum of the terms that are active at a step."""
        active = {name: term for name, term in self.terms.items() if term.is_active(step)}
        if not active:
            return rendered.rgb.new_zeros(())
        needs = {term.needs for term in active.values()}
        found = StepRays(
            step, rendered, rays.rgba[:, 3],
            self._render_unseen(step) if "unseen" in needs else None, self.patch,
            self._render_ranked(step, active) if "ranked" in needs else None,
            self._matched_along(rays),
        )  # fmt: skip
        losses = {name: term(found) for name, term in active.items()}
        if (step + 1) % self.log_every == 0:
            self.log_dict({f"train/{name}": loss.detach() for name, loss in losses.items()}, sync_dist=True)
        return torch.stack(list(losses.values())).sum()

    def _matched_along(self, rays: RayBatch) -> Tensor | None:
        if self._distances is None:
            return None
        where = self._distances.device
        index, pixels = rays.image_index.to(where), rays.pixels.to(where)
        return self._distances[index, pixels[:, 1], pixels[:, 0]].to(self.device)

    def _render_unseen(self, step: int) -> RenderedRays:
        """Patches of neighbouring pixels in views that nobody took."""
        generator = step_generator(self.seed + (self.global_rank << 40) + _UNSEEN_STREAM, step)
        cameras = self.images("train").cameras
        count, side = self.unseen_patches, self.patch
        poses = unseen_poses(cameras.camera_to_world.cpu(), count, generator=generator, jitter=self.pose_jitter)
        views = Cameras(
            poses.to(cameras.camera_to_world), cameras.intrinsics[:1].expand(count, 4), cameras.width, cameras.height
        )
        column = torch.randint(max(cameras.width - side, 0) + 1, (count,), generator=generator)
        row = torch.randint(max(cameras.height - side, 0) + 1, (count,), generator=generator)
        y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        pixels = torch.stack((column[:, None, None] + x, row[:, None, None] + y), -1).reshape(-1, 2)
        index = torch.arange(count).repeat_interleave(side * side)
        return self._render(
            views.rays(index.to(views.intrinsics.device), pixels.to(views.intrinsics.device)), generator
        )

    def _render_ranked(self, step: int, active: Mapping[str, SparseViewTerm]) -> RenderedRays:
        """The pixels whose order of depth is supplied."""
        generator = step_generator(self.seed + (self.global_rank << 40) + _RANKED_STREAM, step)
        term = next(term for term in active.values() if isinstance(term, DepthRanking))
        assert self._inverse_depths is not None
        view, pixels = term.choose(self._inverse_depths, generator)
        cameras = self.images("train").cameras
        device = cameras.intrinsics.device
        return self._render(cameras.pixel_rays(view.to(device), pixels.to(device)), generator)

    def _render(self, rays: Rays, generator: torch.Generator) -> RenderedRays:
        background = background_colors(self.background, len(rays), generator=generator).to(self.device)
        jitter = torch.rand(len(rays), generator=generator).to(self.device) if self.stratified else None
        return self.renderer(self.model, rays.to(self.device), background, jitter=jitter, keep_samples=True)
