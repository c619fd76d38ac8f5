"""Each converter on generated networks: what comes out is run by its SDK and compared with ONNX Runtime."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgebench import model, parity
from edgebench.convert.base import CONVERTERS, Place, Request, converter
from edgebench.errors import ModelError, UserError
from edgebench.records import ModelInfo, Tensor
from tests.convert import support
from tests.models import generate

MADE = [
    ("conv_net", "onnxruntime", "fp32"),
    ("conv_net_qdq", "onnxruntime", "int8"),
    ("conv_net_integer", "onnxruntime", "int8-dynamic"),
    ("conv_net_fp16", "onnxruntime", "fp16"),
    ("two_inputs", "onnxruntime", "fp32"),
    ("conv_net", "openvino", "fp32"),
    ("conv_net", "openvino", "fp16"),
    ("conv_net_qdq", "openvino", "int8"),
    ("conv_net_integer", "openvino", "int8-dynamic"),
    ("conv_net_fp16", "openvino", "fp16"),
    ("two_inputs", "openvino", "fp32"),
    ("lstm_net", "openvino", "fp32"),
    ("if_net", "openvino", "fp32"),
    ("rank0_input", "openvino", "fp32"),
    ("conv_net", "ncnn", "fp32"),
    ("conv_net", "ncnn", "fp16"),
    ("conv_net_fp16", "ncnn", "fp16"),
    ("constant_weights", "ncnn", "fp32"),
    ("ir3_net", "ncnn", "fp32"),
    ("unsorted_net", "ncnn", "fp32"),
    ("conv_net_dynamic", "ncnn", "fp32"),
    ("deconv_net", "ncnn", "fp32"),
    ("matmul_net", "ncnn", "fp32"),
]


def home_for(runtime):
    if runtime != "onnxruntime" and importlib.util.find_spec(runtime) is None:
        pytest.skip(f"missing tool: the Python package {runtime}")
    return support.pnnx_home() if runtime == "ncnn" else None


@pytest.mark.parametrize(("name", "runtime", "precision"), MADE)
def test_what_comes_out_computes_the_same(name, runtime, precision, tmp_path):
    conversion, store, ready = support.convert_model(
        name, runtime, precision, tmp_path, home=home_for(runtime)
    )
    feeds = model.random_inputs(ready.info, seed=7)
    found = support.run_artifact(conversion, store, feeds, tmp_path)
    report = parity.judge(
        support.reference(ready, feeds),
        found,
        parity.bound_for(precision),
        where="controller",
        reference_name="onnxruntime",
    )
    assert report.passed, [(output.name, output.reason, output.snr_db) for output in report.outputs]
    artifact = conversion.artifact
    assert [tensor.name for tensor in artifact.outputs] == [tensor.name for tensor in ready.info.outputs]
    assert conversion.tool_s + conversion.check_s > 0
    assert artifact.tool_versions
    store.verify(artifact.digest)


@pytest.mark.parametrize(
    ("runtime", "precision"),
    [("openvino", "fp32"), ("openvino", "fp16"), ("ncnn", "fp32"), ("onnxruntime", "fp32")],
)
def test_the_same_model_gives_the_same_bytes(runtime, precision, tmp_path):
    home = home_for(runtime)
    first, *_ = support.convert_model("conv_net", runtime, precision, tmp_path / "a", home=home)
    second, *_ = support.convert_model("conv_net", runtime, precision, tmp_path / "b", home=home)
    assert first.artifact.digest == second.artifact.digest


@pytest.mark.parametrize("runtime", ["openvino", "ncnn"])
def test_fp16_halves_the_weights(runtime, tmp_path):
    home = home_for(runtime)
    sizes = {}
    for precision in ("fp32", "fp16"):
        made, *_ = support.convert_model("large_net", runtime, precision, tmp_path / precision, home=home)
        weights = made.artifact.entry["bin" if runtime == "ncnn" else "weights"]
        sizes[precision] = next(file.size_bytes for file in made.artifact.files if file.path == weights)
    assert sizes["fp16"] == pytest.approx(sizes["fp32"] / 2, rel=0.01)


@pytest.mark.parametrize(
    ("name", "runtime", "message"),
    [
        ("lstm_net", "ncnn", "ncnn does not load the param file"),
        ("unsupported_op", "ncnn", "ncnn has no layer for Unique"),
        ("nan_output", "ncnn", 'ncnn computes NaN for "y"'),
        ("two_inputs", "ncnn", 'ncnn gives 24 values for "scores", not 4'),
    ],
)
def test_a_model_that_the_tool_converts_wrongly_is_refused(name, runtime, message, tmp_path):
    with pytest.raises(ModelError) as caught:
        support.convert_model(name, runtime, "fp32", tmp_path, home=home_for(runtime))
    assert message in caught.value.message
    assert "onnxruntime or openvino" in caught.value.hint
    assert not list((tmp_path / "store").rglob("manifest.json"))


# --- refusals: pure and quick -------------------------------------------------------------------


def info(**changes):
    told = {
        "name": "net",
        "variant": "fp32",
        "digest": "0" * 64,
        "size_bytes": 1,
        "ir_version": 8,
        "opset": {"ai.onnx": 17},
        "inputs": (Tensor(name="x", dtype="float32", shape=(1, 3, 8, 8)),),
        "outputs": (Tensor(name="y", dtype="float32", shape=(1, 10)),),
        "parameters": 1,
        "macs": None,
        "operators": {"Conv": 1},
        "precision": "fp32",
        "sparsity": 0.0,
    }
    return ModelInfo(**(told | changes))


@pytest.mark.parametrize("runtime", CONVERTERS)
def test_every_precision_of_a_plain_model_is_taken_or_refused_with_a_way_out(runtime):
    made = converter(runtime)
    for precision in ("fp32", "fp16", "int8", "int8-dynamic"):
        refusal = made.refuse(info(), precision)
        assert (refusal is None) == (precision in made.forms)
        if refusal is not None:
            assert "use onnxruntime or " in refusal.hint


@pytest.mark.parametrize("runtime", CONVERTERS)
@pytest.mark.parametrize(
    ("have", "asked"), [("int8-qdq", "fp32"), ("fp16", "fp32"), ("int8-dynamic", "int8"), ("fp16", "int8")]
)
def test_a_compressed_model_cannot_be_made_another_precision(runtime, have, asked):
    refusal = converter(runtime).refuse(info(precision=have), asked)
    assert refusal is not None
    assert refusal.hint


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"operators": {"If": 1}}, "control flow"),
        ({"operators": {"Loop": 1}}, "Loop"),
        ({"operators": {"com.microsoft::DynamicQuantizeLSTM": 1}}, "DynamicQuantizeLSTM"),
        ({"operators": {"MatMulInteger": 2}}, "MatMulInteger"),
        ({"inputs": (Tensor(name="sr", dtype="int64", shape=()),)}, "scalar"),
        ({"inputs": (Tensor(name="m", dtype="bool", shape=(1, 4)),)}, "bool"),
        ({"inputs": (Tensor(name="v", dtype="float32", shape=(1, 2, 3, 4, 5, 6)),)}, "axes"),
    ],
)
def test_ncnn_refuses_with_the_reason(changes, word):
    refusal = converter("ncnn").refuse(info(**changes), "fp32")
    assert refusal is not None
    assert word in refusal.reason
    assert refusal.hint


@pytest.mark.parametrize("runtime", CONVERTERS)
def test_text_inputs_are_refused(runtime):
    strings = (Tensor(name="words", dtype="str", shape=(1, 4)),)
    refusal = converter(runtime).refuse(info(inputs=strings), "fp32")
    assert refusal is not None
    assert '"words"' in refusal.reason


def test_an_unknown_runtime_names_the_nearest():
    with pytest.raises(UserError) as caught:
        converter("onxruntime")
    assert 'did you mean "onnxruntime"?' in caught.value.hint


def test_openvino_describes_a_quantized_network_in_few_words(tmp_path):
    """Each pair of quantizers is one node with two constants, each bias a constant; all of it on one line."""
    home_for("openvino")
    conversion, store, _ = support.convert_model("conv_net_qdq", "openvino", "int8", tmp_path)
    told = (store.path(conversion.artifact.digest) / "model.xml").read_text()
    kinds = Counter(re.findall(r'type="(\w+)" version', told))
    assert kinds["FakeQuantize"] >= 2
    assert kinds["ShapeOf"] == kinds["Subtract"] == kinds["Concat"] == kinds["Broadcast"] == 0
    assert "\n\t" not in told


def test_openvino_counts_activations_from_0_where_it_is_asked(tmp_path):
    home_for("openvino")
    path = generate.write(tmp_path, "conv_net_qdq")
    asked = {"activations": "unsigned"}
    request = Request(model_path=str(path), info=model.inspect(path), precision="int8", options=asked)
    made = converter("openvino").convert(request, Place(tmp_path, tmp_path))
    assert any("turned to uint8" in note for note in made.notes)


def test_openvino_takes_what_its_optimizer_cannot(tmp_path):
    """Col2Im of sizes that are inputs: OpenVINO runs it, its own optimization ends in an error."""
    home_for("openvino")
    sizes = [generate.tensor(name, [2], TensorProto.INT64) for name in ("image", "block")]
    node = helper.make_node("Col2Im", ["x", "image", "block"], ["y"])
    inputs = [generate.tensor("x", [1, 5, 5]), *sizes]
    proto = generate.build([node], inputs, [generate.tensor("y", None)], opset=18)
    path = generate.save(proto, tmp_path / "folded.onnx")
    request = Request(model_path=str(path), info=model.inspect(path), precision="fp32")
    made = converter("openvino").convert(request, Place(tmp_path, tmp_path))
    assert (tmp_path / made.entry["model"]).exists()


def test_openvino_names_the_operator_at_fault_and_not_those_behind_it(tmp_path):
    """A signal without its third axis: OpenVINO's log begins with what only follows from it."""
    home_for("openvino")
    weights = {"step": np.array(8, np.int64), "window": np.ones(16, np.float32)}
    nodes = [
        helper.make_node("STFT", ["x", "step", "window"], ["spectrum"]),
        helper.make_node("ReduceSumSquare", ["spectrum"], ["y"], axes=[3], keepdims=0),
    ]
    inputs = [generate.tensor("x", [1, 64])]
    proto = generate.build(nodes, inputs, [generate.tensor("y", None)], weights)
    path = generate.save(proto, tmp_path / "spectrum.onnx")
    request = Request(model_path=str(path), info=model.inspect(path), precision="fp32")
    with pytest.raises(ModelError, match=r"STFT.*rank equal to 3"):
        converter("openvino").convert(request, Place(tmp_path, tmp_path))


def test_openvino_names_the_operator_it_lacks(tmp_path):
    home_for("openvino")
    with pytest.raises(ModelError, match="No conversion rule found for operations: Det") as caught:
        _convert_det(tmp_path)
    assert "Exception from" in caught.value.detail


def _convert_det(folder):
    from onnx import helper

    from edgebench.artifacts import ArtifactStore
    from edgebench.convert.run import Prepared, Wanted, convert
    from tests.models import generate

    node = helper.make_node("Det", ["x"], ["y"], name="det")
    net = generate.build([node], [generate.tensor("x", [1, 3, 3])], [generate.tensor("y", [1])])
    path = generate.save(net, folder / "det.onnx")
    ready = Prepared(path, model.inspect(path))
    wanted = Wanted(runtime="openvino", precision="fp32", model="det", variant="fp32", model_digest="0" * 64)
    return convert(wanted, lambda: ready, ArtifactStore(folder / "store"), limits=support.QUICK)


def test_pnnx_crashing_is_told_as_such(tmp_path):
    home = home_for("ncnn")
    from edgebench.artifacts import ArtifactStore
    from edgebench.convert.run import Prepared, Wanted, convert
    from tests.models import generate

    path = generate.write(tmp_path, "custom_domain")
    ready = Prepared(path, info(inputs=(Tensor(name="x", dtype="float32", shape=(1, 4)),)))
    wanted = Wanted(runtime="ncnn", precision="fp32", model="net", variant="fp32", model_digest="0" * 64)
    with pytest.raises(ModelError, match=r"pnnx crashed \(SIG[A-Z]+\)") as caught:
        convert(wanted, lambda: ready, ArtifactStore(tmp_path / "store"), home=home, limits=support.QUICK)
    assert "not a registered" in caught.value.message
