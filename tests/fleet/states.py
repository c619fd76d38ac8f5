"""The state of a board in a namespace of its own: real files on a mount, where the probe reads them."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fleet.netns import FleetDevice

ZONES = "/sys/class/thermal"
PLATFORM = "/sys/devices/platform"


@contextmanager
def mounted(device: FleetDevice, folder: str) -> Iterator[Path]:
    """An empty folder in the place of one of the board's, seen from here."""
    if device.kind != "netns":
        pytest.skip("missing tool: network namespaces (root, iproute2)")
    inside = ["nsenter", "-m", "-t", device.root.parts[2]]
    subprocess.run([*inside, "mount", "-t", "tmpfs", "tmpfs", folder], check=True, timeout=30)
    try:
        yield device.root / folder[1:]
    finally:
        subprocess.run([*inside, "umount", folder], check=True, timeout=30)


class Thermometer:
    """The one thermal zone of a board."""

    def __init__(self, folder: Path) -> None:
        self._zone = folder / "thermal_zone0"
        self._zone.mkdir()
        (self._zone / "type").write_text("cpu-thermal\n")

    def show(self, degrees: int) -> None:
        """Let it be so warm."""
        part = self._zone / "part"
        part.write_text(f"{degrees * 1000}\n")
        part.rename(self._zone / "temp")


@contextmanager
def thermometer(device: FleetDevice, degrees: int) -> Iterator[Thermometer]:
    """A board that has a thermometer."""
    with mounted(device, ZONES) as folder:
        made = Thermometer(folder)
        made.show(degrees)
        yield made


@contextmanager
def throttling_again_and_again(device: FleetDevice) -> Iterator[None]:
    """A Raspberry Pi's firmware whose word since boot changes all the time."""
    with mounted(device, PLATFORM) as folder:
        word = folder / "soc" / "soc:firmware" / "get_throttled"
        word.parent.mkdir(parents=True)
        over = threading.Event()

        def count() -> None:
            number = 1
            while not over.wait(0.005):
                number += 1
                part = word.with_name("part")
                part.write_text(f"{number << 16:x}\n")
                part.rename(word)

        counting = threading.Thread(target=count)
        word.write_text("10000\n")
        counting.start()
        try:
            yield
        finally:
            over.set()
            counting.join()
