"""Facts and Conditions of a Mac, from sysctl: there is no /proc and no /sys. What it hides is None."""

import os
import re
import time
from typing import Callable, Dict, List, Optional, Tuple

from .tree import run_tool
from .wire import Json

RunTool = Callable[..., str]
SYSCTL = "/usr/sbin/sysctl"
SW_VERS, VM_STAT, PMSET, NOTIFYUTIL = (
    "/usr/bin/sw_vers",
    "/usr/bin/vm_stat",
    "/usr/bin/pmset",
    "/usr/bin/notifyutil",
)
THERMAL_PRESSURE = "com.apple.system.thermalpressurelevel"
LEVELS = ("nominal", "moderate", "heavy", "trapping", "sleeping")
LOWERING = 2  # from "heavy" on the clocks are lowered
FACT_NAMES = (
    "hw.model",
    "hw.memsize",
    "hw.ncpu",
    "machdep.cpu.brand_string",
    "kern.osproductversion",
    "vm.swapusage",
)
STATE_NAMES = ("vm.swapusage", "kern.boottime")


def facts() -> Json:
    """The fields of Facts beyond those that every host has."""
    found = parse_facts(run_tool(SYSCTL, *FACT_NAMES))
    if found["os_release"] is None:
        found["os_release"] = parse_sw_vers(run_tool(SW_VERS))
    return found


def conditions(ask: RunTool) -> Json:
    """The fields of Conditions that macOS tells without root; clocks and degrees stay unknown."""
    found = parse_conditions(ask(SYSCTL, *STATE_NAMES), os.getloadavg()[0], time.time())
    found.update(parse_vm_stat(ask(VM_STAT)))
    throttled, words = thermal(ask(PMSET, "-g", "therm"), ask(NOTIFYUTIL, "-g", THERMAL_PRESSURE))
    found.update(throttled=throttled, throttle_now=words)
    return found


def parse_sw_vers(text: str) -> Optional[str]:
    """ "macOS 14.5" of the output of `sw_vers`."""
    version = re.search(r"^ProductVersion:\s*(\d[\w.]*)", text, re.MULTILINE)
    return "macOS " + version.group(1) if version else None


def parse_vm_stat(text: str) -> Json:
    """Available memory and pages read back from swap in the output of `vm_stat`."""
    size = re.search(r"page size of (\d{1,9}) bytes", text)
    pages = {
        name: int(count)
        for name, count in re.findall(r'^"?([A-Za-z -]+)"?:\s+(\d{1,15})\.', text, re.MULTILINE)
    }
    free = [pages.get(name) for name in ("Pages free", "Pages inactive", "Pages speculative")]
    known = [count for count in free if count is not None]
    whole = size is not None and len(known) == len(free)
    return {
        "memory_available_bytes": sum(known) * int(size.group(1)) if size is not None and whole else None,
        "swapped_in_pages": pages.get("Swapins"),
    }


def thermal(therm: str, pressure: str) -> Tuple[Optional[bool], List[str]]:
    """(throttled now, reasons) from `pmset -g therm` (Intel) and the thermal pressure."""
    limits = [int(each) for each in re.findall(r"CPU_Speed_Limit\s*=\s*(\d{1,4})", therm)]
    level = re.search(re.escape(THERMAL_PRESSURE) + r"\s+(\d)\s*$", pressure, re.MULTILINE)
    words = ["processor limited to %d %%" % each for each in limits if each < 100]
    number = int(level.group(1)) if level else 0
    if number >= LOWERING:
        words.append("thermal pressure " + LEVELS[min(number, len(LEVELS) - 1)])
    return (bool(words) if limits or level else None), words


def parse_facts(text: str) -> Json:
    """Facts in the output of `sysctl NAME ...`."""
    known = _table(text)
    version = known.get("kern.osproductversion")
    brand = known.get("machdep.cpu.brand_string")
    return {
        "board": known.get("hw.model"),
        "soc": brand,
        "cpu": brand,
        "cores": _whole(known.get("hw.ncpu")),
        "cpu_features": [],
        "os_release": "macOS " + version if version else None,
        "kernel_arch": None,
        "power_mode": None,
        "power_modes": [],
        "power_mode_pending": None,
        "trtexec": None,
        "swap_kind": "file" if known.get("vm.swapusage") else None,
        "memory_cgroup": None,
        "rails": [],
        "power_method": None,
        "memory_bytes": _whole(known.get("hw.memsize")),
        "swap_bytes": _swap(known.get("vm.swapusage"), "total"),
        "accelerator": brand + " GPU and Neural Engine" if brand and brand.startswith("Apple") else None,
        "versions": {},
        "emulated": None,
    }


def parse_conditions(text: str, load_1m: Optional[float], now_s: Optional[float] = None) -> Json:
    """Conditions in the output of `sysctl NAME ...`."""
    known = _table(text)
    return {
        "governor": None,
        "clock_khz": [],
        "clock_max_khz": [],
        "clock_min_khz": [],
        "clock_measured_khz": None,
        "clocks_locked": None,
        "temperature_c": None,
        "throttled": None,
        "throttle_flags": None,
        "throttle_now": [],
        "throttle_since_boot": [],
        "over_current": {},
        "over_current_throttles": [],
        "gpu_clock_khz": None,
        "gpu_clock_max_khz": None,
        "gpu_load": None,
        "gpu_memory_used_bytes": None,
        "memory_available_bytes": None,
        "swap_used_bytes": _swap(known.get("vm.swapusage"), "used"),
        "swapped_in_pages": None,
        "load_1m": load_1m,
        "uptime_s": _uptime(known.get("kern.boottime"), now_s),
    }


def _uptime(boottime: Optional[str], now_s: Optional[float]) -> Optional[float]:
    found = re.search(r"sec = (\d{1,12})", boottime or "")
    return round(now_s - int(found.group(1)), 1) if found and now_s is not None else None


def _table(text: str) -> Dict[str, str]:
    pairs = (line.partition(": ") for line in text.splitlines())
    return {key: value.strip() for key, colon, value in pairs if colon}


def _whole(text: Optional[str]) -> Optional[int]:
    return int(text) if text and text.isdecimal() else None


def _swap(text: Optional[str], what: str) -> Optional[int]:
    found = re.search(what + r" = (\d{1,12}(?:\.\d{1,6})?)M", text or "")
    return int(float(found.group(1)) * 1024 * 1024) if found else None
