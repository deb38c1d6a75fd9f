"""PSNR over training time, for the report."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from zoo.rendering.report import Chart, ReportSection, Series, Table
from zoo.tasks.radiance_field import RadianceFieldTask

__all__ = ["QualityCurve"]


class QualityCurve(Callback):
    """Notes a validation metric against the seconds spent in training steps alone, and shows the curve in the report.

    Validation, checkpoints and the report itself do not count. A resumed run carries the curve on.

    Args:
        metric: Name of the logged metric.
    """

    def __init__(self, *, metric: str = "val/psnr") -> None:
        self.metric = metric
        self.seconds = 0.0
        self.points: list[tuple[int, float, float]] = []  # step, training seconds, value
        self._begun: float | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock."""
        self._begun = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the clock."""
        if self._begun is not None:
            self.seconds += time.perf_counter() - self._begun
        self._begun = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a point."""
        value = trainer.callback_metrics.get(self.metric)
        if trainer.sanity_checking or value is None:
            return
        self.points.append((trainer.global_step, self.seconds, float(value)))
        if isinstance(pl_module, RadianceFieldTask):
            pl_module.gallery.add_section(self._section())

    def state_dict(self) -> dict[str, Any]:
        """The curve so far."""
        return {"seconds": self.seconds, "points": [list(point) for point in self.points]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Carry a curve on."""
        self.seconds = float(state_dict["seconds"])
        self.points = [(int(step), float(seconds), float(value)) for step, seconds, value in state_dict["points"]]

    def _section(self) -> ReportSection:
        seconds, values = [point[1] for point in self.points], [point[2] for point in self.points]
        return ReportSection(
            "Quality over time",
            text="Seconds count training steps only.",
            charts=[Chart(f"{self.metric} over training seconds", [Series(self.metric, seconds, values)])],
            tables=[Table(("step", "training seconds", self.metric), self.points)],
        )
