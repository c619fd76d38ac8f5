"""Gather, scatter, one-hot and what else goes by indices; negative ones count from the end, as in ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgebench.convert.coreml.base import (
    Node,
    broadcast_to,
    cast,
    is_symbolic,
    joined,
    mb,
    permuted,
    reshaped,
    sliced,
    taken,
    types,
)

_MODES = {"none": "update", "add": "add", "mul": "mul", "max": "max", "min": "min"}


def _counted(node: Node, place: int, size: int) -> Any:
    """The indices of an input, none negative: constants as they are, computed ones by a comparison."""
    value = node.value(place)
    if value.const is not None:
        given = value.const
        if given.size and (given.min() < -size or given.max() >= size):
            raise node.refused(f"an index lies outside of -{size}..{size - 1}", "correct the indices")
        return mb.const(val=np.where(given < 0, given + size, given).astype(np.int32))
    indices = value.mil()
    below = mb.cast(x=mb.less(x=indices, y=np.int32(0)), dtype="int32")
    return mb.add(x=indices, y=mb.mul(x=below, y=np.int32(size)))


def _whole(x: Any) -> tuple[Any, str]:
    """A variable that can be gathered from (bool cannot), and the type to come back to."""
    kind = types.builtin_to_string(x.dtype)
    return (cast(x, "int32"), kind) if x.dtype == types.bool else (x, kind)


def gather(node: Node) -> Any:
    """Entries along one axis."""
    x, kind = _whole(node.var(0))
    axis = node.axis(len(x.shape), 0)
    indices = _counted_open(node, x, axis)
    if indices.shape:
        return cast(mb.gather(x=x, indices=indices, axis=np.int32(axis)), kind)
    one = mb.gather(x=x, indices=reshaped(indices, (1,)), axis=np.int32(axis))
    return cast(reshaped(one, [size for at, size in enumerate(x.shape) if at != axis]), kind)


def _counted_open(node: Node, x: Any, axis: int) -> Any:
    """The indices, none negative; along an axis of open size only constants that count from its beginning."""
    given = node.value(1).const
    if is_symbolic(x.shape[axis]) and given is not None and np.all(given >= 0):
        return mb.const(val=given.astype(np.int32))
    return _counted(node, 1, int(x.shape[axis]))


def gather_elements(node: Node) -> Any:
    """For each place of the indices, the entry along one axis."""
    x, kind = _whole(node.var(0))
    axis = node.axis(len(x.shape), 0)
    indices = _counted(node, 1, int(x.shape[axis]))
    for at, size in enumerate(indices.shape):
        if at != axis:
            x = sliced(x, at, 0, int(size))  # Core ML wants equal sizes beside the axis
    return cast(mb.gather_along_axis(x=x, indices=indices, axis=np.int32(axis)), kind)


def gather_nd(node: Node) -> Any:
    """Entries by whole coordinates."""
    x, kind = _whole(node.var(0))
    batch = int(node.attribute("batch_dims", 0))
    indices = _coordinates(node, x, 1, batch)
    return cast(mb.gather_nd(x=x, indices=indices, batch_dims=np.int32(batch)), kind)


def _coordinates(node: Node, x: Any, place: int, batch: int = 0) -> Any:
    """Whole coordinates, none negative."""
    value = node.value(place)
    sizes = np.array([int(size) for size in x.shape[batch : batch + value.shape[-1]]], np.int32)
    if value.const is not None:
        given = value.const
        if given.size and np.any((given < -sizes) | (given >= sizes)):
            raise node.refused(f"an index lies outside of the shape {sizes.tolist()}", "correct the indices")
        return mb.const(val=np.where(given < 0, given + sizes, given).astype(np.int32))
    indices = value.mil()
    below = mb.cast(x=mb.less(x=indices, y=np.int32(0)), dtype="int32")
    return mb.add(x=indices, y=mb.mul(x=below, y=sizes))


def scatter_elements(node: Node) -> Any:
    """The data with single entries replaced or combined, along one axis."""
    data, kind = _whole(node.var(0))
    updates = cast(node.var(2), types.builtin_to_string(data.dtype))
    axis = node.axis(len(data.shape), 0)
    indices = _counted(node, 1, int(data.shape[axis]))
    mode = _mode(node)
    if any(
        int(a) != int(b)
        for at, (a, b) in enumerate(zip(data.shape, indices.shape, strict=True))
        if at != axis
    ):
        return cast(_scatter_by_coordinates(data, indices, updates, axis, mode), kind)
    out = mb.scatter_along_axis(data=data, indices=indices, updates=updates, axis=np.int32(axis), mode=mode)
    return cast(out, kind)


def _mode(node: Node) -> str:
    mode = node.attribute("reduction", "none")
    if mode not in _MODES:
        raise node.refused(f'there is no reduction "{mode}"', "export the network to ONNX again")
    return _MODES[mode]


def _scatter_by_coordinates(data: Any, indices: Any, updates: Any, axis: int, mode: str) -> Any:
    """Where the indices are smaller than the data beside the axis: every entry by its whole coordinates."""
    shape = [int(size) for size in indices.shape]
    grids = []
    for at, length in enumerate(shape):
        if at == axis:
            grids.append(reshaped(indices, [*shape, 1]))
            continue
        spread = [1] * len(shape)
        spread[at] = length
        grid = np.broadcast_to(np.arange(length, dtype=np.int32).reshape(spread), shape)
        grids.append(mb.const(val=np.ascontiguousarray(grid[..., None])))
    return mb.scatter_nd(data=data, indices=joined(grids, len(shape)), updates=updates, mode=mode)


def scatter_nd(node: Node) -> Any:
    """The data with slices replaced or combined, by whole coordinates."""
    data, kind = _whole(node.var(0))
    updates = cast(node.var(2), types.builtin_to_string(data.dtype))
    out = mb.scatter_nd(data=data, indices=_coordinates(node, data, 1), updates=updates, mode=_mode(node))
    return cast(out, kind)


def one_hot(node: Node) -> Any:
    """A new axis with one value at the index and another elsewhere; an index outside gives no such place."""
    depth = node.ints(1, "the depth")[0]
    indices = cast(node.var(0), "int32")
    rank = len(indices.shape) + 1
    axis = node.axis(rank, -1)
    below = mb.cast(x=mb.less(x=indices, y=np.int32(0)), dtype="int32")
    counted = mb.add(x=indices, y=mb.mul(x=below, y=np.int32(depth)))
    sizes = [int(size) for size in indices.shape]
    wide = reshaped(counted, [*sizes[:axis], 1, *sizes[axis:]])
    places = np.arange(depth, dtype=np.int32).reshape([depth if at == axis else 1 for at in range(rank)])
    hit = mb.equal(x=wide, y=places)
    values = node.var(2)
    shape = [*sizes[:axis], depth, *sizes[axis:]]
    off, on = (broadcast_to(reshaped(sliced(values, 0, at, at + 1), ()), shape) for at in (0, 1))
    return mb.select(cond=hit, a=on, b=off)


def compress(node: Node) -> Any:
    """The entries where a known condition holds."""
    x = node.var(0)
    places = np.flatnonzero(node.constant(1, "the condition"))
    if not places.size:
        raise node.refused("Core ML has no empty tensors, and nothing is kept", "remove it from the model")
    if "axis" not in node.attributes:
        return taken(mb.reshape(x=x, shape=np.array([-1], np.int32)), places, 0)
    return mb.identity(x=taken(x, places, node.axis(len(x.shape), 0)))


def reverse_sequence(node: Node) -> Any:
    """The first entries of each sample turned round, as many as its length says."""
    x, kind = _whole(node.var(0))
    rank = len(x.shape)
    batch, time = node.axis(rank, 1, "batch_axis"), node.axis(rank, 0, "time_axis")
    size = int(x.shape[time])
    known = node.value(1).const
    if known is not None and np.any((known < 0) | (known > size)):
        raise node.refused(f"a length lies outside of 0..{size}", "correct the lengths")
    lengths = reshaped(node.var(1), (int(x.shape[batch]), 1))
    steps = mb.const(val=np.arange(size, dtype=np.int32)[None].repeat(int(x.shape[batch]), axis=0))
    turned = mb.sub(x=mb.sub(x=lengths, y=np.int32(1)), y=steps)
    places = mb.select(cond=mb.less(x=steps, y=lengths), a=turned, b=steps)
    order = [batch, time] + [at for at in range(rank) if at not in (batch, time)]
    found = mb.gather(x=permuted(x, order), indices=places, axis=np.int32(1), batch_dims=np.int32(1))
    return cast(permuted(found, [order.index(at) for at in range(rank)]), kind)


def tensor_scatter(node: Node) -> Any:
    """A cache with new entries written along the sequence axis, from a place of its own in each sample."""
    cache, update = node.var(0), node.var(1)
    rank = len(cache.shape)
    axis = node.axis(rank, -2)
    batch, length, room = int(cache.shape[0]), int(update.shape[axis]), int(cache.shape[axis])
    steps = np.arange(length, dtype=np.int32)[None]
    if node.given(2):
        places = mb.add(x=reshaped(node.var(2), (batch, 1)), y=steps)
    else:
        places = mb.const(val=np.ascontiguousarray(np.broadcast_to(steps, (batch, length))))
    if node.attribute("mode", "linear") == "circular":
        places = mb.mod(x=places, y=np.int32(room))
    spread = [batch, *[1] * (rank - 1)]
    spread[axis] = length
    wide = broadcast_to(reshaped(places, spread), [int(size) for size in update.shape])
    return mb.scatter_along_axis(data=cache, indices=wide, updates=update, axis=np.int32(axis), mode="update")


def range_(node: Node) -> Any:
    """Never of computed limits: its length would not be known; of constants it is computed beforehand."""
    raise node.refused("its length is known only at run time", "make its limits constants of the model")


def eye_like(node: Node) -> Any:
    """Ones on one diagonal: known as soon as the shape is."""
    rows, columns = node.value(0).shape
    dtype = node.output_dtypes[0] or node.dtype()
    return np.eye(rows, columns, k=int(node.attribute("k", 0)), dtype=dtype)


def determinant(node: Node) -> Any:
    """Of small matrices, by expansion along the first row."""
    node.require_float()
    x = node.var(0)
    size = int(x.shape[-1])
    if size > 4:
        raise node.refused(f"a determinant of {size} rows needs pivoting, which Core ML has not")
    shape = [int(each) for each in x.shape[:-2]]
    rows = [
        [
            reshaped(sliced(sliced(x, len(shape), r, r + 1), len(shape) + 1, c, c + 1), shape)
            for c in range(size)
        ]
        for r in range(size)
    ]
    return mb.identity(x=_expansion(rows))


def _expansion(rows: list[list[Any]]) -> Any:
    if len(rows) == 1:
        return rows[0][0]
    total = None
    for column, factor in enumerate(rows[0]):
        minor = [[entry for at, entry in enumerate(row) if at != column] for row in rows[1:]]
        term = mb.mul(x=factor, y=_expansion(minor))
        signed = mb.mul(x=term, y=np.float32(-1)) if column % 2 else term
        total = signed if total is None else mb.add(x=total, y=signed)
    return total


def column_to_image(node: Node) -> Any:
    """Blocks added up where they overlap: one scatter with known places."""
    node.require_float()
    x = node.var(0)
    image, block = node.ints(1, "the image shape"), node.ints(2, "the block shape")
    axes = len(image)
    dilations = [int(item) for item in node.attribute("dilations", [1] * axes)]
    strides = [int(item) for item in node.attribute("strides", [1] * axes)]
    pads = [int(item) for item in node.attribute("pads", [0] * (2 * axes))]
    padded = [size + pads[at] + pads[at + axes] for at, size in enumerate(image)]
    counts = [
        (size - dilation * (length - 1) - 1) // stride + 1
        for size, dilation, length, stride in zip(padded, dilations, block, strides, strict=True)
    ]
    places = _block_places(block, counts, strides, dilations, padded)
    batch, columns = int(x.shape[0]), int(x.shape[1])
    channels = columns // int(np.prod(block))
    flat = reshaped(x, (batch * channels, places.size))
    turned = permuted(flat, (1, 0))
    empty = mb.const(val=np.zeros((int(np.prod(padded)), batch * channels), np.float32))
    spread = mb.scatter(
        data=empty, indices=places.reshape(-1).astype(np.int32), updates=turned, axis=np.int32(0), mode="add"
    )
    inside = np.arange(int(np.prod(padded))).reshape(padded)
    window = tuple(slice(pads[at], pads[at] + size) for at, size in enumerate(image))
    kept = taken(spread, inside[window].reshape(-1), 0)
    return reshaped(permuted(kept, (1, 0)), (batch, channels, *image))


def _block_places(
    block: list[int], counts: list[int], strides: list[int], dilations: list[int], padded: list[int]
) -> Any:
    """[places of a block, blocks]: where each value lies in the flattened bordered image."""
    inner = np.meshgrid(*(np.arange(k) * d for k, d in zip(block, dilations, strict=True)), indexing="ij")
    outer = np.meshgrid(*(np.arange(n) * s for n, s in zip(counts, strides, strict=True)), indexing="ij")
    axes = [i.reshape(-1, 1) + o.reshape(1, -1) for i, o in zip(inner, outer, strict=True)]
    return np.ravel_multi_index(tuple(axes), tuple(padded))
