"""Fixtures with real SSH servers: a conftest takes them by `from tests.fleet.fixtures import board, fleet`.

`fleet` runs two servers for the whole session (each worker its own); `board` is the first one, and all its
faults are undone after each test.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from tests.fleet.netns import Fleet, FleetDevice, Kind, MissingTool, Spec


@contextmanager
def running_fleet(specs: Sequence[Spec], *, kind: Kind | None = None) -> Iterator[Fleet]:
    """A running fleet; the test is skipped where a tool for it is missing."""
    with ExitStack() as stack:
        try:
            fleet = stack.enter_context(Fleet(specs, kind=kind))
        except MissingTool as missing:
            pytest.skip(f"missing tool: {missing}")
        yield fleet


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """Two running servers with own addresses."""
    with running_fleet([Spec(), Spec()]) as running:
        yield running


@pytest.fixture
def board(fleet: Fleet) -> Iterator[FleetDevice]:
    """One of the fleet's servers; every fault is undone after the test."""
    device = fleet.devices[0]
    yield device
    device.heal()


@pytest.fixture(autouse=True)
def whole_boards(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers in namespaces are boards of their own: there a lease guards the board, as everywhere."""
    if "fleet" in request.fixturenames and "cli" in request.fixturenames:
        request.getfixturevalue("cli")
        servers: Fleet = request.getfixturevalue("fleet")
        if servers.kind == "netns":
            monkeypatch.delenv("EDGEBENCH_LEASE")
