"""Outcomes of faults as a table and totals. Pure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from tests.faults.cases import KINDS
from tests.faults.run import Outcome

# word at the beginning of a violation -> what it is in the table
VIOLATIONS = {
    "orphans": "orphan processes",
    "outside": "files outside",
    "lost": "lost launches",
    "double": "double use",
    "hang": "hangs",
    "unaccounted": "jobs not accounted for",
    "unusable": "boards not usable at once",
    "harness": "not injected",
}


def totals(outcomes: Sequence[Outcome]) -> list[str]:
    """One line for all, one for each thing that must be 0."""
    counted = count(outcomes)
    lines = [f"{len(outcomes)} faults injected, {sum(counted.values())} violations:", ""]
    lines += [f"- {text}: {counted[word]}" for word, text in VIOLATIONS.items()]
    return lines


def count(outcomes: Sequence[Outcome]) -> Counter[str]:
    """How many violations of each kind there are."""
    return Counter(wrong.partition(":")[0] for each in outcomes for wrong in each.violations)


def markdown(outcomes: Sequence[Outcome]) -> str:
    """A row for each kind of fault."""
    rows = [
        "| fault | injected | how the jobs ended | median s | violations |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind in KINDS:
        of_kind = [each for each in outcomes if each.case.kind == kind]
        if not of_kind:
            continue
        ended = Counter(each.ended for each in of_kind)
        told = ", ".join(f"{number} {word}" for word, number in ended.most_common())
        seconds = statistics.median(each.seconds for each in of_kind)
        violations = sum(count(of_kind).values())
        rows.append(f"| {kind} | {len(of_kind)} | {told} | {seconds:.0f} | {violations} |")
    return "\n".join(rows)
