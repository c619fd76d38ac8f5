"""Stored cells of many runs -> groups, the worst, what has no number, one model's history. Pure.

A value is the median over a cell's valid launches (of memory the largest); a group's are over its cells.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import msgspec

from edgebench.budgets import METRICS, Subject
from edgebench.errors import UserError, did_you_mean
from edgebench.gates import Observed
from edgebench.gates.limits import FIGURES
from edgebench.records import Accuracy, Record
from edgebench.statistics import interval_95

KEYS = ("target", "device", "model", "variant", "runtime", "precision", "run", "group")
EXACT = ("memory_peak", "artifact_size", "parity.snr", "accuracy_drop")
KNOWN = (*FIGURES, *EXACT)
FIELDS = {
    "latency.p50": "p50_ns",
    "latency.p90": "p90_ns",
    "latency.p95": "p95_ns",
    "latency.p99": "p99_ns",
    "throughput": "mean_ns",
    "load_time": "load_ns",
    "first_inference": "first_inference_ns",
    "energy_per_inference": "energy_mj",
    "memory_peak": "peak_bytes",
}  # of a launch, by metric


class Cell(NamedTuple):
    """One measured cell: its names, the run, and one metric's value in the metric's unit (ns, bytes, ...)."""

    subject: Subject
    run: str
    value: float


class Group(Record, frozen=True):
    """The cells that share some names. `spread`: the largest value by the smallest."""

    names: tuple[str, ...]
    cells: int
    devices: int
    median: float
    low: float
    high: float
    spread: float | None


class Gap(Record, frozen=True):
    """A planned cell without a valid number. `kind`: failed, not run, invalid, emulated."""

    subject: Subject
    kind: str
    why: str


class Coverage(Record, frozen=True):
    """How many of a run's cells have a valid number, and which have none."""

    planned: int
    valid: int
    gaps: tuple[Gap, ...]


# --- groups ---------------------------------------------------------------------------------------


def keys_of(text: str) -> tuple[str, ...]:
    """The names to group by, of a comma-separated list; UserError for an unknown one."""
    found = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    for word in found:
        if word not in KEYS:
            raise UserError(f'cells have no "{word}" to be grouped by', hint=did_you_mean(word, KEYS))
    if not found:
        raise UserError("--group names nothing", hint=f"one or more of {', '.join(KEYS)}")
    return found


def metric_of(text: str) -> str:
    """The metric of that name; UserError for an unknown one."""
    if text not in KNOWN:
        raise UserError(f'no metric "{text}"', hint=did_you_mean(text, KNOWN))
    return text


def grouped(cells: Iterable[Cell], keys: Sequence[str]) -> tuple[Group, ...]:
    """The cells by the names that they share, in the order of these; one in several groups counts in each."""
    found: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        for names in _names(cell, keys):
            found.setdefault(names, []).append(cell)
    return tuple(_group(names, found[names]) for names in sorted(found))


def _names(cell: Cell, keys: Sequence[str]) -> list[tuple[str, ...]]:
    groups = cell.subject.groups or ("",)
    choices = groups if "group" in keys else ("",)
    return [tuple(_of(cell, key, chosen) for key in keys) for chosen in choices]


def _of(cell: Cell, key: str, group: str) -> str:
    if key == "run":
        return cell.run
    if key == "group":
        return group
    found: str = getattr(cell.subject, key)
    return found


def _group(names: tuple[str, ...], cells: Sequence[Cell]) -> Group:
    values = sorted(cell.value for cell in cells)
    return Group(
        names=names,
        cells=len(cells),
        devices=len({cell.subject.device for cell in cells}),
        median=statistics.median(values),
        low=values[0],
        high=values[-1],
        spread=values[-1] / values[0] if values[0] > 0 else None,
    )


# --- values ---------------------------------------------------------------------------------------


class _Narrow(msgspec.Struct):
    """What of a cell's figures one metric needs; decoding leaves out all else."""

    subject: Subject
    batch: int = 1
    artifact_bytes: int | None = None
    parity_snr_db: float | None = None
    accuracy_report: Accuracy | None = None


@cache
def needed(metric: str) -> type[Any]:
    """A type to decode kept figures to: the names of a cell, and what `value_of` looks at for the metric."""
    field = FIELDS.get(metric)
    if field is None:
        return _Narrow
    launch: Any = msgspec.defstruct("Launch", [(field, float | int | None, None)])
    return msgspec.defstruct("Narrow", [("launches", tuple[launch, ...], ())], bases=(_Narrow,))


def value_of(metric: str, cell: Observed) -> float | None:
    """The cell's value: the median over its launches; None where it has none."""
    if metric == "artifact_size":
        return cell.artifact_bytes
    if metric == "parity.snr":
        return cell.parity_snr_db
    if metric == "accuracy_drop":
        return None if cell.accuracy_report is None else cell.accuracy_report.drop
    values = launch_values(metric, cell)
    if not values:
        return None
    return max(values) if metric == "memory_peak" else statistics.median(values)


def launch_values(metric: str, cell: Observed) -> list[float]:
    """The metric of every launch that has it."""
    if metric == "memory_peak":
        return [launch.peak_bytes for launch in cell.launches if launch.peak_bytes is not None]
    if metric not in FIGURES:
        return []
    return [value for value in FIGURES[metric](cell) if value is not None]


def interval_of(metric: str, cell: Observed) -> tuple[float, float] | None:
    """The 95 % interval of a value that varies from launch to launch."""
    return None if metric in EXACT else interval_95(launch_values(metric, cell))


def worst(cells: Iterable[Cell], metric: str, most: int) -> list[Cell]:
    """The cells with the worst values, the worst first."""
    sign = 1 if METRICS[metric].more_is_better else -1
    return sorted(cells, key=lambda cell: (sign * cell.value, cell.subject.device, cell.subject.model))[:most]


# --- coverage -------------------------------------------------------------------------------------

NOT_RUN = "the run ended before it"


def coverage(cells: Iterable[Observed]) -> Coverage:
    """Which of a run's cells have a valid number, and why the others have none."""
    every = list(cells)
    gaps = tuple(gap for cell in every if (gap := _gap(cell)) is not None)
    return Coverage(planned=len(every), valid=len(every) - len(gaps), gaps=gaps)


def _gap(cell: Observed) -> Gap | None:
    if cell.failure == NOT_RUN:
        return Gap(subject=cell.subject, kind="not run", why=cell.failure)
    if cell.failure:
        return Gap(subject=cell.subject, kind="failed", why=cell.failure)
    if cell.launches:
        return None
    kind = "emulated" if cell.environment.get("emulated") else "invalid"
    return Gap(subject=cell.subject, kind=kind, why=cell.invalid_reason or "no launch came to its end")


def causes(found: Coverage) -> list[tuple[str, str, int]]:
    """Kind, reason, and how many cells lack a number for it; the most frequent first."""
    counted = Counter((gap.kind, gap.why) for gap in found.gaps)
    return [(kind, why, count) for (kind, why), count in counted.most_common()]


def plain(group: Group, keys: Sequence[str]) -> dict[str, Any]:
    """A group as plain values for JSON, CSV and Parquet."""
    return {
        **dict(zip(keys, group.names, strict=True)),
        "cells": group.cells,
        "devices": group.devices,
        "median": group.median,
        "low": group.low,
        "high": group.high,
        "spread": group.spread,
    }


# --- columns --------------------------------------------------------------------------------------

_NAMES = {
    "run": "text",
    "created_utc": "text",
    "release": "text",
    "device": "text",
    "model": "text",
    "variant": "text",
    "runtime": "text",
    "precision": "text",
    "session": "text",
}
MEASUREMENT_COLUMNS = {
    **_NAMES,
    "launches": "whole",
    "invalid": "whole",
    "artifact_digest": "text",
    "artifact_bytes": "whole",
    "board": "text",
    "kernel": "text",
    "power_mode": "text",
    "runtime_version": "text",
    "accuracy": "number",
    **{metric.replace(".", "_"): "number" for metric in KNOWN},
}
LAUNCH_COLUMNS = {
    **_NAMES,
    "launch": "whole",
    "samples": "whole",
    "p10_ns": "number",
    "p50_ns": "number",
    "p90_ns": "number",
    "p95_ns": "number",
    "p99_ns": "number",
    "mean_ns": "number",
    "load_ns": "number",
    "first_inference_ns": "number",
    "peak_bytes": "whole",
    "energy_mj": "number",
    "foreign_load": "number",
}  # the target is a partition


def measurement_row(cell: Observed) -> dict[str, Any]:
    """One measurement's figures by column; a metric is in its unit (ns, bytes, 1/s, dB, mJ, shares)."""
    told = {key: cell.environment.get(key) for key in ("board", "kernel", "power_mode", "runtime_version")}
    return {
        **_names_of(cell),
        "launches": len(cell.launches),
        "invalid": cell.invalid,
        "artifact_digest": cell.artifact_digest,
        "artifact_bytes": cell.artifact_bytes,
        **told,
        "accuracy": cell.accuracy,
        **{metric.replace(".", "_"): _number(value_of(metric, cell)) for metric in KNOWN},
    }


def launch_rows(cell: Observed) -> list[dict[str, Any]]:
    """The figures of every valid launch."""
    fields = [name for name in LAUNCH_COLUMNS if name not in _NAMES and name not in ("launch", "samples")]
    return [
        {
            **_names_of(cell),
            "launch": launch.place,
            "samples": launch.n,
            **{field: getattr(launch, field) for field in fields},
        }
        for launch in cell.launches
    ]


def _names_of(cell: Observed) -> dict[str, str]:
    subject = cell.subject
    names = {key: getattr(subject, key) for key in ("device", "model", "variant", "runtime", "precision")}
    plain_names = {key: value.encode("utf-8", "replace").decode() for key, value in names.items()}
    return {**plain_names, "session": cell.session}


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)
