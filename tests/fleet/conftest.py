"""Fixtures of the fleet tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import cli, fresh_cli, shared_home
from tests.fleet.fixtures import board, fleet
from tests.fleet.netns import Fleet
from tests.fleet.recorded import lab, shared

__all__ = ["board", "cli", "fleet", "fresh_cli", "lab", "shared", "shared_home"]


LONG = (  # BOARDS of the Makefile
    "test_accuracy.py",
    "test_coreml.py",
    "test_engine.py",
    "test_health.py",
    "test_invalid.py",
    "test_logins.py",
    "test_preparation.py",
    "test_profile.py",
    "test_runs.py",
    "test_scale.py",
    "test_tensorrt.py",
)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Minutes of whole runs, real logins and many devices: `make test` leaves them to `make test-boards`."""
    asked_for = any("fleet" in argument for argument in config.args)
    return True if collection_path.name in LONG and not asked_for else None


@pytest.fixture(autouse=True)
def whole_boards(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers in namespaces are boards of their own: there a lease guards the board, as everywhere."""
    if "fleet" in request.fixturenames and "cli" in request.fixturenames:
        request.getfixturevalue("cli")
        servers: Fleet = request.getfixturevalue("fleet")
        if servers.kind == "netns":
            monkeypatch.delenv("EDGEBENCH_LEASE")
