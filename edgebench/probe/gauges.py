"""What is read again and again while a launch runs: heat, clocks, power, load, throttle state.

The files are found once; a reading only opens them. Figures have flat names: "temperature_c", "power_mw",
"rail:VDD_IN" (mW), "clock:cpu0" (kHz), "gpu_load" (a share). One that cannot be read is not there, never 0.
"""

import os
import re
from typing import Callable, Dict, List, Optional, Set, Tuple

from . import conditions, jetson, power, rails, raspberry
from .tree import Tree

RunTool = Callable[..., str]
Figures = Dict[str, float]
MAX_DOMAINS = 16  # of a server's hundreds of clocks these are read, evenly spread
QUICK_S, SLOW_S = 0.5, 1.0  # between readings: of files only, and where a tool must be forked
POLICY_NUMBER = re.compile(r"\D*(\d+)")
# drivers whose processor chooses its own clock below the highest: there it proves nothing
OWN_CHOICE = re.compile(r"intel_|amd|acpi|cppc|pcc")


class Gauges:
    """Everything of one device that `read` reads."""

    def __init__(self, tree: Tree, soc: Optional[str], run_tool: RunTool) -> None:
        self._tree = tree
        self._run_tool = run_tool
        self._heat = conditions.heat_files(tree)
        self._clocks = _clock_files(tree)
        self._gpu = jetson.gpu_folder(tree)
        self._gpu_load = jetson.gpu_load_file(tree, self._gpu)
        self._soc = soc
        self._word = next(iter(tree.names(raspberry.FIRMWARE)), None)
        self._cooling = power.cooling_files(tree)
        self._voltage = power.under_voltage_file(tree)
        self._alarms = rails.alarm_files(tree)
        self._vcgencmd = tree.live and raspberry.is_one(soc) and bool(raspberry.ask(run_tool, "version"))
        self.meter = rails.find(tree, soc, run_tool)
        slow = self._vcgencmd or (self.meter is not None and self.meter.slow)
        self.interval_s = SLOW_S if slow else QUICK_S

    def read(self) -> Figures:
        """The figures of this moment."""
        found: Figures = {}
        self._add(
            found, "temperature_c", conditions.hottest([self._tree.number(name) for name in self._heat])
        )
        for domain, name in self._clocks.items():
            self._add(found, "clock:" + domain, self._tree.number(name))
        if self._vcgencmd:
            measured = raspberry.parse_clock(raspberry.ask(self._run_tool, "measure_clock", "arm"))
            self._add(found, "clock:arm measured", measured)
        self._read_gpu(found)
        self._read_power(found)
        return found

    def throttle(self) -> Tuple[Optional[bool], Set[str]]:
        """(throttled now, the reasons in words)."""
        states = [self._tree.number(name) for name in self._cooling]
        known = [state for state in states if state is not None]
        reasons = {"passive cooling"} if any(state > 0 for state in known) else set()
        word = self._throttle_word()
        if word is not None:
            reasons.update(raspberry.words(word)[0])
        low = None if self._voltage is None else self._tree.number(self._voltage)
        if low:
            reasons.add("under-voltage")
        return (bool(reasons) if known or word is not None or low is not None else None), reasons

    def alarms(self) -> Set[str]:
        """Rails whose current is over its limit, in words: worth knowing, but no throttling by itself."""
        return {
            "current of %s over its limit" % rail
            for rail, files in self._alarms.items()
            if any(self._tree.number(name) for name in files)
        }

    def pinned(self) -> Dict[str, int]:
        """{domain: kHz} of the clocks that are held at one value, by the governor or by equal limits."""
        found: Dict[str, int] = {}
        for domain, name in self._clocks.items():
            clock = _pinned_clock(self._tree, os.path.dirname(name))
            if clock is not None:
                found[domain] = clock
        if self._vcgencmd and len(found) == len(self._clocks) == 1:
            found["arm measured"] = next(iter(found.values()))
        lowest, highest = self._gpu_limit("min_freq"), self._gpu_limit("max_freq")
        if highest and lowest == highest:
            found["gpu"] = highest // 1000
        return found

    def _gpu_limit(self, name: str) -> Optional[int]:
        return None if self._gpu is None else self._tree.number("%s/%s" % (self._gpu, name))

    def _throttle_word(self) -> Optional[int]:
        if self._word is not None:
            return raspberry.parse_throttled(self._tree.text(self._word, 64) or "")
        if not self._vcgencmd:
            return None
        return raspberry.parse_throttled(raspberry.ask(self._run_tool, "get_throttled"))

    def _read_gpu(self, found: Figures) -> None:
        clock = self._gpu_limit("cur_freq")
        self._add(found, "clock:gpu", None if clock is None else clock // 1000)
        if self._gpu_load is not None:
            self._add(found, "gpu_load", jetson.gpu_load(self._tree.number(self._gpu_load)))

    def _read_power(self, found: Figures) -> None:
        if self.meter is None:
            return
        readings = self.meter.read()
        for name, value in readings.items():
            found["rail:" + name] = round(value, 3)
        self._add(found, "power_mw", self.meter.total_mw(readings))

    @staticmethod
    def _add(found: Figures, name: str, value: Optional[float]) -> None:
        if value is not None:
            found[name] = round(value, 3)


def _clock_files(tree: Tree) -> Dict[str, str]:
    """{"cpu0": file} of the clock that each frequency domain is asked for."""
    names = conditions.clock_files(tree, "scaling_cur_freq")
    step = max(1, -(-len(names) // MAX_DOMAINS))
    chosen: List[str] = names[::step]
    return {"cpu" + _number(name): name for name in chosen}


def _number(name: str) -> str:
    folder = os.path.dirname(name)
    if os.path.basename(folder) == "cpufreq":  # .../cpu3/cpufreq/scaling_cur_freq
        folder = os.path.dirname(folder)
    found = POLICY_NUMBER.match(os.path.basename(folder))
    return found.group(1) if found else "0"


def _pinned_clock(tree: Tree, folder: str) -> Optional[int]:
    if OWN_CHOICE.match(tree.text(folder + "/scaling_driver") or ""):
        return None
    highest, lowest = tree.number(folder + "/scaling_max_freq"), tree.number(folder + "/scaling_min_freq")
    held = tree.text(folder + "/scaling_governor") == "performance" or lowest == highest
    return highest if held else None
