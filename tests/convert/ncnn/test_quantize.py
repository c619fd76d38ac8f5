"""Layers become int8 by the stated formulas; all others keep every byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgebench.convert.ncnn import param, quantize
from edgebench.convert.ncnn.param import FLOAT16, FLOAT32, INT8, Block, Layer, Network
from edgebench.errors import BugError, ModelError
from tests.convert.ncnn import networks


def convolution(weights: object, *, kernel: int = 1, kind: str = "Convolution", **keys: int) -> Layer:
    values = np.array(weights, "<f4")
    told = {"0": len(values), "1": kernel, "5": 1, "6": values.size}
    told |= {key.removeprefix("k"): value for key, value in keys.items()}
    pairs = tuple((key, str(value)) for key, value in told.items())
    blocks = (Block(FLOAT32, values.tobytes()), Block(None, np.ones(len(values), "<f4").tobytes()))
    return Layer(kind, "conv", ("in0",), ("out0",), pairs, blocks)


def floats(block: Block) -> list[float]:
    return np.frombuffer(block.data, "<f4").tolist()


def codes(block: Block) -> list[int]:
    assert block.tag == INT8
    return np.frombuffer(block.data, "i1").tolist()


def int8(layer: Layer, threshold: float = 4.0) -> Layer:
    (made,) = quantize.quantized(Network((layer,)), {layer.name: threshold}).layers
    return made


def test_a_scale_for_every_channel_and_one_for_the_input() -> None:
    made = int8(convolution([[1.0, -0.5], [0.0, 0.254]]))
    weights, bias, scales, given_scale = made.blocks
    assert codes(weights) == [127, -64, 0, 127]  # -63.5 is rounded away from zero, as ncnn does
    assert floats(bias) == [1, 1]
    assert floats(scales) == pytest.approx([127, 500])
    assert floats(given_scale) == pytest.approx([127 / 4])
    assert made.whole(8) == 2
    assert (made.inputs, made.outputs, made.name) == (("in0",), ("out0",), "conv")


def test_a_channel_of_zeros_stays_zero() -> None:
    weights, _, scales, _ = int8(convolution([[0.0, 0.0], [1.0, 1.0]])).blocks
    assert codes(weights) == [0, 0, 127, 127]
    assert np.isfinite(floats(scales)).all()


def test_depthwise_layers_say_so() -> None:
    layer = convolution(np.eye(2, 9) + 0.1, kernel=3, kind="ConvolutionDepthWise", k7=2)
    made = int8(layer)
    assert made.whole(8) == 1
    assert max(codes(made.blocks[0])) == 127  # Winograd never takes these
    assert not quantize.quantizable(layer.with_key(7, 1))


@pytest.mark.parametrize(
    ("keys", "six"),
    [({}, True), ({"k3": 2}, False), ({"k2": 2}, False), ({"k11": 1}, False), ({"k13": 2}, False)],
)
def test_what_winograd_may_take_has_six_bits(keys: dict[str, int], six: bool) -> None:
    layer = convolution(np.linspace(-1, 1, 18).reshape(2, 9), kernel=3, **keys)
    assert quantize.winograd(layer) == six
    assert max(map(abs, codes(int8(layer).blocks[0]))) == (31 if six else 127)


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 12)),
        elements=st.floats(-1e6, 1e6, width=32).map(lambda value: 0.0 if abs(value) < 1e-6 else value),
    )
)
@settings(deadline=None, max_examples=60)
def test_every_weight_is_within_half_a_step(weights: np.ndarray) -> None:
    made = int8(convolution(weights))
    found = np.array(codes(made.blocks[0]), np.float64).reshape(weights.shape)
    scales = np.array(floats(made.blocks[2]), np.float64)[:, None]
    assert np.abs(found).max() <= 127
    assert (np.abs(found / scales - weights) <= 0.5001 / scales + 1e-6 * np.abs(weights)).all()


def test_layers_that_are_not_named_keep_every_byte() -> None:
    network = networks.network(networks.float_files("conv_net"))
    names = [layer.name for layer in network.layers if quantize.quantizable(layer)]
    assert len(names) == 4
    made = quantize.quantized(network, {names[1]: 2.0})
    changed = [old.name for old, new in zip(network.layers, made.layers, strict=True) if old != new]
    assert changed == [names[1]]
    text, weights = param.write(made)
    assert param.read(text, weights) == made
    assert quantize.quantized(network, {}) == network


def test_only_float_weights_of_known_layers_are_taken() -> None:
    layer = convolution([[1.0]])
    assert quantize.quantizable(layer)
    assert not quantize.quantizable(int8(layer))
    assert not quantize.quantizable(layer._replace(kind="Deconvolution"))
    assert not quantize.quantizable(layer._replace(blocks=(Block(FLOAT16, b"\0\0"),)))
    assert not quantize.quantizable(layer._replace(blocks=()))
    with pytest.raises(BugError, match="nobody"):
        quantize.quantized(Network((layer,)), {"nobody": 1.0})


def test_weights_that_are_not_finite_are_the_models_fault() -> None:
    with pytest.raises(ModelError, match="not finite"):
        int8(convolution([[np.inf]]))
