"""Launches -> energy of one inference, where the board has power rails. Pure.

Gross is the board's mean power while samples were taken, times the mean time of an inference; net is the
same above the power of the quiet board. Rails do not see everything (peripherals, converter losses), so every
figure names what it was read from. None where there is no rail, and never 0 for unknown.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from edgebench.records import Launch, Record
from edgebench.units import NS_PER_S

MIN_READINGS = 2  # one reading of a power that varies says nothing
MIN_IDLE_READINGS = 2


class Energy(Record, frozen=True):
    """Millijoules for one inference: `gross_mj` in all, `net_mj` above idling (None where that is unknown).

    `power_mw` and `idle_mw` are the means behind them; `rail` is what was read, `method` how. `readings` is
    the smallest number of power readings in a launch.
    """

    gross_mj: float
    net_mj: float | None
    power_mw: float
    idle_mw: float | None
    rail: str
    method: str
    readings: int


def of_launch(launch: Launch) -> Energy | None:
    """The energy of one inference of a launch; None without rails, samples or enough readings."""
    track = launch.track
    if track is None or track.power_mw is None or not launch.samples_ns:
        return None
    if track.power_mw.readings < MIN_READINGS or not track.power_mw.mean > 0:
        return None
    seconds = sum(launch.samples_ns) / len(launch.samples_ns) / NS_PER_S
    power_mw, idle_mw = track.power_mw.mean, track.idle_power_mw
    if track.idle_readings < MIN_IDLE_READINGS:
        idle_mw = None
    return Energy(
        gross_mj=power_mw * seconds,
        # at or below 0 nothing above idling could be seen: that is unknown, not 0
        net_mj=(power_mw - idle_mw) * seconds if idle_mw is not None and power_mw > idle_mw else None,
        power_mw=power_mw,
        idle_mw=idle_mw,
        rail=track.power_rail or "",
        method=track.power_method or "",
        readings=track.power_mw.readings,
    )


def of_launches(launches: Iterable[Launch]) -> Energy | None:
    """The medians over the launches whose energy is known; None where none is."""
    each = [energy for energy in map(of_launch, launches) if energy is not None]
    if not each:
        return None
    gross_mj = _median([energy.gross_mj for energy in each])
    power_mw = _median([energy.power_mw for energy in each])
    if gross_mj is None or power_mw is None:
        return None
    return Energy(
        gross_mj=gross_mj,
        net_mj=_median([energy.net_mj for energy in each if energy.net_mj is not None]),
        power_mw=power_mw,
        idle_mw=_median([energy.idle_mw for energy in each if energy.idle_mw is not None]),
        rail=each[-1].rail,
        method=each[-1].method,
        readings=min(energy.readings for energy in each),
    )


def _median(values: Sequence[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return statistics.median(finite) if finite else None
