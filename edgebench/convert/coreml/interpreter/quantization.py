"""Quantization of activations, and the compressed weights that `constexpr_*` operators unfold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgebench.convert.coreml.interpreter.base import (
    ELEMENT_NAMES,
    Array,
    Call,
    Element,
    Kernel,
    count,
    unpack_bits,
)


def _quantize(call: Call) -> Array:
    """clip(round(input / scale) + zero_point), halves to the even neighbour."""
    x, name = call.array("input"), call.text("output_dtype")
    if name not in ("int8", "uint8"):
        raise call.refuse(f'it cannot quantize to "{name}"')
    target = ELEMENT_NAMES[name].numpy
    zero_point = call.maybe("zero_point")
    if zero_point is not None and zero_point.dtype != target:
        raise call.refuse(f"its zero point is {zero_point.dtype}, its output {name}")
    levels = np.rint(x / _along(call, call.array("scale"), x))
    if zero_point is not None:
        levels = levels + _along(call, zero_point, x).astype(x.dtype)
    info = np.iinfo(target)
    return np.asarray(np.clip(levels, info.min, info.max).astype(target))


def _dequantize(call: Call) -> Array:
    """The input less its zero point, times the scale, in the scale's type."""
    return _scaled(call, call.array("input"))


def _affine(call: Call) -> Array:
    return _scaled(call, call.array("quantized_data"))


def _scaled(call: Call, data: Array) -> Array:
    scale, zero_point = call.array("scale"), call.maybe("zero_point")
    levels = data.astype(scale.dtype)
    if zero_point is not None:
        levels = levels - _along(call, zero_point, data).astype(scale.dtype)
    return np.asarray(levels * _along(call, scale, data))


def _along(call: Call, parameter: Array, data: Array) -> Array:
    """A scalar as it is, a vector shaped to lie along `axis` of the data."""
    if parameter.ndim == 0:
        return parameter
    axis = call.integer("axis")
    if parameter.ndim != 1 or not -data.ndim <= axis < data.ndim:
        raise call.refuse(f"parameters of shape {list(parameter.shape)} cannot lie along axis {axis}")
    if parameter.size not in (1, data.shape[axis]):
        raise call.refuse(f"{parameter.size} parameters do not fit {data.shape[axis]} channels")
    shape = [1] * data.ndim
    shape[axis] = parameter.size
    return parameter.reshape(shape)


# --- compressed weights ---------------------------------------------------------------------------


def _constexpr_cast(call: Call) -> Array:
    if call.text("output_dtype") != "fp32":
        raise call.refuse(f'it cannot cast to "{call.text("output_dtype")}"')
    return call.array("source_val")


def _blockwise(call: Call) -> Array:
    return _shifted_and_scaled(call, call.array("data"))


def _shifted_and_scaled(call: Call, data: Array) -> Array:
    """The data less the offset, times the scale; each scale serves a block of data.shape / scale.shape."""
    scale, offset = call.array("scale"), call.maybe("offset")
    if scale.ndim != data.ndim or (offset is not None and offset.shape != scale.shape):
        raise call.refuse(f"its scale {list(scale.shape)} does not fit its data {list(data.shape)}")
    levels = data.astype(scale.dtype)
    if offset is not None:
        levels = levels - _spread(call, offset, data.shape).astype(scale.dtype)
    return np.asarray(levels * _spread(call, scale, data.shape))


def _spread(call: Call, blocks: Array, shape: tuple[int, ...]) -> Array:
    for axis, (size, number) in enumerate(zip(shape, blocks.shape, strict=True)):
        if number < 1 or size % number:
            raise call.refuse(f"{number} blocks do not divide {size} elements")
        if number not in (1, size):
            blocks = np.repeat(blocks, size // number, axis=axis)
    return blocks


def _lut_to_dense(call: Call) -> Array:
    """Up to iOS17: packed indices into one table. From iOS18: a table for each block, perhaps of vectors."""
    if not call.has("shape"):
        return _looked_up(call, call.array("indices"))
    table, shape = call.array("lut"), call.bound(call.integers("shape"))
    bits = {2: 1, 4: 2, 16: 4, 64: 6, 256: 8}.get(table.size)
    if bits is None or table.ndim != 1:
        raise call.refuse(f"its table has {table.size} entries")
    packed, elements = call.array("indices"), count(shape)
    if packed.dtype != np.uint8 or packed.size != -(-elements * bits // 8):
        raise call.refuse(f"{packed.size} bytes of indices do not fill {list(shape)} with {bits} bits each")
    if bits == 8:
        return np.asarray(table[packed].reshape(shape))
    index = unpack_bits(packed.reshape(-1), Element("index", np.dtype("uint8"), bits), elements)
    return np.asarray(table[index].reshape(shape))


def _looked_up(call: Call, indices: Array) -> Array:
    table = call.array("lut")
    if table.ndim != indices.ndim + 2:
        raise call.refuse(f"its table {list(table.shape)} does not fit its indices {list(indices.shape)}")
    *blocks, entries, vector = table.shape
    if indices.size and int(indices.max()) >= entries:
        raise call.refuse(f"an index points beyond its table of {entries} entries")
    block = np.zeros((1,) * indices.ndim, dtype=np.intp)  # which table serves each element
    for axis, (size, number) in enumerate(zip(indices.shape, blocks, strict=True)):
        if number < 1 or size % number:
            raise call.refuse(f"{number} tables do not divide {size} elements")
        place = [1] * indices.ndim
        place[axis] = size
        block = block * number + (np.arange(size) // (size // number)).reshape(place)
    found = table.reshape(-1, entries, vector)[block, indices.astype(np.intp)]
    if vector == 1:
        return np.asarray(found[..., 0])
    axis = call.integer("vector_axis") % indices.ndim
    shape = list(indices.shape)
    shape[axis] *= vector
    return np.asarray(np.moveaxis(found, -1, axis + 1).reshape(shape))


def _sparse_to_dense(call: Call) -> Array:
    """Up to iOS17 the mask is packed into bytes and the shape is given; from iOS18 the mask has the shape."""
    values, mask = call.array("nonzero_data"), call.array("mask")
    if call.has("shape"):
        shape = call.bound(call.integers("shape"))
        if mask.dtype != np.uint8 or mask.size != -(-count(shape) // 8):
            raise call.refuse(f"a mask of {mask.size} bytes does not fit {list(shape)}")
        mask = np.unpackbits(mask.reshape(-1), count=count(shape), bitorder="little").reshape(shape)
    return _unfolded(call, values, mask)


def _unfolded(call: Call, values: Array, mask: Array) -> Array:
    there = mask != 0
    if values.size != np.count_nonzero(there):
        raise call.refuse(f"{values.size} values do not fill a mask of {np.count_nonzero(there)}")
    dense = np.zeros(mask.shape, dtype=values.dtype)
    dense[there] = values.reshape(-1)
    return dense


def _lut_to_sparse(call: Call) -> tuple[Array, Array]:
    mask = call.array("indices_mask")
    dense = _looked_up(call, _unfolded(call, call.array("indices_nonzero_data"), mask))
    vector = call.array("lut").shape[-1]
    if vector > 1:
        mask = np.repeat(mask, vector, axis=call.integer("vector_axis"))
    return mask, np.asarray(dense[mask != 0])


def _sparse_blockwise(call: Call) -> tuple[Array, Array]:
    mask = call.array("data_mask")
    dense = _shifted_and_scaled(call, _unfolded(call, call.array("nonzero_data"), mask))
    return mask, np.asarray(dense[mask != 0])


KERNELS: Mapping[str, Kernel] = {
    "constexpr_affine_dequantize": _affine,
    "constexpr_blockwise_shift_scale": _blockwise,
    "constexpr_cast": _constexpr_cast,
    "constexpr_lut_to_dense": _lut_to_dense,
    "constexpr_lut_to_sparse": _lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": _sparse_blockwise,
    "constexpr_sparse_to_dense": _sparse_to_dense,
    "dequantize": _dequantize,
    "quantize": _quantize,
}
