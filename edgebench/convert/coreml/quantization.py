"""Quantize and dequantize, and the integer operators: all through integers that Core ML computes exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgebench.convert.coreml.base import (
    Grid,
    Node,
    Value,
    as_float,
    cast,
    half_even,
    mb,
    number,
    reshaped,
    taken,
    types,
)

_EXACT = 1 << 24  # whole numbers below are exact in float32


def quantize_linear(node: Node) -> Any:
    """Rounded to whole numbers and kept within the range of the zero point's type."""
    wanted = node.output_dtypes[0]
    if wanted is None or wanted.kind not in "iu":
        raise node.refused(f"Core ML has no numbers of type {wanted}")
    _check_precision(node)
    x, scale = as_float(node.var(0)), node.value(1)
    zero = node.value(2) if node.given(2) else Value(dtype=wanted, const=np.zeros((), wanted))
    grid = _grid(scale, zero, wanted)
    if grid is not None and node.value(0).grid == grid and node.only_dequantized:
        return Value(dtype=wanted, var=node.value(0).var, grid=grid, passed=node.value(0))
    if _is_native(node, scale, zero, wanted):
        return Value(dtype=wanted, var=_quantized(node, x, scale, zero, wanted))
    steps = mb.real_div(x=x, y=_along(node, as_float(scale.mil()), x))
    return _kept_within(half_even(steps), _along(node, zero.mil(), x), wanted)


def _check_precision(node: Node) -> None:
    """A refusal of a division in half precision: it rounds other numbers to other steps."""
    from onnx import TensorProto

    asked = int(node.attribute("precision", 0))
    if asked not in (0, TensorProto.FLOAT):
        raise node.refused(
            "Core ML divides by the scale in float32, and the node asks for another type",
            "remove its attribute precision",
        )


def _grid(scale: Value, zero: Value, dtype: np.dtype[Any]) -> Grid | None:
    """The steps of one known scale and zero point; None of several or computed ones."""
    if scale.const is None or zero.const is None or scale.const.size != 1 or zero.const.size != 1:
        return None
    return Grid(float(scale.const.reshape(-1)[0]), int(zero.const.reshape(-1)[0]), str(dtype))


def _is_native(node: Node, scale: Value, zero: Value, wanted: np.dtype[Any]) -> bool:
    """Whether Core ML's own `quantize` fits, and what reads it dequantizes it again."""
    return (
        wanted in (np.int8, np.uint8)
        and scale.const is not None
        and zero.const is not None
        and node.only_dequantized
        and scale.rank <= 1
    )


def _quantized(node: Node, x: Any, scale: Value, zero: Value, wanted: np.dtype[Any]) -> Any:
    extra = _parameters(node, scale, zero, len(x.shape), wanted)
    return mb.quantize(input=x, output_dtype=str(wanted), **extra)


def _parameters(node: Node, scale: Value, zero: Value, rank: int, dtype: np.dtype[Any]) -> dict[str, Any]:
    """The constants of quantize and dequantize: of one number, or along one axis."""
    steps, offset = _known(scale).astype(np.float32), _known(zero).astype(dtype)
    if steps.size == 1:
        return {"scale": steps.reshape(())[()], "zero_point": offset.reshape(-1)[0]}
    axis = node.axis(rank, 1)
    return {"scale": steps, "zero_point": np.broadcast_to(offset, steps.shape).copy(), "axis": np.int32(axis)}


def _known(value: Value) -> Any:
    return np.zeros(value.shape, value.dtype) if value.const is None else value.const


def _along(node: Node, parameter: Any, x: Any) -> Any:
    """A scale or zero point of one number, along an axis, or of blocks along it, in a shape that fits x."""
    rank, block = len(x.shape), int(node.attribute("block_size", 0))
    if not parameter.shape or (int(parameter.shape[0]) == 1 and len(parameter.shape) == 1):
        return reshaped(parameter, ())
    if block and len(parameter.shape) == rank:
        axis = node.axis(rank, 1)
        return taken(parameter, np.arange(int(x.shape[axis])) // block, axis)
    if len(parameter.shape) != 1:
        raise node.refused(f"scales of shape {list(parameter.shape)} do not fit its data", "correct them")
    shape = [1] * rank
    shape[node.axis(rank, 1)] = int(parameter.shape[0])
    return reshaped(parameter, shape)


def _kept_within(steps: Any, zero: Any, wanted: np.dtype[Any]) -> Any:
    """Whole numbers (as float32) plus the zero point, as int32 within the range of a narrower type."""
    limits = np.iinfo(wanted)
    moved = mb.add(x=steps, y=as_float(zero))
    low = np.float32(max(limits.min, -(2**31)))
    high = np.float32(min(limits.max, 2**31 - 128))  # the greatest float32 that an int32 holds
    return cast(mb.minimum(x=mb.maximum(x=moved, y=low), y=high), "int32")


def dequantize_linear(node: Node) -> Any:
    """(x - zero point) times scale."""
    x, scale = node.value(0), node.value(1)
    zero = node.value(2) if node.given(2) else Value(dtype=x.dtype, const=np.zeros((), x.dtype))
    grid = _grid(scale, zero, x.dtype)
    if x.passed is not None:
        if x.grid != grid:
            raise node.refused("its scale is not the one that its input was quantized with")
        return x.passed
    integers = x.const is None and x.var.dtype in (types.int8, types.uint8)
    if integers and scale.const is not None and zero.const is not None and scale.rank <= 1:
        floats = mb.dequantize(input=x.var, **_parameters(node, scale, zero, x.rank, x.dtype))
        return Value(dtype=np.dtype(np.float32), var=floats, grid=grid)
    integer = x.mil()
    whole = mb.sub(x=integer, y=_along(node, zero.mil(), integer))
    return mb.mul(x=as_float(whole), y=_along(node, as_float(scale.mil()), integer))


def dynamic_quantize_linear(node: Node) -> Any:
    """The tensor as uint8 with the scale and zero point that its own range asks for."""
    x = node.var(0)
    axes = np.arange(len(x.shape), dtype=np.int32)
    high = mb.maximum(x=reshaped(mb.reduce_max(x=x, axes=axes, keep_dims=True), ()), y=np.float32(0))
    low = mb.minimum(x=reshaped(mb.reduce_min(x=x, axes=axes, keep_dims=True), ()), y=np.float32(0))
    scale = mb.real_div(x=mb.sub(x=high, y=low), y=np.float32(255))
    nothing = cast(mb.equal(x=scale, y=np.float32(0)), "fp32")
    divisor = mb.add(x=scale, y=nothing)  # all zeros: anything but 0 / 0
    offset = mb.real_div(x=mb.mul(x=low, y=np.float32(-1)), y=divisor)
    zero = _kept_within(half_even(offset), number(0.0), np.dtype(np.uint8))
    steps = half_even(mb.real_div(x=x, y=divisor))
    return [_kept_within(steps, zero, np.dtype(np.uint8)), scale, zero]


# --- integer products ---------------------------------------------------------------------------


def _centred(node: Node, place: int, zero_place: int, axis: int) -> Any:
    """An integer operand minus its zero point, as float32; several zero points lie along `axis`."""
    x = node.var(place)
    if not node.given(zero_place):
        return as_float(x)
    zero = node.var(zero_place)
    if len(zero.shape) == 1 and int(zero.shape[0]) > 1:
        shape = [1] * len(x.shape)
        shape[axis] = int(zero.shape[0])
        zero = reshaped(zero, shape)
    elif len(zero.shape) == 1:
        zero = reshaped(zero, ())
    return as_float(mb.sub(x=x, y=zero))


def _check_exact(node: Node, products: int) -> None:
    """A refusal where sums of 8-bit products might not fit float32's whole numbers."""
    if products * 255 * 255 >= _EXACT:
        raise node.refused(
            f"sums of {products} integer products are not exact in Core ML's arithmetic",
            "start from the float model, or from one quantized with QuantizeLinear and DequantizeLinear",
        )


def matmul_integer(node: Node) -> Any:
    """The matrix product of 8-bit integers, as int32."""
    x, y = node.value(0), node.value(1)
    _check_exact(node, x.shape[-1])
    a = _centred(node, 0, 2, x.rank - 2)
    b = _centred(node, 1, 3, y.rank - 1)
    return cast(mb.matmul(x=_at_least(a, 2), y=_at_least(b, 2)), "int32")


def _at_least(x: Any, rank: int) -> Any:
    return reshaped(x, (1,) * max(rank - len(x.shape), 0) + tuple(x.shape))


def conv_integer(node: Node) -> Any:
    """The convolution of 8-bit integers, as int32."""
    x, weight = _centred(node, 0, 2, 0), node.value(1)
    _check_exact(node, math.prod(weight.shape[1:]))
    return cast(_convolved(node, x, _centred(node, 1, 3, 0)), "int32")


def _convolved(node: Node, x: Any, weight: Any) -> Any:
    axes = len(x.shape) - 2
    if node.attribute("auto_pad", "NOTSET") not in ("NOTSET", "", "VALID"):
        raise node.refused("automatic pads of integer convolutions are not known", "give the pads")
    pads = [int(size) for size in node.attribute("pads", [0] * (2 * axes))]
    return mb.conv(
        x=x,
        weight=weight,
        strides=np.array(node.attribute("strides", [1] * axes), np.int32),
        dilations=np.array(node.attribute("dilations", [1] * axes), np.int32),
        pad_type="custom",
        pad=np.array([pads[at + side * axes] for at in range(axes) for side in (0, 1)], np.int32),
        groups=np.int32(node.attribute("group", 1)),
    )


def qlinear_matmul(node: Node) -> Any:
    """Dequantized, multiplied, quantized."""
    x, y = node.value(0), node.value(3)
    _check_exact(node, x.shape[-1])
    a, b = _centred(node, 0, 2, x.rank - 2), _centred(node, 3, 5, y.rank - 1)
    product = mb.matmul(x=_at_least(a, 2), y=_at_least(b, 2))
    scale = mb.mul(x=_row(node, 1, x.rank, x.rank - 2), y=_row(node, 4, y.rank, y.rank - 1))
    return _requantized(node, product, scale)


def _row(node: Node, place: int, rank: int, axis: int) -> Any:
    scale = as_float(node.var(place))
    if len(scale.shape) == 1 and int(scale.shape[0]) > 1:
        shape = [1] * rank
        shape[axis] = int(scale.shape[0])
        return reshaped(scale, shape)
    return reshaped(scale, ())


def qlinear_conv(node: Node) -> Any:
    """Dequantized, convolved, quantized; the bias is in units of both scales."""
    weight = node.value(3)
    _check_exact(node, math.prod(weight.shape[1:]))
    out = _convolved(node, _centred(node, 0, 2, 0), _centred(node, 3, 5, 0))
    if node.given(8):
        shape = [1, -1, *[1] * (len(out.shape) - 2)]
        out = mb.add(x=out, y=mb.reshape(x=as_float(node.var(8)), shape=np.array(shape, np.int32)))
    scale = mb.mul(x=_row(node, 1, len(out.shape), 1), y=_row(node, 4, len(out.shape), 1))
    return _requantized(node, out, scale)


def _requantized(node: Node, sums: Any, scale: Any) -> Any:
    wanted = node.output_dtypes[0] or node.dtype()
    real = mb.real_div(x=mb.mul(x=sums, y=scale), y=reshaped(as_float(node.var(6)), ()))
    return _kept_within(half_even(real), reshaped(node.var(7), ()), wanted)
