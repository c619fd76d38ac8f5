"""The ML Program out of a saved .mlpackage: manifest, model file, weights, nothing but what the disk holds.

The protobuf classes are coremltools'; everything they say is checked here before it is used.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import numpy as np

from edgebench.convert.coreml.interpreter.base import (
    ELEMENTS,
    Array,
    Declared,
    Element,
    Value,
    count,
    unpack_bits,
)
from edgebench.convert.coreml.interpreter.blobs import BlobFile
from edgebench.errors import InfrastructureError, ModelError

_MANIFEST_BYTES = 1 << 20
_MODEL_BYTES = (1 << 31) - 1  # protobuf's own bound
_WEIGHTS_ROOT = "@model_path/"
_SDK = "coremltools"


Limits = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Program:
    """The function to evaluate: its inputs, its block, and the number N of its operator set "CoreMLN".

    `limits`: for an input of open sizes the shapes that the package takes, each as (lowest, highest) of its
    last axes.
    """

    inputs: tuple[Declared, ...]
    block: Any
    opset: int
    constants: Constants
    limits: Mapping[str, tuple[Limits, ...]]


def load(package: Path) -> Program:
    """The main function of the package's ML Program; ModelError for a damaged package or another kind."""
    model_file = _model_file(package)
    message = _parsed(_read(model_file, _MODEL_BYTES))
    kind = message.WhichOneof("Type")
    if kind != "mlProgram":
        raise ModelError(
            f'"{package.name}" holds a Core ML model of kind {kind}, not an ML Program',
            hint="convert it as an ML Program",
        )
    function = _main(message.mlProgram)
    opset = re.fullmatch(r"CoreML(\d{1,3})", function.opset)
    if opset is None or function.opset not in function.block_specializations:
        known = ", ".join(sorted(function.block_specializations)) or "none"
        raise ModelError(f'the program has no block for its operator set "{function.opset}"; it has: {known}')
    _same_boundary(message.description, function)
    return Program(
        inputs=tuple(declared(item) for item in function.inputs),
        block=function.block_specializations[function.opset],
        opset=int(opset.group(1)),
        constants=Constants(model_file.parent),
        limits=_limits(message.description, function),
    )


def declared(named: Any) -> Declared:
    """What a NamedValueType says; ModelError for lists, states, dictionaries and unknown element types."""
    kind = named.type.WhichOneof("type")
    if kind != "tensorType":
        raise ModelError(f'"{named.name}" is a {kind}: only tensors can be evaluated')
    return Declared(named.name, _element(named.type, named.name), _shape(named.type.tensorType, named.name))


class Constants:
    """Values written in the program itself or in the weight files beside it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BlobFile] = {}

    def value(self, message: Any, floating: np.dtype[Any]) -> Value:
        """A constant of the program: a string, or an array whose floats are of the type `floating`."""
        if message.type.WhichOneof("type") != "tensorType":
            raise ModelError(f"a constant is a {message.type.WhichOneof('type')}: only tensors are known")
        element = _element(message.type, "a constant")
        shape = tuple(size for size in _shape(message.type.tensorType, "a constant") if size is not None)
        if len(shape) != len(message.type.tensorType.dimensions):
            raise ModelError("a constant has an unknown size")
        source = message.WhichOneof("value")
        if source == "blobFileValue":
            if element is None:
                raise ModelError("a string lies in a weight file")
            array = self._blob(message.blobFileValue, element, shape)
        elif source == "immediateValue" and message.immediateValue.WhichOneof("value") == "tensor":
            tensor = message.immediateValue.tensor
            if element is None:
                return _string(tensor)
            array = _immediate(tensor, element, shape)
        else:
            raise ModelError("a constant has neither a tensor nor a place in a weight file")
        return array.astype(floating, copy=False) if element.floating else array

    def _blob(self, place: Any, element: Element, shape: tuple[int, ...]) -> Array:
        name = place.fileName
        if name not in self._files:
            self._files[name] = BlobFile(self._inside(name))
        return self._files[name].read(int(place.offset), element, shape)

    def _inside(self, name: str) -> Path:
        path = PurePosixPath(name.removeprefix(_WEIGHTS_ROOT))
        if not name.startswith(_WEIGHTS_ROOT) or path.is_absolute() or ".." in path.parts:
            raise ModelError(f'the program names a weight file outside the package: "{name[:200]}"')
        found = self._folder / path
        if not found.resolve().is_relative_to(self._folder.resolve()):
            raise ModelError(f'the weight file "{path}" is a link out of the package')
        return found


def _model_file(package: Path) -> Path:
    """The path of the model file that the manifest names as the root model."""
    text = _read(package / "Manifest.json", _MANIFEST_BYTES)
    try:
        manifest = json.loads(text)
        entry = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f'the manifest of "{package.name}" names no model: {error!r:.200}') from error
    path = PurePosixPath(entry) if isinstance(entry, str) else PurePosixPath("..")
    if path.is_absolute() or ".." in path.parts or "\0" in str(path):
        raise ModelError(f'the manifest of "{package.name}" names a model outside the package')
    return package / "Data" / path


def _read(path: Path, most_bytes: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > most_bytes:
            raise ModelError(f'"{path.name}" has {size} bytes, more than the {most_bytes} that are read')
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f'"{path.name}" of the package cannot be read: {error.strerror or error}') from error


def _parsed(data: bytes) -> Any:
    messages = _messages()
    from google.protobuf.message import DecodeError

    try:
        return messages.Model.FromString(data)
    except (DecodeError, RecursionError) as error:
        raise ModelError(f"the model file is no Core ML model: {error!s:.200}") from error


@cache
def _messages() -> Any:
    """The message classes of coremltools, without the rest of it where nobody has imported that yet."""
    try:
        if _SDK in sys.modules:
            return import_module(f"{_SDK}.proto.Model_pb2")
        return _messages_alone()
    except ImportError as error:
        raise InfrastructureError(
            f"coremltools is not installed ({error}), so Core ML packages cannot be read",
            hint='type: pip install "edgebench[coreml]"',
        ) from error


def _messages_alone() -> Any:
    """All of coremltools takes seconds to import, its messages a tenth of one.

    They are imported below a stand-in for the package, which is gone again afterwards: a later
    `import coremltools` finds what it always finds.
    """
    found = find_spec(_SDK)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"no module named {_SDK}")
    stand_in = ModuleType(_SDK)
    stand_in.__path__ = list(found.submodule_search_locations)
    sys.modules[_SDK] = stand_in
    try:
        return import_module(f"{_SDK}.proto.Model_pb2")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == _SDK]:
            del sys.modules[name]


def _main(program: Any) -> Any:
    functions = program.functions
    if "main" in functions:
        return functions["main"]
    raise ModelError(
        f"the program has no function main; it has: {', '.join(sorted(functions)) or 'none'}",
        hint="save one function of the package as a model of its own",
    )


def _same_boundary(description: Any, function: Any) -> None:
    """The model's description must name the inputs and outputs that the program has."""
    if description.functions:  # several functions describe their own
        return
    block = function.block_specializations[function.opset]
    inputs = {item.name for item in description.input}, {item.name for item in function.inputs}
    outputs = {item.name for item in description.output}, set(block.outputs)
    for said, there in (inputs, outputs):
        if said != there:
            differ = ", ".join(sorted(said ^ there))
            raise ModelError(f"the model's description and its program do not both have: {differ}")


def _limits(description: Any, function: Any) -> dict[str, tuple[Limits, ...]]:
    """What the description says of inputs whose sizes the program leaves open; ModelError without a word."""
    open_inputs = {item.name for item in function.inputs if None in _shape(item.type.tensorType, item.name)}
    found = {item.name: _alternatives(item.type) for item in description.input if item.name in open_inputs}
    silent = sorted(name for name in open_inputs if not found.get(name))
    if silent and not description.functions:
        raise ModelError(f'the program leaves sizes of "{silent[0]}" open, and its description does not')
    return {name: limits for name, limits in found.items() if limits}


def _alternatives(kind: Any) -> tuple[Limits, ...]:
    """The shapes that an input's description allows: ranges, or a list."""
    if kind.WhichOneof("Type") == "imageType":
        image = kind.imageType
        if image.WhichOneof("SizeFlexibility") == "imageSizeRange":
            both = (image.imageSizeRange.heightRange, image.imageSizeRange.widthRange)
            return (tuple(_range(each) for each in both),)
        sizes = image.enumeratedSizes.sizes
        return tuple(((each.height, each.height), (each.width, each.width)) for each in sizes)
    array = kind.multiArrayType
    if array.WhichOneof("ShapeFlexibility") == "shapeRange":
        return (tuple(_range(each) for each in array.shapeRange.sizeRanges),)
    return tuple(tuple((size, size) for size in each.shape) for each in array.enumeratedShapes.shapes)


def _range(sizes: Any) -> tuple[int, int]:
    """Lowest and highest; a negative upper bound means that there is none."""
    return int(sizes.lowerBound), int(sizes.upperBound) if sizes.upperBound >= 0 else sys.maxsize


def _element(value_type: Any, name: str) -> Element | None:
    code = value_type.tensorType.dataType
    if code == 2:  # STRING
        return None
    if code not in ELEMENTS:
        raise ModelError(f'"{name}" has the element type {code}, which is not known')
    return ELEMENTS[code]


def _shape(tensor: Any, name: str) -> tuple[int | None, ...]:
    sizes: list[int | None] = []
    for dimension in tensor.dimensions:
        known = dimension.WhichOneof("dimension") == "constant"
        if not known and dimension.unknown.variadic:
            raise ModelError(f'"{name}" has an unknown number of dimensions')
        sizes.append(int(dimension.constant.size) if known else None)
    if tensor.rank != len(sizes):
        raise ModelError(f'"{name}" is said to have rank {tensor.rank}, but {len(sizes)} sizes')
    return tuple(sizes)


def _string(tensor: Any) -> str:
    if len(tensor.strings.values) != 1:
        raise ModelError(f"a string constant has {len(tensor.strings.values)} values")
    return str(tensor.strings.values[0])


_NUMBERS = ("bools", "ints", "longInts", "floats", "doubles")


def _immediate(tensor: Any, element: Element, shape: tuple[int, ...]) -> Array:
    """A tensor written out in the program: numbers, or bytes for fp16, 8-bit, narrower types and uint32."""
    field = tensor.WhichOneof("value")
    elements = count(shape)
    if field == "bytes":
        return _from_bytes(tensor.bytes.values, element, shape)
    values: list[Any] = list(getattr(tensor, field).values) if field in _NUMBERS else []
    if len(values) != elements:
        raise ModelError(f"a constant of shape {list(shape)} has {len(values)} values")
    try:
        return np.array(values, dtype=element.numpy).reshape(shape)
    except OverflowError as error:
        raise ModelError(f"a constant of type {element.name} is out of its range: {error}") from error


def _from_bytes(data: bytes, element: Element, shape: tuple[int, ...]) -> Array:
    elements = count(shape)
    if len(data) != -(-elements * element.bits // 8):
        raise ModelError(f"a constant {element.name}{list(shape)} has {len(data)} bytes")
    if element.bits < 8:
        return unpack_bits(np.frombuffer(data, np.uint8), element, elements).reshape(shape)
    return np.frombuffer(data, element.numpy.newbyteorder("<")).reshape(shape)
