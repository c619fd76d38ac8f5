"""A model cut after any of its values computes there what the whole model computes there."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebench.errors import ModelError
from edgebench.model.cut import cut, layers


def network() -> onnx.ModelProto:
    """x -> MatMul -> Relu -> Add(x) -> out, with an unused branch."""
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32) * 2, "w")
    unused = numpy_helper.from_array(np.ones((4,), dtype=np.float32), "u")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="matmul"),
        helper.make_node("Relu", ["m"], ["r"]),
        helper.make_node("Mul", ["x", "u"], ["side"], name="side"),
        helper.make_node("Add", ["r", "x"], ["out"], name="add"),
    ]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [tensor("x", TensorProto.FLOAT, [1, 4])],
        [tensor("out", TensorProto.FLOAT, [1, 4])],
        [weight, unused],
        value_info=[tensor(name, TensorProto.FLOAT, [1, 4]) for name in ("m", "r", "side")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_layers_come_in_the_order_of_computing_with_their_nodes() -> None:
    found = layers(network())
    assert [layer.value for layer in found] == ["m", "r", "side", "out"]
    assert found[0].node == "matmul"
    assert "Relu" in found[1].node


@pytest.mark.parametrize("value", ["m", "r", "side", "out"])
def test_the_cut_model_computes_the_same_value(value: str) -> None:
    import onnxruntime

    whole = network()
    made = cut(whole, value)
    onnx.checker.check_model(made)
    x = np.array([[-1.0, 0.5, 2.0, 3.0]], dtype=np.float32)
    watched = network()
    watched.graph.output.extend(each for each in whole.graph.value_info if each.name == value)
    provider = ["CPUExecutionProvider"]
    expected = onnxruntime.InferenceSession(watched.SerializeToString(), providers=provider).run(
        [value], {"x": x}
    )
    got = onnxruntime.InferenceSession(made.SerializeToString(), providers=provider).run(None, {"x": x})
    np.testing.assert_array_equal(got[0], expected[0])


def test_what_does_not_lead_to_the_value_is_gone() -> None:
    made = cut(network(), "m")
    assert [node.op_type for node in made.graph.node] == ["MatMul"]
    assert [weight.name for weight in made.graph.initializer] == ["w"]


def test_an_unknown_value_is_said() -> None:
    with pytest.raises(ModelError, match='no value "z"'):
        cut(network(), "z")
