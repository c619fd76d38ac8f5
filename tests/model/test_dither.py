"""Stochastic rounding in ONNX: every value on one of its two neighbouring steps, the mean unmoved."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgebench.model.dither import dithered
from tests.model.running import run
from tests.models import generate

STEP = 0.5


def quantizer(*, dynamic: bool = False):
    """x [1, 4000] -> quantized and back."""
    shape = [1, 4000]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    if dynamic:
        nodes = [helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "step", "zero"])]
    else:
        nodes = [helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"])]
    nodes.append(helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["y"]))
    constants = [
        helper.make_tensor("step", TensorProto.FLOAT, [], [STEP]),
        helper.make_tensor("zero", TensorProto.INT8, [], [0]),
    ]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], [] if dynamic else constants)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])


def rounded(value: float, seed: int):
    x = np.full((1, 4000), value, np.float32)
    return run(dithered(quantizer(), seed), {"x": x})["y"]


@pytest.mark.parametrize(("value", "share"), [(0.05, 0.1), (0.25, 0.5), (0.45, 0.9), (-0.15, 0.7)])
def test_the_nearer_step_is_the_likelier_one(value: float, share: float) -> None:
    made = rounded(value, seed=1)
    low = np.floor(value / STEP) * STEP
    assert set(np.unique(made)) == {np.float32(low), np.float32(low + STEP)}
    assert np.mean(made == np.float32(low + STEP)) == pytest.approx(share, abs=0.04)


def test_a_value_on_a_step_stays_there() -> None:
    assert np.unique(rounded(1.5, seed=1)).tolist() == [1.5]


def test_the_same_seed_gives_the_same_rounding() -> None:
    assert np.array_equal(rounded(0.2, seed=3), rounded(0.2, seed=3))
    assert not np.array_equal(rounded(0.2, seed=3), rounded(0.2, seed=4))


def test_steps_that_are_found_at_run_time() -> None:
    x = np.linspace(-1, 1, 4000, dtype=np.float32)[None]
    plain = run(quantizer(dynamic=True), {"x": x})["y"]
    made = run(dithered(quantizer(dynamic=True), seed=1), {"x": x})["y"]
    moved = np.abs(made - plain)
    assert 0 < moved.max() < 2.5 * 2 / 255
    assert np.mean(moved) > 0.1 * 2 / 255


def test_what_is_not_quantized_has_no_noise() -> None:
    assert dithered(generate.conv_net(), seed=1) is None
    assert dithered(generate.conv_net_fp16(), seed=1) is None


def test_weights_keep_their_steps() -> None:
    network = generate.conv_net_qdq()
    made = dithered(network, seed=1)
    stored = {tensor.name for tensor in network.graph.initializer}
    noisy = [node.input[0] for node in made.graph.node if node.op_type == "RandomUniformLike"]
    assert noisy
    assert not stored & set(noisy)
