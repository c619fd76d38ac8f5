"""What every MIL operator of the interpreter is given, and what it may answer.

A kernel is a function `Call -> array or tuple of arrays`. It takes its parameters by their MIL names, applies
the documented default where one is missing, and refuses what the documentation leaves open: an interpreter
that guesses would pass models that Core ML computes differently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgebench.errors import ModelError

Array = NDArray[Any]
Value = Array | str
Precision = Literal["fp32", "fp16", "fp64"]

# Bound on one value. Core ML refuses tensors far below it; absurd shapes are refused before allocation.
MAX_ELEMENTS = 2**31 - 1
MAX_RANK = 5  # of Core ML's tensors; tables of compressed weights may have more

IOS15, IOS16, IOS17, IOS18 = 5, 6, 7, 8  # N of "CoreMLN", the operator set a function is written in


@dataclass(frozen=True, slots=True)
class Element:
    """An element type of MIL: its name, the numpy type that holds it here, and its width in bits."""

    name: str
    numpy: np.dtype[Any]
    bits: int
    blob: int = 0  # the code of this type in a weight blob file; 0: never stored there

    @property
    def floating(self) -> bool:
        """Whether values of this type are kept in the interpreter's floating type."""
        return self.numpy.kind == "f"


def _element(name: str, numpy: str, bits: int, blob: int = 0) -> Element:
    return Element(name, np.dtype(numpy), bits, blob)


# Numbers: DataType of coremltools' MIL.proto, and BlobDataType of its MILBlob storage format.
ELEMENTS: Mapping[int, Element] = {
    1: _element("bool", "bool", 8),
    10: _element("fp16", "float16", 16, 1),
    11: _element("fp32", "float32", 32, 2),
    12: _element("fp64", "float64", 64),
    21: _element("int8", "int8", 8, 4),
    22: _element("int16", "int16", 16, 6),
    23: _element("int32", "int32", 32, 14),
    24: _element("int64", "int64", 64),
    25: _element("int4", "int8", 4, 8),
    31: _element("uint8", "uint8", 8, 3),
    32: _element("uint16", "uint16", 16, 7),
    33: _element("uint32", "uint32", 32, 15),
    34: _element("uint64", "uint64", 64),
    35: _element("uint4", "uint8", 4, 11),
    36: _element("uint2", "uint8", 2, 10),
    37: _element("uint1", "uint8", 1, 9),
    38: _element("uint6", "uint8", 6, 13),
    39: _element("uint3", "uint8", 3, 12),
}
ELEMENT_NAMES: Mapping[str, Element] = {element.name: element for element in ELEMENTS.values()}


@dataclass(frozen=True, slots=True)
class Declared:
    """What the file says of one value: name, element type (None: a string) and shape (None: any size)."""

    name: str
    element: Element | None
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.element.name if self.element else 'string'}[{sizes}]"


@dataclass(frozen=True, slots=True)
class Call:
    """One operation to compute: its type, name, operator set, parameters and the float type in use."""

    kind: str
    name: str
    opset: int
    values: Mapping[str, tuple[Value, ...]]
    floating: np.dtype[Any]
    outputs: tuple[Declared, ...]

    def has(self, key: str) -> bool:
        """Whether the parameter is given."""
        return bool(self.values.get(key))

    def array(self, key: str) -> Array:
        """A required tensor parameter."""
        value = self._one(key)
        if isinstance(value, str):
            raise self.refuse(f'its parameter "{key}" is a string, not a tensor')
        return value

    def maybe(self, key: str) -> Array | None:
        """An optional tensor parameter, None when it is not given."""
        return self.array(key) if self.has(key) else None

    def arrays(self, key: str) -> list[Array]:
        """A parameter that is a tuple of tensors."""
        found = self.values.get(key, ())
        if not found:
            raise self.refuse(f'its parameter "{key}" is missing')
        arrays = [value for value in found if not isinstance(value, str)]
        if len(arrays) != len(found):
            raise self.refuse(f'its parameter "{key}" holds a string')
        return arrays

    def integers(self, key: str, default: list[int] | None = None) -> list[int]:
        """A vector of integers; without a default it is required."""
        if default is not None and not self.has(key):
            return default
        return [int(value) for value in self.array(key).reshape(-1)]

    def integer(self, key: str, default: int | None = None) -> int:
        """A scalar integer; without a default it is required."""
        if default is not None and not self.has(key):
            return default
        return int(self._scalar(key))

    def number(self, key: str, default: float | None = None) -> float:
        """A scalar number; without a default it is required."""
        if default is not None and not self.has(key):
            return default
        return float(self._scalar(key))

    def flag(self, key: str, default: bool = False) -> bool:
        """A scalar truth value."""
        return bool(self._scalar(key)) if self.has(key) else default

    def text(self, key: str, default: str | None = None) -> str:
        """A string; without a default it is required."""
        if default is not None and not self.has(key):
            return default
        value = self._one(key)
        if not isinstance(value, str):
            raise self.refuse(f'its parameter "{key}" is a tensor, not a string')
        return value

    def bound(self, shape: tuple[int, ...] | list[int]) -> tuple[int, ...]:
        """The shape itself, when a value of it may be made here."""
        sizes = tuple(int(size) for size in shape)
        if any(size < 0 for size in sizes):
            raise self.refuse(f"it would have the shape {list(sizes)}")
        if count(sizes) > MAX_ELEMENTS:
            raise self.refuse(f"a value of shape {list(sizes)} is too large")
        return sizes

    def refuse(self, reason: str, hint: str = "") -> ModelError:
        """The error that names this operation and says why it cannot be computed."""
        return ModelError(f'operation "{self.name}" ({self.kind}): {reason}', hint=hint)

    def _one(self, key: str) -> Value:
        found = self.values.get(key, ())
        if len(found) != 1:
            raise self.refuse(f'its parameter "{key}" is {"missing" if not found else "a tuple"}')
        return found[0]

    def _scalar(self, key: str) -> Any:
        value = self.array(key)
        if value.size != 1:
            raise self.refuse(f'its parameter "{key}" is a tensor of {value.size} elements, not a scalar')
        return value.reshape(-1)[0]


Kernel = Callable[[Call], Array | tuple[Array, ...]]


def count(shape: tuple[int, ...] | list[int]) -> int:
    """The number of elements of a shape, without overflow."""
    total = 1
    for size in shape:
        total *= int(size)
    return total


def unpack_bits(packed: NDArray[np.uint8], element: Element, elements: int) -> Array:
    """Elements of 1 to 6 bits out of bytes, filled from the least significant bit on, as int8 or uint8."""
    needed = elements * element.bits
    bits = np.unpackbits(packed, count=needed, bitorder="little").reshape(elements, element.bits)
    weights = (1 << np.arange(element.bits)).astype(np.uint8)
    values = bits @ weights
    if element.numpy.kind == "i":  # two's complement
        half = 1 << (element.bits - 1)
        return ((values.astype(np.int16) ^ half) - half).astype(np.int8)
    return values.astype(np.uint8)


# --- functions that several families use -----------------------------------------------------------


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)); exp overflows to inf, which gives the right 0."""
    return np.asarray(1 / (1 + np.exp(-x)))


def erf(x: Array) -> Array:
    """The error function, exact to 1e-11: a Taylor step of third order from the nearest known point."""
    known, slope = _erf_points()
    size = np.minimum(np.abs(x).astype(np.float64), 6.0)
    nearest = np.rint(np.nan_to_num(size) * 256).astype(np.intp)
    point = nearest / 256
    step = size - point
    rise = step - point * step**2 + (2 * point**2 - 1) * step**3 / 3
    return np.asarray(np.copysign(known[nearest] + slope[nearest] * rise, x).astype(x.dtype))


@cache
def _erf_points() -> tuple[Array, Array]:
    points = np.arange(6 * 256 + 1) / 256
    known = np.array([math.erf(point) for point in points])
    return known, 2 / math.sqrt(math.pi) * np.exp(-(points**2))


def saturated(x: Array, target: np.dtype[Any]) -> Array:
    """Integers of the target type: fractions cut off, values beyond its range at its nearest end, nan 0."""
    info = np.iinfo(target)
    if x.dtype.kind == "f":
        whole = np.trunc(np.nan_to_num(x.astype(np.float64), nan=0.0, posinf=info.max, neginf=info.min))
        return np.asarray(np.clip(whole, float(info.min), float(info.max)).astype(target))
    return np.asarray(np.clip(x.astype(np.int64), info.min, info.max).astype(target))


def paddings(
    call: Call, sizes: tuple[int, ...], kernel: list[int], strides: list[int]
) -> list[tuple[int, int]]:
    """What `pad_type` and `pad` add before and after each spatial size; `kernel` is the dilated extent.

    Source: coremltools' aggregated_pad; "same" puts the odd element behind, "same_lower" before.
    """
    kind = call.text("pad_type", "valid").lower()
    if kind == "valid":
        return [(0, 0)] * len(sizes)
    if kind == "custom":
        pad = call.integers("pad", [0] * 2 * len(sizes))
        if len(pad) != 2 * len(sizes) or min(pad) < 0:
            raise call.refuse(f"its padding {pad} does not fit {len(sizes)} spatial dimensions")
        return [(pad[2 * axis], pad[2 * axis + 1]) for axis in range(len(sizes))]
    if kind not in ("same", "same_lower"):
        raise call.refuse(f'its pad_type "{kind}" is not known')
    pads = []
    for size, extent, stride in zip(sizes, kernel, strides, strict=True):
        total = max(0, stride * -(-size // stride) - size + extent - stride)
        small = total // 2
        pads.append((small, total - small) if kind == "same" else (total - small, small))
    return pads


def padded(x: Array, pads: list[tuple[int, int]], value: float) -> Array:
    """`x` with its last dimensions padded by a constant."""
    if not any(before or after for before, after in pads):
        return x
    leading = x.ndim - len(pads)
    shape = [*x.shape[:leading]]
    inner = [slice(None)] * leading
    for size, (before, after) in zip(x.shape[leading:], pads, strict=True):
        shape.append(size + before + after)
        inner.append(slice(before, before + size))
    made = np.full(shape, value, dtype=x.dtype)
    made[tuple(inner)] = x
    return made


def per_axis(call: Call, key: str, axes: int, default: list[int] | None = None) -> list[int]:
    """A parameter with one positive integer for each spatial dimension."""
    found = call.integers(key, default)
    if len(found) != axes or min(found, default=1) < 1:
        raise call.refuse(f"{key} {found} does not fit {axes} spatial dimensions")
    return found
