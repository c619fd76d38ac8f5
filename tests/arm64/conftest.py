"""Fixtures of the emulated board. Its tests run where this folder is asked for: `make test-arm64`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgebench.tools import find_pnnx
from tests.arm64.board import running_board
from tests.commands import cli, shared_home
from tests.convert.support import pnnx_home
from tests.fleet.netns import FleetDevice, MissingTool

__all__ = ["cli", "shared_home"]


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
