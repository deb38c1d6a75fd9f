"""Every model has a page, an experiment and a golden-tensor test; the documentation builds without a warning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from zoo.registry import describe_models

ROOT = Path(__file__).resolve().parents[2]
SYSTEMS = sorted({info.target.split(".")[2] for info in describe_models()})


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_system_is_complete(system: str) -> None:
    infos = [info for info in describe_models() if info.target.split(".")[2] == system]
    assert any(info.experiments for info in infos), "no experiment trains it"
    pages = (ROOT / "docs" / "systems").glob("*.md")
    assert any(page.stem == system or f"`zoo/models/{system}/`" in page.read_text() for page in pages), "no page has it"
    tests = [path.read_text() for path in (ROOT / "tests" / "parity").glob("test_*.py")]
    assert any(f"zoo.models.{system}" in text for text in tests), "no golden-tensor test imports it"


@pytest.mark.slow
def test_documentation_builds(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
