"""The canonical form: static, sorted, clean, the same bytes each time, and the same values as before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebench import model
from edgebench.errors import ModelError, UserError
from edgebench.records import ModelInfo
from tests.model.running import run
from tests.models import generate
from tests.models.published import PUBLISHED, published

RUNNABLE = [
    "bool_net",
    "constant_weights",
    "conv_net",
    "conv_net_dynamic",
    "conv_net_fp16",
    "conv_net_integer",
    "conv_net_qdq",
    "deconv_net",
    "if_net",
    "ir3_net",
    "lstm_net",
    "matmul_net",
    "rank0_input",
    "two_inputs",
    "unsorted_net",
]


def _prepare(path: Path, shapes: dict[str, tuple[int, ...]] | None = None, batch: int = 1) -> ModelInfo:
    return model.prepare(path, shapes=shapes or {}, batch=batch, out=path.with_name("out.onnx"))


def _same_values(path: Path, info: ModelInfo, **fixed: np.ndarray) -> None:
    feed = model.random_inputs(info, seed=3) | fixed
    before, after = run(path, feed), run(path.with_name("out.onnx"), feed)
    assert list(before) == list(after)
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)


@pytest.mark.parametrize("name", RUNNABLE)
def test_values_do_not_change_and_bytes_repeat(tmp_path: Path, name: str) -> None:
    path = generate.write(tmp_path, name)
    info = _prepare(path)
    _same_values(path, info)
    first = (tmp_path / "out.onnx").read_bytes()
    assert _prepare(path) == info
    assert (tmp_path / "out.onnx").read_bytes() == first
    onnx.checker.check_model(onnx.load_from_string(first), full_check=True)


@pytest.mark.parametrize("name", RUNNABLE)
def test_the_canonical_form_of_a_canonical_form_is_itself(tmp_path: Path, name: str) -> None:
    path = generate.write(tmp_path, name)
    once = _prepare(path)
    again = model.prepare(tmp_path / "out.onnx", shapes={}, out=tmp_path / "again.onnx")
    assert again == once
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()


@pytest.mark.models
@pytest.mark.parametrize("name", ["ppocr-cls", "ppocr-v4-det", "silero-vad-16k", "silero-vad", "akiki-vad"])
def test_published_networks_keep_their_values(tmp_path: Path, name: str) -> None:
    path = tmp_path / "in.onnx"
    path.symlink_to(published(name))
    info = _prepare(path, PUBLISHED[name].shapes)
    fixed = {"sr": np.array(16_000, np.int64)} if "sr" in {tensor.name for tensor in info.inputs} else {}
    _same_values(path, info, **fixed)
    if name.startswith("ppocr"):
        assert all(isinstance(size, int) for output in info.outputs for size in output.shape)
        assert "Shape" not in info.operators
        assert info.macs is not None


# --- shapes ---------------------------------------------------------------------------------------


def test_a_lone_leading_batch_becomes_one_and_the_lineage_says_so(tmp_path: Path) -> None:
    info = _prepare(generate.write(tmp_path, "conv_net_dynamic"))
    assert info.inputs[0].shape == (1, 3, 16, 16)
    assert info.outputs[0].shape == (1, 10)
    assert info.lineage[-1].startswith("freeze image=1x3x16x16 from sha256:")


def test_a_batch_may_be_asked_for(tmp_path: Path) -> None:
    info = _prepare(generate.write(tmp_path, "conv_net_dynamic"), batch=4)
    assert (info.inputs[0].shape, info.outputs[0].shape) == ((4, 3, 16, 16), (4, 10))
    assert info.macs == 4 * generate.CONV_NET_MACS


def test_a_static_model_is_not_said_to_be_frozen(tmp_path: Path) -> None:
    assert _prepare(generate.write(tmp_path, "conv_net")).lineage == ()


def test_a_batch_beside_a_fixed_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fixed at 1"):
        _prepare(generate.write(tmp_path, "conv_net"), batch=8)


def test_an_unknown_size_asks_for_the_option_to_type(tmp_path: Path) -> None:
    path = generate.write(tmp_path, "conv_net_dynamic_size")
    with pytest.raises(UserError, match=r'"image" \[N, 3, H, W\]') as caught:
        _prepare(path)
    first, _, second = caught.value.hint.partition(", or by their names: ")
    assert (first, second) == (
        "--shape image=1,3,224,224",
        "--shape N=SIZE --shape H=SIZE --shape W=SIZE",
    )
    name, shape = model.parse_shape(first.removeprefix("--shape "))
    assert _prepare(path, {name: shape}).inputs[0].shape == shape


def test_open_sizes_are_fixed_by_their_names(tmp_path: Path) -> None:
    info = _prepare(
        generate.write(tmp_path, "conv_net_dynamic_size"), {"N": (2,), "H": (16,), "W": (24,)}, batch=2
    )
    assert (info.inputs[0].shape, info.outputs[0].shape) == ((2, 3, 16, 24), (2, 10))
    assert info.lineage[-1].startswith("freeze image=2x3x16x24 from sha256:")


def test_the_batch_is_one_where_only_the_other_sizes_are_named(tmp_path: Path) -> None:
    info = _prepare(generate.write(tmp_path, "conv_net_dynamic_size"), {"H": (16,), "W": (24,)})
    assert info.inputs[0].shape == (1, 3, 16, 24)


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ({"picture": (1, 3, 8, 8)}, 'no input "picture"'),
        ({"HH": (8,)}, "no unknown size of that name"),
        ({"H": (8, 8), "W": (8,)}, "is one size of the model"),
        ({"image": (1, 3, 8, 8), "H": (16,)}, 'share the size "H"'),
        ({"N": (1,), "H": (1 << 20,), "W": (1 << 20,)}, "no shape that a device could hold"),
        ({"image": (1, 4, 8, 8)}, "does not fit"),
        ({"image": (3, 8, 8)}, "does not fit"),
        ({"image": (1, 3, 1 << 20, 1 << 20)}, "no shape that a device could hold"),
        ({"image": (1, 3, 0, 8)}, "no shape that a device could hold"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], told: str
) -> None:
    with pytest.raises(UserError, match=told) as caught:
        _prepare(generate.write(tmp_path, "conv_net_dynamic_size"), shapes)
    assert caught.value.hint
    assert not (tmp_path / "out.onnx").exists()


def test_unnamed_sizes_are_frozen_too(tmp_path: Path) -> None:
    for name in ("", "?"):
        proto = generate.conv_net_dynamic_size()
        for dim in proto.graph.input[0].type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = name
        path = generate.save(proto, tmp_path / "m.onnx")
        assert _prepare(path, {"image": (1, 3, 8, 12)}).inputs[0].shape == (1, 3, 8, 12)


def test_an_input_of_unknown_rank_needs_a_shape(tmp_path: Path) -> None:
    proto = generate.conv_net()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    path = generate.save(proto, tmp_path / "m.onnx")
    with pytest.raises(UserError, match="of unknown rank"):
        _prepare(path)
    assert _prepare(path, {"image": (1, 3, 16, 16)}).inputs[0].shape == (1, 3, 16, 16)


def _shared_symbols(tmp_path: Path) -> Path:
    nodes = [helper.make_node("Add", ["a", "b"], ["y"], name="add")]
    shape = ["batch", "length"]
    inputs = [generate.tensor("a", shape), generate.tensor("b", shape)]
    return generate.save(generate.build(nodes, inputs, [generate.tensor("y", shape)]), tmp_path / "m.onnx")


def test_a_shared_symbol_is_given_once(tmp_path: Path) -> None:
    info = _prepare(_shared_symbols(tmp_path), {"a": (2, 7)})
    assert [tensor.shape for tensor in (*info.inputs, *info.outputs)] == [(2, 7)] * 3


def test_a_shared_symbol_with_two_sizes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='share the size "length"'):
        _prepare(_shared_symbols(tmp_path), {"a": (2, 7), "b": (2, 8)})


def test_shape_arithmetic_is_folded(tmp_path: Path) -> None:
    """x [N,3,4] -> Reshape to [batch, 12] as exporters write it: Shape, Gather, Unsqueeze, Concat."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], name="shape"),
        helper.make_node("Gather", ["shape", "first"], ["n"], name="gather", axis=0),
        helper.make_node("Unsqueeze", ["n", "axis"], ["n1"], name="unsqueeze"),
        helper.make_node("Concat", ["n1", "rest"], ["sizes"], name="concat", axis=0),
        helper.make_node("Reshape", ["x", "sizes"], ["y"], name="reshape"),
    ]
    weights = {"first": np.array(0), "axis": np.array([0]), "rest": np.array([-1])}
    proto = generate.build(
        nodes, [generate.tensor("x", ["N", 3, 4])], [generate.tensor("y", [None, None])], weights
    )
    path = generate.save(proto, tmp_path / "m.onnx")
    info = _prepare(path, batch=2)
    assert info.outputs[0].shape == (2, 12)
    assert info.operators == {"Reshape": 1}
    assert len(model.load(tmp_path / "out.onnx").graph.initializer) == 1
    _same_values(path, info)


@pytest.mark.parametrize(("left", "right"), [(7, 2), (-7, 2), (7, -2), (-7, -2), (6, 3), (0, 5)])
def test_folded_division_is_the_runtimes(tmp_path: Path, left: int, right: int) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], name="shape"),
        helper.make_node("Mul", ["shape", "zero"], ["nothing"], name="mul"),
        helper.make_node("Add", ["nothing", "left"], ["a"], name="add"),
        helper.make_node("Div", ["a", "right"], ["q"], name="div"),
        helper.make_node("Cast", ["q"], ["f"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"], name="last"),
    ]
    weights = {"zero": np.array([0]), "left": np.array([left]), "right": np.array([right])}
    proto = generate.build(nodes, [generate.tensor("x", [1])], [generate.tensor("y", [1])], weights)
    path = generate.save(proto, tmp_path / "m.onnx")
    info = _prepare(path)
    assert info.operators == {"Add": 1}
    _same_values(path, info)


# --- tidying --------------------------------------------------------------------------------------


def test_notes_of_the_exporter_are_gone(tmp_path: Path) -> None:
    proto = generate.conv_net()
    secret = "/home/somebody/secret/train.py: loss = my_loss(x)"
    proto.doc_string = proto.graph.doc_string = secret
    for entry in (proto.graph.node[0], proto.graph.input[0], proto.graph.initializer[0]):
        entry.doc_string = secret
        entry.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=secret)
    proto.graph.metadata_props.add(key="trace", value=secret)
    proto.metadata_props.add(key="classes", value="cat,dog")
    _prepare(generate.save(proto, tmp_path / "m.onnx"))
    written = (tmp_path / "out.onnx").read_bytes()
    assert b"secret" not in written
    assert b"cat,dog" in written


def test_unused_imports_are_gone(tmp_path: Path) -> None:
    proto = generate.conv_net()
    proto.opset_import.append(helper.make_opsetid("ai.onnx.training", 1))
    _prepare(generate.save(proto, tmp_path / "m.onnx"))
    assert [entry.domain for entry in model.load(tmp_path / "out.onnx").opset_import] == [""]


def test_ir_3_is_raised_and_weights_leave_the_inputs(tmp_path: Path) -> None:
    info = _prepare(generate.write(tmp_path, "ir3_net"))
    assert info.ir_version >= 4
    assert [value.name for value in model.load(tmp_path / "out.onnx").graph.input] == ["image"]


def test_external_data_comes_in(tmp_path: Path) -> None:
    path = generate.write_external(tmp_path)
    info = _prepare(path)
    (tmp_path / "weights.bin").unlink()
    assert model.inspect(tmp_path / "out.onnx") == info


def test_name_and_variant_stay_with_the_file(tmp_path: Path) -> None:
    generate.write(tmp_path, "conv_net_qdq")
    info = model.prepare(tmp_path / "conv_net_qdq.onnx", shapes={}, out=tmp_path / "model.onnx")
    assert (info.name, info.variant) == ("conv_net_qdq", "int8-qdq")
    assert model.inspect(tmp_path / "model.onnx") == info


def test_nothing_half_written_where_the_folder_is_missing(tmp_path: Path) -> None:
    path = generate.write(tmp_path, "conv_net")
    with pytest.raises(UserError, match="no folder"):
        model.prepare(path, shapes={}, out=tmp_path / "nowhere" / "out.onnx")
    assert [each.name for each in tmp_path.iterdir()] == ["conv_net.onnx"]


def test_a_refused_network_writes_nothing(tmp_path: Path) -> None:
    path = generate.write(tmp_path, "huge_constant")
    with pytest.raises(ModelError):
        _prepare(path)
    assert [each.name for each in tmp_path.iterdir()] == ["huge_constant.onnx"]


# --- float16 --------------------------------------------------------------------------------------


def test_upcast_computes_the_same_in_float32(tmp_path: Path) -> None:
    half = model.load(generate.write(tmp_path, "conv_net_fp16"))
    wide = model.fp16_to_fp32(half)
    assert half.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    image = model.random_inputs(model.inspect(tmp_path / "conv_net_fp16.onnx"), 0)["image"]
    expected = run(half, {"image": image})["logits"].astype(np.float32)
    found = run(wide, {"image": image.astype(np.float32)})["logits"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_upcast_leaves_no_float16_anywhere() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], name="down", to=TensorProto.FLOAT16),
        helper.make_node(
            "Constant", [], ["c"], name="c", value=numpy_helper.from_array(np.array([0.1], np.float16))
        ),
        helper.make_node("Mul", ["h", "c"], ["m"], name="mul"),
        helper.make_node("Cast", ["m"], ["y"], name="up", to=TensorProto.FLOAT),
    ]
    wide = model.fp16_to_fp32(
        generate.build(nodes, [generate.tensor("x", [1, 4])], [generate.tensor("y", [1, 4])])
    )
    onnx.checker.check_model(wide, full_check=True)
    assert str(wide).count("FLOAT16") == 0
    assert [a.i for n in wide.graph.node for a in n.attribute if a.name == "to"] == [TensorProto.FLOAT] * 2
    x = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(run(wide, {"x": x})["y"], x * np.float32(np.float16(0.1)))


def test_upcast_of_a_float32_model_is_equal(tmp_path: Path) -> None:
    proto = model.load(generate.write(tmp_path, "if_net"))
    assert model.fp16_to_fp32(proto) == proto


@pytest.mark.parametrize("parts", [[], [1]])
def test_a_spectrum_has_the_half_that_is_not_said(tmp_path: Path, parts: list[int]) -> None:
    """ONNX's inference takes STFT's missing `onesided` for 0: the next MatMul would contradict it.

    Without its last axis, the signal is taken by ONNX Runtime alone.
    """
    random = np.random.default_rng(1)
    weights = {
        "step": np.array(8, np.int64),
        "window": np.hanning(16).astype(np.float32),
        "bands": random.standard_normal((9, 4)).astype(np.float32),
        "axes": np.array([-1], np.int64),
    }
    nodes = [
        helper.make_node("STFT", ["x", "step", "window"], ["spectrum"]),
        helper.make_node("ReduceSumSquare", ["spectrum"], ["power"], axes=[3], keepdims=0),
        helper.make_node("MatMul", ["power", "bands"], ["y"]),
    ]
    inputs = [generate.tensor("x", ["n", 64, *parts])]
    proto = generate.build(nodes, inputs, [generate.tensor("y", ["n", "f", 4])], weights)
    path = generate.save(proto, tmp_path / "in.onnx")
    info = _prepare(path)
    assert info.outputs[0].shape == (1, 7, 4)
    assert info.operators.get("Unsqueeze", 0) == (not parts)
    assert model.prepare(tmp_path / "out.onnx", shapes={}, out=tmp_path / "again.onnx") == info
    _same_values(path, info)


def test_twins_get_a_number_and_onnx_has_one_name(tmp_path: Path) -> None:
    """ONNX Runtime loads no two nodes of one name; to ONNX's own tools "ai.onnx" is not ""."""
    proto = generate.conv_net()
    for node in proto.graph.node[:3]:
        node.name, node.domain = "twin", "ai.onnx"
    proto.opset_import[0].domain = "ai.onnx"
    proto.graph.node[3].name = "twin_1"
    path = generate.save(proto, tmp_path / "m.onnx")
    _same_values(generate.save(generate.conv_net(), tmp_path / "plain.onnx"), _prepare(path))
    made = onnx.load(tmp_path / "out.onnx")
    assert [node.name for node in made.graph.node[:4]] == ["twin", "twin_2", "twin_3", "twin_1"]
    assert {node.domain for node in made.graph.node} == {""}
    assert [entry.domain for entry in made.opset_import] == [""]


def test_onnxruntimes_own_domain_is_imported_where_it_is_used(tmp_path: Path) -> None:
    proto = generate.conv_net()
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "QuickGelu", "com.microsoft"
    _prepare(generate.save(proto, tmp_path / "m.onnx"))
    made = onnx.load(tmp_path / "out.onnx")
    assert {entry.domain: entry.version for entry in made.opset_import}["com.microsoft"] == 1
