"""MaxPool, AveragePool, LpPool, global pools, MaxUnpool; what Core ML's pools cannot do is cut in slices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from edgebench.convert.coreml.base import (
    MAX_TAPS,
    Node,
    cast,
    mb,
    open_same,
    padded,
    reshaped,
    sliced,
)


class _Window(NamedTuple):
    """How a window moves over the axes behind batch and channel."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: list[tuple[int, int]]
    sizes: list[int]
    steps: list[int]


def max_pool(node: Node) -> Any:
    """The greatest of each window, and where it was found when that is asked."""
    if _open_same(node):
        return mb.max_pool(x=node.var(0), **_open_same(node))
    x, window = node.var(0), _window(node)
    if len(node.outputs) > 1 and node.outputs[1]:
        return _max_with_places(node, x, window)
    if node.floats() and _native(node, window):
        return mb.max_pool(x=x, kernel_sizes=np.array(window.kernel, np.int32), **_moves(window))
    lowest = -math.inf if node.floats() else float(np.iinfo(np.int32).min)
    return _windowed(x, window, lowest, mb.maximum)


def average_pool(node: Node) -> Any:
    """The mean of each window, with or without the border."""
    node.require_float()
    with_border = bool(node.attribute("count_include_pad", 0))
    if _open_same(node):
        return mb.avg_pool(x=node.var(0), exclude_padding_from_average=not with_border, **_open_same(node))
    x, window = node.var(0), _window(node)
    if _native(node, window):
        return mb.avg_pool(
            x=x,
            kernel_sizes=np.array(window.kernel, np.int32),
            exclude_padding_from_average=not with_border,
            **_moves(window),
        )
    total = _windowed(x, window, 0.0, mb.add)
    counts = _counts(window, with_border=with_border)
    return mb.mul(x=total, y=(1.0 / counts).astype(np.float32)[None, None])


def lp_pool(node: Node) -> Any:
    """The p-norm of each window."""
    node.require_float()
    power = float(node.attribute("p", 2))
    window = _window(node)
    raised = mb.pow(x=mb.abs(x=node.var(0)), y=np.float32(power))
    total = _windowed(raised, window, 0.0, mb.add)
    return mb.pow(x=total, y=np.float32(1.0 / power))


def global_max_pool(node: Node) -> Any:
    """The greatest of each channel."""
    x = node.var(0)
    return mb.reduce_max(x=x, axes=_spatial(x), keep_dims=True)


def global_average_pool(node: Node) -> Any:
    """The mean of each channel."""
    node.require_float()
    x = node.var(0)
    return mb.reduce_mean(x=x, axes=_spatial(x), keep_dims=True)


def global_lp_pool(node: Node) -> Any:
    """The p-norm of each channel."""
    node.require_float()
    x, power = node.var(0), float(node.attribute("p", 2))
    total = mb.reduce_sum(x=mb.pow(x=mb.abs(x=x), y=np.float32(power)), axes=_spatial(x), keep_dims=True)
    return mb.pow(x=total, y=np.float32(1.0 / power))


def max_unpool(node: Node) -> Any:
    """Zeros, with the values put back where the pool had found them; a larger shape adds zeros behind."""
    x, kernel = node.var(0), [int(size) for size in node.attribute("kernel_shape")]
    axes = len(kernel)
    strides = [int(item) for item in node.attribute("strides", [1] * axes)]
    pads = [int(item) for item in node.attribute("pads", [0] * (2 * axes))]
    sizes = [
        (int(size) - 1) * stride + length - pads[at] - pads[at + axes]
        for at, (size, stride, length) in enumerate(zip(x.shape[2:], strides, kernel, strict=True))
    ]
    natural = (int(x.shape[0]), int(x.shape[1]), *sizes)
    flat = mb.const(val=np.zeros(math.prod(natural), np.float32))
    everything = np.array([-1], np.int32)
    places, values = mb.reshape(x=node.var(1), shape=everything), mb.reshape(x=x, shape=everything)
    spread = mb.scatter(data=flat, indices=places, updates=values, axis=np.int32(0), mode="update")
    wanted = node.ints(2, "the output shape") if node.given(2) else list(natural)
    borders = [(0, after - before) for before, after in zip(natural, wanted, strict=True)]
    if any(after < 0 for _, after in borders):
        raise node.refused(f"the output shape {wanted} is smaller than what is put back, {list(natural)}")
    return padded(reshaped(spread, natural), borders, 0.0)


# --- windows ------------------------------------------------------------------------------------


def _spatial(x: Any) -> Any:
    return np.arange(2, len(x.shape), dtype=np.int32)


def _window(node: Node) -> _Window:
    sizes = list(node.value(0).shape[2:])
    axes = len(sizes)
    if axes < 1:
        raise node.refused("there is no axis behind batch and channel to pool over")
    kernel = [int(item) for item in node.attribute("kernel_shape")]
    strides = [int(item) for item in node.attribute("strides", [1] * axes)]
    dilations = [int(item) for item in node.attribute("dilations", [1] * axes)]
    reach = [(k - 1) * dilation + 1 for k, dilation in zip(kernel, dilations, strict=True)]
    auto = node.attribute("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        given = [int(size) for size in node.attribute("pads", [0] * (2 * axes))]
        pads = list(zip(given[:axes], given[axes:], strict=True))
    elif auto == "VALID":
        pads = [(0, 0)] * axes
    else:
        pads = []
        for size, length, stride in zip(sizes, reach, strides, strict=True):
            total = max((-(-size // stride) - 1) * stride + length - size, 0)
            small, large = total // 2, total - total // 2
            pads.append((small, large) if auto == "SAME_UPPER" else (large, small))
    steps = []
    for size, length, stride, (before, after) in zip(sizes, reach, strides, pads, strict=True):
        room = size + before + after - length
        count = -(-room // stride) + 1 if node.attribute("ceil_mode", 0) else room // stride + 1
        if node.attribute("ceil_mode", 0) and (count - 1) * stride >= size + before:
            count -= 1  # a window must begin inside the tensor or in the border before it
        steps.append(count)
    return _Window(kernel, strides, dilations, pads, sizes, steps)


def _open_same(node: Node) -> dict[str, Any]:
    """What Core ML's own pool is told where `auto_pad` depends on open sizes; nothing where it cannot."""
    x = node.var(0)
    same = open_same(node, x)
    plain = all(int(step) == 1 for step in node.attribute("dilations", [])) and not any(node.outputs[1:])
    if not same or not plain or not node.floats() or node.attribute("ceil_mode", 0):
        return {}
    axes = len(x.shape) - 2
    kernel = [int(item) for item in node.attribute("kernel_shape")]
    strides = [int(item) for item in node.attribute("strides", [1] * axes)]
    return {"kernel_sizes": np.array(kernel, np.int32), "strides": np.array(strides, np.int32), **same}


def _native(node: Node, window: _Window) -> bool:
    """Whether Core ML's own pool does exactly this."""
    return (
        len(window.kernel) <= 3
        and all(dilation == 1 for dilation in window.dilations)
        and not node.attribute("ceil_mode", 0)
        and all(
            max(pair) < kernel and min(pair) >= 0
            for pair, kernel in zip(window.pads, window.kernel, strict=True)
        )
    )


def _moves(window: _Window) -> dict[str, Any]:
    return {
        "strides": np.array(window.strides, np.int32),
        "pad_type": "custom",
        "pad": np.array([size for pair in window.pads for size in pair], np.int32),
    }


def _windowed(x: Any, window: _Window, border: float, combine: Callable[..., Any]) -> Any:
    """What all windows hold, combined: one axis after the other, as a window is a rectangle."""
    wide = padded(x, [(0, 0), (0, 0), *_borders(window)], border)
    for axis in range(len(window.kernel)):
        moved = _along_axis(wide, axis + 2, window.kernel[axis], window.dilations[axis], combine)
        reach = (window.steps[axis] - 1) * window.strides[axis] + 1
        wide = sliced(moved, axis + 2, 0, reach, window.strides[axis])
    return mb.identity(x=wide) if wide is x else wide


def _along_axis(x: Any, axis: int, length: int, dilation: int, combine: Callable[..., Any]) -> Any:
    """Every entry combined with the next ones, `length` in all, `dilation` apart.

    Runs of 1, 2, 4, 8 ... entries are combined from two halves each, and the window from those runs that add
    up to its length: long windows take few steps.
    """
    places = int(x.shape[axis]) - (length - 1) * dilation
    run, result, done = x, None, 0
    for bit in range(length.bit_length()):
        size = 1 << bit
        if length & size:
            part = sliced(run, axis, done * dilation, done * dilation + places)
            result = part if result is None else combine(x=result, y=part)
            done += size
        if length >= 2 * size:
            left = int(run.shape[axis]) - size * dilation
            run = combine(
                x=sliced(run, axis, 0, left), y=sliced(run, axis, size * dilation, size * dilation + left)
            )
    return result


def _taps(node: Node, x: Any, window: _Window, border: float) -> Iterator[tuple[tuple[int, ...], Any]]:
    """For each place inside the window: the place, and what all windows see there."""
    if math.prod(window.kernel) > MAX_TAPS:
        raise node.refused(
            f"where each of {math.prod(window.kernel)} values of a window lies takes too many steps",
            "ask for the values alone, not for their places",
        )
    wide = padded(x, [(0, 0), (0, 0), *_borders(window)], border)
    for place in itertools.product(*(range(kernel) for kernel in window.kernel)):
        begin = [0, 0, *(at * dilation for at, dilation in zip(place, window.dilations, strict=True))]
        moves = zip(begin[2:], window.steps, window.strides, strict=True)
        end = [*map(int, x.shape[:2]), *(first + (steps - 1) * stride + 1 for first, steps, stride in moves)]
        yield (
            place,
            mb.slice_by_index(
                x=wide,
                begin=np.array(begin, np.int32),
                end=np.array(end, np.int32),
                stride=np.array([1, 1, *window.strides], np.int32),
            ),
        )


def _borders(window: _Window) -> list[tuple[int, int]]:
    """The border before and after each axis, wide enough behind for the last window of ceil mode."""
    borders = []
    for axis, (before, after) in enumerate(window.pads):
        reach = (window.kernel[axis] - 1) * window.dilations[axis] + 1
        needed = (window.steps[axis] - 1) * window.strides[axis] + reach
        borders.append((before, max(after, needed - window.sizes[axis] - before)))
    return borders


def _counts(window: _Window, *, with_border: bool) -> Any:
    """How many values each window counts: inside the tensor, or inside tensor and given border."""
    per_axis = []
    for axis, (before, after) in enumerate(window.pads):
        low = -before if with_border else 0
        high = window.sizes[axis] + (after if with_border else 0)
        counts = []
        for step in range(window.steps[axis]):
            first = step * window.strides[axis] - before
            places = (first + at * window.dilations[axis] for at in range(window.kernel[axis]))
            counts.append(sum(low <= place < high for place in places))
        per_axis.append(counts)
    result = np.ones((), np.float64)
    for counts in per_axis:
        result = result[..., None] * np.array(counts, np.float64)
    return result


def _max_with_places(node: Node, x: Any, window: _Window) -> list[Any]:
    """The greatest and its place in the flattened tensor; the first one where several are equal."""
    if node.attribute("storage_order", 0) and len(window.kernel) != 2:
        raise node.refused("places in column order are known for two axes only")
    lowest = -math.inf if node.floats() else float(np.iinfo(np.int32).min)
    best = place = None
    for at, tap in _taps(node, x, window, lowest):
        here = mb.add(
            x=mb.mul(x=cast(mb.equal(x=tap, y=tap), "int32"), y=np.int32(0)), y=_places(node, x, window, at)
        )
        if best is None:
            best, place = tap, here
            continue
        better = mb.greater(x=tap, y=best)
        place = mb.select(cond=better, a=here, b=place)
        best = mb.maximum(x=best, y=tap)
    return [best, place]


def _places(node: Node, x: Any, window: _Window, at: tuple[int, ...]) -> Any:
    """Where each window's value at one place lies in the flattened tensor."""
    batch, channels = int(x.shape[0]), int(x.shape[1])
    grids = []
    for axis, inside in enumerate(at):
        first = np.arange(window.steps[axis]) * window.strides[axis] - window.pads[axis][0]
        grids.append(np.clip(first + inside * window.dilations[axis], 0, window.sizes[axis] - 1))
    mesh = np.meshgrid(*grids, indexing="ij")
    sizes = window.sizes
    if node.attribute("storage_order", 0):
        mesh, sizes = mesh[::-1], sizes[::-1]
    flat = np.ravel_multi_index(mesh, sizes)
    planes = (np.arange(batch * channels) * math.prod(window.sizes)).reshape(batch, channels, *[1] * len(at))
    return (planes + flat[None, None]).astype(np.int32)
