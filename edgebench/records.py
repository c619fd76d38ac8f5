"""The nouns that travel between modules: frozen, typed, to and from JSON. Words are those of docs/design.

`SCHEMA_VERSION` is stored with everything written. History:
  1  first version
"""

from __future__ import annotations

import json
import threading
from typing import Any, Literal, TypeVar

import msgspec

from edgebench.errors import BugError, InfrastructureError, Owner

SCHEMA_VERSION = 1

RUNTIMES = ("onnxruntime", "ncnn", "openvino", "coreml", "tensorrt")
# Those that a device's probe runs; the others are converted only.
MEASURED = ("onnxruntime", "ncnn", "openvino")
PRECISIONS = ("fp32", "fp16", "int8", "int8-dynamic")
ORT_FORMATS = ("onnx", "optimized", "ort")  # how ONNX Runtime's artifact is stored: as it is, fused, or .ort

R = TypeVar("R")

_PREPARING = threading.Lock()


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records: frozen, keyword-only, closed."""


# --- models -------------------------------------------------------------------------------------


class Tensor(Record, frozen=True):
    """One input or output of a model; a symbolic dimension keeps its name, an unknown one is "?"."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class ModelInfo(Record, frozen=True):
    """What one ONNX file is. `precision`: fp32, fp16, int8-qdq, int8-dynamic or mixed.

    `macs` is that of batch 1 where the batch is symbolic, and None where another shape is unknown.
    `sparsity` is the share of zeros among the weights (initializers of two or more dimensions).
    `variant` and `lineage` come from the file's own metadata.
    """

    name: str
    variant: str
    digest: str
    size_bytes: int
    ir_version: int
    opset: dict[str, int]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: int
    macs: int | None
    operators: dict[str, int]
    precision: Literal["fp32", "fp16", "int8-qdq", "int8-dynamic", "mixed"]
    sparsity: float
    lineage: tuple[str, ...] = ()


class ArtifactFile(Record, frozen=True):
    """One file of an artifact; `path` is relative, with forward slashes, inside the artifact."""

    path: str
    sha256: str
    size_bytes: int


class Artifact(Record, frozen=True):
    """What one runtime runs: an immutable set of files. `digest` is the sha256 over manifest and options.

    `key` names what went in (model digest, converter, options, tool versions); the cache is looked up by it.
    `entry` says which file plays which part ({"model": "model.onnx"}, {"param": ..., "bin": ...}).
    `inputs` and `outputs` are those of the ONNX model, fully static, in its order; `blobs` maps them to the
    names the runtime knows them by, where these differ.
    """

    digest: str
    key: str
    runtime: str
    precision: str
    model: str
    variant: str
    model_digest: str
    files: tuple[ArtifactFile, ...]
    size_bytes: int
    entry: dict[str, str]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    blobs: dict[str, str] = {}
    options: dict[str, str] = {}
    tool_versions: dict[str, str] = {}
    lineage: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    convert_s: float = 0.0


# --- parity -------------------------------------------------------------------------------------


class ParityBound(Record, frozen=True):
    """What a converted output must keep, relative to the largest absolute reference value.

    An output passes when max_abs <= max_abs_share * reference range **and** snr_db >= min_snr_db **and**
    cosine >= min_cosine. Cosine alone never passes. `noise_db` is the measured noise floor of the model that
    the bound stands on; None for a fixed bound.
    """

    precision: str
    max_abs_share: float
    min_snr_db: float
    min_cosine: float
    noise_db: float | None = None


class OutputParity(Record, frozen=True):
    """One output compared with its reference; `reference_range` is the largest absolute reference value.

    `bound` is the output's own, where the model's noise floor was measured; else the report's holds.
    """

    name: str
    max_abs: float
    max_rel: float
    cosine: float
    snr_db: float
    reference_range: float
    passed: bool
    reason: str = ""
    bound: ParityBound | None = None


class ParityReport(Record, frozen=True):
    """Outputs of a candidate against the reference; `where` is "controller" or a device's name.

    `computed_by` "runtime" is the real runtime, "interpreter" an independent evaluation of the saved files
    where the runtime does not exist ("reference-verified").
    """

    where: str
    reference: str
    bound: ParityBound
    outputs: tuple[OutputParity, ...]
    passed: bool
    inputs: str = "generated"
    computed_by: Literal["runtime", "interpreter"] = "runtime"
    warnings: tuple[str, ...] = ()


# --- devices ------------------------------------------------------------------------------------


class SshSettings(Record, frozen=True):
    """How one logs in. `jump` is `[user@]host[:port]`, or None. Secrets have no place here."""

    user: str | None = None
    port: int = 22
    key_file: str | None = None
    jump: str | None = None
    jump_host_keys: tuple[str, ...] = ()


class Device(Record, frozen=True):
    """One physical board, merged from the inventory. `transport` is "local" or "ssh".

    `host_keys` are pinned fingerprints ("SHA256:..."); an ssh device without one is refused.
    `work_dir` is the only folder that edgebench writes on the device; relative means below the login's home.
    `lease` is what a lease guards: the whole board, or the work folder alone; None: as the settings say.
    """

    name: str
    target: str
    transport: Literal["local", "ssh"]
    address: str = ""
    host_keys: tuple[str, ...] = ()
    ssh: SshSettings = SshSettings()
    work_dir: str = ".edgebench"
    groups: tuple[str, ...] = ()
    tags: dict[str, str] = {}
    quarantine: str | None = None
    lease: Literal["board", "folder"] | None = None


class Facts(Record, frozen=True):
    """What the probe says of a device that does not change during a session. None is unknown, never 0."""

    arch: str
    bits: int
    os: str
    kernel: str
    python: str
    hostname: str | None = None
    board: str | None = None
    soc: str | None = None
    cpu: str | None = None
    cores: int | None = None
    cpu_features: tuple[str, ...] = ()
    os_release: str | None = None
    libc: str | None = None
    power_mode: str | None = None
    memory_bytes: int | None = None
    swap_bytes: int | None = None
    accelerator: str | None = None
    versions: dict[str, str] = {}
    emulated: bool | None = None


class Conditions(Record, frozen=True):
    """The state of a device at one moment: read before and after every launch. None is unknown, never 0."""

    governor: str | None = None
    clock_khz: tuple[int, ...] = ()
    clock_max_khz: tuple[int, ...] = ()
    temperature_c: float | None = None
    throttled: bool | None = None
    throttle_flags: str | None = None
    memory_available_bytes: int | None = None
    swap_used_bytes: int | None = None
    swapped_in_pages: int | None = None
    load_1m: float | None = None
    uptime_s: float | None = None


class Expectations(Record, frozen=True):
    """What a target says its devices are; compared with facts, a mismatch stops the job. None: not compared.

    `python` and `tensorrt` are version ranges (">=3.6,<3.12"), the others are compared as text,
    `board` and `soc` as beginnings.
    """

    board: str | None = None
    soc: str | None = None
    power_mode: str | None = None
    python: str | None = None
    tensorrt: str | None = None


class Platform(Record, frozen=True):
    """Operating system, processor and accelerator of a target."""

    os: Literal["linux", "macos"]
    arch: Literal["x86_64", "aarch64", "armv7l", "any"]
    accelerator: Literal["none", "gpu", "ane"] = "none"


class RuntimeProfile(Record, frozen=True):
    """One runtime on one target: which precisions run well there, and the runtime's own options."""

    precisions: tuple[str, ...]
    build_on: Literal["controller", "device"] = "controller"
    options: dict[str, str | int | float | bool] = {}


class Workload(Record, frozen=True):
    """What one launch runs and how often. `threads` 0 means the runtime's own choice on that device."""

    launches: int = 5
    threads: int = 0
    batch: int = 1
    warmup_samples: int = 10
    max_warmup_s: float = 30.0
    min_samples: int = 200
    min_duration_s: float = 1.0
    max_duration_s: float = 60.0
    cooldown_s: float = 0.0


class Limits(Record, frozen=True):
    """Beyond these a launch on the target is invalid."""

    max_temperature_c: float | None = None
    memory_mib: int | None = None


class Target(Record, frozen=True):
    """A kind of device: one file of `targets/`."""

    version: int
    name: str
    summary: str
    platform: Platform
    python: str
    runtimes: dict[str, RuntimeProfile]
    expects: Expectations = Expectations()
    workload: Workload = Workload()
    limits: Limits = Limits()


# --- measuring ----------------------------------------------------------------------------------


class MemoryLadder(Record, frozen=True):
    """The launch process's resident memory at each step, bytes; None is unknown. `method`: how it was read.

    `peak_bytes` is the kernel's high-water mark of the whole launch, `steady_peak_bytes` that of the timed
    part alone (the mark is reset before it; None where the kernel refuses the reset).
    """

    method: str
    start_bytes: int | None = None
    runtime_bytes: int | None = None
    model_bytes: int | None = None
    first_inference_bytes: int | None = None
    steady_peak_bytes: int | None = None
    peak_bytes: int | None = None


class Launch(Record, frozen=True):
    """One fresh process: load, first inference, warm-up, samples. All times are raw integer nanoseconds.

    `effective` is what the runtime says it really did (precision, threads, provider); `foreign_load` is the
    mean number of cores kept busy by other processes during the samples, None where unknown.
    An invalid launch is kept and shown, never averaged in.
    """

    number: int
    session: str
    started_utc: str
    import_ns: int
    load_ns: int
    first_inference_ns: int
    warmup_ns: tuple[int, ...]
    warmup_stable: bool
    samples_ns: tuple[int, ...]
    memory: MemoryLadder
    before: Conditions
    after: Conditions
    runtime_version: str
    effective: dict[str, str] = {}
    foreign_load: float | None = None
    valid: bool = True
    invalid_reason: str = ""


class Job(Record, frozen=True):
    """One cell of a run: one model in one precision on one runtime on one device."""

    model: str
    model_path: str
    variant: str
    runtime: str
    precision: str
    device: str
    target: str
    workload: Workload


class Measurement(Record, frozen=True):
    """All launches of one artifact on one device, with what was proven and known before."""

    id: str
    run: str
    job: Job
    artifact: Artifact
    facts: Facts
    controller_parity: ParityReport
    device_parity: ParityReport
    launches: tuple[Launch, ...]
    status: Literal["ok", "partial", "invalid"]
    warnings: tuple[str, ...] = ()
    pushed_bytes: int = 0


class Failure(Record, frozen=True):
    """Why a job has no measurement, and who must act."""

    run: str
    job: Job
    owner: Owner
    stage: str
    message: str
    hint: str
    exit_code: int
    detail: str = ""


class Run(Record, frozen=True):
    """One execution of a plan. `plan` is the expanded plan as JSON, so that a run can be resumed."""

    id: str
    created_utc: str
    status: Literal["running", "done", "interrupted"]
    plan: dict[str, Any]
    edgebench_version: str
    controller: str
    schema_version: int = SCHEMA_VERSION


# --- to and from JSON ---------------------------------------------------------------------------


def to_json(record: Record) -> dict[str, Any]:
    """The record as plain JSON values."""
    plain: dict[str, Any] = msgspec.to_builtins(record)
    return plain


def prepared(kind: type[R]) -> type[R]:
    """`kind` itself, safe for threads: what msgspec's `convert` and `decode` are given passes through here.

    msgspec (0.22) learns a type when it first decodes it, and crashes the process when two threads do so at
    the same time.
    """
    with _PREPARING:
        msgspec.json.Decoder(kind)
    return kind


def from_json(kind: type[R], data: object, *, source: str) -> R:
    """A record of `kind` from plain JSON values that edgebench itself wrote; `source` is named in errors."""
    try:
        return msgspec.convert(data, prepared(kind))
    except msgspec.ValidationError as error:
        raise InfrastructureError(
            f"{source} does not hold a valid {kind.__name__}: {error}",
            hint="it was written by another edgebench version or changed by hand",
        ) from error


def encode(value: object) -> bytes:
    """Compact JSON bytes of a record or of plain values, with stable key order."""
    return msgspec.json.encode(value, order="deterministic")


def decode(kind: type[R], data: bytes, *, source: str) -> R:
    """A record of `kind` from JSON bytes; damaged bytes are an InfrastructureError naming `source`."""
    try:
        return msgspec.json.decode(data, type=prepared(kind))
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InfrastructureError(f"{source} does not hold a valid {kind!r}: {error}") from error


def encode_exact(value: object) -> str:
    """ASCII JSON text that `decode_exact` turns into an equal value; for what edgebench stores for itself.

    `encode` writes infinite floats (the SNR of two equal outputs) as null, which no record takes back; here
    they are the tokens that Python's json reads and writes (Infinity, NaN).
    """
    return json.dumps(msgspec.to_builtins(value), separators=(",", ":"))


def decode_exact(kind: type[R], text: str | bytes, *, source: str) -> R:
    """A record of `kind` from `encode_exact`'s text; damage is an InfrastructureError naming `source`."""
    try:
        return msgspec.convert(json.loads(text), prepared(kind))
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        raise InfrastructureError(
            f"{source} does not hold a valid {kind.__name__}: {error}",
            hint="it was written by another edgebench version or changed by hand",
        ) from error


def replace(record: R, **changes: Any) -> R:
    """A new record with some fields changed."""
    if not isinstance(record, msgspec.Struct):
        raise BugError(f"{record!r} is no record")
    changed: R = msgspec.structs.replace(record, **changes)
    return changed
