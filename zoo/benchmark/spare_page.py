"""The page of the comparison from few views, made from its records."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.benchmark.spare_cases import CHANGES, DEFAULT, METHODS, TABLES

__all__ = ["PAGE", "read_records", "spare_page"]

PAGE = Path("docs/benchmarks/spare.md")
HEADINGS = {
    "track1": "3 views (Track 1)",
    "track2": "9 views (Track 2)",
    "ablation": "Terms, one changed at a time",
    "fox": "The fox",
}
NOTES = {
    "track1": "Generated scenes of 400 x 300 pixels; means over scenes of the means over 10 test views.",
    "track2": "The same scenes, recipes and time with 9 input views.",
    "ablation": "3 views, generated scenes at half of the resolution. A positive difference says that the recipe is "
    "better as it is.",
    "fox": "Real photographs, undistorted, half of the sample's resolution: 9 training views along the path; test "
    "views: those whose direction from the scene lies between theirs. There are no silhouettes, so no hull.",
}
Record = dict[str, Any]


def read_records(folder: Path) -> list[Record]:
    """All records of a folder, by name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def spare_page(records: Sequence[Record]) -> str:
    """The page in Markdown; tables without a run are left out."""
    lines = [
        "# Quality from few views",
        "",
        "Made by `python tools/benchmark.py spare --fox FOLDER` from `docs/results/spare/*.json`, which hold the "
        "command of each run.",
    ]
    if not records:
        return "\n".join([*lines, "", "No run is recorded yet."]) + "\n"
    machines = sorted({record["machine"]["processor"] for record in records})
    lines += [f"{'; '.join(machines)}; one thread a run. SSIM: Gaussian window, valid pixels."]
    for table in TABLES:
        rows = [record for record in records if record["table"] == table]
        if rows:
            make = _ablation if table == "ablation" else _comparison
            lines += ["", f"## {HEADINGS[table]}", "", f"{NOTES[table]} {_effort(rows)}", "", *make(rows)]
    return "\n".join(lines) + "\n"


def _effort(rows: Sequence[Record]) -> str:
    longest = max(row["metrics"]["train_seconds"] for row in rows)
    return f"The longest training took {longest:.0f} s."


def _comparison(rows: Sequence[Record]) -> list[str]:
    """A row for each recipe, with its difference to the default on the scenes that both have."""
    scenes = sorted({row["scene"] for row in rows})
    figures = [name for name in ("psnr_m", "ssim_m", "psnr", "ssim") if _has(rows, name)]
    main = figures[0]
    by_scene = scenes if len(scenes) > 1 else []
    head = ["recipe", "", *map(_title, figures), f"{_title(main)} of `{DEFAULT}` over it", *by_scene, "steps", "s"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    default = _of(rows, DEFAULT, "")
    for method, title in METHODS.items():
        found = _of(rows, method, "")
        if not found:
            continue
        cells = [f"`{method}`", title, *(_mean(found.values(), name) for name in figures)]
        cells.append("" if method == DEFAULT else _difference(default, found, main))
        cells += [f"{found[scene]['metrics'][f'test/{main}']:.2f}" if scene in found else "" for scene in by_scene]
        steps = [row["metrics"]["steps"] for row in found.values()]
        seconds = [row["metrics"]["train_seconds"] for row in found.values()]
        cells += [f"{statistics.mean(steps):.0f}", f"{statistics.mean(seconds):.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _ablation(rows: Sequence[Record]) -> list[str]:
    """A row for each change, with what the recipe gains by not having it, on the scenes that both have."""
    lines = ["| recipe | change | PSNR-M | SSIM-M | PSNR-M of the recipe over it | SSIM-M | scenes |", "|---" * 7 + "|"]
    for method, changes in CHANGES.items():
        whole = _of(rows, method, "")
        for change in ("", *changes):
            found = _of(rows, method, change)
            if not found:
                continue
            cells = [f"`{method}`", change or "none", _mean(found.values(), "psnr_m"), _mean(found.values(), "ssim_m")]
            cells += [_difference(whole, found, name) if change else "" for name in ("psnr_m", "ssim_m")]
            lines.append(f"| {' | '.join([*cells, ', '.join(found)])} |")
    return lines


def _of(rows: Sequence[Record], method: str, change: str) -> dict[str, Record]:
    return {row["scene"]: row for row in rows if (row["method"], row["change"]) == (method, change)}


def _has(rows: Sequence[Record], name: str) -> bool:
    return all(f"test/{name}" in row["metrics"] for row in rows)


def _title(name: str) -> str:
    return name.upper().replace("_", "-")


def _shown(value: float, name: str, sign: str = "") -> str:
    return f"{value:{sign}.{2 if name.startswith('psnr') else 4}f}"


def _mean(rows: Any, name: str) -> str:
    values = [row["metrics"][f"test/{name}"] for row in rows]
    return _shown(statistics.mean(values), name)


def _difference(better: dict[str, Record], other: dict[str, Record], name: str) -> str:
    """Mean difference over common scenes; empty where there is none."""
    gains = [
        better[scene]["metrics"][f"test/{name}"] - row["metrics"][f"test/{name}"]
        for scene, row in other.items()
        if scene in better
    ]
    return _shown(statistics.mean(gains), name, "+") if gains else ""
