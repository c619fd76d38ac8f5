"""What moves values without computing: reshape, transpose, join, split, slice, pad, repeat, blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgebench.convert.coreml.base import (
    Node,
    broadcast_shape,
    broadcast_to,
    cast,
    elements_open,
    is_symbolic,
    joined,
    mb,
    padded,
    permuted,
    quotient,
    reshaped,
    size_at,
    sliced,
    taken,
    types,
)


def reshape(node: Node) -> Any:
    """In the shape asked; 0 and -1 become the sizes they stand for, since MIL's own 0 is not safe."""
    x = node.var(0)
    sizes = node.sizes(1, "the shape") if node.given(1) else [int(size) for size in node.attribute("shape")]
    if not node.attribute("allowzero", 0):
        sizes = [size_at(x, at) if size == 0 else size for at, size in enumerate(sizes)]
    if -1 in sizes:
        known = elements_open([size for size in sizes if size != -1])
        sizes[sizes.index(-1)] = quotient(elements_open(x.shape), known)
    return _same(reshaped(x, sizes), x)


def _same(out: Any, x: Any) -> Any:
    return mb.identity(x=x) if out is x else out


def flatten(node: Node) -> Any:
    """Two axes: all before `axis`, all from it on."""
    x = node.var(0)
    axis = int(node.attribute("axis", 1))
    axis = axis + len(x.shape) if axis < 0 else axis
    return _same(reshaped(x, (elements_open(x.shape[:axis]), elements_open(x.shape[axis:]))), x)


def transpose(node: Node) -> Any:
    """The axes in another order, reversed where none is given."""
    x = node.var(0)
    rank = len(x.shape)
    order = [int(axis) for axis in node.attribute("perm", list(reversed(range(rank))))]
    return _same(permuted(x, order), x)


def squeeze(node: Node) -> Any:
    """Without axes of size 1."""
    x = node.var(0)
    axes = node.axes(1, len(x.shape))
    gone = axes if axes else tuple(at for at, size in enumerate(x.shape) if size == 1)
    return _same(reshaped(x, [size for at, size in enumerate(x.shape) if at not in gone]), x)


def unsqueeze(node: Node) -> Any:
    """With new axes of size 1."""
    x = node.var(0)
    given = node.ints(1, "axes") if node.given(1) else [int(axis) for axis in node.attribute("axes")]
    rank = len(x.shape) + len(given)
    axes = {node.counted(axis, rank) for axis in given}
    sizes = iter(x.shape)
    return reshaped(x, [1 if at in axes else next(sizes) for at in range(rank)])


def concat(node: Node) -> Any:
    """One behind the other along `axis`; empty ones add nothing."""
    values = [value for value in map(node.value, range(len(node.inputs))) if 0 not in value.shape]
    axis = node.axis(values[0].rank, int(node.attribute("axis", 1)))
    return (
        mb.identity(x=values[0].mil())
        if len(values) == 1
        else joined([value.mil() for value in values], axis)
    )


def split(node: Node) -> Any:
    """Cut along `axis` into parts of given or equal sizes."""
    x = node.var(0)
    axis = node.axis(len(x.shape), 0)
    length, count = int(x.shape[axis]), len(node.outputs)
    if node.given(1):
        sizes = node.ints(1, "the sizes")
    elif "split" in node.attributes:
        sizes = [int(size) for size in node.attribute("split")]
    else:
        part = -(-length // count)
        sizes = [min(part, length - at * part) for at in range(count)]
    if sum(sizes) != length or any(size < 0 for size in sizes):
        raise node.refused(f"parts of {sizes} do not make {length}", "correct the sizes")
    starts = np.cumsum([0, *sizes])
    return [
        sliced(x, axis, int(start), int(start) + size) if size else _empty(node, x, axis)
        for start, size in zip(starts, sizes, strict=False)
    ]


def _empty(node: Node, x: Any, axis: int) -> Any:
    """No values: a constant, since Core ML has no empty tensors; what joins it with others drops it."""
    shape = [int(size) for size in x.shape]
    shape[axis] = 0
    return np.zeros(shape, node.dtype())


_TO_THE_END = 2**31 - 1  # exporters write this, or more, for "all that is left"


def slice_(node: Node) -> Any:
    """A part of some axes, with any step; bounds are those of Python."""
    x = node.var(0)
    starts, ends, axes, steps = _bounds(node, len(x.shape))
    begin, end, stride = [0] * len(x.shape), list(x.shape), [1] * len(x.shape)
    mask = [True] * len(x.shape)
    for first, last, axis, step in zip(starts, ends, axes, steps, strict=True):
        if is_symbolic(x.shape[axis]) and first >= 0 and step > 0 and last >= _TO_THE_END:
            begin[axis], stride[axis] = first, step
            continue
        start, stop, stepped = slice(first, last, step).indices(int(x.shape[axis]))
        if len(range(start, stop, stepped)) == 0:
            return _empty(node, x, axis)
        begin[axis], end[axis], stride[axis] = start, stop, stepped
        mask[axis] = stop < 0 or (stepped > 0 and stop == int(x.shape[axis]))
    return mb.slice_by_index(
        x=x,
        begin=np.array(begin, np.int32),
        end=np.array([0 if masked else last for masked, last in zip(mask, end, strict=True)], np.int32),
        stride=np.array(stride, np.int32),
        end_mask=np.array(mask, np.bool_),
    )


def _bounds(node: Node, rank: int) -> tuple[list[int], list[int], list[int], list[int]]:
    if "starts" in node.attributes:
        starts, ends = list(node.attribute("starts")), list(node.attribute("ends"))
        axes = [int(axis) for axis in node.attribute("axes", range(len(starts)))]
        return starts, ends, [node.counted(axis, rank) for axis in axes], [1] * len(starts)
    starts, ends = node.ints(1, "starts"), node.ints(2, "ends")
    axes = node.ints(3, "axes") if node.given(3) else list(range(len(starts)))
    steps = node.ints(4, "steps") if node.given(4) else [1] * len(starts)
    return starts, ends, [node.counted(axis, rank) for axis in axes], steps


def expand(node: Node) -> Any:
    """Repeated along axes of size 1."""
    x = node.var(0)
    shape = broadcast_shape(tuple(x.shape), node.sizes(1, "the shape"))
    return _same(broadcast_to(x, shape), x)


def tile(node: Node) -> Any:
    """Repeated along every axis."""
    return mb.tile(x=node.var(0), reps=np.array(node.ints(1, "the repeats"), np.int32))


def pad(node: Node) -> Any:
    """A border of one number, of the edge, of a mirror image or of the other side; negative ones cut."""
    x = node.var(0)
    pads = _pads(node, len(x.shape))
    for axis, (before, after) in enumerate(pads):
        if before < 0 or after < 0:
            x = sliced(x, axis, max(-before, 0), int(x.shape[axis]) - max(-after, 0))
    pads = [(max(before, 0), max(after, 0)) for before, after in pads]
    mode = node.attribute("mode", "constant")
    if mode == "constant":
        return _same(_constant_border(node, x, pads), node.var(0))
    for axis, (before, after) in enumerate(pads):
        if before or after:
            x = taken(x, _places(node, mode, int(x.shape[axis]), before, after), axis)
    return _same(x, node.var(0))


def _constant_border(node: Node, x: Any, pads: list[tuple[int, int]]) -> Any:
    if not node.given(2):
        return padded(x, pads, float(node.attribute("value", 0.0)))
    value = node.value(2)
    if value.const is not None:
        return padded(x, pads, value.const.reshape(-1)[0])
    number = value.mil()
    for axis, (before, after) in enumerate(pads):
        shape = [int(size) for size in x.shape]
        parts = [x]
        for size, place in ((before, 0), (after, len(parts) + 1)):
            if size:
                border = broadcast_to(reshaped(number, ()), [*shape[:axis], size, *shape[axis + 1 :]])
                parts.insert(place, border)
        x = joined(parts, axis)
    return x


def _pads(node: Node, rank: int) -> list[tuple[int, int]]:
    given = (
        node.ints(1, "the pads")
        if node.given(1)
        else [int(size) for size in node.attribute("pads", node.attribute("paddings", []))]
    )
    axes = [node.counted(axis, rank) for axis in node.ints(3, "axes")] if node.given(3) else list(range(rank))
    pads = [(0, 0)] * rank
    for place, axis in enumerate(axes):
        pads[axis] = (given[place], given[place + len(axes)])
    return pads


def _places(node: Node, mode: str, size: int, before: int, after: int) -> Any:
    """Which entry of an axis stands at each place of the bordered axis."""
    places = np.arange(-before, size + after)
    if mode == "edge":
        return np.clip(places, 0, size - 1)
    if mode == "wrap":
        return places % size
    if mode != "reflect":
        raise node.refused(f'there is no mode "{mode}"', "export the network to ONNX again")
    period = max(2 * (size - 1), 1)
    folded = places % period
    return np.where(folded < size, folded, period - folded)


# --- depth and space ----------------------------------------------------------------------------


def depth_to_space(node: Node) -> Any:
    """Channels become blocks of pixels, in either order of ONNX."""
    node_x, size = node.var(0), int(node.attribute("blocksize"))
    x = _numeric(node_x)
    if node.attribute("mode", "DCR") == "CRD":
        out = mb.pixel_shuffle(x=x, upscale_factor=np.int32(size))
    else:
        out = mb.depth_to_space(x=x, block_size=np.int32(size))
    return cast(out, types.builtin_to_string(node_x.dtype))


def space_to_depth(node: Node) -> Any:
    """Blocks of pixels become channels, in either order."""
    node_x, size = node.var(0), int(node.attribute("blocksize"))
    x = _numeric(node_x)
    if node.attribute("mode", "DCR") == "CRD":
        out = mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(size))
    else:
        out = mb.space_to_depth(x=x, block_size=np.int32(size))
    return cast(out, types.builtin_to_string(node_x.dtype))


def _numeric(x: Any) -> Any:
    return cast(x, "fp32")


def trilu(node: Node) -> Any:
    """The upper or the lower triangle of the last two axes; the rest is zero."""
    x = node.var(0)
    k = node.ints(1, "k")[0] if node.given(1) else 0
    rows, columns = int(x.shape[-2]), int(x.shape[-1])
    ones = np.ones((rows, columns), np.bool_)
    kept = np.triu(ones, k) if node.attribute("upper", 1) else np.tril(ones, k)
    shape = tuple(int(size) for size in x.shape)
    mask = mb.const(val=np.ascontiguousarray(np.broadcast_to(kept, shape)))
    if x.dtype == types.bool:
        return mb.logical_and(x=x, y=mask)
    zeros = mb.const(val=np.zeros(shape, np.int32 if x.dtype == types.int32 else np.float32))
    return mb.select(cond=mask, a=x, b=zeros)
