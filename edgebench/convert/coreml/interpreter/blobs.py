"""Weights out of the blob file of an .mlpackage: mapped, never copied whole, every field checked.

The file (MILBlob storage format, version 2): a header of 64 bytes (count u32, version u32, zeros), then for
each blob 64 bytes of metadata at the offset that the program names (sentinel u32, type u32, size in bytes
u64, offset of the data u64, unused bits at its end u64, zeros) and its data, little-endian.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.convert.coreml.interpreter.base import Array, Element, count, unpack_bits
from edgebench.errors import ModelError

_HEADER = struct.Struct("<II")
_METADATA = struct.Struct("<IIQQQ")
_RECORD_BYTES = 64
_SENTINEL = 0xDEADBEEF
_VERSION = 2


class BlobFile:
    """One weight file, mapped read-only."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._bytes = _mapped(path)
        if len(self._bytes) < _RECORD_BYTES:
            raise self._damaged(f"it has {len(self._bytes)} bytes, its header alone needs {_RECORD_BYTES}")
        _, version = _HEADER.unpack(self._record(0, _HEADER))
        if version != _VERSION:
            raise self._damaged(f"its format version is {version}, not {_VERSION}")

    def read(self, offset: int, element: Element, shape: tuple[int, ...]) -> Array:
        """The blob whose metadata lies at `offset`, as an array of `shape`; ModelError when they disagree.

        Elements of whole bytes are a view of the file; narrower ones are unpacked into int8 or uint8.
        """
        if offset % _RECORD_BYTES or not _RECORD_BYTES <= offset <= len(self._bytes) - _RECORD_BYTES:
            raise self._damaged(f"no blob can begin at byte {offset} of {len(self._bytes)}")
        sentinel, code, size, start, spare = _METADATA.unpack(self._record(offset, _METADATA))
        if sentinel != _SENTINEL:
            raise self._damaged(f"there is no blob at byte {offset}")
        if code != element.blob or not element.blob:
            raise self._damaged(f"the blob at byte {offset} has type {code}, the program says {element.name}")
        elements = count(shape)
        needed = -(-elements * element.bits // 8)
        if size != needed or (element.bits < 8 and size * 8 - spare != elements * element.bits):
            raise self._damaged(f"the blob at byte {offset} has {size} bytes, {list(shape)} needs {needed}")
        if start > len(self._bytes) or size > len(self._bytes) - start:
            raise self._damaged(f"the blob at byte {offset} ends beyond the file's {len(self._bytes)} bytes")
        data = self._bytes[start : start + size]
        if element.bits < 8:
            return unpack_bits(data, element, elements).reshape(shape)
        return data.view(element.numpy.newbyteorder("<")).reshape(shape)

    def _record(self, offset: int, form: struct.Struct) -> bytes:
        return self._bytes[offset : offset + form.size].tobytes()

    def _damaged(self, reason: str) -> ModelError:
        return ModelError(
            f'the weight file "{self._name}" is damaged: {reason}', hint="convert the model again"
        )


def _mapped(path: Path) -> NDArray[np.uint8]:
    try:
        mapped: Any = np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise ModelError(f'the weight file "{path.name}" cannot be read: {error}') from error
    return np.asarray(mapped)
