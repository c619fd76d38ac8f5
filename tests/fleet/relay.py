"""A link with delay, loss, a rate and a switch, between this computer and a device of the fleet.

The kernel's own delay (sch_netem) is not everywhere, so packets go through a process: two TUN interfaces, one
here and one in the device's network namespace, and a queue between them. TCP's large segments pass whole
(virtio headers), so that the process costs little and what is measured is the link.

Safety: as in `netns`, a blackhole route for the subnet comes first and goes last, so that no packet leaves
this computer when the process, and its interfaces with it, are gone. The process ends with this one.

The process itself: python -m tests.fleet.relay NAMESPACE HERE THERE ADDRESS PEER, commands as JSON on stdin.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from types import TracebackType

from edgebench.records import Device, replace
from tests.fleet.netns import FleetDevice, MissingTool

SUBNET = "10.79"
STEP_S = 30.0
TUNNEL = "/dev/net/tun"
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
OFFLOADS = 0x01 | 0x02 | 0x04  # checksums, TCP segments over IPv4 and over IPv6
CLONE_NEWNET = 0x40000000
HEADER_BYTES = 10  # of virtio; not a part of what travels
MAX_PACKET_BYTES = 1 << 17
QUEUE_S = 0.4  # a longer queue drops at its tail, as a switch does
BATCH = 64


@dataclass(frozen=True)
class Weather:
    """What the link does to packets, in each direction. `mbit_per_s` 0: no limit."""

    delay_ms: float = 10.0
    loss: float = 0.0
    mbit_per_s: float = 0.0
    up: bool = True


class Relay:
    """A running link to a device, at an address of its own; a context manager."""

    def __init__(self, device: FleetDevice, weather: Weather | None = None) -> None:
        if device.kind != "netns":
            raise MissingTool("network namespaces (root, iproute2)")
        if not os.access(TUNNEL, os.R_OK | os.W_OK):
            raise MissingTool(f"{TUNNEL} (a kernel with TUN)")
        self.weather = weather or Weather()
        self._device = device
        self._net = f"{SUBNET}.{device.number}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where the device is reached through this link."""
        return f"{self._net}.2"

    def record(self) -> Device:
        """The device as edgebench knows it, behind this link."""
        return replace(self._device.record(), address=self.address)

    def __enter__(self) -> Relay:
        _ip("route", "replace", "blackhole", f"{self._net}.0/30", "metric", "4096")
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        here, name = f"{self._device.name}t", self._device.name
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.fleet.relay", name, here, "far0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        if self._process.stdout is None or self._process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the relay to {name} did not start")
        _ip("link", "set", here, "txqueuelen", "5000", "up")
        _ip("addr", "add", f"{self._net}.1/30", "dev", here)
        _ip("-n", name, "link", "set", "far0", "txqueuelen", "5000", "up")
        _ip("-n", name, "addr", "add", f"{self._net}.2/30", "dev", "far0")
        route = _ip("route", "get", self.address)
        if f"dev {here}" not in route:
            raise RuntimeError(f"{self.address} is not reached through {here} but: {route}")
        self.change(self.weather)

    def change(self, weather: Weather) -> None:
        """Other weather from now on."""
        self.weather = weather
        if self._process is None or self._process.stdin is None:
            raise RuntimeError("the relay does not run")
        self._process.stdin.write(json.dumps(asdict(weather)).encode() + b"\n")
        self._process.stdin.flush()

    def cut(self) -> None:
        """Lose every packet; the routes stay."""
        self.change(Weather(self.weather.delay_ms, self.weather.loss, self.weather.mbit_per_s, up=False))

    def heal(self) -> None:
        """Undo `cut`."""
        self.change(Weather(self.weather.delay_ms, self.weather.loss, self.weather.mbit_per_s))

    def close(self) -> None:
        """End the process, and its interfaces with it; the blackhole goes last."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STEP_S)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None
        with contextlib.suppress(RuntimeError):
            _ip("route", "del", "blackhole", f"{self._net}.0/30", "metric", "4096")


def _ip(*argv: str) -> str:
    done = subprocess.run(["ip", *argv], capture_output=True, text=True, timeout=STEP_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


# --- the process ----------------------------------------------------------------------------------


class Direction:
    """The packets on their way from one interface to the other."""

    def __init__(self, source: int, target: int) -> None:
        self.source = source
        self._target = target
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._free_s = 0.0  # when the link has sent what was given to it so far
        self._chance = random.Random(source)

    @property
    def due_s(self) -> float | None:
        """When the next packet arrives, or None."""
        return self._waiting[0][0] if self._waiting else None

    def take(self, weather: Weather) -> None:
        """Read what is there."""
        for _ in range(BATCH):
            try:
                packet = os.read(self.source, MAX_PACKET_BYTES)
            except BlockingIOError:
                return
            self._accept(packet, weather)

    def _accept(self, packet: bytes, weather: Weather) -> None:
        now = time.monotonic()
        if not weather.up or self._chance.random() < weather.loss:
            return
        sent_s = now
        if weather.mbit_per_s:
            sent_s = max(now, self._free_s) + (len(packet) - HEADER_BYTES) * 8e-6 / weather.mbit_per_s
            if sent_s - now > QUEUE_S:
                return
            self._free_s = sent_s
        self._waiting.append((sent_s + weather.delay_ms / 1000, packet))

    def deliver(self, now: float) -> None:
        """Write what has arrived."""
        while self._waiting and self._waiting[0][0] <= now:
            packet = self._waiting.popleft()[1]
            with contextlib.suppress(OSError):  # a full or vanished interface loses packets
                os.write(self._target, packet)


def _tunnel(name: str) -> int:
    descriptor = os.open(TUNNEL, os.O_RDWR | os.O_NONBLOCK)
    flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    fcntl.ioctl(descriptor, TUNSETOFFLOAD, OFFLOADS)
    return descriptor


def _tunnel_inside(namespace: str, name: str) -> int:
    """An interface in another network namespace; the descriptor works from everywhere."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    other = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        _enter(other)
        return _tunnel(name)
    finally:
        _enter(own)
        os.close(own)
        os.close(other)


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _forward(ways: tuple[Direction, Direction]) -> None:
    """Carry packets until stdin ends."""
    weather, commands = Weather(), b""
    while True:
        due = [way.due_s for way in ways if way.due_s is not None]
        wait_s = max(0.0, min(due) - time.monotonic()) if due else None
        ready, _, _ = select.select([0, *(way.source for way in ways)], [], [], wait_s)
        now = time.monotonic()
        for way in ways:
            way.deliver(now)
            if way.source in ready:
                way.take(weather)
        if 0 in ready:
            data = os.read(0, 4096)
            if not data:
                return
            *lines, commands = (commands + data).split(b"\n")
            for line in lines:
                weather = Weather(**json.loads(line))


def main() -> None:
    """One link until stdin ends."""
    namespace, here, there = sys.argv[1:4]
    with contextlib.suppress(OSError):
        os.nice(-10)  # a link does not wait for a processor
    near, far = _tunnel(here), _tunnel_inside(namespace, there)
    print("ready", flush=True)
    _forward((Direction(near, far), Direction(far, near)))


if __name__ == "__main__":
    main()
