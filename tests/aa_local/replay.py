"""Recorded launches -> how often every rule of the gate is right on a real machine.

Pairs are drawn whole, with replacement. Where nothing changed it is drawn as well which of a pair is the
candidate, which takes slow drift away; where two networks differ they stay what they are. The gate's own
judging answers, with the load that was recorded (tests/simulation/procedure.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from random import Random
from statistics import median
from typing import NamedTuple

from edgebench import comparison
from edgebench.comparison import ALPHA, LOOKS
from edgebench.gates import Observed
from edgebench.gates import duets as duet_rules
from edgebench.gates.base import LaunchFigures
from edgebench.gates.limits import Baseline, judge
from edgebench.records import replace
from tests.aa_local.recordings import Comparison, Condition, DuetRow, LaunchRow, Recording
from tests.simulation.page import RECORDED, claim, row
from tests.simulation.procedure import SUBJECT, Cells, decided, first, p50_limit

TOLERANCE = 0.02
LIMIT = math.log1p(TOLERANCE)
DRAWS = 1000
SEED = 20261126
MOST_ALARMS, LEAST_FOUND = 0.06, 0.90
TOO_FEW = "not judged: too few were recorded in its time"
LEAST_RECORDED = 10  # pairs or duets: what is drawn from fewer shows those few, and no rule


class Pair(NamedTuple):
    """Two launches that were neighbours."""

    baseline: LaunchRow
    candidate: LaunchRow


class Said(NamedTuple):
    """What a rule answered, and why it did not decide."""

    word: str
    cause: str = ""


Rule = Callable[[Cells], Said]


# --- rules ----------------------------------------------------------------------------------------


def welch(launches: int) -> Rule:
    """Welch's t on so many launches a side, as a file without pairs is judged."""

    def answer(cells: Cells) -> Said:
        logs = [_logs(first(each, launches)) for each in (cells.baseline, cells.candidate)]
        estimate = comparison.welch(*logs)
        return Said("inconclusive" if estimate is None else comparison.decide(estimate, LIMIT))

    return answer


def pairs(launches: int) -> Rule:
    """The rule for so many pairs."""

    def answer(cells: Cells) -> Said:
        return _of_differences(first(cells.baseline, launches), first(cells.candidate, launches))

    return answer


def separate(cells: Cells) -> Said:
    """The gate in the mode "separate": looks at 5, 10 and 20 pairs."""
    found = judge(p50_limit(LIMIT), cells.candidate, Baseline(cells.baseline))
    return Said(found.word, found.cause)


def duet(launches: int) -> Rule:
    """A duet of so many launches at one look, as the gate judges it."""

    def answer(cells: Cells) -> Said:
        assert cells.duet is not None
        return _heard(replace(first(cells.duet, launches), looks=()), cells.candidate)

    return answer


def duet_looks(cells: Cells) -> Said:
    """The gate on a duet at looks 5, 10 and 20."""
    assert cells.duet is not None
    return _heard(cells.duet, cells.candidate)


def auto(cells: Cells) -> Said:
    """The gate in the mode "auto"."""
    half = ALPHA / 2
    assert cells.duet is not None
    made = Cells(*(replace(each, alpha=half) for each in (cells.baseline, cells.candidate, cells.duet)))
    found = decided(made, LIMIT)
    return Said(found.word, found.cause)


SEPARATE, DUET = "pairs, looks at 5, 10, 20 (separate)", "duet, looks at 5, 10, 20 (duet)"
AUTO = "pairs, then a duet (auto)"
RULES: dict[str, Rule] = {
    **{f"Welch t, {n} launches": welch(n) for n in LOOKS},
    **{f"pairs, {n}": pairs(n) for n in LOOKS},
    SEPARATE: separate,
    **{f"duet, {n} launches": duet(n) for n in LOOKS},
    DUET: duet_looks,
    AUTO: auto,
}


def _of_differences(baseline: Observed, candidate: Observed) -> Said:
    estimate = comparison.by_pairs(list(zip(_logs(baseline), _logs(candidate), strict=True)))
    return Said("inconclusive" if estimate is None else comparison.decide(estimate, LIMIT))


def _heard(cell: Observed, alone: Observed) -> Said:
    test = duet_rules.test_of(p50_limit(LIMIT), cell)
    if test is None:
        return Said("inconclusive", "few-launches")
    found = duet_rules.answer_of(test, cell, alone, None)
    return Said(found.word, found.cause)


def _logs(cell: Observed) -> list[float]:
    return [math.log(launch.p50_ns) for launch in cell.launches if launch.p50_ns]


# --- drawing --------------------------------------------------------------------------------------


def answers(found: Comparison, draws: int = DRAWS) -> dict[str, list[Said]]:
    """What every rule says of a comparison, drawn again and again."""
    chance = Random(f"{SEED} {found.slower_by}")
    known, together = complete(found.separate), found.duets
    made: dict[str, list[Said]] = {name: [] for name in RULES}
    if not (known and together):
        return {name: [Said("inconclusive", "few-launches")] for name in RULES}
    for _ in range(draws):
        cells = _drawn(known, together, chance, swaps=not found.slower_by)
        for name, rule in RULES.items():
            made[name].append(rule(cells))
    return made


def complete(launches: Sequence[LaunchRow]) -> list[Pair]:
    """The pairs of which both launches count."""
    sides: dict[int, dict[bool, LaunchRow]] = {}
    for each in launches:
        if each.counted:
            sides.setdefault(each.pair, {})[each.is_candidate] = each
    return [Pair(each[False], each[True]) for _, each in sorted(sides.items()) if len(each) == 2]


def _drawn(known: Sequence[Pair], together: Sequence[DuetRow], chance: Random, *, swaps: bool) -> Cells:
    taken = [chance.choice(known) for _ in range(LOOKS[-1])]
    if swaps:
        taken = [Pair(*reversed(each)) if chance.random() < 0.5 else each for each in taken]
    heard = [chance.choice(together) for _ in range(LOOKS[-1])]
    signs = [-1.0 if swaps and chance.random() < 0.5 else 1.0 for _ in heard]
    return Cells(
        _cell([_figures(place, each.baseline) for place, each in enumerate(taken)]),
        _cell([_figures(place, each.candidate) for place, each in enumerate(taken)]),
        _cell(
            [
                replace(_figures(place, each), duet_shift=sign * each.shift)
                for place, (each, sign) in enumerate(zip(heard, signs, strict=True))
            ]
        ),
    )


def _cell(launches: Sequence[LaunchFigures]) -> Observed:
    return Observed(subject=SUBJECT, session="s1", launches=tuple(launches), looks=LOOKS)


def _figures(place: int, launch: LaunchRow | DuetRow) -> LaunchFigures:
    return LaunchFigures(
        place=place,
        n=120,
        p10_ns=float(launch.p10_ns),
        p50_ns=float(launch.p50_ns),
        p90_ns=float(launch.p90_ns),
        foreign_load=launch.foreign_load,
    )


# --- the table ------------------------------------------------------------------------------------


def document(recording: Recording, draws: int = DRAWS) -> Iterator[str]:
    """The section of the page, with what is claimed and whether it holds."""
    yield RECORDED
    yield ""
    yield (
        f"Recorded on {recording.recorded} by `make aa-local` on {recording.processor}, {recording.cores} "
        f"shared cores ({recording.runtime}, {recording.threads} threads): a chain of 60 convolutions beside "
        "itself, and beside 63 and 66 of them (+5 %, +10 %), 120 inferences a launch. Launches beside more "
        "than 0.2 core of others were run again, twice at most, as `run --gate` does. Below, whole pairs are "
        f"drawn with replacement {draws:,} times, and labels where nothing changed; the tolerance is "
        f"{TOLERANCE:.0%}. `python -m tests.aa_local --replay` does that with tests/aa_local/recorded.json. "
        "Few launches were recorded: read what is found as ±15 points."
    )
    for condition in recording.conditions:
        yield from ("", f"### {condition.name.capitalize()}: {condition.load}", "", _told(condition), "")
        yield from _judged(condition, draws)


def enough(found: Comparison, rule: str) -> bool:
    """Whether enough was recorded to say anything of a rule."""
    kinds = {True: len(found.duets), False: len(complete(found.separate))}
    asked = kinds.values() if rule == AUTO else [kinds[rule.startswith("duet")]]
    return min(asked) >= LEAST_RECORDED


def _judged(condition: Condition, draws: int) -> Iterator[str]:
    made = {each.slower_by: each for each in condition.comparisons}
    said = {slower_by: answers(each, draws) for slower_by, each in made.items()}
    yield row("rule", "false alarms %", *(f"{each:+.0%} found / passed %" for each in made if each), "")
    yield "|---" * (2 + len(made)) + "|"
    for name in RULES:
        cells = [_cells(said[each][name], each) if enough(made[each], name) else "-" for each in made]
        alarms = _share(said[0.0][name], "fail")
        judged = claim(alarms <= MOST_ALARMS, "alarms at most 6 %") if enough(made[0.0], name) else TOO_FEW
        yield row(name, *cells, judged)
    yield ""
    for what, name in (("separate launches find", SEPARATE), ("a duet finds", DUET)):
        if name == SEPARATE and condition.name != "mild":
            continue
        told = _finds(what, said[0.10][name]) if enough(made[0.10], name) else f"{what} +10 %: {TOO_FEW}"
        yield f"- {told}"


def _cells(said: Sequence[Said], slower_by: float) -> str:
    if not slower_by:
        return f"{100 * _share(said, 'fail'):.1f}"
    return f"{100 * _share(said, 'fail'):.0f} / {100 * _share(said, 'pass'):.0f}"


def _told(condition: Condition) -> str:
    """What the machine did meanwhile, and what was recorded."""
    launches = [each for one in condition.comparisons for each in one.separate]
    loads = sorted(each.foreign_load or 0.0 for each in launches)
    p50s = sorted(each.p50_ns / 1e6 for each in launches)
    spoilt = sum(not each.counted for each in launches)
    found = [
        f"{one.slower_by:+.0%}: pairs {len(complete(one.separate))}, duets {len(one.duets)}"
        for one in condition.comparisons
    ]
    return (
        f"Foreign load {_deciles(loads)} cores, p50 {_deciles(p50s)} ms (10th, 50th, 90th percentile); "
        f"{spoilt} of {len(launches)} launches were run again. {'; '.join(found)}. "
        f"Median change of duets: {_changes(condition)}."
    )


def _changes(condition: Condition) -> str:
    found = [one for one in condition.comparisons if one.duets]
    shifts = [(one.slower_by, median(each.shift for each in one.duets)) for one in found]
    return ", ".join(f"{100 * math.expm1(shift):+.1f} % for {slower:+.0%}" for slower, shift in shifts)


def _deciles(values: Sequence[float]) -> str:
    last = len(values) - 1
    return " / ".join(f"{values[round(q * last)]:.2g}" for q in (0.1, 0.5, 0.9))


def _finds(what: str, said: Sequence[Said]) -> str:
    """Whether +10 % is seen; where not, the gate has to say that it does not know, and why."""
    found, passed = _share(said, "fail"), _share(said, "pass")
    text = f"{what} +10 % in {100 * found:.0f} %"
    if found >= LEAST_FOUND:
        return claim(True, f"{text} (at least 90 %)")
    causes = Counter(each.cause for each in said if each.word == "inconclusive").most_common(2)
    why = ", ".join(f"{cause} {100 * count / len(said):.0f} %" for cause, count in causes)
    return claim(passed <= ALPHA, f"{text}, else inconclusive ({why}); {100 * passed:.0f} % pass")


def _share(said: Sequence[Said], word: str) -> float:
    return sum(each.word == word for each in said) / len(said)
