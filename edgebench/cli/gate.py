"""`edgebench gate`: the verdict on a run or file, from its measurements alone; no device is touched."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from edgebench import budgets as budget_files
from edgebench.cli.output import emit_json, json_option, note, print_table, warn
from edgebench.cli.sources import cells, check_not_empty
from edgebench.documents import read_text
from edgebench.gates import Gate, Verdict, label, needs_samples
from edgebench.gates import gate as judge
from edgebench.records import to_json

WORD_ORDER = ("fail", "error", "invalid", "not-comparable", "missing", "inconclusive", "pass")


@click.command()
@click.argument("candidate", metavar="RUN|FILE.json")
@click.option("--baseline", metavar="RUN|FILE.json", help="What `regress` limits compare with.")
@click.option(
    "--budgets", "budgets_file", type=click.Path(), default="budgets.yaml", show_default=True, metavar="FILE"
)
@json_option
def gate(candidate: str, baseline: str | None, budgets_file: str, as_json: bool) -> int:
    """Judge every cell of CANDIDATE by the budgets: pass, fail, or why it cannot be said.

    Exit code: 0 all passed, 1 a limit is exceeded with confidence, 3 something is inconclusive, 4 something
    has no valid measurement, 5 nothing was judged, 2 a mistake in what was typed or in the budgets.
    """
    rules = budget_files.parse(read_text(Path(budgets_file)), budgets_file)
    wanted = needs_samples(rules)
    found = cells(candidate, with_samples=wanted)
    check_not_empty(found, candidate)
    before = [] if baseline is None else cells(baseline)
    today = datetime.now(UTC).date()
    judged = judge(found, rules, before, today=today)
    if as_json:
        emit_json(document(judged))
    else:
        _print(judged)
    return judged.exit_code


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


def _print(judged: Gate) -> None:
    ordered = sorted(judged.cells, key=lambda each: WORD_ORDER.index(each.word))
    print_table(["verdict", "cell", "metric", "why"], [_row(each) for each in ordered])
    for each in _next_steps(ordered):
        note(f"  next: {each}")
    for name in judged.unmatched:
        warn(f"the budget {name} matches no cell")
    for name in judged.unlimited:
        warn(f"no budget limits {name}")
    click.echo(f"gate: {judged.verdict} ({_counts(judged.cells)})")


def _row(verdict: Verdict) -> tuple[str, ...]:
    shown = f"{verdict.word} (waived)" if verdict.waived else verdict.word
    quality = "" if verdict.severity == "block" else f" ({verdict.severity})"
    why = f"{verdict.reason}; waived {verdict.waived}" if verdict.waived else verdict.reason
    return f"{shown}{quality}", label(verdict.subject), f"{verdict.metric} {verdict.kind}", why


def _next_steps(verdicts: Sequence[Verdict]) -> list[str]:
    return list(dict.fromkeys(each.next for each in verdicts if each.next))[:5]


def _counts(verdicts: Sequence[Verdict]) -> str:
    counts = {word: sum(each.word == word for each in verdicts) for word in WORD_ORDER}
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "nothing was judged"
