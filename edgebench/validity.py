"""Launch x limits -> whether the launch counts: by the board's state, never by the numbers measured."""

from __future__ import annotations

from edgebench.records import Conditions, Launch, Limits, replace
from edgebench.units import format_bytes


def judged(launch: Launch, limits: Limits) -> Launch:
    """The launch, marked invalid with its reason where the board's state spoils it."""
    reasons = (
        *_throttled(launch.before, launch.after),
        *_changed(launch.before, launch.after),
        *_swapped(launch.before, launch.after),
        *_hot(launch, limits),
        *_large(launch, limits),
    )
    if not reasons:
        return launch
    return replace(launch, valid=False, invalid_reason="; ".join(reasons))


def _throttled(before: Conditions, after: Conditions) -> tuple[str, ...]:
    if before.throttled or after.throttled:
        return (f"the board was throttled ({after.throttle_flags or before.throttle_flags or 'live flag'})",)
    if before.throttle_flags != after.throttle_flags:
        return (f"throttle flags changed from {before.throttle_flags} to {after.throttle_flags}",)
    return ()


def _changed(before: Conditions, after: Conditions) -> tuple[str, ...]:
    reasons = []
    if before.governor != after.governor:
        reasons.append(f"the governor changed from {before.governor} to {after.governor}")
    if before.clock_max_khz != after.clock_max_khz:
        reasons.append("the clock limits changed")
    return tuple(reasons)


def _swapped(before: Conditions, after: Conditions) -> tuple[str, ...]:
    if before.swapped_in_pages is None or after.swapped_in_pages is None:
        return ()
    pages = after.swapped_in_pages - before.swapped_in_pages
    return (f"{pages} pages were swapped in",) if pages > 0 else ()


def _large(launch: Launch, limits: Limits) -> tuple[str, ...]:
    peak_bytes = launch.memory.peak_bytes
    if limits.memory_mib is None or peak_bytes is None or peak_bytes <= limits.memory_mib << 20:
        return ()
    return (f"{format_bytes(peak_bytes)} of memory are over the target's limit of {limits.memory_mib} MiB",)


def _hot(launch: Launch, limits: Limits) -> tuple[str, ...]:
    temperatures = [t for t in (launch.before.temperature_c, launch.after.temperature_c) if t is not None]
    if limits.max_temperature_c is None or not temperatures or max(temperatures) <= limits.max_temperature_c:
        return ()
    return (f"{max(temperatures):.0f} °C is over the target's limit of {limits.max_temperature_c:.0f} °C",)
