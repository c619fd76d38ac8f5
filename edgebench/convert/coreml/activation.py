"""Activations: element by element, and the softmax family."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgebench.convert.coreml.base import Node, like, mb, reshaped


def relu(node: Node) -> Any:
    """max(x, 0), of whole numbers too."""
    x = node.var(0)
    return mb.relu(x=x) if node.floats() else mb.maximum(x=x, y=np.int32(0))


def leaky_relu(node: Node) -> Any:
    """x, or alpha x below 0."""
    node.require_float()
    return mb.leaky_relu(x=node.var(0), alpha=np.float32(node.attribute("alpha", 0.01)))


def prelu(node: Node) -> Any:
    """x, or slope x below 0, with any slope that broadcasts."""
    x, slope = node.var(0), node.var(1)
    zero = like(0, x)
    if node.floats():
        negative = mb.relu(x=mb.mul(x=x, y=np.float32(-1)))
        return mb.sub(x=mb.relu(x=x), y=mb.mul(x=slope, y=negative))
    return mb.add(x=mb.maximum(x=x, y=zero), y=mb.mul(x=slope, y=mb.minimum(x=x, y=zero)))


def elu(node: Node) -> Any:
    """x, or alpha (exp(x) - 1) below 0."""
    node.require_float()
    return mb.elu(x=node.var(0), alpha=np.float32(node.attribute("alpha", 1.0)))


def selu(node: Node) -> Any:
    """Gamma times the elu of alpha; the defaults are ONNX's, rounded to float32."""
    node.require_float()
    alpha, gamma = (
        node.attribute("alpha", 1.67326319217681884765625),
        node.attribute("gamma", 1.05070102214813232421875),
    )
    return mb.mul(x=mb.elu(x=node.var(0), alpha=np.float32(alpha)), y=np.float32(gamma))


def celu(node: Node) -> Any:
    """max(x, 0) + min(alpha (exp(x / alpha) - 1), 0)."""
    node.require_float()
    x, alpha = node.var(0), float(node.attribute("alpha", 1.0))
    below = mb.minimum(x=x, y=np.float32(0))
    grown = mb.sub(x=mb.exp(x=mb.mul(x=below, y=np.float32(1 / alpha))), y=np.float32(1))
    return mb.add(x=mb.relu(x=x), y=mb.mul(x=grown, y=np.float32(alpha)))


def sigmoid(node: Node) -> Any:
    """1 / (1 + exp(-x))."""
    node.require_float()
    return mb.sigmoid(x=node.var(0))


def hard_sigmoid(node: Node) -> Any:
    """Alpha x + beta, kept within 0 and 1."""
    node.require_float()
    alpha, beta = node.attribute("alpha", 0.2), node.attribute("beta", 0.5)
    return mb.sigmoid_hard(x=node.var(0), alpha=np.float32(alpha), beta=np.float32(beta))


def hard_swish(node: Node) -> Any:
    """X times the hard sigmoid of alpha 1/6."""
    node.require_float()
    x = node.var(0)
    return mb.mul(x=x, y=mb.sigmoid_hard(x=x, alpha=np.float32(1 / 6), beta=np.float32(0.5)))


def swish(node: Node) -> Any:
    """X times the sigmoid of alpha x."""
    node.require_float()
    x, alpha = node.var(0), float(node.attribute("alpha", 1.0))
    scaled = x if alpha == 1.0 else mb.mul(x=x, y=np.float32(alpha))
    return mb.mul(x=x, y=mb.sigmoid(x=scaled))


def mish(node: Node) -> Any:
    """X times tanh(softplus(x))."""
    node.require_float()
    x = node.var(0)
    return mb.mul(x=x, y=mb.tanh(x=mb.softplus(x=x)))


def softplus(node: Node) -> Any:
    """log(1 + exp(x))."""
    node.require_float()
    return mb.softplus(x=node.var(0))


def softsign(node: Node) -> Any:
    """X / (1 + |x|)."""
    node.require_float()
    return mb.softsign(x=node.var(0))


def gelu(node: Node) -> Any:
    """The exact form, or the one by tanh where the attribute says so."""
    node.require_float()
    by_tanh = node.attribute("approximate", "none") == "tanh"
    return mb.gelu(x=node.var(0), mode="TANH_APPROXIMATION" if by_tanh else "EXACT")


def quick_gelu(node: Node) -> Any:
    """X times the sigmoid of alpha x (com.microsoft)."""
    x, alpha = node.var(0), float(node.attribute("alpha", 1.702))
    return mb.mul(x=x, y=mb.sigmoid(x=mb.mul(x=x, y=np.float32(alpha))))


def thresholded_relu(node: Node) -> Any:
    """X where it is above alpha, else 0; Core ML's own op also keeps alpha itself."""
    node.require_float()
    x = node.var(0)
    above = mb.greater(x=x, y=np.float32(node.attribute("alpha", 1.0)))
    return mb.select(cond=above, a=x, b=_zeros(x))


def shrink(node: Node) -> Any:
    """Towards 0 by `bias` outside of `lambd`, else 0."""
    node.require_float()
    x, limit, bias = node.var(0), float(node.attribute("lambd", 0.5)), float(node.attribute("bias", 0.0))
    low = mb.select(cond=mb.less(x=x, y=np.float32(-limit)), a=mb.add(x=x, y=np.float32(bias)), b=_zeros(x))
    return mb.select(cond=mb.greater(x=x, y=np.float32(limit)), a=mb.sub(x=x, y=np.float32(bias)), b=low)


def _zeros(x: Any) -> Any:
    return mb.const(val=np.zeros(tuple(x.shape), np.float32))


# --- the softmax family -------------------------------------------------------------------------


def softmax(node: Node) -> Any:
    """exp(x) over its sum along `axis`; over all axes from `axis` on up to opset 12."""
    node.require_float()
    return _along(node, lambda x, axis: mb.softmax(x=x, axis=np.int32(axis)))


def log_softmax(node: Node) -> Any:
    """The logarithm of the softmax, without computing that."""
    node.require_float()
    return _along(node, _log_softmax)


def _log_softmax(x: Any, axis: int) -> Any:
    axes = np.array([axis], np.int32)
    moved = mb.sub(x=x, y=mb.reduce_max(x=x, axes=axes, keep_dims=True))
    total = mb.reduce_sum(x=mb.exp(x=moved), axes=axes, keep_dims=True)
    return mb.sub(x=moved, y=mb.log(x=total, epsilon=np.float32(0)))


def hardmax(node: Node) -> Any:
    """1 at the first greatest along `axis`, else 0."""
    node.require_float()
    return _along(node, _hardmax)


def _hardmax(x: Any, axis: int) -> Any:
    best = mb.reduce_argmax(x=x, axis=np.int32(axis), keep_dims=True)
    shape = [1] * len(x.shape)
    shape[axis] = int(x.shape[axis])
    places = np.arange(shape[axis], dtype=np.int32).reshape(shape)
    return mb.cast(x=mb.equal(x=best, y=places), dtype="fp32")


def _along(node: Node, function: Any) -> Any:
    x = node.var(0)
    rank = len(x.shape)
    if node.opset >= 13:
        return function(x, node.axis(rank, -1))
    first = node.axis(rank, 1)
    if math.prod(int(size) for size in x.shape[first + 1 :]) == 1 and rank > first:
        return function(x, first)
    flat = reshaped(
        x, (math.prod(int(s) for s in x.shape[:first]), math.prod(int(s) for s in x.shape[first:]))
    )
    return reshaped(function(flat, 1), x.shape)
