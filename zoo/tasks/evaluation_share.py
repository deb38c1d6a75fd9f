"""Which samples of an evaluation batch count, where several processes share the set."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule

from zoo.data.step_loader import EvenShare

__all__ = ["num_measured"]


def num_measured(task: LightningModule, batch_idx: int, size: int) -> int:
    """Of the samples of a val or test batch the first so many count; those behind them fill up a process's share.

    Args:
        task: With its trainer; without one, and with a single process, all count.
        batch_idx: Number of the batch in this process.
        size: Samples of the batch.
    """
    trainer: Any = task._trainer
    if trainer is None or trainer.world_size == 1:
        return size
    loader = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    sampler = getattr(loader, "sampler", None)
    return sampler.num_measured(batch_idx * (loader.batch_size or 1), size) if isinstance(sampler, EvenShare) else size
