"""Measurements as a file: documented, versioned JSON with the raw samples of every launch. Pure.

What edgebench measured leaves in this form, and what others measured (phones, other tools) comes in, to be
compared and gated alike. The smallest file holds names and samples; docs/measurements.md has all keys.
Measurements with the same session were taken side by side; others are apart in time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import msgspec

from edgebench.energy import of_launch
from edgebench.errors import UserError
from edgebench.records import (
    Accuracy,
    Job,
    Launch,
    Measurement,
    Record,
    Role,
    Tensor,
    from_json,
    prepared,
    replace,
    to_json,
)

# 1: the first
SCHEMA = 1
MAX_BYTES = 4 << 30
LONGEST_NS = 24 * 3600 * 1_000_000_000  # a single inference of more than a day is a mistake
EMULATED = "an emulator ran it: its times and memory are no board's"
NAMES = ("model", "variant", "runtime", "precision", "device", "target", "session")


class LaunchEntry(Record, frozen=True):
    """One fresh process. Times are whole nanoseconds, one a sample; what is not known is left out.

    `pair` joins it to the baseline's launch of the same number; left out: its place among the launches.
    `baseline_ns`: in a duet the baseline's times, each beside the sample of the same place.
    """

    latency_ns: tuple[int, ...]
    valid: bool = True
    invalid_reason: str = ""
    load_ns: int | None = None
    first_inference_ns: int | None = None
    peak_bytes: int | None = None
    energy_mj: float | None = None
    foreign_load: float | None = None
    started_utc: str = ""
    pair: int | None = None
    baseline_ns: tuple[int, ...] = ()


class MeasurementEntry(Record, frozen=True):
    """One artifact on one device in one session.

    `environment` is what a baseline must share to be comparable: board, kernel, runtime_version, power_mode.
    `looks`: the numbers of launches at which was looked; none: as many launches as planned beforehand.
    `role`: a baseline that was measured beside the candidate of the same names, or a duet of the two.
    `alpha` is what all looks together may err by. `accuracy_report`: the accuracy with its
    interval and what the model lost against the one it was made of. `failure`: why a planned cell was not
    measured; it has no launches then.
    """

    model: str
    variant: str
    runtime: str
    precision: str
    device: str
    target: str
    session: str
    launches: tuple[LaunchEntry, ...]
    groups: tuple[str, ...] = ()
    batch: int = 1
    looks: tuple[int, ...] = ()
    status: str = "ok"
    artifact_digest: str = ""
    artifact_bytes: int | None = None
    inputs: str = ""
    parity_snr_db: float | None = None
    accuracy: float | None = None
    environment: dict[str, str] = {}
    role: Role = "candidate"
    alpha: float = 0.05
    accuracy_report: Accuracy | None = None
    failure: str = ""


class MeasurementFile(Record, frozen=True):
    """The whole file."""

    schema: int
    measurements: tuple[MeasurementEntry, ...]
    edgebench: str = ""
    run: str = ""
    created_utc: str = ""


def parse(data: bytes, source: str) -> MeasurementFile:
    """The measurements in a file's bytes; UserError naming `source` and the place for anything else."""
    if len(data) > MAX_BYTES:
        raise UserError(f"{source} has {len(data)} bytes; at most {MAX_BYTES} are read")
    _check_schema(data, source)
    try:
        file = msgspec.json.decode(data, type=prepared(MeasurementFile))
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise UserError(
            f"{source} holds no measurements: {error}",
            hint="the smallest valid file is in docs/measurements.md; times are whole nanoseconds",
        ) from error
    except RecursionError as error:
        raise UserError(f"{source} holds no measurements: it is nested too deeply") from error
    for problem in _problems(file):
        raise UserError(f"{source}: {problem}", hint="times are whole nanoseconds, larger than 0")
    return file


class _Head(msgspec.Struct):
    schema: int


def _check_schema(data: bytes, source: str) -> None:
    """A newer file says so, whatever else in it is new."""
    try:
        found = msgspec.json.decode(data, type=prepared(_Head)).schema
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise UserError(
            f"{source} is no file of measurements: {error}",
            hint="edgebench export RUN -o FILE writes one",
        ) from error
    if found != SCHEMA:
        newer = found > SCHEMA
        raise UserError(
            f"{source} has schema {found}; this edgebench reads {SCHEMA}",
            hint="install a newer edgebench" if newer else 'write "schema": 1',
        )


def _problems(file: MeasurementFile) -> Iterator[str]:
    """What no types say, each with its place."""
    for place, each in enumerate(file.measurements):
        where = f"measurements[{place}]"
        for name in NAMES:
            text = getattr(each, name)
            if not text or len(text) > 300 or not text.isprintable():
                yield f"{where}.{name} must be a printable text of 1 to 300 characters"
        if not 0 < each.alpha <= 0.5:
            yield f"{where}.alpha is {each.alpha}"
        if not 1 <= each.batch <= 1 << 20:
            yield f"{where}.batch is {each.batch}"
        if each.accuracy_report is not None:
            yield from _accuracy_problems(each.accuracy_report, f"{where}.accuracy_report")
        if each.failure and each.launches:
            yield f"{where} has both a failure and launches"
        for number, launch in enumerate(each.launches):
            yield from _launch_problems(launch, f"{where}.launches[{number}]")


def _accuracy_problems(report: Accuracy, where: str) -> Iterator[str]:
    if not 1 <= report.n < 1 << 53:
        yield f"{where}.n is {report.n}"
        return
    counts = (report.only_reference, report.only_candidate)
    if (counts[0] is None) != (counts[1] is None):
        yield f"{where} has only one of only_reference and only_candidate"
    if not all(0 <= each <= report.n for each in counts if each is not None) or _sum(counts) > report.n:
        yield f"{where} counts {counts[0]} and {counts[1]} of {report.n} samples"
    for low, high in (("low", "high"), ("drop_low", "drop_high")):
        ends = getattr(report, low), getattr(report, high)
        if (ends[0] is None) != (ends[1] is None) or (None not in ends and ends[0] > ends[1]):
            yield f"{where}.{low} and {high} are {ends[0]} and {ends[1]}: no interval"
        elif low == "drop_low" and None not in ends and not ends[0] <= (report.drop or 0.0) <= ends[1]:
            yield f"{where}.drop is {report.drop}, outside of its interval"
    told = None if None in counts else ((counts[0] or 0) - (counts[1] or 0)) / report.n
    if told is not None and report.drop is not None and abs(told - report.drop) > 1e-9:
        yield f"{where}.drop is {report.drop}, and its counts say {told}"
    for name in ("value", "low", "high", "reference", "drop", "drop_low", "drop_high"):
        value = getattr(report, name)
        if value is not None and not abs(value) < 1e18:
            yield f"{where}.{name} is {value}"


def _sum(counts: tuple[int | None, ...]) -> int:
    return sum(each for each in counts if each is not None)


def _launch_problems(launch: LaunchEntry, where: str) -> Iterator[str]:
    for name, times in (("latency_ns", launch.latency_ns), ("baseline_ns", launch.baseline_ns)):
        for extreme in (min(times), max(times)) if times else ():
            if not 0 < extreme <= LONGEST_NS:
                yield f"{where}.{name} holds {extreme}: not between 1 ns and a day"
    if launch.baseline_ns and len(launch.baseline_ns) != len(launch.latency_ns):
        yield f"{where}.baseline_ns has {len(launch.baseline_ns)} times beside {len(launch.latency_ns)}"
    for name in ("load_ns", "first_inference_ns", "peak_bytes"):
        value = getattr(launch, name)
        if value is not None and not 0 <= value < 1 << 63:
            yield f"{where}.{name} is {value}"
    for name in ("energy_mj", "foreign_load"):
        value = getattr(launch, name)
        if value is not None and not 0 <= value < math.inf:
            yield f"{where}.{name} is {value}"


def entry(measurement: Measurement, groups: tuple[str, ...] = ()) -> MeasurementEntry:
    """A stored measurement as a file holds it."""
    if measurement.imported:
        return _as_imported(measurement, groups)
    job, facts = measurement.job, measurement.facts
    sessions = dict.fromkeys(launch.session for launch in measurement.launches)
    versions = dict.fromkeys(launch.runtime_version for launch in measurement.launches)
    environment = {
        "board": facts.board or facts.cpu,
        "kernel": facts.kernel,
        "power_mode": facts.power_mode,
        "runtime_version": ", ".join(versions),
        "emulated": "yes" if facts.emulated else None,
    }
    worst = min((output.snr_db for output in measurement.device_parity.outputs), default=None)
    return MeasurementEntry(
        model=job.model,
        variant=job.variant,
        runtime=job.runtime,
        precision=job.precision,
        device=job.device,
        target=job.target,
        session=next(iter(sessions), measurement.id),
        launches=tuple(_launch_entry(launch, emulated=facts.emulated) for launch in measurement.launches),
        groups=groups,
        batch=job.workload.batch,
        status=measurement.status,
        artifact_digest=measurement.artifact.digest,
        artifact_bytes=measurement.artifact.size_bytes,
        inputs=", ".join(_shown(each) for each in measurement.artifact.inputs),
        parity_snr_db=worst if worst is not None and math.isfinite(worst) else None,
        accuracy=None if measurement.accuracy is None else measurement.accuracy.value,
        accuracy_report=measurement.accuracy,
        role=measurement.role,
        looks=measurement.looks,
        alpha=measurement.alpha,
        environment={name: value for name, value in environment.items() if value},
    )


def _as_imported(measurement: Measurement, groups: tuple[str, ...]) -> MeasurementEntry:
    """What the file said, with the samples that are stored apart."""
    told = dict(measurement.imported)
    told["launches"] = [
        {**said, "latency_ns": launch.samples_ns, "baseline_ns": launch.baseline_ns}
        for said, launch in zip(told["launches"], measurement.launches, strict=True)
    ]
    entry = from_json(MeasurementEntry, told, source=f"measurement {measurement.id}")
    return replace(entry, groups=groups or entry.groups)


def absent_entry(job: Job, reason: str, groups: tuple[str, ...] = ()) -> MeasurementEntry:
    """A planned cell that has no measurement, as a file holds it."""
    return MeasurementEntry(
        model=job.model,
        variant=job.variant,
        runtime=job.runtime,
        precision=job.precision,
        device=job.device,
        target=job.target,
        session="none",
        launches=(),
        groups=groups,
        batch=job.workload.batch,
        failure=reason or "no reason was given",
    )


def _shown(tensor: Tensor) -> str:
    """An input in words: "x float32 1x3x224x224"."""
    return f"{tensor.name} {tensor.dtype} {'x'.join(map(str, tensor.shape)) or 'scalar'}"


def _launch_entry(launch: Launch, *, emulated: bool | None) -> LaunchEntry:
    """A launch; one that an emulator ran is valid nowhere: no limit or comparison may stand on it."""
    energy = of_launch(launch)
    return LaunchEntry(
        latency_ns=launch.samples_ns,
        valid=launch.valid and not emulated,
        invalid_reason=EMULATED if emulated else launch.invalid_reason,
        load_ns=launch.load_ns,
        first_inference_ns=launch.first_inference_ns,
        peak_bytes=launch.memory.peak_bytes,
        energy_mj=None if energy is None else energy.net_mj,
        foreign_load=launch.foreign_load,
        started_utc=launch.started_utc,
        pair=launch.pair,
        baseline_ns=launch.baseline_ns,
    )


def text(file: MeasurementFile) -> str:
    """The file as JSON, one launch a line; defaults are left out."""
    plain = to_json(file)
    head = {key: value for key, value in plain.items() if key != "measurements" and value}
    parts = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    cells = ",\n".join(_cell_text(each) for each in plain["measurements"])
    return "{" + ", ".join([*parts, f'"measurements": [\n{cells}\n]']) + "}\n"


def _cell_text(plain: dict[str, Any]) -> str:
    launches = ",\n  ".join(json.dumps(_given(each, LaunchEntry)) for each in plain["launches"])
    rest = {key: value for key, value in _given(plain, MeasurementEntry).items() if key != "launches"}
    return json.dumps(rest)[:-1] + f', "launches": [\n  {launches}]}}'


def _given(plain: dict[str, Any], kind: type[Record]) -> dict[str, Any]:
    """What differs from the record's default."""
    fields = {field.name: field.default for field in msgspec.structs.fields(kind)}
    empty: tuple[Any, ...] = ([], {}, "", None)
    return {
        key: value
        for key, value in plain.items()
        if key == "latency_ns" or not (value == fields[key] or value in empty)
    }


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, as docs/measurements.schema.json holds it."""
    made: dict[str, Any] = msgspec.json.schema(MeasurementFile)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "edgebench measurements",
        **made,
    }
