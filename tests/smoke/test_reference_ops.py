"""Everything trains without a compiler, too: the smoke tests once more on plain torch."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.nested_pytest import run_pytest

TOYS = ("test_command_line.py", "test_resume.py")  # train a task without ops, and so do nothing new here
PARTS = {  # of about the same length
    "recipes in one process": ("tests/smoke/test_experiments.py", "-k", "test_in_this_process"),
    "other runs": (
        *("tests/smoke", "-k", "not test_in_this_process"),
        *(f"--ignore=tests/smoke/{name}" for name in TOYS),
    ),
}


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """The parts at the same time, one for each core."""
    with ThreadPoolExecutor(max_workers=len(PARTS)) as pool:
        yield {name: pool.submit(run_pytest, *arguments, ZOO_OPS="reference") for name, arguments in PARTS.items()}


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("part", PARTS)
def test_smoke_tests_pass_on_the_reference(
    part: str, runs: dict[str, Future[subprocess.CompletedProcess[str]]]
) -> None:
    done = runs[part].result()
    assert done.returncode == 0, done.stdout[-5000:]
