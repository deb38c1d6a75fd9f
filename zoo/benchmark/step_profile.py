"""The share of a training step inside torch's and zoo's operators: ``python -m zoo.benchmark.step_profile OVERRIDES``.

The overrides are those of ``tools/train.py``, for example ``experiment=hollownerf_fox data.root=FOLDER``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch.profiler import ProfilerActivity, profile

OPERATORS = ("aten::", "zoo::")


@dataclass(frozen=True)
class StepProfile:
    """Means over the profiled steps."""

    step_ms: float
    inside_ms: float  # union of the intervals in which an operator ran, on any thread

    @property
    def outside(self) -> float:
        """Share of the step outside of operators."""
        return 1.0 - self.inside_ms / self.step_ms


class ProfileSteps(Callback):
    """Profiles the batches ``[first, first + count)``."""

    def __init__(self, first: int, count: int) -> None:
        self.first, self.last = first, first + count - 1
        self.profiler = profile(activities=[ProfilerActivity.CPU])
        self.seconds = 0.0
        self._started = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start at the first batch."""
        if batch_idx == self.first:
            self.profiler.__enter__()
            self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop behind the last."""
        if batch_idx == self.last:
            self.seconds = time.perf_counter() - self._started
            self.profiler.__exit__(None, None, None)


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def profile_steps(overrides: Sequence[str], *, first: int = 300, count: int = 32) -> StepProfile:
    """Train as the overrides say up to step ``first``, then profile ``count`` steps."""
    from zoo.training.configuration import build_parts, compose

    parts = build_parts(compose(list(overrides)))
    watch = ProfileSteps(first, count)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=first + count,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[watch],
    )
    trainer.fit(parts.task, datamodule=parts.data)
    events = [event for event in watch.profiler.events() or [] if event.name.startswith(OPERATORS)]
    inside = covered((event.time_range.start, event.time_range.end) for event in events)  # microseconds
    return StepProfile(1e3 * watch.seconds / count, inside / 1e3 / count)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m zoo.benchmark.step_profile", description=__doc__)
    parser.add_argument("overrides", nargs="+", metavar="OVERRIDE")
    parser.add_argument("--first", type=int, default=300, help="steps before the profiled ones")
    parser.add_argument("--count", type=int, default=32, help="profiled steps")
    options = parser.parse_args(arguments)
    found = profile_steps(options.overrides, first=options.first, count=options.count)
    sys.stdout.write(
        f"{torch.get_num_threads()} threads: {found.step_ms:.1f} ms a step, {found.inside_ms:.1f} ms inside operators, "
        f"{100 * found.outside:.1f} % outside\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
