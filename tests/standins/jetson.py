"""A fleet's server that has a Jetson's tools, as stand-ins at their real places; for tests only.

Everything is laid over inside the device's own mount namespace: this computer keeps its files.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fleet.netns import USER_ID, FleetDevice

HERE = Path(__file__).parent
MODES = ("MAXN", "15W", "MAXN_REBOOT", "7W")  # their numbers are not in order of power
TOOLS = {"usr-bin": ("sudo", "jetson_clocks"), "usr-sbin": ("nvpmodel",)}
GOVERNORS = "ondemand performance powersave"
LAY_OVER = """set -e
cd /run/standins
mount -t overlay overlay -o ro,lowerdir=/run/standins/usr-bin:/usr/bin /usr/bin
mount -t overlay overlay -o ro,lowerdir=/run/standins/usr-sbin:/usr/sbin /usr/sbin
mount -t overlay overlay -o ro,lowerdir=/run/standins/etc:/etc /etc
mount -t overlay overlay -o ro,lowerdir=/run/standins/lib:/var/lib /var/lib
mount --bind /run/standins/nvpmodel /var/lib/nvpmodel
mount --bind /run/standins/cpu /sys/devices/system/cpu
"""
TAKE_OFF = """
for place in /sys/devices/system/cpu /var/lib/nvpmodel /var/lib /etc /usr/sbin /usr/bin; do
  umount -l "$place"
done
"""


class Jetson:
    """What the stand-ins of one device keep, seen from here."""

    def __init__(self, board: FleetDevice) -> None:
        self.board = board
        self.folder = board.root / "run/standins"
        self.policies = [self.folder / "cpu/cpufreq" / name for name in ("policy0", "policy4")]

    @property
    def power_mode(self) -> str:
        """The mode that nvpmodel keeps."""
        found = re.match(r"pmode:(\d+)", (self.folder / "nvpmodel/status").read_text())
        assert found
        return MODES[int(found[1])]

    @property
    def governors(self) -> list[str]:
        """Each cluster's governor."""
        return [(policy / "scaling_governor").read_text().strip() for policy in self.policies]

    @property
    def locked(self) -> bool:
        """Whether all clusters' clocks are locked."""
        ends = [
            [(p / f"scaling_{end}_freq").read_text().strip() for end in ("min", "max")] for p in self.policies
        ]
        return all(low == high for low, high in ends)

    @property
    def state(self) -> tuple[str, list[str], bool]:
        """(power mode, governors, locked)."""
        return self.power_mode, self.governors, self.locked

    @property
    def log(self) -> list[str]:
        """What ran as root, in order."""
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    def set_governor(self, name: str) -> None:
        """As somebody else would."""
        for policy in self.policies:
            (policy / "scaling_governor").write_text(name + "\n")

    def allow(self, *commands: str) -> None:
        """What sudo grants from now on, and nothing else."""
        (self.folder / "sudoers").write_text("".join(f"{command}\n" for command in commands))

    def allow_all(self, work: str) -> None:
        """Everything that a preparation needs."""
        clocks = f"{work}/jetson_clocks.conf"
        self.allow(
            *(f"/usr/sbin/nvpmodel -m {number}" for number in range(len(MODES))),
            '/usr/bin/jetson_clocks ""',
            f"/usr/bin/jetson_clocks --store {clocks}",
            f"/usr/bin/jetson_clocks --restore {clocks}",
            *(
                f"/usr/bin/tee /sys/devices/system/cpu/cpufreq/{p.name}/scaling_governor"
                for p in self.policies
            ),
        )

    def slow(self, tool: str, seconds: float) -> None:
        """A tool takes its time; 0 ends that."""
        path = self.folder / f"slow-{tool}"
        path.write_text(str(seconds)) if seconds else path.unlink(missing_ok=True)


@contextmanager
def as_jetson(board: FleetDevice) -> Iterator[Jetson]:
    """The board with a Jetson's tools: MAXN, governors on demand, clocks free, sudo that grants nothing."""
    if board.kind != "netns":
        pytest.skip("missing tool: network namespaces (root, iproute2)")
    jetson = Jetson(board)
    _fill(jetson)
    inside = ["nsenter", "-m", "-p", "-t", board.root.parts[2], "sh", "-c"]
    subprocess.run([*inside, LAY_OVER], check=True, timeout=30)
    try:
        yield jetson
    finally:
        subprocess.run([*inside, TAKE_OFF], check=True, timeout=30)
        shutil.rmtree(jetson.folder)


def _fill(jetson: Jetson) -> None:
    folder = jetson.folder
    for name in ("usr-bin", "usr-sbin", "etc", "lib/nvpmodel", "nvpmodel"):
        (folder / name).mkdir(parents=True)
    for place, names in TOOLS.items():
        for name in names:
            shutil.copy(HERE / name, folder / place / name)
    for name in ("passwd", "group", "shadow"):  # the device's own, which the layer would hide
        shutil.copy(jetson.board.root / "etc" / name, folder / "etc" / name)
    lines = [f"< POWER_MODEL ID={number} NAME={name} >\n" for number, name in enumerate(MODES)]
    (folder / "etc/nvpmodel.conf").write_text("".join(lines))
    (folder / "nvpmodel/status").write_text("pmode:0000 fmode:quiet")
    for policy in jetson.policies:
        policy.mkdir(parents=True)
        values = {"min_freq": "102000", "max_freq": "1479000", "cur_freq": "1326000", "governor": "ondemand"}
        for key, value in values.items():
            (policy / f"scaling_{key}").write_text(value + "\n")
        (policy / "scaling_available_governors").write_text(GOVERNORS + "\n")
    for name in ("online", "possible", "present"):
        (folder / "cpu" / name).write_text(Path("/sys/devices/system/cpu", name).read_text())
    jetson.allow()
    for path in (folder, *folder.rglob("*")):  # sudo's stand-in gives no rights: the login owns what it turns
        shutil.chown(path, USER_ID, USER_ID)
