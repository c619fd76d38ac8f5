"""The JSON that trtexec exports: times, outputs, times of layers, layers. Not all of it is JSON.

Names are not escaped, nan and inf stand bare, uint8 is printed as a character. What cannot be read is a
ValueError, never another exception. Format: NVIDIA/TensorRT, samples/common/sampleReporting.cpp.
"""

import json
import re
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from . import npy
from .npy import Array

NS_PER_MS = 1000000
MAX_SAMPLES = 200000
MAX_LAYERS = 100000
MAX_MS = 1e9
PIECE_BYTES = 1 << 20

Times = NamedTuple("Times", [("warmup_ns", List[int]), ("samples_ns", List[int])])
Layer = NamedTuple("Layer", [("name", str), ("mean_ns", int)])
LayerTimes = NamedTuple("LayerTimes", [("layers", List[Layer]), ("runs", Optional[int])])
Kind = NamedTuple("Kind", [("kind", str), ("nodes", List[str])])

_NUMBER = r"(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)"
_PROFILE_LINE = re.compile(
    r'\{\s*"name"\s*:\s*"(.*)"\s*,\s*"timeMs"\s*:\s*%s\s*,\s*"averageMs"\s*:\s*%s' % (_NUMBER, _NUMBER)
)
_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]\x1e]+)\]")
_RUNS = re.compile(r'\{\s*"count"\s*:\s*(\d{1,9})\s*\}')
_FUSED_NAME = re.compile(r"\A(?:PWN|Pointwise)\((.*)\)\Z")
_RANGE = re.compile(r"\{ForeignNode\[(.+?)\.\.\.(.+?)\]\}")
COPY = "Reformatting CopyNode"
_CHARACTERS = ("uint8", "int8")  # streams print the types of one byte as characters


# --- times -----------------------------------------------------------------------------------------


def parse_times(text: str, field: str, warmup_ms: Optional[float]) -> Times:
    """Warm-up and samples of `--exportTimes`, the value of `field` of each record in ns.

    Records that start before `warmup_ms` are the warm-up; None where the file holds none of it.
    """
    records = _loads(text)
    if not isinstance(records, list):
        raise ValueError("the times are no list")
    warmup: List[int] = []
    samples: List[int] = []
    for record in records:
        taken = _time(record, field)
        early = warmup_ms is not None and _milliseconds(record, "startComputeMs") < warmup_ms
        (warmup if early else samples).append(taken)
    if not samples:
        raise ValueError("there are no times after the warm-up")
    return Times(warmup, samples[:MAX_SAMPLES])


def _time(record: Any, field: str) -> int:
    taken_ns = round(_milliseconds(record, field) * NS_PER_MS)
    if taken_ns < 1:
        raise ValueError("%s is %r" % (field, record.get(field)))
    return taken_ns


def _milliseconds(record: Any, field: str) -> float:
    value = record.get(field) if isinstance(record, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -MAX_MS < value < MAX_MS:
        raise ValueError('a record has no "%s" in ms' % field)
    return float(value)


# --- outputs ---------------------------------------------------------------------------------------


def parse_outputs(content: bytes, bindings: Sequence[Dict[str, Any]]) -> Dict[str, Array]:
    """{binding name: array} of `--exportOutput`, in the types and shapes that `bindings` name.

    Read line by line: the file is JSON only where no name, no value and no type is unusual.
    """
    known = {each["name"].encode("utf-8"): each for each in bindings}
    found: Dict[str, Array] = {}
    for name, dimensions, values in _entries(content):
        binding = known.get(name)
        if binding is None:  # an input, or an output that was not asked for
            continue
        shape = [int(size) for size in dimensions.split(b"x") if size] if dimensions else []
        if npy.count(shape) != npy.count(binding["shape"]):
            raise ValueError(
                'output "%s" has the dimensions %s, not %s'
                % (binding["name"], dimensions.decode("ascii"), "x".join(map(str, binding["shape"])))
            )
        found[binding["name"]] = _array(values, binding)
    missing = [each["name"] for each in bindings if each["name"] not in found]
    if missing:
        raise ValueError('there is no output "%s"' % missing[0])
    return found


def _entries(content: bytes) -> Iterable[Tuple[bytes, bytes, bytes]]:
    """(name, dimensions, values) of each entry. A value may hold any byte, so lines end where keys follow."""
    starts = list(re.finditer(rb'"name"\s*:\s*"(.*?)"\s*,\s*"dimensions"\s*:\s*"([0-9x]*)"', content))
    starts = [each for each in starts if _at_object(content, each.start())]
    for number, start in enumerate(starts):
        end = starts[number + 1].start() if number + 1 < len(starts) else len(content)
        body = content[start.end() : end]
        values = re.match(rb'\s*,\s*"values"\s*:\s*\[ ?', body)
        if values is None:
            raise ValueError("an output has no values")
        body = body[values.end() :]
        close = body.rfind(b"]", 0, body.rfind(b"}") if b"}" in body else len(body))
        if close < 0:
            raise ValueError("the values of an output do not end")
        yield start.group(1), start.group(2), body[:close]


def _at_object(content: bytes, at: int) -> bool:
    return content[max(0, at - 8) : at].rstrip().endswith(b"{")


def _array(values: bytes, binding: Dict[str, Any]) -> Array:
    dtype, shape = binding["binding_dtype"], list(binding["shape"])
    if dtype not in npy.FORMATS:
        raise ValueError("outputs of type %s cannot be read" % dtype)
    total = npy.count(shape)
    data = _characters(values, total) if dtype in _CHARACTERS else None
    if data is None:
        data = _numbers(values, total, dtype)
    return npy.converted(Array(dtype, shape, data), binding["dtype"])


def _characters(values: bytes, total: int) -> Optional[bytes]:
    """One byte a value, with ", " between; None where it is not that."""
    text = values[:-1] if len(values) == 3 * total - 1 and values.endswith(b" ") else values
    if not total or len(text) != 3 * total - 2:
        return None
    if any(text[at : at + 2] != b", " for at in range(1, len(text) - 1, 3)):
        return None
    return bytes(bytearray(text[::3]))


def _numbers(values: bytes, total: int, dtype: str) -> bytes:
    """Decimal numbers, nan and inf among them; a piece at a time, since each is an object meanwhile."""
    kind: Any = int if dtype.startswith(("int", "uint", "bool")) else float
    data, found = bytearray(), 0
    try:
        for piece in _pieces(values) if values.strip() else ():
            numbers = [kind(text) for text in piece.split(b",")]
            found += len(numbers)
            data += npy.packed(numbers, dtype)
    except (ValueError, OverflowError) as error:
        raise ValueError("a value is no %s: %s" % (dtype, error)) from None
    if found != total:
        raise ValueError("%d values where %d were expected" % (found, total))
    return bytes(data)


def _pieces(values: bytes) -> Iterable[bytes]:
    """The text cut at commas, without these, into pieces of about a megabyte."""
    start = 0
    while True:
        comma = values.find(b",", start + PIECE_BYTES)
        if comma < 0:
            yield values[start:]
            return
        yield values[start:comma]
        start = comma + 1


# --- layers ----------------------------------------------------------------------------------------


def parse_profile(text: str) -> LayerTimes:
    """Name and mean time of each layer of `--exportProfile`, and of how many runs.

    The number of runs stands in the first element. Names are not escaped: what is no JSON is read by lines.
    """
    try:
        entries = _loads(text)
    except ValueError:
        entries = [
            {"name": name, "averageMs": float(average)} for name, _, average in _PROFILE_LINE.findall(text)
        ]
    if not isinstance(entries, list):
        raise ValueError("the profile is no list")
    layers = [
        Layer(each["name"], round(max(0.0, _milliseconds(each, "averageMs")) * NS_PER_MS))
        for each in entries[:MAX_LAYERS]
        if isinstance(each, dict) and isinstance(each.get("name"), str)
    ]
    if not layers:
        raise ValueError("the profile names no layer")
    runs = _RUNS.search(text)
    return LayerTimes(layers, int(runs.group(1)) if runs else None)


def parse_layers(text: str, known: Sequence[str]) -> Dict[str, Kind]:
    """{layer name: its kind and its ONNX nodes} of `--exportLayerInfo`; `known`: the ONNX file's nodes.

    Layers are objects with the verbosity "detailed", else bare names. A broken file tells nothing.
    """
    try:
        document = _loads(text)
    except ValueError:
        return {}
    layers = document.get("Layers") if isinstance(document, dict) else None
    found: Dict[str, Kind] = {}
    for each in layers[:MAX_LAYERS] if isinstance(layers, list) else []:
        if isinstance(each, str):
            found[each] = Kind("unknown", nodes_of(each, "", known))
        elif isinstance(each, dict) and isinstance(each.get("Name"), str):
            metadata = each.get("Metadata")
            nodes = nodes_of(each["Name"], metadata if isinstance(metadata, str) else "", known)
            found[each["Name"]] = Kind(str(each.get("LayerType") or "unknown")[:100], nodes)
    return found


def nodes_of(name: str, metadata: str, known: Sequence[str]) -> List[str]:
    """The ONNX nodes that a layer computes: those of `known` that its metadata, else its name, holds.

    A fused layer is called "Conv_0 + Relu_1" or "PWN(Sigmoid_2, Mul_3)", a compiled region
    "{ForeignNode[first...last]}" (what lies between is not told). Nothing is guessed: [] where none is known.
    """
    there = set(known)
    if name.startswith(COPY):  # it names the layer that it copies for
        return []
    told = _ONNX_LAYER.findall(metadata) or list(_parts(name))
    return list(dict.fromkeys(part.strip() for part in told if part.strip() in there))


def _parts(name: str) -> Iterable[str]:
    for first, last in _RANGE.findall(name):
        yield first
        yield last
    for part in name.split(" + "):
        yield part
        inner = part.strip()
        while True:
            fused = _FUSED_NAME.match(inner)
            if fused is None:
                break
            inner = fused.group(1)
        for piece in inner.split(", "):
            yield piece.rstrip(")").split("PWN(")[-1]


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
