"""A metric over releases: points, jumps that last, boards that drift, the odd one of several sisters. Pure.

All of it is advice: between two sessions a board differs by itself, and no verdict stands on it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from itertools import pairwise

from edgebench.records import NoiseFloor, Record
from edgebench.units import significant

LEAST_SIDE = 3  # runs on each side of a jump
LEAST_JUMP = 0.02
MANY = 3.0  # a jump must exceed so many standard deviations of the noise
LEAST_SISTERS = 3
ODD = 3.5  # modified z-score (Iglewicz and Hoaglin 1993)
LEAST_ODD = 0.03
LEAST_DRIFT = 0.05


class Point(Record, frozen=True):
    """One value of a series: the release or run, when, the value with its interval."""

    run: str
    label: str
    created_utc: str
    value: float
    low: float | None = None
    high: float | None = None


class Jump(Record, frozen=True):
    """From this place on a series is on another level: by how many times."""

    at: int
    ratio: float


class Line(Record, frozen=True):
    """A cell's values, the oldest first, with its jumps."""

    name: str
    device: str
    target: str
    cell: str
    points: tuple[Point, ...]
    jumps: tuple[Jump, ...] = ()


class Drift(Record, frozen=True):
    """How far a device's A/A level moved from its first to its last sessions, with the runtime it ran."""

    device: str
    runtime: str
    sessions: int
    change: float
    since_utc: str


class Odd(Record, frozen=True):
    """A board that differs from its sisters of the same kind in one cell: by how many times."""

    device: str
    target: str
    cell: str
    ratio: float
    sisters: int


class History(Record, frozen=True):
    """What is said of earlier runs; `others`: the lines of more metrics, by their names."""

    metric: str
    lines: tuple[Line, ...]
    drifts: tuple[Drift, ...] = ()
    odd: tuple[Odd, ...] = ()
    others: dict[str, tuple[Line, ...]] = {}


def with_jumps(line: Line) -> Line:
    """The line with its change points."""
    logs = [math.log(point.value) for point in line.points if point.value > 0]
    if len(logs) != len(line.points):
        return line
    jumps = tuple(Jump(at=at, ratio=math.exp(shift)) for at, shift in change_points(logs))
    return Line(
        name=line.name,
        device=line.device,
        target=line.target,
        cell=line.cell,
        points=line.points,
        jumps=jumps,
    )


def change_points(values: Sequence[float]) -> list[tuple[int, float]]:
    """Where a series of logarithms steps to another level and stays, and by how much.

    By halving at the best split (least squares), with at least three values on each side. A step between the
    medians counts where it exceeds 2 % and three deviations of the noise, which is taken from the differences
    of neighbours, so that steps do not hide one another.
    """
    least = max(math.log1p(LEAST_JUMP), MANY * _noise(values))
    places = [0, *_splits(values, 0, least), len(values)]
    levels = [statistics.median(values[start:end]) for start, end in pairwise(places) if end > start]
    shifts = [after - before for before, after in pairwise(levels)]
    return [(at, shift) for at, shift in zip(places[1:-1], shifts, strict=True) if abs(shift) > least]


def _noise(values: Sequence[float]) -> float:
    """The standard deviation of a value within a level, from the median difference of neighbours."""
    apart = [abs(after - before) for before, after in pairwise(values)]
    return statistics.median(apart) / (0.6745 * math.sqrt(2)) if apart else 0.0


def _splits(values: Sequence[float], offset: int, least: float) -> list[int]:
    places = range(LEAST_SIDE, len(values) - LEAST_SIDE + 1)
    if not places:
        return []
    at = min(places, key=lambda place: _squares(values[:place]) + _squares(values[place:]))
    left, right = values[:at], values[at:]
    if abs(statistics.median(right) - statistics.median(left)) <= least:
        return []
    return [*_splits(left, offset, least), offset + at, *_splits(right, offset + at, least)]


def _squares(values: Sequence[float]) -> float:
    mean = statistics.fmean(values)
    return math.fsum((value - mean) ** 2 for value in values)


def drifts(floors: Iterable[NoiseFloor]) -> tuple[Drift, ...]:
    """Devices whose A/A level of one artifact moved by 5 % or more between their first and last sessions."""
    series: dict[tuple[str, str, str], list[NoiseFloor]] = {}
    for floor in floors:
        series.setdefault((floor.device, floor.runtime, floor.artifact_digest), []).append(floor)
    found = []
    for (device, runtime, _), every in series.items():
        ordered = sorted(every, key=lambda floor: floor.measured_utc)
        third = max(1, len(ordered) // 3)
        if len(ordered) < 2:
            continue
        shift = statistics.median(each.level for each in ordered[-third:]) - statistics.median(
            each.level for each in ordered[:third]
        )
        if abs(shift) >= math.log1p(LEAST_DRIFT):
            found.append(
                Drift(
                    device=device,
                    runtime=runtime,
                    sessions=len(ordered),
                    change=math.expm1(shift),
                    since_utc=ordered[0].measured_utc,
                )
            )
    return tuple(sorted(found, key=lambda each: (-abs(each.change), each.device)))


class Sister(Record, frozen=True):
    """One board's value in one cell."""

    device: str
    target: str
    cell: str
    value: float


def odd_ones(sisters: Iterable[Sister]) -> tuple[Odd, ...]:
    """Boards that differ from the median of at least two others of their kind, in the same cell.

    By the modified z-score on logarithms above 3.5 and by 3 % or more.
    """
    groups: dict[tuple[str, str], dict[str, float]] = {}
    for each in sisters:
        if each.value > 0:
            groups.setdefault((each.target, each.cell), {})[each.device] = math.log(each.value)
    found = []
    for (target, cell), values in groups.items():
        if len(values) < LEAST_SISTERS:
            continue
        middle = statistics.median(values.values())
        deviation = statistics.median(abs(value - middle) for value in values.values())
        for device, value in values.items():
            apart = abs(value - middle)
            if apart >= math.log1p(LEAST_ODD) and 0.6745 * apart > ODD * deviation:
                ratio = math.exp(value - middle)
                found.append(
                    Odd(device=device, target=target, cell=cell, ratio=ratio, sisters=len(values) - 1)
                )
    return tuple(sorted(found, key=lambda each: (-abs(math.log(each.ratio)), each.device, each.cell)))


def jump_words(jump: Jump) -> str:
    """In words: "12 % higher from here on"."""
    change = jump.ratio - 1
    return f"{significant(abs(100 * change), 2)} % {'higher' if change > 0 else 'lower'} from here on"
