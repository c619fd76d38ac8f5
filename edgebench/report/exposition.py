"""A run in Prometheus' text format (0.0.4): gauges by cell, for a collector of text files. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import datetime

from edgebench.report.base import Report, Row, name
from edgebench.units import NS_PER_S

GAUGES: tuple[tuple[str, str, Callable[[Row], float | None]], ...] = (
    ("latency_p50_seconds", "Median over launches of each launch's p50.", lambda row: _s(row.summary.p50_ns)),
    ("latency_p90_seconds", "Median over launches of each launch's p90.", lambda row: _s(row.summary.p90_ns)),
    ("latency_p99_seconds", "Median over launches of each launch's p99.", lambda row: _s(row.summary.p99_ns)),
    ("throughput_inputs_per_second", "Inputs per second.", lambda row: row.summary.throughput_per_s),
    ("load_seconds", "Time to load the model.", lambda row: _s(row.summary.load_ns)),
    ("memory_peak_bytes", "Peak of the launch's process.", lambda row: row.summary.memory.peak_bytes),
    ("artifact_bytes", "Size of what the runtime loads.", lambda row: row.run_bytes),
    ("energy_joules", "Energy of one inference above idling.", lambda row: _joules(row)),
    ("temperature_max_celsius", "Highest temperature while timed.", lambda row: row.temperature_max_c),
    ("launches_usable", "Launches that the figures are of.", lambda row: row.summary.launches),
    ("valid", "1 where every launch that was asked for is valid.", lambda row: float(row.status == "ok")),
)


def render(report: Report) -> str:
    """All gauges of a run; what is not known has no line."""
    lines: list[str] = []
    for stem, meaning, value in GAUGES:
        found = [line for row in _last(report) if (line := _line(stem, row, value(row)))]
        if found:
            lines += [f"# HELP edgebench_{stem} {meaning}", f"# TYPE edgebench_{stem} gauge", *found]
    lines += _of_run(report)
    return "\n".join(lines) + "\n"


def _last(report: Report) -> list[Row]:
    """One row a cell: no series may come twice."""
    return list({_labels(row): row for row in report.rows}.values())


def _of_run(report: Report) -> Iterator[str]:
    counts = report.counts
    yield "# HELP edgebench_run_cells What became of the planned cells."
    yield "# TYPE edgebench_run_cells gauge"
    states = ("ok", "partial", "invalid", "emulated", "failed", "refused", "missing")
    for state in states:
        yield f'edgebench_run_cells{{state="{state}"}} {getattr(counts, state)}'
    moment = _moment(report.run.created_utc)
    if moment is not None:
        yield "# HELP edgebench_run_created_timestamp_seconds When the run began."
        yield "# TYPE edgebench_run_created_timestamp_seconds gauge"
        yield f'edgebench_run_created_timestamp_seconds{{run="{_escaped(report.run.id)}"}} {moment:.0f}'


def _moment(text: str) -> float | None:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    return parsed.timestamp() if parsed.tzinfo else None


def _line(stem: str, row: Row, value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return ""
    return f"edgebench_{stem}{{{_labels(row)}}} {value:.9g}"


def _labels(row: Row) -> str:
    job = row.job
    names = ("device", "target", "model", "variant", "runtime", "precision")
    return ",".join(f'{key}="{_escaped(getattr(job, key))}"' for key in names)


def _escaped(text: str) -> str:
    return name(text).replace("\\", "\\\\").replace('"', '\\"')


def _s(value_ns: float | None) -> float | None:
    return None if value_ns is None else value_ns / NS_PER_S


def _joules(row: Row) -> float | None:
    return None if row.energy is None or row.energy.net_mj is None else row.energy.net_mj / 1000
