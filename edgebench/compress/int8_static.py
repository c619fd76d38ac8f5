"""INT8 with ranges measured beforehand on calibration inputs, as a QDQ graph.

The activation type follows the processor: unsigned on x86, where ONNX Runtime's kernels for it are several
times faster, signed on ARM (facts measured and documented for ONNX Runtime 1.32).
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from edgebench.compress.base import ARM, Made, Options, Settings, Task, file_digest
from edgebench.errors import BugError, ModelError
from edgebench.records import ModelInfo, replace

if TYPE_CHECKING:
    from onnx import ModelProto

Feed = dict[str, Any]
MIN_OPSET = 13  # the first with per-channel QuantizeLinear
BIASED = ("Conv", "ConvTranspose", "Gemm")
WEIGHTED = ["Conv", "ConvTranspose", "MatMul", "Gemm"]
RUINOUS_DB = (
    12.0  # an error of a quarter of the signal: detectors of voices keep 4 dB, with WEIGHTED alone 22
)
JUDGED_SAMPLES = 4
# What TensorRT fuses: float biases, pairs before weighted layers and sums only, none shared by two layers.
TENSORRT_OPERATORS = ["Conv", "ConvTranspose", "MatMul", "Gemm", "Add"]
TENSORRT_OPTIONS = {
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "AddQDQPairToWeight": True,
    "DedicatedQDQPair": True,
    "QDQOpTypePerChannelSupportToAxis": {"Conv": 0, "ConvTranspose": 1, "MatMul": 1, "Gemm": 1},
    "OpTypesToExcludeOutputQuantization": TENSORRT_OPERATORS,
}


class Int8StaticOptions(Options, frozen=True):
    """How to quantize.

    `activation` "auto" is uint8, on ARM int8. `reduce_range` keeps weights in 7 bits, for x86 processors
    without VNNI, whose 8-bit products can saturate. `symmetric` puts activation zero points at 0. `operators`
    are all that ONNX Runtime has in int8, or those with weights only; "auto" is all, and where that is
    ruinous on the calibration inputs, the better of the two. `preset` tensorrt is the form that TensorRT
    builds: int8, symmetric, pairs only where it computes with integers.
    """

    activation: Literal["auto", "uint8", "int8"] = "auto"
    per_channel: bool = True
    reduce_range: bool = False
    symmetric: bool = False
    operators: Literal["auto", "all", "weighted"] = "auto"
    preset: Literal["onnxruntime", "tensorrt"] = "onnxruntime"

    def label(self) -> str:
        """The variant's name."""
        return "int8-static"


class Int8Static:
    """float32 -> int8 weights and activations, by ONNX Runtime's quantize_static with MinMax ranges."""

    name = "int8-static"
    options = Int8StaticOptions
    takes: ClassVar[tuple[str, ...]] = ("fp32",)
    makes: ClassVar[tuple[str, ...]] = ("int8-qdq",)
    needs_calibration = True

    def run(self, model: ModelProto, task: Task) -> Made:
        """The QDQ model; UserError when the calibration inputs do not fit the model."""
        from edgebench.model import batches, read_inputs

        info, options, settings = task
        if settings.calibration is None:
            raise BugError("int8-static was started without calibration inputs")
        arrays = read_inputs(settings.calibration, info)
        if options.preset == "tensorrt":
            options = replace(options, activation="int8", symmetric=True, reduce_range=False)
        activation = _activation(options, settings)
        feeds = list(batches(arrays, info))
        with tempfile.TemporaryDirectory(prefix="edgebench-") as folder:
            work = _Work(Path(folder) / "prepared.onnx", feeds, activation, options)
            made, operators = _quantize(_newer(model, info), work)
        used = {
            "activation": activation,
            "weight": "int8",
            "per_channel": options.per_channel,
            "reduce_range": options.reduce_range,
            "symmetric": options.symmetric,
            "ranges": "minmax",
            "samples": len(feeds),
        }
        if operators != "all":
            used["operators"] = operators
        if options.preset != "onnxruntime":
            used["preset"] = options.preset
        return Made(made, used, file_digest(settings.calibration))


def _activation(options: Int8StaticOptions, settings: Settings) -> str:
    if options.activation != "auto":
        return options.activation
    return "int8" if settings.arch in ARM else "uint8"


def _newer(model: ModelProto, info: ModelInfo) -> ModelProto:
    """The model in opset 13 or later, which per-channel scales need."""
    from onnx import version_converter

    opset = info.opset.get("ai.onnx", MIN_OPSET)
    if opset >= MIN_OPSET:
        return model
    try:
        return version_converter.convert_version(model, MIN_OPSET)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"{info.name} has opset {opset}; int8-static needs {MIN_OPSET}; onnx cannot raise it",
            hint=f"export the network again with opset_version={MIN_OPSET} or higher",
            detail=str(error)[-4000:],
        ) from error


class _Work(NamedTuple):
    """What is to be quantized, on which inputs, and how."""

    prepared: Path
    feeds: Sequence[Feed]
    activation: str
    options: Int8StaticOptions


class _Quantized(NamedTuple):
    """A QDQ file, and which operators it quantizes."""

    path: Path
    operators: str


def _quantize(model: ModelProto, work: _Work) -> tuple[ModelProto, str]:
    """The QDQ model and the operators that it quantizes; the work's own file is written first."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source = work.prepared.with_name("source.onnx")
    onnx.save(model, source)  # a ModelProto would be split into files that ONNX Runtime then cannot read
    quant_pre_process(source, work.prepared, skip_symbolic_shape=True)  # symbolic inference would need sympy
    onnx.save(_with_own_biases(onnx.load(work.prepared)), work.prepared)
    asked = "all" if work.options.operators == "auto" else work.options.operators
    made = _quantized(work, asked)
    if work.options.operators == "auto" and work.options.preset == "onnxruntime":
        loss_db = _snr_db(work, made)
        if loss_db < RUINOUS_DB:
            other = _quantized(work, "weighted")
            made = max((loss_db, made), (_snr_db(work, other), other), key=lambda tried: tried[0])[1]
    return onnx.load(made.path), made.operators


def _with_own_biases(model: ModelProto) -> ModelProto:
    """The model in place, each bias a vector that one layer alone reads.

    ONNX Runtime's quantizer calls the copies of a shared bias `bias0`, `bias1` ..., whether something has
    that name or not, and takes a matrix of one row for one row a channel.
    """
    from onnx import numpy_helper

    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    for node in graph.node:
        bias = stored.get(node.input[2]) if node.op_type in BIASED and len(node.input) > 2 else None
        if bias is None or (readers[bias.name] == 1 and len(bias.dims) == 1):
            continue
        values = numpy_helper.to_array(bias)
        if values.ndim == 2 and values.shape[0] == 1:
            values = values[0]
        graph.initializer.append(numpy_helper.from_array(values, f"{bias.name} of {node.output[0]}"))
        node.input[2] = graph.initializer[-1].name
    return model


def _snr_db(work: _Work, made: _Quantized) -> float:
    """The worst output of the QDQ file against the float one, on some of the calibration inputs."""
    from edgebench import parity

    some = work.feeds[:JUDGED_SAMPLES]
    judged = parity.compare(_outputs(work.prepared, some), _outputs(made.path, some), parity.RUIN)
    return min((output.snr_db for output in judged), default=0.0)


def _outputs(path: Path, feeds: Sequence[Feed]) -> list[Feed]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, feed), strict=True)) for feed in feeds]


def _quantized(work: _Work, operators: str) -> _Quantized:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the class is untyped
        """One sample after the other, once."""

        def get_next(self) -> Feed | None:
            return next(left, None)

    left, options = iter(work.feeds), work.options
    tensorrt = options.preset == "tensorrt"
    wanted = TENSORRT_OPERATORS if tensorrt else WEIGHTED if operators == "weighted" else None
    out = work.prepared.with_name(f"{operators}.onnx")
    quantize_static(
        work.prepared,
        out,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=options.per_channel,
        reduce_range=options.reduce_range,
        activation_type=QuantType.QUInt8 if work.activation == "uint8" else QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        op_types_to_quantize=wanted,
        extra_options={"ActivationSymmetric": options.symmetric} | (TENSORRT_OPTIONS if tensorrt else {}),
    )
    return _Quantized(out, operators)
