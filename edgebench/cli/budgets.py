"""`edgebench budgets`: what a budgets file says, what it means for a run, and one to begin with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from edgebench import budgets as budget_files
from edgebench.budgets import Budgets, Limit, show
from edgebench.cli.output import emit_json, json_option, print_table, warn
from edgebench.cli.sources import cells, check_not_empty
from edgebench.documents import read_text
from edgebench.errors import EXIT_ERROR, EXIT_OK
from edgebench.gates import Observed, label
from edgebench.gates.suggest import Suggestion, suggested
from edgebench.records import to_json

budgets_option = click.option(
    "--budgets", "budgets_file", type=click.Path(), default="budgets.yaml", show_default=True, metavar="FILE"
)


@click.group()
def budgets() -> None:
    """Limits for releases: check a budgets file, explain it, suggest one from what was measured."""


@budgets.command()
@click.argument("file", type=click.Path(), default="budgets.yaml")
@json_option
def check(file: str, as_json: bool) -> None:
    """Whether FILE is a valid budgets file; else the line, and what to write."""
    rules = read(file)
    limits = sum(len(each.limits) for each in rules.budgets)
    if as_json:
        emit_json({"file": file, "budgets": len(rules.budgets), "limits": limits})
    else:
        click.echo(f"{file}: {len(rules.budgets)} budgets with {limits} limits")


@budgets.command()
@click.argument("source", metavar="RUN|FILE.json")
@budgets_option
@json_option
def explain(source: str, budgets_file: str, as_json: bool) -> int:
    """Which limits every cell of a run has, and which line gave each."""
    rules, found = read(budgets_file), cells(source)
    check_not_empty(found, source)
    explained = {label(cell.subject): rules.limits(cell.subject) for cell in found}
    unmatched = _unmatched(rules, found)
    if as_json:
        emit_json(
            {
                "cells": {name: [to_json(limit) for limit in limits] for name, limits in explained.items()},
                "unmatched_budgets": unmatched,
            }
        )
    else:
        print_table(["cell", "metric", "limit", "severity", "from"], list(_rows(explained)))
        for name in unmatched:
            warn(f"the budget {name} matches no cell")
    return EXIT_ERROR if unmatched else EXIT_OK


def _unmatched(rules: Budgets, found: Sequence[Observed]) -> list[str]:
    matched = {each.name for cell in found for each in rules.matching(cell.subject)}
    return [each.name for each in rules.budgets if each.name not in matched]


def _rows(explained: dict[str, tuple[Limit, ...]]) -> Iterator[tuple[str, ...]]:
    for name, limits in explained.items():
        for limit in limits:
            bound = {"max": "at most", "min": "at least", "regress": "worse by at most"}[limit.kind]
            yield name, limit.metric, f"{bound} {limit.text}", limit.severity, limit.origin
        if not limits:
            yield name, "-", "no budget", "", ""


@budgets.command()
@click.argument("source", metavar="RUN|FILE.json")
@json_option
def suggest(source: str, as_json: bool) -> None:
    """A budgets file for what was measured: upper ends of the 95 % intervals, and a margin for noise.

    Print it into budgets.yaml, then lower what you want to hold.
    """
    found = cells(source)
    check_not_empty(found, source)
    made = suggested(found)
    if as_json:
        emit_json({"suggestions": [to_json(each) for each in made]})
    else:
        click.echo(_text(made), nl=False)


def _text(made: Sequence[Suggestion]) -> str:
    lines = ["version: 1", "budgets:"]
    for number, each in enumerate(made, 1):
        match = {
            name: getattr(each.subject, name)
            for name in ("device", "model", "variant", "runtime", "precision")
        }
        named = ", ".join(f'{name}: "{value}"' for name, value in match.items())
        lines += [f"  - name: measured-{number}", f"    match: {{{named}}}", "    limits:"]
        for limit in each.limits:
            measured = show(limit.metric, limit.measured)
            written = f"{limit.metric}: {{max: {limit.text}, regress: {limit.regress}}}"
            lines.append(f"      {written}  # measured {measured}")
    return "\n".join(lines) + "\n"


def read(file: str) -> Budgets:
    """The budgets in a file."""
    return budget_files.parse(read_text(Path(file)), file)
