"""Networks of realistic size for benchmarks, with seeded random weights: ResNet-18's layers, and 100 MB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Weights = list[onnx.TensorProto]
Nodes = list[onnx.NodeProto]


class _Graph:
    def __init__(self) -> None:
        self.nodes: Nodes = []
        self.weights: Weights = []
        self.random = np.random.default_rng(0)

    def weight(self, shape: tuple[int, ...]) -> str:
        name = f"w{len(self.weights)}"
        scale = np.sqrt(2.0 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        values = (self.random.standard_normal(shape) * scale).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: object) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(operator, list(inputs), [output], name=f"n{len(self.nodes)}", **attributes)
        )
        return output

    def conv(self, x: str, channels: tuple[int, int], kernel: int, stride: int = 1) -> str:
        pad = kernel // 2
        weight, bias = self.weight((channels[1], channels[0], kernel, kernel)), self.weight((channels[1],))
        return self.add(
            "Conv", x, weight, bias, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4
        )

    def block(self, x: str, channels: tuple[int, int], stride: int) -> str:
        inner = self.add("Relu", self.conv(x, channels, 3, stride))
        out = self.conv(inner, (channels[1], channels[1]), 3)
        short = x if channels[0] == channels[1] and stride == 1 else self.conv(x, channels, 1, stride)
        return self.add("Relu", self.add("Add", out, short))


def resnet18(path: Path) -> Path:
    """`path`, holding a ResNet-18-shaped network: [1, 3, 224, 224] -> [1, 1000], 47 MB."""
    graph = _Graph()
    x = graph.add("Relu", graph.conv("image", (3, 64), 7, 2))
    x = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    before = 64
    for stage, channels in enumerate((64, 128, 256, 512)):
        x = graph.block(x, (before, channels), 1 if stage == 0 else 2)
        x = graph.block(x, (channels, channels), 1)
        before = channels
    x = graph.add("Flatten", graph.add("GlobalAveragePool", x))
    x = graph.add("Gemm", x, graph.weight((1000, 512)), graph.weight((1000,)), transB=1)
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 224, 224])]
    outputs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, 1000])]
    made = helper.make_graph(graph.nodes, "resnet18", inputs, outputs, graph.weights)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def hundred_megabytes(path: Path) -> Path:
    """`path`, holding 44 residual convolutions of 256 channels: [1, 256, 14, 14], 104 MB."""
    graph = _Graph()
    x = "image"
    for _ in range(22):
        x = graph.block(x, (256, 256), 1)
    shape = [1, 256, 14, 14]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, shape)]
    made = helper.make_graph(graph.nodes, "wide", inputs, outputs, graph.weights)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
