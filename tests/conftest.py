"""Settings of the whole test suite."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from typing import Any

import hypothesis
import pytest

hypothesis.settings.register_profile("zoo", derandomize=True, deadline=None, database=None, max_examples=50)
hypothesis.settings.load_profile("zoo")
os.environ["ZOO_TRUST"] = "tests"  # checkpoints of the toys name classes of the tests

# With ZOO_FORBID_SKIPS=1 the environment promises everything that tests may miss, but for these.
_MAY_BE_MISSING = re.compile("nvcc is not installed|tiny-cuda-nn is installed")


def _forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
    if reason and os.environ.get("ZOO_FORBID_SKIPS") == "1" and not _MAY_BE_MISSING.search(reason):
        report.outcome = "failed"
        report.longrepr = f"ZOO_FORBID_SKIPS=1, but this was skipped: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _forbid_skip(report)  # a module that skips itself as a whole
    return report
