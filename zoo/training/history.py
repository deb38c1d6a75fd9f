"""``metrics.csv``: one row for each logged step, kept in memory for the report and written as a whole, atomically."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from zoo.files import write_text

__all__ = ["History"]

_FIXED = ("step", "epoch", "seconds")


class History(Logger):
    """Lightning logger of a run's folder.

    Columns: ``step``, ``epoch``, ``seconds`` (wall time of the run, carried on when it resumes), then the metrics in
    order of appearance; an empty cell is a metric that was not logged at that step. A resumed run drops the rows of
    the steps that it repeats.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self.rows: list[dict[str, float]] = read_history(self.path) if self.path.is_file() else []
        self._repeats = bool(self.rows)
        self._before = self.rows[-1]["seconds"] if self.rows else 0.0
        self._start = time.perf_counter()
        self._next_write = 0.0

    @property
    def name(self) -> str:
        """Lightning's name for the logger."""
        return "history"

    @property
    def version(self) -> str:
        """None: the folder is the run."""
        return ""

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, with the time before it was resumed."""
        return self._before + time.perf_counter() - self._start

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the configuration stands in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add the metrics of one step; several calls for the same step fill one row."""
        step = step or 0
        if self._repeats:
            self._drop_from(step)
        if not self.rows or self.rows[-1]["step"] != step:
            self.rows.append({"step": step})
        self.rows[-1] |= {name: float(value) for name, value in metrics.items()} | {"seconds": round(self.seconds, 3)}
        self._write_now_and_then()

    def _drop_from(self, step: int) -> None:
        self.rows = [row for row in self.rows if row["step"] < step]
        if self.rows:
            self._before = self.rows[-1]["seconds"]
        self._repeats = False

    def _write_now_and_then(self) -> None:
        """At most 2 % of the time goes into writing, however long the history is."""
        now = time.perf_counter()
        if now >= self._next_write:
            self.save()
            self._next_write = time.perf_counter() + max(5.0, 50 * (time.perf_counter() - now))

    @rank_zero_only
    def save(self) -> None:
        """Write all rows."""
        names = list(_FIXED)
        for row in self.rows:
            names += [name for name in row if name not in names]
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left, also when the run failed."""
        if self.rows:
            self.save()

    def series(self, name: str) -> tuple[list[float], list[float], list[float]]:
        """Steps, seconds and values of one metric."""
        rows = [row for row in self.rows if name in row]
        return [row["step"] for row in rows], [row["seconds"] for row in rows], [row[name] for row in rows]

    def metric_names(self) -> list[str]:
        """All metrics that were logged, in order of appearance."""
        names: dict[str, None] = {}
        for row in self.rows:
            names |= dict.fromkeys(name for name in row if name not in _FIXED)
        return list(names)


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a ``metrics.csv``; numbers that are not there are left out.

    Raises:
        ValueError: A cell is not a number; the message names file and line.
    """
    rows = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            try:
                values = {name: float(cell) for name, cell in row.items() if cell}
            except ValueError as error:
                raise ValueError(f"{path}, row {len(rows) + 2}: {error}; expected numbers only") from error
            rows.append(values | {"step": int(values.get("step", 0))})
    return rows
