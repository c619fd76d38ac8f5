"""STFT as ONNX writes it down, and not all exporters do: its half of the bins said, its signal in full."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

_INT = 2  # onnx.proto, AttributeProto.AttributeType
_INT64 = 7  # onnx.proto, TensorProto.DataType


def say_onesided(node: NodeProto) -> None:
    """Write STFT's default out: ONNX's shape inference takes a missing `onesided` for 0, kernels do for 1."""
    if node.op_type == "STFT" and all(attribute.name != "onesided" for attribute in node.attribute):
        node.attribute.add(name="onesided", i=1, type=_INT)


def signals_in_full(graph: GraphProto) -> bool:
    """Whether any signal of an STFT was given the last axis that ONNX asks for.

    Only ONNX Runtime takes them without. The shapes in `graph` must be inferred, and have to be again.
    """
    known = {value.name: value for value in (*graph.input, *graph.value_info)}
    placed: list[NodeProto] = []
    for node in graph.node:
        signal = known.get(node.input[0]) if node.op_type == "STFT" else None
        if signal is not None and len(signal.type.tensor_type.shape.dim) == 2:
            placed.append(_unsqueezed(graph, node, signal.name))
        placed.append(node)
    if len(placed) == len(graph.node):
        return False
    texts = [node.SerializeToString() for node in placed]
    del graph.node[:]
    for text in texts:
        graph.node.add().ParseFromString(text)
    del graph.value_info[:]
    return True


def _unsqueezed(graph: GraphProto, node: NodeProto, signal: str) -> NodeProto:
    """The node that adds the axis; the STFT reads it from now on."""
    from onnx import helper

    name = f"{node.output[0]}/signal"
    graph.initializer.append(helper.make_tensor(f"{name}/axis", _INT64, [1], [2]))
    node.input[0] = name
    return helper.make_node("Unsqueeze", [signal, f"{name}/axis"], [name], name=name)
