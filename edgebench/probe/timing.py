"""The timed part of a launch: warm-up until stable, then samples; only the call is between two readings."""

import gc
from array import array
from typing import Any, Callable, Dict, Tuple

from . import conditions
from .foreign import ForeignLoad
from .memory import Ladder
from .wire import Json

MAX_SAMPLES = 200000
BLOCK = 10
STABLE = 0.01
Times = Any  # an array of the clock's ticks
Warmth = Tuple[Times, bool]  # times, and whether they have settled


def steady(
    warm: Callable[[], Warmth],
    take: Callable[[], Dict[str, Times]],
    clock: Any,
    enter: Callable[[str], None],
    ladder: Ladder,
) -> Json:
    """Warm-up and samples, with the garbage collector off: its time is not the model's.

    `take` gives the times of each field of the result.
    """
    gc.collect()
    gc.disable()
    try:
        enter("warmup")
        warmup, stable = warm()
        enter("samples")
        before = conditions.read(tools=False)
        ladder.before_samples()
        foreign = ForeignLoad()
        taken = take()
        cores = foreign.cores()
        ladder.after_samples()
        after = conditions.read(tools=False)
    finally:
        gc.enable()
    result: Json = {name: [clock.to_ns(ticks) for ticks in times] for name, times in taken.items()}
    result.update(
        warmup_ns=[clock.to_ns(ticks) for ticks in warmup],
        warmup_stable=stable,
        before=before,
        after=after,
        foreign_load=cores,
    )
    return result


def warm_up(run: Callable[[], Any], clock: Any, workload: Json) -> Warmth:
    """(times, stable): at least `warmup_samples` and until the last two blocks of ten agree within 1 %.

    It ends after `max_warmup_s` in any case, then as not stable.
    """
    tick, times = clock.tick, array(clock.typecode)
    wanted, limit = max(workload["warmup_samples"], 2 * BLOCK), workload["max_warmup_s"] * clock.ticks_per_s
    begin = end = tick()
    while end - begin < limit and len(times) < MAX_SAMPLES:
        start = tick()
        run()
        end = tick()
        times.append(end - start)
        if len(times) >= wanted and len(times) % BLOCK == 0 and settled(times):
            return times, True
    return times, False


def settled(times: Times) -> bool:
    """True when the medians of the last two blocks of ten differ by less than 1 %."""
    last, previous = _median(times[-BLOCK:]), _median(times[-2 * BLOCK : -BLOCK])
    return abs(last - previous) < STABLE * previous


def _median(times: Times) -> float:
    ordered, half = sorted(times), len(times) // 2
    odd = len(ordered) % 2
    return float(ordered[half] if odd else (ordered[half - 1] + ordered[half]) / 2.0)


def take_samples(run: Callable[[], Any], clock: Any, workload: Json) -> Times:
    """Times until there are `min_samples` and `min_duration_s` is over; at most `max_duration_s` and 200,000.

    Between the two clock readings there is nothing but the call. Times go into a flat array: a list of
    integers would grow the process while its memory is being measured.
    """
    tick, times = clock.tick, array(clock.typecode)
    append, count = times.append, 0
    least = min(workload["min_samples"], MAX_SAMPLES)
    soft, hard = (
        workload["min_duration_s"] * clock.ticks_per_s,
        workload["max_duration_s"] * clock.ticks_per_s,
    )
    begin = tick()
    while True:
        start = tick()
        run()
        end = tick()
        append(end - start)
        count += 1
        spent = end - begin
        if (count >= least and spent >= soft) or spent >= hard or count >= MAX_SAMPLES:
            return times
