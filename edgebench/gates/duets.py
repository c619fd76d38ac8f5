"""A duet of candidate and baseline -> the verdict on a `regress` limit of p50. Pure.

Both ran in one process, turn by turn, so that other load hits neighbours alike. The unit is the launch: the
median of ln(candidate / baseline) over its neighbouring inferences. What a duet cannot see, and how that is
told (measured on a shared machine of two cores, 12 to 17 launches in each condition):

- each inference finds the other model's data in the caches, which shrinks a change by up to 15 %: it passes
  within 0.85 of the tolerance only;
- two models of different size do not slow each other alike, which looks like a difference between them: it
  says nothing where their artifacts differ in size by half, or where they surely lie further apart in company
  than in launches of their own;
- sustained load dilutes a change, since waiting is common to both: under load nothing passes;
- with a thread pool for each model the idle one's workers take cores from the other, which makes inferences
  some three times slower: it says nothing then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from edgebench import comparison
from edgebench.budgets import Limit
from edgebench.comparison import ALPHA, LEAST_LAUNCHES
from edgebench.gates.base import Observed, Verdict
from edgebench.gates.looks import DIFFERENCES, Answer, Bounds, Test, look

METRIC = "latency.p50"  # the only figure that a duet tells
SHRINKS_TO = 0.85
MOST_FOREIGN_CORES = 0.5
MOST_P50_OVER_P10 = 1.3
MOST_SLOWED = 1.5  # beside another model of their size networks took 1.02 to 1.16 times as long
MOST_UNLIKE = 1.05
MOST_SIZE_RATIO = 1.5  # of the artifacts
# Others are at work: 3 to 6 % of launches were 20 % slower below 0.1 core of theirs, and 65 to 94 % above 0.5
# (recorded on a shared machine of two cores).
LOADED_CORES = 0.2
WANTED_EFFECT = 0.025  # beyond the limit: what 20 pairs are to find, or duets take over


def tells(metric: str, kind: str) -> bool:
    """Whether a duet tells anything of such a limit."""
    return metric == METRIC and kind == "regress"


def takes_over(verdict: Verdict) -> bool:
    """Whether a duet is to decide instead: others use the device, or 20 pairs will hardly decide it."""
    loaded = (verdict.foreign_load or 0.0) > LOADED_CORES
    wanted = (1 + verdict.limit) * (1 + WANTED_EFFECT) - 1
    return loaded or (verdict.least_effect_at_last or math.inf) > wanted


def test_of(limit: Limit, duet: Observed) -> Test | None:
    """What the launches of a duet have found; None where they are too few."""
    shifts = [launch.duet_shift for launch in duet.launches if launch.duet_shift is not None]
    if len(shifts) < LEAST_LAUNCHES:
        return None
    inner = math.log1p(SHRINKS_TO * limit.value)
    bounds = Bounds(math.log1p(limit.value), duet.alpha, inner)
    return look(shifts, bounds, duet.looks, DIFFERENCES)


def answer_of(test: Test, duet: Observed, candidate: Observed, baseline: Observed | None) -> Answer:
    """The answer of a duet; `candidate` and `baseline` are the two in separate launches."""
    refused = _refused(duet, candidate, baseline)
    if refused:
        return Answer("inconclusive", f"{refused}: a duet tells nothing", "duet-refused")
    return capped(test.answer, loaded(duet))


def _refused(duet: Observed, candidate: Observed, baseline: Observed | None) -> str:
    """What the company in one process does to the two that spoils their comparison, or ""."""
    if baseline is None:
        return ""
    slowed = _slowed([launch.p10_ns for launch in duet.launches], candidate)
    other = _slowed([launch.baseline_p10_ns for launch in duet.launches], baseline)
    worst = max(filter(None, (slowed, other)), default=0.0)
    if worst > MOST_SLOWED:
        return f"the runtime takes {worst:.1f} times as long with two models in a process"
    size, size_before = candidate.artifact_bytes, baseline.artifact_bytes
    if size and size_before and not 1 / MOST_SIZE_RATIO <= size / size_before <= MOST_SIZE_RATIO:
        return f"models of {size} and {size_before} bytes do not slow each other alike"
    unlike = _unlike(duet, candidate, baseline)
    if unlike <= math.log(MOST_UNLIKE):
        return ""
    return f"the two slow each other unequally, by {100 * math.expm1(unlike):.0f} % at least"


def _unlike(duet: Observed, candidate: Observed, baseline: Observed) -> float:
    """How much more one of the two is slowed by company, as a logarithm: as much as is certain, or 0.

    By their quickest inferences, in company and in pairs of separate launches.
    """
    together = [
        math.log(launch.p10_ns / launch.baseline_p10_ns)
        for launch in duet.launches
        if launch.p10_ns and launch.baseline_p10_ns
    ]
    before = {launch.place: launch.p10_ns for launch in baseline.launches}
    apart = [
        math.log(launch.p10_ns / other)
        for launch in candidate.launches
        if launch.p10_ns and (other := before.get(launch.place))
    ]
    found = comparison.paired(apart)
    if found is None or not together:
        return 0.0
    low, high = found.lower(ALPHA / 2), found.upper(ALPHA / 2)
    middle = median(together)
    return max(0.0, middle - high, low - middle)


def _slowed(together_ns: Sequence[float | None], alone: Observed) -> float | None:
    """How much longer the quickest inferences take than in launches of their own, as a ratio."""
    together = [each for each in together_ns if each]
    own = [launch.p10_ns for launch in alone.launches if launch.p10_ns]
    return min(together) / min(own) if together and own else None


def capped(found: Answer, load: str) -> Answer:
    """The same answer; a pass is none where load of others (in words, or "") diluted what there was."""
    if not load or found.word != "pass":
        return found
    why = f"it would pass, but {load}: waiting hides part of a change"
    return Answer("inconclusive", why, "load-dilution")


def loaded(cell: Observed) -> str:
    """What shows that the device was at other work, or ""."""
    busy = busy_others(cell)
    if busy:
        return busy
    ratio = p50_over_p10(cell)
    return f"p50 is {ratio:.1f} times p10" if ratio is not None and ratio > MOST_P50_OVER_P10 else ""


def busy_others(cell: Observed) -> str:
    """How much other processes used of the device, where that is a lot; else ""."""
    foreign = _median([launch.foreign_load for launch in cell.launches])
    if foreign is None or foreign <= MOST_FOREIGN_CORES:
        return ""
    return f"other processes kept {foreign:.1f} cores busy"


def p50_over_p10(cell: Observed) -> float | None:
    """How far half of the inferences lie above the undisturbed ones, as a ratio; the launches' median."""
    return _median(
        [launch.p50_ns / launch.p10_ns for launch in cell.launches if launch.p50_ns and launch.p10_ns]
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
