"""`edgebench report --group KEYS`: a metric over the cells of a run or of the fleet, in groups."""

from __future__ import annotations

from typing import NamedTuple

from edgebench.budgets import show
from edgebench.cli.asking import values
from edgebench.cli.output import note
from edgebench.cli.setup import read_settings
from edgebench.cli.sheets import Answer, Wish, give
from edgebench.cli.sources import opened
from edgebench.errors import EXIT_NOTHING_DONE, EXIT_OK
from edgebench.report.fleet import Group, grouped, keys_of, metric_of, plain
from edgebench.report.sheet import Sheet
from edgebench.units import significant


class Grouping(NamedTuple):
    """What was typed: names to group by, the metric, and a run; None: every cell's last measurement."""

    keys: str
    metric: str
    run: str | None = None


def group(asked: Grouping, wish: Wish) -> int:
    """Print the groups; the exit code."""
    keys, metric = keys_of(asked.keys), metric_of(asked.metric)
    with opened(read_settings()) as sources:
        run = None if asked.run is None else sources.store.run(asked.run).id
        found = grouped(values(sources, metric, run), keys)
    head = {"metric": metric, "run": run, "keys": list(keys)}
    headings = (*keys, "cells", "devices", f"median {metric}", "lowest", "highest", "highest / lowest")
    numeric = tuple(range(len(keys), len(keys) + 6))
    sheet = Sheet(headings, [_row(each, metric) for each in found], numeric)
    give(Answer(sheet, "groups", [plain(each, keys) for each in found], head), wish)
    if not found:
        note(f"no stored cell has a {metric}")
    return EXIT_OK if found else EXIT_NOTHING_DONE


def _row(each: Group, metric: str) -> tuple[str, ...]:
    figures = (show(metric, value) for value in (each.median, each.low, each.high))
    spread = "-" if each.spread is None else significant(each.spread)
    return (*each.names, str(each.cells), str(each.devices), *figures, spread)
