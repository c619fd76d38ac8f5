"""Weights and arithmetic in float16: half the file; faster only where runtime and chip have float16."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from edgebench.compress.base import Made, Options, Task

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto

LARGEST = 65504.0  # of float16
AS_GOOD_AS_INFINITE = 1e30
_FLOAT = 1  # onnx.proto, TensorProto.DataType


class Fp16Options(Options, frozen=True):
    """`float_io` keeps inputs and outputs float32, so that the variant is fed like its source."""

    float_io: bool = True

    def label(self) -> str:
        """The variant's name."""
        return "fp16" if self.float_io else "fp16-io"


class Fp16:
    """float32 -> float16, by ONNX Runtime's converter; nodes with weights beyond 65504 stay float32."""

    name = "fp16"
    options = Fp16Options
    takes: ClassVar[tuple[str, ...]] = ("fp32",)
    makes: ClassVar[tuple[str, ...]] = ("fp16", "mixed")
    needs_calibration = False

    def run(self, model: ModelProto, task: Task) -> Made:
        """The model in float16; operators without a float16 form stay float32 between two casts."""
        from onnxruntime.transformers.float16 import convert_float_to_float16

        options: Fp16Options = task.options
        beyond = _beyond(model.graph)
        made = convert_float_to_float16(model, keep_io_types=options.float_io, node_block_list=beyond)
        return Made(made, {"float_io": options.float_io} | ({"float32": beyond} if beyond else {}))


def _beyond(graph: GraphProto) -> list[str]:
    """The nodes that read a weight which float16 cannot hold, such as a variance of a million: named by us.

    What stands for infinity (masks of attention) is not meant: the largest float16 does as well.
    """
    import numpy as np

    names = {
        name
        for name, values in _weights(graph)
        if np.any((np.abs(values) > LARGEST) & (np.abs(values) < AS_GOOD_AS_INFINITE))
    }
    found = [node for node in graph.node if names & set(node.input)]
    for node in found:
        node.name = node.name or f"float32/{node.output[0]}"
    _store_constants(graph, {name for node in found for name in node.input})
    return sorted(node.name for node in found)


def _store_constants(graph: GraphProto, wanted: set[str]) -> None:
    """Make initializers of these Constants: the converter keeps only those in float32 for a single node."""
    for place in reversed(range(len(graph.node))):
        node = graph.node[place]
        if node.op_type == "Constant" and node.output[0] in wanted and node.attribute[0].name == "value":
            graph.initializer.append(node.attribute[0].t)
            graph.initializer[-1].name = node.output[0]
            del graph.node[place]


def _weights(graph: GraphProto) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Name and values of the float32 tensors that are stored, or made by a Constant."""
    from onnx import numpy_helper

    for tensor in graph.initializer:
        if tensor.data_type == _FLOAT:
            yield tensor.name, numpy_helper.to_array(tensor)
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value" and attribute.t.data_type == _FLOAT:
                yield node.output[0], numpy_helper.to_array(attribute.t)
