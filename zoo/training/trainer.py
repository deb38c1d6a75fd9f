"""The trainer of a run: what the configuration asks for, with the parts that every run has."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from zoo.training.checkpoints import AtomicCheckpointIO, StepCheckpoint
from zoo.training.configuration import build, plain
from zoo.training.history import History
from zoo.training.processes import SynchronizedNorms, UnusedParameters
from zoo.training.random_states import RandomStates
from zoo.training.run_folder import RunFolder
from zoo.training.signals import Signals

__all__ = ["build_trainer"]


def build_trainer(
    cfg: DictConfig,
    *,
    run: RunFolder,
    history: History,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    signals: Signals | None = None,
) -> Trainer:
    """A trainer that writes into ``run``, checkpoints atomically and resumes exactly."""
    keep = StepCheckpoint(run.checkpoints, every=cfg.checkpoint_every, config=plain(cfg), signals=signals)
    _silence()
    return build(cfg.trainer, partial=True)(
        callbacks=[RandomStates(), UnusedParameters(), *callbacks, keep],
        logger=[history, *loggers],
        plugins=[AtomicCheckpointIO(), *([SynchronizedNorms()] if cfg.trainer.sync_batchnorm else [])],
        sync_batchnorm=False,  # torch's form, which counts masked cells and needs a GPU
        default_root_dir=str(run.path),
        enable_progress_bar=True,
        enable_model_summary=False,
    )


def _silence() -> None:
    """Leave out what Lightning says of itself and what does not hold here."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*dataloader is not resumable.*",  # batches are functions of the step, so a loader has no state to restore
        ".*does not have many workers.*",  # a choice, not an oversight
        ".*LeafSpec.*is deprecated.*",  # between Lightning and torch
        ".*in your `val_dataloader`, so.*",
    ):
        warnings.filterwarnings("ignore", message=message)
