"""Biases that were dequantized beforehand: no node for them any more, the same outputs to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgebench.model.biases import float_biases
from tests.model.running import run

SIZE = 6
FEED = {"x": np.arange(SIZE, dtype=np.float32).reshape(1, SIZE)}


def network(*constants, leaving: bool = False, **attributes):
    """x + dequantized constants (integers, scale, perhaps a zero point); the sum leaves, perhaps they too."""
    stored = [numpy_helper.from_array(each, f"c{place}") for place, each in enumerate(constants)]
    nodes = [
        helper.make_node("DequantizeLinear", [each.name for each in stored], ["bias"], **attributes),
        helper.make_node("Add", ["x", "bias"], ["y"]),
    ]
    port = helper.make_tensor_value_info
    outputs = [port("y", TensorProto.FLOAT, [1, SIZE])]
    if leaving:
        outputs.append(port("bias", TensorProto.FLOAT, [SIZE]))
    graph = helper.make_graph(nodes, "net", [port("x", TensorProto.FLOAT, [1, SIZE])], outputs, stored)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])


def operators(model) -> list[str]:
    return [node.op_type for node in model.graph.node]


def stored(model) -> set[str]:
    return {tensor.name for tensor in model.graph.initializer}


@settings(deadline=None)
@given(
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=SIZE, max_size=SIZE),
    st.lists(st.floats(2.0**-30, 2.0**10, width=32), min_size=SIZE, max_size=SIZE),
    st.booleans(),
)
def test_outputs_are_equal_to_the_last_bit(integers, scales, per_channel) -> None:
    scale = np.array(scales if per_channel else scales[0], np.float32)
    model = network(np.array(integers, np.int32), scale, axis=0)
    made = float_biases(model)
    assert (operators(made), stored(made)) == (["Add"], {"bias"})
    assert np.array_equal(run(model, FEED)["y"], run(made, FEED)["y"])


def test_a_zero_point_of_zeros_goes_too() -> None:
    ones = np.ones(SIZE, np.int32)
    assert operators(float_biases(network(ones, np.float32(0.5), np.int32(0)))) == ["Add"]


@pytest.mark.parametrize(
    "model",
    [
        network(np.ones(SIZE, np.int8), np.float32(1)),  # weights stay small
        network(np.ones(SIZE, np.int32), np.float16(1)),
        network(np.ones((1, SIZE), np.int32), np.float32(1)),
        network(np.ones(SIZE, np.int32), np.ones(2, np.float32), axis=0, block_size=3),
        network(np.ones(SIZE, np.int32), np.float32(1), leaving=True),
    ],
    ids=["int8", "float16", "matrix", "blocks", "leaves the network"],
)
def test_what_is_no_bias_stays(model) -> None:
    made = float_biases(model)
    assert (operators(made), stored(made)) == (operators(model), stored(model))


def test_the_network_given_is_not_changed() -> None:
    model = network(np.ones(SIZE, np.int32), np.float32(1))
    before = model.SerializeToString()
    float_biases(model)
    assert model.SerializeToString() == before
