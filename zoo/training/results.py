"""What a run leaves behind at its end: the final figures and the report."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from omegaconf import OmegaConf

from zoo.rendering.report import Chart, ReportSection, ReportsSections, Series, Table, write_report
from zoo.training.history import History
from zoo.training.run_folder import RunFolder, environment_text

__all__ = ["final_metrics", "peak_memory_mb", "write_run_report"]


def peak_memory_mb() -> float:
    """The most memory that this process ever held, in MB (resident memory; on a GPU what torch allocated there)."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def final_metrics(
    measured: Mapping[str, float], *, trainer: Trainer, fit_seconds: float, seconds: float
) -> dict[str, float]:
    """The content of ``metrics.json``: what the test measured, and what the run cost."""
    return {
        **measured,
        "steps": float(trainer.global_step),
        "train_seconds": round(fit_seconds, 3),
        "wall_seconds": round(seconds, 3),
        "peak_memory_mb": round(peak_memory_mb(), 1),
    }


def write_run_report(
    run: RunFolder,
    *,
    config: Mapping[str, Any],
    history: History,
    metrics: Mapping[str, float],
    task: LightningModule,
    callbacks: Sequence[object] = (),
) -> None:
    """Write ``report.html``: figures, curves, sections of the task and the callbacks, configuration, environment."""
    sections = [ReportSection("Result", tables=[Table(["metric", "value"], list(metrics.items()))])]
    curves = _curves(history)
    if curves:
        sections.append(ReportSection("Curves", charts=curves))
    for part in (task, *callbacks):
        if isinstance(part, ReportsSections):
            sections += part.report_sections()
    details = {"Configuration": OmegaConf.to_yaml(OmegaConf.create(dict(config))), "Environment": environment_text()}
    write_report(run.report, title=str(config.get("name", run.path.name)), sections=sections, details=details)


def _curves(history: History) -> list[Chart]:
    """Each logged metric over steps; validation metrics also over time, which is what a reader pays with."""
    charts = []
    for name in history.metric_names():
        if name.startswith("test/"):
            continue
        steps, seconds, values = history.series(name)
        charts.append(Chart(name, [Series(name, steps, values)], x_label="step", log_y="loss" in name))
        if name.startswith("val/"):
            minutes = [value / 60 for value in seconds]
            charts.append(
                Chart(f"{name} over time", [Series(name, minutes, values)], x_label="minutes", log_y="loss" in name)
            )
    return charts
