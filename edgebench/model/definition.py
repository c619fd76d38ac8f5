"""What a network computes by ONNX's own definition: slow, and there where runtimes lack a kernel or err."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebench.errors import ModelError
from edgebench.model.base import nodes, real_inputs
from edgebench.records import ModelInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    Arrays = dict[str, NDArray[Any]]

MAX_MACS = 50_000_000  # it is numpy and Python loops: some seconds
MAX_BYTES = 1 << 20  # of the file and its inputs, where operations cannot be counted

# Operators that ONNX Runtime (seen with 1.32) computes otherwise than ONNX defines, with some attributes:
# Resize with align_corners, MaxUnpool with output_shape, the masked scores that Attention can return.
DOUBTFUL = ("Attention", "MaxUnpool", "Resize")


def is_small(info: ModelInfo, fed_bytes: int) -> bool:
    """Whether numpy computes the model on inputs of so many bytes in seconds."""
    if info.macs is not None:
        return info.macs <= MAX_MACS
    return info.size_bytes + fed_bytes <= MAX_BYTES


def is_doubtful(path: Path) -> bool:
    """Whether a checked file has an operator that ONNX Runtime is known to get wrong sometimes."""
    import onnx

    return any(node.op_type in DOUBTFUL for node in nodes(onnx.load(path, load_external_data=False).graph))


def outputs(model: ModelProto, samples: Iterable[Mapping[str, Any]]) -> list[Arrays]:
    """The outputs by name for each sample, as ONNX's reference implementation computes them.

    ModelError when it cannot: it lacks some operators and types too.
    """
    from onnx.reference import ReferenceEvaluator

    fed = {value.name for value in real_inputs(model.graph)}
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            evaluator = ReferenceEvaluator(model)
            made = [
                evaluator.run(None, {name: array for name, array in sample.items() if name in fed})
                for sample in samples
            ]
    except (
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        ArithmeticError,
        AssertionError,
    ) as error:
        raise ModelError(
            f"ONNX's reference implementation cannot compute the model: {str(error)[:300]}",
            hint="use operators and types that ONNX Runtime has",
        ) from error
    names = [value.name for value in model.graph.output]
    return [dict(zip(names, map(np.asarray, each), strict=True)) for each in made]
