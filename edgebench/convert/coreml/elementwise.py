"""Arithmetic, comparison, logic, rounding, trigonometry and casts, element by element."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from edgebench.convert.coreml.base import (
    Node,
    as_float,
    broadcast_to,
    cast,
    common_shape,
    half_even,
    like,
    mb,
    reshaped,
    types,
    wrapped,
)

# --- arithmetic ---------------------------------------------------------------------------------


def _pair(node: Node) -> tuple[Any, Any]:
    """Both operands, with the axes of old broadcasting (opset 6 and older) written out."""
    x, y = node.var(0), node.var(1)
    if node.opset < 7 and node.attribute("broadcast", 0):
        axis = int(node.attribute("axis", len(x.shape) - len(y.shape))) % max(len(x.shape), 1)
        y = reshaped(y, (*y.shape, *[1] * (len(x.shape) - axis - len(y.shape))))
    return x, y


def add(node: Node) -> Any:
    """X + y."""
    x, y = _pair(node)
    return wrapped(mb.add(x=x, y=y), node.dtype())


def sub(node: Node) -> Any:
    """X - y."""
    x, y = _pair(node)
    return wrapped(mb.sub(x=x, y=y), node.dtype())


def mul(node: Node) -> Any:
    """X times y."""
    x, y = _pair(node)
    return wrapped(mb.mul(x=x, y=y), node.dtype())


def div(node: Node) -> Any:
    """X / y; whole numbers are cut towards zero, as in C."""
    x, y = _pair(node)
    if node.floats():
        return mb.real_div(x=x, y=y)
    return wrapped(truncated_quotient(x, y), node.dtype())


def truncated_quotient(x: Any, y: Any) -> Any:
    """The quotient of whole numbers, cut towards zero."""
    size = mb.floor_div(x=mb.abs(x=x), y=mb.abs(x=y))
    return mb.mul(x=size, y=mb.mul(x=mb.sign(x=x), y=mb.sign(x=y)))


def mod(node: Node) -> Any:
    """The remainder: with the sign of y, or of x where `fmod` is set."""
    x, y = _pair(node)
    if not node.attribute("fmod", 0):
        return mb.mod(x=x, y=y)
    return mb.mul(x=mb.mod(x=mb.abs(x=x), y=mb.abs(x=y)), y=mb.sign(x=x))


def power(node: Node) -> Any:
    """X to the y; whole numbers by repeated multiplication."""
    x, y = _pair(node)
    if node.floats():
        return mb.pow(x=x, y=as_float(y))
    exponent = node.value(1).const
    if exponent is None and node.floats(1):
        raise node.refused(
            "whole numbers to a computed power of floating point are not exact in Core ML", "use floats"
        )
    if exponent is not None and np.any(exponent != np.trunc(exponent)):
        raise node.refused("whole numbers to a broken power are not exact in Core ML", "use floats")
    shape = common_shape(x, y)
    x = broadcast_to(x, shape)
    if exponent is not None and exponent.size == 1 and exponent.reshape(-1)[0] in range(1, 9):
        product = reduce(lambda a, b: mb.mul(x=a, y=b), [x] * int(exponent.reshape(-1)[0]))
        return wrapped(product, node.dtype())
    return wrapped(_whole_power(x, broadcast_to(cast(y, "int32"), shape)), node.dtype())


def _whole_power(x: Any, y: Any) -> Any:
    """Whole numbers to the power of whole numbers: the product of squares of squares that the exponent has.

    Only 0, 1 and -1 have powers above 31 that fit: for them, 32 is as 30, and 33 as 31. Negative powers of
    others than 1 and -1 are cut to 0.
    """
    one, two = np.int32(1), np.int32(2)
    size = mb.abs(x=y)
    large = mb.add(x=mb.mod(x=size, y=two), y=np.int32(30))
    size = mb.select(cond=mb.less(x=size, y=np.int32(32)), a=size, b=large)
    ones = mb.add(x=mb.mul(x=x, y=np.int32(0)), y=one)
    result, square = ones, x
    for bit in range(5):
        has = mb.equal(x=mb.mod(x=mb.floor_div(x=size, y=np.int32(1 << bit)), y=two), y=one)
        result = mb.mul(x=result, y=mb.select(cond=has, a=square, b=ones))
        square = mb.mul(x=square, y=square)
    kept = mb.logical_or(x=mb.greater_equal(x=y, y=np.int32(0)), y=mb.equal(x=mb.abs(x=x), y=one))
    return mb.select(cond=kept, a=result, b=mb.mul(x=ones, y=np.int32(0)))


def maximum(node: Node) -> Any:
    """The greatest of all inputs."""
    return _chain(node, mb.maximum)


def minimum(node: Node) -> Any:
    """The smallest of all inputs."""
    return _chain(node, mb.minimum)


def total(node: Node) -> Any:
    """The sum of all inputs."""
    return _chain(node, mb.add)


def mean(node: Node) -> Any:
    """The mean of all inputs."""
    node.require_float()
    return mb.mul(x=_chain(node, mb.add), y=np.float32(1 / len(node.inputs)))


def _chain(node: Node, function: Callable[..., Any]) -> Any:
    result = node.var(0)
    for place in range(1, len(node.inputs)):
        result = function(x=result, y=node.var(place))
    return mb.identity(x=result) if len(node.inputs) == 1 else result


# --- one input ----------------------------------------------------------------------------------


def negative(node: Node) -> Any:
    """-x."""
    x = node.var(0)
    return wrapped(mb.mul(x=x, y=like(-1, x)), node.dtype())


def absolute(node: Node) -> Any:
    """|x|."""
    return wrapped(mb.abs(x=node.var(0)), node.dtype())


def sign(node: Node) -> Any:
    """-1, 0 or 1."""
    return mb.sign(x=node.var(0))


def reciprocal(node: Node) -> Any:
    """1 / x; Core ML's `inverse` adds an epsilon."""
    node.require_float()
    return mb.real_div(x=np.float32(1), y=node.var(0))


def logarithm(node: Node) -> Any:
    """The natural logarithm, without Core ML's epsilon."""
    node.require_float()
    return mb.log(x=node.var(0), epsilon=np.float32(0))


def _float_only(function: str) -> Callable[[Node], Any]:
    def lower(node: Node) -> Any:
        node.require_float()
        return getattr(mb, function)(x=node.var(0))

    return lower


sqrt, exp, erf = _float_only("sqrt"), _float_only("exp"), _float_only("erf")
sin, cos, tan = _float_only("sin"), _float_only("cos"), _float_only("tan")
asin, acos, atan = _float_only("asin"), _float_only("acos"), _float_only("atan")
sinh, cosh, tanh = _float_only("sinh"), _float_only("cosh"), _float_only("tanh")
floor, ceil = _float_only("floor"), _float_only("ceil")


def asinh(node: Node) -> Any:
    """Sign(x) log(|x| + sqrt(x² + 1))."""
    node.require_float()
    x = node.var(0)
    size = mb.abs(x=x)
    root = mb.sqrt(x=mb.add(x=mb.mul(x=x, y=x), y=np.float32(1)))
    return mb.mul(x=mb.sign(x=x), y=mb.log(x=mb.add(x=size, y=root), epsilon=np.float32(0)))


def acosh(node: Node) -> Any:
    """log(x + sqrt(x² - 1))."""
    node.require_float()
    x = node.var(0)
    root = mb.sqrt(x=mb.sub(x=mb.mul(x=x, y=x), y=np.float32(1)))
    return mb.log(x=mb.add(x=x, y=root), epsilon=np.float32(0))


def atanh(node: Node) -> Any:
    """The inverse of tanh."""
    node.require_float()
    return mb.atanh(x=node.var(0))


def round_half_even(node: Node) -> Any:
    """The nearest whole number, the even one of two."""
    node.require_float()
    return half_even(node.var(0))


def clip(node: Node) -> Any:
    """Kept within bounds, each of which may be missing or computed."""
    x = node.var(0)
    low, high = _bound(node, 1, "min"), _bound(node, 2, "max")
    if low is not None:
        x = mb.maximum(x=x, y=low)
    if high is not None:
        x = mb.minimum(x=x, y=high)
    return mb.identity(x=x) if low is None and high is None else x


def _bound(node: Node, place: int, name: str) -> Any:
    if node.given(place):
        return reshaped(node.var(place), ())
    return np.float32(node.attribute(name)) if name in node.attributes else None


def identity(node: Node) -> Any:
    """The same."""
    return node.value(0)


def dropout(node: Node) -> Any:
    """The same, as at inference; the mask, where asked, is true everywhere."""
    training = node.value(2).const if node.given(2) else np.array(False)
    if training is None or bool(training.reshape(-1)[0]):
        ratio = node.value(1).const if node.given(1) else np.array(0.5)
        if training is None or ratio is None or float(ratio.reshape(-1)[0]) != 0:
            raise node.refused("it is in training mode", "export the network in evaluation mode")
    mask = np.ones(node.value(0).shape, np.bool_)
    return [node.value(0), mask][: len(node.outputs)]


# --- comparison and logic -----------------------------------------------------------------------


def _compared(function: str) -> Callable[[Node], Any]:
    def lower(node: Node) -> Any:
        x, y = _pair(node)
        if x.dtype == types.bool:
            x, y = cast(x, "int32"), cast(y, "int32")
        return getattr(mb, function)(x=x, y=y)

    return lower


equal, greater, less = _compared("equal"), _compared("greater"), _compared("less")
greater_equal, less_equal = _compared("greater_equal"), _compared("less_equal")


def _logical(function: str) -> Callable[[Node], Any]:
    def lower(node: Node) -> Any:
        x, y = _pair(node)
        return getattr(mb, function)(x=x, y=y)

    return lower


logical_and, logical_or, logical_xor = (
    _logical("logical_and"),
    _logical("logical_or"),
    _logical("logical_xor"),
)


def logical_not(node: Node) -> Any:
    """True where x is false."""
    return mb.logical_not(x=node.var(0))


def where(node: Node) -> Any:
    """X where the condition holds, else y."""
    condition, x, y = node.var(0), node.var(1), node.var(2)
    shape = common_shape(condition, x, y)
    condition, x, y = (broadcast_to(each, shape) for each in (condition, x, y))
    return mb.select(cond=condition, a=x, b=y)


def is_nan(node: Node) -> Any:
    """True where x is no number."""
    x = node.var(0)
    return mb.not_equal(x=x, y=x)


def is_infinite(node: Node) -> Any:
    """True where x is infinite, of the signs that are asked."""
    x = node.var(0)
    high = mb.equal(x=x, y=np.float32(np.inf))
    low = mb.equal(x=x, y=np.float32(-np.inf))
    positive, negatives = node.attribute("detect_positive", 1), node.attribute("detect_negative", 1)
    if positive and negatives:
        return mb.logical_or(x=high, y=low)
    if positive or negatives:
        return high if positive else low
    return mb.logical_and(x=high, y=low)


# --- casts --------------------------------------------------------------------------------------


def cast_to(node: Node) -> Any:
    """In another element type, as C casts: floats are cut towards zero, integers wrap."""
    return _cast(node, node.output_dtypes[0])


def _cast(node: Node, wanted: np.dtype[Any] | None) -> Any:
    if wanted is None or wanted.kind not in "fiub":
        raise node.refused(f"Core ML has no element type {wanted}")
    x, source = node.var(0), node.dtype()
    if wanted.kind == "b":
        return cast(x, "bool")
    if wanted.kind == "f":
        out = as_float(x)
        rounded = wanted.itemsize == 2 and source != wanted
        return mb.cast(x=mb.cast(x=out, dtype="fp16"), dtype="fp32") if rounded else out
    out = cast(x, "int32")
    narrower = source.kind not in "iu" or source.kind != wanted.kind or source.itemsize > wanted.itemsize
    return wrapped(out, wanted) if narrower and source.kind != "b" else out
