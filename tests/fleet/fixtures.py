"""Fixtures with real SSH servers: a conftest takes them by `from tests.fleet.fixtures import board, fleet`.

`fleet` runs two servers for the whole session (each worker its own); `board` is the first one, and all its
faults are undone after each test.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fleet.netns import Fleet, FleetDevice, MissingTool, Spec


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """Two running servers with own addresses."""
    try:
        running = Fleet([Spec(), Spec()]).__enter__()
    except MissingTool as missing:
        pytest.skip(f"missing tool: {missing}")
    with running:
        yield running


@pytest.fixture
def board(fleet: Fleet) -> Iterator[FleetDevice]:
    """One of the fleet's servers; every fault is undone after the test."""
    device = fleet.devices[0]
    yield device
    device.heal()
