"""What tests of commands do with the servers of a fleet: inventories, leftovers, faults."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.commands import Cli, wait_until
from tests.fleet.netns import Fleet, FleetDevice

WORK = ".edgebench"


def entry(name: str, device: FleetDevice, **changes: str) -> str:
    """One device of an inventory; `changes` replace or add keys (ssh_user, ssh_port and ssh_key_file too)."""
    ssh = {"user": device.user, "port": str(device.port), "key_file": str(device.key_file)}
    ssh |= {key.removeprefix("ssh_"): value for key, value in changes.items() if key.startswith("ssh_")}
    keys = {"target": "linux-x86_64", "address": device.address, "host_key": f'"{device.fingerprints[0]}"'}
    keys |= {key: value for key, value in changes.items() if not key.startswith("ssh_")}
    lines = [f"    {key}: {value}" for key, value in keys.items() if value]
    shown = ", ".join(f"{key}: {value}" for key, value in ssh.items())
    return "\n".join([f"  {name}:", *lines, f"    ssh: {{{shown}}}"])


def write_inventory(cli: Cli, *entries: str) -> None:
    """Make these devices the fleet of the commands that follow."""
    (cli.folder / "inventory.yaml").write_text("\n".join(["version: 1", "devices:", *entries]) + "\n")


def two_boards(cli: Cli, fleet: Fleet) -> None:
    """Make both servers the fleet: board-01 and board-02."""
    write_inventory(cli, *(entry(f"board-0{n}", device) for n, device in enumerate(fleet.devices, 1)))


def probes(device: FleetDevice, program: str = "") -> list[int]:
    """The processes of probes on a device; `program`: "session" or "launch" only."""
    return [pid for pid in device.pids() if _is_probe(pid, program)]


def _is_probe(pid: int, program: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return False
    at = next((number for number, word in enumerate(words) if word.endswith(".pyz")), None)
    return (
        at is not None
        and words[0].endswith(("python3", "python3.11"))
        and program in [*words[at + 1 : at + 2], ""]
    )


def kill(device: FleetDevice, program: str) -> None:
    """Kill the one probe process of a kind that runs on a device."""
    wait_until(lambda: probes(device, program), f"a {program} process")
    for pid in probes(device, program):
        os.kill(pid, signal.SIGKILL)


def assert_clean(device: FleetDevice) -> None:
    """No probe runs on the device, and none left files of its session."""
    wait_until(lambda: not probes(device), "the end of all probes")
    work = device.home / WORK
    assert [path.name for path in (work / "runs").glob("*")] == []
    assert not (work / "lease.json").exists()
    assert list((work / "incoming").glob("*")) == []


@contextmanager
def login_script(device: FleetDevice, text: str) -> Iterator[None]:
    """What the login shell runs before each command (sshd's bash reads .bashrc)."""
    path = device.home / ".bashrc"
    path.write_text(text)
    try:
        yield
    finally:
        path.unlink()


@contextmanager
def without_python(device: FleetDevice) -> Iterator[None]:
    """A device that has no Python."""
    if device.kind != "netns":
        pytest.skip("missing tool: network namespaces (root, iproute2)")
    python = str(Path("/usr/bin/python3").resolve())
    inside = ["nsenter", "-m", "-p", "-t", device.root.parts[2]]
    subprocess.run([*inside, "mount", "--bind", "/dev/null", python], check=True, timeout=30)
    try:
        yield
    finally:
        subprocess.run([*inside, "umount", python], check=True, timeout=30)
