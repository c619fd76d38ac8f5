"""The int8 form of recurrent layers."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from onnx import helper

from edgebench.convert.ncnn import direct, param, quantize
from edgebench.convert.ncnn.base import Net
from edgebench.convert.ncnn.param import FLOAT32, Block, Layer, Network
from tests.convert.ncnn import networks
from tests.models import generate


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
