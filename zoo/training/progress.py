"""Progress with rate and time left: a live bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar

__all__ = ["LineProgress", "choose_progress"]

log = logging.getLogger(__name__)


def choose_progress(*, seconds_between_lines: float = 10.0) -> ProgressBar:
    """A rich progress bar if someone watches, else ``LineProgress``."""
    if sys.stdout.isatty():
        return StepBar(leave=True)
    return LineProgress(seconds_between_lines=seconds_between_lines)


class StepBar(RichProgressBar):
    """Lightning's rich bar; a run that is counted in steps has no epochs to speak of."""

    def _get_train_description(self, current_epoch: int) -> str:
        counted_in_steps = self.trainer.max_epochs == -1
        return "training" if counted_in_steps else super()._get_train_description(current_epoch)


class LineProgress(ProgressBar):
    """Logs a line like ``step 1200/3000  41.2 it/s  0:44 left  loss 0.0031`` every few seconds.

    Args:
        seconds_between_lines: Least time between two lines.
    """

    def __init__(self, *, seconds_between_lines: float = 10.0) -> None:
        super().__init__()
        self.seconds_between_lines = seconds_between_lines
        self._enabled = True
        self._mark = (0.0, 0)

    def disable(self) -> None:
        """Lightning silences all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Speak again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rates are counted from here."""
        self._mark = (time.perf_counter(), trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A line if the last one is old enough, and at the end."""
        now, step, total = time.perf_counter(), trainer.global_step, _total_steps(trainer)
        then, before = self._mark
        if self._enabled and (now - then >= self.seconds_between_lines or step == total):
            self._mark = (now, step)
            rate = (step - before) / max(now - then, 1e-9)
            self._line(trainer, pl_module, step, total, rate)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """The same for the test."""
        done, total = batch_idx + 1, trainer.num_test_batches[dataloader_idx]
        if batch_idx == 0:
            self._mark = (time.perf_counter(), 0)
        now = time.perf_counter()
        if self._enabled and (now - self._mark[0] >= self.seconds_between_lines or done == total):
            rate = (done - self._mark[1]) / max(now - self._mark[0], 1e-9)
            self._mark = (now, done)
            log.info("test %s/%s  %.2f it/s  %s left", done, total, rate, _left(total - done, rate))

    def _line(self, trainer: Trainer, module: LightningModule, step: int, total: float, rate: float) -> None:
        metrics = {name: value for name, value in self.get_metrics(trainer, module).items() if name != "v_num"}
        values = "  ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in metrics.items()
        )
        log.info("step %d/%s  %.2f it/s  %s left  %s", step, total, rate, _left(total - step, rate), values)


def _total_steps(trainer: Trainer) -> float:
    if trainer.max_steps > 0:
        return trainer.max_steps
    if trainer.max_epochs and trainer.max_epochs > 0:
        return trainer.max_epochs * trainer.num_training_batches // trainer.accumulate_grad_batches
    return float("inf")


def _left(count: float, rate: float) -> str:
    seconds = count / rate if rate > 0 else float("inf")
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
