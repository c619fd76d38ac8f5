"""What is prepared computes the same, bit for bit but in float16, and passes the preflight afterwards."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from edgebench import model
from edgebench.convert.tensorrt.base import parse_version
from edgebench.convert.tensorrt.preflight import preflight
from edgebench.convert.tensorrt.prepare import prepared
from edgebench.errors import ModelError, UserError
from edgebench.model import base
from tests.convert.tensorrt.nets import IMAGE, VERSIONS, array, board, net, quantized, refusals
from tests.models import generate
from tests.models.generate import build, tensor


def outputs(model: onnx.ModelProto, seed: int = 0) -> list[NDArray[Any]]:
    """What ONNX Runtime computes without optimisations, for seeded inputs in [-1, 3)."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(seed)
    feeds = {
        each.name: (rng.random(each.shape) * 4 - 1).astype(np.float16 if "16" in each.type else np.float32)
        for each in session.get_inputs()
    }
    made: list[NDArray[Any]] = session.run(None, feeds)
    return made


def ready(
    model: onnx.ModelProto, version: str, precision: str = "fp32"
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The prepared model, sorted and with shapes, as the converter writes it."""
    model.ir_version = 8
    made, notes = prepared(base.inferred(model, "net"), board(version), precision)
    base.sort(made.graph, "net")
    onnx.checker.check_model(made)
    return base.inferred(made, "net"), notes


def same(
    model: onnx.ModelProto, version: str, precision: str = "fp32"
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The prepared model, seen to compute the same bits."""
    before = outputs(model)
    made, notes = ready(model, version, precision)
    for old, new in zip(before, outputs(made), strict=True):
        np.testing.assert_array_equal(old, new)
    return made, notes


def opset(model: onnx.ModelProto) -> int:
    return max(entry.version for entry in model.opset_import)


# --- operator sets --------------------------------------------------------------------------------

AXES = {"a": array([2, 3], np.int64)}
ROI = {"roi": array([]), "s": array([1, 1, 2, 2])}


@pytest.mark.parametrize(
    "model",
    [
        net("Relu", opset=20, out=IMAGE),
        net("ReduceMean", "a", weights=AXES, opset=18, out=(1, 4, 1, 1)),
        net("ReduceMax", opset=20, out=(1, 1, 1, 1)),
        net("ReduceL2", "a", weights=AXES, opset=18, keepdims=0, out=(1, 4)),
        net("ReduceSum", "a", weights=AXES, opset=18, out=(1, 4, 1, 1)),
        net("Split", opset=18, num_outputs=2, axis=1, outputs=("y", "z"), out=(1, 2, 8, 8)),
        net("Pad", "p", weights={"p": array([0, 0, 1, 1] * 2, np.int64)}, opset=18, out=(1, 4, 10, 10)),
        net("Resize", "roi", "s", weights=ROI, opset=19, mode="linear", out=(1, 4, 16, 16)),
        net(
            "Resize",
            "roi",
            "s",
            weights=ROI,
            opset=18,
            axes=[0, 1, 2, 3],
            keep_aspect_ratio_policy="stretch",
            out=(1, 4, 16, 16),
        ),
        net("AveragePool", opset=19, kernel_shape=[2, 2], dilations=[1, 1], out=(1, 4, 7, 7)),
        net("Reshape", "t", weights={"t": array([1, -1], np.int64)}, opset=14, allowzero=0, out=(1, 256)),
        net("Cast", opset=19, to=1, saturate=1, out=IMAGE),
        net("Clip", "l", "h", weights={"l": array(0), "h": array(1)}, opset=18, out=IMAGE),
    ],
)
def test_newer_forms_are_written_in_opset_13(model):
    before = outputs(model)
    made, notes = ready(model, "8.2.1")
    for old, new in zip(before, outputs(made), strict=True):
        np.testing.assert_allclose(old, new, atol=1e-6)  # ONNX Runtime has another kernel for some forms
    assert opset(made) == 13
    assert "written in opset 13" in notes[-1]
    assert refusals(made, "8.2.1") == set()


@pytest.mark.parametrize(
    "model",
    [
        net(
            "ReduceMean", "a", weights={"a": array([], np.int64)}, opset=18, noop_with_empty_axes=1, out=IMAGE
        ),
        net("Split", opset=18, num_outputs=3, axis=1, outputs=("y", "z", "w"), out=(1, 2, 8, 8)),
        net("Resize", "roi", "s", weights=ROI, opset=18, mode="linear", antialias=1, out=(1, 4, 16, 16)),
        net("AveragePool", opset=19, kernel_shape=[2, 2], dilations=[2, 2], out=(1, 4, 6, 6)),
        net(
            "Pad",
            "p",
            weights={"p": array([0, 0, 1, 1] * 2, np.int64)},
            opset=19,
            mode="wrap",
            out=(1, 4, 10, 10),
        ),
    ],
)
def test_what_has_no_older_form_stays_and_is_refused(model):
    made, _ = same(model, "8.2.1")
    assert opset(made) == opset(model)
    assert "opset" in refusals(made, "8.2.1")


def test_one_node_without_an_older_form_keeps_the_whole_model_as_it_is():
    nodes = [
        helper.make_node("ReduceMean", ["x", "a"], ["m"], name="mean"),
        helper.make_node("AveragePool", ["x"], ["p"], name="pool", kernel_shape=[2, 2], dilations=[2, 2]),
        helper.make_node("Add", ["m", "p"], ["y"], name="add"),
    ]
    model = build(
        nodes, [tensor("x", IMAGE)], [tensor("y", (1, 4, 6, 6))], {"a": array([2, 3], np.int64)}, opset=19
    )
    made, _ = same(model, "8.2.1")
    assert made.graph.node[0].op_type == "ReduceMean"
    assert len(made.graph.node[0].input) == 2
    assert {each.node for each in preflight(made, board("8.2.1"), "fp32") if each.rule == "opset"} == {
        "mean",
        "pool",
    }


def test_grid_sample_of_opset_20_has_its_older_name_of_the_mode():
    grid = {"g": np.random.default_rng(1).random((1, 3, 3, 2), np.float32)}
    made, _ = same(net("GridSample", "g", weights=grid, opset=20, out=(1, 4, 3, 3)), "8.5.2")
    assert opset(made) == 17
    assert refusals(made, "8.5.2") == set()


def test_operators_that_a_version_lacks_are_written_out():
    scale = {"s": np.linspace(0.5, 2, 8, dtype=np.float32)}
    model = net("LayerNormalization", "s", weights=scale, opset=17, out=IMAGE)
    before = outputs(model)[0]
    made, notes = ready(model, "8.2.1")
    np.testing.assert_allclose(outputs(made)[0], before, atol=1e-5)
    assert "LayerNormalization written out" in notes[0]
    assert refusals(made, "8.2.1") == set()


# --- int8 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({}, ""),
        ({"bias": np.arange(8, dtype=np.int32) * 100}, "int32 biases"),
        ({"zero": np.uint8(128)}, "uint8 activations"),
        ({"stored": True}, "stored int8 weights"),
        ({"stored": True, "weight_scale": np.float32(0.01)}, "stored int8 weights"),
        ({"stored": True, "zero": np.uint8(128), "bias": np.full(8, -7, np.int32)}, "int32 biases"),
    ],
)
def test_pairs_are_rewritten_bit_for_bit(version, changes, note):
    model = quantized(**changes)
    made, notes = same(model, version, "int8")
    assert not note or any(note in each for each in notes)
    assert {each.rule for each in preflight(made, board(version), "int8")} <= {"operator-table"}


@pytest.mark.parametrize(
    "changes",
    [{"zero": np.uint8(0)}, {"zero": np.uint8(127)}, {"zero": np.int8(5)}, {"scale": np.float32(np.inf)}],
)
def test_what_symmetric_int8_cannot_say_stays_and_is_refused(changes):
    made, _ = ready(quantized(**changes), "10.3.0", "int8")
    assert refusals(made, "10.3.0", "int8")


def test_stored_asymmetric_weights_that_fit_are_shifted():
    model = quantized(stored=True)
    for weight in model.graph.initializer:
        if weight.name == "w_q":
            codes = np.clip(onnx.numpy_helper.to_array(weight), -100, 100).astype(np.int8) + np.int8(9)
            weight.CopyFrom(onnx.numpy_helper.from_array(codes, "w_q"))
        elif weight.name == "w_zero":
            weight.CopyFrom(onnx.numpy_helper.from_array(np.full(8, 9, np.int8), "w_zero"))
    made, _ = same(model, "8.5.2", "int8")
    assert refusals(made, "8.5.2", "int8") == set()


def test_weights_beyond_int8_around_zero_stay_and_are_refused():
    model = quantized(stored=True)
    for weight in model.graph.initializer:
        if weight.name == "w_zero":
            weight.CopyFrom(onnx.numpy_helper.from_array(np.full(8, 100, np.int8), "w_zero"))
    made, _ = ready(model, "8.5.2", "int8")
    assert "zero-point" in refusals(made, "8.5.2", "int8")


def test_the_generated_qdq_network_keeps_its_uint8_trap():
    made, _ = same(generate.conv_net_qdq(), "10.3.0", "int8")
    assert refusals(made, "10.3.0", "int8") == {"uint8"}


# --- types ----------------------------------------------------------------------------------------


def test_8_gets_the_clamped_constants_that_it_would_make_itself():
    ends = {"s": array([0], np.int64), "e": array([2**63 - 1], np.int64), "a": array([3], np.int64)}
    made, notes = same(net("Slice", "s", "e", "a", weights=ends, out=IMAGE), "8.2.1")
    stored = {each.name: onnx.numpy_helper.to_array(each) for each in made.graph.initializer}
    assert stored["e"].tolist() == [2**31 - 1]
    assert "clamped" in notes[0]
    assert same(net("Slice", "s", "e", "a", weights=ends, out=IMAGE), "10.3.0")[1] == ()


@pytest.mark.parametrize("version", VERSIONS)
def test_fp16_is_in_the_file_from_11_on_and_a_flag_before(version):
    before = outputs(generate.conv_net())[0]
    made, _ = ready(generate.conv_net(), version, "fp16")
    halves = {each.data_type for each in made.graph.initializer if each.dims} == {onnx.TensorProto.FLOAT16}
    assert halves == (parse_version(version) >= (11, 0, 0))
    assert made.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    np.testing.assert_allclose(outputs(made)[0], before, atol=2e-2)
    assert refusals(made, version, "fp16") == set()


def test_a_float16_model_stays_as_it_is():
    made, _ = ready(generate.conv_net_fp16(), "11.0.0", "fp16")
    assert made.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    assert {node.op_type for node in made.graph.node} == {
        "Conv",
        "Relu",
        "GlobalAveragePool",
        "Flatten",
        "Gemm",
    }


# --- one axis -------------------------------------------------------------------------------------

NARROW = {
    "w": np.random.default_rng(2).normal(0, 0.2, (6, 4, 3)).astype(np.float32),
    "b": np.ones(6, np.float32),
}
UP = {"w": np.random.default_rng(2).normal(0, 0.2, (4, 6, 3)).astype(np.float32)}


@pytest.mark.parametrize(
    "model",
    [
        net("Conv", "w", "b", shape=(1, 4, 16), weights=NARROW, pads=[1, 1], strides=[2], out=(1, 6, 8)),
        net(
            "Conv",
            "w",
            shape=(1, 4, 16),
            weights=NARROW,
            auto_pad="SAME_UPPER",
            out=(1, 6, 16),
        ),
        net(
            "ConvTranspose", "w", shape=(1, 4, 8), weights=UP, strides=[2], output_padding=[1], out=(1, 6, 18)
        ),
        net("MaxPool", shape=(1, 4, 16), kernel_shape=[3], pads=[0, 1], strides=[2], out=(1, 4, 8)),
        net(
            "AveragePool",
            shape=(1, 4, 16),
            kernel_shape=[3],
            pads=[1, 1],
            count_include_pad=1,
            out=(1, 4, 16),
        ),
    ],
)
def test_one_axis_becomes_two_where_a_version_wants_two(model):
    before = outputs(model)[0]
    made, _ = ready(model, "8.2.1")
    np.testing.assert_allclose(outputs(made)[0], before, atol=1e-6)
    assert [node.op_type for node in made.graph.node] == ["Unsqueeze", model.graph.node[0].op_type, "Squeeze"]
    assert refusals(made, "8.2.1") == set()


def test_weights_that_others_read_too_keep_one_axis():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("ReduceSum", ["w"], ["s"], name="sum", keepdims=0),
        helper.make_node("Add", ["c", "s"], ["y"], name="add"),
    ]
    model = build(nodes, [tensor("x", (1, 4, 16))], [tensor("y", (1, 6, 14))], {"w": NARROW["w"]}, opset=13)
    made, _ = same(model, "8.2.1")
    assert refusals(made, "8.2.1") == {"limit"}
    assert refusals(made, "8.5.2") == set()


# --- anything -------------------------------------------------------------------------------------

_SOURCES = ("conv_net", "conv_net_qdq", "lstm_net", "if_net", "deconv_net", "matmul_net")
_ATTRIBUTES = (
    "axis",
    "axes",
    "pads",
    "strides",
    "dilations",
    "mode",
    "num_outputs",
    "block_size",
    "kernel_shape",
)
_VALUES = (-1, 0, 7, 2**40, [0], [1, 2, 3], [-(2**40)], 0.5, "wrap", [0.5])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_passes_the_door_is_prepared_and_judged_without_a_crash(data, tmp_path):
    net = generate.GENERATED[data.draw(st.sampled_from(_SOURCES))]()
    for _ in range(data.draw(st.integers(1, 4))):
        node = data.draw(st.sampled_from(list(net.graph.node)))
        change = data.draw(st.integers(0, 3))
        if change == 0:
            node.op_type = data.draw(
                st.sampled_from(["Conv", "MaxPool", "Split", "Pad", "ReduceMean", "Resize"])
            )
        elif change == 1 and node.input:
            del node.input[data.draw(st.integers(0, len(node.input) - 1)) :]
        elif change == 2:
            name, value = data.draw(st.sampled_from(_ATTRIBUTES)), data.draw(st.sampled_from(_VALUES))
            node.attribute.append(helper.make_attribute(name, value))
        elif net.graph.initializer:
            weight = data.draw(st.sampled_from(list(net.graph.initializer)))
            weight.dims[:] = data.draw(st.lists(st.integers(0, 3), max_size=3))
    net.opset_import[0].version = data.draw(st.sampled_from([11, 13, 17, 18, 20, 22]))
    version, precision = data.draw(st.sampled_from(VERSIONS)), data.draw(st.sampled_from(["fp32", "int8"]))
    path = generate.save(net, tmp_path / "net.onnx")
    try:
        model.prepare(path, shapes={}, out=path)
        made, _ = prepared(model.load(path), board(version), precision)
        model.write(made, path, name="net", variant="fp32", steps=[])
    except (ModelError, UserError):
        return
    for each in preflight(model.load(path), board(version), precision):
        assert each.message
