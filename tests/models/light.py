"""The networks that the onnx package ships without weights, with seeded ones that keep a useful range."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, helper, numpy_helper

from tests.models.feeds import IMAGENET_MEAN, IMAGENET_STD, landscape
from tests.models.generate import save

SEED = 20261125
SPREAD = 1.5  # standard deviation of what Softmax gets


def with_weights(source: Path, out: Path) -> Path:
    """The network at `source` saved to `out`, its made-up constants replaced by weights scaled by fan-in."""
    network = onnx.load(source)
    graph = network.graph
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = [node for node in graph.node if node.op_type == "ConstantOfShape" and node.input[0] in shapes]
    roles = _roles(graph)
    random = np.random.default_rng(SEED)
    for node in makers:
        name = node.output[0]
        values = _values(roles.get(name, ""), [int(size) for size in shapes[node.input[0]]], random)
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    made = {node.output[0] for node in makers}
    kept = [node for node in graph.node if node.output[0] not in made]
    used = {name for node in kept for name in node.input}
    _keep(graph, kept, used)
    _tame(network)
    return save(network, out)


def _tame(network: onnx.ModelProto) -> None:
    """Scale the last layer so that what it says of a picture neither saturates Softmax nor drowns in it."""
    import onnxruntime as ort

    graph = network.graph
    last = next(node for node in reversed(graph.node) if node.op_type in ("Gemm", "Conv"))
    probe = onnx.ModelProto()
    probe.CopyFrom(network)
    del probe.graph.output[:]
    probe.graph.output.append(helper.make_tensor_value_info(last.output[0], onnx.TensorProto.FLOAT, None))
    session = ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,) = session.get_inputs()
    picture = landscape(wanted.shape[2], wanted.shape[3], np.random.default_rng(SEED))
    feed = ((picture - IMAGENET_MEAN) / IMAGENET_STD)[None].astype(np.float32)
    (said,) = session.run(None, {wanted.name: feed})
    for tensor in graph.initializer:
        if tensor.name in last.input[1:]:
            values = numpy_helper.to_array(tensor) * np.float32(SPREAD / said.std())
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _roles(graph: GraphProto) -> dict[str, str]:
    """Name -> what a constant is for: "weight", "scale", "variance", or "" for what is added."""
    found: dict[str, str] = {}
    readers = {name: node for node in graph.node for name in node.input}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            found[node.input[1]] = "weight"
        elif node.op_type == "BatchNormalization":
            found[node.input[1]], found[node.input[4]] = "scale", "variance"
        elif node.op_type == "Unsqueeze" and readers[node.output[0]].op_type == "Mul":
            found[node.input[0]] = "scale"
    return found


def _values(role: str, shape: list[int], random: np.random.Generator) -> NDArray[np.float64]:
    if role == "weight":
        return random.normal(0, math.sqrt(2 / math.prod(shape[1:])), shape)
    if role == "scale":
        return random.uniform(0.85, 1.1, shape)
    if role == "variance":
        return random.uniform(0.8, 1.2, shape)
    return random.normal(0, 0.02, shape)


def _keep(graph: GraphProto, kept: list[NodeProto], used: set[str]) -> None:
    nodes = [node.SerializeToString() for node in kept]
    del graph.node[:]
    for text in nodes:
        graph.node.add().ParseFromString(text)
    for field in (graph.initializer, graph.input):
        for place in reversed(range(len(field))):
            if field[place].name not in used:
                del field[place]
    named = {value.name for value in graph.input}
    graph.input.extend(  # IR 3 lists weights among the inputs
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in graph.initializer
        if tensor.name not in named
    )
