"""`edgebench history MODEL`: a model's numbers over releases and runs, change points marked."""

from __future__ import annotations

from typing import Any

import click

from edgebench.budgets import show
from edgebench.cli.asking import lines
from edgebench.cli.output import json_option, note
from edgebench.cli.setup import read_settings
from edgebench.cli.sheets import FORMATS, Answer, Wish, give
from edgebench.cli.sources import opened
from edgebench.errors import EXIT_NOTHING_DONE, EXIT_OK
from edgebench.records import to_json
from edgebench.report.fleet import metric_of
from edgebench.report.history import Line, jump_words
from edgebench.report.sheet import Sheet

HEADINGS = ("cell", "release or run", "when (UTC)", "value", "95 %", "change", "")


@click.command()
@click.argument("model")
@click.option("--metric", default="latency.p50", show_default=True, metavar="METRIC")
@click.option("--device", metavar="NAME", help="On this device only.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("-o", "--output", type=click.Path(), metavar="FILE", help="Write there; default: stdout.")
@json_option
def history(model: str, metric: str, device: str | None, form: str, output: str | None, as_json: bool) -> int:
    """How MODEL did in every release and run, cell by cell, the oldest first.

    Change points are advice: between two sessions a board differs by itself.
    """
    metric = metric_of(metric)
    names = {"model": model} if device is None else {"model": model, "device": device}
    with opened(read_settings()) as sources:
        found = lines(sources, metric, **names)
    rows = [row for line in found for row in _rows(line, metric)]
    plain: list[dict[str, Any]] = [to_json(line) for line in found]
    wish = Wish("json" if as_json else form, output)
    if wish.form == "parquet":
        plain = [{"cell": line.name, **to_json(point)} for line in found for point in line.points]
    give(Answer(Sheet(HEADINGS, rows, (3, 5)), "lines", plain, {"metric": metric, "model": model}), wish)
    if not found:
        note(f'no stored run measured a {metric} of the model "{model}"')
    return EXIT_OK if found else EXIT_NOTHING_DONE


def _rows(line: Line, metric: str) -> list[tuple[str, ...]]:
    jumps = {jump.at: jump_words(jump) for jump in line.jumps}
    rows: list[tuple[str, ...]] = []
    before: float | None = None
    for at, point in enumerate(line.points):
        ends = (
            "-"
            if point.low is None or point.high is None
            else f"{show(metric, point.low)} to {show(metric, point.high)}"
        )
        change = "-" if not before else f"{100 * (point.value / before - 1):+.1f} %"
        when = point.created_utc[:16].replace("T", " ")
        rows.append(
            (line.name, point.label, when, show(metric, point.value), ends, change, jumps.get(at, ""))
        )
        before = point.value
    return rows
