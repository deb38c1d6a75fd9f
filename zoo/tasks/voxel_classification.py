"""Training and measuring a classifier of point clouds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.data.point_samples import PointBatch
from zoo.losses.classification import cross_entropy
from zoo.rendering.point_pictures import confusion_section, draw_cloud
from zoo.rendering.report import Picture, ReportSection
from zoo.tasks.evaluation_share import num_measured
from zoo.tasks.point_task import Optimizer, PointTask, Scheduler

__all__ = ["VoxelClassificationTask"]

_FIGURES = ("accuracy", "class_accuracy")


class VoxelClassificationTask(PointTask):
    """Cross entropy of ``model(voxels)`` ``(B, K)``; overall accuracy and mean class accuracy.

    Args:
        model: The classifier.
        optimizer: Makes the optimizer from all parameters.
        scheduler: Makes the learning-rate schedule, stepped after each optimizer step; or None.
        num_classes: K.
        label_smoothing: Share of the target that is spread over all classes.
        log_every: Steps between two rows of training metrics.
        max_pictures: Test clouds shown in the report, wrongly classified ones first.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: Scheduler | None = None,
        num_classes: int,
        label_smoothing: float = 0.0,
        log_every: int = 50,
        max_pictures: int = 12,
    ) -> None:
        super().__init__(
            model=model, optimizer=optimizer, scheduler=scheduler, num_classes=num_classes, log_every=log_every
        )
        self.label_smoothing, self.max_pictures = label_smoothing, max_pictures
        self._wrong: list[Picture] = []
        self._right: list[Picture] = []

    def training_step(self, batch: PointBatch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        logits, _ = self.logits(batch)
        target = self._targets(batch)
        loss = cross_entropy(logits, target, label_smoothing=self.label_smoothing, over_processes=True)
        self.log_training({"loss": loss, "accuracy": (logits.argmax(dim=1) == target).float().mean()}, batch)
        return loss

    def _targets(self, batch: PointBatch) -> Tensor:
        if batch.category is None:
            raise ValueError(f"{batch.names[0]}: has no class; expected labelled clouds")
        return batch.category

    def validation_step(self, batch: PointBatch, batch_idx: int) -> None:
        """Count right and wrong."""
        count = num_measured(self, batch_idx, batch.batch_size)
        logits, target = self.logits(batch)[0][:count], self._targets(batch)[:count]
        self.val_metric.update(logits.argmax(dim=1), target)
        self.log("val/loss", cross_entropy(logits, target), batch_size=count, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Log the figures over all val clouds."""
        self.log_figures("val", self.val_metric, _FIGURES)
        self.val_metric.reset()

    def on_test_start(self) -> None:
        """Begin with nothing."""
        super().on_test_start()
        self.test_metric.reset()
        self._wrong.clear()
        self._right.clear()

    def test_step(self, batch: PointBatch, batch_idx: int) -> None:
        """Count right and wrong, and keep some pictures."""
        count = num_measured(self, batch_idx, batch.batch_size)
        predicted, target = self.logits(batch)[0].argmax(dim=1)[:count], self._targets(batch)[:count]
        self.test_metric.update(predicted, target)
        for number in range(count):
            self._keep_picture(batch, number, int(predicted[number]), int(target[number]))

    def _keep_picture(self, batch: PointBatch, number: int, predicted: int, target: int) -> None:
        kept = self._right if predicted == target else self._wrong
        if len(kept) >= self.max_pictures:
            return
        names = self.class_names
        caption = names[target] if predicted == target else f"{names[target]}, taken for {names[predicted]}"
        kept.append(Picture(draw_cloud(batch.coord[batch.point_batch == number]), f"{batch.names[number]}: {caption}"))

    def on_test_epoch_end(self) -> None:
        """Log the figures over all test clouds."""
        self.log_figures("test", self.test_metric, _FIGURES)

    def predict_step(self, batch: PointBatch, batch_idx: int) -> Tensor:
        """Probabilities ``(B, K)``."""
        return torch.softmax(self.logits(batch)[0], dim=1)

    def report_sections(self) -> Sequence[ReportSection]:
        """Figures of the classes, and test clouds."""
        metric = self.test_metric
        if int(metric.counts.sum()) == 0:
            return []
        classes = confusion_section(metric.counts.cpu(), self.class_names, metric.class_iou(), metric.class_accuracy())
        pictures = [*self._wrong, *self._right][: self.max_pictures]
        return [classes, ReportSection("Test clouds", pictures=pictures)]
