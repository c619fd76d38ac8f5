"""Every rule as "is it slower than the limit?", asked of one trial at a time: ours, and what others do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from edgebench import comparison
from edgebench.comparison import ALPHA, LOOKS
from tests.simulation.boards import Floats, Trials

Answers = list[comparison.Outcome]
Rule = Callable[[Trials, float, float], Answers]
BOOTSTRAPS = 200


def welch(trials: Trials, effect: float, limit: float) -> Answers:
    """Welch's t on the logarithms of launch p50s."""
    before, after = trials.p50()
    return [_outcome(comparison.welch(a, b), limit) for a, b in zip(before, after + effect, strict=True)]


def paired(trials: Trials, effect: float, limit: float) -> Answers:
    """Paired t on ABBA pairs."""
    return [_outcome(comparison.paired(each), limit) for each in _differences(trials, effect)]


def trimmed(trials: Trials, effect: float, limit: float) -> Answers:
    """Trimmed paired t on ABBA pairs."""
    return [_outcome(comparison.trimmed_paired(each), limit) for each in _differences(trials, effect)]


def looks(trials: Trials, effect: float, limit: float) -> Answers:
    """The gate's own rule: paired at 5, trimmed at 10 and 20, each with a third of alpha."""
    return [_first_decided(each, limit) for each in _differences(trials, effect)]


def duet(trials: Trials, effect: float, limit: float) -> Answers:
    """Paired t on the median log-ratio of neighbouring inferences of one process.

    Both models share the process, so its level, clock state and noise are those of the baseline's launch;
    what differs is one inference's own noise.
    """
    chance = np.random.default_rng(7)
    own = chance.normal(0, 0.004, trials.baseline.shape)
    neighbours = trials.baseline[..., 1:] - trials.baseline[..., :-1]
    ratios = np.median(neighbours + own[..., 1:], axis=-1)
    ratios += effect + chance.normal(0, 0.002, ratios.shape)
    return [_outcome(comparison.paired(each), limit) for each in ratios]


def naive_mean(trials: Trials, effect: float, limit: float) -> Answers:
    """Slower when the mean of all inferences is slower than the limit: what most tools do."""
    before = np.exp(trials.baseline).mean(axis=(1, 2))
    after = np.exp(trials.candidate + effect).mean(axis=(1, 2))
    return ["fail" if ratio > math.exp(limit) else "pass" for ratio in after / before]


def pooled_mann_whitney(trials: Trials, effect: float, limit: float) -> Answers:
    """Mann-Whitney over all inferences as if they were independent."""
    made: Answers = []
    for before, after in zip(trials.baseline, trials.candidate + effect - limit, strict=True):
        p = stats.mannwhitneyu(
            after.ravel(), before.ravel(), alternative="greater", method="asymptotic"
        ).pvalue
        made.append("fail" if p < ALPHA else "pass")
    return made


def pooled_bootstrap(trials: Trials, effect: float, limit: float) -> Answers:
    """A bootstrap interval of the ratio of medians over all inferences."""
    chance = np.random.default_rng(11)
    made: Answers = []
    for before, after in zip(trials.baseline, trials.candidate + effect, strict=True):
        ratios = _resampled_median(after.ravel(), chance) - _resampled_median(before.ravel(), chance)
        made.append("fail" if np.quantile(ratios, ALPHA) > limit else "pass")
    return made


def _resampled_median(values: Floats, chance: np.random.Generator) -> Floats:
    """Medians of bootstrap samples: the median of n ranks drawn at random is a beta-distributed rank."""
    ordered = np.sort(values)
    half = (len(ordered) + 1) // 2
    rank = chance.beta(half, len(ordered) - half + 1, BOOTSTRAPS)
    return np.asarray(ordered[np.minimum((rank * len(ordered)).astype(int), len(ordered) - 1)])


def _differences(trials: Trials, effect: float) -> Floats:
    before, after = trials.p50()
    return np.asarray(after - before + effect)


def _outcome(estimate: comparison.Estimate | None, limit: float, alpha: float = ALPHA) -> comparison.Outcome:
    return "inconclusive" if estimate is None else comparison.decide(estimate, limit, alpha)


def _first_decided(differences: Sequence[float], limit: float) -> comparison.Outcome:
    alpha = comparison.alpha_of_look(LOOKS)
    for look in LOOKS:
        if look > len(differences):
            break
        outcome = _outcome(comparison.by_pairs(differences[:look]), limit, alpha)
        if outcome != "inconclusive":
            return outcome
    return "inconclusive"
