"""A run's rows -> the report record. Pure: measurements and failures in, one frozen `Report` out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple, get_args

import msgspec

from edgebench import energy, exchange
from edgebench.budgets import subject_of
from edgebench.errors import Owner, UserError
from edgebench.gates import Observed, claims, observed
from edgebench.gates.claims import ClaimVerdict
from edgebench.records import (
    PRECISIONS,
    REFUSED,
    Conditions,
    Failure,
    Job,
    Launch,
    Measurement,
    Prepared,
    Profile,
    Run,
    Track,
    prepared,
    replace,
)
from edgebench.report.base import Counts, DeviceSheet, Report, Row, Status
from edgebench.statistics import Summary, summarise_measurement, unusable_reason

STATUSES: tuple[Status, ...] = (
    "invalid",
    "partial",
    "emulated",
    "ok",
)  # what a job counts as: the last it has
REFERENCE = "fp32"  # the variant and the precision that the others are compared with


def build(
    run: Run,
    measurements: Iterable[Measurement],
    failures: Iterable[Failure],
    profiles: Mapping[str, Profile] = MappingProxyType({}),
) -> Report:
    """The report of one run: sorted rows with their ratios, failures, jobs never reached, counts, devices.

    `profiles`: by the ids of their measurements. Each measurement is looked at and let go: the samples
    of a large run are never in memory together.
    """
    has_claims = bool(claimed(run))
    every = [_draft(each, profiles.get(each.id), has_claims=has_claims) for each in measurements]
    measured = _without_superseded(every, failures := list(failures))
    failed = sorted(failures, key=lambda failure: _order(failure.job))
    drafts = [each.row for each in measured]
    rows = with_ratios(sorted(drafts, key=lambda row: (*_order(row.job), row.id)))
    missing = _missing(run, [row.job for row in rows] + [failure.job for failure in failed])
    return Report(
        run=run,
        counts=_counts(run, rows, failed),
        rows=tuple(rows),
        failures=tuple(failed),
        missing=tuple(missing),
        devices=tuple(_sheets(measured)),
        claims=_claims(run, measured, failed),
    )


class Watch(NamedTuple):
    """When a measurement's first and last launch began, and how warm the board was before and after them."""

    first: tuple[str, float | None]
    last: tuple[str, float | None]
    governors: frozenset[str]


class Draft(NamedTuple):
    """What stays of a measurement once its samples are let go; `cell`: what claims are judged by."""

    row: Row
    is_invalid: bool
    watch: Watch | None
    prepared: tuple[Prepared, ...]
    cell: Observed | None


def _draft(measurement: Measurement, profile: Profile | None, *, has_claims: bool) -> Draft:
    return Draft(
        row=_row(measurement, profile),
        is_invalid=measurement.status == "invalid",
        watch=_watch(measurement.launches),
        prepared=measurement.prepared,
        cell=_observed(measurement) if has_claims else None,
    )


def _watch(launches: Sequence[Launch]) -> Watch | None:
    if not launches:
        return None
    ordered = sorted(launches, key=lambda launch: launch.started_utc)
    states = [state for launch in launches for state in (launch.before, launch.after)]
    return Watch(
        first=(ordered[0].started_utc, ordered[0].before.temperature_c),
        last=(ordered[-1].started_utc, ordered[-1].after.temperature_c),
        governors=frozenset(state.governor for state in states if state.governor),
    )


def _without_superseded(every: Sequence[Draft], failures: Sequence[Failure]) -> list[Draft]:
    """The measurements, but for those that a later end of the same job replaces.

    Nothing was launched before a job failed; an invalid one was measured once more.
    """
    failed = {_identity(failure.job) for failure in failures}
    last = {_identity(each.row.job): at for at, each in enumerate(every)}

    def stays(at: int, each: Draft) -> bool:
        job = _identity(each.row.job)
        if job in failed:
            return each.watch is not None
        return at == last[job] or (each.watch is not None and not each.is_invalid)

    return [each for at, each in enumerate(every) if stays(at, each)]


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


def _row(measurement: Measurement, profile: Profile | None) -> Row:
    summary = summarise_measurement(measurement)
    status = _status(measurement, summary)
    launches = measurement.launches
    shown = [each for each in launches if not unusable_reason(each)] if status in ("ok", "partial") else []
    tracks = [each.track for each in shown if each.track]
    return Row(
        id=measurement.id,
        job=measurement.job,
        status=status,
        artifact_digest=measurement.artifact.digest,
        artifact_bytes=_size(measurement),
        summary=summary if status in ("ok", "partial") else _withheld(summary),
        controller_parity=measurement.controller_parity,
        device_parity=measurement.device_parity,
        facts=measurement.facts,
        runtime_version=launches[-1].runtime_version if launches else "",
        effective=launches[-1].effective if launches else {},
        before=launches[0].before if launches else Conditions(),
        after=launches[-1].after if launches else Conditions(),
        unusable=_unusable(measurement),
        warnings=(*measurement.warnings, *_notes(launches)),
        pushed_bytes=measurement.pushed_bytes,
        profile=profile if status in ("ok", "partial") else None,
        engine=measurement.engine,
        accuracy=measurement.accuracy,
        energy=energy.of_launches(shown),
        temperature_max_c=max(_known(track.temperature_max_c for track in tracks), default=None),
        clock_khz=_mean(_known(map(_clock, tracks))),
        gpu_load=_mean([track.gpu_load.mean for track in tracks if track.gpu_load]),
        prepared=measurement.prepared,
    )


def _notes(launches: Sequence[Launch]) -> Iterable[str]:
    return (f"launch {launch.number}: {note}" for launch in launches for note in launch.notes)


def _clock(track: Track) -> float | None:
    """The mean clock of the fastest cores; as measured, where the firmware does that."""
    measured = track.clocks_khz.get("arm measured")
    means = [clock.mean for name, clock in track.clocks_khz.items() if name.startswith("cpu")]
    return measured.mean if measured else max(means, default=None)


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _status(measurement: Measurement, summary: Summary) -> Status:
    if measurement.facts.emulated:
        return "emulated"
    if measurement.status == "invalid" or summary.launches == 0:
        return "invalid"
    whole = summary.launches >= measurement.job.workload.launches  # invalid ones were repeated
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


def _size(measurement: Measurement) -> int | None:
    """The size of the artifact; None where a file did not tell it."""
    if measurement.imported and measurement.imported.get("artifact_bytes") is None:
        return None
    return measurement.artifact.size_bytes


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
        size_ratio=reference.run_bytes / row.run_bytes if row.run_bytes and reference.run_bytes else None,
        speedup=p50s[0] / p50s[1] if p50s[0] and p50s[1] else None,
    )


# --- claims ---------------------------------------------------------------------------------------


def _claims(run: Run, measured: Sequence[Draft], failed: Sequence[Failure]) -> tuple[ClaimVerdict, ...]:
    """The verdicts on the claims of the run's plan."""
    made = [claims.parse(text) for text in claimed(run)]
    if not made:
        return ()
    cells = {_identity(each.row.job): each.cell for each in measured}
    reasons = {_identity(each.job): each.message for each in failed}
    jobs = planned_jobs(run) or [each.row.job for each in measured]
    expected = []
    for job in sorted(jobs, key=_order):
        key = _identity(job)
        expected.append(claims.Expected(subject_of(job), cells.get(key), reasons.get(key, "")))
    return claims.judge(made, expected)


def claimed(run: Run) -> tuple[str, ...]:
    """The claims of the run's plan, those that this edgebench can judge."""
    plan = run.plan.get("plan")
    texts = plan.get("claims") if isinstance(plan, dict) else None
    return tuple(text for text in texts or () if isinstance(text, str) and _can_be_judged(text))


def _can_be_judged(text: str) -> bool:
    try:
        claims.parse(text)
    except UserError:
        return False
    return True


def _observed(measurement: Measurement) -> Observed:
    """The measured cell; where a device built an engine, that is what its size is of."""
    found = observed(exchange.entry(measurement))
    engine = measurement.engine
    return found if engine is None else replace(found, artifact_bytes=engine.size_bytes)


# --- the whole run --------------------------------------------------------------------------------


def _missing(run: Run, done: Iterable[Job]) -> list[Job]:
    """The planned jobs that have neither a measurement nor a failure."""
    known = {_identity(job) for job in done}
    return sorted((job for job in planned_jobs(run) if _identity(job) not in known), key=_order)


def _identity(job: Job) -> tuple[object, ...]:
    return job.model, job.model_path, job.variant, job.runtime, job.precision, job.device


def _counts(run: Run, rows: Sequence[Row], failures: Sequence[Failure]) -> Counts:
    """Every job once: its failure, else the best of its measurements, else missing."""
    outcomes: dict[tuple[object, ...], Status | Owner | Literal["refused", "missing"]] = {}
    for job in planned_jobs(run):
        outcomes[_identity(job)] = "missing"
    for row in sorted(rows, key=lambda row: STATUSES.index(row.status)):
        outcomes[_identity(row.job)] = row.status
    for failure in failures:
        outcomes[_identity(failure.job)] = "refused" if failure.stage == REFUSED else failure.owner
    states = Counter(outcomes.values())
    owners = {owner: states[owner] for owner in get_args(Owner) if states[owner]}
    return Counts(
        planned=len(outcomes),
        ok=states["ok"],
        partial=states["partial"],
        invalid=states["invalid"],
        emulated=states["emulated"],
        failed=sum(owners.values()),
        missing=states["missing"],
        refused=states["refused"],
        failed_by=owners,
    )


def _sheets(measured: Sequence[Draft]) -> Iterable[DeviceSheet]:
    by_device: dict[str, list[Draft]] = {}
    for each in measured:
        by_device.setdefault(each.row.job.device, []).append(each)
    for device in sorted(by_device):
        yield _sheet(device, by_device[device])


def _sheet(device: str, drafts: Sequence[Draft]) -> DeviceSheet:
    watched = [each.watch for each in drafts if each.watch is not None]
    last = drafts[-1]
    return DeviceSheet(
        device=device,
        target=last.row.job.target,
        facts=last.row.facts,
        runtimes={
            each.row.job.runtime: each.row.runtime_version for each in drafts if each.watch is not None
        },
        governors=tuple(sorted(frozenset().union(*(each.governors for each in watched)))),
        temperature_before_c=min((each.first for each in watched), key=_when)[1] if watched else None,
        temperature_after_c=max((each.last for each in reversed(watched)), key=_when)[1] if watched else None,
        prepared=last.prepared,
    )


def _when(moment: tuple[str, float | None]) -> str:
    return moment[0]
