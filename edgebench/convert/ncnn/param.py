"""ncnn's two files as one Network and back: every weight of every layer, byte for byte.

The param file is text, a layer a line. The bin file holds the weights in layer order without an index: how
many there are follows from the layers' keys. So reading is strict: after the last layer the position must be
the end of the file, and a rest, a short file or an unknown tag is refused.

    tagged block   uint32 tag, data, zero padding to 4 bytes
    raw block      float32 values, no tag

Layouts: Tencent/ncnn's `load_param` and `load_model` of each layer, as of 2026.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from edgebench.errors import ModelError

MAGIC = "7767517"
FLOAT32 = 0x00000000
FLOAT16 = 0x01306B47
INT8 = 0x000D4B38
SCALED_FLOAT32 = 0x0002C056
TABLE = 0x00000001  # any other tag but 0: 256 float32 values, and a byte for each weight
MAX_LAYERS = 1 << 20
_WHOLE = re.compile(r"-?[0-9]{1,12}")
_BYTES = {FLOAT32: 4, FLOAT16: 2, INT8: 1, SCALED_FLOAT32: 4, TABLE: 1}
_TABLE_BYTES = 4 * 256
_HINT = "use onnxruntime or openvino for int8, or ncnn with fp32 or fp16"


class Block(NamedTuple):
    """The weights of one buffer: `tag` is None for raw float32 values. `data` is without padding.

    With TABLE, `data` begins with the 256 values.
    """

    tag: int | None
    data: bytes

    def size(self) -> int:
        """How many values a tagged block holds; 0 for a raw one, which holds biases and constants."""
        return 0 if self.tag is None else len(self.data) // _BYTES[self.tag]


class Layer(NamedTuple):
    """One line of the param file and its weights. Keys and values stay the text they were."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    keys: tuple[tuple[str, str], ...] = ()
    blocks: tuple[Block, ...] = ()

    def whole(self, key: int, default: int = 0) -> int:
        """The whole number of a key; ModelError when it is none."""
        text = dict(self.keys).get(str(key))
        if text is None:
            return default
        if not _WHOLE.fullmatch(text):
            raise _refused(f'{self.kind} "{self.name}": key {key} is "{text[:40]}", no whole number')
        return int(text)

    def with_key(self, key: int, value: int) -> Layer:
        """The layer with one key set."""
        others = tuple(pair for pair in self.keys if pair[0] != str(key))
        return self._replace(keys=(*others, (str(key), str(value))))


class Network(NamedTuple):
    """All layers in the order of the files."""

    layers: tuple[Layer, ...]


# --- reading and writing ------------------------------------------------------------------------


def read(param: str, weights: bytes) -> Network:
    """The network in the text of a param file and the bytes of its bin file; ModelError unless all fits."""
    cursor = _Cursor(weights)
    layers = tuple(layer._replace(blocks=tuple(_blocks(layer, cursor))) for layer in _layers(param))
    if cursor.left():
        raise _refused(f"the bin file has {cursor.left()} bytes more than its layers take")
    return Network(_named_apart(layers))


def _named_apart(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers, each with its own name: pnnx calls two of them `splitncnn_0`, and ncnn does not mind."""
    taken = {layer.name for layer in layers}
    seen: set[str] = set()
    named = []
    for layer in layers:
        name, number = layer.name, 1
        while name in seen or (number > 1 and name in taken):
            number += 1
            name = f"{layer.name}_{number}"
        seen.add(name)
        named.append(layer._replace(name=name))
    return tuple(named)


def write(network: Network) -> tuple[str, bytes]:
    """The text of the param file and the bytes of the bin file."""
    blobs = {name for layer in network.layers for name in layer.outputs}
    lines = [MAGIC, f"{len(network.layers)} {len(blobs)}", *(_line(layer) for layer in network.layers)]
    return "\n".join(lines) + "\n", b"".join(_bytes(network))


def _line(layer: Layer) -> str:
    words = [
        f"{layer.kind:<24} {layer.name:<24} {len(layer.inputs)} {len(layer.outputs)}",
        *layer.inputs,
        *layer.outputs,
        *(f"{key}={value}" for key, value in layer.keys),
    ]
    return " ".join(words)


def _bytes(network: Network) -> Iterator[bytes]:
    for layer in network.layers:
        for block in layer.blocks:
            if block.tag is not None:
                yield struct.pack("<I", block.tag)
            yield block.data
            if block.tag is not None:
                yield bytes(-len(block.data) % 4)


def _layers(param: str) -> Iterator[Layer]:
    lines = [words for line in param.split("\n") if (words := line.split())]
    if len(lines) < 2 or lines[0] != [MAGIC]:
        raise _refused("this is no ncnn param file")
    counts = _counts(lines[1], 2)
    if counts[0] != len(lines) - 2 or counts[0] > MAX_LAYERS:
        raise _refused(f"the param file says {counts[0]} layers and has {len(lines) - 2}")
    for words in lines[2:]:
        yield _layer(words)


def _layer(words: list[str]) -> Layer:
    if len(words) < 4:
        raise _refused(f'the line "{" ".join(words)[:80]}" is no layer')
    taken, given = _counts(words[2:4], 2)
    ends = 4 + taken + given
    if ends > len(words):
        raise _refused(f'{words[0]} "{words[1]}" names fewer blobs than it says')
    pairs = []
    for word in words[ends:]:
        key, sign, value = word.partition("=")
        if not sign or not key or not value:
            raise _refused(f'{words[0]} "{words[1]}": "{word[:40]}" is no key with a value')
        pairs.append((key, value))
    if len({key for key, _ in pairs}) != len(pairs):
        raise _refused(f'{words[0]} "{words[1]}" has a key twice')
    inputs, outputs = tuple(words[4 : 4 + taken]), tuple(words[4 + taken : ends])
    return Layer(words[0], words[1], inputs, outputs, tuple(pairs))


def _counts(words: list[str], count: int) -> list[int]:
    if len(words) != count or not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise _refused(f'"{" ".join(words)[:40]}" are no counts')
    return [int(word) for word in words]


# --- blocks -------------------------------------------------------------------------------------


class _Need(NamedTuple):
    """One buffer that a layer reads: how many values, and whether a tag comes first."""

    size: int
    tagged: bool


def _tagged(count: int) -> _Need:
    return _Need(count, True)


def _raw(count: int) -> _Need:
    return _Need(count, False)


class _Cursor:
    """A position in the bytes of a bin file."""

    def __init__(self, weights: bytes) -> None:
        self._weights = weights
        self._position = 0

    def left(self) -> int:
        """How many bytes follow."""
        return len(self._weights) - self._position

    def take(self, size: int, layer: Layer) -> bytes:
        """The next bytes; ModelError where there are not so many."""
        if not 0 <= size <= self.left():
            raise _refused(f'the bin file ends within {layer.kind} "{layer.name}"')
        self._position += size
        return self._weights[self._position - size : self._position]


def _blocks(layer: Layer, cursor: _Cursor) -> Iterator[Block]:
    for need in needs(layer):
        if not need.tagged:
            yield Block(None, cursor.take(need.size * 4, layer))
            continue
        (tag,) = struct.unpack("<I", cursor.take(4, layer))
        if tag not in _BYTES:
            raise _refused(f'{layer.kind} "{layer.name}" has weights in an unknown form (tag {tag:#010x})')
        table = _TABLE_BYTES if tag == TABLE else 0
        data = cursor.take(table + need.size * _BYTES[tag], layer)
        if any(cursor.take(-len(data) % 4, layer)):
            raise _refused(f'{layer.kind} "{layer.name}" has weights that end unevenly')
        yield Block(tag, data)


def needs(layer: Layer) -> list[_Need]:
    """The buffers that a layer reads, in order; ModelError for a layer in an int8 form not known here."""
    describe = _NEEDS.get(layer.kind)
    return [] if describe is None else describe(layer)


def _convolution(layer: Layer, dynamic: int = 19) -> list[_Need]:
    if layer.whole(dynamic):
        return []
    found = [_tagged(layer.whole(6))]
    if layer.whole(5):
        found.append(_raw(layer.whole(0)))
    return found + _scales(layer, layer.whole(7, 1) if layer.kind == "ConvolutionDepthWise" else None)


def _deconvolution(layer: Layer) -> list[_Need]:
    return _convolution(layer, dynamic=28)


def _inner_product(layer: Layer) -> list[_Need]:
    found = [_tagged(layer.whole(2))]
    if layer.whole(1):
        found.append(_raw(layer.whole(0)))
    return found + _scales(layer, None)


def _scales(layer: Layer, groups: int | None) -> list[_Need]:
    """What an int8 layer reads besides: scales of its weights, of its input, and above 100 of its output."""
    term = layer.whole(8)
    if term == 0:
        return []
    known = (1, 2, 101, 102) if groups is not None else (2, 102)
    if layer.kind not in QUANTIZED or term not in known:
        raise _int8(layer)
    count = layer.whole(0)
    if groups is not None:
        count = groups if term % 100 == 1 else 1
    return [_raw(count), _raw(1)] + ([_raw(1)] if term > 100 else [])


QUANTIZED = ("Convolution", "ConvolutionDepthWise", "InnerProduct")
RECURRENT = {"LSTM": 4, "GRU": 3, "RNN": 1}  # gates


def _gemm(layer: Layer) -> list[_Need]:
    rows, columns, inner = layer.whole(7), layer.whole(8), layer.whole(9)
    found = []
    if layer.whole(4):
        found.append(_tagged(rows * inner))
    if layer.whole(5):
        found.append(_tagged(columns * inner))
    kind = layer.whole(10)
    if layer.whole(6) and kind != -1:
        found.append(_tagged({0: 1, 1: rows, 2: rows, 3: rows * columns, 4: columns}.get(kind, -1)))
    return _float_only(layer, 18, found)


def _attention(layer: Layer) -> list[_Need]:
    embed = layer.whole(0)
    if embed <= 0:
        raise _refused(f'MultiHeadAttention "{layer.name}" has no size')
    query = layer.whole(2) // embed
    key, value = layer.whole(3, embed), layer.whole(4, embed)
    found = []
    for width, out in ((query, embed), (key, embed), (value, embed), (query, query)):
        found += [_tagged(embed * width), _raw(out)]
    return _float_only(layer, 18, found)


def _lstm(layer: Layer) -> list[_Need]:
    out, weights, directions = layer.whole(0), layer.whole(1), _directions(layer)
    hidden = layer.whole(3, out)
    found = [_tagged(weights), _tagged(4 * hidden * directions), _tagged(4 * hidden * out * directions)]
    if out != hidden:
        found.append(_tagged(hidden * out * directions))
    return found + _row_scales(layer, 4 * hidden * directions)


def _gru(layer: Layer) -> list[_Need]:
    out, weights, directions = layer.whole(0), layer.whole(1), _directions(layer)
    found = [_tagged(weights), _tagged(4 * out * directions), _tagged(3 * out * out * directions)]
    return found + _row_scales(layer, 3 * out * directions)


def _rnn(layer: Layer) -> list[_Need]:
    out, weights, directions = layer.whole(0), layer.whole(1), _directions(layer)
    found = [_tagged(weights), _tagged(out * directions), _tagged(out * out * directions)]
    return found + _row_scales(layer, out * directions)


def _row_scales(layer: Layer, rows: int) -> list[_Need]:
    """What an int8 recurrent layer reads besides: a scale for each row of both weights."""
    term = layer.whole(8)
    if term not in (0, 2):
        raise _int8(layer)
    return [_raw(rows)] * 2 if term else []


def _directions(layer: Layer) -> int:
    return 2 if layer.whole(2) == 2 else 1


def _embed(layer: Layer) -> list[_Need]:
    found = [_tagged(layer.whole(3))]
    if layer.whole(2):
        found.append(_raw(layer.whole(0)))
    return _float_only(layer, 18, found)


def _memory_data(layer: Layer) -> list[_Need]:
    count = math.prod(filter(None, (layer.whole(key) for key in (0, 1, 11, 2))))
    return [_raw(count) if layer.whole(21, 1) == 1 else _tagged(count)]


def _batch_norm(layer: Layer) -> list[_Need]:
    return [_raw(layer.whole(0))] * 4


def _scale(layer: Layer) -> list[_Need]:
    if layer.whole(0) == -233:  # the scale is a second input
        return []
    return [_raw(layer.whole(0))] * (2 if layer.whole(1) else 1)


def _one(layer: Layer) -> list[_Need]:
    return [_raw(layer.whole(0))]


def _norm(size: int, affine: int, count: int = 2) -> Callable[[Layer], list[_Need]]:
    def described(layer: Layer) -> list[_Need]:
        return [_raw(layer.whole(size))] * count if layer.whole(affine, 1) else []

    return described


def _padding(layer: Layer) -> list[_Need]:
    return [_raw(layer.whole(6))] if layer.whole(6) else []


def _normalize(layer: Layer) -> list[_Need]:
    return [_raw(layer.whole(3))]


def _float_only(layer: Layer, key: int, found: list[_Need]) -> list[_Need]:
    if layer.whole(key):
        raise _int8(layer)
    return found


def _int8(layer: Layer) -> ModelError:
    return _refused(f'{layer.kind} "{layer.name}" is in an int8 form that edgebench does not know')


def _refused(what: str) -> ModelError:
    return ModelError(f"the ncnn files cannot be read: {what}", hint=_HINT)


_NEEDS: dict[str, Callable[[Layer], list[_Need]]] = {
    "Convolution": _convolution,
    "ConvolutionDepthWise": _convolution,
    "Convolution1D": _convolution,
    "ConvolutionDepthWise1D": _convolution,
    "Convolution3D": _convolution,
    "ConvolutionDepthWise3D": _convolution,
    "DeformableConv2D": _convolution,
    "Deconvolution": _deconvolution,
    "DeconvolutionDepthWise": _deconvolution,
    "Deconvolution1D": _deconvolution,
    "DeconvolutionDepthWise1D": _deconvolution,
    "Deconvolution3D": _deconvolution,
    "DeconvolutionDepthWise3D": _deconvolution,
    "InnerProduct": _inner_product,
    "Gemm": _gemm,
    "MultiHeadAttention": _attention,
    "LSTM": _lstm,
    "GRU": _gru,
    "RNN": _rnn,
    "Embed": _embed,
    "MemoryData": _memory_data,
    "BatchNorm": _batch_norm,
    "Scale": _scale,
    "Bias": _one,
    "PReLU": _one,
    "LayerNorm": _norm(0, 2),
    "GroupNorm": _norm(1, 3),
    "InstanceNorm": _norm(0, 2),
    "RMSNorm": _norm(0, 2, 1),
    "Padding": _padding,
    "Normalize": _normalize,
}
