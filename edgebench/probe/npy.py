"""`.npy` files without numpy, which a device may lack: little-endian, C order, format 1 and 2."""

import ast
import struct
import sys
from array import array
from typing import List, NamedTuple, Sequence, Union

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 1 << 20
TYPES = {
    "f2": "float16",
    "f4": "float32",
    "f8": "float64",
    "i1": "int8",
    "i2": "int16",
    "i4": "int32",
    "i8": "int64",
    "u1": "uint8",
    "u2": "uint16",
    "u4": "uint32",
    "u8": "uint64",
    "b1": "bool",
}
CODES = {name: code for code, name in TYPES.items()}
FORMATS = {
    "float16": "e",
    "float32": "f",
    "float64": "d",
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "uint8": "B",
    "uint16": "H",
    "uint32": "I",
    "uint64": "Q",
    "bool": "?",
}
INT32_LOW, INT32_HIGH = -(1 << 31), (1 << 31) - 1

Header = NamedTuple("Header", [("dtype", str), ("shape", List[int]), ("plain", bool), ("offset", int)])
Array = NamedTuple("Array", [("dtype", str), ("shape", List[int]), ("data", bytes)])


def header(path: str) -> Header:
    """What a file says of itself; `plain`: little-endian and in C order. ValueError for what is no `.npy`."""
    with open(path, "rb") as file:
        start = file.read(12)
        if start[:6] != MAGIC or len(start) < 12:
            raise ValueError("%s is no .npy file" % path)
        short = start[6] == 1
        offset = 10 if short else 12
        length = int.from_bytes(start[8:10] if short else start[8:12], "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError("%s has a header of %d bytes" % (path, length))
        file.seek(offset)
        try:
            fields = ast.literal_eval(file.read(length).decode("latin-1"))
            code, shape = fields["descr"], [int(size) for size in fields["shape"]]
            kind = code.lstrip("<>=|")
        except (SyntaxError, KeyError, TypeError, AttributeError, MemoryError, RecursionError) as error:
            raise ValueError("%s has a broken header: %s" % (path, error)) from None
    plain = not code.startswith(">") and not fields.get("fortran_order")
    return Header(TYPES.get(kind, kind), shape, plain, offset + length)


def read(path: str) -> Array:
    """The array of a file; ValueError where it is not plain or too short."""
    head = header(path)
    if not head.plain or head.dtype not in FORMATS:
        raise ValueError("%s is not a plain array (%s)" % (path, head.dtype))
    with open(path, "rb") as file:
        file.seek(head.offset)
        data = file.read()
    if len(data) != count(head.shape) * size_of(head.dtype):
        raise ValueError("%s holds %d bytes of data" % (path, len(data)))
    return Array(head.dtype, head.shape, data)


def write(path: str, value: Array) -> None:
    """Write one array, format 1."""
    order = "|" if size_of(value.dtype) == 1 else "<"
    shape = "(%s)" % "".join("%d, " % size for size in value.shape)
    text = "{'descr': '%s%s', 'fortran_order': False, 'shape': %s, }" % (order, CODES[value.dtype], shape)
    padding = -(len(MAGIC) + 4 + len(text) + 1) % 64
    head = (text + " " * padding + "\n").encode("latin-1")
    with open(path, "wb") as file:
        file.write(MAGIC + b"\x01\x00" + struct.pack("<H", len(head)) + head)
        file.write(value.data)


def count(shape: Sequence[int]) -> int:
    """How many values an array of that shape holds."""
    total = 1
    for size in shape:
        total *= size
    return total


def size_of(dtype: str) -> int:
    """Bytes of one value."""
    return struct.calcsize("<" + FORMATS[dtype])


def packed(values: Sequence[Union[int, float]], dtype: str) -> bytes:
    """The bytes of numbers in a type; OverflowError or ValueError for one that does not fit."""
    code = FORMATS[dtype]
    try:
        if code in "bBhHiIqQfd" and sys.byteorder == "little":
            numbers = values if code in "fd" else [int(value) for value in values]
            return array(code, numbers).tobytes()
        return struct.pack("<%d%s" % (len(values), code), *values)
    except struct.error as error:
        raise OverflowError(str(error)) from None


def converted(value: Array, dtype: str) -> Array:
    """The same numbers in another integer or float type; ValueError names the first that does not fit."""
    if value.dtype == dtype:
        return value
    numbers = struct.unpack("<%d%s" % (count(value.shape), FORMATS[value.dtype]), value.data)
    try:
        return Array(dtype, value.shape, packed(numbers, dtype))
    except (OverflowError, TypeError):
        wrong = next((each for each in numbers if not INT32_LOW <= each <= INT32_HIGH), None)
        raise ValueError("%r does not fit into %s" % (wrong, dtype)) from None
