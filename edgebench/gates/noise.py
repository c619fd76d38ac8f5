"""A/A history of devices -> what the gate knows of their noise. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median

from edgebench.gates.base import DeviceNoise, FloorKnown, SessionNoise
from edgebench.records import NoiseFloor

LEAST_SESSIONS = 5
LAST_FLOORS = 5


def known_noise(floors: Iterable[NoiseFloor]) -> dict[tuple[str, str], DeviceNoise]:
    """By (device, runtime), from floors of separate launches, newest first."""
    found: dict[tuple[str, str], list[NoiseFloor]] = {}
    for each in floors:
        if each.design == "separate":
            found.setdefault((each.device, each.runtime), []).append(each)
    return {key: _of(history) for key, history in found.items()}


def _of(history: Sequence[NoiseFloor]) -> DeviceNoise:
    """What the floors say that were taken with the board and power mode of the newest."""
    newest = history[0]
    alike = [each for each in history if (each.board, each.power_mode) == (newest.board, newest.power_mode)]
    return DeviceNoise(session=_between_sessions(alike), floor=_floor(alike[:LAST_FLOORS]))


def _floor(floors: Sequence[NoiseFloor]) -> FloorKnown:
    newest = floors[0]
    several = f"{len(floors)} A/A, the last of" if len(floors) > 1 else "A/A of"
    told = f"{newest.device} with {newest.runtime} ({several} {newest.measured_utc[:10]})"
    return FloorKnown(least_effect=median(each.least_effect for each in floors), told=told)


def _between_sessions(floors: Sequence[NoiseFloor]) -> SessionNoise | None:
    """The variance of a difference of two sessions; None below five sessions of one artifact and version.

    Sessions of several artifacts are pooled: deviations from each artifact's own mean.
    """
    same: dict[tuple[str, str], list[float]] = {}
    for each in floors:
        same.setdefault((each.artifact_digest, each.runtime_version), []).append(each.level)
    freedom = sum(len(levels) - 1 for levels in same.values())
    if freedom < LEAST_SESSIONS - 1:
        return None
    squares = math.fsum(_squares(levels) for levels in same.values())
    return SessionNoise(variance=2 * squares / freedom, freedom=freedom)


def _squares(levels: Sequence[float]) -> float:
    mean = math.fsum(levels) / len(levels)
    return math.fsum((level - mean) ** 2 for level in levels)
