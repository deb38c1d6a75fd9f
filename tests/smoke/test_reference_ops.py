"""Everything trains without a compiler, too: the smoke tests once more on plain torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_smoke_tests_pass_on_the_reference() -> None:
    run = [sys.executable, "-m", "pytest", "tests/smoke", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        run, cwd=ROOT, env=os.environ | {"ZOO_OPS": "reference"}, capture_output=True, text=True, timeout=2300
    )
    assert done.returncode == 0, done.stdout[-5000:]
