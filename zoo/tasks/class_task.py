"""What tasks with classes share: network, optimizer, metrics, list of classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import nn

from zoo.metrics.segmentation import ConfusionMatrix
from zoo.ops.processes import sum_over_processes

__all__ = ["ClassTask", "Optimizer", "Scheduler"]

Optimizer = Callable[[Iterable[Any]], torch.optim.Optimizer]
Scheduler = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]
_CLASSES = "class_names"  # key in checkpoints


class ClassTask(LightningModule):
    """A network whose classes are those of the data module.

    The names of the classes travel in checkpoints: weights are never measured on another list of classes.

    Args:
        model: The network.
        optimizer: Makes the optimizer from all parameters.
        scheduler: Makes the learning-rate schedule, stepped after each optimizer step; or None.
        num_classes: K of the network.
        log_every: Steps between two rows of training metrics.
    """

    def __init__(
        self, *, model: nn.Module, optimizer: Optimizer, scheduler: Scheduler | None, num_classes: int, log_every: int
    ) -> None:
        super().__init__()
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.num_classes, self.log_every = num_classes, log_every
        self.val_metric = ConfusionMatrix(num_classes=num_classes)
        self.test_metric = ConfusionMatrix(num_classes=num_classes)
        for metric in (self.val_metric, self.test_metric):
            metric.sync_on_compute = False  # `log_figures` adds up the processes
        self._trained_names: tuple[str, ...] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The data's, or those that a loaded checkpoint was trained with, or numbers."""
        data = self._data()
        if data is not None:
            return tuple(data.class_names)
        return self._trained_names or tuple(str(number) for number in range(self.num_classes))

    def _data(self) -> Any:
        return None if self._trainer is None else getattr(self.trainer, "datamodule", None)

    def check_classes(self) -> None:
        """Make sure that network, weights and data mean the same classes.

        Raises:
            ValueError: They do not.
        """
        names = self.class_names
        if len(names) != self.num_classes:
            raise ValueError(
                f"task.num_classes: the network has {self.num_classes} classes, the data {len(names)} "
                f"({', '.join(names)}); set model.num_classes to {len(names)}, or choose the data it was trained on"
            )
        if self._trained_names is not None and self._trained_names != names:
            raise ValueError(
                f"ckpt, weights: trained on the classes {', '.join(self._trained_names)}; "
                f"the data has {', '.join(names)}"
            )

    def on_fit_start(self) -> None:
        """Check the classes."""
        self.check_classes()

    def on_validation_start(self) -> None:
        """Check the classes, where validation is all that runs."""
        self.check_classes()

    def on_test_start(self) -> None:
        """Check the classes."""
        self.check_classes()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The names go along."""
        checkpoint[_CLASSES] = list(self.class_names)

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Remember the names; with data at hand they are checked before any weight is loaded."""
        names = checkpoint.get(_CLASSES)
        self._trained_names = None if names is None else tuple(names)
        if self._data() is not None:
            self.check_classes()

    def log_figures(self, stage: str, metric: ConfusionMatrix, names: Sequence[str]) -> None:
        """Add up the counts of all processes and log the named figures, if there is anything.

        `report_sections` still needs the metric afterwards.
        """
        metric.counts = sum_over_processes(metric.counts)
        if int(metric.counts.sum()) == 0:
            return
        values = metric.compute()
        self.log_dict({f"{stage}/{name}": values[name] for name in names}, batch_size=1, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """All parameters that need a gradient, in one group."""
        return self.with_schedule(self.optimizer([p for p in self.model.parameters() if p.requires_grad]))

    def with_schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        """The optimizer with the schedule, as Lightning wants them."""
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}
