"""RoiAlign: regions of an image, each pooled into as many bins.

The points of a bin lie on a grid, so rows and columns are computed apart. Every point has four pixels, which
are gathered by their index in all images laid out flat, and weighed. An index is always inside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from edgebench.convert.coreml.base import (
    Array,
    Node,
    cast,
    elements,
    kept_between,
    mb,
    permuted,
    reshaped,
    sliced,
)

MAX_POINTS = 1 << 24  # of all regions and channels together
MAX_LENGTH = 1 << 18  # of a region, in pixels
_OLDEST_HALF_PIXEL = 16  # before that opset there was no shift by half a pixel


class _Line(NamedTuple):
    """The points of all regions along one axis.

    `sides` are the index and the weight of the pixel before and behind each point, [regions, bins * points].
    A point outside of the image, or one that its region has not, weighs nothing. `counts` [regions, 1] says
    how many points of a bin there are, at most `points`.
    """

    sides: tuple[tuple[Any, Any], tuple[Any, Any]]
    counts: Array
    points: int


def roi_align(node: Node) -> Any:
    """Regions of an image, each pooled into as many bins by the mean or the greatest of its points."""
    node.require_float()
    batch, channels, height, width = node.value(0).shape
    rows = _line(node, 1, height, _bins(node)[0])
    columns = _line(node, 0, width, _bins(node)[1])
    points = elements((channels, *rows.sides[0][0].shape, columns.sides[0][0].shape[1]))
    if points > MAX_POINTS:
        raise node.refused(f"{points} sample points are too many", "set a smaller sampling_ratio")
    pixels = reshaped(permuted(node.var(0), (1, 0, 2, 3)), (channels, batch * height * width))
    image = mb.mul(x=_images(node, batch), y=np.int32(height * width))
    corners = []
    for row, above in rows.sides:
        first = mb.add(x=mb.mul(x=row, y=np.int32(width)), y=image)
        for column, beside in columns.sides:
            index = _flat(_crossed(mb.add, first, column))
            found = mb.gather(x=pixels, indices=index, axis=np.int32(1))
            weight = _flat(_crossed(mb.mul, above, beside))
            corners.append(mb.mul(x=found, y=reshaped(weight, (1, *weight.shape))))
    return _pooled(node, corners, rows, columns)


def _bins(node: Node) -> tuple[int, int]:
    return int(node.attribute("output_height", 1)), int(node.attribute("output_width", 1))


def _images(node: Node, batch: int) -> Any:
    """[regions, 1]: the image of each region."""
    value = node.value(2)
    if value.const is not None and np.any((value.const < 0) | (value.const >= batch)):
        raise node.refused(f"a region lies in none of the {batch} images", "correct the batch indices")
    return reshaped(value.mil(), (value.shape[0], 1))


def _crossed(function: Callable[..., Any], rows: Any, columns: Any) -> Any:
    """[regions, rows, columns]: a function of every row and every column of a region."""
    regions, height, width = int(rows.shape[0]), int(rows.shape[1]), int(columns.shape[1])
    return function(
        x=reshaped(rows, (regions, height, 1)), y=reshaped(columns, (int(columns.shape[0]), 1, width))
    )


def _flat(var: Any) -> Any:
    return reshaped(var, (elements(var.shape),))


# --- points along one axis ------------------------------------------------------------------------


def _line(node: Node, axis: int, size: int, bins: int) -> _Line:
    """The points along x (axis 0) or y (axis 1), with ONNX's order of operations."""
    half = _is_half_pixel(node)
    scale = np.float32(node.attribute("spatial_scale", 1.0))
    first, last = (mb.mul(x=sliced(node.var(1), 1, at, at + 1), y=scale) for at in (axis, axis + 2))
    if half:
        first, last = (mb.sub(x=edge, y=np.float32(0.5)) for edge in (first, last))
    length = mb.sub(x=last, y=first)
    length = length if half else mb.maximum(x=length, y=np.float32(1))
    counts = _counts(node, axis, bins)
    points = max(int(counts.max()), 1)
    step = mb.real_div(x=length, y=np.float32(bins))
    begin = mb.mul(x=step, y=np.repeat(np.arange(bins, dtype=np.float32), points)[None])
    own = np.minimum(np.arange(points)[None], np.maximum(counts, 1) - 1)  # others repeat the last one
    within = mb.mul(x=step, y=np.tile(own + 0.5, (1, bins)).astype(np.float32))
    within = mb.real_div(x=within, y=np.maximum(counts, 1).astype(np.float32))
    at = mb.add(x=mb.add(x=first, y=begin), y=within)
    there = np.tile(np.arange(points)[None] < counts, (1, bins)).astype(np.float32)
    if node.attribute("mode", "avg") == "max":  # one that repeats another changes no maximum
        there = np.broadcast_to(counts > 0, there.shape).astype(np.float32)
    return _Line(_sides(at, size, there), counts, points)


def _is_half_pixel(node: Node) -> bool:
    default = "half_pixel" if node.opset >= _OLDEST_HALF_PIXEL else "output_half_pixel"
    return str(node.attribute("coordinate_transformation_mode", default)) == "half_pixel"


def _counts(node: Node, axis: int, bins: int) -> Array:
    """[regions, 1]: how many points a bin has, which the size of its region says where the node does not."""
    ratio = int(node.attribute("sampling_ratio", 0))
    if ratio > 0:
        return np.full((node.value(1).shape[0], 1), ratio)
    if node.value(1).const is None:
        raise node.refused(
            "how many points it samples depends on the size of its regions, which are computed",
            "set its sampling_ratio, or make the regions constants of the model",
        )
    edges = node.constant(1, "the regions").astype(np.float32) * np.float32(
        node.attribute("spatial_scale", 1.0)
    )
    length = edges[:, axis + 2 : axis + 3] - edges[:, axis : axis + 1]
    length = length if _is_half_pixel(node) else np.maximum(length, np.float32(1))
    if not np.all(np.abs(length) < MAX_LENGTH):
        raise node.refused("a region of it has no finite size, or an absurd one", "correct the regions")
    return np.maximum(np.ceil(length / np.float32(bins)).astype(np.int64), 0)


def _sides(at: Any, size: int, there: Array) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Index and weight of the pixels before and behind each point."""
    inside = mb.logical_and(
        x=mb.greater_equal(x=at, y=np.float32(-1)), y=mb.less_equal(x=at, y=np.float32(size))
    )
    counted = mb.mul(x=cast(inside, "fp32"), y=there)
    at = kept_between(at, 0, size - 1)
    low = mb.floor(x=at)
    share = mb.sub(x=at, y=low)
    before = kept_between(cast(low, "int32"), 0, size - 1)
    behind = mb.minimum(x=mb.add(x=before, y=np.int32(1)), y=np.int32(size - 1))
    return (
        (before, mb.mul(x=mb.sub(x=np.float32(1), y=share), y=counted)),
        (behind, mb.mul(x=share, y=counted)),
    )


# --- pooling --------------------------------------------------------------------------------------


def _pooled(node: Node, corners: list[Any], rows: _Line, columns: _Line) -> Any:
    """[regions, channels, bins, bins] of four weighed pixels for every point, [channels, points of all]."""
    mode = node.attribute("mode", "avg")
    combine = {"avg": mb.add, "max": mb.maximum}.get(mode)
    if combine is None:
        raise node.refused(f'there is no mode "{mode}"', "export the network to ONNX again")
    value = corners[0]
    for corner in corners[1:]:
        value = combine(x=value, y=corner)
    channels, regions = int(value.shape[0]), len(rows.counts)
    height, width = _bins(node)
    value = reshaped(value, (channels * regions * height, rows.points, width, columns.points))
    axes = np.array([1, 3], np.int32)
    if mode == "max":
        out = mb.reduce_max(x=value, axes=axes, keep_dims=False)
    else:
        out = mb.reduce_sum(x=value, axes=axes, keep_dims=False)
    out = reshaped(out, (channels, regions, height, width))
    if mode == "avg":
        counts = np.maximum(rows.counts * columns.counts, 1).astype(np.float32)
        out = mb.real_div(x=out, y=counts.reshape(1, regions, 1, 1))
    return permuted(out, (1, 0, 2, 3))
