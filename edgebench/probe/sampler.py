"""The sampler: a process of its own that reads heat, clocks and power while a launch runs.

It serves one session, from its first launch on, so that its start disturbs no launch. One JSON object a line:

    <- {"ready": true, "power": true}         once
    -> {"begin": true}                        a launch starts
    -> {"mark": "samples"}, {"mark": "done"}  its timed part begins, ends
    -> {"end": true}                          <- {"track": {...}, "before": {...}, "after": {...}}

It ends with its stdin or with the session (PR_SET_PDEATHSIG), and keeps at most MAX_POINTS readings.
"""

import os
import select
import time
from typing import Dict, List, Optional, Set

from . import conditions, facts, orphan, wire
from .gauges import Figures, Gauges
from .tree import Tree, run_tool
from .wire import Json

MAX_POINTS = 600
NICE = 10
WANTED = ("temperature_c", "power_mw", "gpu_load")


def main(root: str = "/") -> None:
    """Serve until stdin ends; `root` is another folder in tests only."""
    output = wire.take_stdout()
    orphan.die_with_session()
    os.nice(NICE)
    tree = Tree(root)
    sampler = Sampler(Gauges(tree, facts.soc_name(tree), run_tool), root)
    output.send({"ready": True, "power": sampler.gauges.meter is not None})
    lines = wire.LineReader()
    while True:
        ready, _, _ = select.select([0], [], [], sampler.wait_s())
        if not ready:
            sampler.take()
            continue
        chunk = os.read(0, 65536)
        if not chunk:
            os._exit(0)
        for line in lines.feed(chunk):
            answer = sampler.obey(wire.parse(line or b"{}"))
            if answer is not None:
                output.send(answer)


class Sampler:
    """Obeys the session's messages; takes readings in between."""

    def __init__(self, gauges: Gauges, root: str = "/") -> None:
        self.gauges = gauges
        self._root = root
        self._recording: Optional[Recording] = None
        self._next_s = 0.0
        self._before: Json = {}
        self._after: Json = {}
        self._spent_s = 0.0

    def wait_s(self) -> Optional[float]:
        """Seconds until the next reading; None while no launch runs."""
        return None if self._recording is None else max(0.0, self._next_s - time.monotonic())

    def obey(self, message: Json) -> Optional[Json]:
        """The answer to a message of the session, or None."""
        if message.get("begin"):
            self._begin()
        elif "mark" in message:
            self._mark(str(message["mark"]))
        elif message.get("end"):
            return self._end()
        return None

    def take(self) -> None:
        """One reading."""
        recording = self._recording
        if recording is None:
            return
        recording.add(self.gauges.read())
        recording.throttle(*self.gauges.throttle())
        recording.alarms(self.gauges.alarms())
        self._next_s = max(self._next_s + self.gauges.interval_s, time.monotonic())

    def _begin(self) -> None:
        self._spent_s = _spent_s()
        self._before = conditions.read(self._root)
        self._after = {}
        self._recording = Recording(self.gauges.interval_s, self.gauges.pinned())
        if self.gauges.meter is not None:
            self.gauges.meter.read()  # a counter's first reading only says where it stands
        self._next_s = time.monotonic() + self.gauges.interval_s

    def _mark(self, phase: str) -> None:
        recording = self._recording
        if recording is None:
            return
        recording.mark(phase)
        if phase == "samples":  # half an interval later the load is what it will be
            self._next_s = time.monotonic() + self.gauges.interval_s / 2.0
        elif phase == "done":
            self._after = conditions.read(self._root)

    def _end(self) -> Json:
        recording, self._recording = self._recording, None
        if recording is None:
            return {"track": None}
        track = recording.to_json()
        meter = self.gauges.meter
        track["power_rail"] = None if meter is None else meter.total_name
        track["power_method"] = None if meter is None else meter.method
        track["cpu_s"] = round(_spent_s() - self._spent_s, 4)
        return {"track": track, "before": self._before, "after": self._after or conditions.read(self._root)}


class Recording:
    """The readings of one launch, bounded; `to_json` has the fields of the record Track."""

    def __init__(self, interval_s: float, pinned_khz: Dict[str, int]) -> None:
        self._interval_s = interval_s
        self._pinned_khz = pinned_khz
        self._start_s = time.monotonic()
        self._from_s: Optional[float] = None
        self._to_s: Optional[float] = None
        self._stride, self._seen = 1, 0
        self._times: List[float] = []
        self._series: Dict[str, List[Optional[float]]] = {}
        self._spreads: Dict[str, List[float]] = {}
        self._throttled: Optional[bool] = None
        self._events: Set[str] = set()
        self._alarms: Set[str] = set()

    def mark(self, phase: str) -> None:
        """The timed part begins with the phase "samples" and ends with "done"."""
        if phase == "samples":
            self._from_s = self._now_s()
        elif phase == "done" and self._from_s is not None:
            self._to_s = self._now_s()

    def add(self, figures: Figures) -> None:
        """One reading: into the series, and into the figures of the timed part when it falls into that."""
        if self._from_s is not None and self._to_s is None:
            for name, value in figures.items():
                _widen(self._spreads.setdefault(name, [0, value, 0.0, value]), value)
        if self._seen % self._stride == 0:
            self._keep(figures)
        self._seen += 1

    def throttle(self, now: Optional[bool], reasons: Set[str]) -> None:
        """The throttle state of this moment: at any time of the launch counts."""
        if now is not None:
            self._throttled = bool(self._throttled or now)
        self._events |= reasons

    def alarms(self, seen: Set[str]) -> None:
        """What was seen at any time of the launch without being throttling."""
        self._alarms |= seen

    def to_json(self) -> Json:
        """The fields of Track that come from the readings; None is unknown."""
        spreads = {name: _spread(values) for name, values in self._spreads.items()}
        heat = spreads.get("temperature_c")
        return {
            "interval_s": self._interval_s,
            "from_s": self._from_s,
            "to_s": self._to_s,
            "times_s": self._times,
            "series": self._series,
            "temperature_max_c": None if heat is None else heat["high"],
            "temperature_mean_c": None if heat is None else heat["mean"],
            "clocks_khz": _named(spreads, "clock:"),
            "pinned_khz": self._pinned_khz,
            "rails_mw": _named(spreads, "rail:"),
            "power_mw": spreads.get("power_mw"),
            "gpu_load": spreads.get("gpu_load"),
            "throttled": self._throttled,
            "throttle_events": sorted(self._events),
            "alarms": sorted(self._alarms),
            "unknown": [name for name in WANTED if name not in spreads],
        }

    def _now_s(self) -> float:
        return round(time.monotonic() - self._start_s, 3)

    def _keep(self, figures: Figures) -> None:
        if len(self._times) >= MAX_POINTS:
            self._thin()
        for name in figures:
            self._series.setdefault(name, [None] * len(self._times))
        self._times.append(self._now_s())
        for name, values in self._series.items():
            values.append(figures.get(name))

    def _thin(self) -> None:
        """Every second reading goes, and from now on only every second is kept."""
        self._stride *= 2
        self._times = self._times[::2]
        self._series = {name: values[::2] for name, values in self._series.items()}


def _widen(spread: List[float], value: float) -> None:
    """[readings, lowest, sum, highest] with one more value."""
    spread[0] += 1
    spread[1] = min(spread[1], value)
    spread[2] += value
    spread[3] = max(spread[3], value)


def _spread(values: List[float]) -> Json:
    count, low, total, high = values
    return {"readings": int(count), "low": low, "mean": round(total / count, 3), "high": high}


def _named(spreads: Dict[str, Json], prefix: str) -> Dict[str, Json]:
    return {name[len(prefix) :]: each for name, each in spreads.items() if name.startswith(prefix)}


def _spent_s() -> float:
    spent = os.times()
    return spent[0] + spent[1] + spent[2] + spent[3]
