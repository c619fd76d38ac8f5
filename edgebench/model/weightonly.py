"""Dynamic int8 as int8 weights alone, for runtimes that find no ranges of activations at run time.

    DynamicQuantizeLinear -> ConvInteger or MatMulInteger -> Cast -> Mul(a_scale * w_scale)

becomes a float Conv or MatMul whose weight is dequantized, com.microsoft's DynamicQuantizeLSTM an LSTM with
such weights; what is changed is said in the artifact's notes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgebench.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    Array = NDArray[Any]

_FLOAT = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}
_MADE = "edgebench.weight_only."  # prefix of names that are new
_LSTM = "DynamicQuantizeLSTM"
_LSTM_WEIGHTS = {1: (8, 9), 2: (10, 11)}  # place of quantized weights -> of their scale and zero point
_LSTM_INPUTS = 8  # of a float LSTM


class _Chain(NamedTuple):
    """One integer product between its activation and the float result; `drops` are the nodes it replaces."""

    product: NodeProto
    source: str
    scale: str
    result: str
    drops: tuple[str, ...]


def applies(model: ModelProto) -> bool:
    """Whether the model quantizes activations by the range that they have at run time."""
    return any(node.op_type in ("DynamicQuantizeLinear", _LSTM) for node in model.graph.node)


def rewritten(model: ModelProto) -> ModelProto:
    """A new model in which every such chain is a float operator with an int8 weight.

    ModelError naming the node where a chain is none that can be rewritten.
    """
    made = type(model)()
    made.CopyFrom(model)
    constants = _constants(made)
    chains = [_chain(made, node, constants) for node in made.graph.node if node.op_type in _FLOAT]
    dropped = {name for chain in chains for name in chain.drops}
    replaced = {chain.result: chain for chain in chains}
    nodes: list[NodeProto] = []
    for node in made.graph.node:
        if node.op_type == _LSTM:
            nodes += _float_lstm(made, node, constants)
        elif node.output[0] in replaced:
            nodes += _float_nodes(made, replaced[node.output[0]], constants)
        elif not set(node.output) & dropped:
            nodes.append(node)
    texts = [node.SerializeToString() for node in _without_idle(nodes, made)]
    del made.graph.node[:]
    for text in texts:
        made.graph.node.add().ParseFromString(text)
    del made.graph.value_info[:]
    return made


def _without_idle(nodes: list[NodeProto], model: ModelProto) -> list[NodeProto]:
    """The nodes without quantizations of activations and products of scales that nobody reads any more."""
    leaving = {value.name for value in model.graph.output}
    kept = nodes
    while True:
        read = {name for node in kept for name in node.input} | leaving
        idle = [
            node
            for node in kept
            if node.op_type in ("DynamicQuantizeLinear", "Mul") and not set(node.output) & read
        ]
        if not idle:
            return kept
        kept = [node for node in kept if not any(node is each for each in idle)]


def _constants(model: ModelProto) -> dict[str, Array]:
    """What is known beforehand, by name: initializers and Constants."""
    from onnx import numpy_helper

    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made = [node for node in model.graph.node if node.op_type == "Constant"]
    return stored | {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t)
        for node in made
        if node.attribute[0].name == "value"
    }


def _chain(model: ModelProto, product: NodeProto, constants: Mapping[str, Array]) -> _Chain:
    makers = {name: node for node in model.graph.node for name in node.output if name}
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    source = makers.get(product.input[0])
    cast = _only(readers, product.output[0], "Cast")
    scaled = None if cast is None else _only(readers, cast.output[0], "Mul")
    if source is None or source.op_type != "DynamicQuantizeLinear" or cast is None or scaled is None:
        raise _refused(product, "its result is not scaled back to float directly")
    other = next(name for name in scaled.input if name != cast.output[0])
    scales = makers.get(other)
    if scales is None or scales.op_type != "Mul" or source.output[1] not in scales.input:
        raise _refused(product, "its scales are not those of its operands")
    weight_scale = next(name for name in scales.input if name != source.output[1])
    if product.input[1] not in constants or weight_scale not in constants:
        raise _refused(product, "its weight is computed")
    if len(product.input) < 3 or product.input[2] != source.output[2]:
        raise _refused(product, "its zero point is not that of its input")
    return _Chain(
        product=product,
        source=source.input[0],
        scale=weight_scale,
        result=scaled.output[0],
        drops=(product.output[0], cast.output[0]),
    )


def _only(readers: dict[str, list[NodeProto]], name: str, operator: str) -> NodeProto | None:
    found = readers.get(name, [])
    return found[0] if len(found) == 1 and found[0].op_type == operator else None


def _refused(node: NodeProto, why: str) -> ModelError:
    return ModelError(
        f'{node.op_type} "{node.name or node.output[0]}": {why}, so it cannot become a float operator '
        "with an int8 weight",
        hint="start from the float model, or use onnxruntime or openvino for dynamic int8",
    )


def _float_nodes(model: ModelProto, chain: _Chain, constants: Mapping[str, Array]) -> list[NodeProto]:
    """The weight dequantized (along the axis of its scales), and the float operator on it."""
    from onnx import helper

    product = chain.product
    weight = f"{_MADE}{product.input[1]}.{chain.result}"
    inputs = [product.input[1], _stored(model, f"{weight}.scale", np.squeeze(constants[chain.scale]))]
    if len(product.input) > 3 and product.input[3]:
        inputs.append(_stored(model, f"{weight}.zero", np.squeeze(constants[product.input[3]])))
    axis = 0 if product.op_type == "ConvInteger" else -1
    name = product.name or chain.result
    operator = helper.make_node(_FLOAT[product.op_type], [chain.source, weight], [chain.result], name=name)
    operator.attribute.extend(product.attribute)
    return [helper.make_node("DequantizeLinear", inputs, [weight], axis=axis), operator]


def _stored(model: ModelProto, name: str, values: Array) -> str:
    """The name of a new initializer."""
    from onnx import numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
    return name


def _float_lstm(model: ModelProto, node: NodeProto, constants: Mapping[str, Array]) -> list[NodeProto]:
    """The dequantized weights of a quantized LSTM, in ONNX's order of axes, and the float LSTM on them."""
    from onnx import helper

    inputs = list(node.input)
    nodes = []
    for place, (scale, zero_point) in _LSTM_WEIGHTS.items():
        names = (inputs[place], inputs[scale], inputs[zero_point])
        dequantize = _lstm_weight(model, node, names, constants)
        inputs[place] = dequantize.output[0]
        nodes.append(dequantize)
    lstm = helper.make_node(
        "LSTM", inputs[:_LSTM_INPUTS], list(node.output), name=node.name or node.output[0]
    )
    lstm.attribute.extend(node.attribute)
    return [*nodes, lstm]


def _lstm_weight(
    model: ModelProto, node: NodeProto, names: tuple[str, str, str], constants: Mapping[str, Array]
) -> NodeProto:
    """The dequantization of a weight [directions, inputs, 4 * hidden] by one step, or one a direction.

    `names` are those of the weight, its scale and its zero point. ModelError for other steps.
    """
    from onnx import helper

    if not set(names) <= set(constants):
        raise _refused(node, "its weights are computed")
    weight, steps, zeros = (constants[name] for name in names)
    if steps.size not in (1, weight.shape[0]) or zeros.size != steps.size:
        raise _refused(node, "its weights have a scale for each channel")
    made = f"{_MADE}{names[0]}.{node.output[0] or node.output[1]}"
    axes: tuple[int, ...] = () if steps.size == 1 else (-1,)
    inputs = [
        _stored(model, made, weight.transpose(0, 2, 1)),
        _stored(model, f"{made}.scale", steps.reshape(axes)),
        _stored(model, f"{made}.zero", zeros.reshape(axes)),
    ]
    return helper.make_node("DequantizeLinear", inputs, [f"{made}.float"], axis=0)
