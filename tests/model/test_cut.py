"""A model cut after any of its values computes there what the whole model computes there."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebench import model
from edgebench.errors import ModelError, UserError
from edgebench.model.cut import cut, layers
from tests.models.detector import detector


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


# --- before NonMaxSuppression ---------------------------------------------------------------------


def computed(made: onnx.ModelProto, names: list[str]) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(1).random((1, 3, 8, 8)).astype(np.float32)
    return session.run(names, {"image": image})


def test_boxes_and_scores_take_the_place_of_what_came_after_them() -> None:
    whole = detector()
    made = model.without_nms(whole)
    onnx.checker.check_model(made)
    assert [value.name for value in made.graph.output] == ["features", "boxes", "scores"]
    assert {node.op_type for node in made.graph.node} == {"Conv", "Reshape", "Split", "Transpose", "Sigmoid"}
    assert {weight.name for weight in made.graph.initializer} == {"w", "flat", "parts"}
    for name, kind in (("boxes", TensorProto.FLOAT), ("scores", TensorProto.FLOAT)):
        whole.graph.output.append(helper.make_tensor_value_info(name, kind, None))
    names = ["features", "boxes", "scores"]
    for found, wanted in zip(computed(made, names), computed(whole, names), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_thresholds_that_are_inputs_go_with_it() -> None:
    whole = detector()
    moved = next(weight for weight in whole.graph.initializer if weight.name == "overlap")
    whole.graph.initializer.remove(moved)
    whole.graph.input.append(helper.make_tensor_value_info("overlap", TensorProto.FLOAT, [1]))
    assert [value.name for value in model.without_nms(whole).graph.input] == ["image"]


def test_boxes_that_are_constants_can_still_be_returned() -> None:
    whole = detector()
    boxes = np.random.default_rng(2).random((1, 64, 4)).astype(np.float32)
    whole.graph.initializer.append(numpy_helper.from_array(boxes, "anchors"))
    next(node for node in whole.graph.node if node.name == "nms").input[0] = "anchors"
    made = model.without_nms(whole)
    onnx.checker.check_model(made)
    (found,) = computed(made, ["anchors_given"])
    np.testing.assert_array_equal(found, boxes)


def test_a_model_without_it_is_not_cut() -> None:
    with pytest.raises(UserError, match="has no NonMaxSuppression"):
        model.without_nms(network())


def test_inside_a_branch_it_is_not_cut() -> None:
    with pytest.raises(ModelError, match="inside a branch"):
        model.without_nms(detector(in_branch=True))


def test_one_behind_another_is_not_cut() -> None:
    whole = detector()
    again = helper.make_node("NonMaxSuppression", ["kept_boxes", "scores"], ["twice"], name="second")
    whole.graph.node.append(again)
    whole.graph.output.append(helper.make_tensor_value_info("twice", TensorProto.INT64, ["K", 3]))
    with pytest.raises(ModelError, match="kept_boxes"):
        model.without_nms(whole)
