"""The build plan: what a device runs to build, check, time and profile an engine, as exact argument lists.

Each list is for one TensorRT version, since an unknown flag ends trtexec and defaults were inverted in 11.
`{name}` in an argument is a placeholder for a path or number that only the device knows; nothing is meant for
a shell. Flags and their versions: NVIDIA/TensorRT, samples/common/sampleOptions.cpp at 8.0 to 11.
"""

from __future__ import annotations

from edgebench.convert.tensorrt.base import Board, Version, version_text
from edgebench.records import ModelInfo, Record

SCHEMA_VERSION = 1
WORKSPACE_MIB = 256  # 8.2's own default of 16 keeps most fast kernels out

PLACEHOLDERS = {
    "model": "the prepared ONNX file",
    "engine": "where the engine is written and read",
    "timing_cache": "the timing cache of `cache_key`",
    "input0": "raw little-endian values of the first input in its binding's type; input1 ...: of the others",
    "times": "where the times are written (JSON)",
    "outputs": "where the outputs are written (JSON)",
    "profile": "where the times of layers are written (JSON)",
    "layers": "where the description of layers is written (JSON)",
    "warmup_ms": "how long to warm up",
    "duration_s": "how long to measure at least",
    "iterations": "how often to measure at least",
}
DEFAULTS = {"warmup_ms": "1000", "duration_s": "10", "iterations": "100"}

# until when --exportTimes holds the warm-up too
_TIMES_WITHOUT_WARMUP = (8, 5, 1)
_HOW_LONG = ("--warmUp={warmup_ms}", "--duration={duration_s}", "--iterations={iterations}")
# ONNX's types whose bindings are of another type in TensorRT 8
_CAST_BINDINGS = {"int64": "int32"}


class Binding(Record, frozen=True):
    """One input or output: its type in the model, and in the engine (TensorRT 8 makes int64 int32)."""

    name: str
    dtype: str
    binding_dtype: str
    shape: tuple[int, ...]


class BuildPlan(Record, frozen=True):
    """What a device needs to make an engine and measure it.

    `success_line` must be printed by each command that exits with 0; anything else is a failure.
    `times_field` names the times to use, in ms; `times_hold_warmup`: records that start before the warm-up's
    end are to be dropped. `cache_key` names what an engine and its timing cache depend on. `nodes` are the
    names of the ONNX file's nodes, by which layers are told.
    """

    schema_version: int
    tensorrt: str
    compute_capability: str
    precision: str
    model_digest: str
    build: tuple[str, ...]
    infer: tuple[str, ...]
    measure: tuple[str, ...]
    profile: tuple[str, ...]
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    cache_key: dict[str, str]
    placeholders: dict[str, str]
    defaults: dict[str, str]
    success_line: str = "&&&& PASSED"
    times_field: str = "computeMs"
    times_hold_warmup: bool = False
    nodes: tuple[str, ...] = ()


def build_plan(
    info: ModelInfo,
    board: Board,
    precision: str,
    workspace_mib: int = WORKSPACE_MIB,
    nodes: tuple[str, ...] = (),
) -> BuildPlan:
    """The plan for the prepared model that `info` describes, static in all shapes; `nodes`: their names."""
    inputs = tuple(_binding(each.name, each.dtype, each.shape, board) for each in info.inputs)
    build = build_arguments(board, precision, workspace_mib)
    return BuildPlan(
        schema_version=SCHEMA_VERSION,
        tensorrt=version_text(board.version),
        compute_capability=board.capability,
        precision=precision,
        model_digest=info.digest,
        build=build,
        infer=infer_arguments(board, inputs),
        measure=measure_arguments(board, inputs),
        profile=profile_arguments(board, inputs),
        inputs=inputs,
        outputs=tuple(_binding(each.name, each.dtype, each.shape, board) for each in info.outputs),
        cache_key=cache_key(info.digest, board, build),
        placeholders=_placeholders(len(inputs)),
        defaults=DEFAULTS,
        times_hold_warmup=board.version < _TIMES_WITHOUT_WARMUP,
        nodes=nodes,
    )


def build_arguments(board: Board, precision: str, workspace_mib: int = WORKSPACE_MIB) -> tuple[str, ...]:
    """The arguments of trtexec that build an engine and do not run it."""
    version = board.version
    arguments = ["--onnx={model}", "--saveEngine={engine}", "--timingCacheFile={timing_cache}"]
    if version >= (8, 2, 0):
        arguments.append("--profilingVerbosity=detailed")
    if version >= (8, 4, 0):
        arguments.append(f"--memPoolSize=workspace:{workspace_mib}")
    else:
        arguments.append(f"--workspace={workspace_mib}")
    arguments.append("--skipInference" if version >= (8, 6, 0) else "--buildOnly")
    return (*arguments, *_precision_flags(board, precision))


def _precision_flags(board: Board, precision: str) -> tuple[str, ...]:
    """From 11 on there are none. A Q/DQ model needs --int8, and --fp16 or the rest of it runs in float32."""
    if board.strongly_typed:
        return ()
    if precision == "fp32":
        return ("--noTF32",) if board.has_tf32 else ()
    return ("--int8", "--fp16") if precision == "int8" else ("--fp16",)


def measure_arguments(board: Board, inputs: tuple[Binding, ...]) -> tuple[str, ...]:
    """The arguments of trtexec that time an engine: no transfers, no CUDA graph, waiting by spinning.

    11 inverted these three defaults and takes the old flags without effect.
    """
    return (
        "--loadEngine={engine}",
        *_steady(board.version),
        *_HOW_LONG,
        *_load(inputs),
        "--exportTimes={times}",
    )


def infer_arguments(board: Board, inputs: tuple[Binding, ...]) -> tuple[str, ...]:
    """The arguments of trtexec that compute the outputs of given inputs once, for parity."""
    return (
        "--loadEngine={engine}",
        *_steady(board.version),
        "--warmUp=0",
        "--duration=0",
        "--iterations=1",
        *_load(inputs),
        "--exportOutput={outputs}",
    )


def profile_arguments(board: Board, inputs: tuple[Binding, ...]) -> tuple[str, ...]:
    """The arguments of trtexec that time single layers, in a process of its own: it slows the whole."""
    arguments = [
        "--loadEngine={engine}",
        *_steady(board.version),
        *_HOW_LONG,
        *_load(inputs),
        "--dumpProfile",
        "--exportProfile={profile}",
    ]
    if board.version >= (8, 2, 0):
        arguments.append("--exportLayerInfo={layers}")
    if not board.strongly_typed:
        arguments.append("--separateProfileRun")
    return tuple(arguments)


def _steady(version: Version) -> tuple[str, ...]:
    return ("--noCudaGraph",) if version >= (11, 0, 0) else ("--noDataTransfers", "--useSpinWait")


def _load(inputs: tuple[Binding, ...]) -> tuple[str, ...]:
    """Names that hold a colon stand in single quotes, which trtexec itself takes off."""
    if not inputs:
        return ()
    named = (f"'{each.name}'" if ":" in each.name else each.name for each in inputs)
    return ("--loadInputs=" + ",".join(f"{name}:{{input{place}}}" for place, name in enumerate(named)),)


def cache_key(model_digest: str, board: Board, build: tuple[str, ...]) -> dict[str, str]:
    """What an engine and its timing cache depend on; `{...}` is for the device to fill in.

    A cache is never shared between boards: GPUs of one name differ in clocks, and so in the best kernels.
    """
    return {
        "model": model_digest,
        "tensorrt": version_text(board.version),
        "compute_capability": board.capability,
        "flags": " ".join(each for each in build if "{" not in each),
        "gpu": "{gpu}",
        "jetpack": "{jetpack}",
        "l4t": "{l4t}",
        "power_mode": "{power_mode}",
    }


def _binding(name: str, dtype: str, shape: tuple[int | str, ...], board: Board) -> Binding:
    made = _CAST_BINDINGS.get(dtype, dtype) if board.casts_int64 else dtype
    return Binding(
        name=name,
        dtype=dtype,
        binding_dtype=made,
        shape=tuple(size if isinstance(size, int) else -1 for size in shape),
    )


def _placeholders(inputs: int) -> dict[str, str]:
    known = {name: meaning for name, meaning in PLACEHOLDERS.items() if name != "input0"}
    return known | {f"input{place}": f"raw little-endian values of input {place}" for place in range(inputs)}
