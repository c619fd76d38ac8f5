"""How the benchmarks measure: fresh processes, pairs side by side, medians; never one number alone."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

TIMEOUT_S = 600


class Ratio(NamedTuple):
    """One line of the table: what over what, the median ratio of the pairs with its range, and its limit."""

    name: str
    ratio: float
    low: float
    high: float
    pairs: int
    limit: float
    remark: str = ""

    @property
    def holds(self) -> bool:
        """Whether the figure that the design asks for is reached."""
        return self.ratio <= self.limit


class Figure(NamedTuple):
    """One line that is no ratio: a measured amount and its limit."""

    name: str
    value: float
    limit: float
    unit: str
    remark: str = ""

    @property
    def holds(self) -> bool:
        """Whether the figure that the design asks for is reached."""
        return self.value <= self.limit


Line = Ratio | Figure


def paired(
    name: str,
    ours: Callable[[], float],
    theirs: Callable[[], float],
    *,
    pairs: int,
    limit: float,
    remark: str = "",
) -> Ratio:
    """The median of ours over theirs, measured in turn (ABBA), so that a slow minute touches both."""
    ratios = []
    for number in range(pairs):
        if number % 2 == 0:
            mine, other = ours(), theirs()
        else:
            other, mine = theirs(), ours()
        ratios.append(mine / other)
    return Ratio(name, statistics.median(ratios), min(ratios), max(ratios), pairs, limit, remark)


def run(argv: Sequence[str], **environment: str) -> str:
    """What a command prints; a failing command is an error that shows its stderr."""
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, **environment},
    )
    if done.returncode != 0:
        raise RuntimeError(f"{argv} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return done.stdout


def wall_s(argv: Sequence[str], **environment: str) -> float:
    """Seconds that a command takes, start to end."""
    started = time.perf_counter()
    run(argv, **environment)
    return time.perf_counter() - started


def python(*arguments: str) -> list[str]:
    """A command line for this Python."""
    return [sys.executable, *arguments]


PEAK = "\nprint([l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')][0])"


def peak_bytes(script: str, **environment: str) -> int:
    """The high-water mark of resident memory of a Python script in a process of its own."""
    return int(run(python("-c", script + PEAK), **environment).split()[-1]) * 1024


def resident_bytes() -> int:
    """The resident memory of this process now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
