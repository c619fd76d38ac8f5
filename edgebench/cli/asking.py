"""Stored cells of all runs, for questions about the fleet; read as they are asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from edgebench import exchange
from edgebench.budgets import Subject
from edgebench.cli.sources import Sources, uncollected
from edgebench.gates import Observed, observed
from edgebench.gates.figures import VERSION
from edgebench.records import prepared, replace
from edgebench.report.base import form
from edgebench.report.fleet import Cell, interval_of, needed, value_of
from edgebench.report.history import Line, Point, with_jumps
from edgebench.store import StoredFigures


class Known(NamedTuple):
    """One stored cell and the run it is of; `number` grows in the order of beginning."""

    number: int
    run: str
    created_utc: str
    job_number: int
    cell: Observed


def stored_cells(sources: Sources, run_id: str | None = None, **names: str) -> Iterator[Known]:
    """The measured cells of one run or of all, in no order."""
    decoder = msgspec.json.Decoder(prepared(Observed))
    for each in sources.store.all_figures(VERSION, run_id, **names):
        cell = _cell(each, sources, decoder)
        cell = replace(cell, subject=_grouped(cell.subject, sources))
        yield Known(each.number, each.run, each.created_utc, each.job_number, cell)


def _cell(each: StoredFigures, sources: Sources, decoder: msgspec.json.Decoder[Observed]) -> Observed:
    if each.document is not None:
        return decoder.decode(each.document)
    return observed(exchange.entry(sources.store.measurement(each.measurement_id)))


def cells_by_measurement(sources: Sources, run_id: str, wanted: Collection[str]) -> dict[str, Observed]:
    """The figures of these measurements of a run, by their ids; none of what a failed job left."""
    if not wanted:
        return {}
    decoder = msgspec.json.Decoder(prepared(Observed))
    return {
        each.measurement_id: _cell(each, sources, decoder)
        for each in sources.store.all_figures(VERSION, run_id)
        if each.measurement_id in wanted
    }


def values(sources: Sources, metric: str, run_id: str | None = None) -> list[Cell]:
    """One metric of every cell that has it, the last time it was measured: in a run, or ever."""
    last: dict[tuple[str, ...], tuple[int, Cell]] = {}
    with uncollected():
        for number, cell in _values(sources, metric, run_id):
            subject = cell.subject
            names = (subject.device, subject.model, subject.variant, subject.runtime, subject.precision)
            known = last.get(names)
            if known is None or known[0] < number:
                last[names] = number, cell
    return [cell for _, cell in sorted(last.values(), key=lambda each: each[0])]


def _values(sources: Sources, metric: str, run_id: str | None) -> Iterator[tuple[int, Cell]]:
    """The values in no order; of what is kept only the fields that the metric needs are read."""
    decoder = msgspec.json.Decoder(prepared(needed(metric)))
    for each in sources.store.all_figures(VERSION, run_id):
        if each.document is None:
            cell: Any = observed(exchange.entry(sources.store.measurement(each.measurement_id)))
        else:
            cell = decoder.decode(each.document)
        value = value_of(metric, cell)
        if value is not None:
            yield each.number, Cell(_grouped(cell.subject, sources), each.run, value)


def _grouped(subject: Subject, sources: Sources) -> Subject:
    """The names with the groups that the inventory says now."""
    groups = sources.groups.get(subject.device, ())
    return replace(subject, groups=groups) if groups else subject


def lines(sources: Sources, metric: str, **names: str) -> tuple[Line, ...]:
    """A metric of every cell of these names over the runs, a run's last measurement each; jumps marked."""
    return lines_of_metrics(sources, (metric,), **names)[metric]


def lines_of_metrics(sources: Sources, metrics: Sequence[str], **names: str) -> dict[str, tuple[Line, ...]]:
    """The same of several metrics, by their names; the cells are read once."""
    labels = {each.run: each.name for each in reversed(sources.store.releases())}
    every = sorted(stored_cells(sources, None, **names), key=lambda known: known.number)
    return {metric: _lines(every, metric, labels) for metric in metrics}


def _lines(every: Sequence[Known], metric: str, labels: Mapping[str, str]) -> tuple[Line, ...]:
    found: dict[tuple[str, ...], dict[str, Point]] = {}
    targets: dict[tuple[str, ...], str] = {}
    for known in every:
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
    """A cell without its device: "digits int8-static · ncnn"."""
    _, model, variant, runtime, precision = key
    names = {"model": model, "variant": variant, "runtime": runtime, "precision": precision}
    return f"{model} {form(Subject(target='', device='', groups=(), **names))} · {runtime}"
