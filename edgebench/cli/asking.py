"""Stored cells of all runs, for questions about the fleet; read as they are asked for."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from edgebench import exchange
from edgebench.cli.sources import Sources
from edgebench.gates import Observed, observed
from edgebench.gates.figures import VERSION
from edgebench.records import prepared, replace
from edgebench.report.fleet import Cell, interval_of, value_of
from edgebench.report.history import Line, Point, with_jumps
from edgebench.store import StoredFigures


class Known(NamedTuple):
    """One stored cell and the run it is of."""

    run: str
    created_utc: str
    job_number: int
    cell: Observed


def stored_cells(sources: Sources, run_id: str | None = None, **names: str) -> Iterator[Known]:
    """The measured cells of one run or of all, the oldest first."""
    decoder = msgspec.json.Decoder(prepared(Observed))
    for each in sources.store.all_figures(VERSION, run_id, **names):
        cell = _cell(each, sources, decoder)
        groups = sources.groups.get(cell.subject.device, ())
        if groups:
            cell = replace(cell, subject=replace(cell.subject, groups=groups))
        yield Known(each.run, each.created_utc, each.job_number, cell)


def _cell(each: StoredFigures, sources: Sources, decoder: msgspec.json.Decoder[Observed]) -> Observed:
    if each.document is not None:
        return decoder.decode(each.document)
    return observed(exchange.entry(sources.store.measurement(each.measurement_id)))


def values(sources: Sources, metric: str, run_id: str | None = None) -> list[Cell]:
    """One metric of every cell that has it, the last time it was measured: in a run, or ever."""
    last: dict[tuple[str, ...], Cell] = {}
    with _uncollected():
        for known in stored_cells(sources, run_id):
            value = value_of(metric, known.cell)
            if value is None:
                continue
            subject = known.cell.subject
            names = (subject.device, subject.model, subject.variant, subject.runtime, subject.precision)
            last[names] = Cell(subject, known.run, value)
    return list(last.values())


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No search for cycles among many records that have none."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def lines(sources: Sources, metric: str, **names: str) -> tuple[Line, ...]:
    """A metric of every cell of these names over the runs, a run's last measurement each; jumps marked."""
    labels = {each.run: each.name for each in reversed(sources.store.releases())}
    found: dict[tuple[str, ...], dict[str, Point]] = {}
    targets: dict[tuple[str, ...], str] = {}
    for known in stored_cells(sources, None, **names):
        value = value_of(metric, known.cell)
        if value is None:
            continue
        subject = known.cell.subject
        key = subject.device, subject.model, subject.variant, subject.runtime, subject.precision
        targets[key] = subject.target
        ends = interval_of(metric, known.cell) or (None, None)
        found.setdefault(key, {})[known.run] = Point(
            run=known.run,
            label=labels.get(known.run, known.run),
            created_utc=known.created_utc,
            value=value,
            low=ends[0],
            high=ends[1],
        )
    return tuple(
        with_jumps(
            Line(
                name=f"{cell_words(key)} · {key[0]}",
                device=key[0],
                target=targets[key],
                cell=cell_words(key),
                points=tuple(sorted(points.values(), key=lambda point: point.created_utc)),
            )
        )
        for key, points in found.items()
    )


def cell_words(key: tuple[str, ...]) -> str:
    """A cell without its device: "digits int8-static int8 · ncnn"."""
    _, model, variant, runtime, precision = key
    form = " ".join(dict.fromkeys((variant, precision)))
    return f"{model} {form} · {runtime}"
