"""How a gate is shown: as a table with what to do next."""

from __future__ import annotations

from collections.abc import Sequence

import click

from edgebench.cli.output import note, print_table, warn
from edgebench.errors import EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_OK
from edgebench.evidence import Inconclusive
from edgebench.gates import Gate, Verdict, label
from edgebench.report.gate_words import counts, ordered, word

UNJUDGED = ("missing", "not-comparable")
MOST_NAMES = 20
MOST_ROWS = 200  # of the table; what a person reads


def print_gate(judged: Gate) -> None:
    """The verdicts as a table, worst first, and what to do next."""
    worst_first = ordered(judged.cells)
    print_table(["verdict", "cell", "metric", "why"], [_row(each) for each in worst_first[:MOST_ROWS]])
    if len(worst_first) > MOST_ROWS:
        note(f"  and {len(worst_first) - MOST_ROWS:,} more, none worse; --json and -o FILE hold all of them")
    for each in _next_steps(worst_first):
        note(f"  next: {each}")
    for name in judged.unmatched:
        warn(f"the budget {name} matches no cell")
    for name in judged.unlimited[:MOST_NAMES]:
        warn(f"no budget limits {name}")
    if len(judged.unlimited) > MOST_NAMES:
        warn(f"no budget limits {len(judged.unlimited) - MOST_NAMES:,} further cells")
    click.echo(f"gate: {judged.verdict} ({counts(judged)})")


def exit_code(judged: Gate, inconclusive: Inconclusive) -> int:
    """The gate's exit code, with what inconclusive cells were to count as.

    What is missing or not comparable never counts as passed: nothing was judged there.
    """
    if judged.exit_code != EXIT_INCONCLUSIVE or inconclusive == "keep":
        return judged.exit_code
    if inconclusive == "fail":
        return EXIT_GATE_FAILED
    unjudged = any(each.blocks and each.word in UNJUDGED for each in judged.cells)
    return judged.exit_code if unjudged else EXIT_OK


def _row(verdict: Verdict) -> tuple[str, ...]:
    why = f"{verdict.reason}; waived {verdict.waived}" if verdict.waived else verdict.reason
    return word(verdict), label(verdict.subject), f"{verdict.metric} {verdict.kind}", why


def _next_steps(verdicts: Sequence[Verdict]) -> list[str]:
    return list(dict.fromkeys(each.next for each in verdicts if each.next))[:5]
