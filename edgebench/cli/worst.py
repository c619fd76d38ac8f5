"""`edgebench worst [RUN]`: the cells of a run with the worst values of a metric."""

from __future__ import annotations

import click

from edgebench.budgets import show
from edgebench.cli.asking import values
from edgebench.cli.output import json_option, note
from edgebench.cli.setup import read_settings
from edgebench.cli.sheets import FORMATS, Answer, Wish, give
from edgebench.cli.sources import opened
from edgebench.errors import EXIT_NOTHING_DONE, EXIT_OK
from edgebench.report.base import label
from edgebench.report.fleet import Cell, metric_of
from edgebench.report.fleet import worst as worst_of
from edgebench.report.sheet import Sheet


@click.command()
@click.argument("run_name", metavar="[RUN]", required=False)
@click.option("--metric", default="latency.p50", show_default=True, metavar="METRIC")
@click.option("-n", "most", type=click.IntRange(1, 10_000), default=10, show_default=True, help="How many.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("-o", "--output", type=click.Path(), metavar="FILE", help="Write there; default: stdout.")
@json_option
def worst(run_name: str | None, metric: str, most: int, form: str, output: str | None, as_json: bool) -> int:
    """The worst cells of RUN by a metric; without RUN of the fleet, each as it was measured last."""
    metric = metric_of(metric)
    with opened(read_settings()) as sources:
        run = None if run_name is None else sources.store.run(run_name).id
        found = worst_of(values(sources, metric, run), metric, most)
    sheet = Sheet(("cell", "target", "run", metric), [_row(each, metric) for each in found], (3,))
    plain = [
        {
            "device": each.subject.device,
            "target": each.subject.target,
            "model": each.subject.model,
            "variant": each.subject.variant,
            "runtime": each.subject.runtime,
            "precision": each.subject.precision,
            "run": each.run,
            "value": each.value,
        }
        for each in found
    ]
    give(Answer(sheet, "cells", plain, {"metric": metric}), Wish("json" if as_json else form, output))
    if not found:
        note(f"no stored cell has a {metric}")
    return EXIT_OK if found else EXIT_NOTHING_DONE


def _row(each: Cell, metric: str) -> tuple[str, ...]:
    return label(each.subject), each.subject.target, each.run, show(metric, each.value)
