"""Training and measuring a detector of boxes in point clouds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from lightning import LightningModule
from torch import Tensor, nn

from zoo.data.detection import DetectionBatch, Detections
from zoo.data.detection_frames import EvaluationBatch
from zoo.metrics.detection import DetectionMetric
from zoo.ops.processes import sum_over_processes
from zoo.rendering.report import ReportSection
from zoo.tasks.detection_gallery import DetectionGallery

__all__ = ["DetectionTask"]

Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Scheduler = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]

_CLASSES = "class_names"  # key in checkpoints


class DetectionTask(LightningModule):
    """One optimizer step on ``model.loss(batch)["loss"]``; metrics on ``model.predict(batch)``.

    Args:
        model: A detector: ``loss(batch) -> dict[str, Tensor]`` with the total as ``loss``, ``predict(batch) ->
            list[Detections]``.
        optimizer: Makes the optimizer from all parameters.
        scheduler: Makes the learning-rate schedule, stepped after each optimizer step; or None.
        class_names: Of the labels, as the data module has them.
        metrics: By name; the values of each are logged as ``val/NAME/...`` and ``test/NAME/...``.
        log_every: Steps between two rows of training losses.
        gallery: Pictures for the report; None: none are made.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: Scheduler | None = None,
        class_names: Sequence[str],
        metrics: Mapping[str, DetectionMetric] | None = None,
        log_every: int = 10,
        gallery: DetectionGallery | None = None,
    ) -> None:
        super().__init__()
        missing = [name for name in ("loss", "predict") if not callable(getattr(model, name, None))]
        if missing:
            raise ValueError(f"model: {type(model).__name__} has no method {missing[0]!r}, expected a detector")
        self.model = model
        self.optimizer, self.scheduler = optimizer, scheduler
        self.class_names = tuple(class_names)
        self.metrics = nn.ModuleDict(cast(Mapping[str, nn.Module], metrics or {}))  # so that devices are theirs too
        self.log_every, self.gallery = log_every, gallery

    def on_fit_start(self) -> None:
        """Labels are numbers: model, metrics and data must mean the same classes."""
        data: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if data is not None and tuple(data.class_names) != self.class_names:
            raise ValueError(
                f"task.class_names: found {list(self.class_names)}, the data has {list(data.class_names)}; "
                "set both to the same"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The names of the classes go along."""
        checkpoint[_CLASSES] = list(self.class_names)

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse weights of other classes, or of the same in another order."""
        names = checkpoint.get(_CLASSES)
        if names is not None and tuple(names) != self.class_names:
            raise ValueError(
                f"ckpt, weights: trained on the classes {', '.join(names)}; task.class_names has "
                f"{', '.join(self.class_names)}"
            )

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> Tensor | None:
        """The loss; None, which skips the update, where no sample of any process has a point."""
        if not sum_over_processes(torch.tensor(len(batch.points), device=batch.points.device)):
            return None
        terms = self._detector("loss")(batch)
        if (self.global_step + 1) % self.log_every == 0:
            row = {f"train/{name}": value.detach().float() for name, value in terms.items()}
            self.log_dict(row, batch_size=batch.batch_size, sync_dist=True)
        return terms["loss"]

    def _detector(self, method: str) -> Callable[[DetectionBatch], Any]:
        return cast(Callable[[DetectionBatch], Any], getattr(self.model, method))

    def _measures(self) -> list[tuple[str, DetectionMetric]]:
        return [(name, cast(DetectionMetric, metric)) for name, metric in self.metrics.items()]

    def _measure(self, batch: EvaluationBatch) -> list[Detections]:
        """Feed the metrics and return what was found in the frames; samples without a frame do not count."""
        found: list[Detections] = self._detector("predict")(batch.batch)[: len(batch.frames)]
        for _, metric in self._measures():
            metric.update(found, batch.frames)
        return found

    def _log_metrics(self, stage: str) -> None:
        for name, metric in self._measures():
            values = {
                f"{stage}/{name}/{key}": torch.as_tensor(value).float() for key, value in metric.compute().items()
            }
            self.log_dict(values, batch_size=1)
            metric.reset()

    def validation_step(self, batch: EvaluationBatch, batch_idx: int) -> None:
        """Feed the metrics."""
        self._measure(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics over all val frames."""
        self._log_metrics("val")

    def on_test_start(self) -> None:
        """Begin with no picture."""
        if self.gallery is not None:
            self.gallery.clear()

    def test_step(self, batch: EvaluationBatch, batch_idx: int) -> None:
        """Feed the metrics and the gallery."""
        for frame, found in zip(batch.frames, self._measure(batch), strict=True):
            if self.gallery is not None:
                self.gallery.add(frame, found)

    def on_test_epoch_end(self) -> None:
        """Log the metrics over all test frames."""
        self._log_metrics("test")

    def predict_step(self, batch: EvaluationBatch | DetectionBatch, batch_idx: int) -> list[Detections]:
        """Detections of each sample."""
        return self._detector("predict")(batch.batch if isinstance(batch, EvaluationBatch) else batch)

    def configure_optimizers(self) -> Any:
        """All parameters that need a gradient, in one group."""
        optimizer = self.optimizer([p for p in self.model.parameters() if p.requires_grad])
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    def report_sections(self) -> Sequence[ReportSection]:
        """The test frames with what was found."""
        return () if self.gallery is None else self.gallery.sections(self.class_names)
