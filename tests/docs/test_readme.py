"""The README's two commands are there, in the form that a machine can run, and name things that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zoo.registry import list_experiments

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(heading: str) -> list[str]:
    section = re.search(rf"^{heading}$(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert section is not None, f"README.md has no {heading}"
    return re.findall(r"^```bash\n(.*?)^```", section.group(1), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("heading", ["## Quickstart", "## Tests"])
def test_one_command_line(heading: str) -> None:
    (block,) = blocks(heading)
    (line,) = block.strip().splitlines()
    assert line.startswith("python3 -m venv ")
    assert "pip install" in line
    for tool in re.findall(r"tools/\w+\.py", line):
        assert (ROOT / tool).is_file()
    for experiment in re.findall(r"experiment=(\w+)", line):
        assert experiment in list_experiments()


def test_files_it_speaks_of_exist() -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r"`(tools/\w+\.py|\.ci/run|zoo/\w+)`", README):
        assert (ROOT / path).exists(), path


def test_no_document_promises_a_speed_on_a_gpu() -> None:
    assert "not been\nbenchmarked on a GPU" in README or "not benchmarked on a GPU" in README.replace("\n", " ")
