"""The Dockerfiles as far as they can be looked at without building them: a linter, and what it cannot know."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from zoo.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile*"))


def instructions(path: Path) -> list[tuple[str, str]]:
    """Keyword and rest of each instruction, lines that go on joined."""
    text = re.sub(r"\\\n", " ", "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#")))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in text.splitlines() if line.strip()]


def test_there_is_one_for_each_device() -> None:
    assert [path.name for path in DOCKERFILES] == ["Dockerfile", "Dockerfile.cuda"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_the_linter_finds_nothing(path: Path) -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if linter is None:
        pytest.skip("hadolint is not installed; pip install 'voxelzoo[dev]' brings it on x86-64 Linux")
    done = subprocess.run([linter, "--no-color", str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_it_names_exists(path: Path) -> None:
    stages: list[str] = []
    for keyword, rest in instructions(path):
        if keyword == "FROM":
            image, _, stage = rest.partition(" AS ")
            assert re.fullmatch(r"[\w./-]+:\d[\w.-]*", image), f"{image}: expected a tag with a version"
            stages.append(stage)
        if keyword == "COPY":
            *sources, _ = [word for word in rest.split() if not word.startswith("--")]
            source = re.search(r"--from=(\S+)", rest)
            if source is not None:
                assert source.group(1) in stages[:-1], f"no stage {source.group(1)}"
            else:
                assert all((ROOT / name).exists() for name in sources), sources
    modules = re.findall(r"python -m (zoo[\w.]+)", path.read_text())
    assert modules == ["zoo.ops.build"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_it_runs_the_wheel_as_a_plain_user(path: Path) -> None:
    found = instructions(path)
    last = found[max(index for index, (keyword, _) in enumerate(found) if keyword == "FROM") :]
    options = dict(last)
    assert options["USER"] not in ("root", "0")
    assert json.loads(options["ENTRYPOINT"]) == ["zoo"]
    assert json.loads(options["CMD"]) == ["--help"]
    assert [rest for keyword, rest in last if keyword == "COPY"] == ["--from=build /wheels /wheels"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    least = tuple(int(part) for part in project["requires-python"].removeprefix(">=").split("."))
    version = re.match(r"python:(\d+)\.(\d+)-", options["FROM"])
    assert version is not None
    assert (int(version.group(1)), int(version.group(2))) >= least
    used = re.findall(r"docker run .* voxelzoo\S* (\w[\w-]*)", path.read_text())
    assert used
    assert set(used) <= set(COMMANDS)


def test_the_context_holds_what_is_copied() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {
        name
        for path in DOCKERFILES
        for keyword, rest in instructions(path)
        if keyword == "COPY" and "--from" not in rest
        for name in rest.split()[:-1]
    }
    assert kept == copied
