"""Small seeded networks built like the ones that people deploy: numpy and onnx only, each below 3 MB.

They keep the structure of their namesakes (operators, ranks, order of reshapes and transposes), not the size.
`ARCHITECTURES` names every function that returns a ModelProto without arguments. Opset 17, static shapes.
Weights are scaled by their fan-in, so that outputs keep a useful range.

    pictures   vit vit_fused_qkv swin_like convnext_like mobilenet_like unet_like yolo_like yolo_dfl_like
    text       bert_like
    sequences  gru lstm lstm_bidirectional
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.models.generate import build, tensor

Array = NDArray[Any]


class Net:
    """A graph in the making: every method adds nodes and returns the name of the tensor they make."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._weights: dict[str, NDArray[np.generic]] = {}
        self._nodes: list[onnx.NodeProto] = []

    def op(self, kind: str, *inputs: str, to: str | None = None, **attributes: Any) -> str:
        """One node with one output."""
        name = f"{kind.lower()}_{len(self._nodes)}"
        made = to or f"{name}_out"
        self._nodes.append(helper.make_node(kind, list(inputs), [made], name=name, **attributes))
        return made

    def ops(self, kind: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        """One node with several outputs."""
        name = f"{kind.lower()}_{len(self._nodes)}"
        made = [f"{name}_out{place}" for place in range(count)]
        self._nodes.append(helper.make_node(kind, list(inputs), made, name=name, **attributes))
        return made

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """An initializer with these values."""
        name = f"constant_{len(self._weights)}"
        self._weights[name] = np.asarray(values, dtype)
        return name

    def ints(self, *values: int) -> str:
        """A list of int64, as shapes and axes are."""
        return self.constant(values, np.int64)

    def weight(self, *shape: int, fan_in: int | None = None, gain: float = 1.0) -> str:
        """Seeded normal weights with the variance gain / fan-in (all dimensions but the first)."""
        inside = fan_in or max(1, int(np.prod(shape[1:])))
        return self.constant(self._random.standard_normal(shape) * np.sqrt(gain / inside))

    def bias(self, size: int) -> str:
        """Small seeded values around 0."""
        return self.constant(self._random.standard_normal(size) * 0.1)

    def near_one(self, *shape: int) -> str:
        """Seeded values around 1, as the scales of normalisations are."""
        return self.constant(1 + self._random.standard_normal(shape) * 0.1)

    def positions(self, *shape: int) -> str:
        """Seeded position embeddings."""
        return self.constant(self._random.standard_normal(shape) * 0.3)

    # --- layers -----------------------------------------------------------------------------

    def conv(
        self,
        x: str,
        channels: tuple[int, int],
        size: int,
        stride: int = 1,
        pad: int | None = None,
        group: int = 1,
    ) -> str:
        """A convolution with bias; `channels` are those that come in and those that go out."""
        inward, outward = channels
        edge = size // 2 if pad is None else pad
        weights = [self.weight(outward, inward // group, size, size, gain=2.0), self.bias(outward)]
        return self.op(
            "Conv", x, *weights, kernel_shape=[size] * 2, strides=[stride] * 2, pads=[edge] * 4, group=group
        )

    def batch_norm(self, x: str, channels: int) -> str:
        """Batch normalisation as it is used: with recorded statistics."""
        variance = self.constant(np.abs(self._random.standard_normal(channels)) * 0.3 + 0.7)
        statistics = [self.near_one(channels), self.bias(channels), self.bias(channels), variance]
        return self.op("BatchNormalization", x, *statistics, epsilon=1e-5)

    def linear(self, x: str, inward: int, outward: int) -> str:
        """MatMul and Add over the last axis, as PyTorch exports a linear layer behind more than two axes."""
        return self.op(
            "Add", self.op("MatMul", x, self.weight(inward, outward, fan_in=inward)), self.bias(outward)
        )

    def classifier(self, x: str, inward: int, outward: int, to: str) -> str:
        """Gemm over two axes."""
        return self.op("Gemm", x, self.weight(outward, inward), self.bias(outward), transB=1, to=to)

    def layer_norm(self, x: str, size: int) -> str:
        """Native layer normalisation over the last axis."""
        return self.op("LayerNormalization", x, self.near_one(size), self.bias(size), axis=-1, epsilon=1e-5)

    def gelu(self, x: str) -> str:
        """The exact GELU by Erf, as exporters write it out at this opset."""
        grown = self.op("Add", self.op("Erf", self.op("Div", x, self.constant(np.sqrt(2)))), self.constant(1))
        return self.op("Mul", self.op("Mul", x, grown), self.constant(0.5))

    def silu(self, x: str) -> str:
        """x times its sigmoid."""
        return self.op("Mul", x, self.op("Sigmoid", x))

    def reshape(self, x: str, *shape: int) -> str:
        """The same values in another shape."""
        return self.op("Reshape", x, self.ints(*shape))

    def transpose(self, x: str, *order: int) -> str:
        """The axes in another order."""
        return self.op("Transpose", x, perm=list(order))

    def slice(self, x: str, start: int, end: int, axis: int) -> str:
        """A part along one axis."""
        return self.op("Slice", x, self.ints(start), self.ints(end), self.ints(axis), self.ints(1))

    def cast(self, x: str, kind: int) -> str:
        """The same values in another type."""
        name = f"cast_{len(self._nodes)}"
        self._nodes.append(helper.make_node("Cast", [x], [f"{name}_out"], name=name, to=kind))
        return f"{name}_out"

    def mlp(self, x: str, size: int, grown: int) -> str:
        """Two linear layers with a GELU between."""
        return self.linear(self.gelu(self.linear(x, size, grown)), grown, size)

    def attend(self, query: str, key: str, value: str, size: int, bias: str | None = None) -> str:
        """Softmax attention of [..., heads, tokens, size]; `bias` is added to the scores."""
        order = [0, 1, 3, 2]
        scores = self.op("MatMul", query, self.transpose(key, *order))
        scores = self.op("Mul", scores, self.constant(size**-0.5))
        if bias is not None:
            scores = self.op("Add", scores, bias)
        return self.op("MatMul", self.op("Softmax", scores, axis=-1), value)

    def attention(self, x: str, shape: tuple[int, int, int], heads: int, bias: str | None = None) -> str:
        """Multi-head attention with separate q, k and v; `shape` is [batch, tokens, size] of x."""
        batch, tokens, size = shape
        parts = []
        for _ in range(3):
            part = self.reshape(self.linear(x, size, size), batch, tokens, heads, size // heads)
            parts.append(self.transpose(part, 0, 2, 1, 3))
        mixed = self.transpose(self.attend(parts[0], parts[1], parts[2], size // heads, bias), 0, 2, 1, 3)
        return self.linear(self.reshape(mixed, batch, tokens, size), size, size)

    def fused_attention(
        self, x: str, shape: tuple[int, int, int], heads: int, bias: str | None = None
    ) -> str:
        """Multi-head attention with one qkv layer, a reshape to five axes and three Gathers, as timm's."""
        batch, tokens, size = shape
        fused = self.reshape(self.linear(x, size, 3 * size), batch, tokens, 3, heads, size // heads)
        fused = self.transpose(fused, 2, 0, 3, 1, 4)
        parts = [self.op("Gather", fused, self.constant(place, np.int64), axis=0) for place in range(3)]
        mixed = self.transpose(self.attend(parts[0], parts[1], parts[2], size // heads, bias), 0, 2, 1, 3)
        return self.linear(self.reshape(mixed, batch, tokens, size), size, size)

    def model(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto], name: str
    ) -> onnx.ModelProto:
        """The finished network."""
        return build(self._nodes, inputs, outputs, self._weights, name=name)


# --- transformers -------------------------------------------------------------------------------


def vit() -> onnx.ModelProto:
    """image [1,3,64,64] -> logits [1,10]; patches of 8, class token, separate q, k and v."""
    return _vit("vit", 101, Net.attention)


def vit_fused_qkv() -> onnx.ModelProto:
    """vit with one layer for q, k and v and a reshape to five axes."""
    return _vit("vit_fused_qkv", 102, Net.fused_attention)


def _vit(name: str, seed: int, attention: Callable[..., str]) -> onnx.ModelProto:
    net, size, heads, tokens = Net(seed), 64, 4, 65
    x = net.conv("image", (3, size), 8, stride=8, pad=0)
    x = net.transpose(net.reshape(x, 1, size, tokens - 1), 0, 2, 1)
    x = net.op("Concat", net.positions(1, 1, size), x, axis=1)
    x = net.op("Add", x, net.positions(1, tokens, size))
    for _ in range(3):
        x = net.op("Add", x, attention(net, net.layer_norm(x, size), (1, tokens, size), heads))
        x = net.op("Add", x, net.mlp(net.layer_norm(x, size), size, 4 * size))
    first = net.op("Gather", net.layer_norm(x, size), net.constant(0, np.int64), axis=1)
    net.classifier(first, size, 10, to="logits")
    return net.model([tensor("image", [1, 3, 64, 64])], [tensor("logits", [1, 10])], name)


def swin_like() -> onnx.ModelProto:
    """image [1,3,64,64] -> logits [1,10]; windows of 4 x 4, every second block shifted, patch merging."""
    net = Net(103)
    x = net.conv("image", (3, 32), 4, stride=4, pad=0)
    x = net.layer_norm(net.transpose(x, 0, 2, 3, 1), 32)
    side, size = 16, 32
    x = _swin_block(net, x, side, size, shift=0)
    x = _swin_block(net, x, side, size, shift=2)
    x = _patch_merging(net, x, size)
    side, size = 8, 64
    x = _swin_block(net, x, side, size, shift=0)
    x = _swin_block(net, x, side, size, shift=2)
    x = net.reshape(net.layer_norm(x, size), 1, side * side, size)
    pooled = net.op("ReduceMean", x, axes=[1], keepdims=0)
    net.classifier(pooled, size, 10, to="logits")
    return net.model([tensor("image", [1, 3, 64, 64])], [tensor("logits", [1, 10])], "swin_like")


def _swin_block(net: Net, x: str, side: int, size: int, *, shift: int) -> str:
    """Window attention and an MLP on [1, side, side, size]."""
    window, heads = 4, 2
    count, tokens = (side // window) ** 2, window * window
    y = _roll(net, net.layer_norm(x, size), side, shift)
    y = net.reshape(y, 1, side // window, window, side // window, window, size)
    y = net.reshape(net.transpose(y, 0, 1, 3, 2, 4, 5), count, tokens, size)
    bias = net.positions(1, heads, tokens, tokens)
    if shift:
        bias = net.op("Add", bias, net.constant(_window_mask(side, window, shift)))
    y = net.fused_attention(y, (count, tokens, size), heads, bias)
    y = net.reshape(y, 1, side // window, side // window, window, window, size)
    y = net.reshape(net.transpose(y, 0, 1, 3, 2, 4, 5), 1, side, side, size)
    x = net.op("Add", x, _roll(net, y, side, -shift))
    return net.op("Add", x, net.mlp(net.layer_norm(x, size), size, 4 * size))


def _roll(net: Net, x: str, side: int, shift: int) -> str:
    """torch.roll by -shift along height and width, as it is exported: two Slices and a Concat each."""
    if not shift:
        return x
    for axis in (1, 2):
        at = shift % side
        x = net.op("Concat", net.slice(x, at, side, axis), net.slice(x, 0, at, axis), axis=axis)
    return x


def _window_mask(side: int, window: int, shift: int) -> Array:
    """-100 between tokens of one shifted window that were no neighbours: [windows, 1, tokens, tokens]."""
    regions = np.zeros((side, side))
    edges = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for number, (rows, columns) in enumerate((rows, columns) for rows in edges for columns in edges):
        regions[rows, columns] = number
    parts = regions.reshape(side // window, window, side // window, window)
    parts = parts.transpose(0, 2, 1, 3).reshape(-1, 1, window * window)
    return np.where(parts.swapaxes(1, 2) == parts, 0.0, -100.0)[:, None]


def _patch_merging(net: Net, x: str, size: int) -> str:
    """[1, h, w, size] -> [1, h/2, w/2, 2 size]: every second row and column, side by side."""
    last = np.iinfo(np.int64).max
    parts = []
    for column in (0, 1):
        for row in (0, 1):
            starts, ends = net.ints(row, column), net.ints(last, last)
            parts.append(net.op("Slice", x, starts, ends, net.ints(1, 2), net.ints(2, 2)))
    joined = net.layer_norm(net.op("Concat", *parts, axis=-1), 4 * size)
    return net.op("MatMul", joined, net.weight(4 * size, 2 * size, fan_in=4 * size))


def bert_like() -> onnx.ModelProto:
    """ids, mask and types INT64 [1,16] -> last_hidden_state [1,16,64], pooled [1,64]."""
    net, tokens, size, heads = Net(104), 16, 64, 4
    words = net.op("Gather", net.positions(200, size), "input_ids", axis=0)
    kinds = net.op("Gather", net.positions(16, size), "token_type_ids", axis=0)
    places = net.op("Gather", net.positions(64, size), net.constant([range(tokens)], np.int64), axis=0)
    x = net.layer_norm(net.op("Add", net.op("Add", words, kinds), places), size)
    mask = net.op("Unsqueeze", net.op("Unsqueeze", "attention_mask", net.ints(1)), net.ints(2))
    mask = net.cast(mask, TensorProto.FLOAT)
    bias = net.op("Mul", net.op("Sub", net.constant(1), mask), net.constant(-10000.0))
    for _ in range(3):
        x = net.layer_norm(net.op("Add", x, net.attention(x, (1, tokens, size), heads, bias)), size)
        x = net.layer_norm(net.op("Add", x, net.mlp(x, size, 4 * size)), size)
    net.op("Identity", x, to="last_hidden_state")
    first = net.op("Gather", x, net.constant(0, np.int64), axis=1)
    net.op("Tanh", net.op("Gemm", first, net.weight(size, size), net.bias(size), transB=1), to="pooled")
    names = ("input_ids", "attention_mask", "token_type_ids")
    return net.model(
        [tensor(name, [1, tokens], TensorProto.INT64) for name in names],
        [tensor("last_hidden_state", [1, tokens, size]), tensor("pooled", [1, size])],
        "bert_like",
    )


# --- convolutional networks ---------------------------------------------------------------------


def convnext_like() -> onnx.ModelProto:
    """image [1,3,64,64] -> logits [1,10]; depthwise 7 x 7, normalised channels, GELU, layer scale."""
    net = Net(105)
    x = _channels_norm(net, net.conv("image", (3, 32), 4, stride=4, pad=0), 32)
    for size in (32, 64):
        for _ in range(2):
            x = _convnext_block(net, x, size)
        if size == 32:
            x = net.conv(_channels_norm(net, x, size), (size, 64), 2, stride=2, pad=0)
    pooled = net.op("Flatten", net.op("GlobalAveragePool", x), axis=1)
    net.classifier(net.layer_norm(pooled, 64), 64, 10, to="logits")
    return net.model([tensor("image", [1, 3, 64, 64])], [tensor("logits", [1, 10])], "convnext_like")


def _channels_norm(net: Net, x: str, size: int) -> str:
    """Layer normalisation over the channels of [1, size, h, w]."""
    return net.transpose(net.layer_norm(net.transpose(x, 0, 2, 3, 1), size), 0, 3, 1, 2)


def _convnext_block(net: Net, x: str, size: int) -> str:
    y = net.transpose(net.conv(x, (size, size), 7, group=size), 0, 2, 3, 1)
    y = net.mlp(net.layer_norm(y, size), size, 4 * size)
    y = net.transpose(net.op("Mul", y, net.near_one(size)), 0, 3, 1, 2)
    return net.op("Add", x, y)


def mobilenet_like() -> onnx.ModelProto:
    """image [1,3,64,64] -> logits [1,10]; inverted residuals, ReLU6, HardSwish, squeeze and excite."""
    net = Net(106)
    x = net.op("HardSwish", net.batch_norm(net.conv("image", (3, 16), 3, stride=2), 16))
    x = _inverted_residual(net, x, (16, 16), stride=1, swish=False)
    x = _inverted_residual(net, x, (16, 24), stride=2, swish=False)
    x = _inverted_residual(net, x, (24, 24), stride=1, swish=True)
    x = _inverted_residual(net, x, (24, 40), stride=2, swish=True)
    x = net.op("HardSwish", net.batch_norm(net.conv(x, (40, 96), 1), 96))
    pooled = net.op("Flatten", net.op("GlobalAveragePool", x), axis=1)
    net.classifier(pooled, 96, 10, to="logits")
    return net.model([tensor("image", [1, 3, 64, 64])], [tensor("logits", [1, 10])], "mobilenet_like")


def _inverted_residual(net: Net, x: str, channels: tuple[int, int], *, stride: int, swish: bool) -> str:
    inward, outward = channels
    grown = 4 * inward
    y = _act(net, net.batch_norm(net.conv(x, (inward, grown), 1), grown), swish=swish)
    y = net.conv(y, (grown, grown), 3, stride=stride, group=grown)
    y = _act(net, net.batch_norm(y, grown), swish=swish)
    if swish:
        y = _squeeze_and_excite(net, y, grown)
    y = net.batch_norm(net.conv(y, (grown, outward), 1), outward)
    return net.op("Add", x, y) if stride == 1 and inward == outward else y


def _act(net: Net, x: str, *, swish: bool) -> str:
    return net.op("HardSwish", x) if swish else net.op("Clip", x, net.constant(0), net.constant(6))


def _squeeze_and_excite(net: Net, x: str, size: int) -> str:
    y = net.op("Relu", net.conv(net.op("GlobalAveragePool", x), (size, size // 4), 1))
    y = net.op("HardSigmoid", net.conv(y, (size // 4, size), 1), alpha=1 / 6, beta=0.5)
    return net.op("Mul", x, y)


def unet_like() -> onnx.ModelProto:
    """image [1,3,64,64] -> mask [1,1,64,64]; three levels, ConvTranspose up, skips by Concat, sigmoid."""
    net, sizes = Net(107), (16, 32, 64)
    x, inward, skips = "image", 3, []
    for size in sizes:
        x = _double_conv(net, x, inward, size)
        skips.append(x)
        x, inward = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), size
    x = _double_conv(net, x, inward, 96)
    inward = 96
    for size, skip in zip(reversed(sizes), reversed(skips), strict=True):
        weights = [net.weight(inward, size, 2, 2, fan_in=inward), net.bias(size)]
        x = net.op("ConvTranspose", x, *weights, kernel_shape=[2, 2], strides=[2, 2])
        x = _double_conv(net, net.op("Concat", skip, x, axis=1), 2 * size, size)
        inward = size
    net.op("Sigmoid", net.conv(x, (inward, 1), 1), to="mask")
    return net.model([tensor("image", [1, 3, 64, 64])], [tensor("mask", [1, 1, 64, 64])], "unet_like")


def _double_conv(net: Net, x: str, inward: int, outward: int) -> str:
    for channels in (inward, outward):
        x = net.op("Relu", net.batch_norm(net.conv(x, (channels, outward), 3), outward))
    return x


# --- detectors ----------------------------------------------------------------------------------

CLASSES = 4
ANCHORS = (((10.0, 13.0), (16.0, 30.0)), ((30.0, 61.0), (62.0, 45.0)))


def yolo_like() -> onnx.ModelProto:
    """image [1,3,64,64] -> boxes [1,160,9]; anchors and a head decoded over five axes, as YOLOv5 does."""
    net = Net(108)
    wide = 5 + CLASSES
    found = []
    for x, channels, stride, anchors in zip(*_yolo_body(net), (8, 16), ANCHORS, strict=True):
        side = 64 // stride
        x = net.reshape(net.conv(x, (channels, 2 * wide), 1), 1, 2, wide, side, side)
        x = net.op("Sigmoid", net.transpose(x, 0, 1, 3, 4, 2))
        place, size, rest = _split(net, x, [2, 2, wide - 4], axis=4)
        grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1)[None, None] - 0.5
        place = net.op("Add", net.op("Mul", place, net.constant(2)), net.constant(grid))
        place = net.op("Mul", place, net.constant(stride))
        size = net.op("Pow", net.op("Mul", size, net.constant(2)), net.constant(2))
        size = net.op("Mul", size, net.constant(np.array(anchors).reshape(1, 2, 1, 1, 2)))
        found.append(net.reshape(net.op("Concat", place, size, rest, axis=4), 1, 2 * side * side, wide))
    net.op("Concat", *found, axis=1, to="boxes")
    return net.model([tensor("image", [1, 3, 64, 64])], [tensor("boxes", [1, 160, wide])], "yolo_like")


def yolo_dfl_like() -> onnx.ModelProto:
    """image [1,3,64,64] -> boxes [1,8,80]; no anchors, distances from a softmax, as YOLOv8 does."""
    net, bins = Net(109), 8
    found = []
    for x, channels, side in zip(*_yolo_body(net), (8, 4), strict=True):
        distances = net.conv(_conv_silu(net, x, (channels, channels), 3), (channels, 4 * bins), 1)
        scores = net.conv(_conv_silu(net, x, (channels, channels), 3), (channels, CLASSES), 1)
        joined = net.op("Concat", distances, scores, axis=1)
        found.append(net.reshape(joined, 1, 4 * bins + CLASSES, side * side))
    distances, scores = _split(net, net.op("Concat", *found, axis=2), [4 * bins, CLASSES], axis=1)
    spread = net.transpose(net.reshape(distances, 1, 4, bins, 80), 0, 2, 1, 3)
    weights = net.constant(np.arange(bins).reshape(1, bins, 1, 1))
    expected = net.op("Conv", net.op("Softmax", spread, axis=1), weights, kernel_shape=[1, 1])
    near, far = _split(net, net.reshape(expected, 1, 4, 80), [2, 2], axis=1)
    centres = np.concatenate([_centres(8), _centres(4)], 1)[None]
    low, high = net.op("Sub", net.constant(centres), near), net.op("Add", net.constant(centres), far)
    centre = net.op("Div", net.op("Add", low, high), net.constant(2))
    boxes = net.op("Concat", centre, net.op("Sub", high, low), axis=1)
    boxes = net.op("Mul", boxes, net.constant(np.repeat([8, 16], [64, 16]).reshape(1, 1, 80)))
    net.op("Concat", boxes, net.op("Sigmoid", scores), axis=1, to="boxes")
    return net.model([tensor("image", [1, 3, 64, 64])], [tensor("boxes", [1, 8, 80])], "yolo_dfl_like")


def _centres(side: int) -> Array:
    """x and y of the middle of every cell: [2, side * side]."""
    return np.stack(np.meshgrid(np.arange(side), np.arange(side))).reshape(2, -1) + 0.5


def _yolo_body(net: Net) -> tuple[tuple[str, str], tuple[int, int]]:
    """Feature maps of strides 8 and 16, and their channels: CSP blocks, pyramid pooling, up and down."""
    x = _conv_silu(net, "image", (3, 16), 6, stride=2, pad=2)
    x = _csp(net, _conv_silu(net, x, (16, 32), 3, stride=2), (32, 32))
    fine = _csp(net, _conv_silu(net, x, (32, 48), 3, stride=2), (48, 48))
    coarse = _pyramid_pooling(net, _csp(net, _conv_silu(net, fine, (48, 64), 3, stride=2), (64, 64)), 64)
    lateral = _conv_silu(net, coarse, (64, 48), 1)
    resize = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    up = net.op("Resize", lateral, "", net.constant([1, 1, 2, 2]), **resize)
    fine = _csp(net, net.op("Concat", up, fine, axis=1), (96, 48))
    down = _conv_silu(net, fine, (48, 48), 3, stride=2)
    coarse = _csp(net, net.op("Concat", down, lateral, axis=1), (96, 64))
    return (fine, coarse), (48, 64)


def _conv_silu(
    net: Net, x: str, channels: tuple[int, int], size: int, stride: int = 1, pad: int | None = None
) -> str:
    return net.silu(net.conv(x, channels, size, stride=stride, pad=pad))


def _csp(net: Net, x: str, channels: tuple[int, int]) -> str:
    """Two branches of half the channels, a bottleneck in one of them, joined again."""
    inward, outward = channels
    half = outward // 2
    deep, flat = _conv_silu(net, x, (inward, half), 1), _conv_silu(net, x, (inward, half), 1)
    deep = net.op("Add", deep, _conv_silu(net, _conv_silu(net, deep, (half, half), 1), (half, half), 3))
    return _conv_silu(net, net.op("Concat", deep, flat, axis=1), (outward, outward), 1)


def _pyramid_pooling(net: Net, x: str, size: int) -> str:
    """Three MaxPools of 5 x 5 one after the other, all joined."""
    parts = [_conv_silu(net, x, (size, size // 2), 1)]
    for _ in range(3):
        parts.append(net.op("MaxPool", parts[-1], kernel_shape=[5, 5], strides=[1, 1], pads=[2] * 4))
    return _conv_silu(net, net.op("Concat", *parts, axis=1), (2 * size, size), 1)


def _split(net: Net, x: str, sizes: list[int], axis: int) -> list[str]:
    return net.ops("Split", [x, net.ints(*sizes)], len(sizes), axis=axis)


# --- recurrent networks -------------------------------------------------------------------------


def gru() -> onnx.ModelProto:
    """x [12,1,16] -> scores [12,1,5], state [1,1,32]; as PyTorch exports a GRU: linear before reset."""
    net = Net(110)
    y, state = _recurrent(net, "GRU", "x", (16, 32), linear_before_reset=1)
    net.op("Identity", state, to="state")
    scores = net.linear(net.op("Squeeze", y, net.ints(1)), 32, 5)
    net.op("Softmax", scores, axis=-1, to="scores")
    return net.model(
        [tensor("x", [12, 1, 16])], [tensor("scores", [12, 1, 5]), tensor("state", [1, 1, 32])], "gru"
    )


def lstm() -> onnx.ModelProto:
    """x [12,1,16] -> scores [12,1,5], h and c [1,1,32]; two layers, states fed as inputs h0 and c0."""
    net = Net(111)
    y, *_ = _recurrent(net, "LSTM", "x", (16, 32))
    y, h, c = _recurrent(net, "LSTM", net.op("Squeeze", y, net.ints(1)), (32, 32), states=("h0", "c0"))
    net.op("Identity", h, to="h")
    net.op("Identity", c, to="c")
    net.op("Identity", net.linear(net.op("Squeeze", y, net.ints(1)), 32, 5), to="scores")
    state = [1, 1, 32]
    return net.model(
        [tensor("x", [12, 1, 16]), tensor("h0", state), tensor("c0", state)],
        [tensor("scores", [12, 1, 5]), tensor("h", state), tensor("c", state)],
        "lstm",
    )


def lstm_bidirectional() -> onnx.ModelProto:
    """x [12,1,16] -> scores [12,1,5]; both directions joined as PyTorch joins them, two layers."""
    net = Net(112)
    x, inward = "x", 16
    for _ in range(2):
        y, *_ = _recurrent(net, "LSTM", x, (inward, 24), directions=2)
        x, inward = net.reshape(net.transpose(y, 0, 2, 1, 3), 12, 1, 48), 48
    net.op("Identity", net.linear(x, 48, 5), to="scores")
    return net.model([tensor("x", [12, 1, 16])], [tensor("scores", [12, 1, 5])], "lstm_bidirectional")


def _recurrent(
    net: Net,
    kind: str,
    x: str,
    sizes: tuple[int, int],
    *,
    directions: int = 1,
    states: tuple[str, ...] = (),
    **attributes: Any,
) -> list[str]:
    """All outputs of a GRU or LSTM; `sizes` are those of input and state."""
    inward, hidden = sizes
    gates = {"GRU": 3, "LSTM": 4}[kind] * hidden
    weights = [net.weight(directions, gates, inward, fan_in=inward)]
    weights.append(net.weight(directions, gates, hidden, fan_in=hidden))
    weights.append(net.constant(np.linspace(-0.2, 0.2, directions * 2 * gates).reshape(directions, -1)))
    inputs = [x, *weights, *(("", *states) if states else ())]
    return net.ops(
        kind,
        inputs,
        3 if kind == "LSTM" else 2,
        hidden_size=hidden,
        direction="bidirectional" if directions == 2 else "forward",
        **attributes,
    )


ARCHITECTURES: dict[str, Callable[[], onnx.ModelProto]] = {
    make.__name__: make
    for make in (
        bert_like,
        convnext_like,
        gru,
        lstm,
        lstm_bidirectional,
        mobilenet_like,
        swin_like,
        unet_like,
        vit,
        vit_fused_qkv,
        yolo_dfl_like,
        yolo_like,
    )
}
