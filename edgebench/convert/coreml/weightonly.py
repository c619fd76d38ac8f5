"""Dynamic int8 as int8 weights alone: Core ML quantizes no activation by the range it has at run time.

    DynamicQuantizeLinear -> ConvInteger or MatMulInteger -> Cast -> Mul(a_scale * w_scale)

becomes a float Conv or MatMul whose weight is dequantized; what is changed is said in the artifact's notes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgebench.errors import ModelError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_FLOAT = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}
_MADE = "edgebench.weight_only."  # prefix of names that are new


class _Chain(NamedTuple):
    """One integer product between its activation and the float result; `drops` are the nodes it replaces."""

    product: NodeProto
    source: str
    scale: str
    result: str
    drops: tuple[str, ...]


def applies(model: ModelProto) -> bool:
    """Whether the model has integer products of activations quantized at run time."""
    return any(node.op_type == "DynamicQuantizeLinear" for node in model.graph.node)


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
        if node.output[0] in replaced:
            nodes += _float_nodes(replaced[node.output[0]])
        elif not set(node.output) & dropped:
            nodes.append(node)
    texts = [node.SerializeToString() for node in nodes if not _is_idle(node, nodes, made)]
    del made.graph.node[:]
    for text in texts:
        made.graph.node.add().ParseFromString(text)
    del made.graph.value_info[:]
    return made


def _is_idle(node: NodeProto, nodes: list[NodeProto], model: ModelProto) -> bool:
    """Whether a quantization of activations, or a product of scales, is read by nobody any more."""
    if node.op_type not in ("DynamicQuantizeLinear", "Mul"):
        return False
    read = {name for each in nodes for name in each.input} | {value.name for value in model.graph.output}
    return not set(node.output) & read


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
