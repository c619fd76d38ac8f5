"""Activations: relu and its kin, sigmoid, gelu, softmax."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from edgebench.convert.coreml.interpreter.base import Array, Call, Kernel, erf, sigmoid


def _of_one(function: Callable[[Array], Array]) -> Kernel:
    def kernel(call: Call) -> Array:
        return np.asarray(function(call.array("x")))

    return kernel


def _relu(x: Array) -> Array:
    return np.asarray(np.maximum(x, 0))


def _relu6(x: Array) -> Array:
    return np.asarray(np.minimum(np.maximum(x, 0), 6))


def _silu(x: Array) -> Array:
    return x * sigmoid(x)


def _softplus(x: Array) -> Array:
    return np.asarray(np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0))


def _softsign(x: Array) -> Array:
    return np.asarray(x / (1 + np.abs(x)))


def _clamped_relu(call: Call) -> Array:
    x = call.array("x")
    return np.asarray(np.minimum(np.where(x >= 0, x, x * call.number("alpha")), call.number("beta")))


def _elu(call: Call) -> Array:
    x = call.array("x")
    return np.asarray(np.where(x > 0, x, call.number("alpha") * np.expm1(np.minimum(x, 0))))


def _gelu(call: Call) -> Array:
    x, mode = call.array("x"), call.text("mode", "EXACT")
    if mode == "EXACT":
        return np.asarray(0.5 * x * (1 + erf(x / math.sqrt(2))))
    if mode == "TANH_APPROXIMATION":
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))))
    if mode == "SIGMOID_APPROXIMATION":
        return x * sigmoid(1.702 * x)
    raise call.refuse(f'the mode "{mode}" is not known')


def _leaky_relu(call: Call) -> Array:
    x = call.array("x")
    return np.asarray(np.where(x >= 0, x, x * call.number("alpha")))


def _linear_activation(call: Call) -> Array:
    return np.asarray(call.array("x") * call.number("alpha") + call.number("beta"))


def _prelu(call: Call) -> Array:
    x = call.array("x")
    if x.ndim not in (3, 4, 5):
        raise call.refuse(f"its input has rank {x.ndim}, Core ML takes 3 to 5")
    alpha = _per_channel(call, "alpha", x)
    if x.ndim != 4 and np.ptp(alpha) > 1e-5:
        raise call.refuse(f"an input of rank {x.ndim} needs equal slopes in all channels")
    return np.asarray(np.maximum(x, 0) + alpha * np.minimum(x, 0))


def _scaled_tanh(call: Call) -> Array:
    return np.asarray(call.number("alpha") * np.tanh(call.array("x") * call.number("beta")))


def _sigmoid_hard(call: Call) -> Array:
    line = call.array("x") * call.number("alpha") + call.number("beta")
    return np.asarray(np.minimum(np.maximum(line, 0), 1))


def _softmax(call: Call) -> Array:
    x, axis = call.array("x"), call.integer("axis", -1)
    powers = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return np.asarray(powers / np.sum(powers, axis=axis, keepdims=True))


def _softplus_parametric(call: Call) -> Array:
    x = call.array("x")
    return _per_channel(call, "alpha", x) * _softplus(x * _per_channel(call, "beta", x))


def _thresholded_relu(call: Call) -> Array:
    x = call.array("x")
    return np.asarray(np.where(x >= call.number("alpha"), x, np.zeros_like(x)))


def _per_channel(call: Call, key: str, x: Array) -> Array:
    """A vector over the second dimension of `x`, shaped to broadcast with it."""
    vector = call.array(key)
    if x.ndim < 2 or vector.shape != x.shape[1:2]:
        raise call.refuse(f"{key} of shape {list(vector.shape)} does not fit its input {list(x.shape)}")
    return vector.reshape(-1, *[1] * (x.ndim - 2))


KERNELS: Mapping[str, Kernel] = {
    "clamped_relu": _clamped_relu,
    "elu": _elu,
    "gelu": _gelu,
    "leaky_relu": _leaky_relu,
    "linear_activation": _linear_activation,
    "prelu": _prelu,
    "relu": _of_one(_relu),
    "relu6": _of_one(_relu6),
    "scaled_tanh": _scaled_tanh,
    "sigmoid": _of_one(sigmoid),
    "sigmoid_hard": _sigmoid_hard,
    "silu": _of_one(_silu),
    "softmax": _softmax,
    "softplus": _of_one(_softplus),
    "softplus_parametric": _softplus_parametric,
    "softsign": _of_one(_softsign),
    "thresholded_relu": _thresholded_relu,
}
