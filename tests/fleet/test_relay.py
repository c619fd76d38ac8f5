"""The delaying link itself: it delays, cuts, and lets no packet out of this computer."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.fleet.netns import FleetDevice
from tests.fleet.relay import Relay, Weather

pytestmark = pytest.mark.fleet


@pytest.fixture
def relay(board: FleetDevice) -> Iterator[Relay]:
    if board.kind != "netns" or not os.access("/dev/net/tun", os.W_OK):
        pytest.skip("missing tool: network namespaces (root, iproute2) and /dev/net/tun")
    with Relay(board, Weather(delay_ms=25.0)) as running:
        yield running


def greeting_s(address: str, timeout_s: float = 5.0) -> float:
    """Seconds until a server's first bytes are here: two round trips."""
    started = time.perf_counter()
    with socket.create_connection((address, 22), timeout=timeout_s) as sock:
        assert sock.recv(4) == b"SSH-"
    return time.perf_counter() - started


def route(address: str) -> str:
    """How a packet would go."""
    argv = ["ip", "route", "get", address]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr


def test_the_delay_is_what_was_asked_for(relay: Relay, board: FleetDevice) -> None:
    greeting_s(board.address)
    assert greeting_s(relay.address) >= 0.1
    relay.change(Weather(delay_ms=0.0))
    assert min(greeting_s(relay.address) for _ in range(5)) < 0.1


def test_a_cut_link_loses_everything_until_it_is_healed(relay: Relay) -> None:
    relay.cut()
    with pytest.raises(TimeoutError):
        greeting_s(relay.address, timeout_s=0.5)
    assert "dev ebfleet" in route(relay.address)  # the route stays, as with a pulled cable
    relay.heal()
    greeting_s(relay.address)


def test_a_rate_is_kept(relay: Relay, board: FleetDevice) -> None:
    relay.change(Weather(delay_ms=0.0, mbit_per_s=8.0))
    argv = ["ssh", "-F", "none", "-i", str(board.key_file), "-o", "StrictHostKeyChecking=no"]
    argv += ["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", f"{board.user}@{relay.address}"]
    started = time.perf_counter()
    done = subprocess.run(
        [*argv, "cat > /dev/null"], input=bytes(1_000_000), timeout=60, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - started > 0.8  # a megabyte at a megabyte a second


def test_without_the_process_no_packet_leaves(relay: Relay) -> None:
    assert relay._process is not None
    relay._process.kill()
    relay._process.wait(10)
    assert "dev" not in route(relay.address)  # the blackhole has it
    relay.close()
