"""Quantized activations as uint8 in the place of int8: the same steps, counted from 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgebench.model.base import copied, graphs

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_SUFFIX = "_unsigned"
_ZERO_POINT = 2  # the place of a quantizer's zero point among its inputs


def unsigned_activations(model: ModelProto) -> ModelProto:
    """A copy whose int8 activations are uint8, its outputs the same to the last bit.

    A quantizer stays as it is where something else than DequantizeLinear reads its integers.
    """
    made = copied(model)
    for graph in graphs(made.graph):
        zero_points = _zero_points(graph)
        for node in graph.node:
            if node.op_type == "QuantizeLinear" and _zero_point(node, zero_points) is not None:
                readers = [each for each in graph.node if node.output[0] in each.input]
                if _only_dequantized(node, readers, graph, zero_points):
                    for each in (node, *readers):
                        _shift(each, graph, zero_points)
    return made


def _zero_points(graph: GraphProto) -> dict[str, Any]:
    """The int8 scalars and vectors among the initializers, by name."""
    from onnx import TensorProto, numpy_helper

    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) <= 1
    }


def _zero_point(node: NodeProto, zero_points: dict[str, Any]) -> Any:
    return zero_points.get(node.input[_ZERO_POINT]) if len(node.input) > _ZERO_POINT else None


def _only_dequantized(
    node: NodeProto, readers: list[NodeProto], graph: GraphProto, zero_points: dict[str, Any]
) -> bool:
    if not readers or node.output[0] in {value.name for value in graph.output}:
        return False
    return all(
        each.op_type == "DequantizeLinear"
        and each.input[0] == node.output[0]
        and _zero_point(each, zero_points) is not None
        for each in readers
    )


def _shift(node: NodeProto, graph: GraphProto, zero_points: dict[str, Any]) -> None:
    """Let the node count from 0."""
    from onnx import numpy_helper

    name = node.input[_ZERO_POINT]
    shifted = (zero_points[name].astype(np.int16) + 128).astype(np.uint8)
    node.input[_ZERO_POINT] = name + _SUFFIX
    if all(tensor.name != name + _SUFFIX for tensor in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(np.asarray(shifted), name + _SUFFIX))
    for attribute in list(node.attribute):
        if attribute.name == "output_dtype":  # opset 21: the zero point says it
            node.attribute.remove(attribute)
