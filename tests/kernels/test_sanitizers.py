"""The CUDA sources on the emulator under AddressSanitizer and UndefinedBehaviorSanitizer, in several fibre orders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.ops import build

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def runtime(name: str) -> str:
    """The sanitizer's shared library, which must be loaded before Python."""
    done = subprocess.run(
        [build.find_compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_emulated_kernels_under_sanitizers(seed):
    environment = os.environ | {
        "LD_PRELOAD": f"{runtime('libasan.so')}:{runtime('libstdc++.so.6')}",
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "ZOO_EMULATOR_SANITIZE": "1",
        "ZOO_EMULATOR_SEED": str(seed),
        "ZOO_OPS": "reference",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "tests/kernels",
        "-k",
        "not compiles",
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
