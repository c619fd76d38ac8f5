"""GridSample and DeformConv: values of an image at computed places.

Core ML's `resample` is ONNX's GridSample for images of two axes and linear mode. All else is written out:
the pixels around a place are gathered, each by its own index, and added up with their weights. An index is
always inside of the image, whatever the coordinate is; what lies outside reads one zero behind the pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from edgebench.convert.coreml.base import (
    Node,
    cast,
    elements,
    half_even,
    joined,
    kept_between,
    mb,
    padded,
    reshaped,
    sliced,
    types,
)

_MODES = {"bilinear": "linear", "bicubic": "cubic"}  # opset 16 said it so
_KEYS = -0.75  # Keys' coefficient: ONNX's cubic samples have no other


class _How(NamedTuple):
    """The rules of sampling: nearest, linear or cubic; zeros, border or reflection; what -1 and 1 mean."""

    mode: str
    padding: str
    corners: bool


class _Taps(NamedTuple):
    """The neighbours along an axis, [batch, points, neighbours].

    Their index, whether they lie inside (None: always), and their weight (None: 1).
    """

    index: Any
    inside: Any
    weight: Any


# --- GridSample -----------------------------------------------------------------------------------


def grid_sample(node: Node) -> Any:
    """Values at the places of a grid, whose coordinates go from -1 to 1 over the image."""
    how = _how(node)
    if how.mode != "nearest":
        node.require_float()
    x, grid = node.var(0), node.var(1)
    if how.mode == "linear" and len(x.shape) == 4:
        return _resampled(x, grid, how)
    kind = types.builtin_to_string(x.dtype)
    x = cast(x, "int32") if x.dtype == types.bool else x
    batch, channels, *sizes = (int(size) for size in x.shape)
    shape = [int(size) for size in grid.shape[1:-1]]
    flat = reshaped(grid, (batch, elements(shape), len(sizes)))
    places = [
        _denormalized(_component(flat, len(sizes) - 1 - axis), size, how) for axis, size in enumerate(sizes)
    ]
    out = _sampled(x, places, how)
    return cast(reshaped(out, (batch, channels, *shape)), kind)


def _how(node: Node) -> _How:
    mode = node.attribute("mode", "linear")
    how = _How(
        mode=_MODES.get(mode, mode),
        padding=node.attribute("padding_mode", "zeros"),
        corners=bool(node.attribute("align_corners", 0)),
    )
    if how.mode not in ("nearest", "linear", "cubic") or how.padding not in ("zeros", "border", "reflection"):
        raise node.refused(
            f'there is no mode "{how.mode}" with padding mode "{how.padding}"',
            "export the network to ONNX again",
        )
    return how


def _resampled(x: Any, grid: Any, how: _How) -> Any:
    """By Core ML's own operator; it mirrors at the centres of the border pixels, or at their edges."""
    mirror = "reflection" if how.corners else "symmetric"
    return mb.resample(
        x=x,
        coordinates=grid,
        sampling_mode="bilinear",
        padding_mode={"zeros": "constant", "border": "border", "reflection": mirror}[how.padding],
        padding_value=np.float32(0),
        coordinates_mode="normalized_minus_one_to_one",
        align_corners=how.corners,
    )


def _component(flat: Any, place: int) -> Any:
    """[batch, points] out of [batch, points, axes]."""
    return reshaped(sliced(flat, 2, place, place + 1), flat.shape[:2])


def _denormalized(at: Any, size: int, how: _How) -> Any:
    """Coordinates in pixels: -1 and 1 are the centres of the border pixels, or their outer edges."""
    share = mb.add(x=at, y=np.float32(1))
    if how.corners:
        return mb.mul(x=mb.mul(x=share, y=np.float32(0.5)), y=np.float32(size - 1))
    moved = mb.sub(x=mb.mul(x=share, y=np.float32(size)), y=np.float32(1))
    return mb.mul(x=moved, y=np.float32(0.5))


# --- values at places ------------------------------------------------------------------------------


def _sampled(x: Any, places: Sequence[Any], how: _How) -> Any:
    """[batch, channels, points]: an image at coordinates [batch, points] in pixels, one for each axis.

    The neighbours along the last axis are gathered together, those along the others one by one: all at once
    would be many times the image in memory.
    """
    batch, channels, *sizes = (int(size) for size in x.shape)
    pixels = reshaped(x, (batch, channels, elements(sizes)))
    if how.padding == "zeros":
        pixels = padded(pixels, [(0, 0), (0, 0), (0, 1)], 0)
    *outer, last = (_taps(place, size, how) for place, size in zip(places, sizes, strict=True))
    total = None
    for single in itertools.product(*(_one_by_one(taps) for taps in outer)):
        together = (*single, last)
        value = _weighted(_picked(pixels, _flat_index(together, sizes)), together)
        total = value if total is None else mb.add(x=total, y=value)
    return total


def _taps(place: Any, size: int, how: _How) -> _Taps:
    """The neighbours of every place along one axis, with their weights."""
    wide = mb.expand_dims(x=place, axes=[2])
    if how.mode == "nearest":
        return _neighbours(_settled(half_even(wide), size, how), None, size, how)
    wide = _settled(wide, size, how)
    first = mb.floor(x=wide)
    rest = mb.sub(x=wide, y=first)
    other = mb.sub(x=np.float32(1), y=rest)
    if how.mode == "linear":
        steps, weights = [0, 1], [other, rest]
    else:
        steps, weights = [-1, 0, 1, 2], [_far(rest), _near(rest), _near(other), _far(other)]
    around = mb.add(x=first, y=np.array(steps, np.float32)[None, None])
    return _neighbours(around, joined(weights, 2), size, how)


def _one_by_one(taps: _Taps) -> list[_Taps]:
    """Each neighbour along an axis alone."""
    count = int(taps.index.shape[2])
    return [
        _Taps(*(part if part is None else sliced(part, 2, at, at + 1) for part in taps))
        for at in range(count)
    ]


def _near(at: Any) -> Any:
    """The cubic weight of a neighbour at a distance below 1."""
    inner = mb.sub(x=mb.mul(x=at, y=np.float32(_KEYS + 2)), y=np.float32(_KEYS + 3))
    return mb.add(x=mb.mul(x=mb.mul(x=inner, y=at), y=at), y=np.float32(1))


def _far(at: Any) -> Any:
    """The cubic weight of a neighbour at a distance from 1 to 2; `at` is the distance less 1."""
    away = mb.add(x=at, y=np.float32(1))
    inner = mb.sub(x=mb.mul(x=away, y=np.float32(_KEYS)), y=np.float32(5 * _KEYS))
    inner = mb.add(x=mb.mul(x=inner, y=away), y=np.float32(8 * _KEYS))
    return mb.sub(x=mb.mul(x=inner, y=away), y=np.float32(4 * _KEYS))


def _settled(place: Any, size: int, how: _How) -> Any:
    """Coordinates brought back from beyond the border: to the last pixel, or mirrored at the border."""
    if how.padding == "zeros":
        return place
    low, high = (0.0, size - 1.0) if how.corners else (-0.5, size - 0.5)
    outside = mb.logical_or(x=mb.less(x=place, y=np.float32(low)), y=mb.greater(x=place, y=np.float32(high)))
    moved = kept_between(place, 0, size - 1) if how.padding == "border" else _mirrored(place, low, high)
    return mb.select(cond=outside, a=moved, b=place)


def _mirrored(place: Any, low: float, high: float) -> Any:
    """Coordinates reflected at `low` and `high` until they lie between."""
    span = high - low
    if span <= 0:  # one pixel, and corners at its centre: there is no other place
        return mb.mul(x=place, y=np.float32(0))
    away = mb.mod(x=mb.sub(x=place, y=np.float32(low)), y=np.float32(2 * span))
    return mb.add(x=mb.minimum(x=away, y=mb.sub(x=np.float32(2 * span), y=away)), y=np.float32(low))


def _neighbours(place: Any, weight: Any, size: int, how: _How) -> _Taps:
    """Neighbours at whole coordinates."""
    if how.padding != "zeros":
        return _Taps(_index(_settled(place, size, how), size), None, weight)
    inside = mb.logical_and(
        x=mb.greater_equal(x=place, y=np.float32(0)), y=mb.less_equal(x=place, y=np.float32(size - 1))
    )
    return _Taps(_index(place, size), inside, weight)


def _index(place: Any, size: int) -> Any:
    """A whole coordinate as int32, inside of the axis also where it is no number."""
    return kept_between(cast(kept_between(place, 0, size - 1), "int32"), 0, size - 1)


def _flat_index(taps: Sequence[_Taps], sizes: Sequence[int]) -> Any:
    """Where a pixel lies in the flattened image; behind it where the pixel is outside."""
    index: Any = None
    inside: Any = None
    for tap, size in zip(taps, sizes, strict=True):
        index = tap.index if index is None else mb.add(x=mb.mul(x=index, y=np.int32(size)), y=tap.index)
        if tap.inside is not None:
            inside = tap.inside if inside is None else mb.logical_and(x=inside, y=tap.inside)
    if inside is None:
        return index
    beyond = np.full([int(size) for size in index.shape], elements(sizes), np.int32)
    return mb.select(cond=inside, a=index, b=beyond)


def _picked(pixels: Any, index: Any) -> Any:
    """[batch, channels, points, neighbours] of flat pixels by [batch, points, neighbours]."""
    if int(pixels.shape[0]) == 1:
        return mb.gather(x=pixels, indices=reshaped(index, index.shape[1:]), axis=np.int32(2))
    return mb.gather(x=pixels, indices=index, axis=np.int32(2), batch_dims=np.int32(1))


def _weighted(pixels: Any, taps: Sequence[_Taps]) -> Any:
    """[batch, channels, points]: the sum of all neighbours, each times its weight on every axis."""
    weights = [tap.weight for tap in taps if tap.weight is not None]
    if not weights:
        return reshaped(pixels, pixels.shape[:3])
    weight = weights[0]
    for other in weights[1:]:
        weight = mb.mul(x=weight, y=other)
    weighed = mb.mul(x=pixels, y=mb.expand_dims(x=weight, axes=[1]))
    return mb.reduce_sum(x=weighed, axes=np.array([3], np.int32), keep_dims=False)


# --- DeformConv ------------------------------------------------------------------------------------


def deform_conv(node: Node) -> Any:
    """A convolution whose taps are moved by computed offsets, and weighed by a mask; zeros outside."""
    node.require_float()
    x, weight, offset = node.var(0), node.var(1), node.var(2)
    batch, channels, *sizes = (int(size) for size in x.shape)
    kernel, steps = [int(size) for size in weight.shape[2:]], [int(size) for size in offset.shape[2:]]
    groups = int(node.attribute("offset_group", 1))
    taps, points = elements(kernel), elements(steps)
    moved = reshaped(offset, (batch * groups, taps, len(sizes), points))
    places = [
        reshaped(
            mb.add(x=sliced(moved, 2, axis, axis + 1), y=base[None, :, None, :]),
            (batch * groups, taps * points),
        )
        for axis, base in enumerate(_regular_places(node, kernel, steps))
    ]
    image = reshaped(x, (batch * groups, channels // groups, *sizes))
    columns = _sampled(image, places, _How("linear", "zeros", corners=True))
    if node.given(4):
        columns = mb.mul(x=columns, y=reshaped(node.var(4), (batch * groups, 1, taps * points)))
    out = _grouped_product(node, reshaped(columns, (batch, channels * taps, points)), weight)
    if node.given(3):
        out = mb.add(x=out, y=reshaped(node.var(3), (1, int(weight.shape[0]), 1)))
    return reshaped(out, (batch, int(weight.shape[0]), *steps))


def _regular_places(node: Node, kernel: list[int], steps: list[int]) -> list[Any]:
    """For each axis, where every tap of every window lies before it is moved: [taps, windows]."""
    axes = len(kernel)
    strides = [int(item) for item in node.attribute("strides", [1] * axes)]
    dilations = [int(item) for item in node.attribute("dilations", [1] * axes)]
    pads = [int(item) for item in node.attribute("pads", [0] * (2 * axes))]
    inner = np.meshgrid(*(np.arange(k) * d for k, d in zip(kernel, dilations, strict=True)), indexing="ij")
    outer = np.meshgrid(
        *(np.arange(n) * s - before for n, s, before in zip(steps, strides, pads[:axes], strict=True)),
        indexing="ij",
    )
    return [
        (tap.reshape(-1, 1) + window.reshape(1, -1)).astype(np.float32)
        for tap, window in zip(inner, outer, strict=True)
    ]


def _grouped_product(node: Node, columns: Any, weight: Any) -> Any:
    """[batch, channels out, windows]: every group of channels times its part of the weight."""
    groups = int(node.attribute("group", 1))
    batch, rows, points = (int(size) for size in columns.shape)
    made = int(weight.shape[0])
    left = reshaped(weight, (1, groups, made // groups, elements(weight.shape[1:])))
    product = mb.matmul(x=left, y=reshaped(columns, (batch, groups, rows // groups, points)))
    return reshaped(product, (batch, made, points))
