"""Networks of one or two nodes that keep or break one rule, boards, and findings in short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgebench.convert.tensorrt.base import Board, Finding, parse_version
from edgebench.convert.tensorrt.preflight import preflight
from tests.models.generate import build, tensor

FLOAT, HALF, DOUBLE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE
INT64, INT32, INT8, UINT8, BOOL = (
    TensorProto.INT64,
    TensorProto.INT32,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.BOOL,
)
VERSIONS = ("8.0.1", "8.2.1", "8.4.1", "8.5.2", "8.6.2", "10.3.0", "10.16.2", "11.0.0")
IMAGE = (1, 4, 8, 8)
ZERO, SCALE = np.int8(0), np.float32(0.05)
Weights = Mapping[str, Any]


def board(version: str, capability: tuple[int, int] = (8, 7)) -> Board:
    """A board; an Orin unless told otherwise."""
    return Board(parse_version(version), capability)


def array(values: Any, kind: Any = np.float32) -> NDArray[Any]:
    """Values as an array of a type."""
    return np.asarray(values, kind)


def net(
    operator: str,
    *inputs: str,
    shape: Sequence[int | str] = IMAGE,
    kind: int = FLOAT,
    out: Sequence[int | str] = (1,),
    out_kind: int = FLOAT,
    opset: int = 13,
    weights: Weights | None = None,
    outputs: Sequence[str] = ("y",),
    **attributes: Any,
) -> onnx.ModelProto:
    """x and stored tensors -> one node, "n" -> y. Inputs other than x are stored, or empty."""
    node = helper.make_node(operator, ["x", *inputs], list(outputs), name="n", **attributes)
    stored = {name: np.asarray(value) for name, value in (weights or {}).items()}
    free = [
        tensor(name, (1,), INT64)
        for name in inputs
        if name and name not in stored and name.startswith("free")
    ]
    return build([node], [tensor("x", shape, kind), *free], [tensor("y", out, out_kind)], stored, opset=opset)


def found(
    model: onnx.ModelProto, version: str, precision: str = "fp32", capability: tuple[int, int] = (8, 7)
) -> dict[str, Finding]:
    """Rule -> its first finding; without the remark about the table, which says nothing of the model."""
    rules: dict[str, Finding] = {}
    for each in preflight(model, board(version, capability), precision):
        if each.rule != "operator-table":
            rules.setdefault(each.rule, each)
    return rules


def refusals(
    model: onnx.ModelProto, version: str, precision: str = "fp32", capability: tuple[int, int] = (8, 7)
) -> set[str]:
    """The rules that refuse the model."""
    return {each.rule for each in preflight(model, board(version, capability), precision) if each.refuses}


def quantized(
    *,
    zero: Any = ZERO,
    scale: Any = SCALE,
    weight_scale: Any = None,
    weight_axis: int = 0,
    bias: Any = None,
    stored: bool = False,
    opset: int = 13,
) -> onnx.ModelProto:
    """image -> Q -> DQ -> Conv with quantized weights (8, 4, 3, 3) -> y, all of it as TensorRT wants it.

    `stored`: the weights are integers behind a DQ alone. `bias`: int32 behind a DQ, or float.
    """
    rng = np.random.default_rng(3)
    weight = rng.normal(0, 0.2, (8, 4, 3, 3)).astype(np.float32)
    if weight_scale is None:
        weight_scale = (np.abs(weight).max(axis=(1, 2, 3)) / 127).astype(np.float32)
    shaped = np.reshape(weight_scale, [-1 if axis == weight_axis else 1 for axis in range(4)])
    weights: dict[str, Any] = {"scale": scale, "zero": zero, "w_scale": weight_scale}
    weights["w_zero"] = np.zeros(np.shape(weight_scale), np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_q"], name="q"),
        helper.make_node("DequantizeLinear", ["x_q", "scale", "zero"], ["x_dq"], name="dq"),
    ]
    grid = ["w_scale", "w_zero"]
    if stored:
        weights["w_q"] = np.clip(np.round(weight / shaped), -128, 127).astype(np.int8)
    else:
        weights["w"] = weight
        nodes.append(helper.make_node("QuantizeLinear", ["w", *grid], ["w_q"], name="wq", axis=weight_axis))
    nodes.append(helper.make_node("DequantizeLinear", ["w_q", *grid], ["w_dq"], name="wdq", axis=weight_axis))
    conv = ["x_dq", "w_dq"]
    if bias is not None:
        weights["b"] = bias
        conv.append("b")
        if bias.dtype == np.int32:
            weights["b_scale"] = (np.broadcast_to(weight_scale, (8,)) * scale).astype(np.float32)
            nodes.append(helper.make_node("DequantizeLinear", ["b", "b_scale"], ["b_dq"], name="bdq", axis=0))
            conv[-1] = "b_dq"
    nodes.append(helper.make_node("Conv", conv, ["y"], name="conv", pads=[1, 1, 1, 1]))
    stored_arrays = {name: np.asarray(value) for name, value in weights.items()}
    return build(nodes, [tensor("x", IMAGE)], [tensor("y", (1, 8, 8, 8))], stored_arrays, opset=opset)
