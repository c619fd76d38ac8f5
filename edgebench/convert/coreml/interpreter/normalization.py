"""Normalization: batch, instance, layer, local response, L2."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgebench.convert.coreml.interpreter.base import Array, Call, Kernel


def _batch_norm(call: Call) -> Array:
    x = call.array("x")
    mean, variance = call.array("mean"), call.array("variance")
    gamma, beta = call.maybe("gamma"), call.maybe("beta")
    scale = 1 / np.sqrt(variance + call.number("epsilon", 1e-5))
    scale = scale if gamma is None else gamma * scale
    shift = -mean * scale if beta is None else beta - mean * scale
    return np.asarray(x * _over_channels(call, x, scale) + _over_channels(call, x, shift))


def _instance_norm(call: Call) -> Array:
    x = call.array("x")
    gamma, beta = call.maybe("gamma"), call.maybe("beta")
    normal = _normal(x, tuple(range(2, x.ndim)), call.number("epsilon", 1e-5))
    if gamma is not None:
        normal = normal * _over_channels(call, x, gamma)
    return normal if beta is None else np.asarray(normal + _over_channels(call, x, beta))


def _layer_norm(call: Call) -> Array:
    x = call.array("x")
    axes = sorted({axis % x.ndim for axis in call.integers("axes", list(range(x.ndim)))})
    shape = [x.shape[axis] if axis in axes else 1 for axis in range(x.ndim)]
    normal = _normal(x, tuple(axes), call.number("epsilon", 1e-5))
    gamma, beta = call.maybe("gamma"), call.maybe("beta")
    if gamma is not None:
        normal = normal * gamma.reshape(shape)
    return normal if beta is None else np.asarray(normal + beta.reshape(shape))


def _l2_norm(call: Call) -> Array:
    x = call.array("x")
    if x.ndim < 3:
        raise call.refuse(f"its input has rank {x.ndim}, at least 3 is needed")
    squares = np.sum(np.square(x), axis=(-3, -2, -1), keepdims=True)
    return np.asarray(x / np.sqrt(squares + call.number("epsilon", 1e-6)))


def _local_response_norm(call: Call) -> Array:
    x, size = call.array("x"), call.integer("size")
    if size < 1 or size % 2 == 0:
        raise call.refuse(f"which channels a window of {size} covers is not documented")
    if x.ndim < 2:
        raise call.refuse(f"its input has rank {x.ndim}, at least 3 is needed")
    squares = np.square(x)
    sums = np.zeros_like(x)
    channels, half = x.shape[1], size // 2
    for shift in range(-min(half, channels - 1), min(half, channels - 1) + 1):
        into = slice(max(0, -shift), channels - max(0, shift))
        out_of = slice(max(0, shift), channels - max(0, -shift))
        sums[:, into] += squares[:, out_of]
    alpha, beta, k = call.number("alpha", 1e-4), call.number("beta", 0.75), call.number("k", 1.0)
    return np.asarray(x / np.power(k + alpha / size * sums, beta))


def _normal(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    centred = x - np.mean(x, axis=axes, keepdims=True)
    elements = math.prod(x.shape[axis] for axis in axes)
    variance = np.sum(np.square(centred), axis=axes, keepdims=True) / elements
    return np.asarray(centred / np.sqrt(variance + x.dtype.type(epsilon)))


def _over_channels(call: Call, x: Array, vector: Array) -> Array:
    if x.ndim < 2 or vector.shape != x.shape[1:2]:
        raise call.refuse(f"a vector of shape {list(vector.shape)} does not fit its input {list(x.shape)}")
    return vector.reshape(-1, *[1] * (x.ndim - 2))


KERNELS: Mapping[str, Kernel] = {
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "l2_norm": _l2_norm,
    "layer_norm": _layer_norm,
    "local_response_norm": _local_response_norm,
}
