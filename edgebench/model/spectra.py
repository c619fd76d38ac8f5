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


def written_in_full(graph: GraphProto) -> bool:
    """Whether any STFT was given what it left out: its signal's last axis, the length of its window.

    Only ONNX Runtime takes it without. The shapes in `graph` must be inferred, and have to be again.
    """
    shapes = {value.name: value.type.tensor_type.shape.dim for value in (*graph.input, *graph.value_info)}
    windows = {tensor.name: tensor.dims[0] for tensor in graph.initializer if len(tensor.dims) == 1}
    placed: list[NodeProto] = []
    changed = False
    for node in graph.node:
        if node.op_type == "STFT" and len(shapes.get(node.input[0], ())) == 2:
            placed.append(_unsqueezed(graph, node, node.input[0]))
            changed = True
        if node.op_type == "STFT" and len(node.input) == 3 and node.input[2] in windows:
            node.input.append(_stored(graph, f"{node.output[0]}/length", [], windows[node.input[2]]))
            changed = True
        placed.append(node)
    if not changed:
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
    node.input[0] = name
    axis = _stored(graph, f"{name}/axis", [1], 2)
    return helper.make_node("Unsqueeze", [signal, axis], [name], name=name)


def _stored(graph: GraphProto, name: str, shape: list[int], value: int) -> str:
    """The name of a new constant of one number."""
    from onnx import helper

    graph.initializer.append(helper.make_tensor(name, _INT64, shape, [value]))
    return name
