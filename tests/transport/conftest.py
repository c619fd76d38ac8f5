"""Three servers for the transport tests: an ordinary one, one without SFTP, one that is too old."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from edgebench.records import Device
from edgebench.transport.base import Credentials, Transport
from edgebench.transport.connect import open_transport
from edgebench.transport.local import LocalTransport
from edgebench.transport.ssh import SshTransport, Timeouts
from tests.fleet.fixtures import running_fleet
from tests.fleet.netns import Fleet, FleetDevice, Spec

PASSWORD = "correct horse 'battery' $taple"
QUICK = Timeouts(
    connect_s=2.0, banner_s=3.0, handshake_s=3.0, auth_s=5.0, channel_s=5.0, dead_link_s=1.0, retry_s=0.02
)


class Connect(Protocol):
    def __call__(
        self, device: Device, timeouts: Timeouts = QUICK, credentials: Credentials | None = None
    ) -> SshTransport: ...


@pytest.fixture(scope="session")
def servers() -> Iterator[Fleet]:
    specs = [
        Spec(home_mib=64, host_key_types=("ed25519", "ecdsa", "rsa")),
        Spec(home_mib=64, sftp=False, password=PASSWORD),
        Spec(home_mib=1, options=("Ciphers aes128-cbc",)),
        Spec(home_mib=64, options=("MaxSessions 1", "AllowTcpForwarding no", "MaxStartups 10:100:12")),
    ]
    with running_fleet(specs) as running:
        yield running


@pytest.fixture
def board(servers: Fleet) -> Iterator[FleetDevice]:
    yield from _healed(servers.devices[0])


@pytest.fixture
def board_without_sftp(servers: Fleet) -> Iterator[FleetDevice]:
    yield from _healed(servers.devices[1])


@pytest.fixture
def old_board(servers: Fleet) -> FleetDevice:
    """A server that offers only what is not safe any more."""
    return servers.devices[2]


@pytest.fixture
def narrow_board(servers: Fleet) -> Iterator[FleetDevice]:
    """A server that takes one session over one connection."""
    yield from _healed(servers.devices[3])


def _healed(device: FleetDevice) -> Iterator[FleetDevice]:
    yield device
    device.heal()
    for path in device.home.iterdir():
        path.unlink()


@pytest.fixture
def cuttable(board: FleetDevice) -> FleetDevice:
    if board.kind != "netns":
        pytest.skip("missing tool: network namespaces (root, iproute2)")
    return board


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes connected transports and closes them after the test."""
    made: list[SshTransport] = []

    def to(
        device: Device, timeouts: Timeouts = QUICK, credentials: Credentials | None = None
    ) -> SshTransport:
        made.append(SshTransport(device, timeouts=timeouts, credentials=credentials))
        made[-1].connect()
        return made[-1]

    yield to
    for transport in made:
        transport.close()


@pytest.fixture(params=["local", "ssh"])
def transport(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Transport]:
    """Each kind of transport, connected, with an empty home."""
    yield from _opened(request, tmp_path, monkeypatch)


@pytest.fixture
def signalled(request: pytest.FixtureRequest, transport: Transport) -> Transport:
    """A transport whose server passes signals on; those of the loopback kind (forced commands) do not."""
    if not isinstance(transport, LocalTransport) and request.getfixturevalue("servers").kind != "netns":
        pytest.skip("missing tool: network namespaces (root, iproute2)")
    return transport


@pytest.fixture(params=["local", "ssh", "ssh-without-sftp"])
def carrier(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Transport]:
    """Each way to carry a file, connected, with an empty home."""
    yield from _opened(request, tmp_path, monkeypatch)


def _opened(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Transport]:
    if request.param == "local":
        (tmp_path / "home").mkdir()
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        device = Device(name="here", target="linux-x86_64", transport="local")
    else:
        fixture = "board" if request.param == "ssh" else "board_without_sftp"
        device = request.getfixturevalue(fixture).record()
    opened = open_transport(device)
    opened.connect()
    yield opened
    opened.close()
