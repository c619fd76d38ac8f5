"""Shared by all tests: a missing tool is a skip, and a failure where `EDGEBENCH_NO_SKIPS=1` says so (CI)."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before any test imports onnxruntime
NO_SKIPS = os.environ.get("EDGEBENCH_NO_SKIPS") == "1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns "skipped because something is missing" into a failure where CI asks for it."""
    report: pytest.TestReport = yield
    reason: Any = report.longrepr[-1] if report.skipped and isinstance(report.longrepr, tuple) else ""
    if NO_SKIPS and "missing tool" in str(reason):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and EDGEBENCH_NO_SKIPS=1 forbids it: {reason}"
    return report
