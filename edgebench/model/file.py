"""The ONNX file and its external data: read, named by a digest, and written.

Nothing outside the model's folder is ever opened, and nothing larger than protobuf's 2 GiB is read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from edgebench.errors import InfrastructureError, ModelError, UserError
from edgebench.model.base import HINT_EXPORT, graphs, short, tensors

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

MAX_FILE_BYTES = (1 << 31) - 1  # protobuf's own limit
_CHUNK_BYTES = 1 << 20
_EXTERNAL = 1  # onnx.proto, TensorProto.DataLocation


class Loaded(NamedTuple):
    """A model with what its file says of it: digest and bytes (external data included)."""

    model: ModelProto
    digest: str
    size_bytes: int


def digest(path: Path) -> str:
    """The sha256 of an ONNX file; with external data, of its sha256 and each data file's name and sha256.

    Data files come in the order of their names. Errors as for `read`; the graph is not judged.
    """
    data = _read(path)
    return _digest(data, external_files(_parse(path, data), path))


def read(path: Path) -> Loaded:
    """The model with its external data, not judged; UserError for a bad path, ModelError for bad bytes."""
    data = _read(path)
    model = _parse(path, data)
    files = external_files(model, path)
    size_bytes = len(data) + sum(file.stat().st_size for file in files.values())
    if size_bytes > MAX_FILE_BYTES:
        _too_large(path, size_bytes)
    made = Loaded(model, _digest(data, files), size_bytes)
    _read_external(model, files)
    return made


def save(model: ModelProto, path: Path) -> bytes:
    """The deterministic bytes of the model, after writing them to `path` in one step: never half a file."""
    from google.protobuf.message import EncodeError

    try:
        data: bytes = model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise ModelError(
            f"{path.name}: the network is larger than one ONNX file may be (2 GiB)",
            hint="split it or compress it first",
        ) from error
    if len(data) > MAX_FILE_BYTES:
        _too_large(path, len(data))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        raise InfrastructureError(
            f"cannot write {path}: {error.strerror}", hint="choose a folder that exists and can be written to"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return data


def _read(path: Path) -> bytes:
    """The file's bytes; UserError when it is none, ModelError when it is empty or too large."""
    if path.is_dir():
        raise UserError(
            f"{path} is a folder, not an ONNX file", hint=f"name the file, such as {path}/model.onnx"
        )
    if not path.exists():
        raise UserError(f"no file {path}", hint="check the path; it is relative to the current folder")
    if not path.is_file():
        raise UserError(f"{path} is not a regular file", hint="copy the network to a file first")
    try:
        size_bytes = path.stat().st_size
        if size_bytes == 0:
            raise ModelError(f"{path} is empty (0 bytes)", hint=HINT_EXPORT)
        if size_bytes > MAX_FILE_BYTES:
            _too_large(path, size_bytes)
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", hint="check its permissions") from error


def _too_large(path: Path, size_bytes: int) -> NoReturn:
    raise ModelError(
        f"{path.name} has {size_bytes:,} bytes; edgebench takes networks up to {MAX_FILE_BYTES:,}",
        hint="compress the network first: nothing of that size runs on an edge device",
    )


def _parse(path: Path, data: bytes) -> ModelProto:
    """The bytes as a ModelProto with nodes; ModelError otherwise, with a guess at what they are."""
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        if _looks_truncated(data):
            raise ModelError(f"{path} is truncated: it ends inside the network", hint=HINT_EXPORT) from error
        raise ModelError(f"{path} is not an ONNX file{_kind(data)}", hint=_way_to_onnx(data)) from error
    if not model.HasField("graph") or not model.graph.node:
        raise ModelError(
            f"{path} is not an ONNX file with a network: it has no graph or no nodes{_kind(data)}",
            hint=_way_to_onnx(data),
        )
    if any(isinstance(text, bytes) for text in _texts(model)):
        raise ModelError(f"{path} is damaged: a name in it is not text", hint=HINT_EXPORT)
    return model


def _texts(model: ModelProto) -> Iterator[str | bytes]:
    """Every name that edgebench reads; protobuf hands out bytes where the file's are not UTF-8."""
    for entry in model.metadata_props:
        yield from (entry.key, entry.value)
    for opset in model.opset_import:
        yield opset.domain
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output)
        yield from _node_texts(function.node)
    for tensor in tensors(model):
        yield tensor.name
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)
    for graph in graphs(model.graph):
        yield graph.name
        yield from _node_texts(graph.node)
        for value in (*graph.input, *graph.output, *graph.value_info):
            yield value.name
            yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)


def _node_texts(nodes: Iterable[NodeProto]) -> Iterator[str | bytes]:
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


_OTHER_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer", "git lfs pull"),
    (
        b"PK\x03\x04",
        "a zip file, perhaps a PyTorch checkpoint",
        "torch.onnx.export(model, example, 'model.onnx')",
    ),
    (
        b"\x80\x02",
        "a pickle, perhaps a PyTorch checkpoint",
        "torch.onnx.export(model, example, 'model.onnx')",
    ),
    (
        b"\x89HDF",
        "HDF5, perhaps a Keras network",
        "python -m tf2onnx.convert --keras model.h5 --output model.onnx",
    ),
    (b"7767517", "an NCNN param file", "name the ONNX file it was made from"),
    (b"\x7fELF", "a program", "name the ONNX file"),
    (b"<", "XML or HTML, perhaps a download's error page", "download the network again"),
    (b"{", "JSON", "name the ONNX file"),
)


def _kind(data: bytes) -> str:
    found = _other_kind(data)
    return f" but {found[1]}" if found else ""


def _way_to_onnx(data: bytes) -> str:
    found = _other_kind(data)
    return found[2] if found else HINT_EXPORT


def _other_kind(data: bytes) -> tuple[bytes, str, str] | None:
    if data[4:8] == b"TFL3":
        return (
            b"TFL3",
            "a TensorFlow Lite network",
            "python -m tf2onnx.convert --tflite model.tflite --output m.onnx",
        )
    return next((kind for kind in _OTHER_KINDS if data.lstrip()[:64].startswith(kind[0])), None)


_TOP_LEVEL_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}


def _looks_truncated(data: bytes) -> bool:
    """Whether the bytes begin as a ModelProto does, and the last field says it is longer than what is there.

    Field numbers and wire types are those of onnx.proto's message ModelProto.
    """
    position, seen = 0, 0
    while position < len(data):
        key, after_key = _varint(data, position)
        if key is None:
            return seen > 0
        if _TOP_LEVEL_FIELDS.get(key >> 3) != key & 7:
            return False
        value, position = _varint(data, after_key)
        if value is None:
            return seen > 0
        if key & 7 == 2:
            position += value
        seen += 1
    return position > len(data)


def _varint(data: bytes, position: int) -> tuple[int | None, int]:
    """The number at `position` in protobuf's base-128 form and the place behind it; None past the end."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            return None, position
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    return None, position


# --- external data ------------------------------------------------------------------------------


def external_files(model: ModelProto, path: Path) -> dict[str, Path]:
    """Location -> file of all external data, in the order of the names.

    ModelError when a file is missing or lies outside the model's folder: absolute, "..", a link that leads
    out.
    """
    locations = {
        _external_field(tensor, "location"): tensor.name
        for tensor in tensors(model)
        if tensor.data_location == _EXTERNAL
    }
    return {place: _inside(path, place, locations[place]) for place in sorted(locations)}


def _external_field(tensor: TensorProto, key: str) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == key), "")


def _inside(path: Path, location: str, tensor_name: str) -> Path:
    folder = path.parent.resolve()
    shown = f'{path.name}: the data of "{short(tensor_name)}" is said to be in "{short(location)}"'
    if not location or "\0" in location:
        raise ModelError(f"{shown}, which names no file", hint=HINT_EXPORT)
    lexical = PureWindowsPath(location)  # its rules see "/", "\" and drive letters alike
    if lexical.is_absolute() or lexical.drive or lexical.root or ".." in lexical.parts:
        raise ModelError(
            f"{shown}, outside the model's folder; such a file is never read",
            hint="put the data file beside the ONNX file and save the model again",
        )
    try:
        file = (folder / location).resolve()
        missing = not file.exists()
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{shown}, which cannot be looked up", hint=HINT_EXPORT) from error
    if not file.is_relative_to(folder):
        raise ModelError(
            f"{shown}, a link that leads outside the model's folder; such a file is never read",
            hint="replace the link by a copy of the file",
        )
    if missing:
        raise ModelError(f"{shown}, which is missing", hint=f"copy {location} into {path.parent}/")
    if not file.is_file():
        raise ModelError(f"{shown}, which is not a regular file", hint=HINT_EXPORT)
    return file


def _read_external(model: ModelProto, files: dict[str, Path]) -> None:
    """Replace each external reference by its bytes, in all at most MAX_FILE_BYTES."""
    total = 0
    for tensor in tensors(model):
        if tensor.data_location != _EXTERNAL:
            continue
        file = files[_external_field(tensor, "location")]
        offset, length = _extent(tensor, file)
        total += length
        if total > MAX_FILE_BYTES:
            _too_large(file, total)
        with file.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")


def _extent(tensor: TensorProto, file: Path) -> tuple[int, int]:
    """Offset and length of a tensor's bytes in its file; ModelError when they are not there."""
    try:
        offset = int(_external_field(tensor, "offset") or 0)
        length = int(_external_field(tensor, "length") or -1)
    except ValueError as error:
        raise ModelError(
            f'"{short(tensor.name)}" has a damaged reference to its data', hint=HINT_EXPORT
        ) from error
    size_bytes = file.stat().st_size
    if length < 0:
        length = size_bytes - offset
    if offset < 0 or length < 0 or offset + length > size_bytes:
        raise ModelError(
            f'{file.name} is truncated: "{short(tensor.name)}" needs {length:,} bytes from {offset:,} on, '
            f"the file has {size_bytes:,}",
            hint="copy the data file again",
        )
    return offset, length


def _digest(data: bytes, files: dict[str, Path]) -> str:
    own = hashlib.sha256(data).hexdigest()
    if not files:
        return own
    whole = hashlib.sha256(own.encode())
    for location, file in files.items():
        whole.update(f"\n{location}\n{_file_digest(file)}".encode())
    return whole.hexdigest()


def _file_digest(file: Path) -> str:
    hashed = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            hashed.update(chunk)
    return hashed.hexdigest()
