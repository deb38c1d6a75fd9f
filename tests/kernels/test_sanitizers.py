"""Kernels under AddressSanitizer and UndefinedBehaviorSanitizer: CUDA on the emulator in several orders, and CPU."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.kernels.emulation import compile_emulated
from tests.nested_pytest import run_pytest
from zoo.ops import build

pytestmark = pytest.mark.slow
SEEDS = (0, 1, 2)


def runtime(name: str) -> str:
    """The sanitizer's shared library, which must be loaded before Python."""
    done = subprocess.run(
        [build.find_compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def watched() -> dict[str, str]:
    """What the sanitizers need; Python and torch keep memory until the end, which is no leak of a kernel."""
    return {
        "LD_PRELOAD": f"{runtime('libasan.so')}:{runtime('libstdc++.so.6')}",
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }


def run_kernel_tests(seed: int) -> subprocess.CompletedProcess[str]:
    emulated = {"ZOO_EMULATOR_SANITIZE": "1", "ZOO_EMULATOR_SEED": str(seed), "ZOO_OPS": "reference"}
    return run_pytest("tests/kernels", "-k", "not compiles", **watched(), **emulated)


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[int, Future[subprocess.CompletedProcess[str]]]]:
    """The kernel tests for every seed, two at a time, on libraries that are compiled once, before."""
    compile_emulated(sanitize=True)
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield {seed: pool.submit(run_kernel_tests, seed) for seed in SEEDS}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_emulated_kernels_under_sanitizers(seed, runs):
    done = runs[seed].result()
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


CPU_TESTS = ("segment", "point_grid", "box_nms")  # what compiles quickly; CONTRIBUTING has the command for all


def test_native_cpu_kernels_under_sanitizers():
    files = [f"tests/unit/ops/test_{name}.py" for name in CPU_TESTS]
    done = run_pytest(*files, "-k", "not gradcheck and not opcheck", ZOO_SANITIZE="1", ZOO_OPS="native", **watched())
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert "passed" in done.stdout
