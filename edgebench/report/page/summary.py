"""The first screen: the verdict of the release, what failed and why in sentences, the worst cells. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from edgebench.budgets import show
from edgebench.gates import Gate, Verdict
from edgebench.gates.claims import ClaimVerdict
from edgebench.report.base import clean, form, grouped, headline, label, name, next_step, origin, outcome
from edgebench.report.gate_words import bound, counts, ordered
from edgebench.report.page.base import (
    Subjects,
    Table,
    column_name,
    counted,
    verdicts_by_cell,
    worst_ratio,
    worst_verdict,
)
from edgebench.report.page.base import key_of as cell_of
from edgebench.units import format_ms, significant

SENTENCES = 8
LONGEST = 400  # characters of a sentence; the parts below have all of it
WORST = 5
MOOD = {"pass": "good", "fail": "bad", "error": "bad", "invalid": "bad"}
MEANING = {
    "pass": "every limit is kept",
    "fail": "a limit is exceeded with confidence",
    "inconclusive": "something could not be decided",
    "missing": "something has nothing to be compared with or was not measured",
    "not-comparable": "something cannot be compared",
    "invalid": "something has no valid measurement",
    "error": "something could not be measured",
    "nothing": "no limit matched any cell",
}


class Summary(NamedTuple):
    """What stands on top. `mood`: good, bad or open."""

    title: str
    verdict: str
    mood: str
    meaning: str
    sentences: tuple[str, ...]
    worst: Table | None
    facts: tuple[str, ...]


def summary(subjects: Subjects) -> Summary:
    """The first screen of a run's page."""
    run = subjects.report.run
    verdict, meaning = _verdict(subjects)
    return Summary(
        title=_title(subjects),
        verdict=verdict,
        mood=MOOD.get(verdict, "open"),
        meaning=meaning,
        sentences=tuple(_sentences(subjects)) or ("Every planned cell was measured and nothing failed.",),
        worst=_worst(subjects),
        facts=(headline(run), outcome(subjects.report.counts), *_versions(subjects), origin(run)),
    )


def _title(subjects: Subjects) -> str:
    names = ", ".join(map(name, subjects.releases))
    return f"Release {names}" if names else f"Run {name(subjects.report.run.id)}"


def _verdict(subjects: Subjects) -> tuple[str, str]:
    """One word, and what it means."""
    gate, last = subjects.gate, subjects.judgement
    run = name(subjects.report.run.id)
    if gate is not None:
        against = f", against {name(subjects.before.name)}" if subjects.before else ""
        return gate.verdict, f"{MEANING[gate.verdict]}: {counts(gate)}{against}"
    if last is not None:
        told = ", ".join(f"{count} {each}" for each, count in sorted(last.counts.items()))
        meaning = MEANING.get(last.verdict, "")
        return name(last.verdict), (
            f"{meaning} ({told}), said the gate of {name(last.judged_utc[:10])} by {name(last.budgets)}; "
            "its cells are shown with --budgets FILE"
        )
    return "not judged", f"no gate has judged this run: edgebench gate {run} --budgets budgets.yaml"


# --- sentences ------------------------------------------------------------------------------------


def _sentences(subjects: Subjects) -> Iterator[str]:
    """What failed, the gravest first; at most eight sentences."""
    gate = subjects.gate
    told = [*_broken(gate), *_of_failures(subjects), *_of_rows(subjects), *_undecided(gate)]
    yield from (clean(each, LONGEST) for each in told[:SENTENCES])
    if len(told) > SENTENCES:
        yield f"{counted(len(told) - SENTENCES, 'more finding')} below."


def _broken(gate: Gate | None) -> Iterator[str]:
    """Limits that are exceeded, the furthest first; the cells that exceed one make one sentence."""
    groups: dict[str, list[Verdict]] = {}
    for each in gate.cells if gate else ():
        if each.word == "fail" and each.blocks:
            groups.setdefault(bound(each), []).append(each)
    for limit, verdicts in sorted(groups.items(), key=lambda each: -(worst_ratio(each[1]) or 1.0)):
        worst = max(verdicts, key=lambda each: worst_ratio([each]) or 1.0)
        where = f"{_where(worst, [worst])}: {_sentence(worst.reason)}"
        devices = len({each.subject.device for each in verdicts})
        places = f"in {counted(len(verdicts), 'cell')} on {counted(devices, 'device')}, furthest "
        yield f"Fail: {limit} is not kept {places if len(verdicts) > 1 else ''}in {where}"


def _undecided(gate: Gate | None) -> Iterator[str]:
    """One sentence for each other word that blocks."""
    words: dict[str, list[Verdict]] = {}
    for each in ordered(gate.cells) if gate else ():
        if each.blocks and each.word not in ("pass", "fail", "error"):
            words.setdefault(each.word, []).append(each)
    for said, verdicts in words.items():
        first = verdicts[0]
        limits = counted(len(verdicts), "limit")
        why = f"{bound(first)}: {_sentence(first.reason)}"
        yield f"{said.capitalize()}: {limits}, such as {_where(first, [first])}, {why}"


def _where(verdict: Verdict, same: Sequence[Verdict]) -> str:
    """The cell in words, and on how many other devices the same is true."""
    subject = verdict.subject
    more = len({each.subject.device for each in same}) - 1
    others = f" and {counted(more, 'other device')}" if more > 0 else ""
    return f"{name(subject.model)} {form(subject)} on {name(subject.runtime)}, {name(subject.device)}{others}"


def _sentence(text: str) -> str:
    """A reason with the dot that ends it."""
    plain = clean(text)
    return plain if plain.endswith(".") or not plain else f"{plain}."


def _of_failures(subjects: Subjects) -> Iterator[str]:
    for failure, concern in grouped(subjects.report.failures):
        count = len(concern.jobs)
        which = concern.jobs[0] if count == 1 else f"{counted(count, 'cell')}, such as {concern.jobs[0]}"
        yield f"Failed ({failure.owner}): {which}: {_sentence(concern.detail)} Next: {next_step(failure)}"


def _of_rows(subjects: Subjects) -> Iterator[str]:
    report = subjects.report
    invalid = [row for row in report.rows if row.status == "invalid"]
    if invalid:
        reason = invalid[0].unusable[0] if invalid[0].unusable else "see the warnings"
        first = f"{column_name(invalid[0].job)} on {name(invalid[0].job.device)}"
        yield f"Invalid: {counted(len(invalid), 'cell')}, such as {first}: {_sentence(reason)}"
    if report.missing:
        cells = counted(len(report.missing), "planned cell")
        yield f"Not run: {cells}. Next: edgebench run --resume {name(report.run.id)}"
    refuted: dict[str, list[ClaimVerdict]] = {}
    for each in report.claims:
        if each.verdict == "refuted":
            refuted.setdefault(each.claim, []).append(each)
    for claim, found in refuted.items():
        one = found[0]
        where = f"{name(one.model)} on {name(one.runtime)}, {name(one.device)}"
        places = where if len(found) == 1 else f"{counted(len(found), 'place')}, such as {where}"
        yield f"Refuted: “{clean(claim)}”, in {places}: {_sentence(one.reason)}"


# --- worst cells ----------------------------------------------------------------------------------


def _worst(subjects: Subjects) -> Table | None:
    """The five cells furthest beyond (or nearest to) their limits; without any, the slowest against fp32."""
    judged = verdicts_by_cell(subjects.gate)
    rows = {cell_of(row.job): row for row in subjects.report.rows}
    known = [(worst_verdict(judged[key]), row) for key, row in rows.items() if key in judged]
    ranked = sorted(((each, row) for each, row in known if each is not None), key=lambda pair: -pair[0][0])
    if ranked:
        lines = [
            (label(row.job), bound(each), _seen(each), significant(ratio))
            for (ratio, each), row in ranked[:WORST]
        ]
        headings = ("cell", "limit", "the gate saw", "times its limit or baseline")
        return Table("The worst cells", headings, tuple(lines), (2, 3))
    slowed = [row for row in subjects.report.rows if row.speedup is not None and row.speedup < 1]
    slowed.sort(key=lambda row: row.speedup or 0.0)
    if not slowed:
        return None
    slow = tuple(
        (label(row.job), format_ms(row.summary.p50_ns), f"{row.speedup or 0:.2f}") for row in slowed[:WORST]
    )
    titles = ("cell", "p50", "speed-up, ×")
    return Table("Compressed forms that are slower than fp32", titles, slow, (1, 2))


def _seen(verdict: Verdict) -> str:
    return "-" if verdict.observed is None else show(verdict.metric, verdict.observed)


def _versions(subjects: Subjects) -> Iterator[str]:
    found: dict[str, dict[str, None]] = {}
    for sheet in subjects.report.devices:
        for runtime, version in sheet.runtimes.items():
            found.setdefault(name(runtime), {})[name(version)] = None
    if found:
        yield ", ".join(
            f"{runtime} {'/'.join(_few(versions))}" for runtime, versions in sorted(found.items())
        )


def _few(words: Iterable[str], most: int = 3) -> list[str]:
    every = list(words)
    return every if len(every) <= most else [*every[:most], f"and {len(every) - most} more"]
