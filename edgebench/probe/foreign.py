"""How many processor cores other processes kept busy while the samples were taken."""

import os
import resource
import time
from typing import Optional

STAT = "/proc/stat"
SHORTEST_S = 0.1  # below, the kernel's ticks of 10 ms are too coarse to tell


class ForeignLoad:
    """Started before the samples; `cores` afterwards gives the mean number of cores used by others."""

    def __init__(self) -> None:
        self._busy_s, self._own_s, self._wall_s = _busy_s(), _own_s(), time.perf_counter()

    def cores(self) -> Optional[float]:
        """A number from 0 on; None without /proc or after too short a time."""
        wall_s = time.perf_counter() - self._wall_s
        own_s, busy_s = _own_s() - self._own_s, _busy_s()
        if busy_s is None or self._busy_s is None or wall_s < SHORTEST_S:
            return None
        return round(max(0.0, (busy_s - self._busy_s - own_s) / wall_s), 4)


def parse_busy(stat: str) -> Optional[int]:
    """Ticks that all cores spent busy, from the first line of /proc/stat; None where it is missing.

    Idle and waiting for a disk is not busy; stolen by other machines is. Guest time is part of user time.
    """
    fields = stat.split("\n", 1)[0].split()
    if len(fields) < 5 or fields[0] != "cpu":
        return None
    ticks = [int(field) for field in fields[1:9]]
    return sum(ticks) - sum(ticks[3:5])


def _busy_s() -> Optional[float]:
    try:
        with open(STAT) as file:
            ticks = parse_busy(file.read(4096))
    except (OSError, ValueError):
        return None
    return None if ticks is None else ticks / float(os.sysconf("SC_CLK_TCK"))


def _own_s() -> float:
    """Processor seconds of this process and of the children that it has waited for (trtexec)."""
    spent = 0.0
    for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(whose)  # its times are right; its ru_maxrss is not
        spent += usage.ru_utime + usage.ru_stime
    return spent
