"""One browser for all tests of pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import browser

IN_CHROMIUM = ("test_browser.py", "test_numbers.py", "test_chart_numbers.py")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Pages in a real browser: `make test` leaves them to `make test-pages`."""
    asked_for = any("report" in argument for argument in config.args)
    return True if collection_path.name in IN_CHROMIUM and not asked_for else None


@pytest.fixture(scope="session")
def chromium() -> Iterator[browser.Browser]:
    with browser.started() as made:
        yield made
