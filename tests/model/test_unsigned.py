"""int8 activations counted from 0: another zero point, the same outputs to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebench.model.unsigned import unsigned_activations
from tests.model.running import run


def network(zero_point: int, *, integers_leave: bool = False):
    """x -> int8 -> relu of it, and perhaps the integers themselves."""
    ports = {
        "x": helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 300]),
        "y": helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 300]),
        "q": helper.make_tensor_value_info("q", TensorProto.INT8, [2, 300]),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["d"]),
        helper.make_node("Relu", ["d"], ["y"]),
    ]
    constants = [
        helper.make_tensor("step", TensorProto.FLOAT, [], [0.031]),
        helper.make_tensor("zero", TensorProto.INT8, [], [zero_point]),
    ]
    leaving = [ports["y"], *([ports["q"]] if integers_leave else [])]
    graph = helper.make_graph(nodes, "net", [ports["x"]], leaving, constants)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])


def kinds(model) -> set[str]:
    """Element types of the zero points that quantizers and dequantizers read."""
    stored = {tensor.name: numpy_helper.to_array(tensor).dtype.name for tensor in model.graph.initializer}
    return {stored[node.input[2]] for node in model.graph.node if node.op_type.endswith("Linear")}


@pytest.mark.parametrize("zero_point", [-128, -3, 0, 127])
def test_outputs_are_equal_to_the_last_bit(zero_point: int) -> None:
    model = network(zero_point)
    made = unsigned_activations(model)
    x = np.random.default_rng(1).normal(0, 4, (2, 300)).astype(np.float32)  # some values saturate
    assert (kinds(model), kinds(made)) == ({"int8"}, {"uint8"})
    assert np.array_equal(run(model, {"x": x})["y"], run(made, {"x": x})["y"])


def test_integers_that_leave_the_model_stay_signed() -> None:
    assert kinds(unsigned_activations(network(0, integers_leave=True))) == {"int8"}
