"""Biases that a quantized network holds as int32, written as the floats that they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgebench.model.base import copied, graphs, reads

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

    Tensors = dict[str, TensorProto]


def float_biases(model: ModelProto) -> ModelProto:
    """A copy in which DequantizeLinear of int32 constants is done beforehand: the same float32 values.

    For a runtime that keeps biases as floats anyway: what they are computed from is left out of the file.
    """
    made = copied(model)
    for graph in graphs(made.graph):
        known = {tensor.name: tensor for tensor in graph.initializer}
        kept = []
        leaving = {value.name for value in graph.output}
        for node in graph.node:
            bias = None if leaving & set(node.output) else _bias(node, known)
            if bias is None:
                kept.append(node)
            else:
                graph.initializer.append(bias)
        if len(kept) < len(graph.node):
            _keep(graph, kept, known)
    return made


def _bias(node: NodeProto, known: Tensors) -> TensorProto | None:
    """The float32 tensor that the node gives, or None where it is no dequantized int32 vector."""
    from onnx import TensorProto, numpy_helper

    given = [known.get(name) for name in node.input if name]
    if node.op_type != "DequantizeLinear" or None in given:
        return None
    integers, scale, *zero_point = (numpy_helper.to_array(tensor) for tensor in given if tensor is not None)
    steps = scale.size in (1, integers.size) and not np.any(zero_point)  # ONNX has no other ones for int32
    types = (integers.dtype.name, scale.dtype.name, _kind(node))
    if types != ("int32", "float32", TensorProto.FLOAT) or integers.ndim != 1 or not steps:
        return None
    return numpy_helper.from_array(integers.astype(np.float32) * scale.reshape(-1), node.output[0])


def _kind(node: NodeProto) -> int:
    """The element type that a dequantizer of float32 steps gives: since opset 23 it may say another."""
    from onnx import TensorProto

    said = [attribute.i for attribute in node.attribute if attribute.name == "output_dtype"]
    return next((kind for kind in said if kind), TensorProto.FLOAT)


def _keep(graph: GraphProto, kept: list[NodeProto], known: Tensors) -> None:
    """Only these nodes, and of the `known` constants only those that are still read."""
    del graph.node[:]
    graph.node.extend(kept)
    read = {name for node in kept for name in reads(node)} | {value.name for value in graph.output}
    for place in reversed(range(len(graph.initializer))):
        name = graph.initializer[place].name
        if name in known and name not in read:
            del graph.initializer[place]
