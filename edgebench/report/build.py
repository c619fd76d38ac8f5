"""A run's rows -> the report record. Pure: measurements and failures in, one frozen `Report` out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from edgebench.records import (
    PRECISIONS,
    Conditions,
    Failure,
    Job,
    Measurement,
    Run,
    prepared,
    replace,
)
from edgebench.report.base import Counts, DeviceSheet, Report, Row, Status
from edgebench.statistics import Summary, summarise_measurement, unusable_reason

REFERENCE = "fp32"  # the variant and the precision that the others are compared with


def build(run: Run, measurements: Iterable[Measurement], failures: Iterable[Failure]) -> Report:
    """The report of one run: sorted rows with their ratios, failures, jobs never reached, counts, devices."""
    measured = list(measurements)
    failed = sorted(failures, key=lambda failure: _order(failure.job))
    rows = with_ratios(sorted(map(_row, measured), key=lambda row: (*_order(row.job), row.id)))
    missing = _missing(run, [row.job for row in rows] + [failure.job for failure in failed])
    return Report(
        run=run,
        counts=_counts(rows, failed, missing),
        rows=tuple(rows),
        failures=tuple(failed),
        missing=tuple(missing),
        devices=tuple(_sheets(measured)),
    )


def planned_jobs(run: Run) -> list[Job]:
    """The jobs of the run's plan: its list `jobs`, of jobs or of things with a `job`."""
    found = run.plan.get("jobs")
    if not isinstance(found, list):
        return []
    try:
        return [
            msgspec.convert(each.get("job", each), prepared(Job)) for each in found if isinstance(each, dict)
        ]
    except msgspec.ValidationError:
        return []


def _order(job: Job) -> tuple[str, str, str, int, str, str]:
    known = PRECISIONS.index(job.precision) if job.precision in PRECISIONS else len(PRECISIONS)
    return job.model, job.device, job.runtime, known, job.variant, job.precision


# --- one row --------------------------------------------------------------------------------------


def _row(measurement: Measurement) -> Row:
    summary = summarise_measurement(measurement)
    status = _status(measurement, summary)
    launches = measurement.launches
    return Row(
        id=measurement.id,
        job=measurement.job,
        status=status,
        artifact_digest=measurement.artifact.digest,
        artifact_bytes=measurement.artifact.size_bytes,
        summary=summary if status in ("ok", "partial") else _withheld(summary),
        controller_parity=measurement.controller_parity,
        device_parity=measurement.device_parity,
        facts=measurement.facts,
        runtime_version=launches[-1].runtime_version if launches else "",
        effective=launches[-1].effective if launches else {},
        before=launches[0].before if launches else Conditions(),
        after=launches[-1].after if launches else Conditions(),
        unusable=_unusable(measurement),
        warnings=measurement.warnings,
        pushed_bytes=measurement.pushed_bytes,
        engine=measurement.engine,
    )


def _status(measurement: Measurement, summary: Summary) -> Status:
    if measurement.facts.emulated:
        return "emulated"
    if measurement.status == "invalid" or summary.launches == 0:
        return "invalid"
    whole = summary.launches_unusable == 0 and summary.launches >= measurement.job.workload.launches
    return "ok" if whole and measurement.status == "ok" else "partial"


def _withheld(summary: Summary) -> Summary:
    """The summary without its figures: numbers that must not be shown do not travel."""
    return Summary(
        launches=summary.launches,
        launches_unusable=summary.launches_unusable,
        samples=summary.samples,
        cautions=summary.cautions,
    )


def _unusable(measurement: Measurement) -> tuple[str, ...]:
    """Why launches were left out, each reason once with how many it is true of."""
    reasons = Counter(filter(None, map(unusable_reason, measurement.launches)))
    total = len(measurement.launches)
    told = [f"{count} of {total} launches: {reason}" for reason, count in reasons.items()]
    return tuple(told) if total else ("no launch came to its end",)


# --- ratios ---------------------------------------------------------------------------------------


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """The rows with size ratio and speed-up against fp32, where one and only one reference row is there."""
    references: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        if row.job.precision == row.job.variant == REFERENCE:
            references.setdefault(_peers(row.job), []).append(row)
    return [_against(row, references.get(_peers(row.job), [])) for row in rows]


def _peers(job: Job) -> tuple[object, ...]:
    """What two jobs must have in common for their ratio to mean something."""
    return job.model, job.device, job.runtime, job.workload.batch, job.workload.threads


def _against(row: Row, references: Sequence[Row]) -> Row:
    if len(references) != 1:
        return row
    reference = references[0]
    p50s = reference.summary.p50_ns, row.summary.p50_ns
    return replace(
        row,
        size_ratio=reference.run_bytes / row.run_bytes if row.run_bytes else None,
        speedup=p50s[0] / p50s[1] if p50s[0] and p50s[1] else None,
    )


# --- the whole run --------------------------------------------------------------------------------


def _missing(run: Run, done: Iterable[Job]) -> list[Job]:
    """The planned jobs that have neither a measurement nor a failure."""
    known = {_identity(job) for job in done}
    return sorted((job for job in planned_jobs(run) if _identity(job) not in known), key=_order)


def _identity(job: Job) -> tuple[object, ...]:
    return job.model, job.model_path, job.variant, job.runtime, job.precision, job.device


def _counts(rows: Sequence[Row], failures: Sequence[Failure], missing: Sequence[Job]) -> Counts:
    states = Counter(row.status for row in rows)
    return Counts(
        planned=len(rows) + len(failures) + len(missing),
        ok=states["ok"],
        partial=states["partial"],
        invalid=states["invalid"],
        emulated=states["emulated"],
        failed=len(failures),
        missing=len(missing),
    )


def _sheets(measurements: Sequence[Measurement]) -> Iterable[DeviceSheet]:
    for device in sorted({measurement.job.device for measurement in measurements}):
        yield _sheet(device, [one for one in measurements if one.job.device == device])


def _sheet(device: str, measurements: Sequence[Measurement]) -> DeviceSheet:
    launches = [launch for measurement in measurements for launch in measurement.launches]
    launches.sort(key=lambda launch: launch.started_utc)
    states = [state for launch in launches for state in (launch.before, launch.after)]
    runtimes = {
        measurement.job.runtime: launch.runtime_version
        for measurement in measurements
        for launch in measurement.launches
    }
    return DeviceSheet(
        device=device,
        target=measurements[-1].job.target,
        facts=measurements[-1].facts,
        runtimes=runtimes,
        governors=tuple(sorted({state.governor for state in states if state.governor})),
        temperature_before_c=launches[0].before.temperature_c if launches else None,
        temperature_after_c=launches[-1].after.temperature_c if launches else None,
    )
