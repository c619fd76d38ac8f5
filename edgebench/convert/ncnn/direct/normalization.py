"""Reductions, and what is made of them: softmax, norms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgebench.convert.ncnn.direct.base import (
    REDUCTIONS,
    Net,
    Node,
    Rule,
    Value,
    first,
    given,
    refused,
)


def _reduction(net: Net, node: Node) -> Value:
    value = first(node)
    axes = node.ints(1, "axes")
    if not axes and node.attributes.get("noop_with_empty_axes", 0):
        if node.op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"):
            return value
        raise refused(f"{node.op} without axes")
    keep = bool(node.attributes.get("keepdims", 1))
    if node.op == "ReduceLogSumExp":  # shifted, so that exp does not overflow
        top = net.reduce("ReduceMax", value, axes or [], keep=True)
        total = net.reduce(
            "ReduceSum", net.unary("Exp", net.binary("Sub", value, top)), axes or [], keep=True
        )
        made = net.binary("Add", net.unary("Log", total), top)
        if keep:
            return made
        gone = {axis % len(value.shape) for axis in axes} if axes else set(range(len(value.shape)))
        return net.reshape(made, tuple(s for place, s in enumerate(value.shape) if place not in gone))
    return net.reduce(node.op, value, axes or [], keep=keep)


def _global(op: str) -> Rule:
    def rule(net: Net, node: Node) -> Value:
        value = first(node)
        return net.reduce(op, value, range(2, len(value.shape)), keep=True)

    return rule


def _softmax(net: Net, node: Node) -> Value:
    value = first(node)
    shape = value.shape
    if node.opset < 13:
        axis = int(node.attributes.get("axis", 1)) % len(shape)
        value, place = net.reshape(value, (math.prod(shape[:axis]), math.prod(shape[axis:]))), 1
    else:
        place = int(node.attributes.get("axis", -1)) % len(shape)
    top = net.reduce("ReduceMax", value, [place], keep=True)
    shifted = net.binary("Sub", value, top)
    powers = net.unary("Exp", shifted)
    total = net.reduce("ReduceSum", powers, [place], keep=True)
    if node.op == "LogSoftmax":
        return net.reshape(net.binary("Sub", shifted, net.unary("Log", total)), shape)
    return net.reshape(net.binary("Div", powers, total), shape)


def _batch_norm(net: Net, node: Node) -> Value:
    if node.outputs > 1:
        raise refused("BatchNormalization that trains")
    value = first(node)
    scale, bias, mean, variance = (np.asarray(node.constant(place), np.float64) for place in (1, 2, 3, 4))
    factor = scale / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
    shape = (1, -1) + (1,) * (len(value.shape) - 2)
    scaled = net.binary("Mul", value, factor.reshape(shape).astype(np.float32))
    return net.binary("Add", scaled, (bias - mean * factor).reshape(shape).astype(np.float32))


def _normalized(net: Net, value: Value, axes: Sequence[int], epsilon: float) -> tuple[Value, Value, Value]:
    mean = net.reduce("ReduceMean", value, axes, keep=True)
    centred = net.binary("Sub", value, mean)
    variance = net.reduce("ReduceMean", net.binary("Mul", centred, centred), axes, keep=True)
    inverse = net.unary("Reciprocal", net.unary("Sqrt", net.scalar("Add", variance, epsilon)))
    return net.binary("Mul", centred, inverse), mean, inverse


def _instance_norm(net: Net, node: Node) -> Value:
    value, scale, bias = given(node)[:3]
    made, _, _ = _normalized(net, value, range(2, len(value.shape)), node.attributes.get("epsilon", 1e-5))
    shape = (1, math.prod(scale.shape)) + (1,) * (len(value.shape) - 2)
    return net.binary("Add", net.binary("Mul", made, net.reshape(scale, shape)), net.reshape(bias, shape))


def _layer_norm(net: Net, node: Node) -> list[Value]:
    value = first(node)
    axis = int(node.attributes.get("axis", -1)) % len(value.shape)
    axes = range(axis, len(value.shape))
    made, mean, inverse = _normalized(net, value, axes, node.attributes.get("epsilon", 1e-5))
    scale = node.inputs[1]
    made = net.binary("Mul", made, scale) if scale is not None else made
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    made = net.binary("Add", made, bias) if bias is not None else made
    return [made, mean, inverse]


def _lp_normalization(net: Net, node: Node) -> Value:
    value = first(node)
    op = "ReduceL1" if node.attributes.get("p", 2) == 1 else "ReduceL2"
    length = net.reduce(op, value, [int(node.attributes.get("axis", -1))], keep=True)
    return net.binary("Div", value, net.scalar("Max", length, 1e-37))  # 0 / 0 is 0 in ONNX


def _lrn(net: Net, node: Node) -> Value:
    value = first(node)
    size, channels = int(node.attributes["size"]), value.shape[1]
    band = np.zeros((channels, channels), np.float32)
    for place in range(channels):
        low = max(0, place - (size - 1) // 2)
        high = min(channels - 1, place + math.ceil((size - 1) / 2))
        band[low : high + 1, place] = 1
    total = net.along(net.binary("Mul", value, value), 1, band * (node.attributes.get("alpha", 1e-4) / size))
    base = net.scalar("Add", total, node.attributes.get("bias", 1.0))
    return net.binary("Div", value, net.scalar("Pow", base, node.attributes.get("beta", 0.75)))


RULES: dict[str, Rule] = {
    **dict.fromkeys(REDUCTIONS, _reduction),
    "BatchNormalization": _batch_norm,
    "GlobalAveragePool": _global("ReduceMean"),
    "GlobalMaxPool": _global("ReduceMax"),
    "InstanceNormalization": _instance_norm,
    "LRN": _lrn,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _softmax,
    "LpNormalization": _lp_normalization,
    "Softmax": _softmax,
}
