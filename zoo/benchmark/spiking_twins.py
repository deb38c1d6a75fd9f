"""Spiking networks beside their artificial twins: accuracy and energy of recorded runs as a table in a page.

A run ``NAME`` of spikes and a run ``NAME_ann`` of real values make a row. The page holds two comment lines, and what
stands between them is made from docs/results/*.json by ``python tools/benchmark.py results``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zoo.benchmark.filled_tables import fill_between
from zoo.benchmark.record import RESULTS

__all__ = ["PAGE", "fill_page", "twin_table"]

PAGE = Path("docs/systems/e3dsnn.md")
BEGIN, END = "<!-- spiking twins: made by tools/benchmark.py results -->", "<!-- end of the spiking twins -->"
TWIN = "_ann"
# by which a run is judged, the first that it has: segmentors have an accuracy of points, too
FIGURES = {"test/miou_present": "mIoU of the classes present", "test/accuracy": "accuracy"}
_ENERGY, _RATE = "test/energy/mj", "test/energy/firing_rate"


def fill_page(page: str, results: Path = RESULTS) -> str:
    """The page with the table between its two comment lines.

    Raises:
        ValueError: The page lacks one of them.
    """
    return fill_between(page, PAGE, BEGIN, END, twin_table(results))


def twin_table(results: Path = RESULTS) -> str:
    """Rows of all recorded pairs in Markdown; a run whose twin is not recorded has empty cells."""
    runs = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    names = [
        name
        for name in runs
        if not name.endswith(TWIN) and _figure(runs[name]) and _of(runs[name], _ENERGY) is not None
    ]
    if not names:
        return "No run is recorded yet.\n"
    lines = [
        "| experiment | figure, % | does not learn | spikes | ReLU | spikes, mJ a cloud | ReLU, mJ a cloud | ratio | "
        "firing rate |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_row(name, runs[name], runs.get(name + TWIN)) for name in names)]) + "\n"


def _row(name: str, spiking: dict[str, Any], twin: dict[str, Any] | None) -> str:
    metric = _figure(spiking)
    assert metric is not None
    baseline = _of(spiking, metric.replace("test/", "test/baseline_"))
    spikes, real = _of(spiking, _ENERGY), _of(twin, _ENERGY)
    cells = [
        f"`{name}`",
        FIGURES[metric],
        _percent(baseline),
        _percent(_of(spiking, metric)),
        _percent(_of(twin, metric)),
        _plain(spikes),
        _plain(real),
        "" if not spikes or real is None else f"{real / spikes:.1f}",
        _plain(_of(spiking, _RATE)),
    ]
    return f"| {' | '.join(cells)} |"


def _figure(run: dict[str, Any]) -> str | None:
    """The metric by which a run is judged; None where it is no network of this kind."""
    return next((metric for metric in FIGURES if metric in run["metrics"]), None)


def _of(run: dict[str, Any] | None, metric: str) -> float | None:
    return None if run is None else run["metrics"].get(metric)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
