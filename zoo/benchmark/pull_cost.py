"""What GridPull costs for clouds of many sizes: the recipe by the command line for each, and the page of the table.

``tools/benchmark.py gridpull FILE`` samples the mesh FILE with 20,000 to 500,000 points, fits each cloud in its own
process, and writes docs/results/gridpull_cost/runs.json and docs/benchmarks/gridpull.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.benchmark.record import RESULTS, commit_of, processor_name
from zoo.files import write_json, write_text

__all__ = ["COUNTS", "cost_page", "main", "run_count"]

COUNTS = (20_000, 50_000, 100_000, 200_000, 500_000)
PAGE = Path("docs/benchmarks/gridpull.md")
TRAIN = Path(__file__).resolve().parents[2] / "tools" / "train.py"

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 1 if a run failed."""
    parser = argparse.ArgumentParser(prog="benchmark.py gridpull", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="a mesh")
    parser.add_argument("--counts", nargs="+", type=int, default=list(COUNTS), metavar="N", help="points sampled on it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--more", nargs="+", default=[], metavar="KEY=VALUE", help="further overrides of every run")
    parser.add_argument("--records", type=Path, default=RESULTS / "gridpull_cost")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not options.file.is_file():
        parser.error(f"FILE: no such file: {options.file}")
    overrides = [f"threads={options.threads}", *options.more]
    rows = []
    try:
        for count in sorted(options.counts):
            rows.append(run_count(options.file, count, overrides))
            log.info("%d points: %.1f s, %.0f MB", count, rows[-1]["wall_seconds"], rows[-1]["peak_memory_mb"])
    except ChildProcessError as error:
        log.error("%s", error)
        return 1
    found = {"file": options.file.name, "overrides": overrides, "machine": processor_name(), "runs": rows}
    write_json(options.records / "runs.json", found)
    write_text(options.page, cost_page(found))
    log.info("%s", options.page)
    return 0


def run_count(file: Path, count: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Fit so many points of a mesh in a process of its own: the metrics of the run, ``points`` and ``commit``.

    Raises:
        ChildProcessError: The run failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        recipe = ["experiment=gridpull", f"mesh_or_points='{file.resolve()}'", f"data.num_points={count}"]
        done = subprocess.run(
            [sys.executable, str(TRAIN), *recipe, *overrides, f"paths.run_dir='{folder}'"],
            capture_output=True,
            text=True,
            check=False,
        )
        metrics = folder / "metrics.json"
        if done.returncode != 0 or not metrics.is_file():
            raise ChildProcessError(f"{count} points: the run failed:\n{(done.stdout + done.stderr)[-2000:]}")
        commit = commit_of(folder / "environment.txt")
        return {"points": count, "commit": commit, **json.loads(metrics.read_text())}


def cost_page(found: dict[str, Any]) -> str:
    """The table in Markdown, of what ``runs.json`` holds."""
    rows = found["runs"]
    steps = sorted({int(row["steps"]) for row in rows})
    more = f" --more {' '.join(found['overrides'][1:])}" if found["overrides"][1:] else ""
    threads = found["overrides"][0].removeprefix("threads=")
    lines = [
        "# The cost of GridPull",
        "",
        f"Points sampled on `{found['file']}`, {' or '.join(map(str, steps))} steps each, {threads} threads on "
        f"{found['machine']}, commit {rows[0]['commit']}. Fitting",
        "includes the start, the band and the search tree; the whole run also the mesh, its figures and the report.",
        f"Made by `python tools/benchmark.py gridpull FILE{more}`.",
        "",
        "| points | fitting, s | whole run, s | peak memory, MB | mean distance to the true surface | F-score(0.005) |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['points']:,} | {row['train_seconds']:.1f} | {row['wall_seconds']:.1f} | {row['peak_memory_mb']:.0f} "
        f"| {row['test/mesh_distance']:.5f} | {row['test/f_score_0.005']:.4f} |"
        for row in rows
    ]
    first, last = rows[0], rows[-1]
    times, seconds, memory = (last[key] / first[key] for key in ("points", "wall_seconds", "peak_memory_mb"))
    lines += ["", f"{times:.0f} times the points take {seconds:.1f} times the time and {memory:.1f} times the memory."]
    return "\n".join(lines) + "\n"
