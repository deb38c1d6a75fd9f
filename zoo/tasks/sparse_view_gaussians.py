"""Reconstruction from a few photographs: 3D Gaussians with the regularisers that few views need."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data.cameras import Cameras
from zoo.data.formats.gaussian_ply import write_gaussian_ply
from zoo.data.posed_images import step_generator
from zoo.data.step_loader import shuffled_indices
from zoo.losses.photometric import l1_dssim_loss
from zoo.metrics.spare_scores import SpareScores
from zoo.models.gaussians.densification import DefaultDensification, MCMCDensification
from zoo.models.gaussians.scene import GaussianLearningRates, GaussianScene, ViewStatistics, camera_extent
from zoo.models.point_seeds.beginnings import Beginning
from zoo.models.point_seeds.matched_surface import MatchedSurface, SurfaceMatching
from zoo.models.point_seeds.visual_hull import inside_hull, silhouettes
from zoo.rendering.backgrounds import BackgroundKind, background_colors, composite
from zoo.rendering.field_renderer import RenderedImage
from zoo.tasks.gaussian_terms import GaussianStep, GaussianTerm, MatchedDepth
from zoo.tasks.view_task import ViewTask

__all__ = ["SparseViewGaussiansTask"]

Optimizer = Callable[[Iterable[dict[str, Any]]], torch.optim.Optimizer]
Scheduler = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]
_VIEW_STREAM = 5 << 32  # added to the seed, beside those of the scene

log = logging.getLogger(__name__)


class SparseViewGaussiansTask(ViewTask):
    """One optimizer step renders one training view, ``(1 - w) L1 + w (1 - SSIM)`` and the named terms.

    Every random number of step ``k`` is a function of ``(seed, k)``, and a checkpoint holds the present Gaussians,
    their statistics and their moments, so a resumed run continues bit by bit. One process only: each would grow its
    own scene.

    Args:
        model: The scene, empty unless weights were given.
        optimizer: Makes the optimizer from parameter groups (3DGS: Adam, eps 1e-15).
        scheduler: Makes the learning-rate schedule, see `zoo.tasks.gaussian_schedules.means_decay`; or None.
        beginning: Makes the first points.
        terms: Terms by name; null entries are left out.
        learning_rates: Of each parameter.
        densification: How the number of Gaussians changes; None: it stays.
        absolute_gradients: Whether growth looks at absolute gradients of the places in the picture.
        opacity: Of the first Gaussians.
        flatness: Deviation of the first Gaussians along the normals of their points, where the beginning knows them.
        random_rotations: Whether the first Gaussians have random rotations.
        dssim_weight: w.
        background: Behind training views; transparent pixels are composited over it as well.
        opacity_decay: Factor of all opacities after each step, which removes what no view supports; None: none.
        carve: Whether Gaussians outside of the silhouettes' visual hull, or seen by one view only, are dropped.
        carve_margin: Pixels by which the silhouettes are widened for it.
        carve_every: Steps between two looks for what is to be dropped.
        matching: Matches the photographs, once, for the beginning and the terms that need it; Gaussians in front of
            what it finds are dropped every ``carve_every`` steps. None: no matching.
        seed: Of the order of views, backgrounds, points and what the terms draw.
        log_every: Steps between two rows of training metrics.
        ply: File of the run folder that the Gaussians are written to at the end; None: none.
        object_scores: How test views are measured; None: as `SpareScores` does by default.
        options: Of `ViewTask`.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(
        self,
        *,
        model: GaussianScene,
        optimizer: Optimizer,
        scheduler: Scheduler | None = None,
        beginning: Beginning,
        terms: Mapping[str, GaussianTerm | None] | None = None,
        learning_rates: GaussianLearningRates | None = None,
        densification: DefaultDensification | MCMCDensification | None = None,
        absolute_gradients: bool = False,
        opacity: float = 0.1,
        flatness: float = 0.2,
        random_rotations: bool = False,
        dssim_weight: float = 0.2,
        background: BackgroundKind = "black",
        opacity_decay: float | None = None,
        carve: bool = False,
        carve_margin: int = 2,
        carve_every: int = 100,
        matching: SurfaceMatching | None = None,
        seed: int = 0,
        log_every: int = 50,
        ply: str | None = "gaussians.ply",
        object_scores: SpareScores | None = None,
        **options: Any,
    ) -> None:
        super().__init__(object_scores=object_scores or SpareScores(), **options)
        if background == "random_per_ray":
            raise ValueError("background: found 'random_per_ray', expected one colour: white, black, random_per_batch")
        if opacity_decay is not None and not 0 < opacity_decay <= 1:
            raise ValueError(f"opacity_decay: found {opacity_decay}, expected a number in (0, 1], or null")
        if carve_margin < 0 or carve_every < 1:
            raise ValueError(f"carve_margin, carve_every: found {carve_margin}, {carve_every}, expected >= 0 and >= 1")
        self.model, self.optimizer, self.scheduler, self.beginning = model, optimizer, scheduler, beginning
        self.terms = {name: term for name, term in (terms or {}).items() if term is not None}
        self.learning_rates, self.densification = learning_rates or GaussianLearningRates(), densification
        self.absolute_gradients, self.opacity, self.random_rotations = absolute_gradients, opacity, random_rotations
        self.dssim_weight, self.opacity_decay, self.flatness = dssim_weight, opacity_decay, flatness
        self.background: BackgroundKind = background
        self.carve, self.carve_margin, self.carve_every = carve, carve_margin, carve_every
        self.seed, self.log_every, self.ply = seed, log_every, ply
        self.matching = matching
        self._surface: MatchedSurface | None = None
        self._matched: Tensor | None = None
        self._statistics: ViewStatistics | None = None
        self._inverse_depths: Tensor | None = None

    def on_fit_start(self) -> None:
        """Refuse what cannot work, and look up what is supplied."""
        if self.trainer.world_size > 1:
            raise ValueError(f"trainer: found {self.trainer.world_size} processes, expected 1 for Gaussians")
        supply = getattr(self.trainer.datamodule, "inverse_depths", None)  # pyright: ignore[reportAttributeAccessIssue]
        self._inverse_depths = None if supply is None else supply()
        if any(isinstance(term, MatchedDepth) for term in self.terms.values()):
            self._matched = self._matched_surface().depth_maps()

    def configure_optimizers(self) -> Any:
        """A group for each parameter; a scene without Gaussians begins here (a resumed one has its own by now)."""
        if not len(self.model):
            self._begin()
        optimizer = self.optimizer(self.model.parameter_groups(self.learning_rates))
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    @torch.no_grad()
    def _begin(self) -> None:
        images, data = self.images("train"), self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        self.model.scene_scale.fill_(camera_extent(images.cameras))
        points = self.beginning(images.to("cpu"), data.aabb, seed=self.seed, find_surface=self._matched_surface)
        if not len(points.points):
            raise ValueError(f"beginning: {type(self.beginning).__name__} found no point to begin with")
        self.model.initialize_from_points(
            points.points, points.colors, normals=points.normals, flatness=self.flatness, opacity=self.opacity,
            random_rotations=self.random_rotations,
        )  # fmt: skip
        log.info("%d Gaussians to begin with", len(self.model))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Render the view of this step and compare it with its photograph."""
        step, images = self.global_step, self.images("train")
        index = shuffled_indices(len(images), step, 1, self.seed)[0]
        generator = step_generator(self.seed + _VIEW_STREAM, step)
        background = background_colors(self.background, 1, generator=generator)[0].to(self.device)
        rgba = images.rgba(index).to(self.device)
        active = {name: term for name, term in self.terms.items() if term.is_active(step)}
        view = self.model.render(
            images.cameras[[index]], step=step, background=background,
            with_depth=any(term.needs_depth for term in active.values()), absolute=self.absolute_gradients,
        )  # fmt: skip
        self._statistics = view.info
        target = composite(rgba, background)
        color_loss = l1_dssim_loss(view.image[0], target, self.dssim_weight)
        depth = None if self._inverse_depths is None else self._inverse_depths[index].to(self.device)
        matched = None if self._matched is None else self._matched[index].to(self.device)
        found = GaussianStep(
            step, self.model, images.cameras, index, view, target, rgba[..., 3], background, generator, depth, matched
        )
        losses = {name: term(found) for name, term in active.items()}
        loss = color_loss + sum(losses.values())
        if (step + 1) % self.log_every == 0:
            values = {"loss": loss, "color_loss": color_loss, **losses}
            self.log_dict({f"train/{name}": value.detach() for name, value in values.items()})
            self.log("train/gaussians", float(len(self.model)))
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The step, then what changes the scene: before any callback may write a checkpoint."""
        step = self.global_step
        super().optimizer_step(*args, **kwargs)
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        assert self._statistics is not None
        if self.densification is not None:
            if isinstance(self.densification, DefaultDensification):
                self.model.observe(self._statistics)
            self.model.densify(step, self.densification, [optimizer], learning_rate=optimizer.param_groups[0]["lr"])
        if self.opacity_decay is not None:
            self.model.fade(self.opacity_decay)
        if (self.carve or self.matching is not None) and step % self.carve_every == 0:
            self._drop_outside(optimizer)
        self._statistics = None

    def _drop_outside(self, optimizer: torch.optim.Optimizer) -> None:
        images = self.images("train")
        means = self.model.rows["means"].detach().to(images.images.device)
        inside = torch.ones(len(means), dtype=torch.bool, device=means.device)
        if self.carve:
            inside = inside_hull(means, images.cameras, silhouettes(images), margin=self.carve_margin, least_views=2)
        if self.matching is not None:
            inside &= ~self._matched_surface().is_empty(means.cpu()).to(inside.device)
        self.model.drop(~inside.to(self.device), [optimizer])

    def _matched_surface(self) -> MatchedSurface:
        if self.matching is None:
            raise ValueError("task.matching: found null, which the beginning or terms.matched_depth needs")
        if self._surface is None:
            data = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
            self._surface = self.matching(self.images("train").to("cpu"), data.aabb, seed=self.seed)
        return self._surface

    def on_train_end(self) -> None:
        """Write the Gaussians where viewers can open them."""
        if self.ply is not None:
            path = Path(self.trainer.default_root_dir) / self.ply
            write_gaussian_ply(path, self.model.gaussians())
            log.info("%s: %d Gaussians", path, len(self.model))

    @torch.no_grad()
    def render_camera(self, camera: Cameras) -> RenderedImage:
        """What the only camera of ``camera`` sees, over the test background."""
        background = background_colors(self.test_background, 1)[0]
        view = self.model.render(camera, background=background, with_depth=True)
        assert view.depth is not None
        slope = (camera.image_rays(0).directions * camera.camera_to_world[0, :3, 2]).sum(-1)  # z along the ray
        distance = view.depth[0] / slope.reshape(camera.height, camera.width).to(view.depth)
        return RenderedImage(view.image[0].clamp(0, 1), view.alpha[0], distance)
