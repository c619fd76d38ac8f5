"""A duet of candidate and baseline -> the verdict on a `regress` limit of p50. Pure.

Both ran in one process, turn by turn, so that other load hits neighbours alike. The unit is the launch: the
median of ln(candidate / baseline) over its neighbouring inferences. What a duet cannot see, and how that is
told (measured on a shared machine of two cores, 12 to 17 launches in each condition):

- each inference finds the other model's data in the caches, which shrinks a change by up to 15 %: it passes
  within 0.85 of the tolerance only;
- sustained load dilutes a change, since waiting is common to both: under load nothing passes;
- with a thread pool for each model the idle one's workers take cores from the other: where the quickest
  inferences are slower than those of separate launches, it says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from edgebench import comparison
from edgebench.budgets import Limit
from edgebench.comparison import LEAST_LAUNCHES
from edgebench.gates.base import Observed, Verdict
from edgebench.gates.looks import Answer, Bounds, Test, answer, look

METRIC = "latency.p50"  # the only figure that a duet tells
SHRINKS_TO = 0.85
MOST_FOREIGN_CORES = 0.5
MOST_P50_OVER_P10 = 1.3
MOST_SLOWER_P10 = 1.05
# Others are at work: 3 to 6 % of launches were 20 % slower below 0.1 core of theirs, and 65 to 94 % above 0.5
# (recorded on a shared machine of two cores).
LOADED_CORES = 0.2
WANTED_EFFECT = 0.03  # beyond the limit: what 20 pairs are to find, or duets take over


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
    return look(shifts, bounds, duet.looks, comparison.by_pairs, comparison.hodges_lehmann_of_pairs)


def answer_of(test: Test, duet: Observed, separate: Observed) -> Answer:
    """The answer of a duet."""
    slower = slowed_by_company(duet, separate)
    if slower is not None:
        told = f"{100 * (slower - 1):.0f} % slower with two models in a process"
        return Answer("inconclusive", f"the runtime is {told}: a duet tells nothing", "duet-refused")
    return capped(answer(test), loaded(duet))


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


def slowed_by_company(duet: Observed, separate: Observed) -> float | None:
    """How much slower the quickest inferences are than alone, as a ratio; None where they are not."""
    together = [launch.p10_ns for launch in duet.launches if launch.p10_ns]
    alone = [launch.p10_ns for launch in separate.launches if launch.p10_ns]
    if not together or not alone:
        return None
    ratio = min(together) / min(alone)
    return ratio if ratio > MOST_SLOWER_P10 else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
