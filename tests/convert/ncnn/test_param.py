"""ncnn's files are read whole or refused, and written as they were."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgebench.convert.ncnn import param
from edgebench.convert.ncnn.param import FLOAT16, FLOAT32, INT8, Block, Layer, Network
from edgebench.errors import ModelError
from tests.convert.ncnn import networks

SIZES = {FLOAT32: 4, FLOAT16: 2, INT8: 1}
NAMES = st.text("abcxyz0189_.:/", min_size=1, max_size=12)
VALUES = st.one_of(
    st.integers(-1000, 1000).map(str), st.floats(allow_nan=False).map(repr), st.just("2,1.5,-3")
)


def data(tag: int | None, count: int) -> st.SearchStrategy[Block]:
    size = 4 if tag is None else SIZES[tag]
    return st.binary(min_size=count * size, max_size=count * size).map(lambda held: Block(tag, held))


@st.composite
def layers(draw: st.DrawFn, name: str) -> Layer:
    """A layer with all the blocks that its keys ask for, and keys that nobody knows."""
    kind = draw(st.sampled_from(["ReLU", "Convolution", "InnerProduct", "MemoryData", "BatchNorm", "LSTM"]))
    unknown = draw(st.dictionaries(st.integers(40, 60).map(str), VALUES, max_size=2))
    out, size, bias = draw(st.integers(1, 4)), draw(st.integers(0, 9)), draw(st.booleans())
    tagged = data(draw(st.sampled_from(list(SIZES))), size)
    keys: dict[int, int] = {}
    blocks: list[st.SearchStrategy[Block]] = []
    if kind in ("Convolution", "InnerProduct"):
        keys = {0: out, 5: int(bias), 6: size} if kind == "Convolution" else {0: out, 1: int(bias), 2: size}
        blocks = [tagged, *([data(None, out)] if bias else [])]
        if draw(st.booleans()):
            keys[8] = 2
            blocks += [data(None, out), data(None, 1)]
    elif kind == "MemoryData":
        keys = {0: out}
        blocks = [data(None, out)]
    elif kind == "BatchNorm":
        keys = {0: out}
        blocks = [data(None, out)] * 4
    elif kind == "LSTM":
        keys = {0: out, 1: size}
        blocks = [tagged, data(FLOAT32, 4 * out), data(FLOAT16, 4 * out * out)]
    pairs = tuple((str(key), str(value)) for key, value in keys.items()) + tuple(unknown.items())
    return Layer(kind, name, ("in0",), (f"{name}_out",), pairs, tuple(draw(each) for each in blocks))


@st.composite
def made(draw: st.DrawFn) -> Network:
    names = draw(st.lists(NAMES, unique=True, max_size=5))
    return Network(tuple(draw(layers(name)) for name in names))


@given(made())
@settings(deadline=None, max_examples=60)
def test_what_was_written_is_read_again(network: Network) -> None:
    assert param.read(*param.write(network)) == network


@given(made(), st.data())
@settings(deadline=None, max_examples=150)
def test_damaged_files_are_refused_or_read_never_a_crash(network: Network, draw: st.DataObject) -> None:
    text, weights = param.write(network)
    if draw.draw(st.booleans()):
        at = draw.draw(st.integers(0, len(text) - 1))
        text = text[:at] + draw.draw(st.text(max_size=3)) + text[at + 1 :]
    else:
        at = draw.draw(st.integers(0, len(weights)))
        weights = weights[:at] + draw.draw(st.binary(max_size=5)) + weights[at + 1 :]
    with contextlib.suppress(ModelError):
        assert param.write(param.read(text, weights))[1] == weights


@given(st.text(), st.binary(max_size=64))
@example("7767517\n1 1\nConvolution c 1 1 a b 6=99999999999\n", b"")
@example("7767517\n1 1\nGemm c 1 1 a b 4=1 5=1 7=-3 8=4 9=5\n", b"")
@example("7767517\n1 1\nMultiHeadAttention c 1 1 a b 0=0\n", b"")
@example("7767517\n1 1\nMultiHeadAttention c 1 1 a b 0=-2 2=6\n", b"")
def test_no_text_crashes_the_reader(text: str, weights: bytes) -> None:
    with pytest.raises(ModelError):
        param.read(text, weights)


ONE = "7767517\n1 1\nConvolution conv 1 1 in0 out0 0=1 6=3\n"
GOOD = struct.pack("<I3f", FLOAT32, 1, 2, 3)


def test_layers_of_one_name_are_told_apart() -> None:
    names = ("r", "r_2", "r", "r", "s")
    lines = [f"ReLU {name} 1 1 b{place} b{place + 1}" for place, name in enumerate(names)]
    network = param.read("\n".join(["7767517", "5 5", *lines]) + "\n", b"")
    assert [layer.name for layer in network.layers] == ["r", "r_2", "r_3", "r_4", "s"]
    assert [layer.inputs + layer.outputs for layer in network.layers] == [
        (f"b{place}", f"b{place + 1}") for place in range(5)
    ]


@pytest.mark.parametrize(
    ("text", "weights", "told"),
    [
        (ONE, GOOD + b"\0", "1 bytes more than its layers take"),
        (ONE, GOOD[:-1], 'ends within Convolution "conv"'),
        (ONE, b"", "ends within"),
        (ONE, struct.pack("<I3f", 7, 1, 2, 3), "unknown form (tag 0x00000007)"),
        (ONE, struct.pack("<I4B", INT8, 1, 2, 3, 9), "end unevenly"),
        (ONE.replace("6=3", "6=x"), GOOD, 'key 6 is "x"'),
        (ONE.replace("6=3", "6=-3"), GOOD, "ends within"),
        (ONE.replace("6=3", "6=3 8=3"), GOOD, "int8 form that edgebench does not know"),
        (ONE.replace("6=3", "6=3 6=3"), GOOD, "a key twice"),
        (ONE.replace("1 1\nConv", "2 1\nConv"), GOOD, "says 2 layers and has 1"),
        (ONE.replace("7767517", "7767516"), GOOD, "no ncnn param file"),
        (ONE + "\nConvolution conv 0 0\n", GOOD, "says 1 layers and has 2"),
    ],
)
def test_files_that_do_not_fit_are_refused(text: str, weights: bytes, told: str) -> None:
    with pytest.raises(ModelError) as caught:
        param.read(text, weights)
    assert told in caught.value.message
    assert "onnxruntime or openvino" in caught.value.hint


def test_weights_as_they_are() -> None:
    (layer,) = param.read(ONE, GOOD).layers
    assert np.frombuffer(layer.blocks[0].data, "<f4").tolist() == [1, 2, 3]


@pytest.mark.parametrize("name", ["conv_net", "deconv_net", "matmul_net", "large_net"])
def test_what_pnnx_writes_comes_back_to_the_byte(name: str) -> None:
    folder = networks.float_files(name)
    text, weights = (folder / "m.ncnn.param").read_text(), (folder / "m.ncnn.bin").read_bytes()
    assert param.write(param.read(text, weights)) == (text, weights)
