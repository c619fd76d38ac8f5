"""Networks whose batch, height and width are open: what `--flexible` can do, and what it must refuse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Sizes = Sequence[int | str | None]
F = np.float32


def made(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sizes],
    outputs: Sequence[str],
    weights: Mapping[str, np.ndarray],
    opset: int = 17,
    kinds: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """A model with float inputs of these shapes, or of other kinds, and float outputs of unknown shape."""
    tensor = helper.make_tensor_value_info
    known = kinds or {}
    graph = helper.make_graph(
        list(nodes),
        "flexible",
        [tensor(name, known.get(name, TensorProto.FLOAT), list(shape)) for name, shape in inputs.items()],
        [tensor(name, known.get(name, TensorProto.FLOAT), None) for name in outputs],
        [numpy_helper.from_array(np.asarray(each), name) for name, each in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def save(model: onnx.ModelProto, path: Path) -> Path:
    """The model as a file."""
    path.write_bytes(model.SerializeToString())
    return path


def convolutional() -> onnx.ModelProto:
    """x [N, 3, H, W]: strided and residual convolutions, pools, resizing by 2, a head that pools all."""
    random = np.random.default_rng(4)

    def filters(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(F)

    weights = {
        "w1": filters(8, 3, 3, 3),
        "b1": filters(8, 1).reshape(8),
        "w2": filters(8, 8, 3, 3),
        "w3": filters(8, 1, 3, 3),
        "w4": filters(16, 8, 1, 1),
        "w5": filters(4, 8, 2, 2),
        "g": np.abs(filters(8, 1).reshape(8)) + F(0.5),
        "scales": np.array([1, 1, 2, 2], F),
        "fc": filters(10, 24),
        "parts": np.array([4, 4], np.int64),
        "zero": F(0),
        "six": F(6),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["a", "g", "b1", "b1", "g"], ["n"]),
        node("Clip", ["n", "zero", "six"], ["c"]),
        node("Conv", ["c", "w2"], ["d"], pads=[1, 1, 1, 1]),
        node("Add", ["c", "d"], ["e"]),
        node("Conv", ["e", "w3"], ["dw"], group=8, pads=[1, 1, 1, 1]),
        node("Conv", ["c", "w2"], ["odd"], strides=[2, 2], auto_pad="SAME_UPPER"),
        node("MaxPool", ["odd"], ["odd_max"], kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
        node(
            "AveragePool", ["odd_max"], ["padded"], kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_LOWER"
        ),
        node("MaxPool", ["dw"], ["mp"], kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]),
        node("AveragePool", ["dw"], ["ap"], kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]),
        node("Concat", ["mp", "ap"], ["cat"], axis=1),
        node("Resize", ["cat", "", "scales"], ["up"], mode="nearest"),
        node("Resize", ["dw", "", "scales"], ["smooth"], mode="linear"),
        node("Split", ["dw", "parts"], ["first", "second"], axis=1),
        node("Mul", ["first", "second"], ["gate"]),
        node("Sigmoid", ["gate"], ["mask"]),
        node("ConvTranspose", ["dw", "w5t"], ["wide"], strides=[2, 2]),
        node("Conv", ["smooth", "w4"], ["logits"]),
        node("Softmax", ["logits"], ["classes"], axis=1),
        node("GlobalAveragePool", ["up"], ["pooled"]),
        node("GlobalMaxPool", ["dw"], ["highest"]),
        node("Concat", ["pooled", "highest"], ["both"], axis=1),
        node("Flatten", ["both"], ["flat"]),
        node("Gemm", ["flat", "fc"], ["scores"], transB=1),
    ]
    weights["w5t"] = filters(8, 4, 2, 2)
    del weights["w5"]
    return made(nodes, {"x": ["N", 3, "H", "W"]}, ["mask", "wide", "classes", "scores", "padded"], weights)


def attention() -> onnx.ModelProto:
    """x [N, 12, 16]: one block of attention, the batch read from its shape at run time, as torch exports."""
    random = np.random.default_rng(6)
    weights = {
        name: (random.standard_normal(shape) * 0.3).astype(F)
        for name, shape in {"wq": (16, 16), "wk": (16, 16), "wv": (16, 16), "wo": (16, 16)}.items()
    }
    weights |= {
        "gamma": np.ones(16, F),
        "beta": np.zeros(16, F),
        "zero": np.array(0, np.int64),
        "axes": np.array([0], np.int64),
        "tokens": np.array([12], np.int64),
        "heads": np.array([4, 4], np.int64),
        "width": np.array([16], np.int64),
        "together": np.array([0, 12, -1], np.int64),
        "root": F(2.0),
        "head": (random.standard_normal((16, 5)) * 0.3).astype(F),
    }
    node = helper.make_node
    nodes = [
        node("LayerNormalization", ["x", "gamma", "beta"], ["n"], axis=-1),
        node("Shape", ["n"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Unsqueeze", ["batch", "axes"], ["batch1"]),
        node("Concat", ["batch1", "tokens", "heads"], ["by_head"], axis=0),
    ]
    for letter, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [
            node("MatMul", ["n", f"w{letter}"], [f"{letter}0"]),
            node("Reshape", [f"{letter}0", "by_head"], [f"{letter}1"]),
            node("Transpose", [f"{letter}1"], [letter], perm=order),
        ]
    nodes += [
        node("MatMul", ["q", "k"], ["dots"]),
        node("Div", ["dots", "root"], ["scaled"]),
        node("Softmax", ["scaled"], ["weights"], axis=-1),
        node("MatMul", ["weights", "v"], ["mixed"]),
        node("Transpose", ["mixed"], ["turned"], perm=[0, 2, 1, 3]),
        node("Reshape", ["turned", "together"], ["joined"]),
        node("MatMul", ["joined", "wo"], ["projected"]),
        node("Add", ["projected", "x"], ["out"]),
        node("Gather", ["out", "zero"], ["token"], axis=1),
        node("MatMul", ["token", "head"], ["y"]),
    ]
    return made(nodes, {"x": ["N", 12, 16]}, ["out", "y"], weights)


def tokens() -> onnx.ModelProto:
    """ids, mask [N, S] -> an embedding, masked and averaged over the tokens; both inputs share both sizes."""
    random = np.random.default_rng(9)
    weights = {
        "table": random.standard_normal((12, 8)).astype(F),
        "axes": np.array([2], np.int64),
        "over": np.array([1], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "ids"], ["embedded"]),
        node("Unsqueeze", ["mask", "axes"], ["wide"]),
        node("Mul", ["embedded", "wide"], ["kept"]),
        node("ReduceSum", ["kept", "over"], ["total"], keepdims=0),
        node("Tanh", ["total"], ["y"]),
    ]
    return made(
        nodes, {"ids": ["N", "S"], "mask": ["N", "S"]}, ["y"], weights, kinds={"ids": TensorProto.INT64}
    )
