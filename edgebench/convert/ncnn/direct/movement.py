"""Operators that give values another shape, order or place."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np

from edgebench.convert.ncnn.direct.base import (
    MAX_RESIZED,
    Array,
    Net,
    Node,
    Rule,
    Value,
    first,
    given,
    refused,
)


def _reshape(net: Net, node: Node) -> Value:
    value = first(node)
    sizes = node.ints(1, "shape") or []
    if not node.attributes.get("allowzero", 0):
        sizes = [value.shape[place] if size == 0 else size for place, size in enumerate(sizes)]
    known = -math.prod(sizes)
    full = [math.prod(value.shape) // known if size == -1 else size for size in sizes]
    return net.reshape(value, tuple(full))


def _flatten(net: Net, node: Node) -> Value:
    value = first(node)
    axis = int(node.attributes.get("axis", 1))
    axis = axis + len(value.shape) if axis < 0 else axis
    return net.reshape(value, (math.prod(value.shape[:axis]), math.prod(value.shape[axis:])))


def _squeeze(net: Net, node: Node) -> Value:
    value = first(node)
    axes = node.ints(1, "axes")
    rank = len(value.shape)
    gone = {axis % rank for axis in axes} if axes else {p for p, size in enumerate(value.shape) if size == 1}
    return net.reshape(value, tuple(size for place, size in enumerate(value.shape) if place not in gone))


def _unsqueeze(net: Net, node: Node) -> Value:
    value = first(node)
    axes = node.ints(1, "axes") or []
    rank = len(value.shape) + len(axes)
    sizes = list(value.shape)
    for axis in sorted(axis % rank for axis in axes):
        sizes.insert(axis, 1)
    return net.reshape(value, tuple(sizes))


def _transpose(net: Net, node: Node) -> Value:
    value = first(node)
    return net.transpose(value, list(node.attributes.get("perm", range(len(value.shape))[::-1])))


def _expand(net: Net, node: Node) -> Value:
    return net.expand(first(node), tuple(node.ints(1, "shape") or []))


def _tile(net: Net, node: Node) -> Value:
    value = first(node)
    for axis, count in enumerate(node.ints(1, "repeats") or []):
        if count != 1:
            value = net.pick(value, axis, list(range(value.shape[axis])) * count)
    return value


def _concat(net: Net, node: Node) -> Value:
    values = given(node)
    return net.concat(values, int(node.attributes["axis"]) % len(values[0].shape))


def _split(net: Net, node: Node) -> list[Value]:
    value = first(node)
    axis = int(node.attributes.get("axis", 0)) % len(value.shape)
    size = value.shape[axis]
    sizes = node.ints(1, "split")
    if sizes is None:
        step = math.ceil(size / int(node.attributes.get("num_outputs", node.outputs)))
        sizes = [min(step, size - start) for start in range(0, size, step)]
    starts = np.cumsum([0, *sizes]).tolist()
    return [net.pick(value, axis, range(s, s + n)) for s, n in zip(starts, sizes, strict=False)]


def _slice(net: Net, node: Node) -> Value:
    value = first(node)
    starts, ends = node.ints(1, "starts") or [], node.ints(2, "ends") or []
    axes = node.ints(3, "axes") or list(range(len(starts)))
    steps = node.ints(4, "steps") or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        places = list(range(value.shape[axis]))[slice(start, end, step)]
        value = net.pick(value, axis, places)
    return value


def _gather(net: Net, node: Node) -> Value:
    value = first(node)
    axis = int(node.attributes.get("axis", 0)) % len(value.shape)
    indices = node.constant(1)
    if indices is None:
        raise refused("Gather without indices")
    size = value.shape[axis]
    made = net.pick(value, axis, [int(index) % size for index in indices.reshape(-1)])
    return net.reshape(made, (*value.shape[:axis], *indices.shape, *value.shape[axis + 1 :]))


def _pad(net: Net, node: Node) -> Value:
    value = first(node)
    mode = node.attributes.get("mode", b"constant").decode()
    pads = node.ints(1, "pads") or []
    axes = node.ints(3, "axes") if len(node.inputs) > 3 else None
    axes = list(range(len(value.shape))) if axes is None else axes
    fill = node.attributes.get("value", node.constant(2) if len(node.inputs) > 2 else None)
    number = 0.0 if fill is None else float(np.reshape(fill, ()))
    names = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    shifted = net.scalar("Sub", value, number) if number else value
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        size = shifted.shape[axis]
        places = np.arange(size)
        grown = [max(0, before), max(0, after)]
        extra: dict[str, Any] = {"constant_values": -1} if mode == "constant" else {}
        places = np.pad(places, grown, mode=names[mode], **extra)  # type: ignore[call-overload]
        places = places[max(0, -before) : len(places) - max(0, -after)]
        shifted = net.pick(shifted, axis, [int(place) for place in places])
    return net.scalar("Add", shifted, number) if number else shifted


def _trilu(net: Net, node: Node) -> Value:
    value = first(node)
    k = node.constant(1) if len(node.inputs) > 1 else None
    shift = 0 if k is None else int(np.reshape(k, ()))
    ones = np.ones(value.shape[-2:], np.float32)
    mask = np.triu(ones, shift) if node.attributes.get("upper", 1) else np.tril(ones, shift)
    return net.binary("Mul", value, mask)


def _cumsum(net: Net, node: Node) -> Value:
    value = first(node)
    axis = node.constant(1)
    place = int(np.reshape(axis, ())) % len(value.shape) if axis is not None else 0
    size = value.shape[place]
    matrix = np.triu(np.ones((size, size), np.float32), 1 if node.attributes.get("exclusive", 0) else 0)
    return net.along(value, place, matrix.T if node.attributes.get("reverse", 0) else matrix)


def _depth_to_space(net: Net, node: Node) -> Value:
    value = first(node)
    batch, channels, height, width = value.shape
    block = int(node.attributes["blocksize"])
    inner = channels // block**2
    if batch != 1:
        raise refused("DepthToSpace of a batch")
    # in two steps, so that no tensor has more than four axes: first rows, then columns
    source = np.arange(channels).reshape(
        (block, block, inner) if node.attributes.get("mode", b"DCR") == b"DCR" else (inner, block, block)
    )
    order = (2, 0, 1) if node.attributes.get("mode", b"DCR") == b"DCR" else (0, 1, 2)
    picked = net.pick(value, 1, source.transpose(order).reshape(-1).tolist())  # inner, row, column
    rows = net.transpose(net.reshape(picked, (inner * block, block, height, width)), (0, 2, 3, 1))
    joined = net.reshape(rows, (inner, block, height, width * block))
    return net.reshape(net.transpose(joined, (0, 2, 1, 3)), (1, inner, height * block, width * block))


def _space_to_depth(net: Net, node: Node) -> Value:
    value = first(node)
    batch, channels, height, width = value.shape
    block = int(node.attributes["blocksize"])
    if batch != 1:
        raise refused("SpaceToDepth of a batch")
    parts = []
    for row, column in product(range(block), repeat=2):
        rows = net.pick(value, 2, range(row, height, block))
        parts.append(net.pick(rows, 3, range(column, width, block)))
    made = net.concat(parts, 1)
    if node.attributes.get("mode", b"DCR") == b"CRD":
        order = np.arange(block**2 * channels).reshape(block**2, channels).T.reshape(-1).tolist()
        return net.pick(made, 1, order)
    return made


def _resize(net: Net, node: Node) -> Value:
    """One axis after the other, by the matrix that ONNX's reference makes of one-hot rows."""
    value = first(node)
    if node.attributes.get("coordinate_transformation_mode") == b"tf_crop_and_resize":
        raise refused("Resize with a region of interest")
    rank = len(value.shape)
    axes = [axis % rank for axis in node.attributes.get("axes", range(rank))]
    scales = node.constant(2) if len(node.inputs) > 2 else None
    sizes = node.constant(3) if len(node.inputs) > 3 else None
    if node.op == "Upsample":
        scales = np.asarray(node.attributes.get("scales", node.constant(1) if len(node.inputs) > 1 else None))
    by_scale = scales is not None and scales.size > 0
    given = scales if by_scale else sizes
    policy = node.attributes.get("keep_aspect_ratio_policy", b"stretch")
    if given is None or (not by_scale and policy != b"stretch"):
        raise refused("Resize that keeps the ratio of sides")
    for axis, number in zip(axes, given.tolist(), strict=True):
        matrix = _resize_matrix(node, value.shape[axis], number, by_scale=by_scale)
        value = net.along(value, axis, matrix)
    return value


def _resize_matrix(node: Node, size: int, number: float, *, by_scale: bool) -> Array:
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    if size > MAX_RESIZED:
        raise refused("Resize of so long an axis")
    kept = (
        "coordinate_transformation_mode",
        "mode",
        "nearest_mode",
        "cubic_coeff_a",
        "exclude_outside",
        "antialias",
    )
    attributes = {name: node.attributes[name] for name in kept if name in node.attributes}
    if node.op == "Upsample":
        attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    inputs = ["x", "", "scales"] if by_scale else ["x", "", "", "sizes"]
    graph = helper.make_graph(
        [helper.make_node("Resize", inputs, ["y"], **attributes)],
        "axis",
        [
            helper.make_tensor_value_info("x", 1, [size, size]),
            helper.make_tensor_value_info(inputs[-1], 1 if by_scale else 7, [2]),
        ],
        [helper.make_tensor_value_info("y", 1, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    second = np.array([1, number], np.float32) if by_scale else np.array([size, number], np.int64)
    made: Any = ReferenceEvaluator(model).run(None, {"x": np.eye(size, dtype=np.float32), inputs[-1]: second})
    return np.asarray(made[0], np.float32)


RULES: dict[str, Rule] = {
    "Concat": _concat,
    "CumSum": _cumsum,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
    "Upsample": _resize,
}
