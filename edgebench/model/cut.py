"""A model that ends earlier: cut after one value, or before its NonMaxSuppression."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from edgebench.errors import ModelError, UserError
from edgebench.model.base import nodes, order, reads

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

FLOATS = (1, 10)  # onnx.proto, TensorProto.DataType: FLOAT, FLOAT16

NMS = "NonMaxSuppression"
NMS_RANK = 3  # boxes are [batch, boxes, 4], scores [batch, classes, boxes]
CUT_NMS = "--cut-nms"  # the flag that asks for it


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
    made = _copied(model)
    del made.graph.output[:]
    made.graph.output.append(described)
    _drop_unneeded(made.graph)
    return made


def without_nms(model: ModelProto) -> ModelProto:
    """A new model that returns the boxes and scores which its NonMaxSuppression nodes would take.

    Outputs that need no such node stay, in their order and before the new ones; the others vanish with all
    that leads to them alone, inputs included. UserError where no such node is, ModelError where one is inside
    a branch or loop.
    """
    found = [node for node in model.graph.node if node.op_type == NMS]
    if not found:
        raise _no_nms(model)
    made = _copied(model)
    after = _reached(model.graph, {name for node in found for name in node.output})
    kept = [value for value in model.graph.output if value.name not in after]
    names = {value.name for value in kept}
    del made.graph.output[:]
    made.graph.output.extend(kept)
    for name in dict.fromkeys(name for node in found for name in node.input[:2]):
        if name in after:
            raise ModelError(
                f'"{name}", which a {NMS} takes, is computed from what another one keeps',
                hint="cut the model by hand, before the first of them",
            )
        if name not in names:
            _give_out(made.graph, name)
    _drop_unneeded(made.graph)
    _drop_inputs(made.graph, _needed(model.graph, [value.name for value in model.graph.output]))
    return made


def _no_nms(model: ModelProto) -> ModelError | UserError:
    if any(node.op_type == NMS for node in nodes(model.graph)):
        return ModelError(
            f"the model's {NMS} is inside a branch or a loop, and cannot be cut off",
            hint="export the network without its post-processing",
        )
    return UserError(f"{CUT_NMS}: the model has no {NMS}", hint=f"leave out {CUT_NMS}")


def _reached(graph: GraphProto, names: set[str]) -> set[str]:
    """The names themselves and all that is computed from them."""
    reached = set(names)
    for node in order(graph, "the model", set()):
        if reads(node) & reached:
            reached.update(node.output)
    return reached


def _give_out(graph: GraphProto, name: str) -> None:
    """Make the value an output; an input or a constant, which cannot be one, under a name of its own."""
    from onnx import TensorProto, helper

    output = name
    if not any(name in node.output for node in graph.node):
        output = f"{name}_given"
        graph.node.append(helper.make_node("Identity", [name], [output]))
    graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, [None] * NMS_RANK))


def _copied(model: ModelProto) -> ModelProto:
    made = type(model)()
    made.CopyFrom(model)
    return made


def _drop_unneeded(graph: GraphProto) -> None:
    """Delete the nodes and weights that no output depends on."""
    needed = _needed(graph, [value.name for value in graph.output])
    for number in reversed(range(len(graph.node))):
        if not any(output in needed for output in graph.node[number].output):
            del graph.node[number]
    for number in reversed(range(len(graph.initializer))):
        if graph.initializer[number].name not in needed:
            del graph.initializer[number]


def _drop_inputs(graph: GraphProto, once_needed: set[str]) -> None:
    """Delete the inputs that no output depends on any more: thresholds, or weights listed there."""
    gone = once_needed - _needed(graph, [value.name for value in graph.output])
    for number in reversed(range(len(graph.input))):
        if graph.input[number].name in gone:
            del graph.input[number]


def _values(graph: GraphProto) -> list[ValueInfoProto]:
    return [*graph.value_info, *graph.output]


def _is_static_float(value: ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return tensor.elem_type in FLOATS and all(dim.dim_value > 0 for dim in tensor.shape.dim)


def _needed(graph: GraphProto, values: list[str]) -> set[str]:
    """Every name that the values depend on, themselves among them; names that subgraphs read count too."""
    makers: dict[str, NodeProto] = {output: node for node in graph.node for output in node.output}
    needed: set[str] = set()
    waiting = list(values)
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed.add(name)
        node = makers.get(name)
        if node is not None:
            waiting += [*node.output, *reads(node)]
    return needed
