"""What is written out computes the same: ONNX's own cases of operators that are functions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from edgebench.model.expand import expand, expandable
from edgebench.model.opset import RAISED_TO, raised
from tests.conformance import cases
from tests.conformance.route import differs

# One or more of every kind: elementwise, masks and control flow in the body, losses, norms, folded whole.
NAMES = """
    attention_3d_gqa_scaled attention_4d_diff_heads_mask4d_padded_kv
    attention_4d_with_past_and_present attention_local_window affine_grid_2d
    blackmanwindow_symmetric celu center_crop_pad_crop_and_pad clip dynamicquantizelinear elu
    gelu_tanh_1 group_normalization_epsilon hannwindow hardsigmoid hardswish
    layer_normalization_3d_axis1_epsilon leakyrelu less_equal_bcast linear_attention_gated_delta
    logsoftmax_axis_1 mish mvn nllloss_NCd1d2_with_weight_reduction_mean prelu_broadcast
    range_float_type_positive_delta reduce_l1_keep_dims_random
    reduce_log_sum_exp_default_axes_keepdims_random rms_normalization_2d_axis1
    rotary_embedding_interleaved sce_mean_weight_ii_3d selu softmax_axis_0 softplus softsign swish
    thresholdedrelu
""".split()  # noqa: SIM905 - forty names are easier to read so


@pytest.fixture(scope="module")
def known() -> dict[str, cases.Case]:
    return {case.name: case for case in cases.cases("frozen", cases.cache_folder())}


def _static(case: cases.Case) -> ModelProto:
    model = onnx.load(case.folder / "model.onnx")
    inputs, _ = cases.read(case)
    for value in model.graph.input:
        typed = value.type.tensor_type
        typed.ClearField("shape")
        typed.shape.SetInParent()
        for size in inputs[value.name].shape:
            typed.shape.dim.add(dim_value=size)
    return model


def _run(model: ModelProto, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_values_stay_the_same(known: dict[str, cases.Case], name: str) -> None:
    case = known[f"test_{name}"]
    inputs, expected = cases.read(case)
    model = _static(case)
    operator = model.graph.node[0].op_type
    made = expand(model, frozenset())
    assert expandable([operator], frozenset())
    assert operator not in {node.op_type for node in made.graph.node}
    assert differs(expected, _run(made, inputs)) == ""


def test_what_the_runtime_has_is_kept(known: dict[str, cases.Case]) -> None:
    model = _static(known["test_attention_4d"])
    assert not expandable(["Attention"], frozenset({"Attention"}))
    kept = expand(model, frozenset({"Attention"}))
    assert [node.op_type for node in kept.graph.node] == ["Attention"]
    softmax = expand(model, frozenset({"Softmax"}))
    assert "Softmax" in {node.op_type for node in softmax.graph.node}


def test_names_tell_which_node_they_come_from(known: dict[str, cases.Case]) -> None:
    model = _static(known["test_layer_normalization_4d_axis1"])
    model.graph.node[0].name = "encoder.norm"
    made = expand(model, frozenset())
    assert made.graph.node
    assert all(node.name.startswith("encoder.norm/") for node in made.graph.node)
    assert len({node.name for node in made.graph.node}) == len(made.graph.node)


def test_the_original_is_left_alone(known: dict[str, cases.Case]) -> None:
    model = _static(known["test_gelu_tanh_1"])
    before = model.SerializeToString()
    assert expand(model, frozenset()).SerializeToString(deterministic=True)
    assert model.SerializeToString() == before


def test_the_opset_is_the_oldest_that_means_the_same() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 21]> g (float[2, 3] x) => (float[2, 3] y) { y = Add(x, x) }'
    )
    assert [each.version for each in expand(model, frozenset()).opset_import] == [13]  # 14 only added a type


# --- constants ----------------------------------------------------------------------------------


def _choice(chosen: bool) -> ModelProto:
    """x + 1 where true, x * three where false; the branches use a name of the outer graph."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    inner = helper.make_tensor_value_info("made", TensorProto.FLOAT, [2])
    three = numpy_helper.from_array(np.float32([3]), "number")
    one = numpy_helper.from_array(np.float32([1]), "number")
    yes = helper.make_graph([helper.make_node("Add", ["x", "number"], ["made"])], "yes", [], [inner], [one])
    no = helper.make_graph([helper.make_node("Mul", ["x", "number"], ["made"])], "no", [], [inner], [three])
    condition = numpy_helper.from_array(np.array(chosen), "condition")
    node = helper.make_node("If", ["condition"], ["y"], "choose", then_branch=yes, else_branch=no)
    graph = helper.make_graph([node], "g", [x], [y], [condition])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("chosen", "expected"), [(True, [2, 3]), (False, [3, 6])])
def test_a_constant_if_becomes_its_branch(chosen: bool, expected: list[float]) -> None:
    made = expand(_choice(chosen), frozenset())
    assert "If" not in {node.op_type for node in made.graph.node}
    assert _run(made, {"x": np.float32([1, 2])})["y"].tolist() == expected


def test_constants_are_computed_and_large_ones_are_not() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[1] x) => (float[1] y, float[9999999] z) {
            one = Constant <value = float[1] {1}> ()
            two = Add(one, one)
            y = Mul(x, two)
            size = Constant <value = int64[1] {9999999}> ()
            z = Expand(one, size)
        }"""
    )
    made = expand(model, frozenset())
    kinds = [node.op_type for node in made.graph.node]
    assert "Add" not in kinds
    assert "Expand" in kinds
    assert made.ByteSize() < 10_000
    assert _run(made, {"x": np.float32([4])})["y"].tolist() == [8]


# --- old opsets ---------------------------------------------------------------------------------


def _old(known: dict[str, cases.Case]) -> Iterator[cases.Case]:
    for name in ("test_operator_add_broadcast", "test_PReLU_2d", "test_BatchNorm2d_eval", "test_AvgPool2d"):
        yield known[name]


def test_an_opset_that_is_too_old_is_raised(known: dict[str, cases.Case]) -> None:
    for case in _old(known):
        newer = raised(onnx.load(case.folder / "model.onnx"))
        assert newer is not None
        assert [each.version for each in newer.opset_import] == [RAISED_TO]
        inputs, expected = cases.read(case)
        stored = {tensor.name for tensor in newer.graph.initializer}
        for value in [value for value in newer.graph.input if value.name in stored]:
            newer.graph.input.remove(value)
        newer.ir_version = 8
        assert differs(expected, _run(newer, inputs)) == "", case.name


def test_others_are_not_raised(known: dict[str, cases.Case]) -> None:
    assert raised(onnx.load(known["test_abs"].folder / "model.onnx")) is None
