"""INT8 with ranges measured beforehand on calibration inputs, as a QDQ graph.

The activation type follows the processor: unsigned on x86, where ONNX Runtime's kernels for it are several
times faster, signed on ARM (facts measured and documented for ONNX Runtime 1.32).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from edgebench.compress.base import ARM, Made, Options, Settings, Task, file_digest
from edgebench.errors import BugError, ModelError
from edgebench.records import ModelInfo, replace

if TYPE_CHECKING:
    from onnx import ModelProto

MIN_OPSET = 13  # the first with per-channel QuantizeLinear
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
    without VNNI, whose 8-bit products can saturate. `symmetric` puts activation zero points at 0. `preset`
    tensorrt is the form that TensorRT builds: int8, symmetric, pairs only where it computes with integers.
    """

    activation: Literal["auto", "uint8", "int8"] = "auto"
    per_channel: bool = True
    reduce_range: bool = False
    symmetric: bool = False
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
        made = _quantize(_newer(model, info), batches(arrays, info), activation, options)
        used = {
            "activation": activation,
            "weight": "int8",
            "per_channel": options.per_channel,
            "reduce_range": options.reduce_range,
            "symmetric": options.symmetric,
            "ranges": "minmax",
            "samples": sum(1 for _ in batches(arrays, info)),
        }
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


def _quantize(
    model: ModelProto, feeds: Iterator[dict[str, Any]], activation: str, options: Int8StaticOptions
) -> ModelProto:
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the class is untyped
        """One sample after the other, once."""

        def get_next(self) -> dict[str, Any] | None:
            return next(feeds, None)

    more = TENSORRT_OPTIONS if options.preset == "tensorrt" else {}
    with tempfile.TemporaryDirectory(prefix="edgebench-") as folder:
        source, prepared, quantized = (
            Path(folder) / f"{name}.onnx" for name in ("source", "prepared", "int8")
        )
        onnx.save(model, source)  # a ModelProto would be split into files that ONNX Runtime then cannot read
        quant_pre_process(source, prepared, skip_symbolic_shape=True)  # symbolic inference would need sympy
        quantize_static(
            prepared,
            quantized,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=options.per_channel,
            reduce_range=options.reduce_range,
            activation_type=QuantType.QUInt8 if activation == "uint8" else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=TENSORRT_OPERATORS if options.preset == "tensorrt" else None,
            extra_options={"ActivationSymmetric": options.symmetric} | more,
        )
        return onnx.load(quantized)
