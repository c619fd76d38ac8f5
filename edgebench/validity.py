"""Launch x limits -> whether the launch counts: by the board's state, never by the numbers measured.

What is unknown spoils nothing. A launch that counts may carry notes: what happened that is worth knowing.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgebench.records import Conditions, Launch, Limits, Track, replace
from edgebench.units import format_bytes, significant

# Of a board that is there for measuring; a target of shared computers sets its own limit.
MAX_FOREIGN_CORES = 0.5
FELL = 0.97  # measured clocks of a clock that holds vary by less
GPU_IN_USE = 0.1  # below this load a locked GPU may be switched off, and its clock means nothing


def judged(launch: Launch, limits: Limits) -> Launch:
    """The launch, marked invalid with its reasons where the board's state spoils it, and with its notes."""
    reasons = tuple(_reasons(launch, limits))
    alarms = launch.track.alarms if launch.track else ()
    notes = tuple(dict.fromkeys((*launch.notes, *_over_current(launch, lowering=False), *alarms)))
    if not reasons:
        return launch if notes == launch.notes else replace(launch, notes=notes)
    return replace(launch, valid=False, invalid_reason="; ".join(reasons), notes=notes)


def _reasons(launch: Launch, limits: Limits) -> Iterator[str]:
    before, after, track = launch.before, launch.after, launch.track or Track()
    yield from _throttled(before, after, track)
    yield from _over_current(launch, lowering=True)
    yield from _changed(before, after)
    yield from _fell(track)
    yield from _swapped(before, after)
    yield from _hot(launch, limits)
    yield from _large(launch, limits)
    yield from _shared(launch, limits)


# --- throttling -----------------------------------------------------------------------------------


def _throttled(before: Conditions, after: Conditions, track: Track) -> Iterator[str]:
    """The state before, during and after; under-voltage is one of its reasons."""
    if before.throttled or track.throttled or after.throttled:
        reasons = (*before.throttle_now, *track.throttle_events, *after.throttle_now)
        told = ", ".join(dict.fromkeys(reasons))
        flags = after.throttle_flags or before.throttle_flags
        why = ": ".join(part for part in (told, flags) if part) or "live flag"
        yield f"the board was throttled ({why}) {_when(before, after)}"
    elif before.throttle_flags and after.throttle_flags and before.throttle_flags != after.throttle_flags:
        new = [word for word in after.throttle_since_boot if word not in before.throttle_since_boot]
        told = f" ({', '.join(new)})" if new else ""
        yield f"throttle flags changed from {before.throttle_flags} to {after.throttle_flags}{told}"


def _when(before: Conditions, after: Conditions) -> str:
    if before.throttled:
        return "before it began"
    return "at its end" if after.throttled else "while it ran"


def _over_current(launch: Launch, *, lowering: bool) -> Iterator[str]:
    """Over-current events during the launch: of the kinds that lower the clocks, or of the others."""
    before, after = launch.before, launch.after
    for name, count in after.over_current.items():
        known = before.over_current.get(name)
        if known is None or count <= known or (name in after.over_current_throttles) is not lowering:
            continue
        events = "1 over-current event" if count - known == 1 else f"{count - known} over-current events"
        meaning = _OVER_CURRENT.get(name, name)
        yield f"{events} ({name}, {meaning}){', which lower the clocks' if lowering else ''}"


_OVER_CURRENT = {
    "oc1": "under-voltage",
    "oc2": "average over-current",
    "oc3": "instantaneous over-current",
}


# --- clocks ---------------------------------------------------------------------------------------


def _changed(before: Conditions, after: Conditions) -> Iterator[str]:
    if before.governor and after.governor and before.governor != after.governor:
        yield f"the governor changed from {before.governor} to {after.governor}"
    limits = before.clock_max_khz, after.clock_max_khz
    if all(limits) and limits[0] != limits[1]:
        yield f"the clock limits changed from {_listed(limits[0])} to {_listed(limits[1])}"
    gpu = before.gpu_clock_max_khz, after.gpu_clock_max_khz
    if gpu[0] is not None and gpu[1] is not None and gpu[0] != gpu[1]:
        yield f"the GPU's clock limit changed from {_mhz(gpu[0])} to {_mhz(gpu[1])}"
    if before.clocks_locked is True and after.clocks_locked is False:
        yield "the clocks were no longer locked at its end"


def _fell(track: Track) -> Iterator[str]:
    """Clocks that were lower, at a reading under load, than the one value they were held at."""
    for name, pinned_khz in track.pinned_khz.items():
        clock = track.clocks_khz.get(name)
        if clock is None or clock.low >= FELL * pinned_khz:
            continue
        if name == "gpu" and (track.gpu_load is None or track.gpu_load.mean < GPU_IN_USE):
            continue
        yield f"the clock {name} fell to {_mhz(clock.low)} although it was held at {_mhz(pinned_khz)}"


def _listed(clocks_khz: tuple[int, ...]) -> str:
    return ", ".join(_mhz(clock) for clock in dict.fromkeys(clocks_khz))


def _mhz(clock_khz: float) -> str:
    return f"{clock_khz / 1000:.0f} MHz"


# --- memory, heat, company ------------------------------------------------------------------------


def _swapped(before: Conditions, after: Conditions) -> Iterator[str]:
    if before.swapped_in_pages is None or after.swapped_in_pages is None:
        return
    pages = after.swapped_in_pages - before.swapped_in_pages
    if pages > 0:
        yield f"{pages} pages were swapped in"


def _large(launch: Launch, limits: Limits) -> Iterator[str]:
    peak_bytes = launch.memory.peak_bytes
    if limits.memory_mib is None or peak_bytes is None or peak_bytes <= limits.memory_mib << 20:
        return
    yield f"{format_bytes(peak_bytes)} of memory are over the target's limit of {limits.memory_mib} MiB"


def _hot(launch: Launch, limits: Limits) -> Iterator[str]:
    seen = (launch.before.temperature_c, launch.after.temperature_c, _hottest(launch.track))
    temperatures = [each for each in seen if each is not None]
    if limits.max_temperature_c is None or not temperatures or max(temperatures) <= limits.max_temperature_c:
        return
    limit = f"over the target's limit of {limits.max_temperature_c:.0f} °C"
    yield f"{max(temperatures):.0f} °C is {limit}"


def _hottest(track: Track | None) -> float | None:
    """The highest temperature of the whole launch, warm-up and loading included."""
    if track is None:
        return None
    readings = [each for each in track.series.get("temperature_c", ()) if each is not None]
    known = [*readings, *([] if track.temperature_max_c is None else [track.temperature_max_c])]
    return max(known, default=None)


def _shared(launch: Launch, limits: Limits) -> Iterator[str]:
    most = MAX_FOREIGN_CORES if limits.max_foreign_cores is None else limits.max_foreign_cores
    if launch.foreign_load is None or launch.foreign_load <= most:
        return
    cores = significant(launch.foreign_load, 2)
    whose = "edgebench's" if limits.max_foreign_cores is None else "the target's"
    yield f"other processes kept {cores} cores busy, over {whose} limit of {most:g}"
