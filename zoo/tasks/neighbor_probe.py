"""Puts what nearest neighbours reach beside the figures of a tested network: in its features, and in raw pixels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from zoo.data.image_data import ImageData
from zoo.metrics.feature_neighbors import classify_by_neighbors

__all__ = ["NeighborProbe"]


class NeighborProbe(Callback):
    """Logs ``test/knn_accuracy`` and ``test/baseline_accuracy`` (pixels) after a test.

    Args:
        data: labelled pictures; None: those of the run.
        neighbors: so many training pictures vote.
        temperature: small: the nearest ones decide.
        pixels: side of the shrunken pictures of the baseline.
    """

    def __init__(
        self,
        *,
        data: ImageData | None = None,
        neighbors: int = 20,
        temperature: float = 0.07,
        pixels: int = 8,
    ) -> None:
        if neighbors < 1 or temperature <= 0 or pixels < 1:
            raise ValueError(
                f"neighbors, temperature, pixels: found {neighbors}, {temperature}, {pixels}; expected at least 1, "
                "above 0, at least 1"
            )
        self.data, self.neighbors, self.temperature, self.pixels = data, neighbors, temperature, pixels

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure and log."""
        data: Any = self.data or trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if not isinstance(data, ImageData) or not data.class_names:
            raise ValueError("callbacks: NeighborProbe needs pictures with classes; give it data of its own")
        data.prepare_data()
        known, asked = self._read(data, "train", pl_module), self._read(data, "test", pl_module)
        for name, place in (("knn", 1), ("baseline", 2)):
            found = classify_by_neighbors(
                known[place],
                known[0],
                asked[place],
                len(data.class_names),
                neighbors=self.neighbors,
                temperature=self.temperature,
            )
            pl_module.log(f"test/{name}_accuracy", (found == asked[0]).float().mean())

    def _read(self, data: ImageData, split: Any, task: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Labels, features and shrunken pictures of a split."""
        labels, features, pixels = [], [], []
        with torch.no_grad():
            for batch in data.evaluation_loader(split):
                image = batch.image.to(task.device)
                labels.append(batch.label.to(task.device))
                features.append(task.features(image).float())
                pixels.append(F.adaptive_avg_pool2d(image, self.pixels).flatten(1))
        return torch.cat(labels), torch.cat(features), torch.cat(pixels)
