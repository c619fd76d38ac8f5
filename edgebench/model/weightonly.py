"""Dynamic int8 as int8 weights alone, for runtimes that find no ranges of activations at run time.

    DynamicQuantizeLinear -> ConvInteger or MatMulInteger -> Cast -> Mul(a_scale * w_scale)

becomes a float Conv or MatMul whose weight is dequantized, com.microsoft's DynamicQuantizeLSTM an LSTM with
such weights; what is changed is said in the artifact's notes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgebench.errors import ModelError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

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
    chains = [_chain(made, node) for node in made.graph.node if node.op_type in _FLOAT]
    dropped = {name for chain in chains for name in chain.drops}
    replaced = {chain.result: chain for chain in chains}
    nodes: list[NodeProto] = []
    for node in made.graph.node:
        if node.op_type == _LSTM:
            nodes += _float_lstm(made, node)
        elif node.output[0] in replaced:
            nodes += _float_nodes(replaced[node.output[0]])
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


def _chain(model: ModelProto, product: NodeProto) -> _Chain:
    makers = {name: node for node in model.graph.node for name in node.output if name}
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {name for name, node in makers.items() if node.op_type == "Constant"}
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


def _float_nodes(chain: _Chain) -> list[NodeProto]:
    """The weight dequantized (along the axis of its scales), and the float operator on it."""
    from onnx import helper, numpy_helper

    product = chain.product
    weight = f"{_MADE}{product.input[1]}.{chain.result}"
    flat = f"{weight}.scale"
    axis = 0 if product.op_type == "ConvInteger" else -1
    inputs = [product.input[1], flat]
    shape = f"{_MADE}{chain.result}.shape"
    nodes = [
        helper.make_node("Constant", [], [shape], value=numpy_helper.from_array(np.array([-1], np.int64))),
        helper.make_node("Reshape", [chain.scale, shape], [f"{flat}.row"]),
        helper.make_node("Squeeze", [f"{flat}.row"], [flat]),
    ]
    if len(product.input) > 3 and product.input[3]:
        nodes.append(helper.make_node("Reshape", [product.input[3], shape], [f"{weight}.zero.row"]))
        nodes.append(helper.make_node("Squeeze", [f"{weight}.zero.row"], [f"{weight}.zero"]))
        inputs.append(f"{weight}.zero")
    nodes.append(helper.make_node("DequantizeLinear", inputs, [weight], axis=axis))
    name = product.name or chain.result
    operator = helper.make_node(_FLOAT[product.op_type], [chain.source, weight], [chain.result], name=name)
    operator.attribute.extend(product.attribute)
    return [*nodes, operator]


def _float_lstm(model: ModelProto, node: NodeProto) -> list[NodeProto]:
    """The dequantized weights of a quantized LSTM, in ONNX's order of axes, and the float LSTM on them."""
    from onnx import helper

    inputs = list(node.input)
    nodes = []
    for place, (scale, zero_point) in _LSTM_WEIGHTS.items():
        dequantize = _lstm_weight(model, node, inputs[place], inputs[scale], inputs[zero_point])
        inputs[place] = dequantize.output[0]
        nodes.append(dequantize)
    lstm = helper.make_node(
        "LSTM", inputs[:_LSTM_INPUTS], list(node.output), name=node.name or node.output[0]
    )
    lstm.attribute.extend(node.attribute)
    return [*nodes, lstm]


def _lstm_weight(model: ModelProto, node: NodeProto, name: str, scale: str, zero_point: str) -> NodeProto:
    """The dequantization of a weight [directions, inputs, 4 * hidden], whose scale is one or one a direction.

    The steps of ONNX Runtime's quantizer; ModelError for others.
    """
    from onnx import helper, numpy_helper

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    if not {name, scale, zero_point} <= set(stored):
        raise _refused(node, "its weights are computed")
    weight, steps, zeros = (numpy_helper.to_array(stored[each]) for each in (name, scale, zero_point))
    if steps.size not in (1, weight.shape[0]) or zeros.size != steps.size:
        raise _refused(node, "its weights have a scale for each channel")
    made = f"{_MADE}{name}.{node.output[0] or node.output[1]}"
    one = steps.size == 1
    for suffix, values in (
        ("", np.ascontiguousarray(weight.transpose(0, 2, 1))),
        (".scale", steps.reshape(() if one else -1)),
        (".zero", zeros.reshape(() if one else -1)),
    ):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), made + suffix))
    return helper.make_node(
        "DequantizeLinear", [made, f"{made}.scale", f"{made}.zero"], [f"{made}.float"], axis=0
    )
