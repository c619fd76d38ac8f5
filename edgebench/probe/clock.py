"""The clock of all latencies: monotonic, as fine as the system has it, read without any work around it.

Python 3.6 has no `perf_counter_ns`. There the float clock is read inside the timed loop just as directly, and
differences become nanoseconds afterwards: doubles keep a nanosecond for 52 days of uptime.
"""

import time
from typing import Any

NS_PER_S = 1000000000

tick: Any = getattr(time, "perf_counter_ns", None)

if tick is not None:
    TYPECODE = "q"
    TICKS_PER_S = float(NS_PER_S)

    def to_ns(ticks: Any) -> int:
        """Integer nanoseconds of a difference of two ticks."""
        return int(ticks)

else:
    tick = time.perf_counter
    TYPECODE = "d"
    TICKS_PER_S = 1.0

    def to_ns(ticks: Any) -> int:
        """Integer nanoseconds of a difference of two ticks."""
        return round(float(ticks) * NS_PER_S)


class Clock:
    """A clock as the launch uses it: `tick` to read, `to_ns` for differences, an array type to store them."""

    tick = staticmethod(tick)
    to_ns = staticmethod(to_ns)
    typecode = TYPECODE
    ticks_per_s = TICKS_PER_S
