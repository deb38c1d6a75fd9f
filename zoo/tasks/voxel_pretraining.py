"""Pre-training an encoder of voxels by reconstructing hidden patches (SparK-3D)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from zoo.data.point_samples import PointBatch
from zoo.data.posed_images import step_generator
from zoo.data.split_data import EVALUATION_STREAM
from zoo.models.spark.voxels import SparK3D, VoxelReconstruction, sample_patch_mask
from zoo.rendering.point_pictures import draw_cloud
from zoo.rendering.report import Picture, ReportSection
from zoo.tasks.annealed_decay import decay_groups
from zoo.tasks.evaluation_share import num_measured
from zoo.tasks.masked_pretraining import GroupedOptimizer, Scheduler

__all__ = ["VoxelPretrainingTask"]

_MASK_STREAM = 1 << 29  # added to the seed: masks share no random numbers with augmentation


class VoxelPretrainingTask(LightningModule):
    """Occupancy and features of hidden patches; no labels are read.

    The mask of a step is a function of (seed, step, process); val and test clouds are masked alike in every run.

    Args:
        model: the network.
        optimizer: makes the optimizer from parameter groups.
        scheduler: sets rate and weight decay after each step; or None.
        seed: of the masks.
        log_every: steps between two rows of training metrics.
        max_pictures: test clouds shown in the report.
    """

    def __init__(
        self,
        *,
        model: SparK3D,
        optimizer: GroupedOptimizer,
        scheduler: Scheduler | None = None,
        seed: int = 0,
        log_every: int = 50,
        max_pictures: int = 8,
    ) -> None:
        super().__init__()
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.seed, self.log_every, self.max_pictures = seed, log_every, max_pictures
        self._pictures: list[Picture] = []

    def reconstruct(self, batch: PointBatch, generator: torch.Generator) -> VoxelReconstruction:
        """The network's answer under a random mask."""
        voxels = batch.sparse()
        visible = sample_patch_mask(self.model.occupied_patches(voxels), self.model.mask_ratio, generator)
        return self.model(voxels, visible)

    def training_step(self, batch: PointBatch, batch_idx: int) -> Tensor:
        """Loss of one batch.

        Raises:
            ValueError: the loss is not finite.
        """
        step = self.global_step * self.trainer.world_size + self.global_rank
        result = self.reconstruct(batch, step_generator(self.seed + _MASK_STREAM, step))
        if not bool(torch.isfinite(result.loss)):
            raise ValueError(f"step {self.global_step}: the loss is not finite; lower optim.optimizer.lr")
        if (self.global_step + 1) % self.log_every == 0:
            self._log("train", result, batch.batch_size)
        return result.loss

    def _log(self, stage: str, result: VoxelReconstruction, count: int) -> None:
        figures = {"loss": result.loss, "occupancy_loss": result.occupancy_loss, "feature_loss": result.feature_loss}
        row = {f"{stage}/{name}": value.detach().float() for name, value in figures.items()}
        self.log_dict(row, batch_size=count, sync_dist=True)

    def validation_step(self, batch: PointBatch, batch_idx: int) -> None:
        """Losses on val clouds."""
        count = num_measured(self, batch_idx, batch.batch_size)
        self._log("val", self._evaluated(batch.first(max(count, 1)), batch_idx), count)

    def on_test_start(self) -> None:
        """Begin with nothing."""
        self._pictures.clear()

    def test_step(self, batch: PointBatch, batch_idx: int) -> None:
        """Losses on test clouds, and some pictures."""
        count = num_measured(self, batch_idx, batch.batch_size)
        batch = batch.first(max(count, 1))
        result = self._evaluated(batch, batch_idx)
        self._log("test", result, count)
        hidden = ~result.visible
        for number in range(min(count, self.max_pictures - len(self._pictures))):
            cells = batch.grid_coord[batch.point_batch == number]
            masked = hidden[number][(cells // self.model.patch).unbind(1)]
            found = result.likeliest(number, int(masked.sum()))
            seen, blue = cells[~masked], torch.tensor([0.1, 0.3, 0.9])
            joined = torch.cat([seen, found])
            colors = torch.cat([torch.full((len(seen), 3), 0.5), blue.expand(len(found), 3)])
            row = torch.cat([draw_cloud(cells), draw_cloud(seen), draw_cloud(joined, colors)], dim=1)
            self._pictures.append(Picture(row, batch.names[number]))

    def _evaluated(self, batch: PointBatch, batch_idx: int) -> VoxelReconstruction:
        return self.reconstruct(batch, step_generator(self.seed + EVALUATION_STREAM, batch_idx))

    def configure_optimizers(self) -> Any:
        """Two groups: decayed, and not."""
        optimizer = self.optimizer(decay_groups(self.model.named_parameters()))
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    def report_sections(self) -> Sequence[ReportSection]:
        """Clouds: whole, what the network saw, and with what it put into the hidden patches (blue)."""
        if not self._pictures:
            return []
        text = (
            "Left all voxels, in the middle the visible ones, on the right these and, in blue, the likeliest voxels of "
            "hidden patches, as many as were hidden."
        )
        return [ReportSection("Reconstructions", text, pictures=self._pictures)]
