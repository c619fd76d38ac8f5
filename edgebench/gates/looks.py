"""Logarithms of launch figures -> what the first look that decides has found. Pure.

"More" is worse here: figures of which more is better come with their sign changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from edgebench import comparison
from edgebench.comparison import ALPHA, LOOKS, Estimate
from edgebench.gates.base import Cause, Word

T = TypeVar("T")  # what launches are judged by: a logarithm each, or a pair of them


class Rule(NamedTuple, Generic[T]):
    """How launches become a shift, and what checks it."""

    estimate: Callable[[Sequence[T]], Estimate | None]
    crosscheck: Callable[[Sequence[T]], float]


ONE_SIDE = Rule(comparison.one_sample, comparison.hodges_lehmann_of_one)
PAIRS = Rule(comparison.by_pairs, comparison.hodges_lehmann_of_pairs)
DIFFERENCES = Rule(comparison.by_differences, comparison.hodges_lehmann_of_one)


class Bounds(NamedTuple):
    """A limit on logarithms: beyond `bound` it is a failure, within `inner` (None: the same) it passes.

    The two differ where a rule is known to see less than there is. `alpha` is what all looks together may err
    by, and `pass_alpha` (None: the same) what they may err by when they pass.
    """

    bound: float
    alpha: float = ALPHA
    inner: float | None = None
    pass_alpha: float | None = None


class Answer(NamedTuple):
    """A word, why it is not the obvious one, and what makes it inconclusive."""

    word: Word
    why: str = ""
    cause: Cause = ""


class Test(NamedTuple):
    """What was found at a look, and the answer to it; `crosscheck` is the Hodges-Lehmann shift.

    `alpha` is what this look may err by.
    """

    estimate: Estimate
    crosscheck: float
    bound: float
    alpha: float
    look: int
    looks: int
    answer: Answer


def look(values: Sequence[T], bounds: Bounds, looks: Sequence[int], rule: Rule[T]) -> Test:
    """The first look that passes or fails, else the last one; of several that fail the surest.

    A failure stays one, whatever comes after it; where many cells are judged at once it has to be sure, and a
    run goes on to further looks for that. Without planned looks there is one, at the end, which may use all
    of alpha. Two values are the least.
    """
    planned = tuple(each for each in looks if each <= len(values)) or (len(values),)
    found: list[Test] = []
    for each in planned:
        estimate = rule.estimate(values[:each])
        if estimate is None:
            continue
        test = tested(estimate, rule.crosscheck(values[:each]), bounds, each, len(looks))
        if found and found[0].answer.word == "fail":
            found += [test] if test.answer.word == "fail" else []
            continue
        found = [test]
        if test.answer.word == "pass":
            break
    if not found:
        raise ValueError("a look needs two values")
    return min(found, key=lambda test: test.estimate.p_above(test.bound)) if found[1:] else found[0]


def tested(estimate: Estimate, crosscheck: float, bounds: Bounds, at: int, looks: int) -> Test:
    """An estimate at one of so many planned looks, with its answer."""
    planned = max(1, looks)
    alpha = bounds.alpha / planned
    found = _answer(estimate, crosscheck, bounds, planned)
    return Test(estimate, crosscheck, bounds.bound, alpha, at, planned, found)


def _answer(estimate: Estimate, crosscheck: float, bounds: Bounds, looks: int) -> Answer:
    """Beyond the limit, within it, or neither."""
    inner = bounds.bound if bounds.inner is None else bounds.inner
    pass_alpha = bounds.alpha if bounds.pass_alpha is None else bounds.pass_alpha
    if comparison.decide(estimate, bounds.bound, bounds.alpha / looks) == "fail":
        word, bound = "fail", bounds.bound
    elif comparison.decide(estimate, inner, pass_alpha / looks) == "pass":
        word, bound = "pass", inner
    else:
        return Answer("inconclusive", cause="low-power")
    if (crosscheck - bound) * (estimate.shift - bound) < 0:
        why = "the median of the pairs lies on the other side of the limit than their mean"
        return Answer("inconclusive", why, "sign-disagreement")
    return Answer("fail" if word == "fail" else "pass")


def interval(estimate: Estimate) -> tuple[float, float]:
    """The 95 % interval of the shift."""
    return estimate.lower(ALPHA / 2), estimate.upper(ALPHA / 2)


def least_effect(test: Test, origin: float = 0.0) -> float:
    """The smallest change that would have been found in 80 % of cases, as a ratio minus 1.

    `origin` is what it is a change from, as a logarithm: 0 for ratios, the limit itself for absolute ones.
    """
    found = comparison.least_effect(test.estimate, test.bound, test.alpha)
    return math.expm1(min(50.0, found - origin))


def least_effect_at_last(test: Test, origin: float = 0.0) -> float:
    """`least_effect` as expected at the last planned look."""
    found = comparison.least_effect_at(test.estimate, test.bound, LOOKS[-1], test.alpha)
    return math.expm1(min(50.0, found - origin))


def told(test: Test, origin: float = 0.0) -> dict[str, Any]:
    """What a verdict says of its test; `origin` as in `least_effect`."""
    return {
        "p_value": test.estimate.p_above(test.bound),
        "rule": test.estimate.rule,
        "launches": test.estimate.n,
        "look": test.look,
        "looks": test.looks,
        "least_effect": least_effect(test, origin),
        "least_effect_at_last": least_effect_at_last(test, origin),
        "hodges_lehmann": test.crosscheck,
    }
