"""What steps that change weights share: which tensors are weights, and along which axes they multiply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from edgebench.errors import ModelError
from edgebench.model.base import graphs, nodes
from edgebench.records import ModelInfo

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

_GRAPH_ATTRIBUTE = 5  # onnx.proto, AttributeProto.AttributeType
_FLOAT, _FLOAT16 = 1, 10  # onnx.proto, TensorProto.DataType
FLOATS = (_FLOAT, _FLOAT16)
WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")


class Weight(NamedTuple):
    """The stored weight of a layer. `inner` is the axis that its products are summed over, `outer` the other.

    `outer` is that of output channels. Of a ConvTranspose in groups neither axis is whole: both are 0 and 1.
    """

    node: NodeProto
    tensor: TensorProto
    inner: int
    outer: int


def layers(model: ModelProto) -> Iterator[Weight]:
    """Convolutions and matrix products of the outer graph with a stored float weight, in order."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in WEIGHTED or node.domain not in ("", "ai.onnx"):
            continue
        tensor = stored.get(node.input[1]) if len(node.input) > 1 else None
        if tensor is None or tensor.data_type not in FLOATS or not is_weight(tensor):
            continue
        inner, outer = _axes(node, len(tensor.dims))
        yield Weight(node, tensor, inner, outer)


def _axes(node: NodeProto, rank: int) -> tuple[int, int]:
    if node.op_type == "Conv":
        return 1, 0
    if node.op_type == "ConvTranspose":
        return 0, 1
    if node.op_type == "Gemm" and any(each.name == "transB" and each.i for each in node.attribute):
        return 1, 0
    return rank - 2, rank - 1


def all_weights(graph: GraphProto) -> Iterator[TensorProto]:
    """Float tensors with at least two dimensions larger than 1, stored or in Constants; inner graphs too."""
    for tensor in graph.initializer:
        if tensor.data_type in FLOATS and is_weight(tensor):
            yield tensor
    for node in graph.node:
        for attribute in node.attribute:
            stored = node.op_type == "Constant" and attribute.name == "value"
            if stored and attribute.t.data_type in FLOATS and is_weight(attribute.t):
                yield attribute.t
            if attribute.type == _GRAPH_ATTRIBUTE:
                yield from all_weights(attribute.g)


def is_weight(tensor: TensorProto) -> bool:
    """Whether a tensor is more than a vector: biases and scales are left alone."""
    return sum(1 for size in tensor.dims if size > 1) >= 2


def store_constants(model: ModelProto) -> None:
    """Make initializers of the outer graph's Constants that hold one tensor, in place."""
    graph = model.graph
    for place in reversed(range(len(graph.node))):
        node = graph.node[place]
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            graph.initializer.append(node.attribute[0].t)
            graph.initializer[-1].name = node.output[0]
            del graph.node[place]


def drop_unused(model: ModelProto) -> tuple[int, int]:
    """How many nodes and stored tensors went, in place: those of the outer graph that no output needs."""
    graph, gone = model.graph, 0
    while True:
        read = _read(graph)
        idle = [place for place, node in enumerate(graph.node) if not read & set(filter(None, node.output))]
        for place in reversed(idle):
            del graph.node[place]
        gone += len(idle)
        if not idle:
            break
    unread = [place for place, tensor in enumerate(graph.initializer) if tensor.name not in read]
    for place in reversed(unread):
        del graph.initializer[place]
    return gone, len(unread)


def _read(graph: GraphProto) -> set[str]:
    """What any node reads, and what graphs return."""
    read = {name for node in nodes(graph) for name in node.input if name}
    return read | {value.name for each in graphs(graph) for value in each.output}


def raised(model: ModelProto, info: ModelInfo, opset: int) -> ModelProto:
    """The model in that opset or a later one; ModelError where onnx cannot raise it."""
    from onnx import version_converter

    has = info.opset.get("ai.onnx", opset)
    if has >= opset:
        return model
    try:
        return version_converter.convert_version(model, opset)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"{info.name} has opset {has}; this step needs {opset}; onnx cannot raise it",
            hint=f"export the network again with opset_version={opset} or higher",
            detail=str(error)[-4000:],
        ) from error
