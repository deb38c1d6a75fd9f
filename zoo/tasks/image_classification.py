"""Fine-tuning and measuring a classifier of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.data.image_mixing import smooth_targets
from zoo.data.image_samples import ImageBatch, denormalize
from zoo.losses.classification import check_labels, cross_entropy, soft_target_loss
from zoo.models.spark.backbones import stage_depths
from zoo.models.spark.classifier import ImageClassifier
from zoo.models.spark.convnext import ConvNeXt
from zoo.rendering.point_pictures import confusion_section
from zoo.rendering.report import Picture, ReportSection
from zoo.tasks.annealed_decay import convnext_layer, decay_groups, layer_scales, resnet_layer
from zoo.tasks.class_task import ClassTask, Scheduler
from zoo.tasks.evaluation_share import num_measured
from zoo.tasks.masked_pretraining import GroupedOptimizer

__all__ = ["ImageClassificationTask", "layer_decay_scales"]

_FIGURES = ("accuracy", "class_accuracy")
_MOST_CLASSES = 20  # of which the report shows the confusions


def layer_decay_scales(model: ImageClassifier, decay: float) -> dict[str, float]:
    """Factor of the learning rate of each parameter: ``decay`` to the power of its distance from the classifier."""
    backbone, depths = model.backbone, stage_depths(model.backbone)
    layers = {}
    for name, _ in model.named_parameters():
        inner = name.removeprefix("backbone.")
        if isinstance(backbone, ConvNeXt):
            layers[name] = convnext_layer(inner, depths)
        else:
            layers[name] = resnet_layer(inner if inner != name else "fc", depths)
    return layer_scales(layers, decay)


class ImageClassificationTask(ClassTask):
    """Cross entropy on mixed targets, layer-wise rates; accuracy and mean class accuracy.

    Args:
        model: the classifier.
        optimizer: makes the optimizer from parameter groups; 1-D tensors, biases and layer scales are not decayed.
        scheduler: sets the rates after each step; or None.
        num_classes: K.
        loss: ``binary_cross_entropy`` takes every class on its own and is a mean over pictures and classes.
        layer_decay: of the rates from layer to layer towards the input; None: all the same.
        log_every: steps between two rows of training metrics.
        max_pictures: test pictures shown in the report, wrongly classified ones first.
    """

    model: ImageClassifier

    def __init__(
        self,
        *,
        model: ImageClassifier,
        optimizer: GroupedOptimizer,
        scheduler: Scheduler | None = None,
        num_classes: int,
        loss: Literal["cross_entropy", "binary_cross_entropy"] = "cross_entropy",
        layer_decay: float | None = None,
        log_every: int = 50,
        max_pictures: int = 12,
    ) -> None:
        super().__init__(
            model=model, optimizer=optimizer, scheduler=scheduler, num_classes=num_classes, log_every=log_every
        )
        self.loss: Literal["cross_entropy", "binary_cross_entropy"] = loss
        self.layer_decay, self.max_pictures = layer_decay, max_pictures
        self._wrong: list[Picture] = []
        self._right: list[Picture] = []

    def features(self, image: Tensor) -> Tensor:
        """What the classifier reads, for probes."""
        return self.model.features(image)

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        logits, label = self.model(batch.image), self._labels(batch)
        check_labels(logits, label, ignore_index=-1)
        target = smooth_targets(label, self.num_classes, 0.0) if batch.target is None else batch.target
        loss = soft_target_loss(logits, target, kind=self.loss)
        if (self.global_step + 1) % self.log_every == 0:
            right = (logits.argmax(dim=1) == target.argmax(dim=1)).float().mean()
            row = {"train/loss": loss.detach().float(), "train/accuracy": right}
            self.log_dict(row, batch_size=batch.batch_size, sync_dist=True)
        return loss

    def _labels(self, batch: ImageBatch) -> Tensor:
        if batch.label is None:
            raise ValueError(f"{batch.names[0]}: has no class; expected labelled pictures")
        return batch.label

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Count right and wrong."""
        count = num_measured(self, batch_idx, batch.batch_size)
        logits, label = self.model(batch.image)[:count], self._labels(batch)[:count]
        self.val_metric.update(logits.argmax(dim=1), label)
        self.log("val/loss", cross_entropy(logits, label), batch_size=count, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Log the figures over all val pictures."""
        self.log_figures("val", self.val_metric, _FIGURES)
        self.val_metric.reset()

    def on_test_start(self) -> None:
        """Begin with nothing."""
        super().on_test_start()
        self.test_metric.reset()
        self._wrong.clear()
        self._right.clear()

    def test_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Count right and wrong, and keep some pictures."""
        count = num_measured(self, batch_idx, batch.batch_size)
        predicted, label = self.model(batch.image).argmax(dim=1)[:count], self._labels(batch)[:count]
        self.test_metric.update(predicted, label)
        names = self.class_names
        for number, (found, true) in enumerate(zip(predicted.tolist(), label.tolist(), strict=True)):
            kept = self._right if found == true else self._wrong
            if len(kept) < self.max_pictures:
                caption = names[true] if found == true else f"{names[true]}, taken for {names[found]}"
                kept.append(Picture(denormalize(batch.image[number]).permute(1, 2, 0).cpu(), caption))

    def on_test_epoch_end(self) -> None:
        """Log the figures over all test pictures."""
        self.log_figures("test", self.test_metric, _FIGURES)

    def predict_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """Probabilities ``(B, K)``."""
        return torch.softmax(self.model(batch.image), dim=1)

    def configure_optimizers(self) -> Any:
        """Groups by layer and by decay."""
        scales = None if self.layer_decay is None else layer_decay_scales(self.model, self.layer_decay)
        return self.with_schedule(self.optimizer(decay_groups(self.model.named_parameters(), scales)))

    def report_sections(self) -> Sequence[ReportSection]:
        """Figures of the classes, and test pictures."""
        metric = self.test_metric
        if int(metric.counts.sum()) == 0:
            return []
        sections = [ReportSection("Test pictures", pictures=[*self._wrong, *self._right][: self.max_pictures])]
        if self.num_classes <= _MOST_CLASSES:
            counts = metric.counts.cpu()
            sections.append(confusion_section(counts, self.class_names, metric.class_iou(), metric.class_accuracy()))
        return sections
