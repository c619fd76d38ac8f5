"""INT8 with activation ranges taken at run time: for matrix products and LSTMs; no calibration data needed.

Convolutions stay float unless asked for: ONNX Runtime runs ConvInteger several times slower than a float
Conv.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgebench.compress.base import Made, Options, Task
from edgebench.errors import ModelError

if TYPE_CHECKING:
    from onnx import ModelProto

_OPERATORS = ("MatMul", "Gemm", "LSTM")


class Int8DynamicOptions(Options, frozen=True):
    """`convolutions`: Conv too (smaller, slower). `per_channel`: one weight scale per output."""

    convolutions: bool = False
    per_channel: bool = False

    def label(self) -> str:
        """The variant's name."""
        return "int8-dynamic-conv" if self.convolutions else "int8-dynamic"


class Int8Dynamic:
    """float32 -> int8 weights, activations quantized while running, by ONNX Runtime's quantize_dynamic."""

    name = "int8-dynamic"
    options = Int8DynamicOptions
    takes: ClassVar[tuple[str, ...]] = ("fp32",)
    makes: ClassVar[tuple[str, ...]] = ("int8-dynamic",)
    needs_calibration = False

    def run(self, model: ModelProto, task: Task) -> Made:
        """The model with MatMulInteger (and ConvInteger); ModelError when it has no operator to quantize."""
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        info, options = task.info, task.options
        operators = [*_OPERATORS, *(["Conv"] if options.convolutions else [])]
        if not set(operators) & set(info.operators):
            raise ModelError(
                f"{info.name} has no {', '.join(operators)} that int8-dynamic could quantize",
                hint="int8-dynamic:convolutions=true"
                if "Conv" in info.operators and not options.convolutions
                else "take the model as it is",
            )
        with tempfile.TemporaryDirectory(prefix="edgebench-") as folder:
            out = Path(folder) / "model.onnx"
            quantize_dynamic(
                model,
                out,
                op_types_to_quantize=operators,
                per_channel=options.per_channel,
                weight_type=QuantType.QInt8,
            )
            made = onnx.load(out)
        return Made(made, {"operators": operators, "per_channel": options.per_channel, "weight": "int8"})
