"""Inputs whose sizes stay open: what the user wrote, the sizes in the model that it means, shapes to try.

`x=1..8,3,224..448,224..448` gives ranges, `x=1,3,224,224|1,3,448,448` lists shapes. `@1,3,320,320` behind
either is the default; without it, the smallest of the ranges, or the first of the list.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from edgebench.errors import UserError, did_you_mean
from edgebench.model.base import MAX_ELEMENTS, real_inputs, short
from edgebench.records import ModelInfo, Record, replace

if TYPE_CHECKING:
    from onnx import ModelProto, TensorShapeProto, ValueInfoProto

Shape = tuple[int, ...]
Range = tuple[int, int]

OPTION = "flexible."  # what an option of an artifact begins with that names such an input
MAX_SHAPES = 128  # that Core ML takes of one input
_FORM = "--flexible 'NAME=1..8,3,224..448,224..448' or --flexible 'NAME=1,3,224,224|1,3,448,448'"
_SHARES = (0.37, 0.61, 0.5)  # where between its limits the sizes of the middle shape lie, each its own
_NAMELESS = ("", "?", "-1", "None", "unknown")


class OpenInput(Record, frozen=True):
    """One input of open sizes: lowest and highest of each axis, or the listed `shapes`; and its default."""

    name: str
    ranges: tuple[Range, ...]
    default: Shape
    shapes: tuple[Shape, ...] = ()

    def text(self) -> str:
        """What one writes behind "NAME=" to get this again."""
        listed = "|".join(_joined(shape) for shape in self.shapes)
        spans = ",".join(str(low) if low == high else f"{low}..{high}" for low, high in self.ranges)
        return f"{listed or spans}@{_joined(self.default)}"

    def takes(self, shape: Shape) -> bool:
        """Whether the shape is one of the listed ones, or within the ranges."""
        if self.shapes:
            return shape in self.shapes
        return len(shape) == len(self.ranges) and all(
            low <= size <= high for size, (low, high) in zip(shape, self.ranges, strict=True)
        )


def parse(text: str) -> OpenInput:
    """The open input that an option or an artifact names; UserError when the text is of another form."""
    name, separator, said = text.rpartition("=")
    if not separator or not name.strip():
        raise _wrong(text, "it has no name")
    sizes, _, default = said.partition("@")
    alternatives = [_ranges(text, part) for part in sizes.split("|")]
    if len({len(each) for each in alternatives}) != 1:
        raise _wrong(text, "its shapes have different numbers of axes")
    if len(alternatives) == 1:
        shapes: tuple[Shape, ...] = ()
        ranges = alternatives[0]
    else:
        shapes = tuple(dict.fromkeys(_fixed(text, each) for each in alternatives))
        ranges = tuple((min(axis), max(axis)) for axis in zip(*shapes, strict=True))
    chosen = _fixed(text, _ranges(text, default)) if default else _smallest(shapes, ranges)
    made = OpenInput(name=name.strip(), ranges=ranges, default=chosen, shapes=shapes)
    _check(text, made)
    return made


def to_options(wanted: Sequence[OpenInput]) -> dict[str, str]:
    """The open inputs as options of a converter and of an artifact."""
    return {OPTION + each.name: each.text() for each in wanted}


def from_options(options: Mapping[str, str]) -> tuple[OpenInput, ...]:
    """The open inputs that the options of an artifact name."""
    named = {key.removeprefix(OPTION): text for key, text in options.items() if key.startswith(OPTION)}
    return tuple(parse(f"{name}={text}") for name, text in named.items())


def _ranges(text: str, part: str) -> tuple[Range, ...]:
    made = []
    for word in part.split(","):
        found = re.fullmatch(r"\s*([0-9]{1,10})(?:\.\.([0-9]{1,10}))?\s*", word)
        if found is None:
            raise _wrong(text, f'"{word.strip()}" is neither a size nor a range')
        low = int(found[1])
        made.append((low, int(found[2] or low)))
    return tuple(made)


def _fixed(text: str, ranges: Sequence[Range]) -> Shape:
    if any(low != high for low, high in ranges):
        raise _wrong(text, "a listed shape or a default has a range in it")
    return tuple(low for low, _ in ranges)


def _smallest(shapes: Sequence[Shape], ranges: Sequence[Range]) -> Shape:
    return shapes[0] if shapes else tuple(low for low, _ in ranges)


def _check(text: str, made: OpenInput) -> None:
    if any(low < 1 or high < low for low, high in made.ranges):
        raise _wrong(text, "sizes are 1 or more, and ranges go upwards")
    if all(low == high for low, high in made.ranges):
        raise UserError(
            f'"{text}" leaves no size open', hint=f"--shape {made.name}={_joined(made.default)} fixes it"
        )
    if not made.takes(made.default):
        raise _wrong(text, f"the default {_joined(made.default)} is none of its shapes")
    if math.prod(high for _, high in made.ranges) > MAX_ELEMENTS:
        raise _wrong(text, f"its largest shape has more than {MAX_ELEMENTS:,} elements")
    if len(made.shapes) > MAX_SHAPES:
        raise _wrong(text, f"it lists {len(made.shapes)} shapes, and Core ML takes {MAX_SHAPES}")


def _wrong(text: str, why: str) -> UserError:
    return UserError(f'"{text}" gives no flexible shape: {why}', hint=_FORM)


def _joined(shape: Sequence[int]) -> str:
    return ",".join(map(str, shape))


# --- in the model -------------------------------------------------------------------------------


def open_up(model: ModelProto, wanted: Sequence[OpenInput], shapes: Mapping[str, Shape]) -> dict[str, Range]:
    """The names that the open sizes have in the model now, with their limits; fixed ones are written into it.

    UserError when the model has no such input, fixes a size itself, two inputs disagree about one, or
    `shapes` fixes an input that is to be open.
    """
    inputs = {value.name: value for value in real_inputs(model.graph)}
    names = [each.name for each in wanted]
    if len(set(names)) < len(names):
        raise UserError("--flexible names an input twice", hint="give each input once")
    for name in set(names) & set(shapes):
        raise UserError(
            f'"{name}" is given by --shape and by --flexible',
            hint=f"--flexible '{name}=...@{_joined(shapes[name])}' alone: its default stands behind @",
        )
    if any(each.shapes for each in wanted) and len(wanted) > 1:
        raise UserError(
            "listed shapes are possible for one input alone", hint="give ranges, such as 'x=1..8,3,224,224'"
        )
    limits: dict[str, Range] = {}
    for each in wanted:
        if each.name not in inputs:
            raise UserError(f'the model has no input "{each.name}"', hint=did_you_mean(each.name, inputs))
        for name, found in _opened(inputs[each.name], each):
            if limits.setdefault(name, found) != found:
                raise UserError(
                    f'the inputs share the size "{short(name)}", and --flexible gives it two ranges',
                    hint=f'give "{each.name}" the range that the other input has there',
                )
    _spread_fixed(model, {name: low for name, (low, high) in limits.items() if low == high})
    limits = {name: (low, high) for name, (low, high) in limits.items() if low < high}
    if any(each.shapes for each in wanted):
        _refuse_shared(inputs, names[0], limits)
    return limits


def _spread_fixed(model: ModelProto, sizes: Mapping[str, int]) -> None:
    """Write the sizes that are given as one number wherever the model calls them by the same name."""
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]


def _opened(value: ValueInfoProto, wanted: OpenInput) -> Iterator[tuple[str, Range]]:
    dims = list(value.type.tensor_type.shape.dim)
    if len(dims) != len(wanted.ranges):
        raise UserError(
            f'--flexible gives "{wanted.name}" {len(wanted.ranges)} axes, and it has {len(dims)}', hint=_FORM
        )
    for axis, (dim, (low, high)) in enumerate(zip(dims, wanted.ranges, strict=True)):
        if dim.dim_value > 0:
            _demand_fixed(wanted, axis, dim, (low, high))
        else:
            if dim.dim_param in _NAMELESS:
                dim.dim_param = f"{wanted.name}_{axis}"
            yield dim.dim_param, (low, high)


def _demand_fixed(wanted: OpenInput, axis: int, dim: TensorShapeProto.Dimension, limits: Range) -> None:
    if limits != (dim.dim_value, dim.dim_value):
        raise UserError(
            f'the model fixes axis {axis} of "{wanted.name}" at {dim.dim_value}, so it cannot be flexible',
            hint="export the network with dynamic axes, or leave that size as it is",
        )


def _refuse_shared(inputs: Mapping[str, ValueInfoProto], name: str, limits: Mapping[str, Range]) -> None:
    for other, value in inputs.items():
        if other != name and any(dim.dim_param in limits for dim in value.type.tensor_type.shape.dim):
            raise UserError(
                f'"{other}" shares an open size with "{name}", and shapes can be listed for one input alone',
                hint="give ranges for both",
            )


# --- shapes to try ------------------------------------------------------------------------------


def trials(info: ModelInfo, wanted: Sequence[OpenInput]) -> list[ModelInfo]:
    """The model with its inputs at fixed shapes, the default ones first; the model itself where none is open.

    All listed shapes; of ranges the smallest, the largest and one between that is as odd as can be.
    """
    if not wanted:
        return [info]
    if wanted[0].shapes:
        chosen = [_sizes(info, wanted, [shape]) for shape in (wanted[0].default, *wanted[0].shapes)]
    else:
        defaults = _sizes(info, wanted, [each.default for each in wanted])
        limits = _limits(info, wanted)
        lowest = {name: low for name, (low, _) in limits.items()}
        highest = {name: high for name, (_, high) in limits.items()}
        middle = {
            name: _between(low, high, _SHARES[at % len(_SHARES)])
            for at, (name, (low, high)) in enumerate(limits.items())
        }
        chosen = [defaults, lowest, highest, middle]
    return [_fixed_at(info, sizes) for at, sizes in enumerate(chosen) if sizes not in chosen[:at]]


def _limits(info: ModelInfo, wanted: Sequence[OpenInput]) -> dict[str, Range]:
    given = {each.name: each.ranges for each in wanted}
    return {
        size: limits
        for tensor in info.inputs
        for size, limits in zip(tensor.shape, given.get(tensor.name, ()), strict=False)
        if isinstance(size, str)
    }


def _sizes(info: ModelInfo, wanted: Sequence[OpenInput], shapes: Sequence[Shape]) -> dict[str, int]:
    given = {each.name: shape for each, shape in zip(wanted, shapes, strict=True)}
    return {
        name: size
        for tensor in info.inputs
        for name, size in zip(tensor.shape, given.get(tensor.name, ()), strict=False)
        if isinstance(name, str)
    }


def _between(low: int, high: int, share: float) -> int:
    """A whole number between the limits, odd where one can be: divisible sizes hide what goes wrong."""
    middle = low + round((high - low) * share)
    return middle if middle % 2 or middle + 1 > high else middle + 1


def _fixed_at(info: ModelInfo, sizes: Mapping[str, int]) -> ModelInfo:
    inputs = tuple(
        replace(
            tensor,
            shape=tuple(sizes.get(size, size) if isinstance(size, str) else size for size in tensor.shape),
        )
        for tensor in info.inputs
    )
    return replace(info, inputs=inputs)
