"""Shared by all tests: a missing tool is a skip, and a failure where `EDGEBENCH_NO_SKIPS=1` says so (CI)."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before any test imports onnxruntime
NO_SKIPS = os.environ.get("EDGEBENCH_NO_SKIPS") == "1"
# Folders with a target of their own in the Makefile: minutes of work, or tools that `make test` has not.
OWN_TARGETS = ("arm64", "boards", "compress/training", "faults", "pages")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A folder with a target of its own runs where it is asked for: `make test` leaves it out."""
    place = collection_path.relative_to(Path(__file__).parent).as_posix()
    asked_for = any(f"tests/{place}" in argument for argument in config.args)
    return True if place in OWN_TARGETS and not asked_for else None


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
