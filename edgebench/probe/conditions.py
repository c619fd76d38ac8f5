"""The state of the device at one moment: the fields of the record Conditions. None is unknown, never 0."""

import os
import re
from typing import Callable, Dict, List, Optional

from . import facts, jetson, macos, power, raspberry
from .tree import Tree, kilobytes, run_tool
from .wire import Json

RunTool = Callable[..., str]

# Zones that say nothing of the processor: a constant dummy, a fan's estimate, radios, firmware guesses.
NO_HEAT = re.compile(r"PMIC-Die|thermal-fan-est|iwlwifi|battery|INT3400|acpitz|wifi", re.IGNORECASE)
HEAT_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
COLDEST_C, HOTTEST_C = -40.0, 150.0  # beyond: a sensor that is absent (-256) or broken
POLICY = "sys/devices/system/cpu/cpufreq/policy*/"
CPU = "sys/devices/system/cpu/cpu[0-9]*/cpufreq/"


def read(root: str = "/", tools: bool = True) -> Json:
    """The fields of Conditions for the device whose files lie below `root`.

    Without `tools` nothing is forked, as a process that times something wants it.
    """
    tree, ask = Tree(root), run_tool if tools else no_tool
    if tree.live and os.uname().sysname == "Darwin":
        return macos.conditions(ask)
    soc = facts.soc_name(tree)
    memory = tree.table("proc/meminfo")
    plain = {
        "governor": governor(tree),
        "clock_khz": clocks(tree, "scaling_cur_freq"),
        "clock_max_khz": clocks(tree, "scaling_max_freq"),
        "clock_min_khz": clocks(tree, "scaling_min_freq"),
        "clock_measured_khz": measured_clock(tree, soc, ask),
        "clocks_locked": jetson.clocks_locked(tree),
        "temperature_c": temperature(tree, soc, ask),
        "memory_available_bytes": kilobytes(memory, "MemAvailable"),
        "gpu_memory_used_bytes": jetson.gpu_memory_used(tree),
        "swap_used_bytes": swap_used(memory),
        "swapped_in_pages": swapped_in(tree),
        "load_1m": _float(tree.text("proc/loadavg")),
        "uptime_s": _float(tree.text("proc/uptime")),
    }
    plain.update(power.throttle(tree, soc, ask))
    plain.update(jetson.over_current(tree))
    plain.update(jetson.gpu(tree))
    return plain


def no_tool(_path: str, *_arguments: str) -> str:
    """What a tool that must not run says: nothing."""
    return ""


def governor(tree: Tree) -> Optional[str]:
    """The frequency governor; different ones of several clusters are joined by ","."""
    names = {tree.text(name) for name in clock_files(tree, "scaling_governor")}
    return ",".join(sorted(name for name in names if name)) or None


def clocks(tree: Tree, what: str) -> List[int]:
    """One clock in kHz for each frequency domain; [] when any of them is unknown."""
    values = [tree.number(name) for name in clock_files(tree, what)]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def clock_files(tree: Tree, what: str) -> List[str]:
    """One file of cpufreq for each frequency domain."""
    return tree.names(POLICY + what) or tree.names(CPU + what)


def measured_clock(tree: Tree, soc: Optional[str], ask: RunTool) -> Optional[int]:
    """The clock in kHz that a Raspberry Pi's firmware measures: cpufreq tells only what was asked for."""
    if not tree.live or not raspberry.is_one(soc):
        return None
    return raspberry.parse_clock(raspberry.ask(ask, "measure_clock", "arm"))


def temperature(tree: Tree, soc: Optional[str], ask: RunTool) -> Optional[float]:
    """The hottest sensor of the processor in degrees Celsius: thermal zones or hwmon, else vcgencmd."""
    found = hottest([tree.number(name) for name in heat_files(tree)])
    if found is None and tree.live and raspberry.is_one(soc):
        return raspberry.parse_temperature(raspberry.ask(ask, "measure_temp"))
    return found


def heat_files(tree: Tree) -> List[str]:
    """The files of the sensors that tell of the processor: thermal zones, else hwmon (AMD)."""
    zones = [
        name[: -len("type")] + "temp"
        for name in tree.names("sys/class/thermal/thermal_zone*/type")
        if not NO_HEAT.search(tree.text(name) or "")
    ]
    return zones if hottest([tree.number(name) for name in zones]) is not None else _sensors(tree)


def _sensors(tree: Tree) -> List[str]:
    return [
        value
        for name in tree.names("sys/class/hwmon/hwmon*/name")
        if tree.text(name) in HEAT_SENSORS
        for value in tree.names(name[: -len("name")] + "temp[0-9]*_input")
    ]


def hottest(millidegrees: List[Optional[int]]) -> Optional[float]:
    """Degrees of the hottest of some sensors, without those that are absent (-256) or broken."""
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
