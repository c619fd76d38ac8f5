"""Power rails: which there are and what they draw, in milliwatts.

Sources: INA3221 through iio (Jetson, L4T R32) or hwmon (R34 and later), else tegrastats; the PMIC of a
Raspberry Pi 5 through vcgencmd; the energy counters (RAPL) of x86 processors. What cannot be read is absent
or None, never 0.
"""

import os
import re
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from . import tegrastats
from .tree import Tree, first_line

RunTool = Callable[..., str]
Milliwatts = Dict[str, float]

INA = "ina3221"
I2C = ("sys/bus/i2c/devices/*/name", "sys/bus/i2c/drivers/ina3221*/*/name")
NO_RAIL = re.compile(r"NC\Z|sum of shunt voltages\Z", re.IGNORECASE)
TEGRASTATS, TEGRASTATS_MS = "/usr/bin/tegrastats", "100"
WHOLE_BOARD = ("POM_5V_IN", "VDD_IN")  # they feed all other rails of a Jetson: never add those to them
POWERCAP = "sys/class/powercap/intel-rapl:*/name"
PMIC = re.compile(r"(\S+)_([AV])\s+(current|volt)\(\d+\)=([\d.]+)[AV]")
NO_LOAD = ("EXT5V", "BATT")  # measured inputs of the PMIC, no rails of it
PMIC_METHOD = "vcgencmd pmic_read_adc (without 5 V peripherals and converter losses)"
PMIC_TOOL = ("/usr/bin/vcgencmd", "/opt/vc/bin/vcgencmd")
MAX_RAILS = 32


class Meter:
    """A way to read power: the rails, what their total is, how it is read, whether a tool must run."""

    def __init__(
        self, names: Sequence[str], total: Sequence[str], method: str, read: Callable[[], Milliwatts]
    ) -> None:
        self.names = list(names)
        self.total = list(total)
        self.method = method
        self.slow = False
        self.read = read

    @property
    def total_name(self) -> str:
        """ "VDD_IN", or the rails that are summed, joined by " + "."""
        return " + ".join(self.total)

    def total_mw(self, readings: Milliwatts) -> Optional[float]:
        """The board's power out of one reading; None when one of its parts is missing."""
        parts = [readings.get(name) for name in self.total]
        known = [part for part in parts if part is not None]
        return sum(known) if known and len(known) == len(parts) else None


def find(
    tree: Tree, soc: Optional[str], run_tool: RunTool, run_line: RunTool = first_line
) -> Optional[Meter]:
    """The best meter that this device has and lets us read, or None."""
    return (
        _ina3221(tree)
        or _tegrastats(tree, soc, run_line)
        or _pmic(tree, soc, run_tool)
        or _rapl(tree, time.perf_counter)
    )


# --- Jetson: INA3221 ------------------------------------------------------------------------------


def _ina3221(tree: Tree) -> Optional[Meter]:
    sources = _ina3221_sources(tree)
    sources = {name: source for name, source in sources.items() if _milliwatts(tree, source) is not None}
    if not sources:
        return None

    def read() -> Milliwatts:
        found = {name: _milliwatts(tree, source) for name, source in sources.items()}
        return {name: value for name, value in found.items() if value is not None}

    names = list(sources)
    return Meter(names, board_total(names), "INA3221 in sysfs", read)


def board_total(names: Sequence[str]) -> List[str]:
    """The rails whose sum is a Jetson's power: the input rail alone where there is one."""
    whole = [name for name in WHOLE_BOARD if name in names]
    return whole[:1] or [name for name in names if not NO_RAIL.match(name)]


Source = Tuple[str, ...]  # one file of milliwatts, or two of millivolts and milliamperes


def _ina3221_sources(tree: Tree) -> Dict[str, Source]:
    found: Dict[str, Source] = {}
    folders = [
        name[: -len("/name")] for pattern in I2C for name in tree.names(pattern) if _is_ina(tree, name)
    ]
    for folder in folders:
        for name in tree.names(folder + "/hwmon/hwmon*/in[0-9]*_label"):
            at, number = os.path.dirname(name), re.sub(r"\D", "", os.path.basename(name))
            files = ("%s/in%s_input" % (at, number), "%s/curr%s_input" % (at, number))
            _keep(found, tree.text(name), files)
        for name in tree.names(folder + "/iio:device*/rail_name_[0-9]*"):
            at, number = os.path.dirname(name), name.rpartition("_")[2]
            _keep(found, tree.text(name), ("%s/in_power%s_input" % (at, number),))
    return found


def alarm_files(tree: Tree) -> Dict[str, List[str]]:
    """{rail: files} that hold 1 while the rail's current is over its warning or critical limit."""
    found: Dict[str, List[str]] = {}
    for rail, source in _ina3221_sources(tree).items():
        if len(source) == 2:  # hwmon; iio has limits but no alarms
            current = source[1][: -len("_input")]
            files = [name for kind in ("max", "crit") for name in tree.names("%s_%s_alarm" % (current, kind))]
            if files:
                found[rail] = files
    return found


def _is_ina(tree: Tree, name: str) -> bool:
    return INA in (tree.text(name) or "")


def _keep(found: Dict[str, Source], rail: Optional[str], files: Source) -> None:
    if rail and not NO_RAIL.match(rail) and len(found) < MAX_RAILS:
        found.setdefault(rail[:64], files)


def _milliwatts(tree: Tree, source: Source) -> Optional[float]:
    values = [tree.number(name) for name in source]
    if len(values) == 1:
        return None if values[0] is None else float(values[0])
    millivolts, milliamperes = values
    return None if millivolts is None or milliamperes is None else millivolts * milliamperes / 1000.0


def _tegrastats(tree: Tree, soc: Optional[str], run_line: RunTool) -> Optional[Meter]:
    """For users who may not read the sensors' files: tegrastats may, and prints power to everybody."""
    if not tree.live or not (soc or "").startswith("tegra"):
        return None

    def read() -> Milliwatts:
        rails = tegrastats.parse(run_line(TEGRASTATS, "--interval", TEGRASTATS_MS))["rails_mw"]
        return {name: float(value) for name, value in rails.items()}

    names = list(read())
    if not names:
        return None
    meter = Meter(names, board_total(names), "tegrastats", read)
    meter.slow = True
    return meter


# --- Raspberry Pi 5: the PMIC ---------------------------------------------------------------------


def parse_pmic(text: str) -> Milliwatts:
    """The rails in the output of `vcgencmd pmic_read_adc` that have both a current and a voltage."""
    found: Dict[str, Dict[str, float]] = {}
    for rail, unit, _kind, number in PMIC.findall(text):
        if rail in NO_LOAD or len(found) > MAX_RAILS:
            continue
        try:
            found.setdefault(rail, {})[unit] = float(number)
        except ValueError:  # "1.2.3"
            continue
    return {rail: 1000.0 * both["A"] * both["V"] for rail, both in found.items() if len(both) == 2}


def _pmic(tree: Tree, soc: Optional[str], run_tool: RunTool) -> Optional[Meter]:
    if not tree.live or soc != "bcm2712":
        return None
    for path in PMIC_TOOL:
        names = list(parse_pmic(run_tool(path, "pmic_read_adc")))
        if names:
            meter = Meter(names, names, PMIC_METHOD, _pmic_reader(path, run_tool))
            meter.slow = True
            return meter
    return None


def _pmic_reader(path: str, run_tool: RunTool) -> Callable[[], Milliwatts]:
    return lambda: parse_pmic(run_tool(path, "pmic_read_adc"))


# --- x86: energy counters -------------------------------------------------------------------------


class Counter:
    """Mean power between two readings of a counter of microjoules that wraps around."""

    def __init__(self, range_uj: Optional[int]) -> None:
        self._range_uj = range_uj
        self._last: Optional[Tuple[float, int]] = None

    def milliwatts(self, now_s: float, energy_uj: Optional[int]) -> Optional[float]:
        """The mean since the reading before; None for the first one and for what cannot be told."""
        last, self._last = self._last, None if energy_uj is None else (now_s, energy_uj)
        if last is None or energy_uj is None or now_s <= last[0]:
            return None
        spent_uj = energy_uj - last[1]
        if spent_uj < 0:
            if self._range_uj is None:
                return None
            spent_uj += self._range_uj
        return spent_uj / (now_s - last[0]) / 1000.0 if spent_uj >= 0 else None


def _rapl(tree: Tree, clock: Callable[[], float]) -> Optional[Meter]:
    zones = _zones(tree)
    if not zones:
        return None
    counters = {name: Counter(tree.number(folder + "/max_energy_range_uj")) for name, folder in zones.items()}

    def read() -> Milliwatts:
        found = {
            name: counters[name].milliwatts(clock(), tree.number(folder + "/energy_uj"))
            for name, folder in zones.items()
        }
        return {name: value for name, value in found.items() if value is not None}

    read()
    total = [name for name in zones if name.startswith(("package", "dram"))]
    method = "processor energy counters (RAPL; the processor and its memory, not the whole computer)"
    return Meter(list(zones), total or list(zones), method, read)


def _zones(tree: Tree) -> Dict[str, str]:
    """{zone: folder} of packages and memory; "core" and "uncore" are parts of a package."""
    found: Dict[str, str] = {}
    for name in tree.names(POWERCAP):
        folder, zone = os.path.dirname(name), tree.text(name) or ""
        if not zone.startswith(("package", "dram")) or tree.number(folder + "/energy_uj") is None:
            continue
        if zone == "dram":  # one a package, all of one name
            zone = "dram-" + os.path.basename(folder).split(":")[1]
        found[zone] = folder
    return found


def names(tree: Tree, soc: Optional[str], run_tool: RunTool) -> Dict[str, Any]:
    """The fields of Facts about power: rails and the way they are read."""
    meter = find(tree, soc, run_tool)
    return {
        "rails": [] if meter is None else meter.names,
        "power_method": None if meter is None else meter.method,
    }
