"""Evidence of finished runs: docs/results/NAME.json and small pictures, the only source of the figures in the docs."""

from __future__ import annotations

import base64
import csv
import io
import json
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.files import write_bytes, write_json

RESULTS = Path("docs/results")
RESULTS_PAGE = Path("docs/benchmarks/results.md")
MAX_THUMBNAIL_BYTES = 150_000
MAX_PICTURES = 4
MAX_CURVE_COLUMNS = 12
_EMBEDDED = re.compile(r"data:image/(?:png|jpeg);base64,([A-Za-z0-9+/=]+)")


def record(
    run: Path,
    *,
    name: str | None = None,
    results: Path = RESULTS,
    with_pictures: bool = True,
    overrides: Sequence[str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Path:
    """Write the result of one run folder: command, commit, machine, seed, metrics, wall time, and its pictures.

    Args:
        run: A folder that training wrote; needs metrics.json; pictures come from report.html.
        name: Name of the result; the experiment's by default.
        results: Where results are kept.
        with_pictures: Whether the report's pictures are kept too; not where photographs may not be passed on.
        overrides: Of the command; None: those of the run folder, which name a checkpoint where a run was resumed.
        more: Further entries of the record.

    Returns:
        The path of the JSON file.

    Raises:
        FileNotFoundError: The folder holds no finished run.
    """
    metrics_file = run / "metrics.json"
    if not metrics_file.is_file():
        raise FileNotFoundError(f"{metrics_file} is missing: {run} is not the folder of a finished run")
    name = name or run.resolve().parent.name
    report = run / "report.html"
    pictures = _thumbnails(report.read_text() if with_pictures and report.is_file() else "", results, name)
    content = {
        "name": name,
        "command": _command(_lines(run / "overrides.txt") if overrides is None else overrides),
        "commit": commit_of(run / "environment.txt"),
        "machine": {"processor": processor_name(), "system": platform.platform()},
        "environment": [line for line in _lines(run / "environment.txt") if _means_something_elsewhere(line)],
        "metrics": json.loads(metrics_file.read_text()),
        "validation": _validation_curve(run / "metrics.csv"),
        "pictures": [picture.name for picture in pictures],
        **(more or {}),
    }
    target = results / f"{name}.json"
    write_json(target, content)
    return target


def processor_name() -> str:
    """The processor as the system names it, with its number of cores."""
    import os

    cores = os.cpu_count()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {cores} cores"
    return f"{platform.processor() or platform.machine()}, {cores} cores"


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def _means_something_elsewhere(line: str) -> bool:
    """Whether a line of environment.txt is more than a folder of the machine that ran it."""
    return not line.startswith("command") and "=/" not in line


def _command(overrides: Sequence[str]) -> str:
    """The command without the folders of the machine that ran it."""
    kept = [_shortened(line) for line in overrides if not line.startswith("paths.")]
    return " ".join(["python tools/train.py", *kept])


def _shortened(override: str) -> str:
    """``key=/some/where/folder/file`` as ``key=folder/file``."""
    key, _, value = override.partition("=")
    return f"{key}={'/'.join(Path(value).parts[-2:])}" if value.startswith("/") else override


def _validation_curve(path: Path) -> list[dict[str, float]]:
    """Step, seconds and every validation metric, where there is one."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    curve = []
    for row in rows:
        values = {name: float(value) for name, value in row.items() if name.startswith("val/") and value}
        if values:
            curve.append({"step": float(row["step"]), "seconds": float(row["seconds"]), **values})
    return curve


def commit_of(environment: Path) -> str:
    """The commit that an environment.txt names, else the present one."""
    for line in _lines(environment):
        if line.lower().startswith("commit"):
            return line.split(":", 1)[-1].strip()
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _thumbnails(report: str, results: Path, name: str) -> list[Path]:
    """The report's pictures, shrunk until each fits into the limit."""
    written = []
    for number, encoded in enumerate(_EMBEDDED.findall(report)[:MAX_PICTURES]):
        target = results / f"{name}-{number}.jpg"
        write_bytes(target, shrink(base64.b64decode(encoded)))
        written.append(target)
    return written


def shrink(encoded: bytes, limit: int = MAX_THUMBNAIL_BYTES) -> bytes:
    """A picture file as JPEG of at most ``limit`` bytes, halved in size as often as that takes."""
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as opened:
        picture: Any = opened.convert("RGB")
    while True:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=88)
        if buffer.tell() <= limit or min(picture.size) < 16:
            return buffer.getvalue()
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)


def results_page(results: Path = RESULTS) -> str:
    """The page of all recorded runs, in Markdown: what was run, by which command, and what came out."""
    lines = [
        "# Recorded runs",
        "",
        "Made from `docs/results/*.json` by `python tools/benchmark.py results`; nothing here is typed by hand.",
    ]
    for path in sorted(results.glob("*.json")):
        content = json.loads(path.read_text())
        lines += ["", f"## {content['name']}", "", f"`{content['command']}`", ""]
        lines += [
            f"Commit {content['commit']}, {content['machine']['processor']}.",
            "",
            "| metric | value |",
            "|---|---|",
        ]
        lines += [f"| {name} | {_plain(value)} |" for name, value in content["metrics"].items()]
        lines += _curve_lines(content.get("validation", []))
        lines += [
            line for picture in content.get("pictures", []) for line in ("", f"![{picture}](../results/{picture})")
        ]
    return "\n".join(lines) + "\n"


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:.5g}"


def _curve_lines(curve: list[dict[str, float]]) -> list[str]:
    if not curve:
        return []
    names = [name for name in curve[0] if name not in ("step", "seconds")]
    if len(names) > MAX_CURVE_COLUMNS:  # benchmarks with dozens of figures: the record has them, a page has no room
        return []
    lines = ["", "| step | seconds | " + " | ".join(names) + " |", "|---" * (2 + len(names)) + "|"]
    for row in curve:
        values = " | ".join(f"{row[name]:.4g}" if name in row else "" for name in names)
        lines.append(f"| {row['step'] + 1:.0f} | {row['seconds']:.0f} | {values} |")
    return lines
