"""Logarithms of launch figures -> what the first look that decides has found. Pure.

"More" is worse here: figures of which more is better come with their sign changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from edgebench import comparison
from edgebench.comparison import ALPHA, LOOKS, Estimate
from edgebench.gates.base import Cause, Word

Rule = Callable[[Sequence[float]], Estimate | None]


class Test(NamedTuple):
    """What was found at a look.

    Beyond `bound` it is a failure, within `inner` it passes; the two differ where a rule is known to see less
    than there is. `crosscheck` is the Hodges-Lehmann shift.
    """

    estimate: Estimate
    crosscheck: float
    bound: float
    alpha: float
    look: int
    looks: int
    inner: float


class Bounds(NamedTuple):
    """A limit on logarithms; `inner` as in Test, `alpha` what all looks together may err by."""

    bound: float
    alpha: float = ALPHA
    inner: float | None = None


class Answer(NamedTuple):
    """A word, why it is not the obvious one, and what makes it inconclusive."""

    word: Word
    why: str = ""
    cause: Cause = ""


def look(
    values: Sequence[float],
    bounds: Bounds,
    looks: Sequence[int],
    rule: Rule,
    crosscheck: Callable[[Sequence[float]], float],
) -> Test:
    """What the first look that decides has found; the last one where none does. Two values are the least.

    Without planned looks there is one, at the end, which may use all of alpha.
    """
    planned = tuple(each for each in looks if each <= len(values)) or (len(values),)
    alpha = comparison.alpha_of_look(looks, bounds.alpha)
    inner = bounds.bound if bounds.inner is None else bounds.inner
    test: Test | None = None
    for each in planned:
        part = values[:each]
        estimate = rule(part)
        if estimate is None:
            continue
        test = Test(estimate, crosscheck(part), bounds.bound, alpha, each, max(1, len(looks)), inner)
        if answer(test).word != "inconclusive":
            break
    if test is None:
        raise ValueError("a look needs two values")
    return test


def answer(test: Test) -> Answer:
    """What the test comes to: beyond the limit, within it, or neither."""
    word = _decided(test)
    if word == "inconclusive":
        return Answer(word, cause="low-power")
    bound = test.inner if word == "pass" else test.bound
    if (test.crosscheck - bound) * (test.estimate.shift - bound) < 0:
        why = "the median of the pairs lies on the other side of the limit than their mean"
        return Answer("inconclusive", why, "sign-disagreement")
    return Answer(word)


def _decided(test: Test) -> comparison.Outcome:
    if comparison.decide(test.estimate, test.bound, test.alpha) == "fail":
        return "fail"
    within = comparison.decide(test.estimate, test.inner, test.alpha) == "pass"
    return "pass" if within else "inconclusive"


def interval(estimate: Estimate) -> tuple[float, float]:
    """The 95 % interval of the shift."""
    return estimate.lower(ALPHA / 2), estimate.upper(ALPHA / 2)


def least_effect(test: Test) -> float:
    """The smallest change that would have been found in 80 % of cases, as a ratio minus 1."""
    return math.expm1(min(50.0, comparison.least_effect(test.estimate, test.bound, test.alpha)))


def least_effect_at_last(test: Test) -> float:
    """`least_effect` as expected at the last planned look."""
    found = comparison.least_effect_at(test.estimate, test.bound, LOOKS[-1], test.alpha)
    return math.expm1(min(50.0, found))


def told(test: Test) -> dict[str, Any]:
    """What a verdict says of its test."""
    return {
        "p_value": test.estimate.p_above(test.bound),
        "rule": test.estimate.rule,
        "launches": test.estimate.n,
        "look": test.look,
        "looks": test.looks,
        "least_effect": least_effect(test),
        "least_effect_at_last": least_effect_at_last(test),
        "hodges_lehmann": test.crosscheck,
    }
