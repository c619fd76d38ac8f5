"""Resize and Upsample.

Resizing is separable: where Core ML's own operator does not do exactly what ONNX says, every axis is resized
by one product with a constant matrix of ONNX's interpolation weights (or by one gather, for the nearest).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgebench.convert.coreml.base import Node, is_symbolic, mb, permuted, quotient, size_at, taken, types

_SAMPLE_SIZES = (5, 8, 33)  # align_corners is the rule that depends on the size, and it differs at each


class _Axis(NamedTuple):
    """One axis to resize: its sizes, the scale that ONNX counts with, and the region of interest."""

    axis: int
    size: int
    wanted: int
    scale: float
    start: float
    end: float


def upsample(node: Node) -> Any:
    """The old operator: scales, nearest or linear, asymmetric coordinates."""
    x = node.var(0)
    if node.given(1):
        scales = [float(item) for item in node.constant(1, "the scales")]
    elif "scales" in node.attributes:
        scales = [float(item) for item in node.attribute("scales")]
    else:
        scales = [1.0, 1.0, float(node.attribute("height_scale")), float(node.attribute("width_scale"))]
    mode = "linear" if node.attribute("mode", "nearest") in ("linear", "bilinear") else "nearest"
    axes = [
        _Axis(at, int(size), math.floor(int(size) * scale), scale, 0.0, 1.0)
        for at, (size, scale) in enumerate(zip(x.shape, scales, strict=True))
    ]
    return _resized(node, x, axes, {"mode": mode, "coordinates": "asymmetric", "nearest": "floor"})


def resize(node: Node) -> Any:
    """To other sizes of any axes: nearest, linear or cubic, with every rule of coordinates that ONNX has."""
    x = node.var(0)
    how = {
        "mode": node.attribute("mode", "nearest"),
        "coordinates": node.attribute("coordinate_transformation_mode", "half_pixel"),
        "nearest": node.attribute("nearest_mode", "round_prefer_floor"),
    }
    if node.opset < 11:
        how = {"mode": node.attribute("mode", "nearest"), "coordinates": "asymmetric", "nearest": "floor"}
    if any(is_symbolic(size) for size in x.shape):
        return _repeated(node, x, how)
    return _resized(node, x, _axes(node, x, how["coordinates"]), how)


def _repeated(node: Node, x: Any, how: dict[str, str]) -> Any:
    """Resized by whole factors, the one thing that is the same operator for every size of an image."""
    factors = _factors(node, x)
    plain = how["coordinates"] == "half_pixel" and not node.attribute("antialias", 0)
    if how["mode"] == "nearest" and all(_repeats(node, factor, how) for factor in factors):
        return mb.upsample_nearest_neighbor(
            x=x, scale_factor_height=np.int32(factors[0]), scale_factor_width=np.int32(factors[1])
        )
    if how["mode"] == "linear" and plain and node.floats():
        return mb.upsample_bilinear(
            x=x,
            scale_factor_height=np.int32(factors[0]),
            scale_factor_width=np.int32(factors[1]),
            align_corners=False,
        )
    raise ValueError(
        "with open sizes: nearest values, or linear ones by half_pixel, are resized by whole factors"
    )


def _factors(node: Node, x: Any) -> list[int]:
    """By what height and width are multiplied; ValueError where that is not known, not whole, or not all."""
    listed = [node.counted(int(axis), len(x.shape)) for axis in node.attribute("axes", range(len(x.shape)))]
    sizes_given = node.opset >= 11 and node.given(3)
    if node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise ValueError("with open sizes, no aspect ratio is kept")
    if sizes_given:
        given = node.sizes(3, "the sizes")
        scales = [quotient(size, size_at(x, axis)) for size, axis in zip(given, listed, strict=True)]
    else:
        scales = _numbers(node, 2 if node.opset >= 11 else 1, "the scales")
    by_axis = {axis: float(scale) for axis, scale in zip(listed, scales, strict=True)}
    factors = [by_axis.pop(2, 1.0), by_axis.pop(3, 1.0)]
    whole = all(factor >= 1 and factor == int(factor) for factor in factors)
    if len(x.shape) != 4 or not whole or any(scale != 1 for scale in by_axis.values()):
        raise ValueError("with open sizes, height and width alone are resized, by whole factors")
    return [int(factor) for factor in factors]


def _repeats(node: Node, factor: int, how: dict[str, str]) -> bool:
    """Whether ONNX's rule takes each entry `factor` times, one after the other, at every size."""
    if how["coordinates"] == "tf_crop_and_resize":
        return False
    axes = [_Axis(0, size, size * factor, float(factor), 0.0, 1.0) for size in _SAMPLE_SIZES]
    return all(
        np.array_equal(_nearest_places(node, axis, how), np.arange(axis.wanted) // factor) for axis in axes
    )


def _axes(node: Node, x: Any, coordinates: str) -> list[_Axis]:
    rank = len(x.shape)
    sizes = [int(size) for size in x.shape]  # those left open were dealt with before
    listed = [node.counted(int(axis), rank) for axis in node.attribute("axes", range(rank))]
    if node.opset < 11:
        scales, wanted = [float(item) for item in node.constant(1, "the scales")], None
        region: list[float] = []
    else:
        region = _numbers(node, 1, "the region") if coordinates == "tf_crop_and_resize" else []
        scales = _numbers(node, 2, "the scales")
        wanted = [int(item) for item in _numbers(node, 3, "the sizes")] or None
    if wanted is not None:
        scales, wanted = _by_sizes(node, wanted, listed, sizes)
    else:
        wanted = [math.floor(sizes[axis] * scale) for axis, scale in zip(listed, scales, strict=True)]
    made = []
    for place, axis in enumerate(listed):
        start, end = (region[place], region[place + len(listed)]) if region else (0.0, 1.0)
        length = wanted[place]
        if region and not node.given(3):
            length = math.floor(sizes[axis] * (end - start) * scales[place])
        if length < 1:
            raise node.refused("Core ML has no empty tensors, and this resizes to none", "correct the sizes")
        made.append(_Axis(axis, sizes[axis], length, scales[place], start, end))
    return made


def _numbers(node: Node, place: int, what: str) -> list[float]:
    if not node.given(place):
        return []
    return [float(item) for item in node.constant(place, what).reshape(-1)]


def _by_sizes(
    node: Node, wanted: list[int], axes: list[int], sizes: list[int]
) -> tuple[list[float], list[int]]:
    """Scales from sizes, with the aspect ratio kept where the node asks for it."""
    scales = [length / sizes[axis] for length, axis in zip(wanted, axes, strict=True)]
    policy = node.attribute("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return scales, wanted
    scale = min(scales) if policy == "not_larger" else max(scales)
    return [scale] * len(axes), [math.floor(scale * sizes[axis] + 0.5) for axis in axes]


def _resized(node: Node, x: Any, axes: list[_Axis], how: dict[str, str]) -> Any:
    kind = types.builtin_to_string(x.dtype)
    changed = [axis for axis in axes if _changes(axis, how)]
    if not changed:
        return mb.identity(x=x)
    if how["mode"] == "nearest":
        return _nearest(node, x, changed, how)
    if kind != "fp32":
        raise node.refused("Core ML interpolates floats only")
    native = _native_bilinear(node, x, changed, how)
    if native is not None:
        return native
    outside: Any = np.zeros((), np.bool_)
    for axis in changed:
        matrix, beyond = _matrix(node, axis, how)
        x = _multiplied(x, matrix, axis.axis)
        spread = [1] * len(x.shape)
        spread[axis.axis] = axis.wanted
        outside = outside | beyond.reshape(spread)
    if how["coordinates"] != "tf_crop_and_resize" or not np.any(outside):
        return x
    value = np.float32(node.attribute("extrapolation_value", 0.0))
    shape = tuple(int(size) for size in x.shape)
    mask = np.ascontiguousarray(np.broadcast_to(outside, shape))
    return mb.select(cond=mask, a=np.full(shape, value, np.float32), b=x)


def _changes(axis: _Axis, how: dict[str, str]) -> bool:
    crops = how["coordinates"] == "tf_crop_and_resize" and (axis.start, axis.end) != (0.0, 1.0)
    return axis.size != axis.wanted or axis.scale != 1.0 or crops


def _multiplied(x: Any, matrix: NDArray[Any], axis: int) -> Any:
    """One axis times a constant matrix [new, old]."""
    rank = len(x.shape)
    order = [at for at in range(rank) if at != axis] + [axis]
    back = [order.index(at) for at in range(rank)]
    moved = permuted(x, order)
    if rank == 1:
        moved = mb.expand_dims(x=moved, axes=[0])
    out = mb.linear(x=moved, weight=matrix.astype(np.float32))
    return mb.squeeze(x=out, axes=[0]) if rank == 1 else permuted(out, back)


def _nearest(node: Node, x: Any, axes: list[_Axis], how: dict[str, str]) -> Any:
    """Core ML's own operator where the factors are whole, else one gather per axis; no arithmetic."""
    factors = {axis.axis: axis.wanted / axis.size for axis in axes}
    whole = all(factor == int(factor) for factor in factors.values())
    places = {axis.axis: _nearest_places(node, axis, how) for axis in axes}
    plain = whole and all(
        np.array_equal(places[axis.axis], np.arange(axis.wanted) // int(factors[axis.axis])) for axis in axes
    )
    if plain and len(x.shape) == 4 and set(factors) <= {2, 3} and x.dtype == types.fp32:
        return mb.upsample_nearest_neighbor(
            x=x,
            scale_factor_height=np.int32(factors.get(2, 1)),
            scale_factor_width=np.int32(factors.get(3, 1)),
        )
    for axis in axes:
        if np.any(places[axis.axis] < 0):
            raise node.refused("it looks outside of the tensor with the nearest value")
        x = taken(x, places[axis.axis], axis.axis)
    return x


def _native_bilinear(node: Node, x: Any, axes: list[_Axis], how: dict[str, str]) -> Any:
    """Core ML's bilinear operator, where it is known to be exactly ONNX's; else None."""
    modes = {"align_corners": "STRICT_ALIGN_CORNERS", "half_pixel": "UNALIGN_CORNERS"}
    if (
        how["mode"] != "linear"
        or how["coordinates"] not in modes
        or len(x.shape) != 4
        or any(axis.axis not in (2, 3) for axis in axes)
        or node.attribute("antialias", 0)
        or any(
            abs(axis.scale - axis.wanted / axis.size) > 1e-6 or axis.wanted < 2 or axis.size < 2
            for axis in axes
        )
    ):
        return None
    wanted = {2: int(x.shape[2]), 3: int(x.shape[3])} | {axis.axis: axis.wanted for axis in axes}
    return mb.resize_bilinear(
        x=x,
        target_size_height=np.int32(wanted[2]),
        target_size_width=np.int32(wanted[3]),
        sampling_mode=modes[how["coordinates"]],
    )


# --- ONNX's interpolation, one axis at a time ----------------------------------------------------


def _source(node: Node, axis: _Axis, how: dict[str, str]) -> NDArray[Any]:
    """For every place of the resized axis, where it lies in the original one."""
    at = np.arange(axis.wanted, dtype=np.float64)
    mode, length = how["coordinates"], axis.wanted
    precise = axis.scale * axis.size  # ONNX: the resized length before it was cut to a whole number
    if mode == "asymmetric":
        return at / axis.scale
    if mode == "align_corners":
        if abs(precise - length) > 1e-6:
            raise node.refused(
                "with align_corners, ONNX and its runtimes disagree where size times scale is not whole",
                "give sizes instead of scales",
            )
        return at * ((axis.size - 1) / (length - 1)) if length > 1 else np.zeros(1)
    if mode == "pytorch_half_pixel" and length == 1:
        return np.zeros(1)
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (at + 0.5) / axis.scale - 0.5
    if mode == "half_pixel_symmetric":
        adjusted = length / precise
        offset = axis.size / 2 * (1 - adjusted)
        return offset + (at + 0.5) / axis.scale - 0.5
    if mode == "tf_half_pixel_for_nn":
        return (at + 0.5) / axis.scale
    if mode == "tf_crop_and_resize":
        if length == 1:
            return np.full(1, 0.5 * (axis.start + axis.end) * (axis.size - 1))
        span = (axis.end - axis.start) * (axis.size - 1) / (length - 1)
        return axis.start * (axis.size - 1) + at * span
    raise node.refused(f'there is no rule of coordinates "{mode}"', "export the network to ONNX again")


def _nearest_places(node: Node, axis: _Axis, how: dict[str, str]) -> NDArray[Any]:
    """Which entry each place takes; -1 where it lies outside and a value of its own is asked."""
    source = _source(node, axis, how)
    mode = how["nearest"]
    rounded: dict[str, Any] = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_floor": lambda at: np.ceil(at - 0.5),
        "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    }
    if mode not in rounded:
        raise node.refused(f'there is no rounding "{mode}"', "export the network to ONNX again")
    places: NDArray[Any] = np.clip(rounded[mode](source), 0, axis.size - 1).astype(np.int64)
    if how["coordinates"] == "tf_crop_and_resize":
        places[(source < 0) | (source > axis.size - 1)] = -1
    return places


def _matrix(node: Node, axis: _Axis, how: dict[str, str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The weights [new, old] of one axis, and which new places lie outside of the original."""
    source = _source(node, axis, how)
    antialias = bool(node.attribute("antialias", 0)) and axis.scale < 1
    stretch = axis.scale if antialias else 1.0
    if how["mode"] not in ("linear", "cubic"):
        raise node.refused(f'there is no mode "{how["mode"]}"', "export the network to ONNX again")
    reach = 1.0 if how["mode"] == "linear" else 2.0
    exclude = bool(node.attribute("exclude_outside", 0))
    matrix = np.zeros((axis.wanted, axis.size))
    for row, at in enumerate(source):
        first = math.floor(at) - math.ceil(reach / stretch)
        places = np.arange(first, first + 2 * math.ceil(reach / stretch) + 2)
        weights = _weights(node, how["mode"], (places - at) * stretch)
        if exclude:
            weights = np.where((places < 0) | (places >= axis.size), 0.0, weights)
        if weights.sum() != 0 and (exclude or antialias):
            weights = weights / weights.sum()
        np.add.at(matrix[row], np.clip(places, 0, axis.size - 1), weights)
    return matrix, (source < 0) | (source > axis.size - 1)


def _weights(node: Node, mode: str, at: Any) -> Any:
    """A triangle, or the cubic of Keys 1981 with ONNX's coefficient a."""
    size = np.abs(at)
    if mode == "linear":
        return np.maximum(0.0, 1.0 - size)
    a = float(node.attribute("cubic_coeff_a", -0.75))
    near = ((a + 2) * size - (a + 3)) * size**2 + 1
    far = ((a * size - 5 * a) * size + 8 * a) * size - 4 * a
    return np.where(size <= 1, near, np.where(size < 2, far, 0.0))
