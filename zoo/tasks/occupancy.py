"""Training and measuring a network of occupancy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from zoo.data.occupancy_data import OccupancyBatch
from zoo.losses.occupancy import margin_bce
from zoo.rendering.point_pictures import draw_cloud
from zoo.rendering.report import Picture, ReportSection

__all__ = ["OccupancyTask"]

Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Scheduler = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]


class OccupancyTask(LightningModule):
    """Margin cross entropy of ``model(points, queries)`` ``(B, Q)``; intersection over union of all positions.

    Both stages are runs of this task: the second takes ``weights=`` of the first, a margin, positions near the surface
    and an optimizer of its own.

    Args:
        model: The network, with ``encode`` and ``decode``.
        optimizer: Makes the optimizer from the parameters that need a gradient.
        scheduler: Makes the learning-rate schedule, stepped after each optimizer step; or None.
        margin: Of the loss, see `margin_bce`.
        threshold: Probability from which a position counts as inside.
        chunk_size: Positions that are decoded at once in evaluation.
        log_every: Steps between two rows of training metrics.
        max_pictures: Test shapes shown in the report.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: Scheduler | None = None,
        margin: float = 0.0,
        threshold: float = 0.2,
        chunk_size: int = 50000,
        log_every: int = 50,
        max_pictures: int = 8,
    ) -> None:
        super().__init__()
        if margin < 0 or not 0 < threshold < 1 or chunk_size < 1:
            raise ValueError(
                f"margin={margin}, threshold={threshold}, chunk_size={chunk_size}: expected from 0 on, within (0, 1), "
                "and at least 1"
            )
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.margin, self.threshold, self.chunk_size = margin, threshold, chunk_size
        self.log_every, self.max_pictures = log_every, max_pictures
        self._pictures: list[Picture] = []

    def training_step(self, batch: OccupancyBatch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        loss = margin_bce(self.model(batch.points, batch.queries), batch.occupancy, margin=self.margin)
        if (self.global_step + 1) % self.log_every == 0:
            self.log("train/loss", loss.detach(), batch_size=len(batch.points))
        return loss

    def predict_step(self, batch: OccupancyBatch, batch_idx: int) -> Tensor:
        """Probabilities ``(B, Q)``."""
        model: Any = self.model
        maps = model.encode(batch.points)
        return torch.cat([model.decode(maps, part) for part in batch.queries.split(self.chunk_size, 1)], 1).sigmoid()

    def _score(self, stage: str, batch: OccupancyBatch) -> Tensor:
        inside = self.predict_step(batch, 0) >= self.threshold
        both = (inside & batch.occupancy).sum(1)
        either = (inside | batch.occupancy).sum(1)
        iou = torch.where(either > 0, both / either.clamp_min(1), 1.0)  # nothing there and nothing found
        self.log(f"{stage}/iou", iou.mean(), batch_size=len(iou), on_epoch=True)
        return inside

    def validation_step(self, batch: OccupancyBatch, batch_idx: int) -> None:
        """Intersection over union of the shapes, averaged over them."""
        self._score("val", batch)

    def on_test_start(self) -> None:
        """Begin with nothing."""
        self._pictures.clear()

    def test_step(self, batch: OccupancyBatch, batch_idx: int) -> None:
        """As validation, and keep some pictures."""
        inside = self._score("test", batch)
        if len(self._pictures) >= 3 * self.max_pictures:
            return
        queries = batch.queries[0][:, [0, 2, 1]].cpu()  # y is up in the data, z in the pictures
        clouds = (batch.points[0][:, [0, 2, 1]].cpu(), queries[inside[0].cpu()], queries[batch.occupancy[0].cpu()])
        for cloud, what in zip(clouds, ("input", "found inside", "truly inside"), strict=True):
            self._pictures.append(Picture(draw_cloud(cloud), f"{batch.names[0]}: {what}"))

    def report_sections(self) -> Sequence[ReportSection]:
        """Test shapes."""
        return [ReportSection("Test shapes", pictures=list(self._pictures))] if self._pictures else []

    def configure_optimizers(self) -> Any:
        """All parameters that need a gradient, in one group."""
        optimizer = self.optimizer([p for p in self.model.parameters() if p.requires_grad])
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}
