"""Training and measuring a segmentor of point clouds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.point_samples import IGNORE, FragmentedCloud, PointBatch
from zoo.losses.classification import cross_entropy
from zoo.losses.lovasz import lovasz_softmax
from zoo.rendering.point_pictures import class_colors, confusion_section, draw_cloud
from zoo.rendering.report import Picture, ReportSection
from zoo.tasks.evaluation_share import num_measured
from zoo.tasks.point_task import Optimizer, PointTask, Scheduler

__all__ = ["PointSegmentationTask"]

_FIGURES = ("miou", "miou_present", "class_accuracy", "accuracy")


class PointSegmentationTask(PointTask):
    """Weighted cross entropy and Lovasz loss of ``model(voxels)`` ``(N, K)``; IoU over the whole set.

    A `FragmentedCloud` is tested on all its points: class probabilities are summed over the fragments of each point.

    Args:
        model: The segmentor.
        optimizer: Makes the optimizer from all parameters.
        scheduler: Makes the learning-rate schedule, stepped after each optimizer step; or None.
        num_classes: K.
        class_weights: Of the cross entropy, K numbers; None: all 1.
        label_smoothing: Share of the target that is spread over all classes.
        lovasz_weight: Of the Lovasz loss beside the cross entropy; the published recipe has none.
        log_every: Steps between two rows of training metrics.
        max_pictures: Test clouds shown in the report, truth beside prediction.
        submission: Called with name and classes ``(N,)`` of every tested cloud, to write result files.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: Scheduler | None = None,
        num_classes: int,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        lovasz_weight: float = 0.0,
        log_every: int = 50,
        max_pictures: int = 4,
        submission: Callable[[str, Tensor], Any] | None = None,
    ) -> None:
        super().__init__(
            model=model, optimizer=optimizer, scheduler=scheduler, num_classes=num_classes, log_every=log_every
        )
        if class_weights is not None and len(class_weights) != num_classes:
            raise ValueError(f"class_weights: found {len(class_weights)}, expected {num_classes}: one for each class")
        weights = None if class_weights is None else torch.tensor([float(value) for value in class_weights])
        self.register_buffer("class_weights", weights, persistent=False)
        self.label_smoothing, self.lovasz_weight, self.submission = label_smoothing, lovasz_weight, submission
        self.max_pictures = max_pictures
        self._pictures: list[Picture] = []

    def point_logits(self, batch: PointBatch) -> Tensor:
        """Logits ``(P, K)`` in the order of the batch's points."""
        logits, voxels = self.logits(batch)
        return voxels.grid.to_caller_order(logits)

    def training_step(self, batch: PointBatch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        logits = self.point_logits(batch)
        if batch.segment is None:
            raise ValueError(f"{batch.names[0]}: has no labels; expected labelled clouds")
        terms = {
            "cross_entropy": cross_entropy(
                logits,
                batch.segment,
                class_weights=self.class_weights,
                label_smoothing=self.label_smoothing,
                ignore_index=IGNORE,
                over_processes=True,
            )
        }
        if self.lovasz_weight:
            lovasz = lovasz_softmax(logits, batch.segment, ignore_index=IGNORE, over_processes=True)
            terms["lovasz"] = self.lovasz_weight * lovasz
        loss = torch.stack(list(terms.values())).sum()
        self.log_training({"loss": loss, **terms}, batch)
        return loss

    def validation_step(self, batch: PointBatch, batch_idx: int) -> None:
        """Count on the voxelised clouds."""
        if batch.segment is not None:
            predicted, rows = self.point_logits(batch).argmax(dim=1), self._measured_rows(batch, batch_idx)
            self.val_metric.update(predicted[rows], batch.segment[rows])

    def _measured_rows(self, batch: PointBatch | FragmentedCloud, batch_idx: int) -> Tensor:
        """Which points count ``(N,)``."""
        if isinstance(batch, PointBatch):
            return batch.point_batch < num_measured(self, batch_idx, batch.batch_size)
        return torch.full_like(batch.coord[:, 0], num_measured(self, batch_idx, 1), dtype=torch.bool)

    def on_validation_epoch_end(self) -> None:
        """Log the figures over all val clouds."""
        self.log_figures("val", self.val_metric, _FIGURES)
        self.val_metric.reset()

    def on_test_start(self) -> None:
        """Begin with nothing."""
        super().on_test_start()
        self.test_metric.reset()
        self._pictures.clear()

    def predict(self, batch: PointBatch | FragmentedCloud) -> Tensor:
        """Class of each point ``(N,)``."""
        if isinstance(batch, PointBatch):
            return self.point_logits(batch).argmax(dim=1)
        scores = torch.zeros(len(batch.coord), self.num_classes, dtype=torch.float32, device=batch.coord.device)
        for fragment, rows in zip(batch.fragments, batch.rows, strict=True):
            scores.index_add_(0, rows, torch.softmax(self.point_logits(fragment).float(), dim=1))
        return scores.argmax(dim=1)

    def test_step(self, batch: PointBatch | FragmentedCloud, batch_idx: int) -> None:
        """Count, write result files and keep some pictures."""
        predicted, rows = self.predict(batch), self._measured_rows(batch, batch_idx)
        if not num_measured(self, batch_idx, 1):
            return
        if self.submission is not None:
            if isinstance(batch, PointBatch):
                raise ValueError("task.submission: needs all points of each cloud; set data.test_fragments")
            self.submission(batch.name, predicted)
        if batch.segment is not None:
            self.test_metric.update(predicted[rows], batch.segment[rows])
        if len(self._pictures) < self.max_pictures:
            self._pictures.append(self._picture(batch, predicted))

    def _picture(self, batch: PointBatch | FragmentedCloud, predicted: Tensor) -> Picture:
        """Bird's-eye views of the first cloud: labels, then predictions."""
        rows = batch.point_batch == 0 if isinstance(batch, PointBatch) else slice(None)
        colors, coord = class_colors(self.num_classes), batch.coord[rows].cpu()
        labels = [predicted] if batch.segment is None else [batch.segment, predicted]
        views = [draw_cloud(coord, colors[part[rows].cpu()], size=360, elevation=60.0) for part in labels]
        name = batch.names[0] if isinstance(batch, PointBatch) else batch.name
        what = "prediction" if batch.segment is None else "labels, prediction"
        return Picture(torch.cat(views, dim=1), f"{name}: {what}")

    def on_test_epoch_end(self) -> None:
        """Log the figures over all test clouds, and the IoU of each class that occurs."""
        self.log_figures("test", self.test_metric, _FIGURES)
        present = self.test_metric.counts.sum(dim=1) > 0
        for name, iou, found in zip(self.class_names, self.test_metric.class_iou(), present, strict=True):
            if found:
                self.log(f"test/iou/{name}", iou.float(), batch_size=1, sync_dist=True)

    def predict_step(self, batch: PointBatch | FragmentedCloud, batch_idx: int) -> Tensor:
        """Class of each point ``(N,)``."""
        return self.predict(batch)

    def report_sections(self) -> Sequence[ReportSection]:
        """Figures of the classes, and test clouds."""
        metric, sections = self.test_metric, []
        if int(metric.counts.sum()):
            figures = (metric.class_iou(), metric.class_accuracy())
            sections.append(confusion_section(metric.counts.cpu(), self.class_names, *figures))
        return [*sections, ReportSection("Test clouds", pictures=self._pictures)]
