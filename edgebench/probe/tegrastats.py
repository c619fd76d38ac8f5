"""One line of tegrastats, of L4T R32 to R39: unknown tokens are skipped, missing ones stay unknown. Pure."""

import re
from typing import Any, Dict, List, Optional

from .wire import Json

UNITS = {"k": 1 << 10, "M": 1 << 20, "G": 1 << 30}
COLDEST_C, HOTTEST_C = -40.0, 150.0  # beyond: a sensor that is absent (-256) or a dummy
MEMORY = re.compile(r"\b(RAM|SWAP|IRAM) (\d{1,12})/(\d{1,12})([kMG])B")
FREE_BLOCKS = re.compile(r"\(lfb (\d{1,9})x(\d{1,9})([kMG])B\)")
CPU = re.compile(r"\bCPU \[([^\]]*)\]")
CORE = re.compile(r"(\d{1,3})%@(\d{1,6})\Z")
ENGINE = re.compile(r"\b([A-Z][A-Z0-9_]*) (?:(\d{1,3})%)?(?:@(\[[\d,]*\]|\d{1,6}))?(?= |$)")
OFF = re.compile(r"\b([A-Z][A-Z0-9_]*) off\b")
HEAT = re.compile(r"(?:^| )([A-Za-z][A-Za-z0-9_]*)@(-?\d{1,4}(?:\.\d{1,6})?)C(?:/-?[\d.]+C)?(?= |$)")
RAIL = re.compile(r"\b([A-Z][A-Za-z0-9_]*) (\d{1,7})(?:mW)?(?:/\d{1,7}(?:mW)?)+(?= |$)")
DUMMY = ("PMIC",)


def parse(line: str) -> Json:
    """{"ram_used_bytes", "cpus", "engines", "temperatures_c", "rails_mw", ...} of one line; None is unknown.

    A core that is off is None in `cpus`; a rail's figure is the present one, not the average since the start.
    """
    found: Json = {"ram_used_bytes": None, "ram_total_bytes": None}
    found.update(swap_used_bytes=None, swap_total_bytes=None, largest_free_bytes=None)
    for kind, used, total, unit in MEMORY.findall(line):
        if kind != "IRAM":
            found[kind.lower() + "_used_bytes"] = int(used) * UNITS[unit]
            found[kind.lower() + "_total_bytes"] = int(total) * UNITS[unit]
    blocks = FREE_BLOCKS.search(line)
    if blocks:
        found["largest_free_bytes"] = int(blocks.group(2)) * UNITS[blocks.group(3)]
    found["cpus"] = _cores(line)
    found["engines"] = _engines(line)
    found["off"] = OFF.findall(line)
    found["temperatures_c"] = _temperatures(line)
    found["rails_mw"] = {
        name: int(value) for name, value in RAIL.findall(line) if name not in ("NC", "RAM", "SWAP", "IRAM")
    }
    return found


def _cores(line: str) -> Optional[List[Optional[Dict[str, int]]]]:
    listed = CPU.search(line)
    if listed is None:
        return None
    cores = [CORE.match(item.strip()) for item in listed.group(1).split(",")]
    return [None if core is None else _core(core) for core in cores]


def _core(found: Any) -> Dict[str, int]:
    return {"load_percent": int(found.group(1)), "clock_mhz": int(found.group(2))}


def _engines(line: str) -> Dict[str, Json]:
    """{"GR3D_FREQ": {"load_percent": 63, "clocks_mhz": [621]}}: either may be unknown (no root, Thor)."""
    found: Dict[str, Json] = {}
    for name, load, clocks in ENGINE.findall(line):
        if load or clocks:
            numbers = [int(each) for each in re.findall(r"\d{1,6}", clocks)]
            found[name] = {"load_percent": int(load) if load else None, "clocks_mhz": numbers}
    return found


def _temperatures(line: str) -> Dict[str, float]:
    found = {name: float(degrees) for name, degrees in HEAT.findall(line) if name not in DUMMY}
    return {name: degrees for name, degrees in found.items() if COLDEST_C < degrees < HOTTEST_C}
