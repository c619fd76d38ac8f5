"""An artifact measured against itself -> what the device shows where nothing differs. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Generic, NamedTuple, TypeVar

from edgebench import comparison
from edgebench.comparison import ALPHA, LOOKS
from edgebench.gates.base import LaunchFigures, Observed
from edgebench.gates.looks import DIFFERENCES, PAIRS, Bounds, Rule, look
from edgebench.records import Record

DRAWS = 2000
SEED = 20261126
T = TypeVar("T")


class Floor(Record, frozen=True):
    """The noise of one device: logarithms, but for the last two, as in `records.NoiseFloor`."""

    pairs: int
    level: float
    launch_sd: float
    pair_sd: float
    least_effect: float
    false_alarms: float


def of_pairs(candidate: Observed, baseline: Observed) -> Floor | None:
    """What separate launches of one artifact differ by; None below two pairs."""
    before = {launch.place: _log_p50(launch) for launch in baseline.launches}
    pairs = [
        (before[launch.place], _log_p50(launch)) for launch in candidate.launches if launch.place in before
    ]
    differences = [now - then for then, now in pairs]
    logs = [each for pair in pairs for each in pair]
    return _floor(_Apart(pairs, PAIRS, lambda pair: (pair[1], pair[0])), differences, logs)


def of_duet(duet: Observed) -> Floor | None:
    """What the two copies in one process differ by; None below two launches."""
    shifts = [launch.duet_shift for launch in duet.launches if launch.duet_shift is not None]
    logs = [_log_p50(launch) for launch in duet.launches]
    return _floor(_Apart(shifts, DIFFERENCES, lambda shift: -shift), shifts, logs)


class _Apart(NamedTuple, Generic[T]):
    """What copies of one artifact lie apart by, how it is judged, and the same with the two exchanged."""

    values: Sequence[T]
    rule: Rule[T]
    exchanged: Callable[[T], T]


def _floor(apart: _Apart[T], differences: Sequence[float], logs: Sequence[float]) -> Floor | None:
    estimate = apart.rule.estimate(apart.values)
    if estimate is None:
        return None
    alpha = comparison.alphas_of_looks(LOOKS)[-1]
    least = comparison.least_effect_at(estimate, 0.0, LOOKS[-1], alpha)
    return Floor(
        pairs=len(differences),
        level=math.fsum(logs) / len(logs),
        launch_sd=comparison.deviation(logs),
        pair_sd=comparison.deviation(differences),
        least_effect=math.expm1(min(50.0, least)),
        false_alarms=_false_alarms(apart),
    )


def _false_alarms(apart: _Apart[T]) -> float:
    """How often the looks call a slowdown when it is drawn which of a pair is the candidate: nominal 5 %."""
    draw = Random(SEED)  # noqa: S311 - a simulation, the same each time
    limit = Bounds(0.0, ALPHA)
    alarms = 0
    for _ in range(DRAWS):
        drawn = [each if draw.random() < 0.5 else apart.exchanged(each) for each in apart.values]
        test = look(drawn, limit, LOOKS, apart.rule)
        alarms += test.answer.word == "fail"
    return alarms / DRAWS


def _log_p50(launch: LaunchFigures) -> float:
    return math.log(launch.p50_ns) if launch.p50_ns else 0.0
