"""int8 forms of fully connected layers that pnnx writes as Gemm, and of recurrent layers."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from onnx import helper

from edgebench.convert.ncnn import direct, param, quantize
from edgebench.convert.ncnn.base import Net
from edgebench.convert.ncnn.param import FLOAT16, FLOAT32, INT8, Block, Layer, Network
from tests.convert.ncnn import networks
from tests.models import generate


def gemm(weights: np.ndarray, bias: np.ndarray | None = None, **keys: object) -> Layer:
    """A Gemm of constant B as pnnx writes it: B is [columns, inner] where key 3 says so."""
    columns, inner = weights.shape if keys.get("k3", 1) else weights.shape[::-1]
    told = {"10": 4, "2": 0, "3": 1, "4": 0, "5": 1, "6": 1, "7": 9, "8": columns, "9": inner}
    told |= {key.removeprefix("k"): value for key, value in keys.items()}
    blocks = [Block(FLOAT32, np.ascontiguousarray(weights, "<f4").tobytes())]
    if bias is not None:
        blocks.append(Block(FLOAT32, np.ascontiguousarray(bias, "<f4").tobytes()))
    pairs = tuple((key, str(value)) for key, value in told.items())
    return Layer("Gemm", "fc", ("in0",), ("out0",), pairs, tuple(blocks))


def int8(layer: Layer, threshold: float = 2.0) -> Layer:
    (made,) = quantize.quantized(Network((layer,)), {layer.name: threshold}).layers
    return made


@pytest.mark.parametrize("turned", [False, True])
def test_a_gemm_becomes_an_inner_product(turned: bool) -> None:
    weights, bias = np.array([[1.0, -0.5, 0.0], [0.0, 0.254, 0.1]]), np.array([3.0, 4.0])
    layer = gemm(weights.T, bias, k3=0) if turned else gemm(weights, bias)
    assert quantize.quantizable(layer)
    assert np.array_equal(quantize.weights_of(layer), weights.astype(np.float32))
    made = int8(layer)
    assert (made.kind, made.name, made.inputs, made.outputs) == ("InnerProduct", "fc", ("in0",), ("out0",))
    assert dict(made.keys) == {"0": "2", "1": "1", "2": "6", "8": "2"}
    codes, biases, scales, given = made.blocks
    assert (codes.tag, np.frombuffer(codes.data, "i1").tolist()) == (INT8, [127, -64, 0, 0, 127, 50])
    assert (biases.tag, np.frombuffer(biases.data, "<f4").tolist()) == (None, [3, 4])
    assert np.frombuffer(scales.data, "<f4").tolist() == pytest.approx([127, 500])
    assert np.frombuffer(given.data, "<f4").tolist() == pytest.approx([127 / 2])
    assert param.read(*param.write(Network((made,)))) == Network((made,))


def test_a_gemm_that_does_more_stays_as_it_is() -> None:
    weights, bias = np.ones((2, 3)), np.ones(2)
    assert quantize.quantizable(gemm(weights, k6=0))
    assert quantize.quantizable(gemm(weights, bias, k0="1.000000e+00"))
    for keys in ({"k0": "5.000000e-01"}, {"k1": 2}, {"k2": 1}, {"k5": 0}, {"k10": 1}, {"k14": 1}, {"k18": 2}):
        assert not quantize.quantizable(gemm(weights, bias, **keys)), keys
    assert not quantize.quantizable(gemm(weights, bias)._replace(inputs=("in0", "in1")))
    half = Block(FLOAT16, weights.astype("<f2").tobytes())
    assert not quantize.quantizable(gemm(weights)._replace(blocks=(half,)))
    assert not quantize.quantizable(gemm(weights, k8=5))


# --- recurrent layers ---------------------------------------------------------------------------


class Files(NamedTuple):
    """A network with one recurrent layer, in ncnn's files."""

    network: Network
    folder: Path

    def net(self, network: Network, name: str) -> Net:
        text, weights = param.write(network)
        (self.folder / f"{name}.param").write_text(text)
        (self.folder / f"{name}.bin").write_bytes(weights)
        return Net(self.folder / f"{name}.param", self.folder / f"{name}.bin")


def recurrent(kind: str, direction: str, folder: Path) -> Files:
    gates, ways = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], 2 if direction == "bidirectional" else 1
    random = np.random.default_rng(2)
    shapes = {"w": (ways, gates * 12, 10), "r": (ways, gates * 12, 12), "b": (ways, 2 * gates * 12)}
    weights = {name: random.standard_normal(shape).astype(np.float32) / 3 for name, shape in shapes.items()}
    weights["w"][:, 0] = 0  # a row of zeros
    linear = {"linear_before_reset": 1} if kind == "GRU" else {}
    node = helper.make_node(kind, ["x", *weights], ["y"], hidden_size=12, direction=direction, **linear)
    ends = [generate.tensor("x", [9, 1, 10])], [generate.tensor("y", [9, ways, 1, 12])]
    generate.save(generate.build([node], *ends, weights), folder / "m.onnx")
    direct.write(folder / "m.onnx", folder / "m.param", folder / "m.bin")
    network = param.read((folder / "m.param").read_text(), (folder / "m.bin").read_bytes())
    return Files(network, folder)


def decoded(layer: Layer) -> Layer:
    """The layer in float again, with the values that its codes stand for."""
    if layer.whole(8) == 0:
        return layer
    codes = [np.frombuffer(layer.blocks[place].data, "i1") for place in (0, 2)]
    scales = [np.frombuffer(block.data, "<f4") for block in layer.blocks[-2:]]
    values = [
        (each.reshape(len(by), -1) / by[:, None]).astype("<f4")
        for each, by in zip(codes, scales, strict=True)
    ]
    blocks = (Block(FLOAT32, values[0].tobytes()), layer.blocks[1], Block(FLOAT32, values[1].tobytes()))
    return layer.with_key(8, 0)._replace(blocks=blocks)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_compute_with_what_their_codes_stand_for(
    kind: str, direction: str, tmp_path: Path
) -> None:
    networks.needs_ncnn()
    files = recurrent(kind, direction, tmp_path)
    (layer,) = [each for each in files.network.layers if quantize.quantizable(each)]
    assert layer.kind == kind
    assert not quantize.has_range(layer)
    made = quantize.quantized(files.network, {layer.name: 1.0})
    assert param.read(*param.write(made)) == made
    sample = {"in0": np.random.default_rng(3).standard_normal((9, 1, 10)).astype(np.float32)}
    found = files.net(made, "int8").run(sample).values("out0")
    wanted = files.net(Network(tuple(map(decoded, made.layers))), "decoded").run(sample).values("out0")
    exact = files.net(files.network, "float").run(sample).values("out0")
    assert far(found, wanted) < 0.02  # on x86 its input is quantized too, while it runs
    assert 0 < far(found, exact) < 0.03


def far(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
