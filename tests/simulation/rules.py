"""Every rule as "is it slower than the limit?", asked of one trial at a time: ours, and what others do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
from scipy import stats

from edgebench import comparison
from edgebench.comparison import ALPHA, Estimate, Outcome
from edgebench.gates import SessionNoise
from edgebench.gates.base import Word
from edgebench.gates.looks import ONE_SIDE, Bounds, Rule, look
from tests.simulation import procedure
from tests.simulation.boards import Compared, Floats, Pooled

Answers = list[Word]
Judge = Callable[[Compared, float, float], Answers]
PooledRule = Callable[[Pooled, float, float], list[Outcome]]
BOOTSTRAPS = 200
HISTORY = 10  # pairs of sessions in an A/A history
SESSION_SD = 0.015


# --- rules at a number of launches ----------------------------------------------------------------


def one_sample(known: Compared, effect: float, limit: float) -> Answers:
    """An absolute limit, which lies at what a launch takes on average plus `limit`; passes at alpha/2."""
    typical = known.after.mean()
    return [_absolute(each, limit) for each in known.after - typical + effect]


def _absolute(logs: Floats, limit: float) -> Word:
    values = [float(each) for each in logs]
    bounds = Bounds(limit, ALPHA, pass_alpha=ALPHA / 2)
    return look(values, bounds, (), ONE_SIDE).answer.word


def welch(known: Compared, effect: float, limit: float) -> Answers:
    """Welch's t on the logarithms of launch p50s."""
    sides = zip(known.before, known.after + effect, strict=True)
    return [_outcome(comparison.welch(a, b), limit) for a, b in sides]


def pairs(known: Compared, effect: float, limit: float) -> Answers:
    """The rule for ABBA pairs, at one look."""
    sides = zip(known.before, known.after + effect, strict=True)
    return [_outcome(comparison.by_pairs(list(zip(*each, strict=True))), limit) for each in sides]


def duet(known: Compared, effect: float, limit: float) -> Answers:
    """The rule for pairs on the launches of a duet."""
    return [_outcome(comparison.by_differences(each), limit) for each in known.together + effect]


def _outcome(estimate: Estimate | None, limit: float) -> Outcome:
    return "inconclusive" if estimate is None else comparison.decide(estimate, limit)


# --- what the product does ------------------------------------------------------------------------


def looks(known: Compared, effect: float, limit: float) -> Answers:
    """The gate in the mode "separate": pairs at looks 5, 10 and 20."""
    sides = zip(known.before, known.after + effect, strict=True)
    return [procedure.separate(procedure.Launches(a, b), limit).word for a, b in sides]


def welch_looks(known: Compared, effect: float, limit: float) -> Answers:
    """Welch's t at the same looks: what others would do with them."""
    rule = Rule(lambda pairs: comparison.welch(*zip(*pairs, strict=True)), comparison.hodges_lehmann_of_pairs)
    sides = zip(known.before, known.after + effect, strict=True)
    pairs = [list(zip(*each, strict=True)) for each in sides]
    return [look(each, Bounds(limit), comparison.LOOKS, rule).answer.word for each in pairs]


def duet_looks(known: Compared, effect: float, limit: float) -> Answers:
    """A duet at looks 5, 10 and 20, as the gate judges it."""
    return [procedure.duet(each, limit) for each in known.together + effect]


def auto(known: Compared, effect: float, limit: float, shrinks_to: float = 1.0) -> Answers:
    """The gate in the mode "auto"; a duet sees only the share `shrinks_to` of a change."""
    sides = zip(known.before, known.after + effect, known.together + shrinks_to * effect, strict=True)
    return [procedure.auto(procedure.Launches(*each), limit).word for each in sides]


def other_day(known: Compared, effect: float, limit: float) -> Answers:
    """A stored baseline, with the variance that an A/A history of the board gives."""
    chance = np.random.default_rng(3)
    made: Answers = []
    for before, after in zip(known.before, known.after + effect, strict=True):
        history = chance.normal(0, SESSION_SD * math.sqrt(2), HISTORY)
        noise = SessionNoise(variance=float(np.mean(history**2)), freedom=HISTORY)
        made.append(procedure.other_session(procedure.Launches(before, after), limit, noise).word)
    return made


def other_day_unknown(known: Compared, effect: float, limit: float) -> Answers:
    """A stored baseline of a board that has no A/A history."""
    sides = zip(known.before, known.after + effect, strict=True)
    return [procedure.other_session(procedure.Launches(a, b), limit, None).word for a, b in sides]


# --- what others do -------------------------------------------------------------------------------


def naive_mean(known: Pooled, effect: float, limit: float) -> list[Outcome]:
    """Slower when the mean of all inferences is slower than the limit: what most tools do."""
    before = np.exp(known.before).mean(axis=(1, 2))
    after = np.exp(known.after + effect).mean(axis=(1, 2))
    return ["fail" if ratio > math.exp(limit) else "pass" for ratio in after / before]


def pooled_mann_whitney(known: Pooled, effect: float, limit: float) -> list[Outcome]:
    """Mann-Whitney over all inferences as if they were independent."""
    made: list[Outcome] = []
    for before, after in zip(known.before, known.after + effect - limit, strict=True):
        p = stats.mannwhitneyu(
            after.ravel(), before.ravel(), alternative="greater", method="asymptotic"
        ).pvalue
        made.append("fail" if p < ALPHA else "pass")
    return made


def pooled_bootstrap(known: Pooled, effect: float, limit: float) -> list[Outcome]:
    """A bootstrap interval of the ratio of medians over all inferences."""
    chance = np.random.default_rng(11)
    made: list[Outcome] = []
    for before, after in zip(known.before, known.after + effect, strict=True):
        ratios = _resampled_median(after.ravel(), chance) - _resampled_median(before.ravel(), chance)
        made.append("fail" if np.quantile(ratios, ALPHA) > limit else "pass")
    return made


def _resampled_median(values: Floats, chance: np.random.Generator) -> Floats:
    """Medians of bootstrap samples: the median of n ranks drawn at random is a beta-distributed rank."""
    ordered = np.sort(values)
    half = (len(ordered) + 1) // 2
    rank = chance.beta(half, len(ordered) - half + 1, BOOTSTRAPS)
    return np.asarray(ordered[np.minimum((rank * len(ordered)).astype(int), len(ordered) - 1)])


def share(answers: Iterable[str], word: str) -> float:
    """How many of the answers are that word."""
    known = list(answers)
    return sum(each == word for each in known) / len(known)
