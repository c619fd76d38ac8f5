"""Conv and ConvTranspose."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgebench.convert.coreml.base import Node, mb, open_same, padded, sliced

Pads = list[tuple[int, int]]


def conv(node: Node) -> Any:
    """A convolution over 1, 2 or 3 axes; computed weights and bias are taken where Core ML can."""
    node.require_float()
    x, weight = node.var(0), node.value(1)
    axes = _axes(node, x)
    strides, dilations = spread(node, "strides", axes), spread(node, "dilations", axes)
    same = open_same(node, x)
    pads = [] if same else same_or_given(node, x.shape[2:], weight.shape[2:], strides, dilations)
    if any(size < 0 for pair in pads for size in pair):
        x, pads = _cropped(x, pads)
    if weight.const is None and any(dilation > 1 for dilation in dilations):
        raise node.refused("Core ML has no dilated convolution with computed weights")
    bias = node.value(2) if node.given(2) else None
    constant = {"bias": bias.mil()} if bias is not None and bias.const is not None else {}
    out = mb.conv(
        x=x,
        weight=weight.mil(),
        strides=np.array(strides, np.int32),
        dilations=np.array(dilations, np.int32),
        groups=np.int32(node.attribute("group", 1)),
        **(same or _given(pads)),
        **constant,
    )
    return out if bias is None or constant else _biased(out, bias.mil())


def conv_transpose(node: Node) -> Any:
    """The transposed convolution, cropped or extended to what ONNX's output padding or shape asks."""
    node.require_float()
    x, weight = node.var(0), node.value(1)
    if weight.const is None:
        raise node.refused("Core ML's transposed convolution wants constant weights")
    axes = _axes(node, x)
    strides, dilations = spread(node, "strides", axes), spread(node, "dilations", axes)
    crops, extra = _crops(node, x.shape[2:], weight.shape[2:], strides, dilations)
    bias = node.value(2) if node.given(2) else None
    direct = bias is not None and bias.const is not None and not any(extra)
    out = mb.conv_transpose(
        x=x,
        weight=weight.mil(),
        strides=np.array(strides, np.int32),
        dilations=np.array(dilations, np.int32),
        pad_type="custom",
        pad=np.array([size for pair in crops for size in pair], np.int32),
        groups=np.int32(node.attribute("group", 1)),
        **({"bias": bias.mil()} if bias is not None and direct else {}),
    )
    out = padded(out, [(0, 0), (0, 0), *((0, size) for size in extra)], 0.0)
    return out if bias is None or direct else _biased(out, bias.mil())


def _crops(
    node: Node, sizes: Any, kernel: Any, strides: list[int], dilations: list[int]
) -> tuple[Pads, list[int]]:
    """What is cut off the full result before and after each axis, and what is missing behind it."""
    axes = len(strides)
    behind = spread(node, "output_padding", axes, 0)
    wanted = _wanted_shape(node, sizes, strides)
    if wanted is None:
        given = [int(size) for size in node.attribute("pads", [0] * (2 * axes))]
        pairs = list(zip(given[:axes], given[axes:], strict=True))
    else:
        full = [
            stride * (int(size) - 1) + dilation * (k - 1) + 1
            for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True)
        ]
        pairs = []
        for length, more, size in zip(full, behind, wanted, strict=True):
            total = max(length + more - size, 0)
            if length + more < size:
                behind[len(pairs)] += size - length - more
            small, large = total // 2, total - total // 2
            pairs.append((small, large) if node.attribute("auto_pad") == "SAME_UPPER" else (large, small))
    crops = [(before, max(after - more, 0)) for (before, after), more in zip(pairs, behind, strict=True)]
    extra = [max(more - after, 0) for (_, after), more in zip(pairs, behind, strict=True)]
    if any(size < 0 for pair in crops for size in pair):
        raise node.refused("Core ML has no negative pads in a transposed convolution")
    return crops, extra


def _wanted_shape(node: Node, sizes: Any, strides: list[int]) -> list[int] | None:
    if "output_shape" in node.attributes:
        return [int(size) for size in node.attribute("output_shape")][-len(strides) :]
    if str(node.attribute("auto_pad", "NOTSET")).startswith("SAME"):
        return [int(size) * stride for size, stride in zip(sizes, strides, strict=True)]
    return None


def _axes(node: Node, x: Any) -> int:
    axes = len(x.shape) - 2
    if not 1 <= axes <= 3:
        raise node.refused(f"Core ML convolves over 1 to 3 axes, this over {axes}")
    return axes


def spread(node: Node, name: str, axes: int, default: int = 1) -> list[int]:
    """An attribute of one whole number per axis."""
    return [int(item) for item in node.attribute(name, [default] * axes)]


def same_or_given(node: Node, sizes: Any, kernel: Any, strides: list[int], dilations: list[int]) -> Pads:
    """(before, after) per axis: the attribute `pads`, or what `auto_pad` comes to for these sizes."""
    axes = len(strides)
    auto = node.attribute("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        given = [int(size) for size in node.attribute("pads", [0] * (2 * axes))]
        return list(zip(given[:axes], given[axes:], strict=True))
    if auto == "VALID":
        return [(0, 0)] * axes
    pads = []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        steps = -(-int(size) // stride)
        total = max((steps - 1) * stride + (int(k) - 1) * dilation + 1 - int(size), 0)
        small, large = total // 2, total - total // 2
        pads.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return pads


def _given(pads: Pads) -> dict[str, Any]:
    return {"pad_type": "custom", "pad": np.array([size for pair in pads for size in pair], np.int32)}


def _cropped(x: Any, pads: Pads) -> tuple[Any, Pads]:
    """Negative pads as slices."""
    for axis, (before, after) in enumerate(pads, 2):
        size = int(x.shape[axis])
        x = sliced(x, axis, max(-before, 0), size - max(-after, 0))
    return x, [(max(before, 0), max(after, 0)) for before, after in pads]


def _biased(out: Any, bias: Any) -> Any:
    shape = np.array([1, -1, *[1] * (len(out.shape) - 2)], np.int32)
    return mb.add(x=out, y=mb.reshape(x=bias, shape=shape))
