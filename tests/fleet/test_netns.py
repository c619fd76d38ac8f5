"""The fleet that other tests lean on: it starts, fails on purpose, stays inside, leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgebench.inventory import load
from edgebench.transport.ssh import SshTransport, scan_host_keys
from tests.fleet.fixtures import running_fleet
from tests.fleet.netns import Fleet, Spec, available_kind, lock_number, remove_stale

ROOT = Path(__file__).parents[2]


def _need_namespaces() -> None:
    if available_kind() != "netns":
        pytest.skip("missing tool: network namespaces (root, iproute2)")


@pytest.fixture(params=["netns", "loopback"])
def small_fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    if request.param == "netns":
        _need_namespaces()
    with running_fleet([Spec(home_mib=8)], kind=request.param) as running:
        yield running


def _names() -> str:
    listed = [
        subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout for words in LISTS
    ]
    return "".join(listed)


def _assert_gone(number: int) -> None:
    """Nothing is left of the device of this number; a fleet of another process may have taken the number."""
    lock = lock_number(number)
    if lock is None:
        return
    with lock:
        left = _names()
        assert f"ebfleet{number}" not in left.split()
        assert f"ebfleet{number}h" not in left
        assert f"10.77.{number}.0/30" not in left


LISTS = (["netns", "list"], ["-o", "link"], ["route"])


def test_a_fleet_is_used_through_its_inventory(small_fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "inventory.yaml").write_text(small_fleet.inventory())
    inventory = load(tmp_path / "inventory.yaml")
    (device,) = [device for device in inventory.devices if device.transport == "ssh"]
    transport = SshTransport(device)
    transport.connect()
    done = transport.run(
        ["sh", "-c", "echo content > it; /usr/bin/python3 -c 'print(2 ** 10)'"], timeout_s=20
    )
    transport.close()
    assert done.stdout == b"1024\n"
    assert (small_fleet.devices[0].home / "it").read_text() == "content\n"


def test_the_key_is_for_its_owner_only(small_fleet: Fleet) -> None:
    assert small_fleet.key_file.stat().st_mode & 0o777 == 0o600
    assert small_fleet.key_file.parent.stat().st_mode & 0o777 == 0o700


def test_a_cut_link_does_not_change_the_route() -> None:
    _need_namespaces()
    with Fleet([Spec(home_mib=8)]) as fleet:
        device = fleet.devices[0]
        for fault in (device.cut, device.restore):
            fault()
            route = subprocess.run(
                ["ip", "route", "get", device.address], capture_output=True, text=True, check=True
            )
            assert f"dev {device.name}h" in route.stdout
        assert f"blackhole 10.77.{device.number}.0/30" in _names()
    _assert_gone(device.number)


def test_homes_are_as_large_as_asked_for_and_apart() -> None:
    _need_namespaces()
    with Fleet([Spec(home_mib=8), Spec(home_mib=16)]) as fleet:
        sizes = [device.home.stat().st_dev for device in fleet.devices]
        assert len(set(sizes)) == 2
        for device, mib in zip(fleet.devices, (8, 16), strict=True):
            stat = os.statvfs(device.home)
            assert stat.f_blocks * stat.f_frsize == mib << 20


def test_two_fleets_do_not_meet() -> None:
    _need_namespaces()
    with Fleet([Spec(home_mib=8)]) as one, Fleet([Spec(home_mib=8)]) as other:
        assert one.devices[0].number != other.devices[0].number
        first, second = (scan_host_keys(fleet.devices[0].address) for fleet in (one, other))
        assert first != second


def _up(inventory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.fleet.netns", "up", "--count", "1", "--home-mib", "8"]
    running = subprocess.Popen(
        [*command, "--inventory", str(inventory)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    line = running.stdout.readline()
    if "are up" not in line:
        running.wait(20)
        pytest.skip("missing tool: what the fleet needs")
    return running


def _address(inventory: Path) -> tuple[str, int]:
    (device,) = [device for device in load(inventory).devices if device.transport == "ssh"]
    return device.address, device.ssh.port


def _end(running: subprocess.Popen[str], number: signal.Signals | None = None) -> int:
    with running:
        if number is not None:
            running.send_signal(number)
        elif running.stdin is not None:
            running.stdin.close()
        return running.wait(30)


@pytest.mark.parametrize("number", [None, signal.SIGTERM, signal.SIGINT])
def test_the_command_line_runs_a_fleet_until_it_is_told_to_end(
    tmp_path: Path, number: signal.Signals | None
) -> None:
    running = _up(tmp_path / "inventory.yaml")
    address = _address(tmp_path / "inventory.yaml")
    socket.create_connection(address, 5).close()
    assert _end(running, number) == (0 if number is None else 128 + number)
    assert not (tmp_path / "inventory.yaml").exists()
    if available_kind() == "netns":
        _assert_gone(int(address[0].split(".")[2]))


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    _need_namespaces()
    running = _up(tmp_path / "inventory.yaml")
    address, _port = _address(tmp_path / "inventory.yaml")
    key_file = Path(str(load(tmp_path / "inventory.yaml").devices[-1].ssh.key_file))
    subnet = f"{address.removesuffix('.2')}.0/30"
    _end(running, signal.SIGKILL)
    assert subnet in _names()
    assert key_file.exists()
    remove_stale()
    assert subnet not in _names()
    assert not key_file.exists()
