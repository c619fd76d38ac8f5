"""Every family of lowerings: small ONNX models, converted, saved, and evaluated beside ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.convert.coreml.graphs import assert_same, network

F, I64, I32, U8, B = np.float32, np.int64, np.int32, np.uint8, np.bool_


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(F)


def ints(*entries: Any) -> np.ndarray:
    return np.array(entries, I64)


X4 = values(1, 4, 7, 6)
X3 = values(2, 5, 6)


def case(
    op: str,
    *inputs: Any,
    weights: dict[str, Any] | None = None,
    out: Any = F,
    count: int = 1,
    **attributes: Any,
):
    """(id, operator, inputs in order, constant inputs, output types, attributes)."""
    kinds = [out] * count if not isinstance(out, list) else out
    return pytest.param(op, inputs, kinds, attributes, id=f"{op}-{'-'.join(attributes)}"[:70])


def constant(array: Any) -> tuple[str, np.ndarray]:
    """An input that is an initializer."""
    return ("constant", np.asarray(array))


def names(text: str) -> list[str]:
    return text.split()


STATISTICS = [constant(np.abs(values(4, seed=at)) + 0.1) for at in range(4)]
W34 = constant(values(8, 4, 3, 3, seed=1) * 0.2)
W43 = constant(values(4, 3, 3, 3, seed=4))
CASES = [
    # convolution
    case("Conv", X4, W34, constant(values(8, seed=2)), pads=[1, 0, 2, 1], strides=[2, 1]),
    case("Conv", X4, constant(values(4, 1, 3, 3, seed=1)), group=4, strides=[2, 1], auto_pad="SAME_LOWER"),
    case("Conv", X3, constant(values(4, 5, 3, seed=3))),
    case("Conv", X4, values(8, 4, 3, 3, seed=1), auto_pad="VALID"),
    case("ConvTranspose", X4, W43, strides=[2, 2], output_padding=[1, 1]),
    case("ConvTranspose", X4, W43, strides=[2, 3], pads=[1, 0, 1, 2], group=1),
    case("ConvTranspose", X4, W43, strides=[3, 2], output_shape=[19, 14]),
    # pooling
    case("MaxPool", X4, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    case("MaxPool", X4, kernel_shape=[2, 2], dilations=[2, 3]),
    case("MaxPool", X4, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    case("MaxPool", X4, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], out=[F, I64]),
    case("AveragePool", X4, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 1, 1]),
    case("AveragePool", X4, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", X4, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    case("LpPool", X4, kernel_shape=[2, 2], p=2),
    case("GlobalAveragePool", X4),
    case("GlobalMaxPool", X3),
    # normalization
    case("BatchNormalization", X4, *STATISTICS),
    case("BatchNormalization", values(3, 4), *STATISTICS),
    case("InstanceNormalization", X4, constant(values(4)), constant(values(4, seed=1)), epsilon=1e-3),
    case("LayerNormalization", X3, constant(values(6)), constant(values(6, seed=1)), axis=-1),
    case("LayerNormalization", X3, constant(values(5, 6)), axis=1, out=[F, F, F]),
    case("GroupNormalization", X4, constant(values(4)), constant(values(4, seed=1)), num_groups=2),
    case("LpNormalization", X3, axis=1, p=1),
    case("LRN", X4, size=3, alpha=0.01, beta=0.6, bias=1.5),
    case("MeanVarianceNormalization", X4),
    # activations
    *[case(op, X3) for op in names("Relu Sigmoid Softplus Softsign HardSwish Mish Gelu Hardmax")],
    case("LeakyRelu", X3, alpha=0.3),
    case("PRelu", X4, constant(values(4, 1, 1))),
    case("PRelu", X3, constant(values(6))),
    case("Elu", X3, alpha=0.7),
    case("Selu", X3),
    case("Celu", X3, alpha=2.0),
    case("HardSigmoid", X3, alpha=0.3, beta=0.4),
    case("ThresholdedRelu", X3, alpha=0.5),
    case("Shrink", X3, lambd=0.3, bias=0.1),
    case("Gelu", X3, approximate="tanh"),
    case("Softmax", X3, axis=1),
    case("LogSoftmax", X3 * 40, axis=-1),
    # element by element
    case("Add", X3, values(6)),
    case("Div", X3, constant(3.0)),
    case("Div", np.array([7, -7, 7, -7], I32), np.array([2, 2, -2, -2], I32), out=I32),
    case("Mod", np.array([7, -7, 7, -7], I64), np.array([3, 3, -3, -3], I64), out=I64),
    case("Mod", np.array([7, -7, 7, -7], I64), np.array([3, 3, -3, -3], I64), out=I64, fmod=1),
    case("Add", np.array([250, 3], U8), np.array([10, 4], U8), out=U8),
    case("Pow", np.abs(X3), constant(F(1.7))),
    case("Pow", np.array([2, -3, 4], I32), constant(np.array(3, I32)), out=I32),
    case("Max", X3, values(5, 6), constant(0.2)),
    case("Mean", X3, values(5, 6)),
    case("Clip", X3, constant(F(-0.5)), constant(F(0.5))),
    case("Clip", np.array([-9, 4, 30], I64), constant(np.array(0, I64)), constant(np.array(9, I64)), out=I64),
    case("Where", np.array([[True], [False]]), values(2, 3), values(3)),
    case("Equal", np.array([True, False]), np.array([True, True]), out=B),
    case("LessOrEqual", X3, constant(0.1), out=B),
    case("IsInf", np.array([1, np.inf, -np.inf], F), detect_negative=0, out=B),
    case("Round", np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1.2], F)),
    *[case(op, X3) for op in names("Abs Neg Exp Erf Sign Floor Ceil Sin Tanh Asinh Atan")],
    *[case(op, np.abs(X3) + 1) for op in ("Log", "Sqrt", "Reciprocal", "Acosh")],
    case("Cast", np.array([-1.7, 2.9, 0.0], F), to=7, out=I64),
    case("Cast", np.array([-1.7, 2.9, 0.0], F), to=9, out=B),
    case("Cast", np.array([300, -1, 7], I32), to=2, out=U8),
    case("BitShift", np.array([200, 3], U8), constant(np.array([1, 2], U8)), direction="LEFT", out=U8),
    # reductions
    *[case(op, X3, constant(ints(1)), keepdims=0) for op in names("ReduceSum ReduceMean ReduceMax ReduceL2")],
    *[case(op, X3, keepdims=1) for op in ("ReduceMin", "ReduceProd", "ReduceL1", "ReduceSumSquare")],
    case("ReduceLogSumExp", X3 * 50, constant(ints(-1)), keepdims=1),
    case("ReduceSum", X3, keepdims=0),
    case("ArgMax", np.array([[1, 3, 3], [2, 2, 1]], F), axis=1, select_last_index=1, out=I64),
    case("ArgMin", X3, axis=0, keepdims=0, out=I64),
    case("TopK", X3, constant(ints(3)), axis=-1, largest=0, out=[F, I64]),
    case("CumSum", X3, constant(np.array(1, I64)), exclusive=1, reverse=1),
    # products
    case("MatMul", X3, constant(values(6, 4))),
    case("MatMul", X3, values(6)),
    case("MatMul", values(5), values(2, 5, 3)),
    case("Gemm", values(3, 4), constant(values(4, 5)), constant(values(5))),
    case(
        "Gemm",
        values(4, 3),
        constant(values(5, 4)),
        constant(values(1, 5)),
        transA=1,
        transB=1,
        alpha=0.5,
        beta=2.0,
    ),
    case("Einsum", values(2, 3, 4), values(2, 4, 5), equation="bij,bjk->bik"),
    case("Einsum", values(2, 3, 4), values(4, 5), equation="...i,ij->...j"),
    case("Einsum", values(3, 3), equation="ii->i"),
    case("Einsum", values(2, 3), values(2, 3), equation="ij,ij->"),
    # shapes
    case("Reshape", X3, constant(ints(0, -1, 3))),
    case("Flatten", X4, axis=2),
    case("Transpose", X3, perm=[2, 0, 1]),
    case("Squeeze", values(1, 3, 1), constant(ints(0))),
    case("Unsqueeze", X3, constant(ints(0, -1))),
    case("Concat", X3, values(2, 1, 6), axis=1),
    case("Split", X3, constant(ints(2, 3)), axis=1, count=2),
    case("Split", X3, axis=1, num_outputs=2, count=2),
    case(
        "Slice", X3, constant(ints(-1, 0)), constant(ints(-9, 4)), constant(ints(1, 2)), constant(ints(-2, 3))
    ),
    case("Expand", values(1, 3, 1), constant(ints(2, 1, 4))),
    case("Tile", X3, constant(ints(1, 2, 3))),
    case("Tile", np.array([[True, False]]), constant(ints(2, 1)), out=B),
    case("Trilu", X3, constant(np.array(-1, I64)), upper=0),
    case("DepthToSpace", values(1, 8, 2, 3), blocksize=2, mode="DCR"),
    case("DepthToSpace", values(1, 8, 2, 3), blocksize=2, mode="CRD"),
    case("SpaceToDepth", values(1, 2, 4, 6), blocksize=2),
    *[case("Pad", X3, constant(ints(0, 1, 2, 0, 2, 1)), mode=mode) for mode in ("reflect", "edge", "wrap")],
    case("Pad", X3, constant(ints(1, 0, -1, 0, 2, 1)), constant(F(1.5)), mode="constant"),
    case("Pad", np.array([[1, 2]], I64), constant(ints(0, 1, 0, 1)), constant(np.array(9, I64)), out=I64),
    # indices
    case("Gather", X3, constant(np.array([[0, -1], [2, 3]], I64)), axis=1),
    case("Gather", X3, np.array([-1, 0], I64), axis=2),
    case("Gather", X3, constant(np.array(-2, I64)), axis=1),
    case("GatherElements", X3, np.array([[[1, 0, 1]], [[0, -1, 0]]], I64), axis=0),
    case("GatherND", X3, constant(np.array([[0, 1], [-1, -2]], I64))),
    case("ScatterElements", X3, np.array([[[0, 1, -1]]], I64), values(1, 1, 3), axis=2),
    case("ScatterElements", values(3, 3), np.array([[1, 0, 2]], I64), values(1, 3), axis=0, reduction="add"),
    case("ScatterND", X3, constant(np.array([[0], [1]], I64)), values(2, 5, 6, seed=9)),
    case("ScatterND", values(4), np.array([[1], [-1]], I64), values(2), reduction="max"),
    case(
        "OneHot",
        np.array([0, 2, -1, 9], I64),
        constant(np.array(3, I64)),
        constant(np.array([0.5, 2], F)),
        axis=0,
    ),
    case("Compress", X3, constant(np.array([True, False, True, False, True])), axis=1),
    case("ReverseSequence", values(4, 3, 2), constant(ints(4, 2, 1)), time_axis=0, batch_axis=1),
    case("EyeLike", values(3, 4), k=1),
    # resizing
    case("Resize", X4, constant(np.zeros(0, F)), constant(np.array([1, 1, 2, 3], F)), mode="nearest"),
    case("Resize", X4, constant(np.zeros(0, F)), constant(np.array([1, 1, 0.6, 1.7], F)), mode="nearest"),
    *[
        case(
            "Resize",
            X4,
            constant(np.zeros(0, F)),
            constant(np.zeros(0, F)),
            constant(ints(1, 4, *sizes)),
            mode=mode,
            coordinate_transformation_mode=rule,
        )
        for mode, rule, sizes in (
            ("linear", "half_pixel", (14, 9)),
            ("linear", "align_corners", (4, 11)),
            ("linear", "asymmetric", (13, 13)),
            ("linear", "pytorch_half_pixel", (1, 12)),
            ("cubic", "half_pixel", (10, 3)),
        )
    ],
    case("GridSample", X4, values(1, 3, 2, 2) * 0.8, align_corners=1, padding_mode="border"),
    # integers
    case("DynamicQuantizeLinear", X3, out=[U8, F, U8]),
    case("QuantizeLinear", X3, constant(F(0.1)), constant(np.array(3, U8)), out=U8),
    case("DequantizeLinear", np.array([[1, 200, 7]], U8), constant(F(0.5)), constant(np.array(9, U8))),
    case("MatMulInteger", np.array([[1, 200], [7, 3]], U8), np.array([[5], [250]], U8), out=I32),
    case(
        "ConvInteger",
        np.arange(16, dtype=U8).reshape(1, 1, 4, 4),
        constant(np.full((1, 1, 2, 2), 3, U8)),
        out=I32,
    ),
]


@pytest.mark.parametrize(("op", "inputs", "kinds", "attributes"), CASES)
def test_a_package_computes_what_onnx_runtime_computes(op, inputs, kinds, attributes):
    feeds: dict[str, np.ndarray] = {}
    stored: dict[str, np.ndarray] = {}
    names = []
    for place, given in enumerate(inputs):
        name = f"in.{place}"
        fixed = isinstance(given, tuple)
        array = np.asarray(given[1] if fixed else given)
        if array.dtype == np.float64:
            array = array.astype(F)
        (stored if fixed else feeds)[name] = array
        names.append("" if array.size == 0 else name)
    stored = {name: each for name, each in stored.items() if each.size}
    outputs = {f"out/{place}": kind for place, kind in enumerate(kinds)}
    node = helper.make_node(op, names, list(outputs), name="the-node", **attributes)
    assert_same(network([node], feeds, outputs, stored), feeds)


# --- recurrences ----------------------------------------------------------------------------------


def recurrent(op: str, gates: int, directions: int, *, bias: bool, lengths: bool, **attributes: Any) -> None:
    steps, batch, features, hidden = 4, 2, 3, 5
    weights = {
        "w": values(directions, gates * hidden, features, seed=1) * 0.5,
        "r": values(directions, gates * hidden, hidden, seed=2) * 0.5,
        "b": values(directions, 2 * gates * hidden, seed=3) * 0.5,
    }
    feeds = {"x": values(steps, batch, features), "h": values(directions, batch, hidden, seed=4)}
    names = ["x", "w", "r", "b" if bias else "", "n" if lengths else "", "h"]
    if lengths:
        weights["n"] = np.array([4, 2], I32)
    outputs = {"y": F, "last": F} | ({"cell": F} if op == "LSTM" else {})
    node = helper.make_node(op, names, list(outputs), hidden_size=hidden, **attributes)
    net = network([node], feeds, outputs, {name: each for name, each in weights.items() if name in names})
    assert_same(net, feeds)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrences_in_every_direction(op, gates, direction):
    directions = 2 if direction == "bidirectional" else 1
    recurrent(op, gates, directions, bias=True, lengths=False, direction=direction)


def test_the_reset_gate_after_the_product_as_pytorch_exports_it():
    recurrent("GRU", 3, 1, bias=True, lengths=False, linear_before_reset=1)


def test_sequences_of_their_own_lengths():
    recurrent("LSTM", 4, 2, bias=True, lengths=True, direction="bidirectional")


def test_other_activations_and_clipping():
    recurrent("RNN", 1, 1, bias=False, lengths=False, activations=["Relu"], clip=0.8)


# --- old opsets -----------------------------------------------------------------------------------


def test_softmax_of_old_opsets_flattens_what_lies_behind():
    node = helper.make_node("Softmax", ["x"], ["y"], axis=1)
    feeds = {"x": values(2, 3, 4)}
    assert_same(network([node], feeds, {"y": F}, opset=11), feeds)


def test_pads_and_bounds_as_attributes():
    nodes = [
        helper.make_node("Pad", ["x"], ["a"], pads=[0, 1, 0, 2], value=1.0),
        helper.make_node("Slice", ["a"], ["b"], starts=[0], ends=[-1], axes=[1]),
        helper.make_node("Clip", ["b"], ["y"], min=-0.5, max=0.5),
    ]
    feeds = {"x": values(2, 3)}
    assert_same(network(nodes, feeds, {"y": F}, opset=9), feeds)


def test_constants_are_computed_by_the_rules_of_the_models_own_opset():
    nodes = [
        helper.make_node("Unsqueeze", ["scale"], ["wide"], axes=[1, 2]),
        helper.make_node("Mul", ["x", "wide"], ["y"]),
    ]
    feeds = {"x": values(1, 3, 2, 2)}
    assert_same(network(nodes, feeds, {"y": F}, {"scale": values(3)}, opset=9), feeds)


# --- functions and shape arithmetic ---------------------------------------------------------------


def test_operators_that_onnx_defines_as_functions_are_written_out():
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], is_causal=1)
    feeds = {name: values(1, 2, 4, 8, seed=at) for at, name in enumerate("qkv")}
    assert_same(network([node], feeds, {"y": F}, opset=23), feeds)


def test_shape_arithmetic_is_computed_beforehand():
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], axis=0),
        helper.make_node("Concat", ["batch", "rest"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["x", "wanted"], ["y"]),
    ]
    feeds = {"x": values(2, 3, 4)}
    assert_same(network(nodes, feeds, {"y": F}, {"zero": ints(0), "rest": ints(-1)}), feeds)


def test_scalars_travel_as_one_element():
    node = helper.make_node("Mul", ["x", "rate"], ["y"])
    feeds = {"x": values(3), "rate": np.array(2.5, F)}
    assert_same(network([node], feeds, {"y": F}), feeds)
