"""Values found, ordered or placed by index: gather, scatter, sort, top-k, cumulative sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgebench.convert.coreml.interpreter.base import ELEMENT_NAMES, IOS17, Array, Call, Kernel, count


def _indices(call: Call, key: str, size: int) -> Array:
    """Indices from 0 on; negative ones count from the end up to iOS16, and are refused from iOS17 on."""
    return _within(call, call.array(key).astype(np.int64), size)


def _within(call: Call, indices: Array, size: int) -> Array:
    if not indices.size:
        return indices
    low, high = int(indices.min()), int(indices.max())
    if high >= size or low < (0 if call.opset >= IOS17 else -size):
        raise call.refuse(
            f"an index of {low if low < 0 else high} into {size} elements is not defined",
            hint="from iOS17 on, negative indices must be made positive in the program",
        )
    return np.where(indices < 0, indices + size, indices)


def _gather(call: Call) -> Array:
    x = call.array("x")
    axis = call.integer("axis", 0) % x.ndim
    batch = call.integer("batch_dims", 0)
    indices = _indices(call, "indices", x.shape[axis])
    if not batch:
        return np.take(x, indices, axis=axis)
    if not 0 < batch <= axis or x.shape[:batch] != indices.shape[:batch]:
        raise call.refuse(f"{batch} batch dimensions do not fit {list(x.shape)} and {list(indices.shape)}")
    rows = x.reshape(-1, *x.shape[batch:])
    chosen = indices.reshape(rows.shape[0], *indices.shape[batch:])
    found = [np.take(row, index, axis=axis - batch) for row, index in zip(rows, chosen, strict=True)]
    return np.stack(found).reshape(*x.shape[:axis], *indices.shape[batch:], *x.shape[axis + 1 :])


def _gather_along_axis(call: Call) -> Array:
    x, axis = call.array("x"), call.integer("axis", 0)
    return np.take_along_axis(x, _indices(call, "indices", x.shape[axis]), axis=axis)


def _gather_nd(call: Call) -> Array:
    x, indices, batch = call.array("x"), call.array("indices").astype(np.int64), call.integer("batch_dims", 0)
    if batch < 0 or x.shape[:batch] != indices.shape[:batch]:
        raise call.refuse(f"{batch} batch dimensions do not fit {list(x.shape)} and {list(indices.shape)}")
    leading = np.ogrid[tuple(slice(size) for size in x.shape[:batch])] if batch else []
    places = [part.reshape(*part.shape, *[1] * (indices.ndim - 1 - batch)) for part in leading]
    return np.asarray(x[(*places, *_coordinates(call, indices, x.shape[batch:]))])


def _coordinates(call: Call, indices: Array, shape: tuple[int, ...]) -> tuple[Array, ...]:
    if indices.ndim < 1 or not 1 <= indices.shape[-1] <= len(shape):
        raise call.refuse(f"indices of shape {list(indices.shape)} do not point into {list(shape)}")
    return tuple(_within(call, indices[..., i], shape[i]) for i in range(indices.shape[-1]))


# --- scatter --------------------------------------------------------------------------------------

_COMBINE: Mapping[str, np.ufunc] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.true_divide,
    "max": np.maximum,
    "min": np.minimum,
}


def _place(call: Call, data: Array, where: tuple[Any, ...], updates: Array) -> None:
    mode = call.text("mode", "add")
    if data.dtype != updates.dtype:
        raise call.refuse(f"its data are {data.dtype}, its updates {updates.dtype}")
    if mode == "update":
        data[where] = updates
    elif mode in _COMBINE:
        _COMBINE[mode].at(data, where, updates)
    else:
        raise call.refuse(f'the mode "{mode}" is not known')


def _scatter(call: Call) -> Array:
    data, updates = call.array("data").copy(), call.array("updates")
    axis = call.integer("axis", 0) % data.ndim
    indices = _indices(call, "indices", data.shape[axis])
    if updates.shape != (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]) or indices.ndim != 1:
        raise call.refuse(f"its updates {list(updates.shape)} do not fit {list(data.shape)}")
    _place(call, np.moveaxis(data, axis, 0), (indices,), np.moveaxis(updates, axis, 0))
    return data


def _scatter_along_axis(call: Call) -> Array:
    data, updates = call.array("data").copy(), call.array("updates")
    axis = call.integer("axis", 0) % data.ndim
    indices = _indices(call, "indices", data.shape[axis])
    if indices.shape != updates.shape or indices.ndim != data.ndim:
        raise call.refuse(f"its updates {list(updates.shape)} do not fit its indices {list(indices.shape)}")
    places: list[Any] = list(np.ogrid[tuple(slice(size) for size in indices.shape)])
    places[axis] = indices
    _place(call, data, tuple(places), updates)
    return data


def _scatter_nd(call: Call) -> Array:
    data, updates = call.array("data").copy(), call.array("updates")
    indices = call.array("indices").astype(np.int64)
    places = _coordinates(call, indices, data.shape)
    if updates.shape != (*indices.shape[:-1], *data.shape[indices.shape[-1] :]):
        raise call.refuse(f"its updates {list(updates.shape)} do not fit {list(data.shape)}")
    _place(call, data, places, updates)
    return data


# --- order ----------------------------------------------------------------------------------------


def _order(x: Array, axis: int, ascending: bool) -> Array:
    """Indices that sort `x`; equal values keep their order (Core ML does not say)."""
    keys = x if x.dtype.kind == "f" else x.astype(np.int64)
    return np.argsort(keys if ascending else -keys, axis=axis, kind="stable")


def _argsort(call: Call) -> Array:
    return _order(call.array("x"), call.integer("axis", -1), call.flag("ascending")).astype(np.int32)


def _topk(call: Call) -> Array | tuple[Array, ...]:
    x, axis, k = call.array("x"), call.integer("axis", -1), call.integer("k", 1)
    length = x.shape[axis]
    number = length if k == -1 else k
    if not 0 <= number <= length:
        raise call.refuse(f"{k} of {length} elements cannot be taken")
    chosen = np.take(_order(x, axis, call.flag("ascending")), np.arange(number), axis=axis)
    values = np.take_along_axis(x, chosen, axis=axis)
    if not call.flag("return_indices", True):
        return values
    name = call.text("output_indices_dtype", "int32")
    if name not in ("int32", "uint16"):
        raise call.refuse(f'its index type "{name}" is neither int32 nor uint16')
    return values, chosen.astype(ELEMENT_NAMES[name].numpy)


def _non_zero(call: Call) -> Array:
    return np.argwhere(call.array("x")).astype(np.int32)


def _cumsum(call: Call) -> Array:
    x, axis = call.array("x"), call.integer("axis", 0)
    flipped = np.flip(x, axis) if call.flag("reverse") else x
    sums = np.cumsum(flipped, axis=axis, dtype=x.dtype)
    if call.flag("exclusive"):
        sums = sums - flipped if x.dtype.kind == "i" else _shifted(sums, axis)
    return np.flip(sums, axis) if call.flag("reverse") else sums


def _shifted(sums: Array, axis: int) -> Array:
    """The sums of what comes before each element: exact also where an element is infinite."""
    before = np.zeros_like(sums)
    if count(sums.shape):
        np.moveaxis(before, axis, 0)[1:] = np.moveaxis(sums, axis, 0)[:-1]
    return before


KERNELS: Mapping[str, Kernel] = {
    "argsort": _argsort,
    "cumsum": _cumsum,
    "gather": _gather,
    "gather_along_axis": _gather_along_axis,
    "gather_nd": _gather_nd,
    "non_zero": _non_zero,
    "scatter": _scatter,
    "scatter_along_axis": _scatter_along_axis,
    "scatter_nd": _scatter_nd,
    "topk": _topk,
}
