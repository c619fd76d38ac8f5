"""Fixtures of the emulated board. Its tests run where this folder is asked for: `make test-arm64`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgebench.tools import find_pnnx
from tests.arm64.board import running_board
from tests.commands import cli, shared_home
from tests.convert.support import pnnx_home
from tests.fleet.netns import FleetDevice, MissingTool

__all__ = ["cli", "shared_home"]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The board takes minutes to build the first time: `make test` leaves it out."""
    asked_for = any("arm64" in argument for argument in config.args)
    return True if collection_path.name == "test_board.py" and not asked_for else None


@pytest.fixture(scope="session")
def arm_board() -> Iterator[FleetDevice]:
    """The emulated board, running; a skip that says why where this computer cannot run it."""
    try:
        with running_board() as device:
            yield device
    except MissingTool as missing:
        pytest.skip(f"missing tool: {missing}")


@pytest.fixture(autouse=True)
def _pnnx(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "arm_board" in request.fixturenames:
        request.getfixturevalue("cli")  # which takes all EDGEBENCH_* variables away
        monkeypatch.setenv("EDGEBENCH_PNNX", str(find_pnnx(pnnx_home())))
