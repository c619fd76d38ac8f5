"""A small convolutional network whose nodes have names, for profiles: what runtimes fuse is known."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NODES = ("conv_a", "relu_a", "conv_b", "add_b", "relu_b", "pool", "flat", "fc", "soft")


def residual() -> onnx.ModelProto:
    """conv_a, relu_a, conv_b, add_b, relu_b, pool, flat, fc, soft: `x` 1x3x32x32 to `y` 1x10."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((rng.standard_normal(shape) * 0.2).astype(np.float32), name)

    make = helper.make_node
    nodes = [
        make("Conv", ["x", "w1", "b1"], ["c1"], "conv_a", pads=[1, 1, 1, 1]),
        make("Relu", ["c1"], ["r1"], "relu_a"),
        make("Conv", ["r1", "w2", "b2"], ["c2"], "conv_b", pads=[1, 1, 1, 1]),
        make("Add", ["c2", "r1"], ["a2"], "add_b"),
        make("Relu", ["a2"], ["r2"], "relu_b"),
        make("MaxPool", ["r2"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        make("Flatten", ["p"], ["f"], "flat"),
        make("Gemm", ["f", "w3", "b3"], ["g"], "fc", transB=1),
        make("Softmax", ["g"], ["y"], "soft", axis=1),
    ]
    weights = [
        weight("w1", 16, 3, 3, 3),
        weight("b1", 16),
        weight("w2", 16, 16, 3, 3),
        weight("b2", 16),
        weight("w3", 10, 4096),
        weight("b3", 10),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])
    graph = helper.make_graph(nodes, "residual", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
