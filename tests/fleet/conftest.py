"""Fixtures of the fleet tests."""

from __future__ import annotations

import pytest

from tests.commands import cli, fresh_cli, shared_home
from tests.fleet.fixtures import board, fleet
from tests.fleet.netns import Fleet

__all__ = ["board", "cli", "fleet", "fresh_cli", "shared_home"]


@pytest.fixture(autouse=True)
def whole_boards(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers in namespaces are boards of their own: there a lease guards the board, as everywhere."""
    if "fleet" in request.fixturenames and "cli" in request.fixturenames:
        request.getfixturevalue("cli")
        servers: Fleet = request.getfixturevalue("fleet")
        if servers.kind == "netns":
            monkeypatch.delenv("EDGEBENCH_LEASE")
