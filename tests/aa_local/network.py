"""The chain of Conv and Relu that is recorded: 60 layers, and 63 or 66 where it is to be slower."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS = {0.0: 60, 0.05: 63, 0.10: 66}  # by how much slower it is
CHANNELS, SIDE = 32, 18


def chain(path: Path, layers: int) -> Path:
    """`path`, holding so many layers of 3x3 convolutions: [1, 32, 18, 18] in and out, seeded weights."""
    random = np.random.default_rng(0)
    scale = np.sqrt(2.0 / (9 * CHANNELS))
    nodes, weights, x = [], [], "image"
    for layer in range(layers):
        values = (random.standard_normal((CHANNELS, CHANNELS, 3, 3)) * scale).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        nodes.append(
            helper.make_node("Conv", [x, f"w{layer}"], [f"c{layer}"], kernel_shape=[3, 3], pads=[1] * 4)
        )
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        x = f"r{layer}"
    shape = [1, CHANNELS, SIDE, SIDE]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "chain", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
