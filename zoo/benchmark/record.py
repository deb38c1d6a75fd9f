"""Evidence of finished runs: docs/results/NAME.json and small pictures, the only source of the figures in the docs."""

from __future__ import annotations

import io
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

from zoo.files import write_bytes, write_json

RESULTS = Path("docs/results")
MAX_THUMBNAIL_BYTES = 150_000


def record(run: Path, *, name: str | None = None, results: Path = RESULTS) -> Path:
    """Write the result of one run folder: command, commit, machine, seed, metrics, wall time, and its pictures.

    Args:
        run: A folder that training wrote; needs metrics.json.
        name: Name of the result; the experiment's by default.
        results: Where results are kept.

    Returns:
        The path of the JSON file.

    Raises:
        FileNotFoundError: The folder holds no finished run.
    """
    metrics_file = run / "metrics.json"
    if not metrics_file.is_file():
        raise FileNotFoundError(f"{metrics_file} is missing: {run} is not the folder of a finished run")
    name = name or run.resolve().parent.name
    pictures = _thumbnails(run, results, name)
    content = {
        "name": name,
        "command": _command(run),
        "commit": _commit(run),
        "machine": {"processor": processor_name(), "system": platform.platform()},
        "environment": _lines(run / "environment.txt"),
        "overrides": _lines(run / "overrides.txt"),
        "metrics": json.loads(metrics_file.read_text()),
        "pictures": [picture.name for picture in pictures],
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


def _command(run: Path) -> str:
    return " ".join(["python tools/train.py", *_lines(run / "overrides.txt")])


def _commit(run: Path) -> str:
    for line in _lines(run / "environment.txt"):
        if line.lower().startswith("commit"):
            return line.split(":", 1)[-1].strip()
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _thumbnails(run: Path, results: Path, name: str) -> list[Path]:
    """The run's pictures (pictures/*.png), shrunk until each fits into the limit."""
    written = []
    for source in sorted((run / "pictures").glob("*.png")):
        target = results / f"{name}-{source.stem}.jpg"
        write_bytes(target, shrink(source))
        written.append(target)
    return written


def shrink(source: Path, limit: int = MAX_THUMBNAIL_BYTES) -> bytes:
    """A picture as JPEG of at most ``limit`` bytes, halved in size as often as that takes."""
    from PIL import Image

    with Image.open(source) as opened:
        picture: Any = opened.convert("RGB")
    while True:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=88)
        if buffer.tell() <= limit or min(picture.size) < 16:
            return buffer.getvalue()
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)
