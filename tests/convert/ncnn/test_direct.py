"""What edgebench writes for ncnn itself, run by ncnn, against numpy and ONNX Runtime."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper, parser

from edgebench.convert.ncnn import DIRECTLY, direct
from edgebench.errors import ModelError
from edgebench.model.expand import expand, expandable

ncnn = pytest.importorskip("ncnn", reason="missing tool: ncnn")


def _model(text: str) -> ModelProto:
    return expand(parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}'), DIRECTLY)


def _run(model: ModelProto, inputs: dict[str, np.ndarray], folder: Path) -> list[np.ndarray]:
    """The outputs of ncnn, in the shapes that ONNX gives them."""
    path, param, weights = folder / "m.onnx", folder / "m.param", folder / "m.bin"
    path.write_bytes(model.SerializeToString())
    direct.write(path, param, weights)
    net = ncnn.Net()
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, name, False)
    net.opt.num_threads = 1
    assert net.load_param(str(param)) == 0
    assert net.load_model(str(weights)) == 0
    extractor = net.create_extractor()
    held = [ncnn.Mat(np.ascontiguousarray(array)).clone() for array in inputs.values()]
    for number, mat in enumerate(held):
        assert extractor.input(f"in{number}", mat) == 0
    made = []
    for number, value in enumerate(model.graph.output):
        status, mat = extractor.extract(f"out{number}")
        assert status == 0
        made.append(np.array(mat).reshape([dim.dim_value for dim in value.type.tensor_type.shape.dim]))
    return made


def _reference(model: ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def _same(model: ModelProto, inputs: dict[str, np.ndarray], folder: Path) -> None:
    for got, wanted in zip(_run(model, inputs, folder), _reference(model, inputs), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def _numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def test_the_table_of_functions_is_what_is_lowered() -> None:
    functions = {name for name in direct.OPERATORS if expandable([name], frozenset())}
    better_written_out = {"DepthToSpace", "SpaceToDepth"}  # lowered for old opsets, which have no function
    assert functions - better_written_out == DIRECTLY


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_every_order_of_axes(rank: int, tmp_path: Path) -> None:
    shape = (2, 3, 4, 5)[:rank]
    for order in itertools.permutations(range(rank)):
        made = [shape[place] for place in order]
        text = f"g (float{list(shape)} x) => (float{made} y) {{ y = Transpose <perm = {list(order)}> (x) }}"
        _same(_model(text), {"x": _numbers(*shape)}, tmp_path)


@st.composite
def _broadcast(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    full = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    sides = []
    for _ in range(2):
        side = [draw(st.sampled_from([size, 1])) for size in full]
        sides.append(side[draw(st.integers(0, len(side) - 1)) :])
    return sides[0], sides[1]


@given(shapes=_broadcast(), operator=st.sampled_from(["Add", "Sub", "Mul", "Max", "Less", "Where"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_broadcasting_is_that_of_onnx(
    shapes: tuple[list[int], list[int]], operator: str, tmp_path: Path
) -> None:
    left, right = shapes
    full = list(np.broadcast_shapes(tuple(left), tuple(right)))
    body = f"y = {operator}(a, b)"
    if operator == "Less":
        body = "t = Less(a, b) y = Cast <to = 1> (t)"
    if operator == "Where":
        body = "t = Greater(a, b) y = Where(t, b, a)"
    model = _model(f"g (float{left} a, float{right} b) => (float{full} y) {{ {body} }}")
    _same(model, {"a": _numbers(*left), "b": -_numbers(*right)[::-1]}, tmp_path)


@given(
    axes=st.sets(st.integers(0, 3)),
    keep=st.booleans(),
    operator=st.sampled_from(["Sum", "Mean", "Max", "L2"]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_reductions_over_any_axes(axes: set[int], keep: bool, operator: str, tmp_path: Path) -> None:
    shape = (2, 3, 4, 2)
    x = helper.make_tensor_value_info("x", 1, shape)
    chosen = axes or set(range(4))
    kept = [1 if place in chosen else size for place, size in enumerate(shape)]
    gone = [size for place, size in enumerate(shape) if place not in chosen]
    y = helper.make_tensor_value_info("y", 1, kept if keep else gone)
    given_axes = {"axes": sorted(axes)} if axes else {}
    node = helper.make_node(f"Reduce{operator}", ["x"], ["y"], keepdims=int(keep), **given_axes)
    if operator == "Sum":
        node = helper.make_node("ReduceSum", ["x", "axes"] if axes else ["x"], ["y"], keepdims=int(keep))
    graph = helper.make_graph([node], "g", [x], [y])
    if operator == "Sum" and axes:
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(sorted(axes), np.int64), "axes"))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    _same(model, {"x": _numbers(*shape)}, tmp_path)


def test_a_tensor_of_six_axes_in_between(tmp_path: Path) -> None:
    """Window attention's partition: six axes, of which the layers see at most four."""
    model = _model(
        """g (float[1, 4, 6, 2] x) => (float[6, 4, 2] y) {
            split = Constant <value = int64[6] {1, 2, 2, 3, 2, 2}> ()
            joined = Constant <value = int64[3] {6, 4, 2}> ()
            a = Reshape(x, split)
            b = Transpose <perm = [0, 1, 3, 2, 4, 5]> (a)
            y = Reshape(b, joined)
        }"""
    )
    _same(model, {"x": _numbers(1, 4, 6, 2)}, tmp_path)


@given(order=st.permutations(range(6)))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_orders_of_six_axes(order: list[int], tmp_path: Path) -> None:
    """Reshape and Transpose as window attention has them: more axes than a Mat."""
    model = _model(
        f"""g (float[6, 24] x) => (float[12, 12] y) {{
            split = Constant <value = int64[6] {{2, 3, 2, 2, 3, 2}}> ()
            joined = Constant <value = int64[2] {{12, 12}}> ()
            a = Reshape(x, split)
            b = Transpose <perm = {list(order)}> (a)
            y = Reshape(b, joined)
        }}"""
    )
    _same(model, {"x": _numbers(6, 24)}, tmp_path)


def test_a_convolution_of_a_batch_with_weights_fed_at_run_time(tmp_path: Path) -> None:
    model = _model(
        """g (float[2, 4, 6, 5] x, float[6, 2, 3, 2] w) => (float[2, 6, 3, 5] y) {
            y = Conv <group = 2, strides = [2, 1], pads = [1, 1, 1, 0]> (x, w)
        }"""
    )
    _same(model, {"x": _numbers(2, 4, 6, 5), "w": _numbers(6, 2, 3, 2)}, tmp_path)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("states", [False, True])
def test_recurrent_layers(kind: str, direction: str, states: bool, tmp_path: Path) -> None:
    ways, gates = (2 if direction == "bidirectional" else 1), {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    weights = {"w": _numbers(ways, gates * 6, 5), "r": _numbers(ways, gates * 6, 6) / 2}
    weights["b"] = _numbers(ways, 2 * gates * 6)
    more = ["h0", "c0"][: 2 if kind == "LSTM" else 1] if states else []
    outputs = ["y", "h", "c"][: 3 if kind == "LSTM" else 2]
    linear = {"linear_before_reset": 1} if kind == "GRU" else {}
    inputs = ["x", *weights, *(["", *more] if states else [])]
    node = helper.make_node(kind, inputs, outputs, hidden_size=6, direction=direction, **linear)
    shapes = {"x": [7, 1, 5], "y": [7, ways, 1, 6]}
    model = _network([node], ["x", *more], outputs, {"other": [ways, 1, 6]} | shapes, weights)
    _same(model, {name: _numbers(*shapes.get(name, [ways, 1, 6])) for name in ["x", *more]}, tmp_path)


def _network(
    nodes: list[onnx.NodeProto],
    inputs: list[str],
    outputs: list[str],
    shapes: dict[str, list[int]],
    weights: dict[str, np.ndarray],
) -> ModelProto:
    def typed(names: list[str]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, 1, shapes.get(name, shapes["other"])) for name in names]

    kept = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", typed(inputs), typed(outputs), kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_blob_that_is_read_often_and_is_an_output(tmp_path: Path) -> None:
    model = _model("g (float[3] x) => (float[3] a, float[3] b) { a = Tanh(x) t = Mul(a, a) b = Add(t, a) }")
    _same(model, {"x": _numbers(3)}, tmp_path)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("g (float[2, 3] x) => (float[2, 3] y) { y = Hardmax(x) }", "Hardmax"),
        ("g (int64[2] x) => (int64[2] y) { y = Add(x, x) }", "not float32"),
        ("g (float[1, 1, 1, 2, 3] x) => (float[1, 1, 1, 2, 3] y) { y = Tanh(x) }", "5 axes"),
        ("g (float[4] x, int64[2] i) => (float[2] y) { y = Gather(x, i) }", "not float32"),
        (
            """g (float[2, 1, 3] x) => (float[2, 1, 1, 1] y)
            <float[1, 3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}, float[1, 3, 1] r = {1, 2, 3}>
            { y = GRU <hidden_size = 1> (x, w, r) }""",
            "linear_before_reset",
        ),
    ],
)
def test_what_has_no_exact_form_is_refused(text: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(_model(text).SerializeToString())
    with pytest.raises(ModelError, match=what):
        direct.write(path, tmp_path / "param", tmp_path / "bin")
    assert not (tmp_path / "param").exists()
