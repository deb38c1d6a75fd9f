"""Tables of recorded figures in pages: what stands between two comment lines is made from docs/results/*.json.

A page says which figures it wants::

    <!-- figures
    runs: {attention: gridformer_solids, mean of the cell: gridformer_solids_mean}
    figures: {test/iou: IoU, train_seconds: "training, s"}
    -->
    <!-- end of figures -->

A row for each entry of ``runs``, a column for each of ``figures``; a list of runs, of several seeds, gives mean and
standard deviation. With ``rows`` in place of both, every row names its own run and figure, for tables over systems::

    rows:
      - [DSVT, dsvt_street, test/kitti/Car_3d/moderate_R40, "car AP R40, moderate"]

``python tools/benchmark.py results`` fills all pages.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from zoo.benchmark.record import RESULTS

__all__ = ["fill_between", "fill_tables", "pages_with_tables"]

END = "<!-- end of figures -->"
_BLOCK = re.compile(rf"<!-- figures\n(?P<wanted>.*?)\n-->\n(?P<table>.*?){re.escape(END)}", re.DOTALL)
_PERCENT = {"accuracy", "knn_accuracy", "miou", "miou_present"}


def pages_with_tables(root: Path) -> Iterator[Path]:
    """README and the pages below docs that hold such a block."""
    for page in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        if "<!-- figures\n" in page.read_text():
            yield page


def fill_tables(page: str, results: Path = RESULTS) -> str:
    """The page with every table made anew.

    Raises:
        ValueError: A block is not closed, or does not say what it wants.
    """
    if page.count("<!-- figures\n") != len(_BLOCK.findall(page)):
        raise ValueError(f"found a block of figures without its end, expected {END!r} on a line of its own")

    def fill(block: re.Match[str]) -> str:
        wanted = yaml.safe_load(block["wanted"])
        return f"<!-- figures\n{block['wanted']}\n-->\n\n{_table(wanted, results)}\n{END}"

    return _BLOCK.sub(fill, page)


def fill_between(page: str, name: Path, begin: str, end: str, table: str) -> str:
    """The page of that name with a table between two comment lines that it holds.

    Raises:
        ValueError: It lacks one of them.
    """
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"{name}: expected the lines {begin!r} and {end!r}, between which the table goes")
    return f"{before}{begin}\n\n{table}\n{end}{after}"


def _table(wanted: Any, results: Path) -> str:
    if isinstance(wanted, dict) and set(wanted) == {"rows"}:
        return _overview(wanted["rows"], results)
    if not isinstance(wanted, dict) or set(wanted) != {"runs", "figures"}:
        raise ValueError(f"block of figures: found {wanted!r}, expected the entries 'runs' and 'figures', or 'rows'")
    lines = ["| | " + " | ".join(wanted["figures"].values()) + " |", "|---" * (1 + len(wanted["figures"])) + "|"]
    for label, names in wanted["runs"].items():
        runs = [_metrics(name, results) for name in ([names] if isinstance(names, str) else names)]
        cells = [_cell([run.get(figure) for run in runs], figure) for figure in wanted["figures"]]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _overview(rows: list[list[str]], results: Path) -> str:
    lines = ["| system | experiment | figure | measured | training, s |", "|---|---|---|---|---|"]
    for system, name, figure, label in rows:
        run = _metrics(name, results)
        seconds = _cell([run.get("train_seconds")], "train_seconds")
        lines.append(f"| {system} | `{name}` | {label} | {_cell([run.get(figure)], figure)} | {seconds} |")
    return "\n".join(lines) + "\n"


def _metrics(name: str, results: Path) -> dict[str, float]:
    """Figures of a recorded run; none where it is not recorded yet."""
    path = results / f"{name}.json"
    return json.loads(path.read_text())["metrics"] if path.is_file() else {}


def _cell(values: list[float | None], figure: str) -> str:
    found = [value for value in values if value is not None]
    if not found or len(found) < len(values):
        return "not recorded"
    percent = figure.rsplit("/", 1)[-1].removeprefix("baseline_") in _PERCENT
    scaled = [100 * value if percent else value for value in found]
    unit = " %" if percent else ""
    if len(scaled) == 1:
        return f"{_plain(scaled[0])}{unit}"
    return f"{_plain(statistics.mean(scaled))} ± {_plain(statistics.stdev(scaled))}{unit}"


def _plain(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}".removesuffix(".") if abs(value) >= 1e-4 else f"{value:.6f}"
