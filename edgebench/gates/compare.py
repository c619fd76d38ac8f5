"""Two sets of cells -> their ratios with intervals, without any limit. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from edgebench import comparison
from edgebench.budgets import METRICS, Subject
from edgebench.comparison import ALPHA, LEAST_LAUNCHES, Estimate
from edgebench.gates.base import Observed
from edgebench.gates.limits import LEAST_SAMPLES, change, differences, known_logs
from edgebench.gates.plausible import MIXED_UNITS, implausible
from edgebench.records import Record, replace

Finding = Literal[
    "slower", "faster", "larger", "smaller", "less", "more", "same", "inconclusive", "not-comparable"
]
COMPARED = (
    "latency.p50",
    "latency.p90",
    "latency.p99",
    "throughput",
    "load_time",
    "first_inference",
    "energy_per_inference",
)


class Compared(Record, frozen=True):
    """One metric of one cell on both sides. `ratio` is the second by the first, with its 95 % interval."""

    subject: Subject
    metric: str
    verdict: Finding
    reason: str = ""
    before: float | None = None
    after: float | None = None
    ratio: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None
    launches: int = 0
    rule: str = ""


def compare(before: Sequence[Observed], after: Sequence[Observed]) -> tuple[Compared, ...]:
    """Every metric of every cell that both sides have, in the order of the second."""
    known: dict[Subject, list[Observed]] = {}
    for each in before:
        known.setdefault(each.subject, []).append(each)
    return tuple(found for cell in after for found in _cell(_beside(cell, known.get(cell.subject, [])), cell))


def _beside(cell: Observed, candidates: Sequence[Observed]) -> Observed | None:
    same = [each for each in candidates if each.session == cell.session]
    found = same or list(candidates)
    return found[-1] if found else None


def _cell(before: Observed | None, after: Observed) -> Iterator[Compared]:
    if before is None:
        return
    problem = differences(after, before) or implausible(before) or implausible(after)
    for metric in COMPARED:
        first, second = _figures(metric, before), _figures(metric, after)
        if not first or not second:
            continue
        if problem:
            yield Compared(subject=after.subject, metric=metric, verdict="not-comparable", reason=problem)
        else:
            yield _varying(metric, before, after, first, second)
    yield from _exact("memory_peak", after, _peak(before), _peak(after))
    yield from _exact("artifact_size", after, before.artifact_bytes, after.artifact_bytes)


def _varying(
    metric: str, before: Observed, after: Observed, first: dict[int, float], second: dict[int, float]
) -> Compared:
    side_by_side = before.session == after.session
    estimate = _estimate(side_by_side, first, second)
    ratio = math.exp(_mean(second) - _mean(first)) if estimate is None else math.exp(estimate.shift)
    found = Compared(
        subject=after.subject,
        metric=metric,
        verdict="inconclusive",
        reason=f"fewer than two launches on a side: {change(ratio)} without an interval",
        before=math.exp(_mean(first)),
        after=math.exp(_mean(second)),
        ratio=ratio,
        launches=min(len(first), len(second)),
    )
    if estimate is None:
        return found
    low, high = math.exp(estimate.lower(ALPHA / 2)), math.exp(estimate.upper(ALPHA / 2))
    finding, reason = _finding(metric, low, high, before, after, estimate)
    return replace(
        found,
        verdict=finding,
        reason=reason,
        ci_low=low,
        ci_high=high,
        p_value=min(1.0, 2 * min(estimate.p_above(0.0), estimate.p_below(0.0))),
        rule=estimate.rule,
    )


def _finding(
    metric: str, low: float, high: float, before: Observed, after: Observed, estimate: Estimate
) -> tuple[Finding, str]:
    if estimate.n < LEAST_LAUNCHES:
        return "inconclusive", f"{estimate.n} launches; {LEAST_LAUNCHES} are the least that say anything"
    fewest = min(launch.n for side in (before, after) for launch in side.launches)
    if fewest < LEAST_SAMPLES.get(metric, 1):
        return "inconclusive", f"{fewest} samples in a launch are too few for this quantile"
    if not 1 / MIXED_UNITS < math.exp(estimate.shift) < MIXED_UNITS:
        return "not-comparable", "the two sides differ too much for a change of a model: mixed units?"
    if before.session != after.session:
        return (
            "inconclusive",
            "measured in other sessions: what lies between those is not in the interval",
        )
    if low <= 1 <= high:
        if low == high:
            return "same", ""
        least = math.expm1(comparison.least_effect(estimate, 0.0, ALPHA / 2))
        return (
            "inconclusive",
            f"a change of {change(1 + least)} would have been seen in 80 % of cases",
        )
    if METRICS[metric].more_is_better:
        return ("more" if low > 1 else "less"), ""
    if metric == "energy_per_inference":
        return ("more" if low > 1 else "less"), ""
    return ("slower" if low > 1 else "faster"), ""


def _exact(metric: str, after: Observed, first: int | None, second: int | None) -> Iterator[Compared]:
    if not first or second is None:
        return
    finding: Finding = "same" if first == second else "larger" if second > first else "smaller"
    yield Compared(
        subject=after.subject,
        metric=metric,
        verdict=finding,
        before=first,
        after=second,
        ratio=second / first,
        launches=len(after.launches),
    )


def _estimate(side_by_side: bool, first: dict[int, float], second: dict[int, float]) -> Estimate | None:
    if side_by_side:
        return comparison.by_pairs([(first[place], second[place]) for place in second if place in first])
    return comparison.welch(list(first.values()), list(second.values()))


def _figures(metric: str, cell: Observed) -> dict[int, float]:
    """Logarithms of a metric by the launch's place; empty where a launch does not have it."""
    known = known_logs(metric, cell) or ()
    return dict(zip((launch.place for launch in cell.launches), known, strict=False))


def _mean(logs: dict[int, float]) -> float:
    return math.fsum(logs.values()) / len(logs)


def _peak(cell: Observed) -> int | None:
    peaks = [launch.peak_bytes for launch in cell.launches if launch.peak_bytes is not None]
    return max(peaks) if peaks and len(peaks) == len(cell.launches) else None
