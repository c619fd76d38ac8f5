"""Dynamic int8 as int8 weights alone: float operators on the very weights of the quantized file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgebench import compress, model
from edgebench.errors import ModelError
from edgebench.model.weightonly import applies, rewritten
from tests.model.running import run
from tests.models.architectures import ARCHITECTURES
from tests.models.generate import conv_net_integer, save


@pytest.fixture(params=["lstm", "lstm_bidirectional", "gru", "vit"])
def dynamic(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A network, and what ONNX Runtime's dynamic quantizer makes of it."""
    source = save(ARCHITECTURES[request.param](), tmp_path / "float.onnx")
    compress.apply(source, ("int8-dynamic",), compress.Settings(arch="x86_64"), out=tmp_path / "dynamic.onnx")
    return source, tmp_path / "dynamic.onnx"


def test_it_computes_with_the_weights_of_the_quantized_file(dynamic: tuple[Path, Path]) -> None:
    source, quantized = dynamic
    network = onnx.load(quantized)
    made = rewritten(network)
    assert applies(network)
    assert not applies(made)
    assert {node.domain for node in made.graph.node} <= {"", "ai.onnx"}
    feed = model.random_inputs(model.inspect(source), 3)
    wanted, got = run(source, feed), run(made, feed)
    for name, values in wanted.items():
        noise = np.square(got[name] - values).sum() / np.square(values).sum()
        assert noise < 10 ** (-25 / 10), name  # what eight bits of weights cost


def test_every_int8_weight_is_the_files_own() -> None:
    network = conv_net_integer()
    made = rewritten(network)
    known = {numpy_helper.to_array(tensor).tobytes() for tensor in network.graph.initializer}
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    weights = [node.input[0] for node in made.graph.node if node.op_type == "DequantizeLinear"]
    assert len(weights) == 2
    assert all(stored[name].tobytes() in known for name in weights)


def test_a_product_that_is_not_scaled_back_is_refused_by_name() -> None:
    network = conv_net_integer()
    for node in network.graph.node:
        if node.op_type == "Cast":
            node.op_type = "Identity"
            del node.attribute[:]
            break
    with pytest.raises(ModelError, match=r'ConvInteger ".+": its result is not scaled back') as caught:
        rewritten(network)
    assert caught.value.hint
