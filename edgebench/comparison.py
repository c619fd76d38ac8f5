"""Launches of a baseline and a candidate -> how much slower, how sure, and what could have been seen. Pure.

Everything is on the logarithms of launch figures (a launch's p50, for example): a slowdown of 5 % is a shift
of ln 1.05, launch times are close to log-normal, and the limit of a ratio is a plain number. The launch is
the unit; iterations of one launch are not independent, and pooling them gives about 40 % false alarms.

The tests are against the limit and not against zero, one-sided, with a third answer: what neither lies beyond
the limit nor within it is inconclusive, and says the smallest effect that it could have seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from operator import mul
from typing import Any, Literal

from edgebench.errors import BugError
from edgebench.records import Record, replace

ALPHA = 0.05
LOOKS = (5, 10, 20)  # planned looks, in launches a side
# What each of these looks may err by, as a share of alpha: most of it where most can be seen. Together they
# err by no more than alpha, whatever the launches are like (Bonferroni).
SHARES = (0.05, 0.15, 0.8)
LEAST_LAUNCHES = LOOKS[0]
POWER = 0.80
TRIM = 0.2
OUTLIER = 6.0  # robust standard deviations from the median: no normal pair lies there
# A launch is sometimes slow and never as much faster. How skewed a board is cannot be read off a few
# launches: what they show counts for KNOWN_SKEW, USUAL_SKEW comes on top (docs/statistics.md shows what for).
KNOWN_SKEW = 0.7
USUAL_SKEW = 0.4
MOST_ALIKE = 4.0  # the sum of correlations with the launches before
UNSEEN = 1.02  # how much more launches resemble each other than can be seen, as a ratio of standard errors
LEAST_FREEDOM = 2.0

RuleName = Literal["one-sample", "welch", "paired", "trimmed-paired"]
Outcome = Literal["pass", "fail", "inconclusive"]
Pair = tuple[float, float]  # logarithms of a baseline's launch and of the candidate's beside it


class Estimate(Record, frozen=True):
    """A shift of logarithms with its standard error, by one rule, from `n` launches or pairs.

    `freedom` is that of Student's t; infinite where all differences are equal and nothing is left to chance.
    `skew` is that of the launches where they are of one side alone; differences of two sides have none.
    """

    rule: RuleName
    n: int
    shift: float
    error: float
    freedom: float
    skew: float = 0.0

    def lower(self, alpha: float) -> float:
        """What the true shift exceeds but for the share `alpha` of cases (one-sided)."""
        return self.shift - self._reach(alpha, 1.0)

    def upper(self, alpha: float) -> float:
        """What the true shift stays under but for the share `alpha` of cases (one-sided)."""
        return self.shift - self._reach(alpha, -1.0)

    def p_above(self, limit: float) -> float:
        """How often a true shift of `limit` or less gives this much: small speaks for "over the limit"."""
        return self._tail(limit, 1.0)

    def p_below(self, limit: float) -> float:
        """How often a true shift of `limit` or more gives this little: small speaks for "within it"."""
        return self._tail(limit, -1.0)

    def with_variance(self, variance: float, freedom: float) -> Estimate:
        """The estimate with further variance, known to `freedom` degrees: that between two sessions.

        Degrees of freedom by Satterthwaite, as in Welch's test.
        """
        own = self.error**2
        total = own + variance
        parts = ((own, self.freedom), (variance, freedom))
        weight = sum(part**2 / free for part, free in parts if part and math.isfinite(free))
        return Estimate(
            rule=self.rule,
            n=self.n,
            shift=self.shift,
            error=math.sqrt(total),
            freedom=total**2 / weight if weight else math.inf,
        )

    def _reach(self, alpha: float, side: float) -> float:
        """How far the true shift lies below this one (side 1) or above it (-1), but for `alpha` of cases."""
        if not self.error:
            return 0.0
        return self._skewed(side * quantile(1 - alpha, self.freedom)) * self.error

    def _tail(self, limit: float, side: float) -> float:
        """How often so much (side 1) or so little (-1) is found where the true shift is the limit."""
        distance = self.shift - limit
        if not self.error:
            return 0.5 if distance == 0 else float(side * distance < 0)
        return survival(side * self._straight(distance / self.error), self.freedom)

    def _straight(self, t: float) -> float:
        """A mean of skewed values by its standard error -> what is distributed as Student's t.

        Hall 1992, "On the removal of skewness by transformation": monotone, so that it can be turned round.
        """
        if not self.skew:
            return t
        root = math.sqrt(self.n)
        part = self.skew * t / (3 * root)
        return t * (1 + part + part**2 / 3) + self.skew / (6 * root)

    def _skewed(self, t: float) -> float:
        """The way back from `_straight`."""
        if not self.skew:
            return t
        root = math.sqrt(self.n)
        return 3 * root / self.skew * (math.cbrt(1 + self.skew * (t - self.skew / (6 * root)) / root) - 1)


# --- rules ----------------------------------------------------------------------------------------


def one_sample(logs: Sequence[float]) -> Estimate | None:
    """The mean of some logarithms in the order of their launches; None below two values.

    Student's t alone fails too rarely and passes too often, since launches are skewed: see `Estimate.skew`.
    Launches that resemble those before them are worth fewer independent ones, which the error and its degrees
    of freedom then are of. Below five neither can be known.
    """
    found = _mean_of(logs, "one-sample")
    if found is None or not found.error or len(logs) < LEAST_LAUNCHES:
        return found
    worth = _worth(logs)
    return replace(
        found,
        error=UNSEEN * found.error * math.sqrt(len(logs) / worth),
        freedom=max(LEAST_FREEDOM, worth - 1),
        skew=KNOWN_SKEW * _skew(logs) + USUAL_SKEW,
    )


def _worth(logs: Sequence[float]) -> float:
    """How many independent launches these are worth: n / (1 + 2 (r1 + r2 + ...)), at most n.

    r1, r2, ... are the correlations with the launch 1, 2, ... before, freed of their bias (Kendall 1954), up
    to the first that is not above 0 (as Geyer 1992 ends the sum). Below ten launches none can be seen.
    """
    count = len(logs)
    if count < LOOKS[1]:
        return count
    off = _off_mean(logs)
    total, alike = _sum_of_products(off, off), 0.0
    for lag in range(1, count // 2 + 1):
        found = (count * _sum_of_products(off[lag:], off) / total + 1) / (count - 4)
        if found <= 0:
            break
        alike += found
    return count / (1 + 2 * min(MOST_ALIKE, alike))


def paired(differences: Sequence[float]) -> Estimate | None:
    """Paired t on differences of logarithms, candidate minus baseline of one ABBA pair; None below two."""
    return _mean_of(differences, "paired")


def trimmed_paired(differences: Sequence[float], share: float = TRIM) -> Estimate | None:
    """The same without the `share` smallest and largest pairs: one slow launch in ten does not decide.

    Tukey and McLaughlin 1963 (also Yuen 1974, one sample): the mean of the middle h values, the winsorized
    standard deviation over (1 - 2 share) sqrt(n), h - 1 degrees of freedom. Below ten pairs too few are left.
    None where fewer than two values remain.
    """
    ordered = sorted(differences)
    count = len(ordered)
    cut = math.floor(share * count)
    kept = ordered[cut : count - cut]
    if len(kept) < 2:
        return None
    winsorized = [kept[0]] * cut + kept + [kept[-1]] * cut
    scale = (1 - 2 * cut / count) * math.sqrt(count)
    return _estimate("trimmed-paired", count, _mean(kept), deviation(winsorized) / scale, len(kept) - 1)


def welch(baseline: Sequence[float], candidate: Sequence[float]) -> Estimate | None:
    """Welch's t on logarithms of launches that are not pairs; None below two on a side."""
    if len(baseline) < 2 or len(candidate) < 2:
        return None
    parts = [(deviation(side) ** 2 / len(side), len(side) - 1) for side in (baseline, candidate)]
    variance = sum(part for part, _ in parts)
    weight = sum(part**2 / free for part, free in parts)
    return _estimate(
        "welch",
        min(len(baseline), len(candidate)),
        _mean(candidate) - _mean(baseline),
        math.sqrt(variance),
        variance**2 / weight if weight else math.inf,
    )


def by_pairs(pairs: Sequence[Pair]) -> Estimate | None:
    """The rule for ABBA pairs, (baseline, candidate) each; None below two.

    Differences where neighbours go up and down together or a pair lies far out, else both sides for
    themselves: that finds more, because what a side varies by is then known from twice as many launches.
    """
    differences = [candidate - baseline for baseline, candidate in pairs]
    if _has_outliers(differences):
        return trimmed_paired(differences)
    baseline, candidate = [each for each, _ in pairs], [each for _, each in pairs]
    if len(pairs) < 3 or _go_together(baseline, candidate):
        return paired(differences)
    return welch(baseline, candidate)


def by_differences(differences: Sequence[float]) -> Estimate | None:
    """The rule for differences alone, as of duets: trimmed where, of ten or more, one lies far out."""
    return trimmed_paired(differences) if _has_outliers(differences) else paired(differences)


def _has_outliers(differences: Sequence[float]) -> bool:
    """Whether one of ten or more lies over OUTLIER robust deviations (1.4826 MAD) from the median."""
    if len(differences) < LOOKS[1]:
        return False
    middle = _median(differences)
    off = [abs(each - middle) for each in differences]
    return max(off) > OUTLIER * 1.4826 * _median(off)


def _go_together(baseline: Sequence[float], candidate: Sequence[float]) -> bool:
    """Whether the values of neighbours are correlated, at 5 % one-sided."""
    off = [_off_mean(side) for side in (baseline, candidate)]
    scale = math.sqrt(_sum_of_products(off[0], off[0]) * _sum_of_products(off[1], off[1]))
    if not scale:
        return True
    freedom = len(baseline) - 2
    t = quantile(1 - ALPHA, freedom)
    return _sum_of_products(*off) > scale * t / math.sqrt(freedom + t * t)


def hodges_lehmann(baseline: Sequence[float], candidate: Sequence[float]) -> float:
    """The median of all differences between a candidate's and a baseline's value: a cross-check."""
    return _median([c - b for b in baseline for c in candidate])


def hodges_lehmann_of_pairs(pairs: Sequence[Pair]) -> float:
    """The same for ABBA pairs: by what they differ."""
    return hodges_lehmann_of_one([candidate - baseline for baseline, candidate in pairs])


def hodges_lehmann_of_one(values: Sequence[float]) -> float:
    """The median of all Walsh averages (v_i + v_j) / 2, i <= j."""
    count = len(values)
    return _median([(values[i] + values[j]) / 2 for i in range(count) for j in range(i, count)])


# --- answers --------------------------------------------------------------------------------------


def decide(estimate: Estimate, limit: float, alpha: float = ALPHA) -> Outcome:
    """fail: the shift lies beyond the limit; pass: within it; else inconclusive."""
    if estimate.lower(alpha) > limit:
        return "fail"
    return "pass" if estimate.upper(alpha) <= limit else "inconclusive"


def least_effect(estimate: Estimate, limit: float, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest true shift that this many launches find in `power` of all cases, as a logarithm."""
    return limit + _found_beyond(estimate.freedom, alpha, power) * estimate.error


def least_effect_at(estimate: Estimate, limit: float, launches: int, alpha: float = ALPHA) -> float:
    """`least_effect` as expected with that many launches of the same spread."""
    freedom = estimate.freedom * (launches - 1) / max(1, estimate.n - 1)
    error = estimate.error * math.sqrt(estimate.n / launches)
    return limit + _found_beyond(freedom, alpha, POWER) * error


def _found_beyond(freedom: float, alpha: float, power: float) -> float:
    """How many standard errors beyond a limit are found in `power` of all cases; whole degrees of freedom."""
    whole = freedom if math.isinf(freedom) else max(1.0, round(freedom))
    return quantile(1 - alpha, whole) + quantile(power, whole)


def launches_needed(estimate: Estimate, limit: float, effect: float, alpha: float = ALPHA) -> int | None:
    """About how many launches a side find a true shift of `effect`; None where it is not beyond the limit."""
    if effect <= limit:
        return None
    spread = estimate.error * math.sqrt(estimate.n)
    normal = quantile(1 - alpha, math.inf) + quantile(POWER, math.inf)
    return max(LEAST_LAUNCHES, math.ceil((normal * spread / (effect - limit)) ** 2 + 2))


def alphas_of_looks(looks: Sequence[int], alpha: float = ALPHA) -> tuple[float, ...]:
    """What each planned look may err by, so that all together err by no more than alpha."""
    if tuple(looks) == LOOKS:
        return tuple(share * alpha for share in SHARES)
    count = max(1, len(looks))
    return (alpha / count,) * count  # Bonferroni


def false_discoveries(p_values: Sequence[float]) -> list[float]:
    """The q of every p: the share of false ones among all that are called at least as sure.

    Benjamini and Hochberg 1995, as adjusted p-values in the order given; holds under positive dependence.
    """
    count = len(p_values)
    largest_first = sorted(range(count), key=lambda place: -p_values[place])
    adjusted, least = [1.0] * count, 1.0
    for rank, place in enumerate(largest_first):
        least = min(least, p_values[place] * count / (count - rank))
        adjusted[place] = least
    return adjusted


# --- Student's t ----------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def quantile(probability: float, freedom: float) -> float:
    """The quantile of Student's t; of the normal distribution for infinite degrees of freedom."""
    if not (0 < probability < 1 and freedom > 0):
        raise BugError(f"no t quantile for probability {probability}, {freedom} degrees of freedom")
    known = _distributions()
    found = known.ndtri(probability) if math.isinf(freedom) else known.stdtrit(freedom, probability)
    return float(found)


def survival(t: float, freedom: float) -> float:
    """P(T > t) of Student's t with `freedom` degrees."""
    known = _distributions()
    return float(known.ndtr(-t) if math.isinf(freedom) else known.stdtr(freedom, -t))


@cache
def _distributions() -> Any:
    """The functions of distributions that scipy has, loaded when first asked for: that takes a while."""
    from scipy import special

    return special


# --- small arithmetic -----------------------------------------------------------------------------


def _mean_of(values: Sequence[float], rule: RuleName) -> Estimate | None:
    count = len(values)
    if count < 2:
        return None
    return _estimate(rule, count, _mean(values), deviation(values) / math.sqrt(count), count - 1)


def _estimate(rule: RuleName, n: int, shift: float, error: float, freedom: float) -> Estimate:
    if not (math.isfinite(shift) and math.isfinite(error)):
        raise BugError(f"{rule}: a value is no finite number")
    return Estimate(rule=rule, n=n, shift=shift, error=error, freedom=freedom if error else math.inf)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float:
    """The standard deviation with n - 1; exactly 0 where all values are equal."""
    if min(values) == max(values):
        return 0.0
    off = _off_mean(values)
    return math.sqrt(_sum_of_products(off, off) / (len(values) - 1))


def _off_mean(values: Sequence[float]) -> list[float]:
    mean = _mean(values)
    return [value - mean for value in values]


def _sum_of_products(first: Sequence[float], second: Sequence[float]) -> float:
    return math.fsum(map(mul, first, second))


def _skew(values: Sequence[float]) -> float:
    """The third standardized moment; 0 where all values are equal."""
    off = _off_mean(values)
    spread = math.sqrt(_sum_of_products(off, off) / len(off))
    return math.fsum(each**3 for each in off) / len(off) / spread**3 if spread else 0.0


def lag_1(values: Sequence[float]) -> float:
    """The correlation of each value with the one before it; not of values that are all equal."""
    off = _off_mean(values)
    return _sum_of_products(off[1:], off) / _sum_of_products(off, off)


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
