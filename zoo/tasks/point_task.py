"""What classification and segmentation of point clouds share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.data.point_samples import PointBatch
from zoo.ops import SparseTensor
from zoo.tasks.class_task import ClassTask, Optimizer, Scheduler

__all__ = ["Optimizer", "PointTask", "Scheduler"]


class PointTask(ClassTask):
    """A network on voxels, ``model(SparseTensor) -> Tensor``, whose classes are those of the data module."""

    def logits(self, batch: PointBatch) -> tuple[Tensor, SparseTensor]:
        """What the network says, and the voxels that it was given.

        Raises:
            ValueError: The network cannot work on the batch; names the clouds.
        """
        voxels = batch.sparse()
        try:
            return self.model(voxels), voxels
        except ValueError as error:
            raise ValueError(f"{', '.join(batch.names)}: {len(voxels)} voxels in all: {error}") from error

    def log_training(self, values: Mapping[str, Tensor], batch: PointBatch) -> None:
        """Write a row of training metrics, averaged over the processes, where one is due."""
        if (self.global_step + 1) % self.log_every == 0:
            row = {f"train/{name}": value.detach().float() for name, value in values.items()}
            row["train/voxels"] = torch.tensor(float(len(batch.coord)), device=batch.coord.device)
            self.log_dict(row, batch_size=batch.batch_size, sync_dist=True)
