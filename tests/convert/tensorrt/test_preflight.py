"""Every rule with a network that breaks it and one that keeps it; no network crashes the preflight."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from edgebench.convert.tensorrt.preflight import preflight
from tests.convert.tensorrt.nets import (
    BOOL,
    DOUBLE,
    FLOAT,
    HALF,
    IMAGE,
    INT8,
    INT32,
    INT64,
    UINT8,
    VERSIONS,
    array,
    board,
    found,
    net,
    quantized,
    refusals,
)
from tests.models import generate
from tests.models.generate import build, tensor

# --- operators and operator sets ------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plain_network_passes_every_version(version):
    assert found(net("Relu"), version) == {}
    assert refusals(generate.conv_net(), version) == set()


@pytest.mark.parametrize(
    ("model", "taken"),
    [
        (net("HardSwish", opset=14), "8.4.1 8.5.2 8.6.2 10.3.0 10.16.2 11.0.0"),
        (
            net("GridSample", "g", weights={"g": np.zeros((1, 2, 2, 2), np.float32)}, opset=16),
            "8.5.2 8.6.2 10.3.0 10.16.2 11.0.0",
        ),
        (
            net("LayerNormalization", "s", weights={"s": np.ones(8, np.float32)}, opset=17),
            "8.6.2 10.3.0 10.16.2 11.0.0",
        ),
        (net("Gelu", opset=20), "10.3.0 10.16.2 11.0.0"),
        (net("Swish", opset=24), "11.0.0"),
        (net("Unique", outputs=("y",), opset=13), ""),
        (net("Det", shape=(1, 3, 3)), ""),
    ],
)
def test_operators_by_version(model, taken):
    lacking = {version for version in VERSIONS if "operator" in refusals(model, version)}
    assert set(VERSIONS) - lacking == set(taken.split())


def test_a_refused_operator_names_node_version_and_way_out():
    finding = found(
        net("GridSample", "g", weights={"g": np.zeros((1, 2, 2, 2), np.float32)}, opset=16), "8.2.1"
    )["operator"]
    assert (finding.node, finding.operator) == ("n", "GridSample")
    assert finding.message == "TensorRT 8.2.1 does not import it; TensorRT 8.5 does"
    assert "outside the model" in finding.hint


@pytest.mark.parametrize("operator", ["ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "QLinearConv"])
def test_integer_operators_are_never_imported(operator):
    model = net(operator, "w", weights={"w": np.zeros((4, 4, 1, 1), np.int8)})
    finding = found(model, "11.0.0")["operator"]
    assert "nor does any other version" in finding.message


def test_another_domain_needs_a_plugin():
    model = net("Relu")
    model.graph.node[0].domain = "com.microsoft"
    finding = found(model, "10.3.0")["domain"]
    assert finding.refuses
    assert finding.operator == "com.microsoft::Relu"


def test_nodes_of_inner_graphs_are_looked_at():
    model = generate.if_net()
    assert refusals(model, "8.6.2") == set()
    branch = next(
        attribute.g for node in model.graph.node for attribute in node.attribute if attribute.g.node
    )
    branch.node[0].op_type = "Unique"
    assert "operator" in refusals(model, "8.6.2")


def test_every_problem_is_told_at_once():
    nodes = [
        helper.make_node("Det", ["x"], ["a"], name="det"),
        helper.make_node("Unique", ["a"], ["b"], name="unique"),
        helper.make_node("TfIdfVectorizer", ["b"], ["y"], name="words"),
    ]
    model = build(nodes, [tensor("x", ["N", 3, 3])], [tensor("y", [1])])
    told = preflight(model, board("8.2.1"), "fp32")
    assert {each.node for each in told if each.rule == "operator"} == {"det", "unique", "words"}
    assert any(each.rule == "dynamic" for each in told)


@pytest.mark.parametrize("version", ["8.2.1", "8.4.1", "8.5.2", "8.6.2"])
def test_axes_as_an_input_would_be_ignored_without_a_word(version):
    axes = {"a": array([1], np.int64)}
    assert "opset" in refusals(net("ReduceMean", "a", weights=axes, opset=18), version)
    assert refusals(net("ReduceMean", axes=[1], opset=13), version) == set()
    assert refusals(net("ReduceMean", "a", weights=axes, opset=18), "10.3.0") == set()


def test_a_newer_opset_that_changes_nothing_is_taken():
    assert refusals(net("Relu", opset=22), "8.2.1") == set()


def test_an_operator_younger_than_the_opset_ceiling_is_known_in_its_first_form_only():
    scales = {"s": np.ones(2, np.float32), "b": np.ones(2, np.float32)}
    wide = {"s": np.ones(4, np.float32), "b": np.ones(4, np.float32)}
    assert (
        refusals(net("GroupNormalization", "s", "b", weights=scales, opset=18, num_groups=2), "8.6.2")
        == set()
    )
    newer = net("GroupNormalization", "s", "b", weights=wide, opset=21, num_groups=2)
    assert "opset" in refusals(newer, "8.6.2")
    assert refusals(newer, "10.16.2") == set()


def test_opset_8_is_too_old_for_10():
    assert "opset" in refusals(net("Relu", opset=8), "10.3.0")
    assert refusals(net("Relu", opset=8), "8.2.1") == set()


def test_an_importer_that_the_documentation_denies_is_a_warning():
    finding = found(net("Reciprocal"), "8.2.1")["doubtful"]
    assert not finding.refuses
    assert "doubtful" not in found(net("Reciprocal"), "10.3.0")


# --- documented limits ----------------------------------------------------------------------------

ONE = {"k": array([2], np.int64)}
MODES = {"roi": array([]), "s": array([1, 1, 2, 2])}


@pytest.mark.parametrize(
    ("version", "broken", "kept"),
    [
        ("8.2.1", net("MaxPool", shape=(1, 4, 8), kernel_shape=[2]), net("MaxPool", kernel_shape=[2, 2])),
        (
            "10.3.0",
            net("MaxPool", kernel_shape=[2, 2], dilations=[2, 2]),
            net("MaxPool", kernel_shape=[2, 2]),
        ),
        (
            "8.6.2",
            net("MaxPool", kernel_shape=[2, 2], outputs=("other", "y"), out_kind=INT64),
            net("MaxPool", kernel_shape=[2, 2], outputs=("y",)),
        ),
        (
            "8.2.1",
            net("Conv", "w", shape=(1, 4, 8), weights={"w": np.zeros((8, 4, 3), np.float32)}),
            net("Conv", "w", weights={"w": np.zeros((8, 4, 3, 3), np.float32)}),
        ),
        ("8.2.1", net("Conv", "free_w"), net("Conv", "w", weights={"w": np.zeros((8, 4, 3, 3), np.float32)})),
        (
            "8.2.1",
            net("TopK", "free_k", outputs=("y", "i")),
            net("TopK", "k", weights=ONE, outputs=("y", "i")),
        ),
        (
            "10.3.0",
            net("TopK", "k", weights={"k": array([4000], np.int64)}, outputs=("y", "i"), shape=(1, 5000)),
            net("TopK", "k", weights=ONE, outputs=("y", "i"), shape=(1, 5000)),
        ),
        (
            "10.3.0",
            net("TopK", "k", weights=ONE, outputs=("y", "i"), sorted=0),
            net("TopK", "k", weights=ONE, outputs=("y", "i")),
        ),
        ("8.2.1", net("Squeeze", "free_a"), net("Squeeze", "k", weights=ONE)),
        ("8.2.1", net("Unsqueeze", "free_a"), net("Unsqueeze", "k", weights=ONE)),
        (
            "10.1.0",
            net("Slice", "k", "k", "free_a", weights=ONE),
            net("Slice", "k", "k", "k", weights=ONE),
        ),
        ("8.2.1", net("CumSum", "free_a"), net("CumSum", "a", weights={"a": array(1, np.int64)})),
        ("10.3.0", net("ReduceMax", "free_a", opset=18), net("ReduceMax", "k", weights=ONE, opset=18)),
        (
            "8.2.1",
            net("Resize", "roi", "s", weights=MODES, mode="cubic"),
            net("Resize", "roi", "s", weights=MODES, mode="linear"),
        ),
        (
            "8.2.1",
            net("Resize", "roi", "s", weights=MODES, coordinate_transformation_mode="tf_crop_and_resize"),
            net("Resize", "roi", "s", weights=MODES, coordinate_transformation_mode="align_corners"),
        ),
        (
            "10.3.0",
            net("Resize", "roi", "s", weights=MODES, antialias=1, mode="linear", opset=18),
            net("Resize", "roi", "s", weights=MODES, antialias=0, mode="linear", opset=18),
        ),
        (
            "8.2.1",
            net("InstanceNormalization", "s", "s", shape=(4, 4), weights={"s": np.ones(4, np.float32)}),
            net("InstanceNormalization", "s", "s", weights={"s": np.ones(4, np.float32)}),
        ),
        ("8.2.1", net("Einsum", equation="...ij->...ji"), net("Einsum", equation="nchw->nhwc")),
        ("8.2.1", net("Einsum", equation="nchh->nch"), net("Einsum", equation="nchw->nch")),
        (
            "10.3.0",
            net(
                "LayerNormalization", "s", weights={"s": np.ones(8, np.float32)}, outputs=("m", "y"), opset=17
            ),
            net("LayerNormalization", "s", weights={"s": np.ones(8, np.float32)}, opset=17),
        ),
        ("8.2.1", net("RandomUniformLike"), net("Relu")),
        (
            "10.3.0",
            net(
                "ScatterND",
                "i",
                "u",
                weights={"i": array([[0]], np.int64), "u": np.zeros((1, 4, 8, 8), np.float32)},
                opset=16,
                reduction="add",
            ),
            net(
                "ScatterND",
                "i",
                "u",
                weights={"i": array([[0]], np.int64), "u": np.zeros((1, 4, 8, 8), np.float32)},
                opset=16,
            ),
        ),
        (
            "10.3.0",
            net("Dropout", "r", "t", weights={"r": array(0.5), "t": array(True, np.bool_)}),
            net("Dropout", "r", "t", weights={"r": array(0.5), "t": array(False, np.bool_)}),
        ),
        (
            "8.6.2",
            net(
                "LSTM",
                "w",
                "r",
                weights={"w": np.zeros((2, 16, 4), np.float32), "r": np.zeros((2, 16, 4), np.float32)},
                shape=(3, 1, 4),
                hidden_size=4,
                direction="bidirectional",
                activations=["Sigmoid", "Tanh", "Tanh", "Relu", "Tanh", "Tanh"],
            ),
            net(
                "LSTM",
                "w",
                "r",
                weights={"w": np.zeros((2, 16, 4), np.float32), "r": np.zeros((2, 16, 4), np.float32)},
                shape=(3, 1, 4),
                hidden_size=4,
                direction="bidirectional",
            ),
        ),
    ],
)
def test_limits(version, broken, kept):
    finding = found(broken, version)["limit"]
    assert finding.refuses
    assert finding.node == "n"
    assert finding.hint
    assert "limit" not in found(kept, version)


@pytest.mark.parametrize(
    ("broken", "kept"),
    [
        (
            net(
                "BatchNormalization",
                *"abcd",
                weights={k: np.ones(4, np.float32) for k in "abcd"},
                opset=15,
                training_mode=1,
            ),
            net("BatchNormalization", *"abcd", weights={k: np.ones(4, np.float32) for k in "abcd"}, opset=15),
        ),
        (net("LpPool", kernel_shape=[2, 2], p=3), net("LpPool", kernel_shape=[2, 2], p=1)),
        (
            net("Mod", "w", weights={"w": np.ones(8, np.float32)}),
            net("Mod", "w", weights={"w": np.ones(8, np.float32)}, fmod=1),
        ),
        (net("Resize", "", "free_s"), net("Resize", "", "s", weights={"s": array([1, 1, 2, 2])})),
        (net("Unsqueeze", "free_a"), net("Unsqueeze", "k", weights=ONE)),
        (net("Range", "l", "d", shape=(), weights={"l": array(3), "d": array(1)}), net("Relu")),
    ],
)
@pytest.mark.parametrize("version", ["8.5.2", "10.16.2"])
def test_limits_that_only_the_parser_knows(version, broken, kept):
    finding = found(broken, version)["unwritten-limit"]
    assert finding.refuses
    assert finding.hint
    assert "unwritten-limit" not in found(kept, version)


def test_a_padded_non_max_suppression_would_be_another_result():
    model = net(
        "NonMaxSuppression",
        "s",
        "k",
        weights={"s": np.zeros((1, 1, 9), np.float32), **ONE},
        shape=(1, 9, 4),
        out_kind=INT64,
    )
    assert "another shape" in found(model, "8.2.1")["limit"].message
    assert "limit" not in found(model, "8.5.2")


# --- element types --------------------------------------------------------------------------------


def test_types_by_operator_and_version():
    assert "type" in refusals(net("ArgMax", kind=INT32, out_kind=INT64), "8.2.1")
    assert refusals(net("ArgMax", kind=INT32, out_kind=INT64), "10.3.0") == set()
    assert "type" in refusals(
        net("Pow", "e", weights={"e": array(2, np.int32)}, kind=INT32, out_kind=INT32), "8.6.2"
    )
    assert refusals(net("Relu", kind=HALF, out_kind=HALF), "8.2.1") == set()


def test_int64_is_int32_in_8_and_itself_in_10():
    added = net("Add", "w", weights={"w": np.ones((1,), np.int64)}, kind=INT64, out_kind=INT64)
    assert refusals(added, "8.2.1") == set()
    assert refusals(added, "10.3.0") == set()


def test_a_short_list_of_an_undocumented_type_is_a_warning():
    model = net("Pow", "e", weights={"e": array(2, np.int64)}, kind=INT64, out_kind=INT64, shape=(3,))
    assert not found(model, "8.2.1")["type"].refuses


@pytest.mark.parametrize(
    ("kind", "version", "taken"),
    [
        (DOUBLE, "8.2.1", False),
        (DOUBLE, "10.3.0", False),
        (UINT8, "8.2.1", False),
        (UINT8, "10.3.0", True),
        (INT64, "8.2.1", True),
        (BOOL, "8.2.1", True),
        (INT8, "10.3.0", False),
    ],
)
def test_types_of_inputs(kind, version, taken):
    model = net("Cast", kind=kind, to=FLOAT)
    assert ("border-type" not in refusals(model, version)) == taken


def test_constants_that_8_would_clamp_and_doubles_are_told():
    model = net("Slice", "s", "e", weights={"s": array([0], np.int64), "e": array([2**63 - 1], np.int64)})
    assert "clamps" in found(model, "8.2.1")["int64"].message
    assert "int64" not in found(model, "10.3.0")
    double = net("Cast", to=FLOAT)
    double.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(2), "d"))
    assert not found(double, "10.3.0")["double"].refuses


# --- inputs and outputs ---------------------------------------------------------------------------


def test_open_shapes_are_refused_with_the_option_to_type():
    finding = found(net("Relu", shape=("N", 3, 8, 8)), "8.2.1")["dynamic"]
    assert finding.refuses
    assert "--shape x=" in finding.hint


def test_an_output_of_unknown_size_is_a_warning():
    assert not found(net("Relu", out=("N",)), "8.6.2")["dynamic"].refuses


def test_empty_inputs_are_refused():
    assert "empty" in refusals(net("Relu", shape=(1, 0, 8, 8)), "8.2.1")


@pytest.mark.parametrize("name", ["a,b", "it's", 'say"', "x{engine}", "tab\t"])
def test_names_that_trtexec_would_misread_are_refused(name):
    model = build(
        [helper.make_node("Relu", [name], ["y"])], [tensor(name, IMAGE)], [tensor("y", IMAGE)], opset=13
    )
    assert "name" in refusals(model, "10.3.0")


# --- int8 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_int8_as_tensorrt_wants_it_passes_every_version(version):
    assert found(quantized(), version, "int8") == {}


@pytest.mark.parametrize("capability", [(5, 3), (6, 2)])
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_int8_on_a_gpu_without_it_is_refused_and_fp16_offered(capability, precision):
    finding = found(quantized(), "8.2.1", precision, capability)["int8-hardware"]
    assert ".".join(map(str, capability)) in finding.message
    assert "fp16 of the float model" in finding.hint


def test_int8_of_a_float_model_would_compute_garbage():
    assert refusals(net("Relu"), "8.2.1", "int8") == {"int8-ranges"}


@pytest.mark.parametrize("version", ["8.6.2", "10.3.0", "11.0.0"])
def test_a_quantized_model_is_int8_and_nothing_else(version):
    assert refusals(quantized(), version, "fp32") == {"precision"}
    assert refusals(quantized(), version, "int8-dynamic") == {"precision"}


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"zero": np.uint8(0)}, "uint8"),
        ({"zero": np.uint8(128)}, "uint8"),
        ({"zero": np.int8(-3)}, "zero-point"),
        ({"scale": np.float32(0)}, "scale"),
        ({"scale": np.float32(np.nan)}, "scale"),
        ({"scale": np.float32(-1)}, "scale"),
        ({"bias": np.ones(8, np.int32)}, "bias"),
        ({"weight_axis": 1, "weight_scale": np.full(4, 0.01, np.float32)}, "axis"),
        ({"scale": np.full(4, 0.05, np.float32), "zero": np.zeros(4, np.int8)}, "per-channel"),
    ],
)
def test_pairs_that_are_refused(changes, rule):
    assert refusals(quantized(**changes), "10.3.0", "int8") == {rule}


def test_the_uint8_trap_is_told_in_words():
    told = found(quantized(zero=np.uint8(0)), "8.2.1", "int8")["uint8"]
    assert "codes from 128 on would saturate" in told.message


def test_a_float_bias_and_one_scale_for_all_weights_pass():
    assert found(quantized(bias=np.ones(8, np.float32)), "8.2.1", "int8") == {}
    assert found(quantized(weight_scale=np.float32(0.01)), "8.2.1", "int8") == {}


def test_a_missing_zero_point_is_uint8_in_onnx():
    model = quantized()
    del model.graph.node[0].input[2:]
    assert "uint8" in refusals(model, "10.3.0", "int8")


def test_stored_integers_are_told():
    assert not found(quantized(stored=True), "8.2.1", "int8")["stored-int8"].refuses


def test_integers_must_stay_between_q_and_dq():
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        helper.make_node("Transpose", ["q"], ["t"], name="t", perm=[0, 1, 3, 2]),
        helper.make_node("DequantizeLinear", ["t", "s", "z"], ["y"], name="dq"),
    ]
    weights = {"s": np.float32(0.1), "z": np.int8(0)}
    model = build(nodes, [tensor("x", IMAGE)], [tensor("y", IMAGE)], weights, opset=13)
    assert refusals(model, "8.2.1", "int8") == set()
    assert refusals(model, "10.3.0", "int8") == {"placement"}


def test_a_pair_between_a_layer_and_relu_and_a_half_quantized_layer_are_warnings():
    model = quantized()
    conv = model.graph.node[-1]
    conv.output[0] = "c"
    model.graph.node.extend(
        [
            helper.make_node("QuantizeLinear", ["c", "scale", "zero"], ["c_q"], name="cq"),
            helper.make_node("DequantizeLinear", ["c_q", "scale", "zero"], ["c_dq"], name="cdq"),
            helper.make_node("Relu", ["c_dq"], ["y"], name="relu"),
        ]
    )
    assert not found(model, "8.6.2", "int8")["fusion"].refuses
    conv.input[0] = "x"
    assert "only its weights are quantized" in found(model, "8.6.2", "int8")["half-quantized"].message


# --- anything -------------------------------------------------------------------------------------

_SOURCES = ("conv_net", "conv_net_qdq", "lstm_net", "if_net", "two_inputs", "deconv_net")
_WORDS = (
    "Conv",
    "Resize",
    "TopK",
    "QuantizeLinear",
    "DequantizeLinear",
    "Einsum",
    "ReduceMean",
    "Pad",
    "LSTM",
    "Nope",
)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_network_breaks_the_preflight(data):
    model = generate.GENERATED[data.draw(st.sampled_from(_SOURCES))]()
    for _ in range(data.draw(st.integers(1, 4))):
        node = data.draw(st.sampled_from(list(model.graph.node)))
        change = data.draw(st.integers(0, 4))
        if change == 0:
            node.op_type = data.draw(st.sampled_from(_WORDS))
        elif change == 1 and node.input:
            del node.input[data.draw(st.integers(0, len(node.input) - 1)) :]
        elif change == 2:
            node.attribute.append(helper.make_attribute("axis", data.draw(st.integers(-(2**40), 2**40))))
        elif change == 3 and node.input:
            node.input[0] = data.draw(st.sampled_from(["", "nowhere", node.output[0] if node.output else ""]))
        elif model.graph.initializer:
            weight = data.draw(st.sampled_from(list(model.graph.initializer)))
            weight.dims[:] = data.draw(st.lists(st.integers(0, 3), max_size=3))
    model.opset_import[0].version = data.draw(st.sampled_from([7, 13, 17, 18, 22]))
    version = data.draw(st.sampled_from(VERSIONS))
    for each in preflight(model, board(version), data.draw(st.sampled_from(["fp32", "fp16", "int8"]))):
        assert each.message
        assert each.hint
