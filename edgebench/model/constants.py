"""Inputs that the user makes constants: a sample rate, a mode, a threshold. Each is one number everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebench.errors import UserError, did_you_mean
from edgebench.model.base import real_inputs, short, type_name

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, ValueInfoProto

    Arrays = dict[str, NDArray[Any]]

_WORDS = {"true": 1, "false": 0}


def parse_constant(text: str) -> tuple[str, int | float]:
    """Name and number of "sr=16000"; true is 1 and false is 0. UserError for other texts."""
    name, separator, number = (part.strip() for part in text.rpartition("="))
    try:
        value = _WORDS.get(number.lower()) if number.lower() in _WORDS else _number(number)
    except ValueError:
        value = None
    if not (separator and name) or value is None or not math.isfinite(value):
        raise UserError(f'"{text}" gives no input a number', hint="--set NAME=16000")
    return name, value


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def fix(model: ModelProto, constants: Mapping[str, int | float]) -> Arrays:
    """Name -> array of what the model was fed with so far; from now on these inputs are weights of it.

    `model` must be static, its weights no inputs. UserError for unknown inputs, for numbers that are none of
    the input's type, and where no input would be left.
    """
    from onnx import numpy_helper

    inputs = {value.name: value for value in real_inputs(model.graph)}
    for name in constants:
        if name not in inputs:
            raise UserError(f'--set: the model has no input "{name}"', hint=did_you_mean(name, inputs))
    if constants and set(constants) == set(inputs):
        raise UserError(
            "--set leaves the model without an input", hint="set those only that decide how it computes"
        )
    arrays = {name: _array(inputs[name], number) for name, number in constants.items()}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    for place in reversed(range(len(model.graph.input))):
        if model.graph.input[place].name in constants:
            del model.graph.input[place]
    return arrays


def _array(value: ValueInfoProto, number: int | float) -> NDArray[Any]:
    from onnx import helper

    kind = value.type.tensor_type.elem_type
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    with np.errstate(all="ignore"):
        try:
            array = np.full(shape, number, dtype)
        except OverflowError:
            array = None
    whole = np.issubdtype(dtype, np.integer) or dtype == np.bool_
    if array is None or not np.isfinite(array).all() or (whole and not (array == number).all()):
        raise UserError(
            f'--set {value.name}={number} does not fit the input "{short(value.name)}", which is '
            f"{type_name(kind).lower()}",
            hint=f"--set {value.name}=1",
        )
    return array
