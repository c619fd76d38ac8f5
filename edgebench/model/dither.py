"""A quantized network that rounds at random: what its own rounding costs, without any runtime's.

Each value lands on one of its two neighbouring steps, the nearer one with the higher probability (stochastic
rounding: uniform noise of half a step before rounding). Two right implementations of a quantized network
differ by such roundings, since a sum in another order falls on the other side of a boundary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebench.model.base import copied, graphs, nodes

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

HALF = 0.4999  # steps: with a whole half, float32 would move values that lie on a step

# operators that find the step of their first input themselves
_DYNAMIC = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")
_ROUNDS_INSIDE = ("QLinear", "QGemm", "QAttention")  # where no noise can be put


def dithered(model: ModelProto, seed: int) -> ModelProto | None:
    """A copy that rounds its activations at random; None of a model that quantizes none, or inside operators.

    The random numbers follow from `seed`, a whole number below 2**24, and the place in the network.
    """
    if any(node.op_type.startswith(_ROUNDS_INSIDE) for node in nodes(model.graph)):
        return None
    made = copied(model)
    sizes = _sizes(made)
    count = 0
    for graph in graphs(made.graph):
        count += _dither(graph, sizes, seed + count)
    return made if count else None


def _sizes(model: ModelProto) -> dict[str, int]:
    """How many values each constant has, by name."""
    from math import prod

    found: dict[str, int] = {}
    for graph in graphs(model.graph):
        found |= {tensor.name: prod(tensor.dims) for tensor in graph.initializer}
        constants = [node for node in graph.node if node.op_type == "Constant"]
        found |= {node.output[0]: prod(node.attribute[0].t.dims) for node in constants}
    return found


def _dither(graph: GraphProto, sizes: dict[str, int], seed: int) -> int:
    """Put noise before every activation's quantizer of a graph; how many there are."""
    placed: list[NodeProto] = []
    count = 0
    for node in graph.node:
        noise = _noise(node, sizes, seed + count)
        if noise:
            node.input[0] = noise[-1].output[0]
            count += 1
        placed += [*noise, node]
    kept = [each.SerializeToString() for each in placed]
    del graph.node[:]
    for data in kept:
        graph.node.add().ParseFromString(data)
    return count


def _noise(node: NodeProto, sizes: dict[str, int], seed: int) -> list[NodeProto]:
    """The nodes that add half a step of noise to a quantizer's input; [] where there is nothing to round."""
    from onnx import helper

    if not node.input or node.input[0] in sizes:
        return []
    value, name = node.input[0], f"edgebench_dither_{seed}"
    unit, noise, noisy = f"{name}_unit", f"{name}_noise", f"{name}_sum"
    made = [helper.make_node("RandomUniformLike", [value], [unit], low=-HALF, high=HALF, seed=float(seed))]
    if node.op_type in _DYNAMIC:
        step = f"{name}_step"
        outputs = [f"{name}_quantized", step, f"{name}_zero"]
        made.append(helper.make_node("DynamicQuantizeLinear", [value], outputs))
    elif node.op_type == "QuantizeLinear" and sizes.get(node.input[1]) == 1:
        step = node.input[1]
    else:
        return []
    made.append(helper.make_node("Mul", [unit, step], [noise]))
    made.append(helper.make_node("Add", [value, noise], [noisy]))
    return made
