"""Records -> rows and back. Pure. What comes back is equal to what went in."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import zstandard

from edgebench.errors import BugError, InfrastructureError
from edgebench.records import (
    Artifact,
    Failure,
    HealthCheck,
    Job,
    Judgement,
    Launch,
    Measurement,
    NoiseFloor,
    Profile,
    Record,
    Release,
    Run,
    Workload,
    decode_exact,
    encode_exact,
    replace,
    to_json,
)
from edgebench.statistics import summarise

Row = dict[str, Any]

# level 3: nanosecond noise hardly compresses, higher levels only cost time
_ZSTD_LEVEL = 3
_MAX_INTEGER = 2**63 - 1
# fields that came to Workload after jobs had been stored, with the value that they stand for where absent
_LATER_WORKLOAD = {"max_invalid": Workload().max_invalid, "precision": Workload().precision}
_DTYPES: dict[str, np.dtype[Any]] = {"uint32": np.dtype("<u4"), "int64": np.dtype("<i8")}


class Blob(Record, frozen=True):
    """Integers as stored: little-endian, compressed; `sha256` is that of the bytes before compression."""

    dtype: str
    codec: str
    count: int
    sha256: str
    data: bytes


def pack(values: tuple[int, ...]) -> Blob:
    """The blob of some nanoseconds: uint32, or int64 when one exceeds 4.29 s; BugError for a negative one."""
    try:
        wide = np.frombuffer(array("q", values), dtype=np.int64) if values else np.empty(0, dtype=np.int64)
    except (OverflowError, TypeError) as error:
        raise BugError(f"a sample is no integer of nanoseconds below 2^63: {error}") from error
    if wide.size and int(wide.min()) < 0:
        raise BugError(f"a sample is negative: {int(wide.min())} ns")
    dtype = "uint32" if not wide.size or int(wide.max()) < 2**32 else "int64"
    raw = wide.astype(_DTYPES[dtype]).tobytes()
    return Blob(
        dtype=dtype,
        codec="zstd",
        count=int(wide.size),
        sha256=hashlib.sha256(raw).hexdigest(),
        data=zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(raw),
    )


def unpack(blob: Blob, *, source: str) -> tuple[int, ...]:
    """The integers of a blob; InfrastructureError naming `source` when one bit of it was changed."""
    if blob.codec != "zstd" or blob.dtype not in _DTYPES:
        raise _changed(source, f"it holds {blob.dtype} in {blob.codec}")
    size_bytes = blob.count * _DTYPES[blob.dtype].itemsize
    try:
        # the frame says how much it holds: asked first, so that a changed one cannot fill the memory
        if zstandard.frame_content_size(blob.data) != size_bytes:
            raise _changed(source, f"it does not hold {blob.count} samples")
        raw = zstandard.ZstdDecompressor().decompress(blob.data, max_output_size=size_bytes)
    except zstandard.ZstdError as error:
        raise _changed(source, str(error)) from error
    if hashlib.sha256(raw).hexdigest() != blob.sha256:
        raise _changed(source, "its sha256 is another")
    return tuple(np.frombuffer(raw, dtype=_DTYPES[blob.dtype]).tolist())


def _changed(source: str, why: str) -> InfrastructureError:
    return InfrastructureError(
        f"the samples of {source} were changed after they were stored: {why}",
        hint="restore the database from a copy, or measure again",
    )


# --- rows ---------------------------------------------------------------------------------------


def run_row(run: Run) -> Row:
    """The row of a run."""
    return {
        "id": run.id,
        "created_utc": run.created_utc,
        "status": run.status,
        "document": encode_exact(run),
    }


def job_digest(job: Job) -> str:
    """What tells the jobs of one run apart; of a job stored by an earlier edgebench, what it said then."""
    fields = to_json(job)
    for name, usual in _LATER_WORKLOAD.items():
        if fields["workload"][name] == usual:
            del fields["workload"][name]
    return hashlib.sha256(encode_exact(fields).encode("ascii")).hexdigest()


def job_row(job: Job) -> Row:
    """The row of a job, not yet planned."""
    return {
        "digest": job_digest(job),
        "device": plain(job.device),
        "model": plain(job.model),
        "variant": plain(job.variant),
        "runtime": plain(job.runtime),
        "precision": plain(job.precision),
        "document": encode_exact(job),
    }


def artifact_row(artifact: Artifact) -> Row:
    """The row of an artifact."""
    return {
        "digest": artifact.digest,
        "model": plain(artifact.model),
        "variant": plain(artifact.variant),
        "runtime": plain(artifact.runtime),
        "precision": plain(artifact.precision),
        "size_bytes": artifact.size_bytes,
        "document": encode_exact(artifact),
    }


def measurement_row(measurement: Measurement) -> Row:
    """The row of a measurement, without its launches."""
    return {
        "id": measurement.id,
        "artifact_digest": measurement.artifact.digest,
        "status": measurement.status,
        "role": measurement.role,
        "document": encode_exact(replace(measurement, launches=())),
    }


def failure_row(failure: Failure) -> Row:
    """The row of a failure."""
    return {"owner": failure.owner, "stage": plain(failure.stage), "document": encode_exact(failure)}


def health_check_row(check: HealthCheck) -> Row:
    """The row of a health check."""
    return {
        "device": plain(check.device),
        "checked_utc": check.checked_utc,
        "passed": check.passed,
        "document": encode_exact(check),
    }


def release_row(release: Release) -> Row:
    """The row of a release."""
    return {"name": release.name, "passed_utc": release.passed_utc, "document": encode_exact(release)}


def judgement_row(judgement: Judgement) -> Row:
    """The row of a judgement."""
    return {"exit_code": judgement.exit_code, "document": encode_exact(judgement)}


def noise_floor_row(floor: NoiseFloor) -> Row:
    """The row of a noise floor."""
    return {
        "device": plain(floor.device),
        "runtime": plain(floor.runtime),
        "measured_utc": floor.measured_utc,
        "document": encode_exact(floor),
    }


def profile_row(profile: Profile) -> Row:
    """The row of a profile; BugError for times that no database takes."""
    row: Row = {"layers": len(profile.layers), "total_ns": profile.total_ns}
    _check_integers(row | {"layers_ns": profile.layers_ns}, "a profile")
    return row | {"document": encode_exact(profile)}


def launch_row(launch: Launch) -> Row:
    """The row of a launch: its figures and, as a document, all but its samples."""
    row: Row = to_json(summarise(launch))
    row |= {
        "session": plain(launch.session),
        "ordinal": launch.number,
        "valid": launch.valid,
        "load_ns": launch.load_ns,
        "first_inference_ns": launch.first_inference_ns,
        "peak_bytes": launch.memory.peak_bytes,
        "steady_peak_bytes": launch.memory.steady_peak_bytes,
    }
    _check_integers(row)
    return row | {
        "temperature_c": launch.after.temperature_c,
        "throttled": launch.after.throttled,
        "document": encode_exact(replace(launch, samples_ns=(), warmup_ns=(), baseline_ns=())),
    }


def blob_rows(launch: Launch) -> list[Row]:
    """The rows of a launch's samples and warm-up samples, and of the baseline's in a duet."""
    kinds = {"samples": launch.samples_ns, "warmup": launch.warmup_ns}
    kinds |= {"baseline": launch.baseline_ns} if launch.baseline_ns else {}
    return [{"kind": kind, **msgspec.structs.asdict(pack(values))} for kind, values in kinds.items()]


def launch_record(document: str, samples: Mapping[str, Blob], *, source: str) -> Launch:
    """The launch of a document and its blobs; InfrastructureError naming `source` when one is damaged."""
    missing = {"samples", "warmup"} - set(samples)
    if missing:
        raise _changed(source, f"no {', '.join(sorted(missing))} are there")
    return replace(
        decode_exact(Launch, document, source=source),
        samples_ns=unpack(samples["samples"], source=source),
        warmup_ns=unpack(samples["warmup"], source=source),
        baseline_ns=unpack(samples["baseline"], source=source) if "baseline" in samples else (),
    )


def _check_integers(row: Row, of: str = "a launch") -> None:
    for name, value in row.items():
        if isinstance(value, int) and not 0 <= value <= _MAX_INTEGER:
            raise BugError(f"{name} of {of} is {value}, not between 0 and 2^63 - 1")


def plain(text: str) -> str:
    """Text that every database takes; the document beside it keeps the original."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "?")
