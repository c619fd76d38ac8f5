"""What all renderings of a gate share: the order of verdicts, and one in a line."""

from __future__ import annotations

from collections.abc import Sequence

from edgebench.budgets import Subject, show
from edgebench.gates import Gate, Verdict
from edgebench.report.base import clean, name

WORST_FIRST = ("fail", "error", "invalid", "not-comparable", "missing", "inconclusive", "pass")


def ordered(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """What passed last; of the rest what blocks first, and then the worst first."""
    return sorted(
        verdicts,
        key=lambda each: (each.word == "pass", not each.blocks, WORST_FIRST.index(each.word)),
    )


def counts(gate: Gate) -> str:
    """How many of each, "1 fail, 3 pass"."""
    found = {word: sum(each.word == word for each in gate.cells) for word in WORST_FIRST}
    return ", ".join(f"{count:,} {word}" for word, count in found.items() if count) or "nothing was judged"


def cell(subject: Subject) -> str:
    """The cell's names in one line, clean."""
    words = (subject.model, subject.variant, subject.precision, subject.runtime, subject.device)
    return " · ".join(name(word) for word in dict.fromkeys(words))


def bound(verdict: Verdict) -> str:
    """The limit in words: "p50 at most 12 ms", "latency.p50 +2 %"."""
    sign = {"max": "at most ", "min": "at least ", "regress": "worse by at most "}[verdict.kind]
    return f"{verdict.metric} {sign}{clean(verdict.limit_text)}"


def figures(verdict: Verdict) -> list[str]:
    """Everything that led to a verdict, a line each."""
    shown = [
        ("cell", cell(verdict.subject)),
        ("limit", f"{bound(verdict)} ({clean(verdict.origin)})"),
        ("observed", _value(verdict, verdict.observed)),
        ("baseline", _value(verdict, verdict.baseline)),
        ("ratio", None if verdict.ratio is None else f"{verdict.ratio:.4f}"),
        ("95 % interval", _interval(verdict)),
        ("p", None if verdict.p_value is None else f"{verdict.p_value:.2g}"),
        ("q", None if verdict.q_value is None else f"{verdict.q_value:.2g}"),
        ("launches", str(verdict.launches) if verdict.launches else None),
        ("measured", verdict.design if verdict.rule else None),
        ("rule", f"{verdict.rule}, look {verdict.look}" if verdict.rule else None),
        ("least change found", _change(verdict.least_effect)),
        ("least change found by 20 launches", _change(verdict.least_effect_at_last)),
        ("foreign load", None if verdict.foreign_load is None else f"{verdict.foreign_load:.2f} cores"),
        ("cause", verdict.cause or None),
        ("severity", None if verdict.severity == "block" else verdict.severity),
        ("reason", clean(verdict.reason)),
        ("next", clean(verdict.next) or None),
        ("waived", clean(verdict.waived) or None),
    ]
    return [f"{label}: {text}" for label, text in shown if text is not None]


def word(verdict: Verdict) -> str:
    """The verdict with what takes its weight away: "fail (waived)", "fail (warn)"."""
    weight = "waived" if verdict.waived else "" if verdict.severity == "block" else verdict.severity
    return f"{verdict.word} ({weight})" if weight else verdict.word


def _change(effect: float | None) -> str | None:
    return None if effect is None else f"{100 * effect:+.1f} % (in 80 % of cases)"


def _value(verdict: Verdict, value: float | None) -> str | None:
    return None if value is None else show(verdict.metric, value)


def _interval(verdict: Verdict) -> str | None:
    if verdict.ci_low is None or verdict.ci_high is None:
        return None
    if verdict.kind == "regress":
        return f"{verdict.ci_low:.4f} to {verdict.ci_high:.4f} (ratio)"
    return f"{show(verdict.metric, verdict.ci_low)} to {show(verdict.metric, verdict.ci_high)}"
