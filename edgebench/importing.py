"""Measurements that were made elsewhere, in a file -> what a store keeps of them. Pure.

What the file does not tell is unknown; nothing is invented. What it tells beyond a measurement's own fields
is kept beside, so that an export gives the same file again.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Sequence

from edgebench.errors import EXIT_ERROR
from edgebench.exchange import LaunchEntry, MeasurementEntry
from edgebench.records import (
    Artifact,
    Conditions,
    Facts,
    Failure,
    Job,
    Launch,
    Measurement,
    MemoryLadder,
    ParityBound,
    ParityReport,
    Workload,
    replace,
    to_json,
)

UNKNOWN = "unknown"
NO_BOUND = ParityBound(precision=UNKNOWN, max_abs_share=0.0, min_snr_db=0.0, min_cosine=0.0)


def digest(data: bytes) -> str:
    """What names a file of measurements."""
    return hashlib.sha256(data).hexdigest()


def imported(entries: Sequence[MeasurementEntry], run: str) -> list[Measurement]:
    """Measurements of a run, as they are stored; entries that failed are not among them.

    Each candidate has a job of its own; what ran beside it in its session belongs to that job.
    """
    seen: Counter[tuple[str, ...]] = Counter()
    candidates: dict[str, str] = {}
    made = []
    for entry in (each for each in entries if not each.failure):
        names = (entry.model, entry.variant, entry.runtime, entry.precision, entry.device, entry.session)
        number = seen[*names, entry.role]
        seen[*names, entry.role] += 1
        origin = f"{entry.session}#{number}" if number else entry.session
        measurement = _imported(entry, run, origin)
        place = "\0".join((*names, str(number)))
        if entry.role == "candidate":
            candidates[place] = measurement.id
        made.append((place, measurement))
    return [_beside(measurement, candidates.get(place, "")) for place, measurement in made]


def _beside(measurement: Measurement, candidate: str) -> Measurement:
    return measurement if measurement.role == "candidate" else replace(measurement, beside=candidate)


def absent(entries: Sequence[MeasurementEntry], run: str) -> list[Failure]:
    """The cells of a file that were not measured."""
    return [
        Failure(
            run=run,
            job=_job(each, each.session),
            owner="device",
            stage="imported",
            message=each.failure,
            hint="whoever measured it knows more",
            exit_code=EXIT_ERROR,
        )
        for each in entries
        if each.failure
    ]


def _imported(entry: MeasurementEntry, run: str, origin: str) -> Measurement:
    told = to_json(entry)
    for launch in told["launches"]:
        del launch["latency_ns"], launch["baseline_ns"]
    nothing = ParityReport(where="elsewhere", reference="none", bound=NO_BOUND, outputs=(), passed=True)
    usable = any(each.valid and each.latency_ns for each in entry.launches)
    return Measurement(
        id=secrets.token_hex(8),
        run=run,
        job=_job(entry, origin),
        artifact=_artifact(entry),
        facts=_facts(entry),
        controller_parity=nothing,
        device_parity=nothing,
        launches=tuple(_launch(each, number, entry) for number, each in enumerate(entry.launches, 1)),
        status="ok" if usable and entry.status != "invalid" else "invalid",
        role=entry.role,
        looks=entry.looks,
        alpha=entry.alpha,
        accuracy=entry.accuracy_report,
        imported=told,
    )


def _job(entry: MeasurementEntry, origin: str) -> Job:
    """`origin` keeps apart what has the same names: the session, and a number where that is not enough."""
    return Job(
        model=entry.model,
        model_path=f"imported: {origin}",
        variant=entry.variant,
        runtime=entry.runtime,
        precision=entry.precision,
        device=entry.device,
        target=entry.target,
        workload=Workload(launches=max(1, len(entry.launches)), batch=entry.batch),
    )


def _artifact(entry: MeasurementEntry) -> Artifact:
    return Artifact(
        digest=entry.artifact_digest or UNKNOWN,
        key="imported",
        runtime=entry.runtime,
        precision=entry.precision,
        model=entry.model,
        variant=entry.variant,
        model_digest="",
        files=(),
        size_bytes=entry.artifact_bytes or 0,
        entry={},
        inputs=(),
        outputs=(),
    )


def _facts(entry: MeasurementEntry) -> Facts:
    told = entry.environment
    return Facts(
        arch=UNKNOWN,
        bits=0,
        os=UNKNOWN,
        kernel=told.get("kernel", UNKNOWN),
        python=UNKNOWN,
        board=told.get("board"),
        power_mode=told.get("power_mode"),
    )


def _launch(each: LaunchEntry, number: int, entry: MeasurementEntry) -> Launch:
    memory = MemoryLadder(method="as imported" if each.peak_bytes is not None else UNKNOWN)
    return Launch(
        number=number,
        session=entry.session,
        started_utc=each.started_utc or UNKNOWN,
        import_ns=None,
        load_ns=each.load_ns,
        first_inference_ns=each.first_inference_ns,
        warmup_ns=(),
        warmup_stable=True,
        samples_ns=each.latency_ns,
        memory=replace(memory, peak_bytes=each.peak_bytes),
        before=Conditions(),
        after=Conditions(),
        runtime_version=entry.environment.get("runtime_version", UNKNOWN),
        foreign_load=each.foreign_load,
        valid=each.valid,
        invalid_reason=each.invalid_reason,
        pair=each.pair,
        baseline_ns=each.baseline_ns,
    )
