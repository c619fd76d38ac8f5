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
from functools import lru_cache
from typing import Literal

from edgebench.errors import BugError
from edgebench.records import Record

ALPHA = 0.05
LOOKS = (5, 10, 20)  # planned looks, in launches a side; each takes its share of alpha (Bonferroni)
LEAST_LAUNCHES = LOOKS[0]
POWER = 0.80
TRIM = 0.2

RuleName = Literal["one-sample", "welch", "paired", "trimmed-paired"]
Outcome = Literal["pass", "fail", "inconclusive"]


class Estimate(Record, frozen=True):
    """A shift of logarithms with its standard error, by one rule, from `n` launches or pairs.

    `freedom` is that of Student's t; infinite where all differences are equal and nothing is left to chance.
    """

    rule: RuleName
    n: int
    shift: float
    error: float
    freedom: float

    def lower(self, alpha: float) -> float:
        """What the true shift exceeds but for the share `alpha` of cases (one-sided)."""
        return self.shift - self._reach(alpha)

    def upper(self, alpha: float) -> float:
        """What the true shift stays under but for the share `alpha` of cases (one-sided)."""
        return self.shift + self._reach(alpha)

    def p_above(self, limit: float) -> float:
        """How often a true shift of `limit` or less gives this much: small speaks for "over the limit"."""
        return self._tail(self.shift - limit)

    def p_below(self, limit: float) -> float:
        """How often a true shift of `limit` or more gives this little: small speaks for "within it"."""
        return self._tail(limit - self.shift)

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

    def _reach(self, alpha: float) -> float:
        return quantile(1 - alpha, self.freedom) * self.error if self.error else 0.0

    def _tail(self, distance: float) -> float:
        if self.error:
            return survival(distance / self.error, self.freedom)
        return 0.5 if distance == 0 else float(distance < 0)


# --- rules ----------------------------------------------------------------------------------------


def one_sample(logs: Sequence[float]) -> Estimate | None:
    """The mean of some logarithms: an absolute limit is a shift from 0. None below two values."""
    return _mean_of(logs, "one-sample")


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
    return _estimate("trimmed-paired", count, _mean(kept), _deviation(winsorized) / scale, len(kept) - 1)


def welch(baseline: Sequence[float], candidate: Sequence[float]) -> Estimate | None:
    """Welch's t on logarithms of launches that are not pairs; None below two on a side."""
    if len(baseline) < 2 or len(candidate) < 2:
        return None
    parts = [(_deviation(side) ** 2 / len(side), len(side) - 1) for side in (baseline, candidate)]
    variance = sum(part for part, _ in parts)
    weight = sum(part**2 / free for part, free in parts)
    return _estimate(
        "welch",
        min(len(baseline), len(candidate)),
        _mean(candidate) - _mean(baseline),
        math.sqrt(variance),
        variance**2 / weight if weight else math.inf,
    )


def by_pairs(differences: Sequence[float]) -> Estimate | None:
    """The rule for ABBA pairs at this many: trimmed from ten on, where enough is left after trimming."""
    return paired(differences) if len(differences) < LOOKS[1] else trimmed_paired(differences)


def hodges_lehmann(baseline: Sequence[float], candidate: Sequence[float]) -> float:
    """The median of all differences between a candidate's and a baseline's value: a cross-check."""
    return _median([c - b for b in baseline for c in candidate])


def hodges_lehmann_of_pairs(differences: Sequence[float]) -> float:
    """The median of all Walsh averages (d_i + d_j) / 2, i <= j."""
    count = len(differences)
    return _median([(differences[i] + differences[j]) / 2 for i in range(count) for j in range(i, count)])


# --- answers --------------------------------------------------------------------------------------


def decide(estimate: Estimate, limit: float, alpha: float = ALPHA) -> Outcome:
    """fail: the shift lies beyond the limit; pass: within it; else inconclusive."""
    if estimate.lower(alpha) > limit:
        return "fail"
    return "pass" if estimate.upper(alpha) <= limit else "inconclusive"


def least_effect(estimate: Estimate, limit: float, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest true shift that this many launches find in `power` of all cases, as a logarithm."""
    if not estimate.error:
        return limit
    reach = quantile(1 - alpha, estimate.freedom) + quantile(power, estimate.freedom)
    return limit + reach * estimate.error


def least_effect_at(estimate: Estimate, limit: float, launches: int, alpha: float = ALPHA) -> float:
    """`least_effect` as expected with that many launches of the same spread."""
    freedom = max(1.0, launches - 1.0)
    error = estimate.error * math.sqrt(estimate.n / launches)
    scaled = Estimate(rule=estimate.rule, n=launches, shift=estimate.shift, error=error, freedom=freedom)
    return least_effect(scaled, limit, alpha)


def launches_needed(estimate: Estimate, limit: float, effect: float, alpha: float = ALPHA) -> int | None:
    """About how many launches a side find a true shift of `effect`; None where it is not beyond the limit."""
    if effect <= limit:
        return None
    spread = estimate.error * math.sqrt(estimate.n)
    normal = quantile(1 - alpha, math.inf) + quantile(POWER, math.inf)
    return max(LEAST_LAUNCHES, math.ceil((normal * spread / (effect - limit)) ** 2 + 2))


def alpha_of_look(looks: Sequence[int], alpha: float = ALPHA) -> float:
    """What each planned look may err by, so that all together err by no more than alpha."""
    return alpha / max(1, len(looks))


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
    from scipy import special

    if not (0 < probability < 1 and freedom > 0):
        raise BugError(f"no t quantile for probability {probability}, {freedom} degrees of freedom")
    found = special.ndtri(probability) if math.isinf(freedom) else special.stdtrit(freedom, probability)
    return float(found)


def survival(t: float, freedom: float) -> float:
    """P(T > t) of Student's t with `freedom` degrees."""
    from scipy import special

    return float(special.ndtr(-t) if math.isinf(freedom) else special.stdtr(freedom, -t))


# --- small arithmetic -----------------------------------------------------------------------------


def _mean_of(values: Sequence[float], rule: RuleName) -> Estimate | None:
    count = len(values)
    if count < 2:
        return None
    return _estimate(rule, count, _mean(values), _deviation(values) / math.sqrt(count), count - 1)


def _estimate(rule: RuleName, n: int, shift: float, error: float, freedom: float) -> Estimate:
    if not (math.isfinite(shift) and math.isfinite(error)):
        raise BugError(f"{rule}: a value is no finite number")
    return Estimate(rule=rule, n=n, shift=shift, error=error, freedom=freedom if error else math.inf)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _deviation(values: Sequence[float]) -> float:
    """The standard deviation with n - 1; exactly 0 where all values are equal."""
    if min(values) == max(values):
        return 0.0
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
