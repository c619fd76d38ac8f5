"""Shapes and layout: reshape, transpose, slices, joins, padding, and tensors made from nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgebench.convert.coreml.interpreter.base import IOS17, Array, Call, Kernel, count, padded


def _identity(call: Call) -> Array:
    return call.array("x")


def _shape(call: Call) -> Array:
    return np.array(call.array("x").shape, dtype=np.int32)


# --- another shape, the same elements -------------------------------------------------------------


def _reshape(call: Call) -> Array:
    """0 stands for the input's size: at the same place up to iOS16, counted from the right from iOS17 on."""
    x, wanted = call.array("x"), call.integers("shape")
    if 0 in wanted and x.size:
        if call.opset < IOS17 and len(wanted) != x.ndim:
            raise call.refuse(f"{wanted} holds a 0, but its input has rank {x.ndim}")
        sizes = [1] * max(0, len(wanted) - x.ndim) + list(x.shape)[max(0, x.ndim - len(wanted)) :]
        wanted = [size or own for size, own in zip(wanted, sizes, strict=True)]
    return x.reshape(wanted)


def _reshape_like(call: Call) -> Array:
    shape: list[int] = []
    parts = zip(
        call.arrays("ref_tensors"),
        call.arrays("begins"),
        call.arrays("ends"),
        call.arrays("end_masks"),
        strict=True,
    )
    for reference, begin, end, open_end in parts:
        shape += reference.shape[int(begin) : None if bool(open_end) else int(end)]
    return call.array("x").reshape(shape)


def _flatten2d(call: Call) -> Array:
    x, axis = call.array("x"), call.integer("axis", 1)
    return x.reshape(count(x.shape[:axis]), count(x.shape[axis:]))


def _expand_dims(call: Call) -> Array:
    return np.expand_dims(call.array("x"), tuple(call.integers("axes")))


def _squeeze(call: Call) -> Array:
    """Dimensions of another size than 1 stay, even when they are named."""
    x = call.array("x")
    axes = {axis % x.ndim for axis in call.integers("axes", list(range(x.ndim)))}
    return x.reshape([size for axis, size in enumerate(x.shape) if axis not in axes or size != 1])


def _transpose(call: Call) -> Array:
    return np.transpose(call.array("x"), call.integers("perm"))


# --- blocks between channels and space ------------------------------------------------------------


def _nchw(call: Call) -> Array:
    x = call.array("x")
    if x.ndim != 4:
        raise call.refuse(f"its input has rank {x.ndim}, not 4")
    return x


def _depth_to_space(call: Call) -> Array:
    x, block = _nchw(call), call.integer("block_size")
    n, c, h, w = x.shape
    parts = x.reshape(n, block, block, c // block**2, h, w)
    return parts.transpose(0, 3, 4, 1, 5, 2).reshape(n, c // block**2, h * block, w * block)


def _space_to_depth(call: Call) -> Array:
    x, block = _nchw(call), call.integer("block_size")
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // block, block, w // block, block)
    return parts.transpose(0, 3, 5, 1, 2, 4).reshape(n, c * block**2, h // block, w // block)


def _pixel_shuffle(call: Call) -> Array:
    x, factor = _nchw(call), call.integer("upscale_factor")
    n, c, h, w = x.shape
    parts = x.reshape(n, c // factor**2, factor, factor, h, w)
    return parts.transpose(0, 1, 4, 2, 5, 3).reshape(n, c // factor**2, h * factor, w * factor)


def _pixel_unshuffle(call: Call) -> Array:
    x, factor = _nchw(call), call.integer("downscale_factor")
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // factor, factor, w // factor, factor)
    return parts.transpose(0, 1, 3, 5, 2, 4).reshape(n, c * factor**2, h // factor, w // factor)


def _space_to_batch(call: Call) -> Array:
    """As TensorFlow's: the place within the block becomes the slowest part of the batch."""
    x, (height, width) = _nchw(call), call.integers("block_shape")
    pads = call.array("paddings").reshape(2, 2).tolist()
    x = padded(x, [(int(before), int(after)) for before, after in pads], 0)
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // height, height, w // width, width)
    return parts.transpose(3, 5, 0, 1, 2, 4).reshape(n * height * width, c, h // height, w // width)


def _batch_to_space(call: Call) -> Array:
    x, (height, width) = _nchw(call), call.integers("block_shape")
    n, c, h, w = x.shape
    parts = x.reshape(height, width, n // (height * width), c, h, w)
    whole = parts.transpose(2, 3, 4, 0, 5, 1).reshape(n // (height * width), c, h * height, w * width)
    (top, bottom), (left, right) = call.array("crops").reshape(2, 2).tolist()
    return whole[:, :, top : whole.shape[2] - bottom, left : whole.shape[3] - right]


# --- parts of a tensor ----------------------------------------------------------------------------


def _slices(call: Call, x: Array) -> tuple[tuple[slice, ...], list[int]]:
    """The slice of every axis, and the axes that disappear because they are indexed.

    Negative begins and ends count from the end and stop at 0, also with a negative stride: only a mask
    reaches beyond element 0 there (coremltools' solve_slice_by_index_shape).
    """
    rank = x.ndim
    begins, ends = call.integers("begin"), call.integers("end")
    strides = call.integers("stride", [1] * rank)
    free_begin = call.integers("begin_mask", [0] * rank)
    free_end = call.integers("end_mask", [0] * rank)
    indexed = call.integers("squeeze_mask", [0] * rank)
    if {len(part) for part in (begins, ends, strides, free_begin, free_end, indexed)} != {rank}:
        raise call.refuse(f"its begin {begins} or end {ends} does not fit an input of rank {rank}")
    slices = []
    for axis, size in enumerate(x.shape):
        begin = begins[axis] if begins[axis] >= 0 else max(0, begins[axis] + size)
        end = ends[axis] if ends[axis] >= 0 else max(0, ends[axis] + size)
        if indexed[axis]:
            if not -size <= begins[axis] < size:
                raise call.refuse(f"index {begins[axis]} lies outside a dimension of {size}")
            slices.append(slice(begin, begin + 1))
        else:
            first = None if free_begin[axis] else begin
            slices.append(slice(first, None if free_end[axis] else end, strides[axis]))
    return tuple(slices), [axis for axis in range(rank) if indexed[axis]]


def _slice_by_index(call: Call) -> Array:
    x = call.array("x")
    slices, gone = _slices(call, x)
    return np.squeeze(x[slices], axis=tuple(gone))


def _slice_update(call: Call) -> Array:
    x, update = call.array("x").copy(), call.array("update")
    slices, gone = _slices(call, x)
    target = np.squeeze(x[slices], axis=tuple(gone))
    if update.shape != target.shape or update.dtype != x.dtype:
        raise call.refuse(f"its update {list(update.shape)} does not fit the slice {list(target.shape)}")
    target[...] = update
    return x


def _slice_by_size(call: Call) -> Array:
    x, begins, sizes = call.array("x"), call.integers("begin"), call.integers("size")
    slices = []
    for length, begin, size in zip(x.shape, begins, sizes, strict=True):
        first = begin + length if begin < 0 else begin
        last = length if size == -1 else first + size
        if not 0 <= first <= last <= length:
            raise call.refuse(f"{size} elements from {begin} on lie outside a dimension of {length}")
        slices.append(slice(first, last))
    return x[tuple(slices)]


def _split(call: Call) -> tuple[Array, ...]:
    x, axis = call.array("x"), call.integer("axis")
    length = x.shape[axis]
    if call.has("split_sizes"):
        sizes = call.integers("split_sizes")
    else:
        number = call.integer("num_splits")
        if number < 1 or length % number:
            raise call.refuse(f"{number} equal parts cannot be made of {length}")
        sizes = [length // number] * number
    if sum(sizes) != length or min(sizes) < 0:
        raise call.refuse(f"the parts {sizes} do not make up {length}")
    ends = np.cumsum(sizes)[:-1]
    return tuple(np.split(x, ends, axis=axis))


def _sliding_windows(call: Call) -> Array:
    x, axis = call.array("x"), call.integer("axis") % call.array("x").ndim
    windows = np.lib.stride_tricks.sliding_window_view(x, call.integer("size"), axis=axis)
    chosen = (slice(None),) * axis + (slice(None, None, call.integer("stride", 1)),)
    return np.moveaxis(windows[chosen], -1, axis + 1)


def _reverse(call: Call) -> Array:
    x = call.array("x")
    return np.flip(x, tuple(call.integers("axes", list(range(x.ndim)))))


def _reverse_sequence(call: Call) -> Array:
    x = call.array("x").copy()
    sequence, batch = call.integer("seq_axis", 0) % x.ndim, call.integer("batch_axis", 0) % x.ndim
    lengths = call.integers("lengths")
    if sequence == batch or len(lengths) != x.shape[batch]:
        raise call.refuse(f"{len(lengths)} lengths along axis {batch} do not fit {list(x.shape)}")
    rows = np.moveaxis(x, (batch, sequence), (0, 1))
    for row, length in zip(rows, lengths, strict=True):
        if not 0 <= length <= x.shape[sequence]:
            raise call.refuse(f"a length of {length} does not fit {x.shape[sequence]} elements")
        row[:length] = row[:length][::-1].copy()
    return x


def _band_part(call: Call) -> Array:
    x, lower, upper = call.array("x"), call.integer("lower", -1), call.integer("upper", -1)
    row, column = np.ogrid[: x.shape[-2], : x.shape[-1]]
    inside = ((lower < 0) | (row - column <= lower)) & ((upper < 0) | (column - row <= upper))
    return np.where(inside, x, np.zeros((), dtype=x.dtype))


# --- joins ----------------------------------------------------------------------------------------


def _same_types(call: Call) -> list[Array]:
    values = call.arrays("values")
    if len({value.dtype for value in values}) != 1:
        raise call.refuse(f"it joins different element types: {sorted({str(v.dtype) for v in values})}")
    return values


def _concat(call: Call) -> Array:
    values, axis = _same_types(call), call.integer("axis")
    if values[0].ndim == 0:
        return np.stack(values)
    if not call.flag("interleave"):
        return np.concatenate(values, axis=axis)
    axis %= values[0].ndim
    shape = list(values[0].shape)
    shape[axis] *= len(values)
    return np.stack(values, axis=axis + 1).reshape(shape)


def _stack(call: Call) -> Array:
    return np.stack(_same_types(call), axis=call.integer("axis"))


def _tile(call: Call) -> Array:
    x, repeats = call.array("x"), call.integers("reps")
    if len(repeats) != x.ndim or min(repeats, default=1) < 1:
        raise call.refuse(f"its repetitions {repeats} do not fit an input of rank {x.ndim}")
    call.bound([size * times for size, times in zip(x.shape, repeats, strict=True)])
    return np.tile(x, repeats)


def _pad(call: Call) -> Array:
    """Pads the last dimensions; "reflect" leaves out the edge, "replicate" repeats it."""
    x, mode = call.array("x"), call.text("mode", "constant")
    pairs = call.array("pad").reshape(-1, 2).tolist()
    pads = [(int(before), int(after)) for before, after in pairs]
    if len(pads) > x.ndim or any(min(pair) < 0 for pair in pads):
        raise call.refuse(f"its padding {pads} does not fit an input of rank {x.ndim}")
    leading = x.ndim - len(pads)
    sizes = x.shape[leading:]
    call.bound([*x.shape[:leading], *(size + sum(p) for size, p in zip(sizes, pads, strict=True))])
    if mode == "constant":
        return padded(x, pads, call.number("constant_val", 0.0))
    slack = {"reflect": 1, "replicate": 0}.get(mode)
    if slack is None:
        raise call.refuse(f'the mode "{mode}" is not known')
    if any(max(pair) > size - slack for size, pair in zip(sizes, pads, strict=True)):
        raise call.refuse(f"{mode} cannot pad {list(sizes)} by {pads}")
    return np.pad(x, [(0, 0)] * leading + pads, mode="reflect" if mode == "reflect" else "edge")


# --- tensors made from nothing --------------------------------------------------------------------


def _fill(call: Call) -> Array:
    return _filled(call, call.bound(call.integers("shape")))


def _fill_like(call: Call) -> Array:
    return _filled(call, call.array("ref_tensor").shape)


def _filled(call: Call, shape: tuple[int, ...]) -> Array:
    value = call.maybe("value")
    if value is None:
        return np.zeros(shape, dtype=call.floating)
    return np.full(shape, value.reshape(()), dtype=value.dtype)


def _range_1d(call: Call) -> Array:
    start, end, step = call.array("start"), call.array("end"), call.array("step")
    if len({start.dtype, end.dtype, step.dtype}) != 1 or not step.reshape(()):
        raise call.refuse("its start, end and step must have one type, and its step must not be 0")
    length = np.ceil((float(end.reshape(())) - float(start.reshape(()))) / float(step.reshape(())))
    call.bound([max(0, int(length))])
    steps = np.arange(max(0, int(length)))
    return np.asarray((start.reshape(()) + steps * step.reshape(())).astype(start.dtype))


def _one_hot(call: Call) -> Array:
    """An index outside the vector gives the off value everywhere."""
    indices, size = call.array("indices"), call.integer("one_hot_vector_size")
    axis = call.integer("axis", -1)
    on = call.array("on_value") if call.has("on_value") else np.ones((), np.int32)
    off = call.array("off_value") if call.has("off_value") else np.zeros((), np.int32)
    call.bound([*indices.shape, size])
    place = [1] * (indices.ndim + 1)
    place[axis] = size
    chosen = np.expand_dims(indices, axis) == np.arange(size).reshape(place)
    return np.where(chosen, on.reshape(()), off.reshape(()))


KERNELS: Mapping[str, Kernel] = {
    "band_part": _band_part,
    "batch_to_space": _batch_to_space,
    "concat": _concat,
    "depth_to_space": _depth_to_space,
    "expand_dims": _expand_dims,
    "fill": _fill,
    "fill_like": _fill_like,
    "flatten2d": _flatten2d,
    "identity": _identity,
    "one_hot": _one_hot,
    "pad": _pad,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "range_1d": _range_1d,
    "reshape": _reshape,
    "reshape_like": _reshape_like,
    "reverse": _reverse,
    "reverse_sequence": _reverse_sequence,
    "shape": _shape,
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "slice_update": _slice_update,
    "sliding_windows": _sliding_windows,
    "space_to_batch": _space_to_batch,
    "space_to_depth": _space_to_depth,
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
}
