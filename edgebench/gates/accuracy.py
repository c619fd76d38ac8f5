"""How much accuracy a cell lost, against a limit: pass, fail, or how many samples would decide. Pure.

The tests are against the limit and one-sided at 5 %, as those of all limits; shown is the 95 % interval.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from edgebench import accuracy as rules
from edgebench import comparison
from edgebench.accuracy import Pairs
from edgebench.comparison import ALPHA, Estimate
from edgebench.gates.base import Word
from edgebench.records import Accuracy
from edgebench.units import significant

MOST_SAMPLES = 10_000_000  # who needs more has a drop that lies on the limit


class Loss(NamedTuple):
    """The answer for a limit on the drop. `p_value` is for "more than the limit"."""

    word: Word
    reason: str
    next: str
    p_value: float | None
    rule: str


def loss(report: Accuracy, limit: float, text: str, *, at_least: bool = False) -> Loss:
    """Whether the drop stays within the limit (or reaches it, where `at_least`)."""
    drop = report.drop or 0.0
    found = f"{told(report, drop)}, limit {'at least ' if at_least else ''}{text}"
    test = _test(report, limit)
    if test is None:
        reason = f"{found}: {report.metric} gives one figure for all samples, which has no interval"
        return Loss("inconclusive", reason, "let the metric return one score a sample", None, "none")
    above, below = (test.p_below, test.p_above) if at_least else (test.p_above, test.p_below)
    word: Word = "fail" if above < ALPHA else "pass" if below < ALPHA else "inconclusive"
    advice = "" if word != "inconclusive" else _advice(report, abs(drop - limit), test)
    return Loss(word, found, advice, above, test.rule)


def told(report: Accuracy, drop: float) -> str:
    """The drop in words: a drop of 0.2 % (95 % interval -0.76 to 1.27 %) against digits fp32, 500 samples."""
    interval = ""
    if report.drop_low is not None and report.drop_high is not None:
        low, high = (significant(100 * each) for each in (report.drop_low, report.drop_high))
        interval = f" (95 % interval {low} to {high} %)"
    against = report.against or "its reference"
    return f"a drop of {significant(100 * drop)} %{interval} against {against}, {report.n} samples"


class _Test(NamedTuple):
    """How likely so much, or so little, is where the true drop is the limit; and how far the bounds reach."""

    p_above: float
    p_below: float
    reach: float
    rule: str


def _test(report: Accuracy, limit: float) -> _Test | None:
    """The paired test that the report allows; None without an interval."""
    pairs = _pairs(report)
    if pairs is not None:
        z = rules.paired_score(pairs, limit)
        lower, upper = rules.paired_bounds(pairs)
        return _Test(_tail(z), _tail(-z), (upper(ALPHA) - lower(ALPHA)) / 2, "paired-score")
    estimate = _estimate(report)
    if estimate is None:
        return None
    reach = (estimate.upper(ALPHA) - estimate.lower(ALPHA)) / 2
    return _Test(estimate.p_above(limit), estimate.p_below(limit), reach, "paired")


def _pairs(report: Accuracy) -> Pairs | None:
    if report.only_reference is None or report.only_candidate is None:
        return None
    return Pairs(report.n, report.only_reference, report.only_candidate)


def _estimate(report: Accuracy) -> Estimate | None:
    """The paired t that the interval came from."""
    if report.drop is None or report.drop_low is None or report.drop_high is None or report.n < 2:
        return None
    half = (report.drop_high - report.drop_low) / 2
    error = half / comparison.quantile(1 - ALPHA / 2, report.n - 1)
    freedom = report.n - 1 if error else math.inf
    return Estimate(rule="paired", n=report.n, shift=report.drop, error=error, freedom=freedom)


def _tail(z: float) -> float:
    return comparison.survival(z, math.inf)


def _advice(report: Accuracy, distance: float, test: _Test) -> str:
    """How many samples would decide, if they differ as these do."""
    needed = math.inf if distance == 0 else 1.1 * report.n * (test.reach / distance) ** 2
    if needed > MOST_SAMPLES:
        return "the drop lies on the limit, as far as one can tell: no number of samples would decide"
    digits = 10 ** max(0, math.floor(math.log10(needed)) - 1)
    return f"about {math.ceil(needed / digits) * digits:,} samples would decide: a larger --dataset"
