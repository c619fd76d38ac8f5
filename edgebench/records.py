"""The nouns that travel between modules: frozen, typed, to and from JSON. Words are those of docs/design.

`SCHEMA_VERSION` is stored with everything written. History:
  1  first version
"""

from __future__ import annotations

import json
import threading
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from edgebench.errors import BugError, InfrastructureError, Owner

SCHEMA_VERSION = 1

RUNTIMES = ("onnxruntime", "ncnn", "openvino", "coreml", "tensorrt")
# Those that a device's probe runs; the others are converted only.
MEASURED = ("onnxruntime", "ncnn", "openvino", "coreml", "tensorrt")
PRECISIONS = ("fp32", "fp16", "int8", "int8-dynamic")
REFUSED = "plan"  # the stage of a failure that no device was touched for: its target does not take the job
COMPUTE_UNITS = ("all", "cpu_only", "cpu_and_gpu", "cpu_and_ne")  # what Core ML may use on a Mac
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
    """How one logs in; None: the ssh configuration says it, or nobody. Secrets have no place here.

    `jump` is `[user@]host[:port]`, several of these with commas between, or "none". `config` is a file to
    read in place of the user's own ssh configuration, or "none".
    """

    user: str | None = None
    port: int | None = None
    key_file: str | None = None
    jump: str | None = None
    jump_host_keys: tuple[str, ...] = ()
    config: str | None = None


class Preparation(Record, frozen=True):
    """What is asked of a board for the time of a lease; None: left as it is. Undone afterwards."""

    power_mode: str | None = None
    governor: str | None = None
    clocks: Literal["locked"] | None = None


class Prepared(Record, frozen=True):
    """One thing that a board was prepared in (`what` as in Preparation); `before` None is unknown."""

    what: str
    before: str | None
    after: str


class Device(Record, frozen=True):
    """One physical board, merged from the inventory. `transport` is "local" or "ssh".

    `host_keys` are pinned fingerprints ("SHA256:..."); without one known_hosts must know the device.
    `work_dir` is the only folder that edgebench writes on the device; relative means below the login's home.
    `work_quota_bytes` is how much it may hold: None half of what the disk could give it, 0 all of it.
    `lease` is what a lease guards: the whole board, or the work folder alone; None: as the settings say.
    """

    name: str
    target: str
    transport: Literal["local", "ssh"]
    address: str = ""
    host_keys: tuple[str, ...] = ()
    ssh: SshSettings = SshSettings()
    work_dir: str = ".edgebench"
    work_quota_bytes: int | None = None
    groups: tuple[str, ...] = ()
    tags: dict[str, str] = {}
    quarantine: str | None = None
    lease: Literal["board", "folder"] | None = None
    prepare: Preparation | None = None


class Facts(Record, frozen=True):
    """What the probe says of a device that does not change during a session. None is unknown, never 0.

    `arch` is the programs' processor, `kernel_arch` the kernel's. `power_mode_pending`: cores and clocks are
    not those of the saved power mode, which waits for a reboot. `rails`: the power rails that can be read.
    """

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
    kernel_arch: str | None = None
    power_modes: tuple[str, ...] = ()
    power_mode_pending: bool | None = None
    rails: tuple[str, ...] = ()
    power_method: str | None = None
    trtexec: str | None = None
    swap_kind: str | None = None
    memory_cgroup: bool | None = None


class Conditions(Record, frozen=True):
    """The state of a device at one moment: read before and after every launch. None is unknown, never 0.

    `throttle_flags` is what counts since boot, as text: two texts that differ mean that the board throttled
    in between. `throttle_now` and `throttle_since_boot` are reasons in words. `over_current` counts events
    since boot; those in `over_current_throttles` lower the clocks. `clock_khz` is what was asked for,
    `clock_measured_khz` what the firmware measured; `clocks_locked`: lowest and highest clock are the same
    everywhere (`jetson_clocks`). `gpu_load` is a share of that moment.
    """

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
    throttle_now: tuple[str, ...] = ()
    throttle_since_boot: tuple[str, ...] = ()
    over_current: dict[str, int] = {}
    over_current_throttles: tuple[str, ...] = ()
    clock_min_khz: tuple[int, ...] = ()
    clock_measured_khz: int | None = None
    clocks_locked: bool | None = None
    gpu_clock_khz: int | None = None
    gpu_clock_max_khz: int | None = None
    gpu_load: float | None = None
    gpu_memory_used_bytes: int | None = None


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
    """What one launch runs and how often. `threads` 0 means the runtime's own choice on that device.

    `max_invalid`: how many invalid launches of one measurement are repeated, each after a pause.
    `precision`: launches go on until the 95 % interval of p50 is no wider than that share to each side.
    """

    launches: int = 5
    threads: int = 0
    batch: int = 1
    warmup_samples: int = 10
    max_warmup_s: float = 30.0
    min_samples: int = 200
    min_duration_s: float = 1.0
    max_duration_s: float = 60.0
    cooldown_s: float = 0.0
    max_invalid: int = 3
    precision: float = 0.0


class Limits(Record, frozen=True):
    """Beyond these a launch on the target is invalid.

    `max_foreign_cores`: cores that other processes kept busy meanwhile; None is edgebench's own limit.
    From `health_low_ms` to `health_high_ms` is where the tiny model of a health check must land (its 10th
    percentile); without them the band is that of the device's own earlier checks.
    """

    max_temperature_c: float | None = None
    memory_mib: int | None = None
    max_foreign_cores: float | None = None
    health_low_ms: float | None = None
    health_high_ms: float | None = None


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
    part alone (the mark is reset before it; None where the kernel refuses the reset). `available_drop_bytes`:
    how far the whole system's available memory fell; `engine_bytes`: what an engine says that it takes of the
    GPU's memory. `gpu_model_bytes` and `gpu_bytes` are what the GPU's allocator gave out on the whole board
    (NvMap) while the model was loaded, and from the start to the first inference. Host, system and GPU
    figures overlap on boards where they share memory: never add them.
    """

    method: str
    start_bytes: int | None = None
    runtime_bytes: int | None = None
    model_bytes: int | None = None
    first_inference_bytes: int | None = None
    steady_peak_bytes: int | None = None
    peak_bytes: int | None = None
    available_drop_bytes: int | None = None
    engine_bytes: int | None = None
    gpu_model_bytes: int | None = None
    gpu_bytes: int | None = None


class Spread(Record, frozen=True):
    """Some readings of one figure: how many, the lowest, their mean, the highest."""

    readings: int
    low: float
    mean: float
    high: float


MAX_READINGS = 600  # of each series of a track; more than that is no answer of our probe
MAX_GAUGES = 128

Series = Annotated[tuple[float | None, ...], msgspec.Meta(max_length=MAX_READINGS)]
Spreads = Annotated[dict[str, Spread], msgspec.Meta(max_length=MAX_GAUGES)]
Events = Annotated[tuple[Annotated[str, msgspec.Meta(max_length=256)], ...], msgspec.Meta(max_length=64)]


class Track(Record, frozen=True):
    """What a slow sampler beside the launch saw of the board. None and a missing name are unknown, never 0.

    Times are seconds from the launch's start; `from_s` to `to_s` is its timed part, and all spreads are of
    the readings in it. `series` holds the readings of the whole launch, at most 600 of each (then every
    second one goes): "temperature_c", "power_mw", "rail:NAME" (mW), "clock:NAME" (kHz), "gpu_load".
    `pinned_khz`: the clocks that were held at one value. `power_mw` is the board's total, read from
    `power_rail` (one rail, or those that are summed); `idle_power_mw` is that of the quiet board before the
    session's first launch. `throttled`, `throttle_events` and `alarms` (which throttle nothing by
    themselves): at any reading of the launch. `unknown` names what could not be read, `cpu_s` is the
    processor time that the sampler itself took.
    """

    interval_s: float | None = None
    from_s: float | None = None
    to_s: float | None = None
    times_s: Annotated[tuple[float, ...], msgspec.Meta(max_length=MAX_READINGS)] = ()
    series: Annotated[dict[str, Series], msgspec.Meta(max_length=MAX_GAUGES)] = {}
    temperature_max_c: float | None = None
    temperature_mean_c: float | None = None
    clocks_khz: Spreads = {}
    pinned_khz: Annotated[dict[str, int], msgspec.Meta(max_length=MAX_GAUGES)] = {}
    rails_mw: Spreads = {}
    power_mw: Spread | None = None
    power_rail: str | None = None
    power_method: str | None = None
    idle_power_mw: float | None = None
    idle_readings: int = 0
    gpu_load: Spread | None = None
    throttled: bool | None = None
    throttle_events: Events = ()
    alarms: Events = ()
    unknown: Events = ()
    cpu_s: float | None = None


class Launch(Record, frozen=True):
    """One fresh process: load, first inference, warm-up, samples. All times are raw integer nanoseconds.

    What the runtime does not tell is None: trtexec imports nothing, and tells no first inference from 8.5 on.

    `effective` is what the runtime says it really did (precision, threads, provider); `foreign_load` is the
    mean number of cores kept busy by other processes during the samples, None where unknown.
    An invalid launch is kept and shown, never averaged in. `track` is what was seen of the board meanwhile;
    `notes` tell what happened to it that does not make the launch invalid.
    `pair` joins it to the launch of a baseline that was taken beside it (ABBA). In a duet both ran in this
    one process, turn by turn: `baseline_ns` are the baseline's times, each beside the sample of its place.
    """

    number: int
    session: str
    started_utc: str
    import_ns: int | None
    load_ns: int | None
    first_inference_ns: int | None
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
    track: Track | None = None
    notes: tuple[str, ...] = ()
    pair: int | None = None
    baseline_ns: tuple[int, ...] = ()


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


class LayerTime(Record, frozen=True):
    """One layer of a profiled inference. `unit`: CPU, GPU, NPU; None where the runtime does not tell it.

    `nodes` are the ONNX nodes that it computes, none where they are unknown; `moves`: it computes nothing and
    only moves values for the runtime's sake.
    The other fields are what they were found by: tensors and layers of the artifact by the runtime's names
    (`inputs`, `outputs`, `parts`), and operators fused behind the first output (`then`).
    """

    name: str
    kind: str
    mean_ns: int
    unit: str | None = None
    nodes: tuple[str, ...] = ()
    moves: bool = False
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    then: tuple[str, ...] = ()


class Profile(Record, frozen=True):
    """Where the time of one inference goes, from a launch of its own; slower than the timed launches.

    `total_ns` is that of a whole profiled inference, None where the runtime gives none. `estimated`: times
    of layers are shares that the runtime expects, not measured. `onnx_digest` names the ONNX file that the
    nodes are those of; of these `folded` are computed when the model is loaded, and no layer is known to
    compute `unclaimed`.
    """

    runtime_version: str
    method: str
    repeats: int
    layers: tuple[LayerTime, ...]
    total_ns: int | None = None
    estimated: bool = False
    started_utc: str = "unknown"
    effective: dict[str, str] = {}
    onnx_digest: str | None = None
    folded: tuple[str, ...] = ()
    unclaimed: tuple[str, ...] = ()

    @property
    def layers_ns(self) -> int:
        """The time of all layers together."""
        return sum(layer.mean_ns for layer in self.layers)

    @property
    def unexplained_ns(self) -> int | None:
        """What of the total no layer explains; None without a total. Negative: layers ran side by side."""
        return None if self.total_ns is None else self.total_ns - self.layers_ns


class Engine(Record, frozen=True):
    """What a device built of an artifact: TensorRT's engine, which is what was measured.

    `cached`: it was kept from an earlier build for the same model, flags, GPU, release and power mode, and
    `build_s` is that build's. `outputs_by`: who computed the outputs that parity was shown on. Told by
    TensorRT's Python package where the device has it, else None: `gpu_bytes`, what loading took of the GPU's
    memory; `load_ns`; `first_inference_ns`, that of a request, with its copies to the GPU and back.
    """

    sha256: str
    size_bytes: int
    cached: bool
    build_s: float | None = None
    version: str = ""
    program: str = ""
    flags: tuple[str, ...] = ()
    gpu: str | None = None
    build_peak_bytes: int | None = None
    build_peak_gpu_mib: float | None = None
    warnings: tuple[str, ...] = ()
    outputs_by: str = ""
    gpu_bytes: int | None = None
    load_ns: int | None = None
    first_inference_ns: int | None = None


class Accuracy(Record, frozen=True):
    """How well an artifact answers a labelled data set of `n` samples, with 95 % intervals; shares, not %.

    `metric` is top1, or the name of a user's own, whose values need be no shares. `reference` is the value of
    the model `against`, as it was given before compression and conversion, on the same samples; `drop` is how
    much lower `value` is, with the interval of the paired difference. `only_reference` and `only_candidate`
    count the samples that one of the two alone gets right (None where answers are not right or wrong), and
    `p_value` is how often equally good models differ so much. No interval: the metric gives one figure for
    all samples. `where` it was computed: "controller" or a device; `computed_by` as in a parity report.
    `dataset` is the digest of inputs and labels.
    """

    metric: str
    n: int
    value: float
    dataset: str
    low: float | None = None
    high: float | None = None
    where: str = "controller"
    computed_by: str = "runtime"
    top5: float | None = None
    reference: float | None = None
    against: str = ""
    drop: float | None = None
    drop_low: float | None = None
    drop_high: float | None = None
    only_reference: int | None = None
    only_candidate: int | None = None
    p_value: float | None = None


Role = Literal["candidate", "baseline", "duet"]
ROLES: tuple[Role, ...] = ("candidate", "baseline", "duet")


class Measurement(Record, frozen=True):
    """All launches of one artifact on one device, with what was proven and known before.

    `engine` is what the device built of the artifact, None where it runs as it is.
    `role`: what a run was asked to measure is the candidate. A gate measures a baseline beside it (`beside`
    is the candidate's id), or both in one process (duet; `baseline_digest` is the other artifact). `looks`
    are the numbers of pairs at which was looked, and `alpha` what all looks together may err by.
    `imported`: what a file said of a measurement that was made elsewhere, without its samples; what the file
    did not tell is unknown here.
    """

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
    engine: Engine | None = None
    prepared: tuple[Prepared, ...] = ()
    role: Role = "candidate"
    beside: str = ""
    baseline_digest: str = ""
    looks: tuple[int, ...] = ()
    alpha: float = 0.05
    accuracy: Accuracy | None = None
    imported: dict[str, Any] = {}


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


class HealthCheck(Record, frozen=True):
    """One run of a known tiny model on a device, before its first job. None is unknown.

    `subject` is what two checks must have in common for their `p10_ns` to be compared: model, runtime with
    version, board, power mode. `low_ns` to `high_ns` is the band that held, `reason` why it did not pass.
    """

    device: str
    run: str
    checked_utc: str
    runtime: str
    subject: str
    passed: bool
    reason: str = ""
    p10_ns: int | None = None
    low_ns: float | None = None
    high_ns: float | None = None
    foreign_load: float | None = None


class Release(Record, frozen=True):
    """A name for what a run measured, so that later ones can be compared with it.

    `passed_utc` is when it became fit to be a baseline, "" where it is not: its gate passed, or somebody
    promoted it (`passed_why` says which).
    """

    name: str
    run: str
    created_utc: str
    note: str = ""
    passed_utc: str = ""
    passed_why: str = ""


class Judgement(Record, frozen=True):
    """What a gate said of a run; `counts`: how many verdicts of each word."""

    run: str
    judged_utc: str
    verdict: str
    exit_code: int
    baseline: str = ""
    budgets: str = ""
    counts: dict[str, int] = {}


class NoiseFloor(Record, frozen=True):
    """What a device shows where nothing differs: one artifact measured against itself, in pairs (A/A).

    All on natural logarithms. `level` is the mean of ln p50 over all launches, to compare sessions by;
    `pair_sd` is the standard deviation of the differences in a pair, `launch_sd` that of launches.
    `least_effect` is the smallest slowdown that 20 pairs find in 80 % of cases, as a ratio minus 1, and
    `false_alarms` how often the gate's rule calls a difference when the labels are drawn at random.
    """

    id: str
    run: str
    device: str
    target: str
    measured_utc: str
    model: str
    artifact_digest: str
    runtime: str
    runtime_version: str
    pairs: int
    level: float
    launch_sd: float
    pair_sd: float
    least_effect: float
    false_alarms: float
    board: str | None = None
    kernel: str | None = None
    power_mode: str | None = None
    design: Literal["separate", "duet"] = "separate"


class Run(Record, frozen=True):
    """One execution of a plan. `plan` is the expanded plan as JSON, so that a run can be resumed.

    `stopped`: why jobs were left that could have been run; "" where none were.
    """

    id: str
    created_utc: str
    status: Literal["running", "done", "interrupted"]
    plan: dict[str, Any]
    edgebench_version: str
    controller: str
    schema_version: int = SCHEMA_VERSION
    stopped: str = ""


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
