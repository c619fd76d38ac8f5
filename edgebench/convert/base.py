"""The converter interface, the table of converters, and what a precision asks of a model.

A converter is cheap to make and imports its SDK on first use. `edgebench.convert.run.convert` starts it in a
process of its own, with a time and a memory limit, and puts what comes out into the artifact store.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from subprocess import Popen
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from edgebench.errors import UserError, did_you_mean
from edgebench.records import ModelInfo, Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[Any]]


class Way(Record, frozen=True):
    """One way to convert: which operators the runtime gets as they are, and the converter's own options.

    Operators outside `natively` that ONNX defines as functions of simpler ones are written out before; None:
    all stay as they are.
    """

    natively: frozenset[str] | None = None
    options: dict[str, str] = {}


class Form(Record, frozen=True):
    """How a runtime gets one precision: ONNX-level steps first, then the converter's own options.

    `steps` are names of `edgebench.compress`, applied to a float32 model; a model that already has the wanted
    precision is taken as it is. `ways` are tried in this order until one is proven by parity.
    `calibrates`: the converter itself finds ranges, on calibration inputs. `what` happens, for people
    (docs/runtimes.md). `noise_margin_db`: how far a quantized model's outputs may lie below its noise floor.
    """

    what: str

    steps: tuple[str, ...] = ()
    options: dict[str, str] = {}
    ways: tuple[Way, ...] = (Way(),)
    calibrates: bool = False
    noise_margin_db: float = 3.0


class Request(Record, frozen=True):
    """What a converter is asked for: an ONNX file, already in the form the runtime wants and fully static.

    `info` is what `model.inspect` says of that very file. `calibration` is an `.npz` file with samples.
    """

    model_path: str
    info: ModelInfo
    precision: str
    options: dict[str, str] = {}
    calibration: str | None = None


class Produced(Record, frozen=True):
    """What a converter made in its output folder: which file is what, blob names, runtime options, remarks.

    `tool_s` is the time spent in the bare tool (pnnx, OpenVINO ...) itself, `check_s` the time spent seeing
    that what it wrote loads and runs: the first half of parity. Seconds.
    """

    entry: dict[str, str]
    blobs: dict[str, str] = {}
    options: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    tool_s: float = 0.0
    check_s: float = 0.0


class Task(Record, frozen=True):
    """What the worker process is told, as JSON: the request, the empty folder to fill, the tool to start."""

    request: Request
    folder: str
    command: tuple[str, ...] = ()


class Place(NamedTuple):
    """Where a converter works: `output` gets the artifact's files, `work` may be littered.

    `tool` is the process of `Converter.command`, started at `started_s` (`time.perf_counter`) in `work`, its
    stdout and stderr one pipe.
    """

    output: Path
    work: Path
    tool: Popen[bytes] | None = None
    started_s: float = 0.0


class Answer(Record, frozen=True):
    """What the worker process says at its end, in one line of JSON: what it produced, or the error it met."""

    produced: Produced | None = None
    owner: str = ""
    message: str = ""
    hint: str = ""
    detail: str = ""


class Refusal(Record, frozen=True):
    """Why a runtime cannot take a model, and what would work."""

    reason: str
    hint: str


class Converter(Protocol):
    """Variant -> files for one runtime. Made with the home folder, where private tools lie."""

    runtime: str
    revision: int  # raised whenever the same input would give another output
    forms: Mapping[str, Form]  # precision -> how the runtime gets it; a missing precision is refused

    def refuse(self, info: ModelInfo, precision: str) -> Refusal | None:
        """The reason why this runtime cannot take the model, or None. Pure and quick: no conversion."""

    def tool_versions(self) -> dict[str, str]:
        """Versions of the tools that take part; InfrastructureError with what to type when one is missing.

        Quick: no SDK is imported.
        """

    def command(self, request: Request, work: Path) -> tuple[str, ...]:
        """The command line of the outside tool that converts, with its files put into `work`; () without one.

        Called in edgebench's own process. The worker starts the tool at once and imports meanwhile.
        """

    def warm_up(self) -> None:
        """Import what `convert` will need; called in the worker while the model is still being prepared."""

    def convert(self, request: Request, place: Place) -> Produced:
        """Write the runtime's files into the empty `place.output`; called in the worker.

        ModelError or InfrastructureError on failure.
        """


class Inside:
    """What converters share that run no outside tool: their SDK, or code of ours, does it in the worker."""

    runtime: str
    forms: ClassVar[Mapping[str, Form]]

    def __init__(self, home: Path | None = None) -> None:
        """Nothing of the home folder is used."""

    def refuse(self, info: ModelInfo, precision: str) -> Refusal | None:
        """The reason why the runtime cannot take the model, its precision or its types; or None."""
        return refuse_precision(self.runtime, self.forms, info, precision) or refuse_types(
            self.runtime, info, NUMBERS
        )

    def command(self, request: Request, work: Path) -> tuple[str, ...]:  # noqa: ARG002
        """None."""
        return ()


CONVERTERS = {
    "onnxruntime": "edgebench.convert.onnxruntime:OnnxRuntimeConverter",
    "ncnn": "edgebench.convert.ncnn:NcnnConverter",
    "openvino": "edgebench.convert.openvino:OpenVinoConverter",
    "coreml": "edgebench.convert.coreml:CoreMlConverter",
    "tensorrt": "edgebench.convert.tensorrt:TensorRtConverter",
}


def converter(runtime: str, home: Path | None = None) -> Converter:
    """The converter for a runtime name; UserError for an unknown one.

    `home` is edgebench's home folder; without it, only tools that need no folder of ours are found.
    """
    if runtime not in CONVERTERS:
        raise UserError(f'no runtime "{runtime}"', hint=did_you_mean(runtime, CONVERTERS))
    module, _, name = CONVERTERS[runtime].partition(":")
    made: Converter = getattr(import_module(module), name)(home)
    return made


_SIGNED = ("int8", "int16", "int32", "int64")
_UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
NUMBERS = ("float32", "float16", "float64", *_SIGNED, *_UNSIGNED, "bool")  # numpy's names

# what C++, Python, ONNX Runtime and OpenBLAS print when an allocation failed
_MEMORY_SIGNS = (
    "bad_alloc",
    "memoryerror",
    "cannot allocate memory",
    "failed to allocate",
    "memory allocation",
    "can't start new thread",
    "pthread_create",
)


# --- what every converter asks of a model first -------------------------------------------------

# precision of the file -> precisions it can be converted to. Only a float32 model can be given another one; a
# compressed one is taken as it is ("mixed" files hold several kinds: they keep them).
_TAKEN_AS = {
    "fp32": ("fp32", "fp16", "int8", "int8-dynamic"),
    "fp16": ("fp16",),
    "int8-qdq": ("int8",),
    "int8-dynamic": ("int8-dynamic",),
    "mixed": ("fp16", "int8", "int8-dynamic"),
}


def refuse_precision(
    runtime: str, forms: Mapping[str, Form], info: ModelInfo, precision: str
) -> Refusal | None:
    """The refusal of a precision that the runtime lacks, or that this model cannot be given; else None."""
    if precision not in forms:
        others = [other for other in CONVERTERS if precision in converter(other).forms]
        return Refusal(
            reason=f"{runtime} takes no {precision} model from edgebench; it takes {', '.join(forms)}",
            hint=f"use {' or '.join(others)} for {precision}, or {runtime} with {' or '.join(forms)}",
        )
    taken_as = _TAKEN_AS[info.precision]
    if precision not in taken_as:
        return Refusal(
            reason=f"{info.name} is already {info.precision}, so it cannot be made {precision}",
            hint=f"ask for {' or '.join(taken_as)}, or start from the fp32 model",
        )
    return None


def refuse_types(runtime: str, info: ModelInfo, known: tuple[str, ...]) -> Refusal | None:
    """The refusal of the first input or output whose element type is not in `known`; else None."""
    for tensor in (*info.inputs, *info.outputs):
        if tensor.dtype not in known:
            return Refusal(
                reason=f'{runtime} cannot take "{tensor.name}": its element type is {tensor.dtype}',
                hint=f"cast it to one of {', '.join(known)} in the model",
            )
    return None


def has_operator(info: ModelInfo, *names: str) -> tuple[str, ...]:
    """Those of `names` that the model uses; "com.microsoft.X" and "X" are the same."""
    used = {key.replace("::", ".").replace(":", ".").rpartition(".")[2] for key in info.operators}
    return tuple(name for name in names if name in used)


def says_out_of_memory(text: str) -> bool:
    """Whether an error or the log of a tool tells of a failed allocation."""
    lowered = text.lower()
    return any(sign in lowered for sign in _MEMORY_SIGNS)


# --- arrays that go to another process and back ----------------------------------------------------


def read_arrays(path: Path) -> Arrays:
    """The arrays of an npz file by name; UserError when it is none, or holds Python objects."""
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f'"{path.name}" cannot be read as an npz file: {error}') from error


def write_arrays(path: Path, arrays: Arrays) -> None:
    """An npz file of the arrays, whole or not at all; UserError when it cannot be written."""
    import zipfile

    import numpy as np

    part = path.with_name(path.name + ".part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED, allowZip64=True) as file:
            for name, array in arrays.items():
                with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        part.replace(path)
    except OSError as error:
        raise UserError(f'"{path.name}" cannot be written: {error}') from error
