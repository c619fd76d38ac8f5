"""The nodes of an ONNX file, read by hand: a device has ONNX Runtime and no package that reads ONNX.

Only the outermost graph's nodes are read; weights are skipped without being touched. The file is one that a
runtime has just written, but nothing in it is trusted: every length is checked, and there is a limit.
"""

import mmap
from typing import Any, Dict, Iterator, List, Tuple

MAX_NODES = 200000
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf's wire types
GRAPH, NODE = 7, 1  # ModelProto.graph, GraphProto.node
# NodeProto: input, output, name, op_type, attribute, domain
TEXTS = {3: "name", 4: "op_type", 7: "domain"}
LISTS = {1: "inputs", 2: "outputs"}
ATTRIBUTE, ATTRIBUTE_NAME, ATTRIBUTE_TEXT = 5, 1, 4

Field = Tuple[int, int, int]  # number, begin, end of a length-delimited field


def nodes(path: str) -> List[Dict[str, Any]]:
    """{name, op_type, domain, inputs, outputs, texts} of each node; ValueError for what is no ONNX file.

    `texts`: the attributes that are texts.
    """
    found: List[Dict[str, Any]] = []
    with open(path, "rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise ValueError("%s is empty" % path) from None
        with data:
            for number, begin, end in _fields(data, 0, len(data)):
                if number == GRAPH:
                    found.extend(_graph(data, begin, end))
    return found


def _graph(data: Any, begin: int, end: int) -> Iterator[Dict[str, Any]]:
    count = 0
    for number, start, stop in _fields(data, begin, end):
        if number == NODE:
            count += 1
            if count > MAX_NODES:
                raise ValueError("the graph has more than %d nodes" % MAX_NODES)
            yield _node(data, start, stop)


def _node(data: Any, begin: int, end: int) -> Dict[str, Any]:
    node: Dict[str, Any] = {"name": "", "op_type": "", "domain": "", "inputs": [], "outputs": [], "texts": {}}
    for number, start, stop in _fields(data, begin, end):
        if number in TEXTS:
            node[TEXTS[number]] = _text(data, start, stop)
        elif number in LISTS:
            node[LISTS[number]].append(_text(data, start, stop))
        elif number == ATTRIBUTE:
            node["texts"].update(_attribute(data, start, stop))
    return node


def _attribute(data: Any, begin: int, end: int) -> Dict[str, str]:
    known = {number: (start, stop) for number, start, stop in _fields(data, begin, end)}
    if ATTRIBUTE_NAME not in known or ATTRIBUTE_TEXT not in known:
        return {}
    return {_text(data, *known[ATTRIBUTE_NAME]): _text(data, *known[ATTRIBUTE_TEXT])}


def _fields(data: Any, begin: int, end: int) -> Iterator[Field]:
    """The length-delimited fields of a message; others are passed over."""
    at = begin
    while at < end:
        key, at = _varint(data, at, end)
        kind = key & 7
        if kind == BYTES:
            size, at = _varint(data, at, end)
            if size > end - at:
                raise ValueError("a field is longer than what holds it")
            yield key >> 3, at, at + size
            at += size
        elif kind == VARINT:
            _, at = _varint(data, at, end)
        elif kind in (FIXED32, FIXED64):
            at += 4 if kind == FIXED32 else 8
        else:
            raise ValueError("there is no wire type %d" % kind)
    if at != end:
        raise ValueError("a message does not end where it should")


def _varint(data: Any, at: int, end: int) -> Tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number does not end")


def _text(data: Any, begin: int, end: int) -> str:
    return str(data[begin : min(end, begin + 4096)].decode("utf-8", "replace"))
