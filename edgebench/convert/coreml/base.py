"""What every lowering uses: values (constants or MIL variables), a node as one sees it, and refusals.

A value keeps ONNX's element type beside MIL's: Core ML computes float32 (lowered to float16 afterwards where
that is asked), int32 and bool, so a uint8 of ONNX is an int32 here that is kept within 0..255.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from coremltools.converters.mil import mil
from coremltools.converters.mil.mil.types import symbolic
from numpy.typing import NDArray

from edgebench.errors import ModelError

mb: Any = mil.Builder  # its name in all of coremltools
types: Any = mil.types
Array = NDArray[Any]
Var = Any  # coremltools' Var; it has no type stubs
OTHERS = "use onnxruntime or openvino for this model, or change the operator in it"
MAX_TAPS = 128  # positions of a pooling window that is written out slice by slice
MIN_SPARSITY = 0.4
MIN_SPARSE_ELEMENTS = 2048
MAX_STEPS = 1024  # time steps of a recurrence that is written out step by step


@dataclass(frozen=True)
class Quantized:
    """The integers that a constant came from: (data - zero_point) * scale along `axis`, or of all.

    With `blocks`, scale and zero point have the rank of the data, each entry stands for a block of it, and
    the data may be of 4 bits: a form that Core ML has since iOS 18.
    """

    data: Array
    scale: Array
    zero_point: Array
    axis: int
    blocks: bool = False

    def turned(self) -> Quantized:
        """The same of a matrix whose axes are exchanged."""
        scale, zero = (each.T if self.blocks else each for each in (self.scale, self.zero_point))
        return Quantized(np.ascontiguousarray(self.data.T), scale, zero, 1 - self.axis, self.blocks)


@dataclass(frozen=True)
class Grid:
    """The steps that a dequantized tensor lies on: quantizing it to the same ones again changes nothing."""

    scale: float
    zero_point: int
    dtype: str


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the ONNX graph: `const` where it is known beforehand, else the MIL variable `var`.

    `quantized` are the integers of a constant. `grid` says that the values are dequantized ones. A quantized
    tensor that was on that grid before has the floats it came from in `passed`, and no integers.
    """

    dtype: np.dtype[Any]
    const: Array | None = None
    var: Var = None
    quantized: Quantized | None = None
    grid: Grid | None = None
    passed: Value | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of all axes; one that is left open is a symbol, which no `int` can be made of."""
        return sizes(self.var if self.const is None else self.const)

    @property
    def is_open(self) -> bool:
        """Whether a size is left open, or it is computed from such sizes."""
        return any(is_symbolic(size) for size in self.shape) or (
            self.const is not None and self.const.dtype == object
        )

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def mil(self) -> Var:
        """The MIL variable: of float32, int32 or bool; a constant becomes one."""
        if self.const is None:
            narrow = self.var.dtype in (types.int8, types.uint8)
            return mb.cast(x=self.var, dtype="int32") if narrow else self.var
        if self.quantized is not None:
            return constexpr(self.quantized)
        return sparse(self.const) if _is_sparse(self.const) else mb.const(val=stored(self.const))


def _blockwise(quantized: Quantized) -> Var:
    kind = types.type_mapping.string_to_nptype(quantized.data.dtype.name)
    offset = {}
    if np.any(quantized.zero_point.astype(np.int32)):
        offset["offset"] = np.ascontiguousarray(quantized.zero_point.astype(np.int16).astype(kind))
    return mb.constexpr_blockwise_shift_scale(
        data=np.ascontiguousarray(quantized.data.astype(np.int16).astype(kind)),
        scale=np.ascontiguousarray(quantized.scale.astype(np.float32)),
        **offset,
    )


def _is_sparse(array: Array) -> bool:
    """Whether a weight is pruned so far that storing what is left, and one bit for each entry, is smaller."""
    if array.dtype.kind != "f" or array.ndim < 2 or array.size < MIN_SPARSE_ELEMENTS:
        return False
    return int(np.count_nonzero(array)) <= array.size * (1 - MIN_SPARSITY)


def sparse(array: Array) -> Var:
    """The variable of a constant that is stored as its entries other than zero, and a bit for every entry."""
    flat = stored(array).reshape(-1)
    return mb.constexpr_sparse_to_dense(
        nonzero_data=flat[flat != 0],
        mask=np.packbits(flat != 0, bitorder="little"),
        shape=np.array(array.shape, np.uint32),
    )


def constexpr(quantized: Quantized) -> Var:
    """The variable of a constant that is stored as integers of 8 or 4 bits."""
    if quantized.blocks:
        return _blockwise(quantized)
    return mb.constexpr_affine_dequantize(
        quantized_data=quantized.data,
        zero_point=quantized.zero_point,
        scale=quantized.scale.astype(np.float32),
        axis=np.int32(quantized.axis),
    )


def is_symbolic(size: Any) -> bool:
    """Whether a size is left open: a symbol, or a term of symbols."""
    return bool(symbolic.is_symbolic(size)) and not size.is_Integer


def sizes(var: Var) -> tuple[int, ...]:
    """The sizes of all axes as plain whole numbers; those that are left open stay symbols."""
    return tuple(size if is_symbolic(size) else int(size) for size in var.shape)


def stored(array: Array) -> Array:
    """The array in the type that MIL computes with: float32, int32 (clipped) or bool."""
    if array.dtype.kind == "f":
        return np.ascontiguousarray(array.astype(np.float32)).reshape(array.shape)
    if array.dtype.kind == "b":
        return array
    limits = np.iinfo(np.int32)
    return np.clip(array, limits.min, limits.max).astype(np.int32)


@dataclass(frozen=True)
class Node:
    """One ONNX operator with its inputs already lowered."""

    op: str
    title: str
    opset: int
    inputs: tuple[Value | None, ...]
    attributes: Mapping[str, Any]
    outputs: tuple[str, ...]
    output_dtypes: tuple[np.dtype[Any] | None, ...] = ()
    output_shapes: tuple[tuple[int, ...] | None, ...] = ()
    only_dequantized: bool = field(default=False)
    options: Mapping[str, Any] = field(default_factory=dict)

    def refused(self, reason: str, hint: str = OTHERS) -> ModelError:
        """The error that says why this node cannot be expressed exactly, and the way out."""
        return ModelError(f"{self.title}: {reason}", hint=hint)

    @property
    def is_open(self) -> bool:
        """Whether a size of an input is left open."""
        return any(value is not None and value.is_open for value in self.inputs)

    def given(self, place: int) -> bool:
        """Whether the optional input is there."""
        return place < len(self.inputs) and self.inputs[place] is not None

    def value(self, place: int) -> Value:
        """An input that must be there."""
        found = self.inputs[place] if place < len(self.inputs) else None
        if found is None:
            raise self.refused(f"its input {place} is missing", "export the network to ONNX again")
        return found

    def var(self, place: int) -> Var:
        """An input as a MIL variable of float32, int32 or bool."""
        return self.value(place).mil()

    def constant(self, place: int, what: str) -> Array:
        """An input that Core ML must know beforehand; a refusal naming it where it is computed."""
        const = self.value(place).const
        if const is None:
            raise self.refused(
                f"{what} must be known when the model is converted, and it is computed",
                "make it a constant of the model (fold the model with fixed shapes)",
            )
        return const

    def ints(self, place: int, what: str) -> list[int]:
        """A constant input as whole numbers."""
        return [int(item) for item in self.constant(place, what).reshape(-1)]

    def sizes(self, place: int, what: str) -> list[Any]:
        """A constant input as sizes: whole numbers, and the symbols of those that are left open."""
        listed = self.constant(place, what).reshape(-1)
        return [size if is_symbolic(size) else int(size) for size in listed]

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute; texts come decoded."""
        return self.attributes.get(name, default)

    def axis(self, rank: int, default: int, name: str = "axis") -> int:
        """The attribute `axis`, counted from the front."""
        return self.counted(int(self.attribute(name, default)), rank)

    def counted(self, axis: int, rank: int) -> int:
        """The axis counted from the front; a refusal where there is none such."""
        if not -max(rank, 1) <= axis < max(rank, 1):
            raise self.refused(f"there is no axis {axis} of {rank}", "export the network to ONNX again")
        return axis % max(rank, 1)

    def axes(self, place: int, rank: int, name: str = "axes") -> tuple[int, ...] | None:
        """The axes from the attribute of old opsets or from the input; None where there are none."""
        if self.given(place):
            listed = self.ints(place, name)
        elif name in self.attributes:
            listed = [int(axis) for axis in self.attributes[name]]
        else:
            return None
        return tuple(sorted(self.counted(axis, rank) for axis in listed))

    def dtype(self, place: int = 0) -> np.dtype[Any]:
        """ONNX's element type of an input."""
        return self.value(place).dtype

    def floats(self, place: int = 0) -> bool:
        """Whether an input is of floating point."""
        return self.dtype(place).kind == "f"

    def require_float(self, place: int = 0) -> None:
        """A refusal where the input is no float."""
        if not self.floats(place):
            raise self.refused(f"Core ML has it for floats only, not for {self.dtype(place)}")


def open_same(node: Node, x: Var) -> dict[str, str]:
    """Core ML's own word for ONNX's `auto_pad`, where the sizes it depends on are left open; else nothing."""
    kinds = {"SAME_UPPER": "same", "SAME_LOWER": "same_lower"}
    kind = kinds.get(str(node.attribute("auto_pad", "")))
    return {"pad_type": kind} if kind and any(is_symbolic(size) for size in x.shape[2:]) else {}


# --- small pieces of MIL ------------------------------------------------------------------------


def number(value: float) -> Var:
    """A float32 constant of rank 0."""
    return mb.const(val=np.float32(value))


def like(value: float, var: Var) -> Any:
    """A constant of rank 0 in the element type of `var`."""
    return np.int32(value) if var.dtype == types.int32 else np.float32(value)


def cast(var: Var, dtype: str) -> Var:
    """The variable in another MIL type: "fp32", "int32", "bool"; bool means "is not zero"."""
    name = types.builtin_to_string(var.dtype)
    if name == dtype:
        return var
    if dtype == "bool":
        return mb.not_equal(x=var, y=like(0, var))
    return mb.cast(x=var, dtype=dtype)


def as_float(var: Var) -> Var:
    """The variable as float32."""
    return cast(var, "fp32")


def mil_type(dtype: np.dtype[Any]) -> str:
    """The MIL type that carries an element type of ONNX."""
    return {"f": "fp32", "b": "bool"}.get(dtype.kind, "int32")


def wrapped(var: Var, dtype: np.dtype[Any]) -> Var:
    """The int32 variable brought back into the range of a narrower integer, as its arithmetic would."""
    if dtype.kind not in "iu" or dtype.itemsize >= 4:
        return var
    size = np.int32(1 << (8 * dtype.itemsize))
    if dtype.kind == "u":
        return mb.mod(x=var, y=size)
    half = np.int32(size // 2)
    return mb.sub(x=mb.mod(x=mb.add(x=var, y=half), y=size), y=half)


def half_even(x: Var) -> Var:
    """Rounded to the nearest whole number, halves to the even one: Core ML's `round` says nothing of them."""
    down = mb.floor(x=x)
    rest = mb.sub(x=x, y=down)
    odd = mb.mod(x=down, y=np.float32(2))
    half = mb.mul(x=mb.cast(x=mb.equal(x=rest, y=np.float32(0.5)), dtype="fp32"), y=odd)
    above = mb.cast(x=mb.greater(x=rest, y=np.float32(0.5)), dtype="fp32")
    return mb.add(x=down, y=mb.add(x=half, y=above))


def kept_between(var: Var, low: float, high: float) -> Var:
    """The variable with what is below `low` or above `high` set to them; they may be equal."""
    return mb.minimum(x=mb.maximum(x=var, y=like(low, var)), y=like(high, var))


def reshaped(var: Var, shape: Sequence[int]) -> Var:
    """The variable in another shape; nothing where it has that shape already. Sizes may be left open."""
    wanted = tuple(size if is_symbolic(size) else int(size) for size in shape)
    if tuple(var.shape) == wanted:
        return var
    if any(is_symbolic(size) for size in (*var.shape, *wanted)):
        return _reshaped_open(var, wanted)
    if not wanted:
        return mb.squeeze(x=var, axes=list(range(len(var.shape))))
    if not var.shape:
        return mb.expand_dims(x=var, axes=list(range(len(wanted))))
    return mb.reshape(x=var, shape=np.array(wanted, np.int32))


def _reshaped_open(var: Var, wanted: tuple[Any, ...]) -> Var:
    """The same where sizes are left open: axes of 1 come and go, or one open size follows from the others."""
    if [size for size in var.shape if size != 1] == [size for size in wanted if size != 1]:
        gone = [axis for axis, size in enumerate(var.shape) if size == 1]
        new = [axis for axis, size in enumerate(wanted) if size == 1]
        plain = mb.squeeze(x=var, axes=gone) if gone else var
        return mb.expand_dims(x=plain, axes=new) if new else plain
    rest = elements_open(var.shape) - elements_open(wanted)
    if rest != 0 and rest.expand() != 0:
        raise ValueError(f"{list(var.shape)} values do not fit into {list(wanted)} at every size")
    if sum(is_symbolic(size) for size in wanted) != 1:
        raise ValueError(f"{list(wanted)} has more than one size that is left open")
    return mb.reshape(x=var, shape=np.array([-1 if is_symbolic(size) else size for size in wanted], np.int32))


def size_at(var: Var, axis: int) -> Any:
    """One size: a whole number, or the symbol of one that is left open."""
    return sizes(var)[axis]


def quotient(whole: Any, part: Any) -> Any:
    """The size that is left when the others are known; ValueError where it is no whole one at every size."""
    if not is_symbolic(whole) and not is_symbolic(part):
        return int(whole) // max(int(part), 1)
    found = whole / part
    if found.as_numer_denom()[1] != 1:
        raise ValueError(f"{whole} is no multiple of {part} at every size")
    return found if is_symbolic(found) else int(found)


def elements_open(shape: Sequence[Any]) -> Any:
    """How many numbers a tensor has, by the symbols of sizes that are left open."""
    return math.prod(size if is_symbolic(size) else int(size) for size in shape)


def expanded(var: Var, rank: int) -> Var:
    """The variable with leading axes of size 1, until it has `rank` axes."""
    return reshaped(var, (1,) * (rank - len(var.shape)) + tuple(var.shape))


def broadcast_to(var: Var, shape: Sequence[int]) -> Var:
    """The variable repeated to a shape, as numpy broadcasts; of any type, without arithmetic."""
    wide = expanded(var, len(shape))
    repeats = [int(new) if old == 1 else 1 for old, new in zip(wide.shape, shape, strict=True)]
    if all(repeat == 1 for repeat in repeats):
        return wide
    return mb.tile(x=wide, reps=np.array(repeats, np.int32))


def common_shape(*variables: Var) -> tuple[int, ...]:
    """The shape that variables have together."""
    return broadcast_shape(*(sizes(each) for each in variables))


def broadcast_shape(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape that these broadcast to; a size that is left open goes with itself and with 1 only."""
    if not any(is_symbolic(size) for shape in shapes for size in shape):
        return tuple(int(size) for size in np.broadcast_shapes(*map(tuple, shapes)))
    rank = max(map(len, shapes))
    padded_shapes = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    made = []
    for axis in zip(*padded_shapes, strict=True):
        others = [size for size in axis if size != 1]
        if any(size != others[0] for size in others):
            raise ValueError(f"{list(map(list, shapes))} may not go together at every size")
        made.append(others[0] if others else 1)
    return tuple(made)


def permuted(var: Var, order: Sequence[int]) -> Var:
    """The variable with its axes in another order; nothing where that is the same order."""
    if list(order) == list(range(len(order))):
        return var
    return mb.transpose(x=var, perm=np.array(order, np.int32))


def sliced(var: Var, axis: int, start: int, stop: int, step: int = 1) -> Var:
    """`var[..., start:stop:step, ...]` along one axis, with known whole numbers and a positive step."""
    rank = len(var.shape)
    is_open = [is_symbolic(size) for size in var.shape]
    begin, stride = [0] * rank, [1] * rank
    end = [0 if is_symbolic(size) else int(size) for size in var.shape]
    begin[axis], end[axis], stride[axis] = start, stop, step
    if (start, stop, step) == (0, int(var.shape[axis]), 1):
        return var
    whole = {"end_mask": np.array(is_open, np.bool_)} if any(is_open) else {}
    return mb.slice_by_index(
        x=var,
        begin=np.array(begin, np.int32),
        end=np.array(end, np.int32),
        stride=np.array(stride, np.int32),
        **whole,
    )


def taken(var: Var, indices: Array, axis: int) -> Var:
    """Entries along one axis, by constant indices that are not negative; of any type."""
    if indices.ndim == 1 and np.array_equal(indices, np.arange(int(var.shape[axis]))):
        return var
    if var.dtype == types.bool:
        return cast(taken(cast(var, "int32"), indices, axis), "bool")
    return mb.gather(x=var, indices=indices.astype(np.int32), axis=np.int32(axis))


def joined(variables: Sequence[Var], axis: int) -> Var:
    """The variables one behind the other."""
    if len(variables) == 1:
        return variables[0]
    return mb.concat(values=list(variables), axis=np.int32(axis))


def filled(shape: Sequence[int], value: float, var: Var) -> Var:
    """A constant of one number, in the type of `var`."""
    kind = {types.int32: np.int32, types.bool: np.bool_}.get(var.dtype, np.float32)
    return mb.const(val=np.full(tuple(shape), value, kind))


def padded(var: Var, pads: Sequence[tuple[int, int]], value: float) -> Var:
    """The variable with a border of one number: pairs (before, after) for each axis, none negative."""
    if not any(before or after for before, after in pads):
        return var
    if var.dtype == types.fp32:
        first = next(place for place, pair in enumerate(pads) if any(pair))
        flat = [size for pair in pads[first:] for size in pair]
        return mb.pad(x=var, pad=np.array(flat, np.int32), mode="constant", constant_val=np.float32(value))
    for axis, (before, after) in enumerate(pads):
        shape = [int(size) for size in var.shape]
        parts = [var]
        if before:
            parts.insert(0, filled([*shape[:axis], before, *shape[axis + 1 :]], value, var))
        if after:
            parts.append(filled([*shape[:axis], after, *shape[axis + 1 :]], value, var))
        var = joined(parts, axis)
    return var


def elements(shape: Sequence[int]) -> int:
    """How many numbers a tensor of that shape has."""
    return math.prod(int(size) for size in shape)
