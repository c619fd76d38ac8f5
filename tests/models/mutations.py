"""Networks broken at random, in their bytes or in their structure, for property-based tests."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from edgebench.model.base import graphs
from tests.models import generate

SEEDS = ("conv_net", "conv_net_qdq", "if_net", "lstm_net", "matmul_net", "two_inputs", "deconv_net")
# fmt: off
OPERATORS = (
    "Abs", "Add", "ArgMax", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat",
    "ConstantOfShape", "Conv", "ConvTranspose", "CumSum", "DequantizeLinear", "Div", "Dropout", "Einsum",
    "Expand", "Flatten", "GRU", "Gather", "GatherND", "Gemm", "GlobalAveragePool", "GridSample",
    "Identity", "If", "LSTM", "LayerNormalization", "Loop", "MatMul", "MaxPool", "Mod", "NonZero",
    "OneHot", "Pad", "Pow", "QuantizeLinear", "Range", "ReduceSum", "Relu", "Reshape", "Resize",
    "ScatterND", "Shape", "Slice", "Softmax", "Split", "Squeeze", "Tile", "TopK", "Transpose", "Unsqueeze",
    "Where", "Nonsense",
)
# fmt: on
ATTRIBUTES = (
    "axis",
    "axes",
    "group",
    "kernel_shape",
    "strides",
    "pads",
    "dilations",
    "hidden_size",
    "perm",
    "to",
)
INTEGERS = (0, 1, -1, 2, 3, 7, -5, 64, 1 << 20, 1 << 31, 1 << 40, -(1 << 63), (1 << 63) - 1)
FLOATS = (0.0, -1.0, 0.5, 1e30, -1e38, math.inf, -math.inf, math.nan)
SIZES = (0, 1, 2, 3, 5, 1 << 16, 1 << 40, -1)
OPSETS = (1, 6, 7, 9, 11, 13, 17, 21, 24, 999, -1)

Draw = Callable[[st.SearchStrategy[Any]], Any]


def broken_bytes(draw: Draw) -> bytes:
    """The bytes of a sound network after one to four changes."""
    content = bytearray(
        generate.GENERATED[draw(st.sampled_from(SEEDS))]().SerializeToString(deterministic=True)
    )
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content) - 1))
        kind = draw(st.sampled_from(("flip", "cut", "insert", "repeat")))
        if kind == "flip":
            content[place] = draw(st.integers(0, 255))
        elif kind == "cut" and len(content) > 64:
            del content[place : place + draw(st.integers(1, 20))]
        elif kind == "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=8))
        else:
            content[place:place] = content[place : place + draw(st.integers(1, 40))]
    return bytes(content)


def broken_structure(draw: Draw) -> bytes:
    """A sound network after one to three changes of nodes, edges, attributes, types, shapes or versions."""
    model = generate.GENERATED[draw(st.sampled_from(SEEDS))]()
    for _ in range(draw(st.integers(1, 3))):
        change = draw(st.sampled_from(CHANGES))
        try:
            change(draw(st.sampled_from(list(graphs(model.graph)))), model, draw)
        except (ValueError, TypeError, DecodeError):  # protobuf takes no such value
            continue
    return bytes(model.SerializeToString())


# --- changes --------------------------------------------------------------------------------------


def _node(graph: GraphProto, draw: Draw) -> NodeProto:
    return draw(st.sampled_from(list(graph.node))) if graph.node else graph.node.add(op_type="Relu")


def _names(graph: GraphProto) -> list[str]:
    made = [name for node in graph.node for name in node.output]
    return [*made, *(v.name for v in graph.input), *(t.name for t in graph.initializer), "nowhere", ""]


def _drop_node(graph: GraphProto, model: ModelProto, draw: Draw) -> None:
    if graph.node:
        del graph.node[draw(st.integers(0, len(graph.node) - 1))]


def _bypass_node(graph: GraphProto, model: ModelProto, draw: Draw) -> None:
    node = _node(graph, draw)
    node.op_type, node.domain = "Identity", ""
    del node.input[1:], node.output[1:], node.attribute[:]


def _repeat_node(graph: GraphProto, model: ModelProto, draw: Draw) -> None:
    copy = graph.node.add()
    copy.CopyFrom(_node(graph, draw))
    if draw(st.booleans()):
        for place, name in enumerate(copy.output):
            copy.output[place] = f"{name}_again"


def _swap_nodes(graph: GraphProto, model: ModelProto, draw: Draw) -> None:
    first, second = _node(graph, draw), _node(graph, draw)
    first.op_type, second.op_type = second.op_type, first.op_type


def _other_operator(graph: GraphProto, model: ModelProto, draw: Draw) -> None:
    _node(graph, draw).op_type = draw(st.sampled_from(OPERATORS))


def _other_domain(graph: GraphProto, model: ModelProto, draw: Draw) -> None:
    _node(graph, draw).domain = draw(
        st.sampled_from(("com.microsoft", "ai.onnx.ml", "com.example", "ai.onnx"))
    )


def _rename_node(graph: GraphProto, model: ModelProto, draw: Draw) -> None:
    _node(graph, draw).name = draw(st.sampled_from(("", "twice", "../../x", "a\nb\x1b[1m", "é" * 300)))


def _other_edge(graph: GraphProto, model: ModelProto, draw: Draw) -> None:
    ends = _node(graph, draw).input
    if ends:
        ends[draw(st.integers(0, len(ends) - 1))] = draw(st.sampled_from(_names(graph)))


def _more_or_fewer_edges(graph: GraphProto, model: ModelProto, draw: Draw) -> None:
    node = _node(graph, draw)
    ends = draw(st.sampled_from((node.input, node.output)))
    if ends and draw(st.booleans()):
        del ends[draw(st.integers(0, len(ends) - 1))]
    else:
        ends.append(draw(st.sampled_from([*_names(graph), "new"])))


def _rename_output(graph: GraphProto, model: ModelProto, draw: Draw) -> None:
    ends = _node(graph, draw).output
    if ends:
        ends[draw(st.integers(0, len(ends) - 1))] = draw(st.sampled_from([*_names(graph), "new"]))


def _attribute(graph: GraphProto, model: ModelProto, draw: Draw) -> None:
    node = _node(graph, draw)
    known = [each.name for each in node.attribute]
    name = draw(st.sampled_from([*known, *ATTRIBUTES]))
    old = [each for each in node.attribute if each.name == name]
    for each in old:
        node.attribute.remove(each)
    kind = draw(st.sampled_from(("gone", "int", "ints", "float", "text", "tensor")))
    values: dict[str, Any] = {
        "int": draw(st.sampled_from(INTEGERS)),
        "ints": draw(st.lists(st.sampled_from(INTEGERS), min_size=1, max_size=4)),
        "float": draw(st.sampled_from(FLOATS)),
        "text": draw(st.sampled_from(("", "SAME_UPPER", "linear", "\x00"))),
        "tensor": helper.make_tensor("t", TensorProto.FLOAT, [2], [1.0, 2.0]),
    }
    if kind != "gone":
        node.attribute.append(helper.make_attribute(name, values[kind]))


def _attribute_type(graph: GraphProto, model: ModelProto, draw: Draw) -> None:
    attributes = _node(graph, draw).attribute
    if attributes:
        draw(st.sampled_from(list(attributes))).type = draw(
            st.sampled_from(AttributeProto.AttributeType.values())
        )


def _weight_type(graph: GraphProto, model: ModelProto, draw: Draw) -> None:
    if graph.initializer:
        weight: TensorProto = draw(st.sampled_from(list(graph.initializer)))
        weight.data_type = draw(st.integers(0, 26))


def _weight_shape(graph: GraphProto, model: ModelProto, draw: Draw) -> None:
    if graph.initializer:
        weight: TensorProto = draw(st.sampled_from(list(graph.initializer)))
        kind = draw(st.sampled_from(("reverse", "flat", "one more", "any")))
        if kind == "reverse":
            shape = list(weight.dims)[::-1]
        elif kind == "flat":
            shape = [math.prod(weight.dims)]
        elif kind == "one more":
            shape = [*weight.dims, 1]
        else:
            shape = draw(st.lists(st.sampled_from(SIZES), max_size=5))
        del weight.dims[:]
        weight.dims.extend(shape)


def _weight_values(graph: GraphProto, model: ModelProto, draw: Draw) -> None:
    if graph.initializer:
        weight: TensorProto = draw(st.sampled_from(list(graph.initializer)))
        size = len(weight.raw_data)
        pattern: bytes = draw(
            st.sampled_from((b"\x00", b"\xff", b"\x00\x00\x80\x7f", b"\x7f", b"\x01\x00\x00\x00"))
        )
        weight.raw_data = (pattern * (size // len(pattern) + 1))[:size]


def _move_weight(graph: GraphProto, model: ModelProto, draw: Draw) -> None:
    if graph.initializer:
        place = draw(st.integers(0, len(graph.initializer) - 1))
        weight = graph.initializer[place]
        if draw(st.booleans()):  # now it has to be fed
            graph.input.append(
                helper.make_tensor_value_info(weight.name, weight.data_type, list(weight.dims))
            )
        del graph.initializer[place]


def _value(graph: GraphProto, draw: Draw) -> ValueInfoProto | None:
    values = [*graph.input, *graph.output, *graph.value_info]
    return draw(st.sampled_from(values)) if values else None


def _value_shape(graph: GraphProto, model: ModelProto, draw: Draw) -> None:
    value = _value(graph, draw)
    if value is not None:
        shape = value.type.tensor_type.shape
        if draw(st.booleans()) and shape.dim:
            dim = draw(st.sampled_from(list(shape.dim)))
            if draw(st.booleans()):
                dim.dim_value = draw(st.sampled_from(SIZES))
            else:
                dim.dim_param = draw(st.sampled_from(("N", "", "height/2")))
        elif draw(st.booleans()):
            shape.dim.add(dim_value=draw(st.sampled_from(SIZES)))
        else:
            value.type.tensor_type.ClearField("shape")


def _value_type(graph: GraphProto, model: ModelProto, draw: Draw) -> None:
    value = _value(graph, draw)
    if value is not None:
        value.type.tensor_type.elem_type = draw(st.integers(0, 26))


def _value_list(graph: GraphProto, model: ModelProto, draw: Draw) -> None:
    values = draw(st.sampled_from((graph.input, graph.output)))
    kind = draw(st.sampled_from(("drop", "repeat", "more", "rename")))
    if kind == "more" or not values:
        made = helper.make_tensor_value_info(draw(st.sampled_from(_names(graph))), TensorProto.FLOAT, [1, 4])
        values.append(made)
    elif kind == "drop":
        del values[draw(st.integers(0, len(values) - 1))]
    elif kind == "repeat":
        values.add().CopyFrom(values[0])
    else:
        values[0].name = draw(st.sampled_from([*_names(graph), "new"]))


def _versions(graph: GraphProto, model: ModelProto, draw: Draw) -> None:
    kind = draw(st.sampled_from(("opset", "two", "none", "ir")))
    if kind == "opset" and model.opset_import:
        model.opset_import[0].version = draw(st.sampled_from(OPSETS))
    elif kind in ("opset", "two"):
        model.opset_import.append(helper.make_opsetid("", draw(st.sampled_from(OPSETS))))
    elif kind == "none":
        del model.opset_import[:]
    else:
        model.ir_version = draw(st.sampled_from((0, 1, 3, 4, 99, (1 << 63) - 1)))


def _graft_graph(graph: GraphProto, model: ModelProto, draw: Draw) -> None:
    """A node gets a graph as an attribute, as control flow has: the whole graph itself, or an empty one."""
    inner = GraphProto()
    if draw(st.booleans()):
        inner.CopyFrom(graph)
    name = draw(st.sampled_from(("body", "then_branch", "else_branch")))
    _node(graph, draw).attribute.append(onnx.helper.make_attribute(name, inner))


CHANGES = (
    _drop_node,
    _bypass_node,
    _repeat_node,
    _swap_nodes,
    _other_operator,
    _other_domain,
    _rename_node,
    _other_edge,
    _more_or_fewer_edges,
    _rename_output,
    _attribute,
    _attribute_type,
    _weight_type,
    _weight_shape,
    _weight_values,
    _move_weight,
    _value_shape,
    _value_type,
    _value_list,
    _versions,
    _graft_graph,
)
