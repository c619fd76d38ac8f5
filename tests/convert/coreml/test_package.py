"""What the converter writes and refuses: names, bytes, metadata, compressed weights, and every way out."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebench import model
from edgebench.convert.base import Place, Request
from edgebench.convert.coreml import CoreMlConverter
from edgebench.errors import ModelError
from tests.convert.coreml.graphs import assert_same, converted, evaluated, network, reference
from tests.convert.coreml.mil import tools
from tests.models import generate

F = np.float32
CORNERS = {"coordinate_transformation_mode": "align_corners"}
ROOT = Path(__file__).parents[3]


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(F)


def spec_of(package: Path) -> Any:
    tools()
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    spec.ParseFromString((package / "Data" / "com.apple.CoreML" / "model.mlmodel").read_bytes())
    return spec


def operations(package: Path) -> list[str]:
    main = spec_of(package).mlProgram.functions["main"]
    return [each.type for each in main.block_specializations[main.opset].operations]


def refused(net: Any, folder: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        converted(net, folder)
    assert caught.value.hint
    assert not list((folder / "out").iterdir()), "nothing half-written"
    return caught.value


# --- refusals -------------------------------------------------------------------------------------


def test_every_unsupported_operator_is_listed_at_once(tmp_path):
    nodes = [
        helper.make_node("Unique", ["x"], ["a"], name="first"),
        helper.make_node("NonZero", ["a"], ["b"], name="second"),
        helper.make_node("NonZero", ["x"], ["c"], name="third"),
        helper.make_node("Concat", ["b", "c"], ["y"], axis=1),
    ]
    error = refused(network(nodes, {"x": values(6)}, {"y": np.int64}), tmp_path)
    assert 'NonZero ("second", "third")' in error.message
    assert 'Unique ("first")' in error.message


def test_every_inexact_node_is_listed_at_once(tmp_path):
    nodes = [
        helper.make_node("Dropout", ["x", "ratio", "training"], ["a"], name="one"),
        helper.make_node("Relu", ["a"], ["b"], name="fine"),
        helper.make_node("Resize", ["b", "", "scales"], ["y"], name="two", mode="linear", **CORNERS),
    ]
    scales = np.array([1, 1, 1.5, 1.5], F)
    weights = {"ratio": F(0.5), "training": np.array(True), "scales": scales}
    net = network(nodes, {"x": values(1, 2, 3, 3)}, {"y": F}, weights)
    error = refused(net, tmp_path)
    assert 'Dropout "one"' in error.message
    assert 'Resize "two"' in error.message


@pytest.mark.parametrize(
    ("op", "computed", "word"),
    [
        ("Reshape", np.array([3, 2], np.int64), "the shape"),
        ("TopK", np.array([1], np.int64), "k must be known"),
    ],
)
def test_parameters_that_are_computed_at_run_time_are_refused(tmp_path, op, computed, word):
    outputs = {"y": F} if op == "Reshape" else {"y": F, "z": np.int64}
    node = helper.make_node(op, ["x", "p"], list(outputs), name="it")
    error = refused(network([node], {"x": values(2, 3), "p": computed}, outputs), tmp_path)
    assert f'{op} "it"' in error.message
    assert word in error.message


def test_more_than_five_axes_are_refused(tmp_path):
    nodes = [
        helper.make_node("Reshape", ["x", "s"], ["a"], name="wide"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("ReduceSum", ["b", "axes"], ["y"], keepdims=0),
    ]
    weights = {"s": np.array([1, 2, 1, 3, 1, 2], np.int64), "axes": np.array([1, 3], np.int64)}
    error = refused(network(nodes, {"x": values(12)}, {"y": F}, weights), tmp_path)
    assert "5" in error.message


def test_detection_heads_are_told_how_to_go_on():
    info = model_info(operators={"Conv": 3, "NonMaxSuppression": 1})
    refusal = CoreMlConverter().refuse(info, "fp32")
    assert refusal is not None
    assert "NonMaxSuppression" in refusal.reason
    assert "boxes and scores" in refusal.hint


def model_info(**changes: Any) -> Any:
    from tests.convert.test_converters import info

    return info(**changes)


# --- names and numbers ----------------------------------------------------------------------------


def test_names_that_core_ml_cannot_have_are_mapped(tmp_path):
    feeds = {
        "image.1": values(2),
        "image_1": values(2, seed=1),
        "state": values(2, seed=2),
        "1/x": values(2, seed=3),
    }
    nodes = [
        helper.make_node("Sum", list(feeds), ["a::b"]),
        helper.make_node("Neg", ["a::b"], ["int32"]),
    ]
    net = network(nodes, feeds, {"a::b": F, "int32": F})
    produced, package = converted(net, tmp_path)
    described = spec_of(package).description
    assert {each.name for each in described.input} == {produced.blobs[name] for name in feeds}
    assert {each.name for each in described.output} == {produced.blobs["a::b"], produced.blobs["int32"]}
    assert len(set(produced.blobs.values())) == 6
    assert_same(net, feeds)


def test_half_precision_computes_nearly_the_same_in_half_the_bytes(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Softmax", ["a"], ["y"])]
    feeds, weights = {"x": values(4, 96)}, {"w": values(96, 64, seed=1) * 0.1}
    net = network(nodes, feeds, {"y": F}, weights)
    sizes = {}
    for precision in ("fp32", "fp16"):
        folder = tmp_path / precision
        folder.mkdir()
        _, package = converted(net, folder, precision)
        sizes[precision] = (package / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    found = evaluated(net, feeds, "fp16")["y"]
    np.testing.assert_allclose(found, reference(net, feeds)["y"], atol=2e-3)


def test_fp16_files_are_taken_as_they_are(tmp_path):
    path = generate.write(tmp_path, "conv_net_fp16")
    info, produced = convert_file(path, "fp16", tmp_path)
    assert info.precision == "fp16"
    assert {
        each.type.multiArrayType.dataType
        for each in spec_of(tmp_path / "out" / "model.mlpackage").description.input
    }
    assert produced.entry == {"package": "model.mlpackage"}


def convert_file(path: Path, precision: str, folder: Path) -> tuple[Any, Any]:
    tools()
    info = model.prepare(path, shapes={}, out=folder / "canonical.onnx")
    (folder / "out").mkdir()
    options = CoreMlConverter.forms[precision].options
    request = Request(
        model_path=str(folder / "canonical.onnx"), info=info, precision=precision, options=options
    )
    return info, CoreMlConverter().convert(request, Place(folder / "out", folder))


# --- compressed weights ---------------------------------------------------------------------------


def test_qdq_models_keep_integers_for_weights_and_activations(tmp_path):
    path = generate.write(tmp_path, "conv_net_qdq")
    convert_file(path, "int8", tmp_path)
    found = operations(tmp_path / "out" / "model.mlpackage")
    assert found.count("constexpr_affine_dequantize") >= 3
    assert "quantize" in found
    assert "dequantize" in found


def test_quantizing_again_to_the_same_steps_is_left_out(tmp_path):
    """Window attention moves quantized values through six axes, which Core ML allows between two moves."""
    weights = {
        "s": F(0.05),
        "z": np.array(128, np.uint8),
        "wide": np.array([1, 2, 2, 2, 2, 3], np.int64),
        "flat": np.array([4, 4, 3], np.int64),
    }
    pair = 0
    nodes = []

    def quantized(name: str) -> str:
        nonlocal pair
        pair += 1
        nodes.append(helper.make_node("QuantizeLinear", [name, "s", "z"], [f"q{pair}"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"q{pair}", "s", "z"], [f"d{pair}"]))
        return f"d{pair}"

    nodes.append(helper.make_node("Reshape", [quantized("x"), "wide"], ["a"]))
    nodes.append(helper.make_node("Transpose", [quantized("a")], ["b"], perm=[0, 1, 3, 2, 4, 5]))
    nodes.append(helper.make_node("Reshape", [quantized("b"), "flat"], ["c"]))
    nodes.append(helper.make_node("Relu", [quantized("c")], ["y"]))
    feeds = {"x": values(1, 4, 4, 3)}
    net = network(nodes, feeds, {"y": F}, weights)
    _, package = converted(net, tmp_path)
    assert operations(package).count("quantize") == 1
    assert_same(net, feeds)


def test_dynamic_int8_becomes_weight_only_and_says_so(tmp_path):
    path = generate.write(tmp_path, "conv_net_integer")
    _, produced = convert_file(path, "int8-dynamic", tmp_path)
    assert any("weight-only int8" in note for note in produced.notes)
    found = operations(tmp_path / "out" / "model.mlpackage")
    assert found.count("constexpr_affine_dequantize") == 2
    assert "quantize" not in found


def test_pruned_weights_are_stored_without_their_zeros(tmp_path):
    weight = values(64, 96, seed=1)
    weight[np.abs(weight) < 1.0] = 0
    feeds = {"x": values(2, 64)}
    net = network([helper.make_node("MatMul", ["x", "w"], ["y"])], feeds, {"y": F}, {"w": weight})
    _, package = converted(net, tmp_path)
    assert "constexpr_sparse_to_dense" in operations(package)
    assert (package / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size < weight.nbytes * 0.5
    assert_same(net, feeds)


@pytest.mark.parametrize("blocks", [0, 16])
@pytest.mark.parametrize("kind", ["int4", "uint4"])
def test_weights_of_four_bits_need_ios_18(tmp_path, kind, blocks):
    shape = (64 // blocks, 32) if blocks else (32,)
    low, high = (-8, 8) if kind == "int4" else (0, 16)
    number = getattr(TensorProto, kind.upper())
    random = np.random.default_rng(3)
    integers = random.integers(low, high, (64, 32))
    zeros = random.integers(low, high, shape)
    weights = {"s": (random.random(shape) * 0.1 + 0.01).astype(F)}
    attributes = {"axis": 0, "block_size": blocks} if blocks else {"axis": 1}
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], **attributes),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    feeds = {"x": values(2, 64)}
    net = network(nodes, feeds, {"y": F}, weights)
    for name, array in (("q", integers), ("z", zeros)):
        net.graph.initializer.append(helper.make_tensor(name, number, array.shape, array.reshape(-1)))
    produced, package = converted(net, tmp_path)
    assert produced.options["minimum_target"] == "iOS18"
    assert "constexpr_blockwise_shift_scale" in operations(package)
    assert_same(net, feeds)


# --- bytes ----------------------------------------------------------------------------------------

CONVERT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.convert.coreml.test_package import convert_file
convert_file(Path(sys.argv[1]), "fp32", Path(sys.argv[1]).parent)
"""


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_model_gives_the_same_bytes_in_every_process(tmp_path):
    tools()
    found = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        path = generate.write(folder, "conv_net")
        subprocess.run(
            [sys.executable, "-c", CONVERT, str(path), str(ROOT)],
            check=True,
            capture_output=True,
            timeout=120,
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )
        found.append(digests(folder / "out"))
    assert found[0] == found[1]
    assert len(found[0]) == 3


def test_the_package_says_where_it_comes_from(tmp_path):
    net = network([helper.make_node("Relu", ["x"], ["y"])], {"x": values(3)}, {"y": F})
    net.metadata_props.add(key="license", value="Apache-2.0")
    _, package = converted(net, tmp_path)
    told = spec_of(package).description.metadata
    assert told.license == "Apache-2.0"
    assert len(told.userDefined["edgebench.source_sha256"]) == 64
    assert "com.github.apple.coremltools.conversion_date" not in told.userDefined
    manifest = json.loads((package / "Manifest.json").read_text())
    assert manifest["rootModelIdentifier"] in manifest["itemInfoEntries"]


def test_large_values_of_64_bits_are_clipped(tmp_path):
    node = helper.make_node("Min", ["x", "limit"], ["y"])
    weights = {"limit": np.array([2**62], np.int64)}
    feeds = {"x": np.array([5, -7], np.int64)}
    assert_same(network([node], feeds, {"y": np.int64}, weights), feeds)


def test_a_constant_output_is_given(tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(values(2))),
        helper.make_node("Neg", ["c"], ["z"]),
    ]
    feeds = {"x": values(3)}
    assert_same(network(nodes, feeds, {"y": F, "z": F}), feeds)
