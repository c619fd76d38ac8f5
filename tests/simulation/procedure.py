"""Launches that are known beforehand -> the verdict that the product comes to, by its own judging.

`auto` goes through the looks as edgebench/pipeline/deciding.py does, which has a device launch them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from edgebench.budgets import Limit, Subject
from edgebench.comparison import ALPHA, LOOKS
from edgebench.gates import DeviceNoise, Observed, SessionNoise, Verdict
from edgebench.gates import duets as duet_rules
from edgebench.gates.base import LaunchFigures, Word
from edgebench.gates.limits import Baseline, judge
from edgebench.records import replace

SUBJECT = Subject(
    target="t", device="d", groups=(), model="m", variant="fp32", runtime="onnxruntime", precision="fp32"
)
SCALE_NS = 1e7


class Launches(NamedTuple):
    """Logarithms of p50 of a baseline's and a candidate's launches, and what launches of a duet differ by."""

    before: Sequence[float]
    after: Sequence[float]
    together: Sequence[float] = ()


class Cells(NamedTuple):
    """The same as the gate takes them, with everything else that is known of the launches."""

    baseline: Observed
    candidate: Observed
    duet: Observed | None = None


def separate(launches: Launches, limit: float) -> Verdict:
    """Mode "separate": the verdict at the first look that decides, or the last one."""
    return judge(p50_limit(limit), _side(launches.after), Baseline(_side(launches.before)))


def duet(shifts: Sequence[float], limit: float) -> Word:
    """A duet alone."""
    cell = _duet(shifts)
    test = duet_rules.test_of(p50_limit(limit), cell)
    return "inconclusive" if test is None else duet_rules.answer_of(test, cell, cell, None).word


def auto(launches: Launches, limit: float) -> Verdict:
    """Mode "auto"."""
    half = ALPHA / 2
    cells = Cells(_side(launches.before, half), _side(launches.after, half), _duet(launches.together, half))
    return decided(cells, limit)


def other_session(launches: Launches, limit: float, noise: SessionNoise | None) -> Verdict:
    """A baseline of another session, one look."""
    candidate = _side(launches.after, looks=())
    known = None if noise is None else DeviceNoise(session=noise)
    return judge(p50_limit(limit), candidate, Baseline(_side(launches.before, session="s0"), known))


def decided(cells: Cells, limit: float) -> Verdict:
    """The verdict at the first look that decides; a duet takes over where the product has it do so."""
    asked, heard = p50_limit(limit), None
    verdict: Verdict | None = None
    for look in LOOKS:
        candidate, baseline = first(cells.candidate, look), first(cells.baseline, look)
        verdict = judge(asked, candidate, Baseline(baseline, duet=heard))
        if verdict.more_helps and heard is None and cells.duet and duet_rules.takes_over(verdict):
            for more in LOOKS:
                heard = first(cells.duet, more)
                verdict = judge(asked, candidate, Baseline(baseline, duet=heard))
                if not verdict.more_helps:
                    break
        if not verdict.more_helps:
            break
    assert verdict is not None
    return verdict


def first(cell: Observed, launches: int) -> Observed:
    """The cell after so many launches."""
    return replace(cell, launches=cell.launches[:launches])


def p50_limit(limit: float) -> Limit:
    """The limit `regress` of p50 that lies at such a logarithm."""
    return Limit(
        metric="latency.p50",
        kind="regress",
        value=math.expm1(limit),
        text=f"{math.expm1(limit):.1%}",
        severity="block",
        budget="all",
        source="simulation",
        line=1,
    )


def _side(
    logs: Sequence[float], alpha: float = ALPHA, session: str = "s1", looks: tuple[int, ...] = LOOKS
) -> Observed:
    launches = tuple(
        LaunchFigures(place=place, n=200, p50_ns=SCALE_NS * math.exp(value))
        for place, value in enumerate(logs)
    )
    return Observed(subject=SUBJECT, session=session, launches=launches, looks=looks, alpha=alpha)


def _duet(shifts: Sequence[float], alpha: float = ALPHA) -> Observed:
    launches = tuple(
        LaunchFigures(place=place, n=200, p50_ns=SCALE_NS, duet_shift=float(value))
        for place, value in enumerate(shifts)
    )
    return Observed(subject=SUBJECT, session="s1", launches=launches, looks=LOOKS, alpha=alpha, role="duet")
