"""Pre-training a convnet by reconstructing masked patches (SparK)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from zoo.data.image_samples import ImageBatch, denormalize
from zoo.data.posed_images import step_generator
from zoo.data.split_data import EVALUATION_STREAM
from zoo.models.spark import Reconstruction, SparK, sample_mask
from zoo.rendering.report import Picture, ReportSection
from zoo.tasks.annealed_decay import decay_groups
from zoo.tasks.evaluation_share import num_measured

__all__ = ["GroupedOptimizer", "MaskedPretrainingTask", "Scheduler"]

GroupedOptimizer = Callable[[Iterable[dict[str, Any]]], torch.optim.Optimizer]
Scheduler = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]
_MASK_STREAM = 1 << 29  # added to the seed: masks share no random numbers with augmentation


class MaskedPretrainingTask(LightningModule):
    """Squared error on masked patches, each normalised by its own mean and deviation; no labels are read.

    A loss of 1 is what the mean of each patch would give. The mask of a step is a function of (seed, step, process);
    val and test pictures are masked alike in every run.

    Args:
        model: the network.
        optimizer: makes the optimizer from parameter groups; 1-D tensors, biases, tokens and layer scales are not
            decayed.
        scheduler: sets rate and weight decay after each step; or None.
        seed: of the masks.
        log_every: steps between two rows of training metrics.
        max_pictures: test pictures shown in the report.
    """

    def __init__(
        self,
        *,
        model: SparK,
        optimizer: GroupedOptimizer,
        scheduler: Scheduler | None = None,
        seed: int = 0,
        log_every: int = 50,
        max_pictures: int = 12,
    ) -> None:
        super().__init__()
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.seed = seed
        self.log_every, self.max_pictures = log_every, max_pictures
        self._pictures: list[Picture] = []

    def reconstruct(self, batch: ImageBatch, generator: torch.Generator) -> Reconstruction:
        """The network's answer under a random mask."""
        rows, columns = self.model.encoder.cells(*batch.image.shape[2:])
        mask = sample_mask(batch.batch_size, rows, columns, self.model.mask_ratio, generator)
        return self.model(batch.image, mask.to(batch.image.device))

    def features(self, image: Tensor) -> Tensor:
        """Mean ``(B, C)`` of the encoder's last map with nothing masked, for probes."""
        rows, columns = self.model.encoder.cells(*image.shape[2:])
        visible = torch.ones(len(image), 1, rows, columns, dtype=torch.bool, device=image.device)
        last = self.model.encoder(image, visible)[-1]
        assert last is not None  # the coarsest map is always there
        return last.mean((2, 3))

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """Loss of one batch.

        Raises:
            ValueError: the loss is not finite.
        """
        step = self.global_step * self.trainer.world_size + self.global_rank
        loss = self.reconstruct(batch, step_generator(self.seed + _MASK_STREAM, step)).loss
        if not bool(torch.isfinite(loss)):
            raise ValueError(
                f"step {self.global_step}: the loss is {float(loss.detach())}; lower optim.optimizer.lr, or look at "
                f"the pictures {', '.join(batch.names[:4])}, ..."
            )
        if (self.global_step + 1) % self.log_every == 0:
            self.log("train/loss", loss.detach().float(), batch_size=batch.batch_size, sync_dist=True)
        return loss

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Loss on val pictures."""
        count = num_measured(self, batch_idx, batch.batch_size)
        loss = self._evaluated(batch.first(max(count, 1)), batch_idx).loss
        self.log("val/loss", loss, batch_size=count, sync_dist=True)

    def on_test_start(self) -> None:
        """Begin with nothing."""
        self._pictures.clear()

    def test_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Loss on test pictures, and some pictures."""
        count = num_measured(self, batch_idx, batch.batch_size)
        batch = batch.first(max(count, 1))
        result = self._evaluated(batch, batch_idx)
        self.log("test/loss", result.loss, batch_size=count, sync_dist=True)
        wanted = min(count, self.max_pictures - len(self._pictures))
        if wanted <= 0:
            return
        filled = denormalize(self.model.fill(batch.image, result).float())
        whole = denormalize(batch.image.float())
        masked = torch.where(self.model.encoder.visible.at(*batch.image.shape[2:]), whole, 0.5)
        rows = torch.cat([whole, masked, filled], dim=3).permute(0, 2, 3, 1).cpu()
        self._pictures += [Picture(rows[i], batch.names[i]) for i in range(wanted)]

    def _evaluated(self, batch: ImageBatch, batch_idx: int) -> Reconstruction:
        return self.reconstruct(batch, step_generator(self.seed + EVALUATION_STREAM, batch_idx))

    def predict_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """Reconstructed pictures ``(B, 3, H, W)`` in [0, 1]."""
        return denormalize(self.model.fill(batch.image, self._evaluated(batch, batch_idx)))

    def configure_optimizers(self) -> Any:
        """Two groups: decayed, and not."""
        optimizer = self.optimizer(decay_groups(self.model.named_parameters()))
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    def report_sections(self) -> Sequence[ReportSection]:
        """Pictures: whole, what the network saw, what it made of it."""
        if not self._pictures:
            return []
        text = (
            "Left the picture, in the middle what the network saw, on the right its reconstruction of the masked "
            "patches (in the mean and contrast that they really have)."
        )
        return [ReportSection("Reconstructions", text, pictures=self._pictures)]
