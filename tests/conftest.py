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

# Skips for these reasons are failures where the environment promises what they miss.
_PROMISED = re.compile("ZOO_SAMPLE_DATA|ZOO_PARITY_DIR|open3d")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
    if os.environ.get("ZOO_FORBID_SKIPS") == "1" and _PROMISED.search(reason):
        report.outcome = "failed"
        report.longrepr = f"ZOO_FORBID_SKIPS=1, but this was skipped: {reason}"
    return report
