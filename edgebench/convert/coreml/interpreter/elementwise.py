"""Element by element: arithmetic, comparison, logic, functions of one value, casts and selection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgebench.convert.coreml.interpreter.base import (
    ELEMENT_NAMES,
    IOS17,
    Array,
    Call,
    Kernel,
    erf,
    saturated,
)

_Binary = Callable[[Array, Array], Array]


# --- two values -----------------------------------------------------------------------------------


def _binary(function: _Binary) -> Kernel:
    """Kernel of an operator on two broadcast values of one element type."""

    def kernel(call: Call) -> Array:
        x, y = _pair(call)
        return function(x, y)

    return kernel


def _pair(call: Call) -> tuple[Array, Array]:
    x, y = call.array("x"), call.array("y")
    if x.dtype != y.dtype:
        raise call.refuse(f"its operands have different element types, {x.dtype} and {y.dtype}")
    call.bound(np.broadcast_shapes(x.shape, y.shape))
    return x, y


def _real_div(call: Call) -> Array:
    x, y = _pair(call)
    if x.dtype.kind != "f":
        raise call.refuse("the result of real_div on integers is not documented", hint="cast to float first")
    return np.asarray(x / y)


def _logical(function: _Binary) -> Kernel:
    def kernel(call: Call) -> Array:
        x, y = _pair(call)
        if x.dtype != np.bool_:
            raise call.refuse(f"it takes truth values, not {x.dtype}")
        return function(x, y)

    return kernel


def _floor_div(x: Array, y: Array) -> Array:
    return np.asarray(np.floor(x / y)) if x.dtype.kind == "f" else np.asarray(x // y)


# --- one value ------------------------------------------------------------------------------------


def _unary(function: Callable[[Array], Any]) -> Kernel:
    """Kernel of a function of one value that keeps its element type."""

    def kernel(call: Call) -> Array:
        x = call.array("x")
        return np.asarray(function(x)).astype(x.dtype, copy=False)

    return kernel


def _inverse(call: Call) -> Array:
    x = call.array("x")
    return np.asarray(1 / (x + x.dtype.type(call.number("epsilon", 1e-4))))


def _log(call: Call) -> Array:
    x = call.array("x")
    return np.asarray(np.log(x + x.dtype.type(call.number("epsilon", 1e-45))))


def _rsqrt(call: Call) -> Array:
    x = call.array("x")
    return np.asarray(1 / np.sqrt(x + x.dtype.type(call.number("epsilon", 1e-12))))


def _logical_not(call: Call) -> Array:
    return np.asarray(np.logical_not(call.array("x")))


def _clip(call: Call) -> Array:
    x, low, high = call.array("x"), call.number("alpha"), call.number("beta")
    if call.opset >= IOS17 and not low < high:
        raise call.refuse(f"its lower bound {low:g} is not below its upper bound {high:g}")
    return np.asarray(np.minimum(np.maximum(x, x.dtype.type(low)), x.dtype.type(high)))


def _threshold(call: Call) -> Array:
    x = call.array("x")
    return np.asarray(np.maximum(x, x.dtype.type(call.number("alpha"))))


# --- types and choices ----------------------------------------------------------------------------


def _cast(call: Call) -> Array:
    """To integers: towards zero, beyond the range to the nearest end, nan to 0; to bool: not equal to 0."""
    x, name = call.array("x"), call.text("dtype")
    if name not in ELEMENT_NAMES:
        raise call.refuse(f'the element type "{name}" is not known')
    element = ELEMENT_NAMES[name]
    if element.floating:
        return np.asarray(x.astype(call.floating))
    if element.numpy == np.bool_:
        return np.asarray(x != 0)
    return saturated(x, element.numpy)


def _select(call: Call) -> Array:
    chosen, a, b = call.array("cond"), call.array("a"), call.array("b")
    if a.dtype != b.dtype or chosen.dtype != np.bool_:
        raise call.refuse(f"it selects between {a.dtype} and {b.dtype} by {chosen.dtype}")
    call.bound(np.broadcast_shapes(chosen.shape, a.shape, b.shape))
    return np.where(chosen, a, b)


KERNELS: Mapping[str, Kernel] = {
    "abs": _unary(np.abs),
    "acos": _unary(np.arccos),
    "add": _binary(np.add),
    "asin": _unary(np.arcsin),
    "atan": _unary(np.arctan),
    "atanh": _unary(np.arctanh),
    "cast": _cast,
    "ceil": _unary(np.ceil),
    "clip": _clip,
    "cos": _unary(np.cos),
    "cosh": _unary(np.cosh),
    "equal": _binary(np.equal),
    "erf": _unary(erf),
    "exp": _unary(np.exp),
    "exp2": _unary(np.exp2),
    "floor": _unary(np.floor),
    "floor_div": _binary(_floor_div),
    "greater": _binary(np.greater),
    "greater_equal": _binary(np.greater_equal),
    "inverse": _inverse,
    "less": _binary(np.less),
    "less_equal": _binary(np.less_equal),
    "log": _log,
    "logical_and": _logical(np.logical_and),
    "logical_not": _logical_not,
    "logical_or": _logical(np.logical_or),
    "logical_xor": _logical(np.logical_xor),
    "maximum": _binary(np.maximum),
    "minimum": _binary(np.minimum),
    "mod": _binary(np.mod),
    "mul": _binary(np.multiply),
    "not_equal": _binary(np.not_equal),
    "pow": _binary(np.power),
    "real_div": _real_div,
    "round": _unary(np.rint),
    "rsqrt": _rsqrt,
    "select": _select,
    "sign": _unary(np.sign),
    "sin": _unary(np.sin),
    "sinh": _unary(np.sinh),
    "sqrt": _unary(np.sqrt),
    "square": _unary(np.square),
    "sub": _binary(np.subtract),
    "tan": _unary(np.tan),
    "tanh": _unary(np.tanh),
    "threshold": _threshold,
}
