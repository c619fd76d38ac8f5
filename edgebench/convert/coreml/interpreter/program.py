"""A block of MIL, operation by operation: parameters in, declared types checked, dead values freed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgebench.convert.coreml.interpreter.base import (
    MAX_ELEMENTS,
    MAX_RANK,
    Array,
    Call,
    Declared,
    Kernel,
    Precision,
    Value,
    count,
)
from edgebench.convert.coreml.interpreter.package import Constants, Limits, declared
from edgebench.errors import ModelError, UserError, did_you_mean

FLOATS: Mapping[Precision, np.dtype[Any]] = {
    "fp32": np.dtype("float32"),
    "fp16": np.dtype("float32"),
    "fp64": np.dtype("float64"),
}
CONTROL_FLOW = ("cond", "const", "while_loop")  # computed here, not by a kernel

_MAX_DEPTH = 16  # nested blocks
_MAX_ITERATIONS = 1_000_000  # of a while_loop

# What numpy and Python raise when parameters do not fit each other.
_MISFITS = (ValueError, IndexError, TypeError, KeyError, ArithmeticError, MemoryError)


def accept(
    inputs: tuple[Declared, ...], feeds: Mapping[str, Array], precision: Precision
) -> dict[str, Value]:
    """The feeds as the program's inputs; UserError when a name, shape or element type does not fit."""
    names = [item.name for item in inputs]
    for name in feeds:
        if name not in names:
            raise UserError(f'the program has no input "{name}"', hint=did_you_mean(name, names))
    accepted: dict[str, Value] = {}
    for item in inputs:
        if item.name not in feeds:
            raise UserError(f'the input "{item.name}" ({item}) is not fed; fed: {", ".join(feeds) or "none"}')
        accepted[item.name] = _accept(item, np.asarray(feeds[item.name]), precision)
    return accepted


def _accept(item: Declared, value: Array, precision: Precision) -> Array:
    if item.element is None or not _fits(item.shape, value.shape):
        raise UserError(f'the input "{item.name}" is {item}, but {value.dtype}{list(value.shape)} is fed')
    kinds = "fiub" if item.element.floating else "iub"
    if value.dtype.kind not in kinds:
        raise UserError(f'the input "{item.name}" is {item}, but {value.dtype} is fed')
    if item.element.floating:
        return _rounded(value.astype(FLOATS[precision]), item, precision)
    cast = value.astype(item.element.numpy)
    if not np.array_equal(cast, value):
        raise UserError(f'the input "{item.name}" is {item}: some of the values fed are out of its range')
    return cast


def demand_limits(limits: Mapping[str, tuple[Limits, ...]], feeds: Mapping[str, Array]) -> None:
    """UserError for a feed whose shape is none that the package says it takes."""
    for name, alternatives in limits.items():
        shape = feeds[name].shape
        if not any(_within(shape, each) for each in alternatives):
            shown = " or ".join(str([f"{low}..{high}" for low, high in each]) for each in alternatives[:8])
            raise UserError(f'the input "{name}" takes {shown}, and {list(shape)} is fed')


def _within(shape: tuple[int, ...], limits: Limits) -> bool:
    """Whether the last axes lie within the limits."""
    return len(shape) >= len(limits) and all(
        low <= size <= high for size, (low, high) in zip(shape[-len(limits) :], limits, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How blocks are evaluated: the table of operators, the constants, the operator set and the precision."""

    operators: Mapping[str, Kernel]
    constants: Constants
    opset: int
    precision: Precision

    def run(self, block: Any, values: Mapping[str, Value]) -> dict[str, Array]:
        """The outputs of the block by name; `values` are its inputs."""
        found = self._block(block, values, 0)
        outputs: dict[str, Array] = {}
        for name, value in zip(block.outputs, found, strict=True):
            if isinstance(value, str):
                raise ModelError(f'the output "{name}" is a string')
            outputs[name] = value
        return outputs

    def _block(self, block: Any, values: Mapping[str, Value], depth: int) -> list[Value]:
        if depth > _MAX_DEPTH:
            raise ModelError(f"blocks are nested deeper than {_MAX_DEPTH}")
        scope = dict(values)
        dying = _last_uses(block)
        for index, operation in enumerate(block.operations):
            self._operation(operation, scope, depth)
            for name in dying.get(index, ()):
                scope.pop(name, None)
        return [self._find(scope, name, "the block") for name in block.outputs]

    def _operation(self, operation: Any, scope: dict[str, Value], depth: int) -> None:
        outputs = tuple(declared(item) for item in operation.outputs)
        name = outputs[0].name if outputs else ""
        for output in outputs:
            if len(output.shape) > MAX_RANK and not operation.type.startswith("const"):
                raise ModelError(
                    f'operation "{name}" ({operation.type}) declares {output}, Core ML has {MAX_RANK} axes'
                )
            sizes = [size for size in output.shape if size is not None]
            if count(sizes) > MAX_ELEMENTS or any(size < 0 for size in sizes):
                raise ModelError(f'operation "{name}" ({operation.type}) declares {output}: too large')
        try:
            made = self._compute(operation, outputs, scope, depth)
        except _MISFITS as error:
            reason = str(error) or type(error).__name__
            raise ModelError(f'operation "{name}" ({operation.type}) cannot be computed: {reason}') from error
        if len(made) != len(outputs):
            raise ModelError(
                f'operation "{name}" ({operation.type}) gives {len(made)} values, {len(outputs)} are declared'
            )
        for output, value in zip(outputs, made, strict=True):
            scope[output.name] = self._checked(operation.type, output, value)

    def _compute(
        self, operation: Any, outputs: tuple[Declared, ...], scope: dict[str, Value], depth: int
    ) -> list[Value]:
        kind = operation.type
        if kind == "const":
            return [self.constants.value(operation.attributes["val"], self._floating())]
        if kind == "cond":
            return self._cond(operation, scope, depth)
        if kind == "while_loop":
            return self._loop(operation, scope, depth)
        if kind not in self.operators:
            name = outputs[0].name if outputs else ""
            raise ModelError(
                f'operation "{name}": the MIL operator "{kind}" is not known to the reference interpreter',
                hint="verify this model on a Mac, or report the operator",
            )
        given = self._parameters(operation, scope)
        name = outputs[0].name if outputs else ""
        result = self.operators[kind](Call(kind, name, self.opset, given, self._floating(), outputs))
        return list(result) if isinstance(result, tuple) else [result]

    def _parameters(self, operation: Any, scope: Mapping[str, Value]) -> dict[str, tuple[Value, ...]]:
        given: dict[str, tuple[Value, ...]] = {}
        for key, argument in operation.inputs.items():
            given[key] = tuple(self._bound(binding, scope, operation.type) for binding in argument.arguments)
        for key, value in operation.attributes.items():  # constexpr operators up to iOS17 keep theirs here
            if key != "name" and key not in given:
                given[key] = (self.constants.value(value, self._floating()),)
        return given

    def _bound(self, binding: Any, scope: Mapping[str, Value], kind: str) -> Value:
        if binding.WhichOneof("binding") == "value":
            return self.constants.value(binding.value, self._floating())
        return self._find(scope, binding.name, kind)

    def _find(self, scope: Mapping[str, Value], name: str, who: str) -> Value:
        if name not in scope:
            raise ModelError(f'{who} uses "{name}", which nothing before it computes')
        return scope[name]

    def _cond(self, operation: Any, scope: Mapping[str, Value], depth: int) -> list[Value]:
        if len(operation.blocks) != 2:
            raise ModelError(f"a cond has {len(operation.blocks)} blocks, not 2")
        taken = _truth(self._parameters(operation, scope).get("pred", ()), "cond")
        return self._block(operation.blocks[0 if taken else 1], scope, depth + 1)

    def _loop(self, operation: Any, scope: Mapping[str, Value], depth: int) -> list[Value]:
        if len(operation.blocks) != 2:
            raise ModelError(f"a while_loop has {len(operation.blocks)} blocks, not 2")
        carried = list(self._parameters(operation, scope).get("loop_vars", ()))
        condition, body = operation.blocks
        for _ in range(_MAX_ITERATIONS):
            names = [item.name for item in condition.inputs]
            going = self._block(condition, {**scope, **dict(zip(names, carried, strict=True))}, depth + 1)
            if not _truth(tuple(going), "while_loop"):
                return carried
            names = [item.name for item in body.inputs]
            carried = self._block(body, {**scope, **dict(zip(names, carried, strict=True))}, depth + 1)
        raise ModelError(f"a while_loop does not end within {_MAX_ITERATIONS} iterations")

    def _checked(self, kind: str, output: Declared, value: Value) -> Value:
        """The value, if it is what the file declares; in "fp16", fp16 values are rounded here."""
        if isinstance(value, str) or output.element is None:
            if isinstance(value, str) and output.element is None:
                return value
            raise ModelError(
                f'operation "{output.name}" ({kind}): a string stands where {output} is declared'
            )
        array = np.asarray(value)
        wanted = self._floating() if output.element.floating else output.element.numpy
        if array.dtype != wanted or not _fits(output.shape, array.shape):
            raise ModelError(
                f'operation "{output.name}" ({kind}) gives {_described(array)}, the file declares {output}',
                hint="the package contradicts itself: convert the model again and report this",
            )
        return _rounded(array, output, self.precision)

    def _floating(self) -> np.dtype[Any]:
        return FLOATS[self.precision]


def _rounded(array: Array, item: Declared, precision: Precision) -> Array:
    if precision == "fp16" and item.element is not None and item.element.name == "fp16":
        return array.astype(np.float16).astype(array.dtype)
    return array


def _described(array: Array) -> str:
    kind = "float" if array.dtype.kind == "f" else str(array.dtype)
    return f"{kind}{list(array.shape)}"


def _fits(declared_shape: tuple[int | None, ...], shape: tuple[int, ...]) -> bool:
    return len(declared_shape) == len(shape) and all(
        wanted is None or wanted == size for wanted, size in zip(declared_shape, shape, strict=True)
    )


def _truth(values: tuple[Value, ...], kind: str) -> bool:
    if len(values) == 1 and not isinstance(values[0], str):
        array = np.asarray(values[0])
        if array.size == 1 and array.dtype == np.bool_:
            return bool(array.reshape(-1)[0])
    raise ModelError(f"a {kind} decides by something that is not one truth value")


def _last_uses(block: Any) -> dict[int, list[str]]:
    """Which names are not needed any more after which operation of the block."""
    last: dict[str, int] = {}
    for index, operation in enumerate(block.operations):
        for name in (*_uses(operation), *(item.name for item in operation.outputs)):
            last[name] = index
    for name in block.outputs:
        last.pop(name, None)
    dying: dict[int, list[str]] = {}
    for name, index in last.items():
        dying.setdefault(index, []).append(name)
    return dying


def _uses(operation: Any) -> Iterator[str]:
    """The names that an operation reads, also inside its nested blocks."""
    for argument in operation.inputs.values():
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "name":
                yield binding.name
    for block in operation.blocks:
        yield from block.outputs
        for inner in block.operations:
            yield from _uses(inner)
