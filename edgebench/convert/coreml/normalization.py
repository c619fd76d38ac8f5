"""Batch, instance, layer, group, RMS, Lp and local response normalization."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgebench.convert.coreml.base import Node, Value, mb, padded, reshaped, sizes, sliced


def batch_normalization(node: Node) -> Any:
    """With stored statistics; one multiplication and one addition where Core ML's own form does not fit."""
    node.require_float()
    if node.attribute("training_mode", 0) or any(node.outputs[1:]):
        raise node.refused("it is in training mode", "export the network in evaluation mode")
    x = node.var(0)
    epsilon = float(node.attribute("epsilon", 1e-5))
    stored = all(node.value(place).const is not None for place in range(1, 5))
    if stored and 3 <= len(x.shape) <= 5:
        gamma, beta, mean, variance = (node.var(place) for place in range(1, 5))
        return mb.batch_norm(
            x=x, mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=np.float32(epsilon)
        )
    shape = [1, -1, *[1] * (len(x.shape) - 2)] if len(x.shape) > 1 else [-1]
    scale, bias, mean, variance = (
        mb.reshape(x=node.var(place), shape=np.array(shape, np.int32)) for place in range(1, 5)
    )
    spread = mb.sqrt(x=mb.add(x=variance, y=np.float32(epsilon)))
    scaled = mb.real_div(x=mb.mul(x=mb.sub(x=x, y=mean), y=scale), y=spread)
    return mb.add(x=scaled, y=bias)


def instance_normalization(node: Node) -> Any:
    """Each channel of each sample by its own mean and variance."""
    node.require_float()
    x, epsilon = node.var(0), float(node.attribute("epsilon", 1e-5))
    rank = len(x.shape)
    if rank in (3, 4) and node.value(1).const is not None and node.value(2).const is not None:
        return mb.instance_norm(x=x, gamma=node.var(1), beta=node.var(2), epsilon=np.float32(epsilon))
    normal, _, _ = _normalized(x, tuple(range(2, rank)), epsilon)
    shape = np.array([1, -1, *[1] * (rank - 2)], np.int32)
    scaled = mb.mul(x=normal, y=mb.reshape(x=node.var(1), shape=shape))
    return mb.add(x=scaled, y=mb.reshape(x=node.var(2), shape=shape))


def layer_normalization(node: Node) -> Any:
    """Over the last axes from `axis` on; mean and inverse deviation too where they are asked."""
    node.require_float()
    x, epsilon = node.var(0), float(node.attribute("epsilon", 1e-5))
    first = node.axis(len(x.shape), -1)
    axes = tuple(range(first, len(x.shape)))
    sizes = tuple(int(x.shape[axis]) for axis in axes)
    scale = node.value(1)
    bias = node.value(2) if node.given(2) else None
    if not any(node.outputs[1:]) and _fits(scale, sizes) and (bias is None or _fits(bias, sizes)):
        extra = {} if bias is None else {"beta": reshaped(bias.mil(), sizes)}
        return mb.layer_norm(
            x=x,
            axes=np.array(axes, np.int32),
            gamma=reshaped(scale.mil(), sizes),
            epsilon=np.float32(epsilon),
            **extra,
        )
    normal, mean, deviation = _normalized(x, axes, epsilon)
    out = mb.mul(x=normal, y=scale.mil())
    out = out if bias is None else mb.add(x=out, y=bias.mil())
    return [out, mean, mb.real_div(x=np.float32(1), y=deviation)][: len(node.outputs)]


def _fits(value: Value, sizes: tuple[int, ...]) -> bool:
    return value.const is not None and value.shape == sizes


def group_normalization(node: Node) -> Any:
    """Channels in groups, each by its own mean and variance; scale per channel (per group up to opset 20)."""
    node.require_float()
    x, epsilon = node.var(0), float(node.attribute("epsilon", 1e-5))
    groups = int(node.attribute("num_groups"))
    batch, channels, *rest = sizes(x)
    together = reshaped(x, (batch, groups, channels // groups * math.prod(rest)))
    normal, _, _ = _normalized(together, (2,), epsilon)
    scale, bias = node.var(1), node.var(2)
    if int(scale.shape[0]) == groups != channels:
        normal = mb.mul(x=normal, y=reshaped(scale, (1, groups, 1)))
        return reshaped(mb.add(x=normal, y=reshaped(bias, (1, groups, 1))), x.shape)
    shape = (1, channels, *[1] * len(rest))
    scaled = mb.mul(x=reshaped(normal, x.shape), y=reshaped(scale, shape))
    return mb.add(x=scaled, y=reshaped(bias, shape))


def rms_normalization(node: Node) -> Any:
    """Divided by the root of the mean square over the last axes from `axis` on."""
    node.require_float()
    x, epsilon = node.var(0), float(node.attribute("epsilon", 1e-5))
    axes = np.arange(node.axis(len(x.shape), -1), len(x.shape), dtype=np.int32)
    square = mb.reduce_mean(x=mb.mul(x=x, y=x), axes=axes, keep_dims=True)
    root = mb.sqrt(x=mb.add(x=square, y=np.float32(epsilon)))
    return mb.mul(x=mb.real_div(x=x, y=root), y=node.var(1))


def lp_normalization(node: Node) -> Any:
    """Divided by the p-norm along one axis; all zeros stay zeros."""
    node.require_float()
    x = node.var(0)
    axes = np.array([node.axis(len(x.shape), -1)], np.int32)
    if int(node.attribute("p", 2)) == 1:
        norm = mb.reduce_sum(x=mb.abs(x=x), axes=axes, keep_dims=True)
    else:
        norm = mb.sqrt(x=mb.reduce_sum(x=mb.mul(x=x, y=x), axes=axes, keep_dims=True))
    nothing = mb.equal(x=norm, y=np.float32(0))
    divisor = mb.add(x=norm, y=mb.cast(x=nothing, dtype="fp32"))
    return mb.real_div(x=x, y=divisor)


def local_response_normalization(node: Node) -> Any:
    """Each value by the squares of the channels around it; written out, since sizes may be even."""
    node.require_float()
    x, size = node.var(0), int(node.attribute("size"))
    alpha, beta = float(node.attribute("alpha", 1e-4)), float(node.attribute("beta", 0.75))
    bias = float(node.attribute("bias", 1.0))
    before, after = (size - 1) // 2, size // 2
    if size % 2 and len(x.shape) in (3, 4):
        return mb.local_response_norm(
            x=x, size=np.int32(size), alpha=np.float32(alpha), beta=np.float32(beta), k=np.float32(bias)
        )
    channels = int(x.shape[1])
    border = [(0, 0), (before, after), *[(0, 0)] * (len(x.shape) - 2)]
    squares = padded(mb.mul(x=x, y=x), border, 0.0)
    total = sliced(squares, 1, 0, channels)
    for shift in range(1, size):
        total = mb.add(x=total, y=sliced(squares, 1, shift, shift + channels))
    scaled = mb.add(x=mb.mul(x=total, y=np.float32(alpha / size)), y=np.float32(bias))
    return mb.real_div(x=x, y=mb.pow(x=scaled, y=np.float32(beta)))


def mean_variance_normalization(node: Node) -> Any:
    """Minus the mean, divided by the deviation plus 1e-9, over `axes`."""
    node.require_float()
    x = node.var(0)
    axes = np.array([axis % len(x.shape) for axis in node.attribute("axes", [0, 2, 3])], np.int32)
    mean = mb.reduce_mean(x=x, axes=axes, keep_dims=True)
    square = mb.reduce_mean(x=mb.mul(x=x, y=x), axes=axes, keep_dims=True)
    deviation = mb.sqrt(x=mb.sub(x=square, y=mb.mul(x=mean, y=mean)))
    return mb.real_div(x=mb.sub(x=x, y=mean), y=mb.add(x=deviation, y=np.float32(1e-9)))


def _normalized(x: Any, axes: tuple[int, ...], epsilon: float) -> tuple[Any, Any, Any]:
    """The normalized tensor, its mean and its deviation (with epsilon)."""
    listed = np.array(axes, np.int32)
    mean = mb.reduce_mean(x=x, axes=listed, keep_dims=True)
    centred = mb.sub(x=x, y=mean)
    variance = mb.reduce_mean(x=mb.mul(x=centred, y=centred), axes=listed, keep_dims=True)
    deviation = mb.sqrt(x=mb.add(x=variance, y=np.float32(epsilon)))
    return mb.real_div(x=centred, y=deviation), mean, deviation
