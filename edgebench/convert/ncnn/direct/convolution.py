"""Products of matrices, convolutions and pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from edgebench.convert.ncnn.direct.base import (
    Array,
    Mat,
    Net,
    Node,
    Rule,
    Shape,
    Value,
    first,
    given,
    refused,
)


def _matmul(net: Net, node: Node) -> Value:
    left, right = given(node)[:2]
    wide = net.reshape(left, (1, *left.shape)) if len(left.shape) == 1 else left
    tall = net.reshape(right, (*right.shape, 1)) if len(right.shape) == 1 else right
    made = _linear(net, wide, tall) if _is_linear(wide, tall) else _product(net, wide, tall)
    shape = list(made.shape)
    if len(right.shape) == 1:
        del shape[-1]
    if len(left.shape) == 1:
        del shape[-1 if len(right.shape) == 1 else -2]
    return net.reshape(made, tuple(shape))


def _product(net: Net, left: Value, right: Value) -> Value:
    return net.matmul(*(each if isinstance(each, Mat) else net.stored(each) for each in (left, right)))


def _is_linear(left: Value, right: Value) -> bool:
    """Whether this is a fully connected layer: constant weights, the same for all rows."""
    if not isinstance(left, Mat) or isinstance(right, Mat):
        return False
    return math.prod(right.shape[:-2]) == 1 and bool(np.isfinite(right).all())


def _linear(net: Net, value: Value, weights: Value, bias: Array | None = None) -> Value:
    """Rows by constant weights [..., inner, columns]: a layer that also has an int8 form."""
    inner, columns = weights.shape[-2:]
    rows = net.with_dims(value, (math.prod(value.shape[:-1]), inner))
    net.tagged(np.reshape(np.asarray(weights), (inner, columns)).T)
    if bias is not None:
        net.raw(bias)
    sizes = {"p0": columns, "p1": int(bias is not None), "p2": inner * columns}
    made = net.add("InnerProduct", [rows], (rows.dims[0], columns), **sizes)
    batch = np.broadcast_shapes(value.shape[:-2], weights.shape[:-2])
    return net.reshape(made, (*batch, value.shape[-2], columns))


def _gemm(net: Net, node: Node) -> Value:
    left, right = given(node)[:2]
    a = _turned(net, left) if node.attributes.get("transA", 0) else left
    b = _turned(net, right) if node.attributes.get("transB", 0) else right
    alpha, beta = node.attributes.get("alpha", 1.0), node.attributes.get("beta", 1.0)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if _is_linear(a, b):
        if alpha == beta == 1.0 and _one_for_each_column(bias, b.shape[1]):
            return _linear(net, a, b, np.reshape(np.asarray(bias), -1))
        made = _linear(net, a, b)
    else:
        made = _product(net, a, b)
    made = net.scalar("Mul", made, alpha) if alpha != 1.0 else made
    if bias is None:
        return made
    return net.binary("Add", made, net.scalar("Mul", bias, beta) if beta != 1.0 else bias)


def _turned(net: Net, matrix: Value) -> Value:
    return net.transpose(matrix, (1, 0)) if isinstance(matrix, Mat) else matrix.T


def _one_for_each_column(bias: Value | None, columns: int) -> bool:
    return isinstance(bias, np.ndarray) and bias.shape in ((columns,), (1, columns))


class _Window(NamedTuple):
    """A pooling or convolution window along one axis, with pads and sizes resolved."""

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    out: int

    def places(self, out: int) -> list[int]:
        """The places that a window reads; those outside are pads."""
        first = out * self.stride - self.before
        return [first + step * self.dilation for step in range(self.kernel)]


def _windows(node: Node, sizes: Shape, kernel: Sequence[int]) -> list[_Window]:
    rank = len(sizes)
    strides = node.attributes.get("strides", [1] * rank)
    dilations = node.attributes.get("dilations", [1] * rank)
    pads = list(node.attributes.get("pads", [0] * (2 * rank)))
    auto = node.attributes.get("auto_pad", b"NOTSET").decode()
    made = []
    for axis, size in enumerate(sizes):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        before, after = pads[axis], pads[axis + rank]
        if auto.startswith("SAME"):
            total = max(0, (math.ceil(size / strides[axis]) - 1) * strides[axis] + reach - size)
            small, large = total // 2, total - total // 2
            before, after = (small, large) if auto == "SAME_UPPER" else (large, small)
        elif auto == "VALID":
            before = after = 0
        room = size + before + after - reach
        out = room // strides[axis] + 1
        if node.attributes.get("ceil_mode", 0):
            out = math.ceil(room / strides[axis]) + 1
            if (out - 1) * strides[axis] >= size + before:
                out -= 1
        made.append(_Window(size, kernel[axis], strides[axis], dilations[axis], before, after, out))
    return made


def _max_pool(net: Net, node: Node) -> Value:
    """One axis after the other; a place outside the picture gives way to one inside the same window."""
    value = first(node)
    for axis, window in enumerate(_windows(node, value.shape[2:], node.attributes["kernel_shape"]), start=2):
        inside = [[p for p in window.places(out) if 0 <= p < window.size] for out in range(window.out)]
        if not all(inside):
            raise refused("MaxPool with a window of pads alone")
        made: Value | None = None
        for step in range(max(map(len, inside))):
            part = net.pick(value, axis, [each[min(step, len(each) - 1)] for each in inside])
            made = part if made is None else net.binary("Max", made, part)
        value = value if made is None else made
    return value


def _sums(net: Net, value: Value, windows: Sequence[_Window]) -> Value:
    for axis, window in enumerate(windows, start=2):
        value = net.along(value, axis, _coverage(window))
    return value


def _coverage(window: _Window) -> Array:
    matrix = np.zeros((window.size, window.out), np.float32)
    for out in range(window.out):
        for place in window.places(out):
            if 0 <= place < window.size:
                matrix[place, out] = 1
    return matrix


def _counted(window: _Window, *, pads: bool) -> Array:
    """How many places each window counts: those inside, or those of the pads too."""
    low, high = (-window.before, window.size + window.after) if pads else (0, window.size)
    return np.array(
        [sum(low <= place < high for place in window.places(out)) for out in range(window.out)], np.float64
    )


def _average_pool(net: Net, node: Node) -> Value:
    value = first(node)
    windows = _windows(node, value.shape[2:], node.attributes["kernel_shape"])
    pads = bool(node.attributes.get("count_include_pad", 0))
    counts = np.ones((1, 1), np.float64)
    for window in windows:
        counts = counts[..., None] * _counted(window, pads=pads)
    return net.binary("Mul", _sums(net, value, windows), (1 / counts).astype(np.float32))


def _lp_pool(net: Net, node: Node) -> Value:
    value = first(node)
    windows = _windows(node, value.shape[2:], node.attributes["kernel_shape"])
    power = float(node.attributes.get("p", 2))
    raised = net.scalar("Pow", net.unary("Abs", value), power)
    return net.scalar("Pow", _sums(net, raised, windows), 1 / power)


def _global_lp_pool(net: Net, node: Node) -> Value:
    value = first(node)
    power = float(node.attributes.get("p", 2))
    raised = net.scalar("Pow", net.unary("Abs", value), power)
    total = net.reduce("ReduceSum", raised, range(2, len(value.shape)), keep=True)
    return net.scalar("Pow", total, 1 / power)


def _conv(net: Net, node: Node) -> Value:
    value, weight = given(node)[:2]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    windows = _windows(node, value.shape[2:], weight.shape[2:])
    group = int(node.attributes.get("group", 1))
    if isinstance(weight, Mat) or isinstance(bias, Mat) or len(value.shape) not in (3, 4):
        return _biased(net, _conv_by_places(net, (value, weight), windows, group), bias)
    parts = [
        _conv_one(net, net.pick(value, 0, [sample]), (weight, bias), windows, group)
        for sample in range(value.shape[0])
    ]
    return net.concat(parts, 0)


def _biased(net: Net, value: Value, bias: Value | None) -> Value:
    if bias is None:
        return value
    return net.binary("Add", value, net.reshape(bias, (*bias.shape, *(1,) * (len(value.shape) - 2))))


def _conv_by_places(net: Net, operands: tuple[Value, Value], windows: Sequence[_Window], group: int) -> Value:
    """A convolution as one product of matrices for each place of the kernel."""
    value, weight = operands
    total: Value | None = None
    for place in product(*(range(window.kernel) for window in windows)):
        source = value
        for axis, (step, window) in enumerate(zip(place, windows, strict=True), start=2):
            reads = [window.places(out)[step] for out in range(window.out)]
            source = net.pick(source, axis, [each if 0 <= each < window.size else -1 for each in reads])
        part = _mixed_channels(net, source, _kernel_at(net, weight, place), group)
        total = part if total is None else net.binary("Add", total, part)
    if total is None:
        raise refused("a convolution without a kernel")
    return total


def _kernel_at(net: Net, weight: Value, place: Sequence[int]) -> Value:
    """The matrix of output and input channels at one place of the kernel."""
    for axis, step in enumerate(place, start=2):
        weight = net.pick(weight, axis, [step]) if isinstance(weight, Mat) else weight.take([step], axis)
    return net.reshape(weight, weight.shape[:2])


def _mixed_channels(net: Net, value: Value, matrix: Value, group: int) -> Value:
    """[batch, in, ...] by a matrix [out, in / group], each group of channels by its own rows."""
    batch, channels, *sizes = value.shape
    area, out, inner = math.prod(sizes), matrix.shape[0], channels // group
    columns = net.reshape(value, (batch, group, inner, area))
    rows = net.reshape(matrix, (1, group, out // group, inner))
    rows = rows if isinstance(rows, Mat) else net.stored(rows)
    return net.reshape(net.matmul(rows, columns), (batch, out, *sizes))


def _conv_transpose(net: Net, node: Node) -> Value:
    """Each place of the kernel mixes channels and spreads the result over the output."""
    value, weight = first(node), node.constant(1)
    if weight is None:
        raise refused("ConvTranspose without weights")
    group = int(node.attributes.get("group", 1))
    sizes, kernel = value.shape[2:], weight.shape[2:]
    strides = node.attributes.get("strides", [1] * len(sizes))
    dilations = node.attributes.get("dilations", [1] * len(sizes))
    before, full = _spread(node, sizes, kernel)
    inner = weight.shape[0] // group
    by_group = weight.reshape(group, inner, weight.shape[1], *kernel)
    turned = np.moveaxis(by_group, 2, 1).reshape(group * weight.shape[1], inner, *kernel)
    total: Value | None = None
    for place in product(*(range(each) for each in kernel)):
        at: Any = (..., *place)
        part = _mixed_channels(net, value, turned[at], group)
        for axis, step in enumerate(place):
            matrix = np.zeros((sizes[axis], full[axis]), np.float32)
            for source in range(sizes[axis]):
                to = source * strides[axis] + step * dilations[axis] - before[axis]
                if 0 <= to < full[axis]:
                    matrix[source, to] = 1
            part = net.along(part, axis + 2, matrix)
        total = part if total is None else net.binary("Add", total, part)
    if total is None:
        raise refused("ConvTranspose without a kernel")
    return _biased(net, total, node.inputs[2] if len(node.inputs) > 2 else None)


def _spread(node: Node, sizes: Shape, kernel: Shape) -> tuple[list[int], list[int]]:
    """Pads at the beginning and output sizes of a ConvTranspose, by ONNX's formulas."""
    rank = len(sizes)
    strides = node.attributes.get("strides", [1] * rank)
    dilations = node.attributes.get("dilations", [1] * rank)
    extra = node.attributes.get("output_padding", [0] * rank)
    pads = list(node.attributes.get("pads", [0] * (2 * rank)))
    auto = node.attributes.get("auto_pad", b"NOTSET").decode()
    wanted = node.attributes.get("output_shape")
    before, full = [], []
    for axis in range(rank):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        natural = strides[axis] * (sizes[axis] - 1) + extra[axis] + reach
        if wanted or auto.startswith("SAME"):
            size = wanted[axis - rank] if wanted else sizes[axis] * strides[axis]
            total = natural - size
            half = int(total / 2)  # may be negative: cut towards zero, as ONNX does
            before.append(half if auto == "SAME_UPPER" else total - half)
            full.append(size)
        else:
            before.append(pads[axis])
            full.append(natural - pads[axis] - pads[axis + rank])
    return before, full


def _conv_one(
    net: Net, value: Value, weights: tuple[Array, Array | None], windows: Sequence[_Window], group: int
) -> Value:
    weight, bias = weights
    flat = len(windows) == 1
    high = _Window(1, 1, 1, 1, 0, 0, 1) if flat else windows[0]
    wide = windows[-1]
    channels, count = value.shape[1], weight.shape[0]
    mat = net.with_dims(value, (channels, high.size, wide.size))
    net.tagged(weight)
    if bias is not None:
        net.raw(bias)
    made = net.add(
        "ConvolutionDepthWise" if group > 1 else "Convolution",
        [mat],
        (count, high.out, wide.out),
        p0=count, p1=wide.kernel, p11=high.kernel, p2=wide.dilation, p12=high.dilation, p3=wide.stride,
        p13=high.stride, p4=wide.before, p14=high.before, p15=wide.after, p16=high.after,
        p5=int(bias is not None), p6=weight.size, p7=group,
    )  # fmt: skip
    return net.reshape(made, (1, count, wide.out) if flat else (1, count, high.out, wide.out))


RULES: dict[str, Rule] = {
    "AveragePool": _average_pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "GlobalLpPool": _global_lp_pool,
    "LpPool": _lp_pool,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
}
