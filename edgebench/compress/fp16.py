"""Weights and arithmetic in float16: half the file; faster only where runtime and chip have float16."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from edgebench.compress.base import Made, Options, Task

if TYPE_CHECKING:
    from onnx import ModelProto


class Fp16Options(Options, frozen=True):
    """`float_io` keeps inputs and outputs float32, so that the variant is fed like its source."""

    float_io: bool = True

    def label(self) -> str:
        """The variant's name."""
        return "fp16" if self.float_io else "fp16-io"


class Fp16:
    """float32 -> float16, by ONNX Runtime's converter (values beyond 65504 become 65504)."""

    name = "fp16"
    options = Fp16Options
    takes: ClassVar[tuple[str, ...]] = ("fp32",)
    makes: ClassVar[tuple[str, ...]] = ("fp16", "mixed")
    needs_calibration = False

    def run(self, model: ModelProto, task: Task) -> Made:
        """The model in float16; operators without a float16 form stay float32 between two casts."""
        from onnxruntime.transformers.float16 import convert_float_to_float16

        options: Fp16Options = task.options
        made = convert_float_to_float16(model, keep_io_types=options.float_io)
        return Made(made, {"float_io": options.float_io})
