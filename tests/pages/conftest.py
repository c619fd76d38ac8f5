"""One browser for all tests of pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import browser


@pytest.fixture(scope="session")
def chromium() -> Iterator[browser.Browser]:
    with browser.started() as made:
        yield made
