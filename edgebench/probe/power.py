"""Throttle evidence: (throttled now, counters and flags as text). Each half is None where nothing tells.

`throttled` is the state at this moment; the text holds what is cumulative since boot, so that any difference
between two readings means that the board throttled in between.
"""

import errno
import os
import re
from typing import Callable, Optional, Tuple

from .tree import Tree

Reading = Tuple[Optional[bool], Optional[str]]
RunTool = Callable[..., str]
THROTTLED = re.compile(r"throttled=(?:0x)?([0-9a-fA-F]+)")
VCGENCMD = ("/usr/bin/vcgencmd", "/opt/vc/bin/vcgencmd")
LIVE_BITS = 0xF  # under-voltage, frequency capped, throttled, soft limit; the same << 16 since boot
FIRMWARE = "sys/devices/platform/soc*/*firmware/get_throttled"
OVER_CURRENT = "sys/devices/platform/soctherm-oc-event/hwmon/hwmon*/oc[0-9]_event_cnt"
X86_COUNTS = "sys/devices/system/cpu/cpu*/thermal_throttle/%s_throttle_count"
COOLING = ("thermal-cpufreq", "thermal-devfreq")  # passive cooling of the mainline kernel: it lowers clocks
MAX_KERNEL_RECORDS = 50000


def throttle(tree: Tree, soc: Optional[str], run_tool: RunTool) -> Reading:
    """(throttled now, flags) of the device; `run_tool(path, *arguments)` is asked where no file tells."""
    readings = (
        raspberry_pi(tree, soc, run_tool),
        over_current(tree),
        kernel_alarms(tree, soc),
        x86_counts(tree),
        passive_cooling(tree),
        under_voltage(tree),
    )
    live = [now for now, _ in readings if now is not None]
    flags = [text for _, text in readings if text is not None]
    return (any(live) if live else None), (" ".join(flags) or None)


def raspberry_pi(tree: Tree, soc: Optional[str], run_tool: RunTool) -> Reading:
    """The firmware's throttle word: sysfs first (no fork, no group), else vcgencmd."""
    text = tree.first(FIRMWARE)
    if text is None and tree.live and (soc or "").startswith("bcm2"):
        text = next((said for said in (run_tool(path, "get_throttled") for path in VCGENCMD) if said), None)
    value = parse_throttled(text or "")
    return (None, None) if value is None else (bool(value & LIVE_BITS), "0x%x" % value)


def parse_throttled(text: str) -> Optional[int]:
    """The word of "throttled=0x50005" or of bare hex digits in sysfs; None for vcgencmd's failure texts."""
    found = THROTTLED.search(text) or re.match(r"(?:0x)?([0-9a-fA-F]{1,8})\s*\Z", text)
    return int(found.group(1), 16) if found else None


def over_current(tree: Tree) -> Reading:
    """Orin's over-current events since boot; they show nowhere else."""
    texts = []
    for path in tree.names(OVER_CURRENT):
        count = tree.number(path)
        if count is not None:
            texts.append("%s=%d" % (os.path.basename(path).split("_")[0], count))
    return None, (" ".join(texts) or None)


def kernel_alarms(tree: Tree, soc: Optional[str]) -> Reading:
    """Over-current alarms of the Jetson Nano, which only the kernel's log counts (often root only)."""
    if soc != "tegra210":
        return None, None
    count = _count_records(os.path.join(tree.root, "dev/kmsg"), b"soctherm: OC ALARM")
    return None, (None if count is None else "oc_alarms=%d" % count)


def _count_records(path: str, needle: bytes) -> Optional[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    count = 0
    try:
        for _ in range(MAX_KERNEL_RECORDS):
            try:
                record = os.read(descriptor, 8192)  # one record a read
            except OSError as error:
                if error.errno == errno.EPIPE:  # records were overwritten meanwhile: go on with the oldest
                    continue
                return count if error.errno == errno.EAGAIN else None
            if not record:
                return count
            count += record.count(needle)
        return None
    finally:
        os.close(descriptor)


def x86_counts(tree: Tree) -> Reading:
    """Thermal throttle events since boot of all x86 cores and packages."""
    texts = []
    for kind in ("core", "package"):
        counts = [tree.number(name) for name in tree.names(X86_COUNTS % kind)]
        known = [count for count in counts if count is not None]
        if known:
            texts.append("%s_throttles=%d" % (kind, sum(known)))
    return None, (" ".join(texts) or None)


def passive_cooling(tree: Tree) -> Reading:
    """Whether the kernel holds a clock down because of heat."""
    states = [
        tree.number(name[: -len("type")] + "cur_state")
        for name in tree.names("sys/class/thermal/cooling_device*/type")
        if (tree.text(name) or "").startswith(COOLING)
    ]
    known = [state for state in states if state is not None]
    return (any(state > 0 for state in known) if known else None), None


def under_voltage(tree: Tree) -> Reading:
    """The Raspberry Pi's under-voltage alarm, for kernels that do not show the firmware's word."""
    for name in tree.names("sys/class/hwmon/hwmon*/name"):
        if tree.text(name) == "rpi_volt":
            alarm = tree.number(name[: -len("name")] + "in0_lcrit_alarm")
            return (None if alarm is None else alarm > 0), None
    return None, None
