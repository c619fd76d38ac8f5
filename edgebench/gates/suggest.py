"""Limits for what was measured: the upper end of each figure's interval and a margin for noise. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from edgebench import comparison
from edgebench.budgets import Subject
from edgebench.comparison import ALPHA
from edgebench.gates.base import Observed
from edgebench.gates.limits import LEAST_SAMPLES, known_logs
from edgebench.records import Record
from edgebench.units import NS_PER_MS, significant

TIMES = ("latency.p50", "latency.p99", "load_time")
LEAST_MARGIN = 0.02
MARGIN_SDS = 2.0  # standard deviations between launches, beside the interval of their mean


class SuggestedLimit(Record, frozen=True):
    """One limit: what was measured, the ceiling and the tolerance as they are written in a budgets file."""

    metric: str
    measured: float
    text: str
    regress: str


class Suggestion(Record, frozen=True):
    """The limits of one cell."""

    subject: Subject
    limits: tuple[SuggestedLimit, ...]


def suggested(cells: Sequence[Observed]) -> tuple[Suggestion, ...]:
    """Limits of every cell that has valid launches."""
    made = (Suggestion(subject=cell.subject, limits=tuple(_limits(cell))) for cell in cells if cell.launches)
    return tuple(each for each in made if each.limits)


def _limits(cell: Observed) -> Iterator[SuggestedLimit]:
    for metric in TIMES:
        logs = known_logs(metric, cell)
        enough = min(launch.n for launch in cell.launches) >= LEAST_SAMPLES.get(metric, 1)
        if logs is not None and enough:
            yield _time(metric, logs)
    peaks = [launch.peak_bytes for launch in cell.launches if launch.peak_bytes]
    if peaks:
        yield _size("memory_peak", max(peaks), 1.05, "5 %")
    if cell.artifact_bytes:
        yield _size("artifact_size", cell.artifact_bytes, 1.0, "0 %")


def _time(metric: str, logs: Sequence[float]) -> SuggestedLimit:
    estimate = comparison.one_sample(logs)
    typical = math.fsum(logs) / len(logs)
    spread = 0.0 if estimate is None else estimate.error * math.sqrt(estimate.n)
    high = typical if estimate is None else estimate.upper(ALPHA / 2)
    margin = max(LEAST_MARGIN, MARGIN_SDS * spread)
    return SuggestedLimit(
        metric=metric,
        measured=math.exp(typical),
        text=f"{significant(math.exp(high + margin) / NS_PER_MS)} ms",
        regress=f"{significant(100 * math.expm1(margin), 2)} %",
    )


def _size(metric: str, measured: int, factor: float, regress: str) -> SuggestedLimit:
    kib = math.ceil(measured * factor / 1024)
    return SuggestedLimit(metric=metric, measured=measured, text=f"{kib} KiB", regress=regress)
