"""How a gate is shown: as a table with what to do next, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from edgebench.cli.output import note, print_table, warn
from edgebench.gates import Gate, Verdict, label
from edgebench.records import to_json
from edgebench.report.gate_words import counts, ordered


def document(judged: Gate) -> dict[str, Any]:
    """What `--json` shows: flat cells with a stable set of keys."""
    return {
        "schema": judged.schema,
        "verdict": judged.verdict,
        "exit_code": judged.exit_code,
        "cells": [_cell(each) for each in judged.cells],
        "unmatched_budgets": list(judged.unmatched),
        "cells_without_budget": list(judged.unlimited),
    }


def _cell(verdict: Verdict) -> dict[str, Any]:
    plain = to_json(verdict)
    subject = plain.pop("subject")
    subject.pop("groups")
    return {**subject, "verdict": plain.pop("word"), **plain}


def print_gate(judged: Gate) -> None:
    """The verdicts as a table, worst first, and what to do next."""
    worst_first = ordered(judged.cells)
    print_table(["verdict", "cell", "metric", "why"], [_row(each) for each in worst_first])
    for each in _next_steps(worst_first):
        note(f"  next: {each}")
    for name in judged.unmatched:
        warn(f"the budget {name} matches no cell")
    for name in judged.unlimited:
        warn(f"no budget limits {name}")
    click.echo(f"gate: {judged.verdict} ({counts(judged)})")


def _row(verdict: Verdict) -> tuple[str, ...]:
    shown = f"{verdict.word} (waived)" if verdict.waived else verdict.word
    quality = "" if verdict.severity == "block" else f" ({verdict.severity})"
    why = f"{verdict.reason}; waived {verdict.waived}" if verdict.waived else verdict.reason
    return f"{shown}{quality}", label(verdict.subject), f"{verdict.metric} {verdict.kind}", why


def _next_steps(verdicts: Sequence[Verdict]) -> list[str]:
    return list(dict.fromkeys(each.next for each in verdicts if each.next))[:5]
