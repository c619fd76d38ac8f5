"""Throttle evidence: (throttled now, counters and flags as text). Each half is None where nothing tells.

`throttled` is the state at this moment; the text holds what is cumulative since boot, so that any difference
between two readings means that the board throttled in between.
"""

import errno
import os
from typing import Callable, List, Optional, Tuple

from . import raspberry
from .tree import Tree
from .wire import Json

Reading = Tuple[Optional[bool], Optional[str]]
RunTool = Callable[..., str]
X86_COUNTS = "sys/devices/system/cpu/cpu*/thermal_throttle/%s_throttle_count"
COOLING = ("thermal-cpufreq", "thermal-devfreq")  # passive cooling of the mainline kernel: it lowers clocks
MAX_KERNEL_RECORDS = 50000


def throttle(tree: Tree, soc: Optional[str], run_tool: RunTool) -> Json:
    """The fields of Conditions about throttling; `run_tool(path, ...)` is asked where no file tells."""
    word = raspberry.throttle_word(tree, soc, run_tool)
    readings = (
        firmware(word),
        kernel_alarms(tree, soc),
        x86_counts(tree),
        passive_cooling(tree),
        under_voltage(tree),
    )
    live = [now for now, _ in readings if now is not None]
    flags = [text for _, text in readings if text is not None]
    now, since_boot = raspberry.words(word or 0)
    if passive_cooling(tree)[0]:
        now.append("passive cooling")
    if under_voltage(tree)[0] and "under-voltage" not in now:
        now.append("under-voltage")
    return {
        "throttled": any(live) if live else None,
        "throttle_flags": " ".join(flags) or None,
        "throttle_now": now,
        "throttle_since_boot": since_boot,
    }


def firmware(word: Optional[int]) -> Reading:
    """The reading of a Raspberry Pi's throttle word."""
    return (None, None) if word is None else (bool(word & raspberry.LIVE_BITS), "0x%x" % word)


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
    states = [tree.number(name) for name in cooling_files(tree)]
    known = [state for state in states if state is not None]
    return (any(state > 0 for state in known) if known else None), None


def cooling_files(tree: Tree) -> List[str]:
    """The files that are above 0 while the kernel holds a clock down because of heat."""
    return [
        name[: -len("type")] + "cur_state"
        for name in tree.names("sys/class/thermal/cooling_device*/type")
        if (tree.text(name) or "").startswith(COOLING)
    ]


def under_voltage(tree: Tree) -> Reading:
    """The Raspberry Pi's under-voltage alarm, for kernels that do not show the firmware's word."""
    name = under_voltage_file(tree)
    alarm = None if name is None else tree.number(name)
    return (None if alarm is None else alarm > 0), None


def under_voltage_file(tree: Tree) -> Optional[str]:
    """The file of that alarm, or None."""
    for name in tree.names("sys/class/hwmon/hwmon*/name"):
        if tree.text(name) == "rpi_volt":
            return name[: -len("name")] + "in0_lcrit_alarm"
    return None
