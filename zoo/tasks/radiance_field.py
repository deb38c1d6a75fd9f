"""Training and measuring a radiance field on posed photographs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.data.cameras import Cameras
from zoo.data.posed_images import RayBatch, RayScheme, sample_rays, step_generator
from zoo.losses.photometric import PhotometricKind, photometric_loss
from zoo.metrics.spare_scores import SpareScores
from zoo.models.hollownerf import HollowNeRF
from zoo.ops.processes import num_processes, sum_over_processes, zero_of
from zoo.rendering.backgrounds import BackgroundKind, background_colors, composite
from zoo.rendering.field_renderer import FieldRenderer, RenderedImage, RenderedRays
from zoo.tasks.ray_budget import RayBudget
from zoo.tasks.view_gallery import ViewGallery
from zoo.tasks.view_scores import ViewScores
from zoo.tasks.view_task import ViewTask

__all__ = ["RadianceFieldTask"]

Optimizer = Callable[[Iterable[dict[str, Any]]], torch.optim.Optimizer]
Scheduler = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]
_OCCUPANCY_STREAM, _RAY_STREAM = 1 << 32, 2 << 32  # added to the seed; the pixels are drawn with the seed itself


class RadianceFieldTask(ViewTask):
    """One optimizer step renders a batch of rays and compares it with the photographs.

    Every random number of step ``k`` is a function of ``(seed, k)``, and all that adapts (rays per step, occupancy,
    multiplier, alpha) is a buffer, so a resumed run continues bit by bit.

    Args:
        model: The field.
        optimizer: Makes the optimizer from parameter groups.
        scheduler: Makes the learning-rate schedule, stepped after each optimizer step; or None.
        renderer: Samples and composites rays.
        budget: Rays of a step.
        seed: Of the pixels, jitter, backgrounds and occupancy samples.
        loss: ``mse``, ``huber`` or ``smooth_l1``.
        loss_delta: Where ``huber`` and ``smooth_l1`` turn linear.
        background: Behind training rays; transparent pixels are composited over it as well.
        test_background: Behind measured pictures.
        stratified: Whether training rays start at a random part of a step.
        ray_scheme: ``all_images`` or ``one_image``: where the pixels of a step come from.
        saliency_lr_scale: Learning rate of the saliency grid relative to the rest.
        saliency_betas: Adam's betas for the saliency grid; None: those of the rest. A cell without data sees a penalty
            gradient that shrinks with ``p`` itself, and Adam follows a shrinking gradient at no more than
            ``(1 - beta2) / 2`` a step: 0.005 for 0.99, whatever the learning rate.
        exclude_unseen: Whether cells that no training view sees are left out from the start (see ``FieldRenderer``).
        log_every: Steps between two rows of training metrics.
        scores: See `ViewTask`.
        object_scores: See `ViewTask`.
        gallery: Pictures for the report.
    """

    keep_samples = False  # whether `regularization` needs the samples along training rays

    def __init__(
        self,
        *,
        model: HollowNeRF,
        optimizer: Optimizer,
        scheduler: Scheduler | None = None,
        renderer: FieldRenderer,
        budget: RayBudget,
        seed: int = 0,
        loss: PhotometricKind = "mse",
        loss_delta: float = 0.1,
        background: BackgroundKind = "random_per_ray",
        test_background: BackgroundKind = "white",
        stratified: bool = True,
        ray_scheme: RayScheme = "all_images",
        saliency_lr_scale: float = 1.0,
        saliency_betas: Sequence[float] | None = None,
        exclude_unseen: bool = False,
        log_every: int = 50,
        scores: ViewScores | None = None,
        object_scores: SpareScores | None = None,
        gallery: ViewGallery | None = None,
    ) -> None:
        super().__init__(test_background=test_background, scores=scores, object_scores=object_scores, gallery=gallery)
        self.model, self.renderer, self.budget = model, renderer, budget
        self.optimizer, self.scheduler = optimizer, scheduler
        self.seed, self.loss_delta, self.stratified = seed, loss_delta, stratified
        self.loss_kind: PhotometricKind = loss
        self.background: BackgroundKind = background
        self.ray_scheme: RayScheme = ray_scheme
        self.saliency_lr_scale, self.exclude_unseen, self.log_every = saliency_lr_scale, exclude_unseen, log_every
        self.saliency_betas = None if saliency_betas is None else tuple(saliency_betas)

    def on_train_start(self) -> None:
        """Look once at what the cameras see; a resumed run has it in its occupancy grid."""
        if self.exclude_unseen and self.global_step == 0:
            self.renderer.exclude_unseen(self.images("train").cameras)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        """Render the rays of this step; None, which skips the update, where no ray met an occupied cell.

        Every process draws the rays of all and renders its share, so that their number changes nothing but the time.
        """
        step = self.global_step
        self.model.set_step(step)
        self.renderer.update_occupancy(self.model, step, step_generator(self.seed + _OCCUPANCY_STREAM, step))
        count, share = int(self.budget.num_rays), slice(self.global_rank, None, num_processes())
        rays = sample_rays(
            self.images("train"), seed=self.seed, step=step, num_rays=count, scheme=self.ray_scheme, share=share
        )
        generator = step_generator(self.seed + _RAY_STREAM, step)
        background = background_colors(self.background, count, generator=generator)[share].to(self.device)
        jitter = torch.rand(count, generator=generator)[share].to(self.device) if self.stratified else None
        rendered = self.renderer(self.model, rays.rays, background, jitter=jitter, keep_samples=self.keep_samples)
        samples = torch.tensor([rendered.num_samples, rendered.num_marched], device=self.device)
        num_samples, num_marched = sum_over_processes(samples).tolist()
        self.budget.update(num_marched)
        if num_samples == 0:
            return None
        target = composite(rays.rgba, background)
        colour_loss = photometric_loss(rendered.rgb, target, self.loss_kind, self.loss_delta, over_processes=True)
        loss = colour_loss + self.model.penalty(step) + self.regularization(step, rays, rendered)
        if (step + 1) % self.log_every == 0:
            self._log_step(colour_loss, loss, count, num_samples, num_marched)
        return loss if rendered.num_samples else loss + zero_of(self.model.parameters())

    def regularization(self, step: int, rays: RayBatch, rendered: RenderedRays) -> Tensor:
        """What a derived task adds to the loss of a step."""
        return rendered.rgb.new_zeros(())

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The step, then the pruner's multiplier: before any callback may write a checkpoint."""
        step = self.global_step
        super().optimizer_step(*args, **kwargs)
        self.model.after_step(step)

    def _log_step(self, colour_loss: Tensor, loss: Tensor, num_rays: int, num_samples: int, num_marched: int) -> None:
        values = {
            "train/loss": loss.detach(),
            "train/color_loss": colour_loss.detach(),
            "train/rays": num_rays,
            "train/samples": num_samples,
            "train/marched_samples": num_marched,
            "train/occupancy": self.renderer.occupancy.binaries.float().mean(),
        }
        if self.model.saliency is not None:
            values["train/mean_saliency"] = self.model.saliency.mean().detach()
            values["train/open_vertices"] = self.model.saliency.occupancy()
        if self.model.pruner is not None:
            values["train/gamma"] = self.model.pruner.gamma
        row = {name: torch.as_tensor(value, dtype=torch.float32, device=self.device) for name, value in values.items()}
        self.log_dict(row, sync_dist=True)

    def render_camera(self, camera: Cameras) -> RenderedImage:
        """What the only camera of ``camera`` sees, over the test background."""
        background = background_colors(self.test_background, 1)[0].to(self.device)
        return self.renderer.render_image(self.model, camera, background=background)

    def configure_optimizers(self) -> Any:
        """One group for the saliency grid, one for all else."""
        saliency = [] if self.model.saliency is None else list(self.model.saliency.parameters())
        chosen = {id(parameter) for parameter in saliency}
        groups: list[dict[str, Any]] = [{"params": [p for p in self.model.parameters() if id(p) not in chosen]}]
        if saliency:
            own = {} if self.saliency_betas is None else {"betas": self.saliency_betas}
            groups.append({"params": saliency, "weight_decay": 0.0, **own})
        optimizer = self.optimizer(groups)
        if saliency:
            optimizer.param_groups[1]["lr"] *= self.saliency_lr_scale
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}
