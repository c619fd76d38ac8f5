"""Facts and Conditions of a Mac, from sysctl: there is no /proc and no /sys. What it hides is None."""

import os
import re
from typing import Dict, Optional, Sequence

from .tree import run_tool
from .wire import Json

SYSCTL = "/usr/sbin/sysctl"
FACT_NAMES = (
    "hw.model",
    "hw.memsize",
    "hw.ncpu",
    "machdep.cpu.brand_string",
    "kern.osproductversion",
    "vm.swapusage",
)
STATE_NAMES = ("vm.swapusage",)


def facts() -> Json:
    """The fields of Facts beyond those that every host has."""
    return parse_facts(_sysctl(FACT_NAMES))


def conditions() -> Json:
    """The fields of Conditions that macOS tells without root: load and swap; clocks and heat stay unknown."""
    return parse_conditions(_sysctl(STATE_NAMES), os.getloadavg()[0])


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
        "power_mode": None,
        "memory_bytes": _whole(known.get("hw.memsize")),
        "swap_bytes": _swap(known.get("vm.swapusage"), "total"),
        "accelerator": brand + " GPU and Neural Engine" if brand and brand.startswith("Apple") else None,
        "versions": {},
        "emulated": None,
    }


def parse_conditions(text: str, load_1m: Optional[float]) -> Json:
    """Conditions in the output of `sysctl NAME ...`."""
    known = _table(text)
    return {
        "governor": None,
        "clock_khz": [],
        "clock_max_khz": [],
        "temperature_c": None,
        "throttled": None,
        "throttle_flags": None,
        "memory_available_bytes": None,
        "swap_used_bytes": _swap(known.get("vm.swapusage"), "used"),
        "swapped_in_pages": None,
        "load_1m": load_1m,
        "uptime_s": None,
    }


def _sysctl(names: Sequence[str]) -> str:
    return run_tool(SYSCTL, *names)


def _table(text: str) -> Dict[str, str]:
    pairs = (line.partition(": ") for line in text.splitlines())
    return {key: value.strip() for key, colon, value in pairs if colon}


def _whole(text: Optional[str]) -> Optional[int]:
    return int(text) if text and text.isdigit() else None


def _swap(text: Optional[str], what: str) -> Optional[int]:
    found = re.search(what + r" = ([\d.]+)M", text or "")
    return int(float(found.group(1)) * 1024 * 1024) if found else None
