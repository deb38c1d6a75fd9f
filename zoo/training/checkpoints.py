"""Checkpoints that are either complete or not there: every so many steps, at the last step, and when a signal asks."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from zoo.files import write_bytes
from zoo.training.run_folder import LAST
from zoo.training.signals import Signals

__all__ = ["AtomicCheckpointIO", "BestCheckpoint", "StepCheckpoint"]

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the final name, then renames: a crash or a full disk leaves the former checkpoint as it was."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write all of it, or raise and change nothing."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_bytes(path, buffer.getbuffer())


class StepCheckpoint(Checkpoint):
    """Keeps ``last.ckpt`` of a run up to date and stops the run when a signal was received.

    Args:
        folder: Where ``last.ckpt`` goes.
        every: Steps of the optimizer between two checkpoints.
        config: The run's configuration as plain containers; it travels in the checkpoint under ``config``.
        signals: Asked after each step. None leaves signals alone.
    """

    def __init__(
        self, folder: str | Path, *, every: int, config: Mapping[str, Any] | None = None, signals: Signals | None = None
    ) -> None:
        self.folder = Path(folder)
        self.every = every
        self.config = dict(config or {})
        self.signals = signals
        self._seen_step = -1
        self._saved_step = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """All processes of a distributed run save into the folder of the first."""
        self.folder = trainer.strategy.broadcast(self.folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a signal waits for the end of its step."""
        self._seen_step = self._saved_step = trainer.global_step
        if self.signals is not None:
            self.signals.reinstall()
            self.signals.deferring = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is due; after a signal save and end the run."""
        step = trainer.global_step
        if step == self._seen_step:  # gradients are still being accumulated
            return
        self._seen_step = step
        stop = self._stop_requested(trainer)
        if stop or step % self.every == 0 or step == trainer.max_steps:
            self._save(trainer)
        if stop and self.signals is not None:
            log.info("saved %s at step %d; continue with ckpt=last", self.folder / LAST, step)
            self.signals.raise_if_received()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The end of a run counted in epochs is saved as well."""
        if self.signals is not None:
            self.signals.deferring = False
        if self._saved_step != trainer.global_step:
            self._save(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """With its configuration inside, a checkpoint can be rebuilt wherever it lies."""
        checkpoint["config"] = self.config

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.folder / LAST)
        self._saved_step = trainer.global_step

    def _stop_requested(self, trainer: Trainer) -> bool:
        received = self.signals is not None and self.signals.received is not None
        if trainer.world_size > 1:
            received = trainer.strategy.reduce_boolean_decision(received, all=False)
            if received and self.signals is not None and self.signals.received is None:
                self.signals.received = 2  # another process was asked first
        return received


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt`` beside ``last.ckpt``: the weights with the best value of a logged validation metric.

    Args:
        monitor: Name of the metric.
        mode: ``min`` or ``max``, what counts as better.
    """

    def __init__(self, *, monitor: str, mode: str) -> None:
        super().__init__(filename="best", monitor=monitor, mode=mode, save_top_k=1, enable_version_counter=False)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stand where ``last.ckpt`` stands."""
        beside = next(callback for callback in trainer.checkpoint_callbacks if isinstance(callback, StepCheckpoint))
        self.dirpath = str(beside.folder)
        super().setup(trainer, pl_module, stage)
