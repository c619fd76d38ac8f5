"""Measurements x budgets x baseline -> verdicts. Pure: the same rows give the same verdicts months later."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from itertools import chain
from typing import NamedTuple

from edgebench.budgets import Budgets, Limit, Subject, merged
from edgebench.comparison import ALPHA, false_discoveries
from edgebench.gates.base import (
    EXIT_CODES,
    WORST_FIRST,
    DeviceNoise,
    Gate,
    Known,
    Observed,
    Overall,
    SessionNoise,
    Verdict,
    Word,
    label,
)
from edgebench.gates.figures import observed
from edgebench.gates.limits import Baseline, judge
from edgebench.records import replace
from edgebench.units import significant

__all__ = [
    "DeviceNoise",
    "Gate",
    "Known",
    "Observed",
    "Part",
    "SessionNoise",
    "Verdict",
    "concluded",
    "gate",
    "is_unsure_failure",
    "judged",
    "label",
    "needs_samples",
    "observed",
]

EXIT_NOTHING = 5
NOTHING_KNOWN = Known()


class Part(NamedTuple):
    """The verdicts on some cells before they are looked at together; the budgets that matched any of them."""

    verdicts: tuple[Verdict, ...]
    unlimited: tuple[str, ...]
    matched: frozenset[str]


def gate(
    cells: Sequence[Observed],
    budgets: Budgets,
    baseline: Sequence[Observed],
    *,
    today: date,
    known: Known = NOTHING_KNOWN,
    duets: Sequence[Observed] = (),
) -> Gate:
    """The verdict on every limit of every cell.

    `duets`: candidates and baselines of the same names that ran in one process.
    """
    return concluded([judged(cells, budgets, baseline, known=known, duets=duets)], budgets, today=today)


def judged(
    cells: Sequence[Observed],
    budgets: Budgets,
    baseline: Sequence[Observed],
    *,
    known: Known = NOTHING_KNOWN,
    duets: Sequence[Observed] = (),
) -> Part:
    """The verdicts on the cells of one device, or of several; their baselines and duets are among these."""
    before, together = _by_subject(baseline), _by_subject(duets)
    verdicts: list[Verdict] = []
    unlimited: list[str] = []
    matched: dict[tuple[str, ...], tuple[Limit, ...]] = {}  # names of budgets that match together -> limits
    for cell in cells:
        matching = budgets.matching(cell.subject)
        names = tuple(each.name for each in matching)
        if names not in matched:
            matched[names] = merged(matching)
        limits = matched[names]
        if not limits:
            unlimited.append(label(cell.subject))
        key = _key(cell.subject)
        duet = together[key][-1] if key in together else None
        noise = known.noise.get((cell.subject.device, cell.subject.runtime))
        against = Baseline(_partner(cell, before.get(key, ())), noise, duet, known.problem)
        verdicts += [judge(limit, cell, against) for limit in limits]
    return Part(tuple(verdicts), tuple(unlimited), frozenset(chain.from_iterable(matched)))


def concluded(parts: Iterable[Part], budgets: Budgets, *, today: date) -> Gate:
    """The whole of it: failures among so many cells, waivers, and the word for all."""
    verdicts: list[Verdict] = []
    unlimited: list[str] = []
    matched: set[str] = set()
    for part in parts:
        verdicts += part.verdicts
        unlimited += part.unlimited
        matched |= part.matched
    _correct(verdicts)
    made = _waived(verdicts, budgets, today)
    return Gate(
        verdict=_worst(made),
        exit_code=exit_code(made),
        cells=tuple(made),
        unmatched=tuple(each.name for each in budgets.budgets if each.name not in matched),
        unlimited=tuple(unlimited),
    )


def needs_samples(budgets: Budgets) -> bool:
    """Whether a limit asks for single samples."""
    return any(limit.metric == "deadline_misses" for each in budgets.budgets for limit in each.limits)


def exit_code(verdicts: Iterable[Verdict]) -> int:
    """0 only when something was judged and all of it passed; the worst of 1, 4, 3 else; 5: nothing."""
    judged = list(verdicts)
    codes = {EXIT_CODES[each.word] for each in judged if each.blocks}
    return min(codes, key=WORST_FIRST.index) if codes else (0 if judged else EXIT_NOTHING)


def _worst(verdicts: Sequence[Verdict]) -> Overall:
    code = exit_code(verdicts)
    order: tuple[Word, ...] = (
        "fail",
        "error",
        "invalid",
        "not-comparable",
        "missing",
        "inconclusive",
        "pass",
    )
    words = {each.word for each in verdicts if each.blocks and EXIT_CODES[each.word] == code}
    return next((word for word in order if word in words), "pass" if verdicts else "nothing")


def _by_subject(cells: Sequence[Observed]) -> dict[tuple[str, ...], list[Observed]]:
    found: dict[tuple[str, ...], list[Observed]] = {}
    for cell in cells:
        found.setdefault(_key(cell.subject), []).append(cell)
    return found


def _partner(cell: Observed, candidates: Sequence[Observed]) -> Observed | None:
    """Of the baseline's cells of that name the one measured side by side, else the last."""
    found = [each for each in candidates if each.session == cell.session] or candidates
    return found[-1] if found else None


def _key(subject: Subject) -> tuple[str, ...]:
    return (
        subject.device,
        subject.target,
        subject.model,
        subject.variant,
        subject.runtime,
        subject.precision,
    )


def is_unsure_failure(verdict: Verdict, cells: int) -> bool:
    """Whether a failure may be one by chance among so many cells: its p, for each of them (Bonferroni).

    A run goes on to its next look then, so that what is true survives what `concluded` asks of it.
    """
    if verdict.word != "fail" or verdict.p_value is None:
        return False
    return verdict.p_of_all_looks * cells > ALPHA


def _correct(verdicts: list[Verdict]) -> None:
    """Keep the share of false ones among all failures of a metric at alpha (Benjamini-Hochberg), in place.

    A failure that does not survive among so many cells is inconclusive.
    """
    families: dict[tuple[str, str], list[int]] = {}
    for place, each in enumerate(verdicts):
        if each.p_value is not None:
            families.setdefault((each.metric, each.kind), []).append(place)
    for places in families.values():
        p_values = [verdicts[place].p_of_all_looks for place in places]
        for place, q in zip(places, false_discoveries(p_values), strict=True):
            verdicts[place] = _with_q(verdicts[place], q, len(places))


def _with_q(verdict: Verdict, q: float, cells: int) -> Verdict:
    if verdict.word != "fail" or q <= ALPHA:
        return replace(verdict, q_value=q)
    reason = f"{verdict.reason}; among {cells} cells such a p is expected by chance (q {significant(q, 2)})"
    return replace(
        verdict,
        word="inconclusive",
        cause="many-cells",
        q_value=q,
        reason=reason,
        next="measure this cell again with more launches",
    )


def _waived(verdicts: Sequence[Verdict], budgets: Budgets, today: date) -> list[Verdict]:
    """Failures under a waiver that has not expired do not block; an expired one is told."""
    made = []
    for each in verdicts:
        waiver = budgets.waiver(each.subject) if each.word == "fail" else None
        if waiver is None:
            made.append(each)
        elif waiver.holds(today):
            made.append(replace(each, waived=f"until {waiver.until} by {waiver.owner}: {waiver.reason}"))
        else:
            told = f"{each.reason}; its waiver ended on {waiver.until} ({waiver.owner}: {waiver.reason})"
            made.append(replace(each, reason=told))
    return made
