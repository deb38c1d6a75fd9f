"""One run from configuration to report: find what to resume, seed, build, fit, test, write down."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from omegaconf import DictConfig, OmegaConf

from zoo.training.configuration import (
    RunParts,
    build_callbacks,
    build_loggers,
    build_parts,
    config_differences,
    plain,
    use_ops,
)
from zoo.training.expectations import expectation_for, pretrained_weights
from zoo.training.history import History
from zoo.training.results import final_metrics, write_run_report
from zoo.training.run_folder import RunFolder, find_checkpoint, is_secondary_process
from zoo.training.signals import Signals
from zoo.training.trainer import build_trainer

__all__ = ["run_session"]

log = logging.getLogger(__name__)


def run_session(cfg: DictConfig, *, overrides: Sequence[str] = ()) -> dict[str, float]:
    """Do what ``zoo.train.train`` promises."""
    start = time.perf_counter()
    _check(cfg)
    if cfg.ckpt == "pretrained":
        cfg.ckpt, cfg.weights = None, pretrained_weights(cfg.name)
    expectation = expectation_for(cfg)
    checkpoint = find_checkpoint(cfg.ckpt, output_dir=cfg.paths.output_dir, name=cfg.name) if cfg.ckpt else None
    content = plain(cfg)
    with Signals().installed() as signals:
        use_ops(cfg)
        if cfg.threads is not None:
            torch.set_num_threads(cfg.threads)
        seed_everything(cfg.seed, workers=True, verbose=False)
        parts, callbacks, loggers = build_parts(cfg), build_callbacks(cfg), build_loggers(cfg)
        run = _choose_folder(cfg, checkpoint, content)
        if not is_secondary_process():
            run.write_start(OmegaConf.to_yaml(OmegaConf.create(content)), overrides)
        log.info("run folder: %s", run.path)
        history = History(run.history)
        trainer = build_trainer(cfg, run=run, history=history, callbacks=callbacks, loggers=loggers, signals=signals)
        measured, fit_seconds = _fit_and_test(cfg, parts, trainer, history, checkpoint, signals)
        seconds = time.perf_counter() - start
        metrics = final_metrics(measured, trainer=trainer, fit_seconds=fit_seconds, seconds=seconds)
        if trainer.is_global_zero:
            run.write_metrics(metrics)
            write_run_report(
                run, config=content, history=history, metrics=metrics, task=parts.task, callbacks=callbacks
            )
            log.info("report: %s", run.report)
    if expectation is not None:
        expectation.check(metrics)
    return metrics


def _check(cfg: DictConfig) -> None:
    """Refuse what cannot work before anything is written."""
    if not cfg.train and not cfg.test:
        raise ValueError("train=false test=false: nothing is left to do")
    if not cfg.train and not cfg.ckpt and not cfg.weights:
        raise ValueError("train=false: expected ckpt=FILE, ckpt=last or weights=FILE to evaluate")
    if cfg.checkpoint_every < 1:
        raise ValueError(f"checkpoint_every: found {cfg.checkpoint_every}, expected at least 1 step")


def _fit_and_test(
    cfg: DictConfig,
    parts: RunParts,
    trainer: Trainer,
    history: History,
    checkpoint: Path | None,
    signals: Signals,
) -> tuple[dict[str, float], float]:
    """Test metrics, and the seconds that the fit took (with those before it was resumed)."""
    fit_seconds = 0.0
    if cfg.train:
        trainer.fit(parts.task, datamodule=parts.data, ckpt_path=checkpoint, weights_only=True)
        signals.raise_if_received()
        fit_seconds = history.seconds
    if not cfg.test:
        return {}, fit_seconds
    source = None if cfg.train else checkpoint
    trainer.test(parts.task, datamodule=parts.data, ckpt_path=source, weights_only=True, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}, fit_seconds


def _choose_folder(cfg: DictConfig, checkpoint: Path | None, content: dict[str, Any]) -> RunFolder:
    """A resumed run continues in its folder; a new one gets a folder of its own."""
    resumed = RunFolder.of_checkpoint(checkpoint) if checkpoint and cfg.train else None
    if resumed is None:
        return (
            RunFolder(Path(cfg.paths.run_dir))
            if cfg.paths.run_dir
            else RunFolder.create(cfg.paths.output_dir, cfg.name)
        )
    former = OmegaConf.to_container(OmegaConf.load(resumed.config))
    if isinstance(former, dict):
        for line in config_differences({str(key): value for key, value in former.items()}, content):
            if not line.startswith(("ckpt:", "paths.")):
                log.warning("resumed with another setting than before: %s", line)
    return resumed
