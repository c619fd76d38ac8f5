"""NCNN's `model.param` and `model.bin` from ONNX, through pnnx's binary: float32, float16 storage, or int8.

pnnx makes float networks only. int8 is edgebench's own: `int8` calibrates what pnnx wrote on samples, or
takes over the scales of a QDQ model, which `transfer` makes float for pnnx; `param` reads and writes ncnn's
files.

pnnx's exit code proves nothing: status 0 also comes with files that do not load, and with files that load and
are wrong. So what it wrote passes a gate, in this order: status 0, both files there, every layer type known
to ncnn, `load_param`, `load_model`, and one inference that gives every output in full size and without NaN.
Whether the numbers are right, parity says. The gate runs in the worker: a crash of ncnn ends only that.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import time
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from edgebench.convert.base import (
    Form,
    Place,
    Produced,
    Refusal,
    Request,
    Way,
    has_operator,
    refuse_precision,
    refuse_types,
    says_out_of_memory,
)
from edgebench.errors import BugError, InfrastructureError, ModelError
from edgebench.records import ModelInfo, Tensor, encode, replace
from edgebench.tools import find_pnnx, package_version, pnnx_version

TYPES = {"float32": "f32", "float16": "f32", "int32": "i32", "int64": "i64"}
CONTROL_FLOW = ("If", "Loop", "Scan")
INTEGER = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "ConvInteger",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "DynamicQuantizeLSTM",
    "DynamicQuantizeMatMul",
)
QDQ = ("QuantizeLinear", "DequantizeLinear")  # their scales are taken over
MAX_RANK = 4
NO_BATCH_AXIS = "233"  # ncnn's way to say it
OTHERS = "onnxruntime or openvino"

_PARAM_MAGIC = "7767517"
_MAX_PARAM_BYTES = 64 << 20
_TAIL_BYTES = 64 << 10
_PATTERN = array("f", [0.05 + 0.9 * (index * 0.6180339887 % 1.0) for index in range(1009)])
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_BATCH_INDEX = re.compile(r'ex\.input\("(in\d+)", ncnn\.Mat\(.*batch_index=(\d+)\)')
_TELLING = re.compile(r"not supported|unsupported|not exists|failed|error|ignore ", re.IGNORECASE)


# What `direct` has of the operators that ONNX defines as functions; it writes what pnnx fails on.
DIRECTLY = frozenset(
    {
        "Clip",
        "Elu",
        "Gelu",
        "GreaterOrEqual",
        "HardSigmoid",
        "LayerNormalization",
        "LeakyRelu",
        "LessOrEqual",
        "LogSoftmax",
        "PRelu",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceSumSquare",
        "Relu",
        "Selu",
        "Softmax",
        "Softplus",
        "Softsign",
    }
)
_DIRECT = Way(natively=DIRECTLY, options={"by": "edgebench"})


class NcnnConverter:
    """ONNX -> ncnn. int8 comes from a float model with calibration inputs, or from a QDQ model."""

    runtime = "ncnn"
    revision = 2
    forms: ClassVar[Mapping[str, Form]] = {
        "fp32": Form(what="param and bin in float32, by pnnx", options={"fp16": "0"}, ways=(Way(), _DIRECT)),
        "fp16": Form(
            what="weights stored in float16; computed in float16 where the processor has it",
            options={"fp16": "1"},
        ),
        "int8": Form(
            what="requantised by edgebench from calibration, or with the scales of a QDQ file; "
            "layers that it hurts stay float and are named",
            options={"fp16": "0", "ranges": "best"},
            calibrates=True,
            # its steps are symmetric, and weights that Winograd takes have 6 bits: a bit less than QDQ
            noise_margin_db=9.0,
        ),
    }

    def __init__(self, home: Path | None = None) -> None:
        self._home = home

    def refuse(self, info: ModelInfo, precision: str) -> Refusal | None:
        """The reason why pnnx or ncnn cannot take the model, or None."""
        return (
            refuse_precision(self.runtime, self.forms, info, precision)
            or _refuse_operators(info, precision)
            or refuse_types(self.runtime, _inputs_only(info), tuple(TYPES))
            or _refuse_shapes(info)
        )

    def tool_versions(self) -> dict[str, str]:
        """The versions of pnnx, which converts, and ncnn, which checks."""
        return {"pnnx": pnnx_version(self._home), "ncnn": package_version("ncnn", "ncnn")}

    def command(self, request: Request, work: Path) -> tuple[str, ...]:
        """The command line of pnnx, with the model in `work`; none where it is left out."""
        if request.options.get("by") == "edgebench":
            return ()
        _place_model(request, work / "m.onnx")
        fp16 = request.options.get("fp16", "0")
        shapes = ",".join(_shape_argument(tensor) for tensor in request.info.inputs)
        pnnx = str(find_pnnx(self._home))
        return (pnnx, "m.onnx", f"fp16={fp16}", "optlevel=2", f"inputshape={shapes}")

    def warm_up(self) -> None:
        """Import ncnn for the gate."""
        import ncnn  # noqa: F401

    def convert(self, request: Request, place: Place) -> Produced:
        """`model.param` and `model.bin`; ModelError when pnnx or the gate says no."""
        if request.options.get("by") == "edgebench":
            return _write_directly(request, place)
        ran = _wait_for_pnnx(place)
        started = time.perf_counter()
        _check_status(ran)
        param, weights = _written(place.work, ran)
        _check_layers(param, ran)
        batch_axis = _batch_axis(place.work / "m_ncnn.py", request.info)
        net = _Net(request, batch_axis)
        net.load(param, weights, ran)
        net.check_outputs(ran)
        check_s = time.perf_counter() - started
        options = {"fp16": _fp16(request), "batch_axis": batch_axis}
        notes = _notes(request)
        if request.precision == "int8":
            from edgebench.convert.ncnn import int8

            made = int8.make(
                request, int8.Files(param, weights), place.work, drops_batch=batch_axis == "drop"
            )
            (param, weights), notes = made
            options |= {"winograd43": "off"}
        param.rename(place.output / "model.param")
        weights.rename(place.output / "model.bin")
        return Produced(
            entry={"param": "model.param", "bin": "model.bin"},
            blobs=_blobs(request.info),
            options=options,
            notes=notes,
            tool_s=ran.seconds,
            check_s=check_s,
        )


def _write_directly(request: Request, place: Place) -> Produced:
    """The files without pnnx; they pass the same gate."""
    from edgebench.convert.ncnn import direct

    started = time.perf_counter()
    param, weights = place.output / "model.param", place.output / "model.bin"
    direct.write(Path(request.model_path), param, weights)
    ran = _Ran(status=0, log="", seconds=time.perf_counter() - started)
    _check_layers(param, ran)
    net = _Net(request, "keep")
    net.load(param, weights, ran)
    net.check_outputs(ran)
    return Produced(
        entry={"param": "model.param", "bin": "model.bin"},
        blobs=_blobs(request.info),
        options={"fp16": "off", "batch_axis": "keep"},
        notes=("written by edgebench itself, layer by layer: pnnx could not; slower than what it makes",),
        tool_s=ran.seconds,
        check_s=time.perf_counter() - started - ran.seconds,
    )


def _blobs(info: ModelInfo) -> dict[str, str]:
    """ONNX names -> ncnn's, which count in ONNX's order."""
    inputs = {tensor.name: f"in{number}" for number, tensor in enumerate(info.inputs)}
    return inputs | {tensor.name: f"out{number}" for number, tensor in enumerate(info.outputs)}


def _fp16(request: Request) -> str:
    return "on" if request.precision == "fp16" else "off"


def _notes(request: Request) -> tuple[str, ...]:
    if request.precision == "fp16":
        return ("weights are stored as fp16; arithmetic is fp16 where the processor has it",)
    return ()


# --- refusing without trying --------------------------------------------------------------------


def _refuse_operators(info: ModelInfo, precision: str) -> Refusal | None:
    control = has_operator(info, *CONTROL_FLOW)
    if control:
        return Refusal(
            reason=f"ncnn has no control flow, and {info.name} has {', '.join(control)}",
            hint=f"--set NAME=NUMBER where an input decides it; use {OTHERS}, or export the model without it",
        )
    integer = has_operator(info, *INTEGER)
    if precision == "int8" and info.precision == "int8-qdq" and set(integer) <= set(QDQ):
        return None
    if integer:
        return Refusal(
            reason=f"pnnx cannot read quantized operators, and {info.name} has {', '.join(integer)}",
            hint=f"start from the float model, or use {OTHERS}",
        )
    return None


def _inputs_only(info: ModelInfo) -> ModelInfo:
    # outputs of any type are checked by the gate: ncnn computes integers as int32 or float
    return replace(info, outputs=())


def _refuse_shapes(info: ModelInfo) -> Refusal | None:
    for tensor in info.inputs:
        if not tensor.shape:
            return Refusal(
                reason=f'ncnn has no scalar inputs, and "{tensor.name}" is one',
                hint=f"make it a constant or give it the shape [1]; {OTHERS} take it as it is",
            )
        rank = len(tensor.shape) - (tensor.shape[0] == 1)
        if rank > MAX_RANK:
            return Refusal(
                reason=f'ncnn has at most {MAX_RANK} axes beside the batch, and "{tensor.name}" has {rank}',
                hint=f"use {OTHERS}",
            )
    return None


# --- pnnx ---------------------------------------------------------------------------------------


class _Ran(NamedTuple):
    """What a run of pnnx left: its exit status, the tail of what it printed, and how long it took."""

    status: int
    log: str
    seconds: float


def _place_model(request: Request, path: Path) -> None:
    """A copy for pnnx, which writes its files beside it: float32, the only numbers that it reads.

    The scales of a QDQ model are put beside it, for the worker.
    """
    if request.info.precision == "int8-qdq":
        _place_stripped(request, path)
        return
    ends = (*request.info.inputs, *request.info.outputs)
    if request.info.precision != "fp32" or any(tensor.dtype == "float16" for tensor in ends):
        from edgebench import model

        upcast = model.fp16_to_fp32(model.load(Path(request.model_path)))
        path.write_bytes(upcast.SerializeToString(deterministic=True))
    else:
        shutil.copyfile(request.model_path, path)


def _place_stripped(request: Request, path: Path) -> None:
    from edgebench import model
    from edgebench.convert.ncnn import transfer

    made, scales = transfer.stripped(model.load(Path(request.model_path)))
    path.write_bytes(made.SerializeToString(deterministic=True))
    path.with_name(transfer.SCALES_FILE).write_bytes(encode(scales))


def _wait_for_pnnx(place: Place) -> _Ran:
    """How pnnx ended. Of what it prints only the tail is kept, however much that is."""
    if place.tool is None or place.tool.stdout is None:
        raise BugError("pnnx was not started")
    tail = bytearray()
    while chunk := os.read(place.tool.stdout.fileno(), 1 << 16):
        tail = (tail + chunk)[-_TAIL_BYTES:]
    status = place.tool.wait()
    log = _COLOUR.sub("", tail.decode("utf-8", "replace"))
    return _Ran(status=status, log=log, seconds=time.perf_counter() - place.started_s)


def _shape_argument(tensor: Tensor) -> str:
    return f"[{','.join(str(size) for size in tensor.shape)}]{TYPES[tensor.dtype]}"


def _check_status(ran: _Ran) -> None:
    if ran.status == 0:
        return
    if ran.status == -signal.SIGKILL or says_out_of_memory(ran.log):
        raise InfrastructureError(
            "pnnx needs more memory than it may have",
            hint="allow conversions more memory, or convert on a larger computer",
            detail=_detail(ran),
        )
    what = f"ended with status {ran.status}"
    if ran.status < 0:
        what = f"crashed ({signal.Signals(-ran.status).name})"
    raise _refused(f"pnnx {what} on this model", ran)


def _written(folder: Path, ran: _Ran) -> tuple[Path, Path]:
    paths = (folder / "m.ncnn.param", folder / "m.ncnn.bin")
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise _refused(f"pnnx ended well but wrote no {' and no '.join(missing)}", ran)
    return paths


# --- the gate -----------------------------------------------------------------------------------


def _check_layers(param: Path, ran: _Ran) -> None:
    """Every layer type must be one that ncnn knows; what pnnx cannot translate keeps another name."""
    import ncnn

    unknown = [kind for kind in _layer_types(param, ran) if "." in kind or ncnn.layer_to_index(kind) < 0]
    if unknown:
        raise _refused(f"ncnn has no layer for {', '.join(unknown)}", ran)


def _layer_types(param: Path, ran: _Ran) -> list[str]:
    """The layer types of a param file, each once, in order of appearance."""
    if param.stat().st_size > _MAX_PARAM_BYTES:
        raise _refused("pnnx wrote a param file larger than any network's", ran)
    lines = param.read_text("utf-8", "replace").splitlines()
    if len(lines) < 3 or lines[0].strip() != _PARAM_MAGIC:
        raise _refused("what pnnx wrote is no ncnn param file", ran)
    return list(dict.fromkeys(words[0] for line in lines[2:] if (words := line.split())))


def _batch_axis(script: Path, info: ModelInfo) -> str:
    """Whether Mats lack the inputs' leading axis of 1 ("drop") or have all axes ("keep").

    pnnx says so in the example script that it writes. ModelError when its inputs differ in that, or when the
    axis it dropped is not a leading 1: a Mat cannot hold a batch.
    """
    text = script.read_text("utf-8", "replace") if script.is_file() else ""
    axes = dict(_BATCH_INDEX.findall(text))
    kinds = set()
    for number, tensor in enumerate(info.inputs):
        axis = axes.get(f"in{number}", "0" if tensor.shape[0] == 1 else NO_BATCH_AXIS)
        if axis not in ("0", NO_BATCH_AXIS) or (axis == "0" and tensor.shape[0] != 1):
            raise ModelError(
                f'ncnn takes one sample at a time, and pnnx sees the batch of "{tensor.name}" in axis {axis}',
                hint=f"convert with batch 1: --shape {tensor.name}=1,... ; {OTHERS} take other batches",
            )
        if axis == NO_BATCH_AXIS and len(tensor.shape) > MAX_RANK:
            raise ModelError(
                f'ncnn has at most {MAX_RANK} axes, and pnnx keeps all of "{tensor.name}" {tensor.shape}',
                hint=f"use {OTHERS}",
            )
        kinds.add("keep" if axis == NO_BATCH_AXIS else "drop")
    if len(kinds) > 1:
        raise ModelError(
            "pnnx takes the batch axis off some inputs and not off others",
            hint=f"give every input a leading axis of 1, or use {OTHERS}",
        )
    return kinds.pop() if kinds else "keep"


class _Net:
    """The converted network in ncnn, fed once with values between 0 and 1 (integers: 0).

    Without numpy, whose import takes half as long as pnnx takes for a small network.
    """

    def __init__(self, request: Request, batch_axis: str) -> None:
        import ncnn

        self._ncnn = ncnn
        self._info = request.info
        self._drops_batch = batch_axis == "drop"
        self._net = ncnn.Net()
        options = self._net.opt
        fp16 = _fp16(request) == "on"
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = fp16
        options.use_bf16_packed = options.use_bf16_storage = False
        # speed is no question here: no weights rearranged for it while loading, no thread pool started
        options.use_winograd_convolution = False
        options.num_threads = 1

    def load(self, param: Path, weights: Path, ran: _Ran) -> None:
        """ModelError when ncnn does not load a file."""
        for path, read in ((param, self._net.load_param), (weights, self._net.load_model)):
            if read(str(path)) != 0:
                raise _refused(f"ncnn does not load the {path.suffix[1:]} file that pnnx wrote", ran)

    def check_outputs(self, ran: _Ran) -> None:
        """ModelError unless every output comes, in full size and without NaN."""
        extractor = self._net.create_extractor()
        held = [self._mat(tensor) for tensor in self._info.inputs]  # the extractor does not keep them alive
        for number, mat in enumerate(held):
            if extractor.input(f"in{number}", mat) != 0:
                raise _refused(f'pnnx lost the input "{self._info.inputs[number].name}"', ran)
        for number, tensor in enumerate(self._info.outputs):
            status, mat = extractor.extract(f"out{number}")
            if status != 0 or mat.empty():
                raise _refused(f'ncnn gives no output "{tensor.name}"', ran)
            values = array("f", memoryview(mat).tobytes())
            if all(isinstance(size, int) for size in tensor.shape) and len(values) != _elements(tensor):
                raise _refused(
                    f'ncnn gives {len(values)} values for "{tensor.name}", not {_elements(tensor)}', ran
                )
            if any(value != value for value in values):
                raise _refused(f'ncnn computes NaN for "{tensor.name}"', ran)

    def _mat(self, tensor: Tensor) -> Any:
        """A Mat that owns its data: ncnn.Mat(buffer) does not keep the buffer alive."""
        count = _elements(tensor)
        shape = [int(size) for size in tensor.shape[self._drops_batch :]] or [1]
        if tensor.dtype.startswith("int"):
            held: memoryview[Any] = memoryview(bytes(4 * count)).cast("i", shape)
        else:
            values = (_PATTERN * (count // len(_PATTERN) + 1))[:count]
            held = memoryview(values.tobytes()).cast("f", shape)
        return self._ncnn.Mat(held).clone()  # a name holds the buffer: it must live until it is copied


def _elements(tensor: Tensor) -> int:
    return math.prod(int(size) for size in tensor.shape)


def _refused(what: str, ran: _Ran) -> ModelError:
    """The error of a model that pnnx or ncnn cannot take, with the log's telling lines."""
    telling = list(dict.fromkeys(line.strip() for line in ran.log.splitlines() if _TELLING.search(line)))
    said = f" (pnnx: {'; '.join(telling[:3])[:400]})" if telling else ""
    return ModelError(
        what + said,
        hint=f"use {OTHERS}, or replace what the message names in the model",
        detail=_detail(ran),
    )


def _detail(ran: _Ran) -> str:
    return ran.log[-4000:].strip()
