"""`edgebench compare`, `export` and `import`: runs and files of measurements beside one another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgebench import exchange
from edgebench.budgets import show
from edgebench.cli.output import emit_json, json_option, note, print_table
from edgebench.cli.setup import read_settings, results
from edgebench.cli.showing import write_whole
from edgebench.cli.sources import cells, check_not_empty, exported, groups_of
from edgebench.errors import EXIT_NOTHING_DONE, EXIT_OK, NothingDone
from edgebench.gates import label
from edgebench.gates.compare import Compared
from edgebench.gates.compare import compare as compared
from edgebench.records import to_json
from edgebench.units import significant

EVERY_RUN = 1_000_000


@click.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@json_option
def compare(before: str, after: str, as_json: bool) -> int:
    """How B differs from A: ratios with 95 % intervals. Each is a run or a file of `edgebench export`.

    Measurements with the same session were taken side by side and are compared pair by pair; between
    sessions a board differs by itself, so those stay inconclusive.
    """
    first, second = cells(before), cells(after)
    check_not_empty(first, before)
    check_not_empty(second, after)
    found = compared(first, second)
    if as_json:
        emit_json({"schema": 1, "cells": [_cell(each) for each in found]})
    else:
        _print(found)
    if not found:
        note(f"{before} and {after} have no cell in common (model, variant, runtime, precision, device)")
    return EXIT_OK if found else EXIT_NOTHING_DONE


def _cell(each: Compared) -> dict[str, Any]:
    plain = to_json(each)
    subject = plain.pop("subject")
    subject.pop("groups")
    return {**subject, **plain}


def _print(found: tuple[Compared, ...]) -> None:
    rows = [
        (
            label(each.subject),
            each.metric,
            "-" if each.before is None else show(each.metric, each.before),
            "-" if each.after is None else show(each.metric, each.after),
            "-" if each.ratio is None else significant(each.ratio),
            "-" if each.ci_low is None or each.ci_high is None else f"{each.ci_low:.3f}–{each.ci_high:.3f}",
            each.verdict,
            each.reason,
        )
        for each in found
    ]
    print_table(["cell", "metric", "A", "B", "B/A", "95 %", "", "why"], rows, right=(2, 3, 4))


@click.command()
@click.argument("run")
@click.option("-o", "--output", type=click.Path(), metavar="FILE", help="Where to write; default: RUN.json.")
@click.option(
    "--parquet", type=click.Path(), metavar="FOLDER", help="Figures of launches and measurements, for DuckDB."
)
@json_option
def export(run: str, output: str | None, parquet: str | None, as_json: bool) -> None:
    """Write the measurements of RUN with their raw samples to a file (docs/measurements.md).

    With --parquet their figures go to FOLDER in partitions (docs/reports.md); RUN may be "all" then.
    """
    if parquet is not None:
        _columns(run, Path(parquet), as_json=as_json)
        return
    settings = read_settings()
    with results(settings) as store:
        stored = store.run(run)
        file = exported(store, stored, groups_of(settings))
    if not file.measurements:
        raise NothingDone(f"run {stored.id} has no measurements", hint=f"edgebench report {stored.id}")
    path = Path(output or f"{stored.id}.json")
    write_whole(path, exchange.text(file).rstrip("\n"))
    said = {"file": str(path), "measurements": len(file.measurements)}
    if as_json:
        emit_json(said)
    else:
        click.echo(f"{len(file.measurements)} measurements: {path}")


def _columns(run: str, folder: Path, *, as_json: bool) -> None:
    """Write Parquet files, and say how many."""
    from edgebench.cli.columnar import write
    from edgebench.cli.sources import opened

    with opened(read_settings()) as sources:
        runs = sources.store.runs(EVERY_RUN) if run == "all" else (sources.store.run(run),)
        written = [path for each in runs for path in write(sources, each, folder)]
    if not written:
        raise NothingDone("there are no measurements to export", hint="edgebench report")
    if as_json:
        emit_json({"folder": str(folder), "files": len(written), "runs": len(runs)})
    else:
        click.echo(f"{len(written)} files of {len(runs)} runs: {folder}")
