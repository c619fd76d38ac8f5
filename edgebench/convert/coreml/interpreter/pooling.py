"""Pooling: maximum, average, L2. Each axis is pooled on its own: maxima and sums are separable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgebench.convert.coreml.interpreter.base import Array, Call, Kernel, padded, paddings, per_axis


@dataclass(frozen=True, slots=True)
class _Windows:
    """The windows along each spatial axis: size, step, padding before and after, number of windows."""

    kernel: list[int]
    strides: list[int]
    pads: list[tuple[int, int]]
    counts: list[int]

    def overhang(self, axis: int, size: int) -> int:
        """How far the last window reaches beyond the padded input: with ceil_mode only."""
        end = (self.counts[axis] - 1) * self.strides[axis] + self.kernel[axis]
        return max(0, end - size - sum(self.pads[axis]))


def _windows(call: Call, x: Array) -> _Windows:
    axes = x.ndim - 2
    if not 1 <= axes <= 3:
        raise call.refuse(f"its input has rank {x.ndim}, Core ML takes 3 to 5")
    kernel = per_axis(call, "kernel_sizes", axes)
    strides = per_axis(call, "strides", axes, [1] * axes)
    pads = paddings(call, x.shape[2:], kernel, strides)
    ceiling = call.flag("ceil_mode")
    if ceiling and (axes > 2 or any(before != after for before, after in pads)):
        raise call.refuse("ceil_mode needs one or two dimensions and symmetric padding")
    counts = []
    for axis in range(axes):
        before, after = pads[axis]
        size, stride = x.shape[2 + axis], strides[axis]
        free = size + before + after - kernel[axis]
        number = (free + (stride - 1 if ceiling else 0)) // stride + 1
        if ceiling and before + after and (number - 1) * stride >= size + before:
            number -= 1  # the last window would begin in the padding
        if number < 1 or (number - 1) * stride >= size + before:
            raise call.refuse(f"a window of {kernel[axis]} lies outside an input of {size}")
        counts.append(number)
    return _Windows(kernel, strides, pads, counts)


def _pooled(x: Array, windows: _Windows, combine: np.ufunc, neutral: float) -> Array:
    pads = [
        (before, after + windows.overhang(axis, x.shape[2 + axis]))
        for axis, (before, after) in enumerate(windows.pads)
    ]
    found = padded(x, pads, neutral)
    for axis in range(len(pads)):
        found = _along(found, axis + 2, axis, windows, combine)
    return found


def _along(x: Array, axis: int, number: int, windows: _Windows, combine: np.ufunc) -> Array:
    stride, count = windows.strides[number], windows.counts[number]
    result: Any = None
    for tap in range(windows.kernel[number]):
        index = [slice(None)] * x.ndim
        index[axis] = slice(tap, tap + (count - 1) * stride + 1, stride)
        view = x[tuple(index)]
        result = view.copy() if result is None else combine(result, view, out=result)
    return np.asarray(result)


def _max_pool(call: Call) -> Array:
    x = call.array("x")
    return _pooled(x, _windows(call, x), np.maximum, -np.inf)


def _avg_pool(call: Call) -> Array:
    """Sums over the number of elements: padding counts unless excluded, what ceil_mode adds never does."""
    x = call.array("x")
    windows = _windows(call, x)
    sums = _pooled(x, windows, np.add, 0)
    counted = np.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
    if call.flag("exclude_padding_from_average"):
        elements = _pooled(counted, windows, np.add, 0)
        if not elements.all():
            raise call.refuse("a window lies in the padding alone, so its average is not defined")
        return np.asarray(sums / elements)
    counted = padded(counted, windows.pads, 1)
    bare = _Windows(windows.kernel, windows.strides, [(0, 0)] * len(windows.pads), windows.counts)
    return np.asarray(sums / _pooled(counted, bare, np.add, 0))


def _l2_pool(call: Call) -> Array:
    x = call.array("x")
    if x.ndim > 4:
        raise call.refuse(f"its input has rank {x.ndim}, Core ML takes 3 or 4")
    return np.asarray(np.sqrt(_pooled(np.square(x), _windows(call, x), np.add, 0)))


KERNELS: Mapping[str, Kernel] = {"avg_pool": _avg_pool, "l2_pool": _l2_pool, "max_pool": _max_pool}
