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


HEAT_MARGIN_C = (
    5.0  # a board that was too hot cools down to so much below the limit, or is too hot again at once
)
PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0


def may_pass(launch: Launch, limits: Limits) -> bool:
    """Whether another launch may come out valid: not where the model needs more memory than is allowed."""
    return not _large(launch, limits)


def was_hot(launch: Launch, limits: Limits) -> bool:
    """Whether the board has to cool down after the launch: over its limit, or throttled."""
    return bool(_hot(launch, limits) or launch.before.throttled or launch.after.throttled)


def is_cool(now: Conditions, limits: Limits) -> bool:
    """Whether the board may be measured again after heat; what it does not tell is no obstacle."""
    if now.throttled:
        return False
    if now.temperature_c is None or limits.max_temperature_c is None:
        return True
    return now.temperature_c <= limits.max_temperature_c - HEAT_MARGIN_C


def pause_s(cooldown_s: float, repeat: int) -> float:
    """The rest before a repeat (1, 2, ...) of an invalid launch: twice as long each time."""
    return max(cooldown_s, min(PAUSE_S * 2.0 ** min(repeat - 1, 16), LONGEST_PAUSE_S))


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
