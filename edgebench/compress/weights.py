"""Weights alone in int8 or int4: a smaller file, computed in float32 as before.

Each weight is stored as integers behind a DequantizeLinear. What it brings in time depends on the runtime:
some keep the integers and dequantize at each inference, some compute the float weights when they load.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

import msgspec
import numpy as np

from edgebench.compress.base import Made, Options, Task
from edgebench.compress.graph import Weight, drop_unused, layers, raised, store_constants
from edgebench.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, TensorProto

    Array = NDArray[Any]

OPSET_PER_CHANNEL, OPSET_INT4 = 13, 21
LEAST = 256  # values of a weight; below that its scales outweigh what is saved


class _Stored(NamedTuple):
    """A weight as integers, its scales, and the attributes of the DequantizeLinear behind it."""

    tensor: TensorProto
    scales: Array
    attributes: dict[str, int]


class Int8WeightsOptions(Options, frozen=True):
    """Nothing to choose: symmetric, one scale for each output channel."""

    def label(self) -> str:
        """The variant's name."""
        return "int8-weights"


class Int4WeightsOptions(Options, frozen=True):
    """`block`: how many weights along the input channels of a matrix share a scale, where they divide so."""

    block: Annotated[int, msgspec.Meta(ge=16, le=4096)] = 32

    def label(self) -> str:
        """The variant's name."""
        return "int4-weights"


class Int8Weights:
    """float32 -> int8 weights of convolutions and matrix products, values stay float32."""

    name = "int8-weights"
    options = Int8WeightsOptions
    takes: ClassVar[tuple[str, ...]] = ("fp32",)
    makes: ClassVar[tuple[str, ...]] = ("mixed",)
    needs_calibration = False

    def run(self, model: ModelProto, task: Task) -> Made:
        """The model with DequantizeLinear behind int8 weights; ModelError when it has none to store so."""
        made, count = _replaced(model, task, OPSET_PER_CHANNEL, _int8)
        return Made(made, {"weight": "int8", "tensors": count})


class Int4Weights:
    """float32 -> int4 weights of convolutions and matrix products in opset 21, values stay float32."""

    name = "int4-weights"
    options = Int4WeightsOptions
    takes: ClassVar[tuple[str, ...]] = ("fp32",)
    makes: ClassVar[tuple[str, ...]] = ("mixed",)
    needs_calibration = False

    def run(self, model: ModelProto, task: Task) -> Made:
        """The model with DequantizeLinear behind int4 weights; ModelError when it has none to store so."""
        block = task.options.block
        made, count = _replaced(model, task, OPSET_INT4, lambda weight: _int4(weight, block))
        return Made(made, {"weight": "int4", "block": block, "tensors": count})


def _replaced(
    model: ModelProto, task: Task, opset: int, stored: Callable[[Weight], _Stored]
) -> tuple[ModelProto, int]:
    """The model with its weights stored as integers, and how many there are."""
    from onnx import helper, numpy_helper

    made = raised(model, task.info, opset)
    store_constants(made)
    dequantized: dict[tuple[str, int], str] = {}
    for each in list(layers(made)):
        if numpy_helper.to_array(each.tensor).size < LEAST:
            continue
        name = each.tensor.name
        if (name, each.outer) not in dequantized:
            integers, scales, attributes = stored(each)
            integers.name = f"{name}.integers.{each.outer}"
            made.graph.initializer.append(integers)
            made.graph.initializer.append(numpy_helper.from_array(scales, f"{integers.name}.scale"))
            output = f"{integers.name}.float"
            inputs = [integers.name, f"{integers.name}.scale"]
            node = helper.make_node("DequantizeLinear", inputs, [output], name=output)
            node.attribute.extend(helper.make_attribute(key, number) for key, number in attributes.items())
            made.graph.node.insert(0, node)
            dequantized[name, each.outer] = output
        each.node.input[1] = dequantized[name, each.outer]
    if not dequantized:
        raise ModelError(
            f"{task.info.name} has no convolution or matrix product with a stored weight of {LEAST} values "
            "or more",
            hint="take the model as it is",
        )
    drop_unused(made)
    return made, len(dequantized)


def _int8(weight: Weight) -> _Stored:
    from onnx import numpy_helper

    values, axis = numpy_helper.to_array(weight.tensor), weight.outer
    others = tuple(place for place in range(values.ndim) if place != axis)
    scales = _scales(np.abs(values).max(axis=others), 127)
    integers = _rounded(values, np.expand_dims(scales, others), 127).astype(np.int8)
    return _Stored(numpy_helper.from_array(integers, ""), scales, {"axis": axis})


def _int4(weight: Weight, block: int) -> _Stored:
    """In blocks along a matrix's inner axis; else with a scale for each output channel."""
    from onnx import TensorProto, helper, numpy_helper

    values, inner = numpy_helper.to_array(weight.tensor), weight.inner
    attributes = {"axis": weight.outer}
    if values.ndim == 2 and values.shape[inner] % block == 0:
        rows = np.moveaxis(values, inner, 0)
        peaks = np.abs(rows.reshape(-1, block, rows.shape[1])).max(axis=1)
        scales = np.ascontiguousarray(np.moveaxis(_scales(peaks, 7), 0, inner))
        spread = np.repeat(scales, block, axis=inner)
        attributes = {"axis": inner, "block_size": block}
    else:
        others = tuple(place for place in range(values.ndim) if place != weight.outer)
        scales = _scales(np.abs(values).max(axis=others), 7)
        spread = np.expand_dims(scales, others)
    integers = _rounded(values, spread, 7).reshape(-1).astype(np.int8)
    packed = helper.make_tensor("", TensorProto.INT4, list(values.shape), integers.tolist())
    return _Stored(packed, scales, attributes)


def _scales(peaks: Array, most: int) -> Array:
    """What one step is worth; 1 where all weights are 0."""
    return np.where(peaks > 0, peaks / most, 1).astype(np.float32)


def _rounded(values: Array, scales: Array, most: int) -> Array:
    made: Array = np.clip(np.rint(values / scales), -most, most)
    return made
