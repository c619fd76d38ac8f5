"""Operators on the bits of integers. Core ML has none: they are written out in arithmetic of int32.

An int8, int16 or int64 is an int32 with copies of its sign in front, so what moves no bit over bit 31 is the
same for all of them. A uint32 or uint64 may need bit 31 for itself, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgebench.convert.coreml.base import (
    Array,
    Node,
    broadcast_to,
    cast,
    common_shape,
    kept_between,
    mb,
    reshaped,
    wrapped,
)

_DIGIT = 4  # bits that one lookup combines
_WIDEST = 32
_LAST = 30  # 2 to the 31 is no int32


def _check(node: Node) -> None:
    """A refusal of integers, and of constants, that an int32 does not hold."""
    limits = np.iinfo(np.int32)
    for place in range(2 if len(node.inputs) > 1 else 1):
        value = node.value(place)
        if value.dtype.kind == "u" and value.dtype.itemsize >= 4:
            raise node.refused(f"Core ML computes with int32, which has no bits for {value.dtype}")
        const = value.const
        if const is not None and const.size and (const.min() < limits.min or const.max() > limits.max):
            raise node.refused("Core ML computes with int32, and a constant of it has more bits")


def _bits(dtype: np.dtype[Any]) -> int:
    return min(8 * dtype.itemsize, _WIDEST)


# --- shifts --------------------------------------------------------------------------------------


def bit_shift(node: Node) -> Any:
    """Shifted left, or right with copies of the sign; by negative or too many bits, only the sign is left."""
    _check(node)
    shape = common_shape(node.var(0), node.var(1))
    x, bits = (broadcast_to(node.var(place), shape) for place in (0, 1))
    if node.attribute("direction") == "RIGHT":
        return _shifted_right(x, bits)
    if node.dtype().itemsize > 4:
        raise node.refused(f"Core ML computes with int32, and this shifts {node.dtype()} to the left")
    return _shifted_left(x, bits, node.dtype())


def _powers(bits: Any) -> Any:
    """2 to the number of bits, of 0 to 30."""
    powers = mb.const(val=(1 << np.arange(_LAST + 1)).astype(np.int32))
    return _looked_up(powers, kept_between(bits, 0, _LAST))


def _looked_up(table: Any, indices: Any) -> Any:
    """Entries of a table [n] by indices of any shape."""
    found = mb.gather(x=table, indices=reshaped(indices, indices.shape or (1,)), axis=np.int32(0))
    return reshaped(found, indices.shape)


def _within(bits: Any, last: int) -> Any:
    return mb.logical_and(
        x=mb.greater_equal(x=bits, y=np.int32(0)), y=mb.less_equal(x=bits, y=np.int32(last))
    )


def _shifted_right(x: Any, bits: Any) -> Any:
    sign = mb.mul(x=cast(mb.less(x=x, y=np.int32(0)), "int32"), y=np.int32(-1))
    return mb.select(cond=_within(bits, _LAST), a=mb.floor_div(x=x, y=_powers(bits)), b=sign)


def _shifted_left(x: Any, bits: Any, dtype: np.dtype[Any]) -> Any:
    """The bits that stay are multiplied; one that becomes bit 31 is added as the sign. Nothing overflows."""
    width = _bits(dtype)
    zero = mb.mul(x=x, y=np.int32(0))
    if width < _WIDEST:
        rest = mb.mod(x=x, y=_powers(mb.sub(x=np.int32(width), y=kept_between(bits, 0, width - 1))))
        moved = wrapped(mb.mul(x=rest, y=_powers(kept_between(bits, 0, width - 1))), dtype)
        return mb.select(cond=_within(bits, width - 1), a=moved, b=zero)
    kept = _powers(mb.sub(x=np.int32(_WIDEST - 1), y=kept_between(bits, 1, _WIDEST - 1)))
    moved = mb.mul(x=mb.mod(x=x, y=kept), y=_powers(bits))
    sign = mb.mod(x=mb.floor_div(x=x, y=kept), y=np.int32(2))
    moved = mb.add(x=moved, y=mb.mul(x=sign, y=np.int32(np.iinfo(np.int32).min)))
    moved = mb.select(cond=_within(bits, _WIDEST - 1), a=moved, b=zero)
    return mb.select(cond=mb.equal(x=bits, y=np.int32(0)), a=x, b=moved)


# --- bit by bit ----------------------------------------------------------------------------------


def bitwise_not(node: Node) -> Any:
    """Every bit turned round."""
    _check(node)
    dtype = node.dtype()
    highest = np.int32(-1 if dtype.kind == "i" else (1 << _bits(dtype)) - 1)
    return mb.sub(x=highest, y=node.var(0))


def _bitwise(function: Callable[[Array, Array], Array]) -> Callable[[Node], Any]:
    def lower(node: Node) -> Any:
        _check(node)
        return _combined(node, function)

    return lower


def _combined(node: Node, function: Callable[[Array, Array], Array]) -> Any:
    """Digits of four bits of both, combined by a table of 256 entries, and put together again."""
    digits = np.arange(1 << _DIGIT, dtype=np.int32)
    table = function(digits[:, None], digits[None]).reshape(-1)
    total = None
    for place in range(0, _bits(node.dtype()), _DIGIT):
        signed = node.dtype().kind == "i" and place + _DIGIT == _bits(node.dtype())
        entries = np.where(table >= 8, table - 16, table) if signed else table
        left, right = (_digit(node.var(at), place) for at in (0, 1))
        index = mb.add(x=mb.mul(x=left, y=np.int32(1 << _DIGIT)), y=right)
        part = _looked_up(mb.const(val=(entries << place).astype(np.int32)), index)
        total = part if total is None else mb.add(x=total, y=part)
    return total


def _digit(x: Any, place: int) -> Any:
    """The four bits of each number from that place on, 0 to 15."""
    moved = mb.floor_div(x=x, y=np.int32(1 << place)) if place else x
    return mb.mod(x=moved, y=np.int32(1 << _DIGIT))


bitwise_and, bitwise_or, bitwise_xor = (
    _bitwise(np.bitwise_and),
    _bitwise(np.bitwise_or),
    _bitwise(np.bitwise_xor),
)


# --- another type for the same bits ---------------------------------------------------------------


def bit_cast(node: Node) -> Any:
    """Integers of the same width, with a sign or without; Core ML cannot look into a float."""
    source, wanted = node.dtype(), node.output_dtypes[0]
    if wanted is None or wanted.kind not in "iu" or source.kind not in "iub":
        raise node.refused(f"Core ML cannot take the bits of {source} for {wanted}")
    _check(node)
    if wanted.kind == "u" and wanted.itemsize >= 4:
        raise node.refused(f"Core ML computes with int32, which has no bits for {wanted}")
    return mb.identity(x=wrapped(cast(node.var(0), "int32"), wanted))
