"""The state of the device at one moment: the fields of the record Conditions. None is unknown, never 0."""

import os
import re
from typing import Dict, List, Optional

from . import facts, macos, power
from .tree import Tree, kilobytes, run_tool
from .wire import Json

# Zones that say nothing of the processor: a constant dummy, a fan's estimate, radios, firmware guesses.
NO_HEAT = re.compile(r"PMIC-Die|thermal-fan-est|iwlwifi|battery|INT3400|acpitz|wifi", re.IGNORECASE)
HEAT_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
COLDEST_C, HOTTEST_C = -40.0, 150.0  # beyond: a sensor that is absent (-256) or broken
POLICY = "sys/devices/system/cpu/cpufreq/policy*/"
CPU = "sys/devices/system/cpu/cpu[0-9]*/cpufreq/"


def read(root: str = "/") -> Json:
    """The fields of Conditions for the device whose files lie below `root`."""
    tree = Tree(root)
    if tree.live and os.uname().sysname == "Darwin":
        return macos.conditions()
    memory = tree.table("proc/meminfo")
    throttled, flags = power.throttle(tree, facts.soc_name(tree), run_tool)
    return {
        "governor": governor(tree),
        "clock_khz": clocks(tree, "scaling_cur_freq"),
        "clock_max_khz": clocks(tree, "scaling_max_freq"),
        "temperature_c": temperature(tree),
        "throttled": throttled,
        "throttle_flags": flags,
        "memory_available_bytes": kilobytes(memory, "MemAvailable"),
        "swap_used_bytes": swap_used(memory),
        "swapped_in_pages": swapped_in(tree),
        "load_1m": _float(tree.text("proc/loadavg")),
        "uptime_s": _float(tree.text("proc/uptime")),
    }


def governor(tree: Tree) -> Optional[str]:
    """The frequency governor; different ones of several clusters are joined by ","."""
    names = {tree.text(name) for name in _cpufreq(tree, "scaling_governor")}
    return ",".join(sorted(name for name in names if name)) or None


def clocks(tree: Tree, what: str) -> List[int]:
    """One clock in kHz for each frequency domain; [] when any of them is unknown."""
    values = [tree.number(name) for name in _cpufreq(tree, what)]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _cpufreq(tree: Tree, what: str) -> List[str]:
    return tree.names(POLICY + what) or tree.names(CPU + what)


def temperature(tree: Tree) -> Optional[float]:
    """The hottest sensor of the processor in degrees Celsius: thermal zones, else hwmon (AMD)."""
    zones = [
        tree.number(name[: -len("type")] + "temp")
        for name in tree.names("sys/class/thermal/thermal_zone*/type")
        if not NO_HEAT.search(tree.text(name) or "")
    ]
    return _hottest(zones) if _hottest(zones) is not None else _hottest(_sensors(tree))


def _sensors(tree: Tree) -> List[Optional[int]]:
    return [
        tree.number(value)
        for name in tree.names("sys/class/hwmon/hwmon*/name")
        if tree.text(name) in HEAT_SENSORS
        for value in tree.names(name[: -len("name")] + "temp[0-9]*_input")
    ]


def _hottest(millidegrees: List[Optional[int]]) -> Optional[float]:
    degrees = [value / 1000.0 for value in millidegrees if value is not None]
    likely = [value for value in degrees if COLDEST_C < value < HOTTEST_C]
    return max(likely) if likely else None


def swap_used(memory: Dict[str, str]) -> Optional[int]:
    """Bytes of swap in use."""
    total, free = kilobytes(memory, "SwapTotal"), kilobytes(memory, "SwapFree")
    return None if total is None or free is None else total - free


def swapped_in(tree: Tree) -> Optional[int]:
    """Pages read back from swap since boot; any that come during samples spoil them."""
    found = re.search(r"^pswpin (\d+)$", tree.text("proc/vmstat") or "", re.MULTILINE)
    return int(found.group(1)) if found else None


def _float(text: Optional[str]) -> Optional[float]:
    try:
        return float(text.split()[0]) if text else None
    except ValueError:
        return None
