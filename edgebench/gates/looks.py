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


class Planned(NamedTuple):
    """A look: after how many launches, its share of alpha and the last one's, and how many are planned."""

    launches: int
    share: float = 1.0
    last_share: float = 1.0
    looks: int = 1


class Test(NamedTuple):
    """What was found at a look, and the answer to it; `crosscheck` is the Hodges-Lehmann shift.

    `alpha` is what this look may err by, `last_alpha` what the last planned one may.
    """

    estimate: Estimate
    crosscheck: float
    bound: float
    alpha: float
    last_alpha: float
    look: int
    looks: int
    answer: Answer


def look(values: Sequence[T], bounds: Bounds, looks: Sequence[int], rule: Rule[T]) -> Test:
    """The first look that passes or fails, else the last one; of several that fail the surest.

    A failure stays one, whatever comes after it; where many cells are judged at once it has to be sure, and a
    run goes on to further looks for that. Without planned looks there is one, at the end, which may use all
    of alpha. Two values are the least.
    """
    found: list[Test] = []
    for planned in _planned(len(values), looks):
        estimate = rule.estimate(values[: planned.launches])
        if estimate is None:
            continue
        test = tested(estimate, rule.crosscheck(values[: planned.launches]), bounds, planned)
        if found and found[0].answer.word == "fail":
            found += [test] if test.answer.word == "fail" else []
            continue
        found = [test]
        if test.answer.word == "pass":
            break
    if not found:
        raise ValueError("a look needs two values")
    return min(found, key=_doubt) if found[1:] else found[0]


def _planned(launches: int, looks: Sequence[int]) -> list[Planned]:
    """The looks that so many launches allow; below the first one, that one is taken at what there is."""
    shares = comparison.alphas_of_looks(looks, 1.0)
    made = [Planned(each, share, shares[-1], len(looks)) for each, share in zip(looks, shares, strict=False)]
    return [each for each in made if each.launches <= launches] or [
        Planned(launches, shares[0], shares[-1], len(shares))
    ]


def _doubt(test: Test) -> float:
    """How often so much is found where the true shift is the limit, by what the look may err by."""
    return test.estimate.p_above(test.bound) / test.alpha


def tested(estimate: Estimate, crosscheck: float, bounds: Bounds, at: Planned) -> Test:
    """An estimate at a look, with its answer."""
    found = _answer(estimate, crosscheck, bounds, at.share)
    last_alpha = at.last_share * bounds.alpha
    return Test(
        estimate, crosscheck, bounds.bound, at.share * bounds.alpha, last_alpha, at.launches, at.looks, found
    )


def _answer(estimate: Estimate, crosscheck: float, bounds: Bounds, share: float) -> Answer:
    """Beyond the limit, within it, or neither."""
    inner = bounds.bound if bounds.inner is None else bounds.inner
    pass_alpha = bounds.alpha if bounds.pass_alpha is None else bounds.pass_alpha
    if comparison.decide(estimate, bounds.bound, share * bounds.alpha) == "fail":
        word, bound = "fail", bounds.bound
    elif comparison.decide(estimate, inner, share * pass_alpha) == "pass":
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
    found = comparison.least_effect_at(test.estimate, test.bound, LOOKS[-1], test.last_alpha)
    return math.expm1(min(50.0, found - origin))


def told(test: Test, origin: float = 0.0) -> dict[str, Any]:
    """What a verdict says of its test; `origin` as in `least_effect`."""
    return {
        "p_value": test.estimate.p_above(test.bound),
        "rule": test.estimate.rule,
        "launches": test.estimate.n,
        "look": test.look,
        "looks": test.looks,
        "alpha": test.alpha,
        "least_effect": least_effect(test, origin),
        "least_effect_at_last": least_effect_at_last(test, origin),
        "hodges_lehmann": test.crosscheck,
    }
