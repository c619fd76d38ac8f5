"""Reduce*, ArgMax, ArgMin, CumSum, CumProd and TopK."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgebench.convert.coreml.base import MAX_STEPS, Node, cast, joined, mb, reshaped, sliced, types

Reduce = Callable[[Any, Any], Any]


def _over(node: Node, function: Reduce) -> Any:
    """`function` over the node's axes, with or without those axes of size 1 afterwards."""
    x = node.var(0)
    rank = len(x.shape)
    axes = node.axes(1, rank)
    if not axes and node.attribute("noop_with_empty_axes", 0):
        axes = ()
    elif not axes:
        axes = tuple(range(rank))
    out = (
        function(x, np.array(axes, np.int32))
        if rank
        else function(reshaped(x, (1,)), np.array([0], np.int32))
    )
    if not rank:
        return reshaped(out, ())
    if node.attribute("keepdims", 1):
        return out
    return reshaped(out, [size for axis, size in enumerate(x.shape) if axis not in axes])


def _reduced(name: str) -> Reduce:
    def function(x: Any, axes: Any) -> Any:
        return getattr(mb, name)(x=x, axes=axes, keep_dims=True) if len(axes) else mb.identity(x=x)

    return function


def reduce_sum(node: Node) -> Any:
    """The sum."""
    return _over(node, _reduced("reduce_sum"))


def reduce_prod(node: Node) -> Any:
    """The product."""
    return _over(node, _reduced("reduce_prod"))


def reduce_mean(node: Node) -> Any:
    """The mean."""
    node.require_float()
    return _over(node, _reduced("reduce_mean"))


def _extreme(node: Node, name: str) -> Any:
    x = node.value(0)
    if x.dtype.kind != "b":
        return _over(node, _reduced(name))
    return _over(node, lambda var, axes: cast(_reduced(name)(cast(var, "int32"), axes), "bool"))


def reduce_max(node: Node) -> Any:
    """The greatest; of bool, whether any is true."""
    return _extreme(node, "reduce_max")


def reduce_min(node: Node) -> Any:
    """The smallest; of bool, whether all are true."""
    return _extreme(node, "reduce_min")


def reduce_l1(node: Node) -> Any:
    """The sum of absolute values."""
    return _over(node, lambda x, axes: _reduced("reduce_sum")(mb.abs(x=x), axes))


def reduce_l2(node: Node) -> Any:
    """The root of the sum of squares."""
    node.require_float()
    return _over(node, lambda x, axes: mb.sqrt(x=_reduced("reduce_sum")(mb.mul(x=x, y=x), axes)))


def reduce_sum_square(node: Node) -> Any:
    """The sum of squares."""
    return _over(node, lambda x, axes: _reduced("reduce_sum")(mb.mul(x=x, y=x), axes))


def reduce_log_sum(node: Node) -> Any:
    """The logarithm of the sum."""
    node.require_float()
    return _over(node, lambda x, axes: mb.log(x=_reduced("reduce_sum")(x, axes), epsilon=np.float32(0)))


def reduce_log_sum_exp(node: Node) -> Any:
    """The logarithm of the sum of exponentials, moved by the greatest so that nothing overflows."""
    node.require_float()
    return _over(node, _log_sum_exp)


def _log_sum_exp(x: Any, axes: Any) -> Any:
    if not len(axes):
        return mb.identity(x=x)
    highest = mb.reduce_max(x=x, axes=axes, keep_dims=True)
    total = mb.reduce_sum(x=mb.exp(x=mb.sub(x=x, y=highest)), axes=axes, keep_dims=True)
    return mb.add(x=mb.log(x=total, epsilon=np.float32(0)), y=highest)


# --- places -------------------------------------------------------------------------------------


def arg_max(node: Node) -> Any:
    """Where the greatest is."""
    return _place(node, "reduce_argmax")


def arg_min(node: Node) -> Any:
    """Where the smallest is."""
    return _place(node, "reduce_argmin")


def _place(node: Node, name: str) -> Any:
    """The first of equal ones, or the last where the node says so."""
    x = node.var(0)
    axis = node.axis(len(x.shape), 0)
    last = bool(node.attribute("select_last_index", 0))
    if last:
        x = mb.reverse(x=x, axes=np.array([axis], np.int32))
    place = getattr(mb, name)(x=x, axis=np.int32(axis), keep_dims=True)
    if last:
        place = mb.sub(x=np.int32(int(x.shape[axis]) - 1), y=place)
    if node.attribute("keepdims", 1):
        return place
    return reshaped(place, [size for at, size in enumerate(x.shape) if at != axis])


def top_k(node: Node) -> Any:
    """The k greatest or smallest along one axis, and where they are."""
    x = node.var(0)
    axis = node.axis(len(x.shape), -1)
    k = node.ints(1, "k")[0] if node.given(1) else int(node.attribute("k"))
    if k < 1:
        raise node.refused(f"k is {k}, and Core ML has no empty tensors")
    return mb.topk(
        x=x, k=np.int32(k), axis=np.int32(axis), ascending=not node.attribute("largest", 1), sort=True
    )


# --- running sums and products ------------------------------------------------------------------


def cumulative_sum(node: Node) -> Any:
    """The running sum along a known axis."""
    x = node.var(0)
    axis = node.counted(node.ints(1, "the axis")[0], len(x.shape))
    return mb.cumsum(
        x=x,
        axis=np.int32(axis),
        exclusive=bool(node.attribute("exclusive", 0)),
        reverse=bool(node.attribute("reverse", 0)),
    )


def cumulative_product(node: Node) -> Any:
    """The running product along a known axis, step by step."""
    x = node.var(0)
    axis = node.counted(node.ints(1, "the axis")[0], len(x.shape))
    length = int(x.shape[axis])
    if length > MAX_STEPS:
        raise node.refused(f"{length} steps are more than the {MAX_STEPS} that are written out")
    parts = [sliced(x, axis, at, at + 1) for at in range(length)]
    if node.attribute("reverse", 0):
        parts.reverse()
    products = [parts[0]]
    for part in parts[1:]:
        products.append(mb.mul(x=products[-1], y=part))
    if node.attribute("exclusive", 0):
        ones = np.ones(tuple(parts[0].shape), np.int32 if x.dtype == types.int32 else np.float32)
        products = [mb.const(val=ones), *products[:-1]]
    if node.attribute("reverse", 0):
        products.reverse()
    return joined(products, axis)
