"""Convolution and its transpose, in one to three dimensions, as matrix products over gathered windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product

import numpy as np
from numpy.lib.stride_tricks import as_strided

from edgebench.convert.coreml.interpreter.base import Array, Call, Kernel, count, padded, paddings, per_axis

_WINDOW_BYTES = 16 << 20  # windows gathered at a time: bounds the memory, and stays near the caches


def _conv(call: Call) -> Array:
    x, weight, bias = call.array("x"), call.array("weight"), call.maybe("bias")
    axes = x.ndim - 2
    if not 1 <= axes <= 3 or weight.ndim != x.ndim:
        raise call.refuse(f"its input {list(x.shape)} and weight {list(weight.shape)} do not fit")
    groups = call.integer("groups", 1)
    if groups < 1 or x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise call.refuse(f"{groups} groups do not fit {x.shape[1]} channels and weight {list(weight.shape)}")
    strides = per_axis(call, "strides", axes, [1] * axes)
    dilations = per_axis(call, "dilations", axes, [1] * axes)
    extents = [(size - 1) * step + 1 for size, step in zip(weight.shape[2:], dilations, strict=True)]
    x = padded(x, paddings(call, x.shape[2:], extents, strides), 0)
    sizes = [(x.shape[2 + i] - extents[i]) // strides[i] + 1 for i in range(axes)]
    out = np.empty(call.bound([x.shape[0], weight.shape[0], *sizes]), dtype=x.dtype)
    if out.size:
        if weight.shape[1] == 1 and weight.shape[0] == groups:
            _depthwise(x, weight, strides, dilations, out)
        else:
            _grouped(x, weight, strides, dilations, out)
    if bias is not None:
        out += bias.reshape(-1, *[1] * axes)
    return out


def _depthwise(x: Array, weight: Array, strides: list[int], dilations: list[int], out: Array) -> None:
    """One filter per channel: a sum over the filter's taps, each a strided view of the input."""
    out[...] = 0
    term = np.empty_like(out)
    flat = weight.reshape(len(weight), -1)
    for index, tap in enumerate(product(*map(range, weight.shape[2:]))):
        view = x[(slice(None), slice(None), *_strided(tap, strides, dilations, out.shape[2:]))]
        factors = flat[:, index].reshape(-1, *[1] * len(tap))
        np.multiply(view, factors, out=term)
        out += term


def _strided(
    tap: tuple[int, ...], strides: list[int], dilations: list[int], sizes: tuple[int, ...]
) -> Iterator[slice]:
    """Where the elements lie that one tap of the filter meets."""
    for at, stride, dilation, size in zip(tap, strides, dilations, sizes, strict=True):
        first = at * dilation
        yield slice(first, first + (size - 1) * stride + 1, stride)


def _grouped(x: Array, weight: Array, strides: list[int], dilations: list[int], out: Array) -> None:
    """One matrix product per image, group and slab of output rows."""
    groups = x.shape[1] // weight.shape[1]
    filters = weight.reshape(groups, weight.shape[0] // groups, -1)
    sizes = out.shape[2:]
    row_bytes = weight[0].size * count(sizes[1:]) * x.itemsize
    rows = max(1, min(sizes[0], _WINDOW_BYTES // max(1, row_bytes)))
    for image, group in product(range(x.shape[0]), range(groups)):
        channels = x[image, group * weight.shape[1] : (group + 1) * weight.shape[1]]
        results = out[image].reshape(groups, -1, *sizes)[group]
        for row in range(0, sizes[0], rows):
            slab = (min(rows, sizes[0] - row), *sizes[1:])
            columns = _columns(channels[:, row * strides[0] :], weight.shape[2:], (strides, dilations), slab)
            found = np.matmul(filters[group], columns)
            results[:, row : row + slab[0]] = found.reshape(-1, *slab)


def _columns(
    x: Array, kernel: tuple[int, ...], steps: tuple[list[int], list[int]], sizes: tuple[int, ...]
) -> Array:
    """The windows of `x` [channels, *spatial] as a matrix [channels * kernel, positions]."""
    strides, dilations = steps
    spatial = x.strides[1:]
    taps = [stride * dilation for stride, dilation in zip(spatial, dilations, strict=True)]
    moves = [stride * step for stride, step in zip(spatial, strides, strict=True)]
    windows = as_strided(x, (x.shape[0], *kernel, *sizes), (x.strides[0], *taps, *moves), writeable=False)
    return windows.reshape(x.shape[0] * count(kernel), count(sizes))


def _conv_transpose(call: Call) -> Array:
    """Each input element spreads its filter; what the padding cuts off is left out.

    The whole result has (size - 1) * stride + extent elements. `pad_type` says how many of them are cut off
    in front, `output_shape` how many are kept; elements beyond the whole result hold the bias alone.
    """
    x, weight, bias = call.array("x"), call.array("weight"), call.maybe("bias")
    axes = x.ndim - 2
    groups = call.integer("groups", 1)
    if not 1 <= axes <= 3 or weight.ndim != x.ndim or x.shape[1] != weight.shape[0] or x.shape[1] % groups:
        raise call.refuse(
            f"{groups} groups, input {list(x.shape)} and weight {list(weight.shape)} do not fit"
        )
    strides = per_axis(call, "strides", axes, [1] * axes)
    dilations = per_axis(call, "dilations", axes, [1] * axes)
    whole = [
        (x.shape[2 + i] - 1) * strides[i] + (weight.shape[2 + i] - 1) * dilations[i] + 1 for i in range(axes)
    ]
    channels = weight.shape[1] * groups
    spread = np.zeros(call.bound([x.shape[0], channels, *whole]), dtype=x.dtype)
    filters = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    inputs = x.reshape(x.shape[0], groups, x.shape[1] // groups, -1)
    for index, tap in enumerate(product(*map(range, weight.shape[2:]))):
        found = np.matmul(filters[..., index].swapaxes(1, 2), inputs)
        view = spread[(slice(None), slice(None), *_strided(tap, strides, dilations, x.shape[2:]))]
        view += found.reshape(view.shape)
    kept = _kept(call, spread, strides, x.shape[2:])
    return kept if bias is None else kept + bias.reshape(-1, *[1] * axes)


def _kept(call: Call, spread: Array, strides: list[int], inputs: tuple[int, ...]) -> Array:
    whole = spread.shape[2:]
    before, sizes = _cuts(call, whole, strides, inputs)
    if call.has("output_shape"):
        wanted = call.integers("output_shape")
        if len(wanted) != spread.ndim or wanted[:2] != list(spread.shape[:2]):
            raise call.refuse(f"its output_shape {wanted} does not fit {list(spread.shape)}")
        if call.text("pad_type", "valid").lower() == "same":  # as a convolution of that size would pad
            before = [max(0, full - size) // 2 for full, size in zip(whole, wanted[2:], strict=True)]
        sizes = wanted[2:]
    made = np.zeros(call.bound([*spread.shape[:2], *sizes]), dtype=spread.dtype)
    last = [min(full, first + size) for full, first, size in zip(whole, before, sizes, strict=True)]
    taken = tuple(slice(first, end) for first, end in zip(before, last, strict=True))
    filled = tuple(slice(0, max(0, end - first)) for first, end in zip(before, last, strict=True))
    made[(slice(None), slice(None), *filled)] = spread[(slice(None), slice(None), *taken)]
    return made


def _cuts(
    call: Call, whole: tuple[int, ...], strides: list[int], inputs: tuple[int, ...]
) -> tuple[list[int], list[int]]:
    """How much is cut off in front of each dimension, and the size that is left."""
    if call.text("pad_type", "valid").lower() == "same":
        sizes = [size * stride for size, stride in zip(inputs, strides, strict=True)]
        return [max(0, full - size) // 2 for full, size in zip(whole, sizes, strict=True)], sizes
    pads = paddings(call, inputs, [1] * len(whole), strides)
    left = [full - before - after for full, (before, after) in zip(whole, pads, strict=True)]
    return [before for before, _ in pads], left


KERNELS: Mapping[str, Kernel] = {"conv": _conv, "conv_transpose": _conv_transpose}
