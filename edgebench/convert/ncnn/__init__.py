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

import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

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
)
from edgebench.convert.ncnn import gate
from edgebench.convert.ncnn.gate import MAX_RANK, OTHERS, Ran
from edgebench.errors import BugError
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

_TAIL_BYTES = 64 << 10
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


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
    revision = 3
    forms: ClassVar[Mapping[str, Form]] = {
        "fp32": Form(what="param and bin in float32, by pnnx", options={"fp16": "0"}, ways=(Way(), _DIRECT)),
        "fp16": Form(
            what="weights stored in float16; computed in float16 where the processor has it",
            options={"fp16": "1"},
            ways=(Way(), _DIRECT),
        ),
        "int8": Form(
            what="requantised by edgebench from calibration, or with the scales of a QDQ file; "
            "layers that it hurts stay float and are named",
            options={"fp16": "0", "ranges": "best"},
            ways=(Way(), _DIRECT),
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
        if _is_direct(request):
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
        floats = _directly(request, place) if _is_direct(request) else _by_pnnx(request, place)
        started = time.perf_counter()
        _check(floats, request.info)
        check_s = time.perf_counter() - started
        options = {"fp16": "on" if floats.half else "off", "batch_axis": floats.batch_axis}
        param, weights, notes = floats.param, floats.weights, floats.notes
        if request.precision == "int8":
            from edgebench.convert.ncnn import int8

            drops_batch = floats.batch_axis == "drop"
            made = int8.make(request, int8.Files(param, weights), place.work, drops_batch=drops_batch)
            (param, weights), notes = made.files, made.notes + notes
            options |= {"winograd43": "off"}
        param.rename(place.output / "model.param")
        weights.rename(place.output / "model.bin")
        return Produced(
            entry={"param": "model.param", "bin": "model.bin"},
            blobs=_blobs(request.info),
            options=options,
            notes=notes,
            tool_s=floats.ran.seconds,
            check_s=check_s,
        )


class _Floats(NamedTuple):
    """A float network's files. `half`: computed in float16 where the processor can."""

    param: Path
    weights: Path
    batch_axis: str
    half: bool
    notes: tuple[str, ...]
    ran: Ran


def _is_direct(request: Request) -> bool:
    return request.options.get("by") == "edgebench"


def _by_pnnx(request: Request, place: Place) -> _Floats:
    ran = _wait_for_pnnx(place)
    gate.check_status(ran)
    param, weights = gate.written(place.work, ran)
    half = request.precision == "fp16"
    notes = ("weights are stored as fp16; arithmetic is fp16 where the processor has it",) if half else ()
    batch_axis = gate.batch_axis(place.work / "m_ncnn.py", request.info)
    return _Floats(param, weights, batch_axis, half, notes, ran)


def _directly(request: Request, place: Place) -> _Floats:
    """The files without pnnx; they pass the same gate. Weights may be float16, what is computed never."""
    from edgebench.convert.ncnn import direct

    started = time.perf_counter()
    source, param, weights = (place.work / name for name in ("m.onnx", "direct.param", "direct.bin"))
    _place_model(request, source)
    half = request.precision == "fp16"
    direct.write(source, param, weights, half=half)
    notes = ["written by edgebench itself, layer by layer: pnnx could not; slower than what it makes"]
    if half:
        notes.append("weights are stored as fp16; arithmetic is fp32")
    ran = Ran(status=0, log="", seconds=time.perf_counter() - started)
    return _Floats(param, weights, "keep", half=False, notes=tuple(notes), ran=ran)


def _check(floats: _Floats, info: ModelInfo) -> None:
    gate.check_layers(floats.param, floats.ran)
    net = gate.Net(info, drops_batch=floats.batch_axis == "drop", half=floats.half)
    net.load(floats.param, floats.weights, floats.ran)
    net.check_outputs(floats.ran)


def _blobs(info: ModelInfo) -> dict[str, str]:
    """ONNX names -> ncnn's, which count in ONNX's order."""
    inputs = {tensor.name: f"in{number}" for number, tensor in enumerate(info.inputs)}
    return inputs | {tensor.name: f"out{number}" for number, tensor in enumerate(info.outputs)}


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
                hint=f"make it a constant with --set {tensor.name}=NUMBER; {OTHERS} take it as it is",
            )
        rank = len(tensor.shape) - (tensor.shape[0] == 1)
        if rank > MAX_RANK:
            return Refusal(
                reason=f'ncnn has at most {MAX_RANK} axes beside the batch, and "{tensor.name}" has {rank}',
                hint=f"use {OTHERS}",
            )
    return None


# --- pnnx ---------------------------------------------------------------------------------------


def _place_model(request: Request, path: Path) -> None:
    """A copy for pnnx, which writes its files beside it, or for `direct`: in float32.

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


def _wait_for_pnnx(place: Place) -> Ran:
    """How pnnx ended. Of what it prints only the tail is kept, however much that is."""
    if place.tool is None or place.tool.stdout is None:
        raise BugError("pnnx was not started")
    tail = bytearray()
    while chunk := os.read(place.tool.stdout.fileno(), 1 << 16):
        tail = (tail + chunk)[-_TAIL_BYTES:]
    status = place.tool.wait()
    log = _COLOUR.sub("", tail.decode("utf-8", "replace"))
    return Ran(status=status, log=log, seconds=time.perf_counter() - place.started_s)


def _shape_argument(tensor: Tensor) -> str:
    return f"[{','.join(str(size) for size in tensor.shape)}]{TYPES[tensor.dtype]}"
