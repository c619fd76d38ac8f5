"""`edgebench release`: runs under names that stay, for later ones to be compared with."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import click

from edgebench import releases
from edgebench.cli.output import emit_json, json_option, note, print_table
from edgebench.cli.setup import read_settings, results
from edgebench.errors import EXIT_NOTHING_DONE, EXIT_OK
from edgebench.records import Release, to_json
from edgebench.releases import Standing
from edgebench.store import Store


@click.group()
def release() -> None:
    """Give a run a name, and say which release may be a baseline.

    A release may be one when the last gate on its run passed, or when it was promoted. `latest-passed` is the
    one that became so last. A name is taken wherever a run is: gate, compare, export, run --baseline.
    """


@release.command()
@click.argument("name")
@click.option("--from", "run", required=True, metavar="RUN", help="A run's id, its beginning, or latest.")
@click.option("--note", "remark", default="", metavar="TEXT", help="Kept with it.")
@json_option
def create(name: str, run: str, remark: str, as_json: bool) -> None:
    """Call the measurements of RUN the release NAME."""
    with results(read_settings()) as store:
        stored = store.run(run)
        made = releases.created(name, stored.id, _now(), remark, store.judgement(stored.id))
        store.add_release(made)
        found = _standing(made, store)
    if as_json:
        emit_json(_document(found))
        return
    click.echo(f"release {name}: run {stored.id}, {found.verdict}")
    if not made.passed_utc:
        note(
            f"  it is no baseline yet; next: edgebench gate {stored.id} --budgets budgets.yaml, then\n"
            f"  edgebench release promote {name} --why TEXT"
        )


@release.command("list")
@json_option
def list_(as_json: bool) -> int:
    """All releases, newest first."""
    with results(read_settings()) as store:
        found = [_standing(each, store) for each in store.releases()]
    if as_json:
        emit_json({"schema": 1, "releases": [_document(each) for each in found]})
        return EXIT_OK
    if not found:
        note("there is no release yet\n  next: edgebench release create NAME --from RUN")
        return EXIT_NOTHING_DONE
    latest = max((each.release.passed_utc for each in found), default="")
    print_table(["release", "run", "gate", "baseline since", "why", "note"], _rows(found, latest))
    return EXIT_OK


@release.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """One release: its run, what its gate said, and what was measured."""
    with results(read_settings()) as store:
        found = _standing(_found(name, store), store)
        cells = store.jobs(found.release.run)
    if as_json:
        emit_json({**_document(found), "cells": [to_json(each) for each in cells]})
        return
    print_table(["release", "run", "gate", "baseline since", "why", "note"], _rows([found], ""))
    columns = ["device", "model", "variant", "runtime", "precision"]
    print_table(columns, [tuple(getattr(each, column) for column in columns) for each in cells])


@release.command()
@click.argument("name")
@click.option("--why", required=True, metavar="TEXT", help="Why it may be what others are compared with.")
@json_option
def promote(name: str, why: str, as_json: bool) -> None:
    """Make NAME what `latest-passed` means from now on; one whose own gate failed is refused."""
    with results(read_settings()) as store:
        known = _found(name, store)
        made = releases.promoted(known, store.judgement(known.run), _now(), why)
        store.change_release(made)
        found = _standing(made, store)
    if as_json:
        emit_json(_document(found))
    else:
        click.echo(f"{releases.LATEST_PASSED} is {name} from now on (run {made.run}, {found.verdict})")


def _found(name: str, store: Store) -> Release:
    every = store.releases()
    return releases.latest_passed(every) if name == releases.LATEST_PASSED else releases.named(name, every)


def _standing(each: Release, store: Store) -> Standing:
    return releases.standing(each, store.judgement(each.run))


def _document(found: Standing) -> dict[str, Any]:
    return {"schema": 1, **to_json(found.release), "gate": found.verdict, "problem": found.problem}


def _rows(found: Iterable[Standing], latest: str) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for each in found:
        kept = each.release
        since = kept.passed_utc[:16].replace("T", " ") or "-"
        mark = " (latest-passed)" if latest and kept.passed_utc == latest else ""
        rows.append((f"{kept.name}{mark}", kept.run, each.verdict, since, kept.passed_why, kept.note))
    return rows


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
