"""Puts what a method without learning reaches beside the figures of a tested network."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from zoo.data.point_clouds import PointCloudData
from zoo.metrics.segmentation import ConfusionMatrix
from zoo.metrics.trivial_baselines import height_intensity_3nn, occupancy_3nn

__all__ = ["TrivialBaseline"]


class TrivialBaseline(Callback):
    """Logs ``test/baseline_accuracy`` or ``test/baseline_miou_present`` after a test.

    Args:
        kind: ``occupancy`` classifies clouds by the three nearest training clouds on 16^3 occupied cells, ``height``
            points by the three nearest training points in height and intensity.
        intensity: Name of the feature that holds it.
    """

    def __init__(self, *, kind: Literal["occupancy", "height"], intensity: str = "strength") -> None:
        if kind not in ("occupancy", "height"):
            raise ValueError(f"kind: found {kind!r}, expected 'occupancy' or 'height'")
        self.kind, self.intensity = kind, intensity

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure and log."""
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if not isinstance(data, PointCloudData):
            raise ValueError(f"callbacks: TrivialBaseline needs point clouds, found {type(data).__name__}")
        metric = ConfusionMatrix(num_classes=len(data.class_names))
        metric.update(*(self._occupancy(data) if self.kind == "occupancy" else self._height(data)))
        figure = "accuracy" if self.kind == "occupancy" else "miou_present"
        pl_module.log(f"test/baseline_{figure}", metric.compute()[figure])

    def _occupancy(self, data: PointCloudData) -> tuple[torch.Tensor, torch.Tensor]:
        train, test = list(data.samples("train")), list(data.samples("test"))
        labels = torch.tensor([sample.category for sample in train])
        predicted = occupancy_3nn(
            [sample.coord for sample in train], labels, [sample.coord for sample in test], len(data.class_names)
        )
        return predicted, torch.tensor([sample.category for sample in test])

    def _height(self, data: PointCloudData) -> tuple[torch.Tensor, torch.Tensor]:
        def clouds(split: Literal["train", "test"]) -> Any:
            for sample in data.samples(split):
                if sample.segment is not None:
                    yield torch.cat([sample.coord[:, 2:], sample.features[self.intensity]], dim=1), sample.segment

        return height_intensity_3nn(clouds("train"), clouds("test"), len(data.class_names))
