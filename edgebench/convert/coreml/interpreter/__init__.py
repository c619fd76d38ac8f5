"""Core ML packages, evaluated on any machine: the reference that proves a conversion without a Mac.

`interpret` reads only the saved package and computes it with numpy, one operation after the other, in the
semantics that coremltools documents for MIL. It shares no code with the frontend that wrote the package, so
an error of one is not repeated by the other. Every value is held against what the file declares of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgebench.convert.coreml.interpreter.activation import KERNELS as ACTIVATION
from edgebench.convert.coreml.interpreter.base import Array, Kernel, Precision
from edgebench.convert.coreml.interpreter.convolution import KERNELS as CONVOLUTION
from edgebench.convert.coreml.interpreter.elementwise import KERNELS as ELEMENTWISE
from edgebench.convert.coreml.interpreter.indexing import KERNELS as INDEXING
from edgebench.convert.coreml.interpreter.linear import KERNELS as LINEAR
from edgebench.convert.coreml.interpreter.normalization import KERNELS as NORMALIZATION
from edgebench.convert.coreml.interpreter.package import load
from edgebench.convert.coreml.interpreter.pooling import KERNELS as POOLING
from edgebench.convert.coreml.interpreter.program import (
    CONTROL_FLOW,
    FLOATS,
    Evaluation,
    accept,
    demand_limits,
)
from edgebench.convert.coreml.interpreter.quantization import KERNELS as QUANTIZATION
from edgebench.convert.coreml.interpreter.recurrent import KERNELS as RECURRENT
from edgebench.convert.coreml.interpreter.reduction import KERNELS as REDUCTION
from edgebench.convert.coreml.interpreter.resize import KERNELS as RESIZE
from edgebench.convert.coreml.interpreter.shape import KERNELS as SHAPE

OPERATORS: Mapping[str, Kernel] = {
    **ACTIVATION,
    **CONVOLUTION,
    **ELEMENTWISE,
    **INDEXING,
    **LINEAR,
    **NORMALIZATION,
    **POOLING,
    **QUANTIZATION,
    **RECURRENT,
    **REDUCTION,
    **RESIZE,
    **SHAPE,
}

__all__ = ["CONTROL_FLOW", "OPERATORS", "interpret"]


def interpret(
    package: Path, feeds: Mapping[str, Array], *, precision: Precision = "fp32", every: bool = False
) -> dict[str, Array]:
    """The outputs of the package's main function, by their Core ML names.

    `precision`: "fp32" computes every float type in float32; "fp16" also rounds each value that the program
    declares fp16 to half precision, as a device that computes in fp16 would; "fp64" computes in float64, for
    measuring how much of a difference is rounding. Floats come back in the type that computed them. An image
    input is fed as the tensor that the program takes, `[1, channels, height, width]`, 0 to 255. `every`: all
    values that the program computes, not its outputs alone.

    ModelError: the package is damaged, uses an operator that is not known, or declares a shape or element
    type that its operations do not give. UserError: the feeds do not fit the program's inputs.
    """
    program = load(package)
    inputs = accept(program.inputs, feeds, precision)
    demand_limits(program.limits, feeds)
    if every:
        inside = [
            item.name for each in program.block.operations if each.type != "const" for item in each.outputs
        ]
        program.block.outputs[:] = inside
    evaluation = Evaluation(OPERATORS, program.constants, program.opset, precision)
    with np.errstate(all="ignore"):  # inf and nan are results here, and parity's business
        outputs = evaluation.run(program.block, inputs)
    return {name: _plain(value, FLOATS[precision]) for name, value in outputs.items()}


def _plain(value: Array, floating: np.dtype[Any]) -> Array:
    """An array of its own, no view of a weight file."""
    return np.array(value, dtype=floating if value.dtype.kind == "f" else value.dtype, order="C")
