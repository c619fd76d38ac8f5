"""Scores of samples -> accuracy with intervals, and what was lost against a reference. Pure.

Both sides answer the same samples, so the difference is paired: what counts is the samples that one of the
two alone gets right. Intervals are for samples that were drawn independently of one another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgebench import comparison
from edgebench.comparison import ALPHA
from edgebench.errors import BugError, UserError
from edgebench.records import Accuracy, replace

Array = NDArray[Any]
Floats = NDArray[np.float64]

TOP1 = "top1"
MAP = "map"  # "map:module:function": mean average precision of the boxes that the function reads off outputs
TOP5_CLASSES = 10  # with fewer, five guesses say nothing
NARROWEST = 1e-12  # to which a bound is searched
Bound = Callable[[float], float]


class Scores(NamedTuple):
    """How well the samples were answered: one score a sample (more is better), or one figure for all.

    `top5`: the same of five guesses, where there are at least ten classes. `of_one_figure`: `each` are shares
    in a figure for all, and no answers.
    """

    figure: float
    each: Floats | None = None
    top5: float | None = None
    of_one_figure: bool = False


class Pairs(NamedTuple):
    """Samples that both sides answered: how many, and how many one of the two alone got right."""

    n: int
    only_reference: int
    only_candidate: int

    @property
    def drop(self) -> float:
        """The reference's share of right answers minus the candidate's."""
        return (self.only_reference - self.only_candidate) / self.n


# --- scores ---------------------------------------------------------------------------------------


def hits(outputs: Array, labels: Array, guesses: int = 1) -> NDArray[np.bool_]:
    """Whether each label is among so many highest outputs; `outputs` [N, classes], `labels` [N].

    Of equal outputs the lower class counts as the higher guess. A sample with NaN is answered wrongly.
    """
    own = np.take_along_axis(outputs, labels[:, None], axis=1)
    places = np.arange(outputs.shape[1])
    before = (outputs > own) | ((outputs == own) & (places < labels[:, None]))
    wrong = np.isnan(outputs.astype(np.float64)).any(axis=1) if outputs.dtype.kind == "f" else False
    right: NDArray[np.bool_] = (before.sum(axis=1) < guesses) & ~np.asarray(wrong)
    return right


def boxes_function(metric: str) -> str | None:
    """The function of "map:module:function"; None for another metric."""
    kind, _, name = metric.partition(":")
    return name if kind == MAP and ":" in name else None


def scored(result: object, n: int, metric: str) -> Scores:
    """The scores that a user's metric returned: one a sample, or one figure; UserError for anything else."""
    hint = f"{metric} is to return {n} numbers, one a sample (more is better), or one number for all"
    try:
        values = np.asarray(result, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{metric} returned no numbers: {str(error)[:200]}", hint=hint) from error
    if values.shape not in ((), (n,)):
        raise UserError(f"{metric} returned the shape {list(values.shape)} for {n} samples", hint=hint)
    if not np.isfinite(values).all():
        raise UserError(f"{metric} returned NaN or infinity", hint=hint)
    return Scores(float(values.mean()), values if values.shape else None)


# --- the report -----------------------------------------------------------------------------------


def compared(metric: str, candidate: Scores, reference: Scores, n: int) -> Accuracy:
    """The candidate's accuracy and what it lost against the reference, both on the same samples.

    Right-or-wrong scores: Wilson's interval, and Tango's of the paired difference. Other scores: Student's t,
    paired for the difference. One figure for all has no interval.
    """
    found = Accuracy(
        metric=metric,
        n=n,
        value=candidate.figure,
        dataset="",
        top5=candidate.top5,
        reference=reference.figure,
        drop=reference.figure - candidate.figure,
    )
    if candidate.each is None or reference.each is None:
        return found
    if not candidate.of_one_figure and _right_or_wrong(candidate.each) and _right_or_wrong(reference.each):
        return _of_shares(found, candidate.each > 0, reference.each > 0)
    return _of_scores(found, candidate.each, reference.each)


def _of_shares(found: Accuracy, candidate: NDArray[np.bool_], reference: NDArray[np.bool_]) -> Accuracy:
    pairs = Pairs(found.n, int((reference & ~candidate).sum()), int((candidate & ~reference).sum()))
    low, high = wilson(int(candidate.sum()), found.n)
    drop_low, drop_high = (end(ALPHA / 2) for end in paired_bounds(pairs))
    return replace(
        found,
        low=low,
        high=high,
        drop=pairs.drop,
        drop_low=drop_low,
        drop_high=drop_high,
        only_reference=pairs.only_reference,
        only_candidate=pairs.only_candidate,
        p_value=mcnemar(pairs.only_reference, pairs.only_candidate),
    )


def _of_scores(found: Accuracy, candidate: Floats, reference: Floats) -> Accuracy:
    value = comparison.paired(candidate.tolist())  # plain t: scores are not skewed as launches are
    drop = comparison.paired((reference - candidate).tolist())
    if value is None or drop is None:
        return found
    return replace(
        found,
        low=value.lower(ALPHA / 2),
        high=value.upper(ALPHA / 2),
        drop_low=drop.lower(ALPHA / 2),
        drop_high=drop.upper(ALPHA / 2),
        p_value=min(1.0, 2 * min(drop.p_above(0.0), drop.p_below(0.0))),
    )


def _right_or_wrong(scores: Floats) -> bool:
    return bool(np.isin(scores, (0.0, 1.0)).all())


# --- shares ---------------------------------------------------------------------------------------


def wilson(right: int, n: int, alpha: float = ALPHA) -> tuple[float, float]:
    """The interval of a share that holds but for `alpha` of cases (Wilson 1927, J. Am. Stat. Assoc. 22)."""
    if not 0 <= right <= n or n < 1:
        raise BugError(f"{right} of {n} is no share")
    z = comparison.quantile(1 - alpha / 2, math.inf)
    share, scale = right / n, 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    reach = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = max(0.0, middle - reach), min(1.0, middle + reach)
    return (0.0 if right == 0 else low), (1.0 if right == n else high)


def mcnemar(only_reference: int, only_candidate: int) -> float:
    """How often two equally good sides differ by this much (McNemar's exact test, two-sided)."""
    from scipy import special

    total = only_reference + only_candidate
    smaller = min(only_reference, only_candidate)
    return min(1.0, 2 * float(special.bdtr(smaller, total, 0.5))) if total else 1.0


def paired_score(pairs: Pairs, drop: float) -> float:
    """How many standard errors the observed drop lies above a true one of `drop`: about standard normal.

    Tango 1998, Statistics in Medicine 17: the score statistic of the difference of paired shares, with the
    variance that the table has where the difference is `drop`. Half a sample nearer, since counts are whole
    (as Yates 1934): without that, up to 9 % of drops that lie on a limit were called beyond it where few
    samples differ, with it 6 % at most.
    """
    n, more, fewer = pairs.n, pairs.only_reference, pairs.only_candidate
    linear = -more - fewer + (2 * n - more + fewer) * drop
    root = math.sqrt(max(0.0, linear**2 + 8 * n * fewer * drop * (1 - drop)))
    share = max(0.0, root - linear, -4 * n * drop) / (4 * n)  # of `fewer`, most likely under that drop
    variance = n * (2 * share + drop * (1 - drop))
    apart = more - fewer - n * drop
    distance = math.copysign(max(0.0, abs(apart) - 0.5), apart)
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def paired_bounds(pairs: Pairs) -> tuple[Bound, Bound]:
    """What the true drop exceeds, and what it stays under, but for a share alpha of cases (one-sided)."""

    def lower(alpha: float) -> float:
        z = comparison.quantile(1 - alpha, math.inf)
        return _crossing(lambda drop: paired_score(pairs, drop) > z, -1.0, pairs.drop)

    def upper(alpha: float) -> float:
        z = comparison.quantile(1 - alpha, math.inf)
        return _crossing(lambda drop: paired_score(pairs, drop) >= -z, pairs.drop, 1.0)

    return lower, upper


def _crossing(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The place between two where what holds on the lower side ends."""
    while high - low > NARROWEST:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return (low + high) / 2
