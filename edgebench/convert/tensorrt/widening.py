"""One-dimensional convolution and pooling, written with a second axis for versions that want two.

The new axis has size 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebench.convert.tensorrt.base import OperatorTable
from edgebench.convert.tensorrt.graph import Network, attributes, input_name
from edgebench.model.base import graphs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx import GraphProto, NodeProto

_WEIGHTED = ("Conv", "ConvTranspose")
_INT64 = 7  # onnx.proto, TensorProto.DataType
_AXES_AS_INPUT = 13
_WIDE = "2D or 3D"  # how the documentation says that one axis is too few
# attribute -> what it says for the new axis; `pads` and `auto_pad` are treated apart
_NEW_AXIS = {"kernel_shape": 1, "strides": 1, "dilations": 1, "output_padding": 0, "output_shape": 1}


def widen(network: Network, table: OperatorTable) -> tuple[str, ...]:
    """What was rewritten in place, in words; the network must be read anew afterwards."""
    narrow = [node for node in network.nodes if _is_narrow(node, network, table)]
    weights = {input_name(node, 1) for node in narrow if node.op_type in _WEIGHTED}
    shared = {
        name
        for name in weights
        if name not in network.stored or any(reader not in narrow for reader in network.readers[name])
    }
    narrow = [node for node in narrow if node.op_type not in _WEIGHTED or input_name(node, 1) not in shared]
    if not narrow:
        return ()
    for name in weights - shared:
        network.stored[name].dims.insert(2, 1)
    for graph in graphs(network.model.graph):
        _replace(graph, narrow, network)
        for place in reversed(range(len(graph.value_info))):
            if graph.value_info[place].name in weights:
                del graph.value_info[place]
    return (f"one-dimensional convolution and pooling written in two dimensions: {len(narrow)} nodes",)


def _is_narrow(node: NodeProto, network: Network, table: OperatorTable) -> bool:
    return (
        _WIDE in table.limits.get(node.op_type, "")
        and len([name for name in node.output if name]) == 1
        and network.rank(input_name(node, 0)) == 3
        and _has_one_axis(attributes(node))
    )


def _has_one_axis(given: Mapping[str, Any]) -> bool:
    lengths = {"pads": 2} | dict.fromkeys(_NEW_AXIS, 1)
    return all(len(given[name]) == length for name, length in lengths.items() if name in given)


def _replace(graph: GraphProto, narrow: Sequence[NodeProto], network: Network) -> None:
    """Each narrow node of the graph becomes Unsqueeze, the wide node, Squeeze."""
    made: list[bytes] = []
    for node in graph.node:
        parts = _widened(node, network) if any(node is each for each in narrow) else [node]
        made.extend(part.SerializeToString() for part in parts)
    del graph.node[:]
    for data in made:
        graph.node.add().ParseFromString(data)


def _widened(node: NodeProto, network: Network) -> list[NodeProto]:
    from onnx import helper

    base = node.output[0]
    wide = type(node)()
    wide.CopyFrom(node)
    wide.input[0], wide.output[0] = f"{base}_wide_input", f"{base}_wide"
    del wide.attribute[:]
    for name, value in attributes(node).items():
        if name == "pads":
            value = [0, value[0], 0, value[1]]
        elif name in _NEW_AXIS:
            value = [_NEW_AXIS[name], *value]
        wide.attribute.append(helper.make_attribute(name, value))
    named = node.name or base
    return [
        _moved("Unsqueeze", node.input[0], wide.input[0], f"{named}_widen", network),
        wide,
        _moved("Squeeze", wide.output[0], base, f"{named}_narrow", network),
    ]


def _moved(operator: str, source: str, made: str, name: str, network: Network) -> NodeProto:
    """Unsqueeze or Squeeze at the new axis, whose number became an input with opset 13."""
    from onnx import helper

    if network.opset < _AXES_AS_INPUT:
        return helper.make_node(operator, [source], [made], name=name, axes=[2])
    axes = f"{name}_axis"
    network.model.graph.initializer.append(helper.make_tensor(axes, _INT64, [1], [2]))
    return helper.make_node(operator, [source, axes], [made], name=name)
