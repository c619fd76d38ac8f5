"""Devices x models as one table: numbers, coloured by their ratio to limit or baseline. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from edgebench.gates import Verdict
from edgebench.records import Failure, Job
from edgebench.report.base import Report, Row, clean, name, next_step
from edgebench.report.gate_words import bound, word
from edgebench.report.page.base import (
    CellKey,
    State,
    Subjects,
    column_name,
    filled_columns,
    key_of,
    step_of,
    verdicts_by_cell,
    worst_ratio,
)
from edgebench.report.svg.base import cut
from edgebench.units import NS_PER_MS, significant

MARKS: Mapping[State, str] = {"failed": "F", "refused": "R", "missing": "–", "invalid": "I", "emulated": "E"}
WORDS: Mapping[State, str] = {
    "ok": "measured",
    "partial": "partly measured",
    "invalid": "invalid",
    "emulated": "emulated, no times",
    "failed": "failed",
    "refused": "refused by its target",
    "missing": "not run",
}
SAID = 6  # sentences a cell


class Cell(NamedTuple):
    """One cell: what it shows, its classes, words for a reader; `number` is its place in the page's data."""

    number: int
    text: str
    style: str
    spoken: str


class Line(NamedTuple):
    """One line of the matrix; None where nothing was planned."""

    short: str
    full: str
    cells: tuple[Cell | None, ...]


class Matrix(NamedTuple):
    """The table. `corner` names what its lines are; `base`: what colours are a ratio to, or "".

    `common`: how the names of all columns end, where they do; it is said once and not in each of them.
    """

    corner: str
    across: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]
    base: str
    data: dict[str, Any]
    common: str = ""


class Place(NamedTuple):
    """A planned cell, with what became of it."""

    job: Job
    state: State
    row: int | None = None
    failure: Failure | None = None


def matrix(subjects: Subjects) -> Matrix:
    """The matrix of a run; devices are its lines unless there are more models than devices."""
    report = subjects.report
    places = _places(report)
    devices = sorted({key[0] for key in places})
    models = dict.fromkeys(column_name(place.job) for _, place in sorted(places.items(), key=_order))
    cells, base = _cells(subjects, places)
    grid = {(key[0], column_name(place.job)): cells[key] for key, place in places.items()}
    is_long = len(devices) >= len(models)
    if is_long:
        lines = [_line(device, [grid.get((device, each)) for each in models]) for device in devices]
        common = _common_end(list(models))
        across = [(cut(each.removesuffix(common).rstrip(), 26), each) for each in models]
    else:
        lines = [_line(each, [grid.get((device, each)) for device in devices]) for each in models]
        common = ""
        across = [(cut(each, 26), name(each)) for each in devices]
    return Matrix(
        corner="device" if is_long else "model, runtime",
        across=tuple(across),
        lines=tuple(lines),
        base=base,
        data=_data(subjects, places),
        common=common,
    )


def _common_end(names: Sequence[str]) -> str:
    """The words that all of some names end in, but for their first; of one name none."""
    if len(names) < 2:
        return ""
    words = [each.split(" ") for each in names]
    count = 0
    while all(len(each) > count + 1 for each in words) and len({each[-1 - count] for each in words}) == 1:
        count += 1
    return " ".join(words[0][-count:]) if count else ""


def _order(item: tuple[CellKey, Place]) -> tuple[str, str, str, str]:
    job = item[1].job
    return job.model, job.runtime, job.precision, job.variant


def _line(full: str, cells: Sequence[Cell | None]) -> Line:
    return Line(cut(full, 52), name(full), tuple(cells))


def _places(report: Report) -> dict[CellKey, Place]:
    """Every planned cell once: what was measured last, else its failure, else that it was not run."""
    found: dict[CellKey, Place] = {key_of(job): Place(job, "missing") for job in report.missing}
    for failure in report.failures:
        state: State = "refused" if failure.stage == "plan" else "failed"
        found[key_of(failure.job)] = Place(failure.job, state, failure=failure)
    for at, row in enumerate(report.rows):
        known = found.get(key_of(row.job))
        if known is None or known.failure is None:
            found[key_of(row.job)] = Place(row.job, row.status, row=at)
    return found


def _cells(subjects: Subjects, places: Mapping[CellKey, Place]) -> tuple[dict[CellKey, Cell], str]:
    judged = verdicts_by_cell(subjects.gate)
    against = {} if judged else _against(subjects)
    made = {}
    for number, (key, place) in enumerate(places.items()):
        verdicts = judged.get(key, [])
        ratio = worst_ratio(verdicts) if judged else against.get(key)
        row = None if place.row is None else subjects.report.rows[place.row]
        made[key] = _cell(number, place, row, verdicts, ratio)
    limits = any(worst_ratio(each) is not None for each in judged.values())
    base = "its limit" if limits else f"{name(subjects.before.name)}" if against and subjects.before else ""
    return made, base


def _against(subjects: Subjects) -> dict[CellKey, float]:
    """The ratio of p50 to the baseline's."""
    if subjects.before is None:
        return {}
    found = {}
    for each in subjects.before.compared:
        if each.metric == "latency.p50" and each.ratio is not None:
            subject = each.subject
            key = subject.device, subject.model, subject.variant, subject.runtime, subject.precision
            found[key] = each.ratio
    return found


def _cell(
    number: int, place: Place, row: Row | None, verdicts: Iterable[Verdict], ratio: float | None
) -> Cell:
    has_number = row is not None and row.summary.p50_ns is not None and place.state in ("ok", "partial")
    shown = (
        significant(row.summary.p50_ns / NS_PER_MS)
        if has_number and row is not None and row.summary.p50_ns is not None
        else MARKS.get(place.state, "–")
    )
    step = step_of(ratio) if has_number else None
    fails = any(each.word == "fail" and each.blocks for each in verdicts)
    styles = [
        f"q{step}" if step is not None else "plain",
        *(["over"] if fails else []),
        *(["odd"] if place.state not in ("ok", "partial") else []),
    ]
    spoken = "over its limit" if fails else "" if place.state == "ok" else WORDS[place.state]
    return Cell(number, shown, " ".join(styles), spoken)


# --- what the page's script knows -----------------------------------------------------------------


def _data(subjects: Subjects, places: Mapping[CellKey, Place]) -> dict[str, Any]:
    """Names once, cells by index, every row's numbers as they are printed."""
    report = subjects.report
    shown = filled_columns(report.rows)
    judged = verdicts_by_cell(subjects.gate)
    devices = {device: at for at, device in enumerate(sorted({key[0] for key in places}))}
    models = {each: at for at, each in enumerate(dict.fromkeys(column_name(p.job) for p in places.values()))}
    names = {each: at for at, each in enumerate(dict.fromkeys(row.job.model for row in report.rows))}
    return {
        "devices": [name(device) for device in devices],
        "models": list(models),
        "names": list(map(name, names)),
        "headings": [column.heading for column in shown],
        "numeric": [int(column.numeric) for column in shown],
        "rows": [
            [devices[row.job.device], names[row.job.model], *(column.text(row) for column in shown)]
            for row in report.rows
        ],
        "states": list(WORDS.values()),
        "cells": [
            _told(subjects, place, judged.get(key, []), devices[key[0]], models[column_name(place.job)])
            for key, place in places.items()
        ],
    }


def _told(
    subjects: Subjects, place: Place, verdicts: Sequence[Verdict], device: int, model: int
) -> list[Any]:
    """Device, model, state, row or null, sentences, where its drawings are or ""."""
    row = None if place.row is None else subjects.report.rows[place.row]
    said = [f"{word(each)}: {bound(each)}. {clean(each.reason)}" for each in verdicts if each.word != "pass"]
    passed = sum(each.word == "pass" for each in verdicts)
    if passed:
        said.append(f"{passed} of {len(verdicts)} limits are kept.")
    if place.failure is not None:
        said.append(f"{place.failure.owner}: {clean(place.failure.message)} Next: {next_step(place.failure)}")
    if row is not None:
        said += [clean(each) for each in (*row.unusable, *row.warnings)]
    drawn = f"d{place.row}" if row is not None and row.id in subjects.details else ""
    return [device, model, list(WORDS).index(place.state), place.row, said[:SAID], drawn]
