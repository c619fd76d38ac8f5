"""A model that ends earlier: cut after one value, everything that does not lead there gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from edgebench.errors import ModelError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

# onnx.proto, TensorProto.DataType and AttributeProto.AttributeType
FLOATS = (1, 10)  # FLOAT, FLOAT16
GRAPH = 5


class Layer(NamedTuple):
    """One value inside a model that it can be cut after, and the node that computes it."""

    value: str
    node: str
    operator: str


def layers(model: ModelProto) -> list[Layer]:
    """The float values of static shape in the order they are computed, the model's own outputs among them."""
    known = {value.name for value in _values(model.graph) if _is_static_float(value)}
    return [
        Layer(output, node.name or f"({node.op_type} that makes {output})", node.op_type)
        for node in model.graph.node
        for output in node.output
        if output in known
    ]


def cut(model: ModelProto, value: str) -> ModelProto:
    """A new model with the same inputs whose only output is `value`; ModelError when there is none."""
    described = next((each for each in _values(model.graph) if each.name == value), None)
    if described is None:
        raise ModelError(
            f'the model has no value "{value}" of known shape', hint="edgebench inspect shows the model"
        )
    made = type(model)()
    made.CopyFrom(model)
    graph, needed = made.graph, _needed(model.graph, value)
    for number in reversed(range(len(graph.node))):
        if not any(output in needed for output in graph.node[number].output):
            del graph.node[number]
    for number in reversed(range(len(graph.initializer))):
        if graph.initializer[number].name not in needed:
            del graph.initializer[number]
    del graph.output[:]
    graph.output.append(described)
    return made


def _values(graph: GraphProto) -> list[ValueInfoProto]:
    return [*graph.value_info, *graph.output]


def _is_static_float(value: ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return tensor.elem_type in FLOATS and all(dim.dim_value > 0 for dim in tensor.shape.dim)


def _needed(graph: GraphProto, value: str) -> set[str]:
    """Every name that `value` depends on, itself among them; names that subgraphs read count too."""
    makers: dict[str, NodeProto] = {output: node for node in graph.node for output in node.output}
    needed: set[str] = set()
    waiting = [value]
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed.add(name)
        node = makers.get(name)
        if node is not None:
            waiting += [*node.output, *node.input, *_read_inside(node)]
    return needed


def _read_inside(node: NodeProto) -> list[str]:
    graphs = [attribute.g for attribute in node.attribute if attribute.type == GRAPH]
    inner = [each for graph in graphs for each in graph.node]
    return [name for each in inner for name in (*each.input, *_read_inside(each))]
