"""`edgebench budgets`: what a budgets file says, what it means for a run, and one to begin with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from edgebench import budgets as budget_files
from edgebench.budget_schema import json_schema
from edgebench.budgets import Budgets, Limit, Subject, show
from edgebench.cli.output import emit_json, json_option, print_table, warn
from edgebench.cli.sources import cells, check_not_empty
from edgebench.documents import read_text
from edgebench.errors import EXIT_ERROR, EXIT_OK, UserError
from edgebench.gates import label
from edgebench.gates.suggest import Suggestion, suggested
from edgebench.records import to_json

NAMES = ("model", "variant", "precision", "runtime", "device", "target")

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
@json_option
def schema(as_json: bool) -> None:  # noqa: ARG001 - it is JSON either way
    """The JSON Schema of budgets files, for editors."""
    emit_json(json_schema())


@budgets.command()
@click.argument("source", metavar="[RUN|FILE.json]", required=False)
@budgets_option
@click.option("--target", metavar="NAME", help="Instead of a run: the names of one cell.")
@click.option("--model", metavar="NAME")
@click.option("--device", metavar="NAME")
@click.option("--runtime", metavar="NAME")
@click.option("--precision", metavar="NAME")
@click.option("--variant", metavar="NAME")
@click.option("--group", "groups", multiple=True, metavar="NAME", help="A group of the device; may repeat.")
@json_option
def explain(
    source: str | None, budgets_file: str, groups: tuple[str, ...], as_json: bool, **names: str | None
) -> int:
    """Which limits every cell of a run has, and which line gave each; or those of a cell given by name.

    A name that is left out fits only where a budget asks for none.
    """
    rules = read(budgets_file)
    given = {name: value for name, value in names.items() if value is not None}
    subjects = _subjects(source, given, groups)
    explained = {_called(subject): rules.limits(subject) for subject in subjects}
    unmatched = _unmatched(rules, subjects) if source else []
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


def _subjects(source: str | None, given: dict[str, str], groups: tuple[str, ...]) -> list[Subject]:
    """The cells of a run, or the one that is given by name."""
    named = bool(given or groups)
    if (source is None) != named:
        raise UserError(
            "a run and names of a cell were given; one is enough" if named else "explain the limits of what?",
            hint="edgebench budgets explain RUN, or --target NAME --model NAME",
        )
    if source is None:
        names = dict.fromkeys(NAMES, "") | given
        return [Subject(groups=groups, **names)]
    found = cells(source)
    check_not_empty(found, source)
    return [cell.subject for cell in found]


def _called(subject: Subject) -> str:
    """A cell in one line, of one that is not given in full the names that are."""
    names = [getattr(subject, name) for name in NAMES]
    return label(subject) if all(names) else " · ".join(name for name in (*names, *subject.groups) if name)


def _unmatched(rules: Budgets, found: Sequence[Subject]) -> list[str]:
    matched = {each.name for subject in found for each in rules.matching(subject)}
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
