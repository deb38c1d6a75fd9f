"""Line coverage of ``zoo`` by group of files: ``python -m tests.coverage_table --out TABLE.md [--of COVERAGE.json]``.

Runs the default tests under coverage unless a report of ``pytest --cov=zoo --cov-report=json:FILE`` is given. Lines
that only processes of their own run (the command line in subprocesses) do not count as covered.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from zoo.files import write_text

AIM = 90.0  # percent
ENTRY = "entry functions"


def group_of(file: str) -> str:
    """The folder below ``zoo``, two levels deep for the ops' reference and back-ends; files of ``zoo`` itself."""
    parts = Path(file).parts[1:-1]
    if not parts:
        return ENTRY
    return "/".join(parts[: 2 if parts[0] == "ops" else 1])


def summarize(report: dict[str, Any]) -> list[tuple[str, int, int, int]]:
    """Group, number of files, statements and covered statements, the total last."""
    groups: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for file, content in report["files"].items():
        summary = content["summary"]
        for name in (group_of(file), "total"):
            groups[name][0] += 1
            groups[name][1] += summary["num_statements"]
            groups[name][2] += summary["covered_lines"]
    names = sorted(groups.keys() - {"total"})
    return [(name, *groups[name]) for name in (*names, "total")]  # type: ignore[misc]


def run_tests(report: Path) -> None:
    """The default tests under coverage."""
    command = [sys.executable, "-m", "pytest", "-q", "--cov=zoo", f"--cov-report=json:{report}"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1])
    if done.returncode or not report.is_file():
        raise RuntimeError(f"the tests end with {done.returncode}; a coverage of failing tests is none")


def table(report: dict[str, Any]) -> str:
    """The page for the documentation."""
    lines = [
        "# Line coverage",
        "",
        f"`python -m tests.coverage_table`: the default tests, torch {torch.__version__}, Python "
        f"{platform.python_version()}. Aim: {AIM:g} %. What only processes of their own run does not count.",
        "",
        "| Files | Number | Statements | Covered |",
        "|---|---|---|---|",
    ]
    for name, files, statements, covered in summarize(report):
        share = 100 * covered / max(statements, 1)
        label = name if name in (ENTRY, "total") else f"`zoo/{name}`"
        lines.append(f"| {label} | {files} | {statements:,} | {share:.1f} %{'' if share >= AIM else ' (below)'} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the tests if need be and write the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.coverage_table", description=__doc__)
    parser.add_argument("--of", type=Path, help="a JSON report that exists already")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.of or Path(folder) / "coverage.json"
        if arguments.of is None:
            run_tests(path)
        write_text(arguments.out, table(json.loads(path.read_text())))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
