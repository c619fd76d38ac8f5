"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgebench.convert.coreml.interpreter.base import ELEMENT_NAMES, Array, Call, Kernel

_Reduce = Callable[..., Any]


def _over_axes(function: _Reduce) -> Kernel:
    """Kernel of a reduction: `axes` (all by default), `keep_dims`; the element type is kept."""

    def kernel(call: Call) -> Array:
        x = call.array("x")
        axes = call.integers("axes", list(range(x.ndim)))
        reduced = function(x, axis=tuple(axes), keepdims=call.flag("keep_dims"))
        return np.asarray(reduced).astype(x.dtype, copy=False)

    return kernel


def _sum(x: Array, **over: Any) -> Any:
    return np.sum(x, dtype=x.dtype, **over)  # int32 stays int32 and wraps


def _prod(x: Array, **over: Any) -> Any:
    return np.prod(x, dtype=x.dtype, **over)


def _l1_norm(x: Array, **over: Any) -> Any:
    return _sum(np.abs(x), **over)


def _l2_norm(x: Array, **over: Any) -> Any:
    return np.sqrt(_sum(np.square(x), **over))


def _log_sum(x: Array, **over: Any) -> Any:
    return np.log(_sum(x, **over))


def _log_sum_exp(x: Array, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    largest = np.max(x, axis=axis, keepdims=True)
    largest = np.where(np.isfinite(largest), largest, 0)
    logarithm = np.log(np.sum(np.exp(x - largest), axis=axis, keepdims=True)) + largest
    return logarithm if keepdims else np.squeeze(logarithm, axis=axis)


def _sum_square(x: Array, **over: Any) -> Any:
    return _sum(np.square(x), **over)


def _arg(function: _Reduce) -> Kernel:
    """Kernel of argmax or argmin; of several equal values the first (Core ML guarantees none)."""

    def kernel(call: Call) -> Array:
        x = call.array("x")
        found = function(x, axis=call.integer("axis", -1), keepdims=call.flag("keep_dims"))
        name = call.text("output_dtype", "int32").lower()
        if name not in ("int32", "uint16"):
            raise call.refuse(f'its output type "{name}" is neither int32 nor uint16')
        return np.asarray(found).astype(ELEMENT_NAMES[name].numpy)

    return kernel


KERNELS: Mapping[str, Kernel] = {
    "reduce_argmax": _arg(np.argmax),
    "reduce_argmin": _arg(np.argmin),
    "reduce_l1_norm": _over_axes(_l1_norm),
    "reduce_l2_norm": _over_axes(_l2_norm),
    "reduce_log_sum": _over_axes(_log_sum),
    "reduce_log_sum_exp": _over_axes(_log_sum_exp),
    "reduce_max": _over_axes(np.max),
    "reduce_mean": _over_axes(np.mean),
    "reduce_min": _over_axes(np.min),
    "reduce_prod": _over_axes(_prod),
    "reduce_sum": _over_axes(_sum),
    "reduce_sum_square": _over_axes(_sum_square),
}
