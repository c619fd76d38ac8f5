"""What inspect says of generated networks, of the demo network and of published ones."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from edgebench import model
from tests.models import generate
from tests.models.published import light, published

DEMO = Path(str(files("edgebench"))) / "demo"


def _inspect(tmp_path: Path, name: str) -> model.ModelInfo:
    return model.inspect(generate.write(tmp_path, name))


# hand-computed: see the docstrings of the generated networks
@pytest.mark.parametrize(
    ("name", "parameters", "macs", "precision"),
    [
        ("conv_net", 618, 68_256, "fp32"),
        ("conv_net_dynamic", 618, 68_256, "fp32"),  # at batch 1
        ("conv_net_dynamic_size", 618, None, "fp32"),
        ("conv_net_fp16", 618, 68_256, "fp16"),
        ("conv_net_qdq", 618, 68_256, "int8-qdq"),
        ("constant_weights", 618, 68_256, "fp32"),
        ("ir3_net", 618, 68_256, "fp32"),
        ("unsorted_net", 618, 68_256, "fp32"),
        ("conv_net_integer", 4 * 27 + 1440, 4 * 6 * 6 * 27 + 1440, "int8-dynamic"),
        ("matmul_net", 8 * 16 + 16 * 5, 2 * 7 * 8 * 16 + 2 * 7 * 16 * 5, "fp32"),
        ("deconv_net", 96, 2400, "fp32"),
        ("lstm_net", 48 + 36 + 24, 5 * (48 + 36), "fp32"),
        ("if_net", 16, 16, "fp32"),  # of the branches the costlier one
        ("two_inputs", 16 * 8 + 8 * 4, 8 * 4, "fp32"),
        ("rank0_input", 0, 0, "fp32"),
    ],
)
def test_parameters_macs_and_precision(
    tmp_path: Path, name: str, parameters: int, macs: int | None, precision: str
) -> None:
    info = _inspect(tmp_path, name)
    assert (info.parameters, info.macs, info.precision) == (parameters, macs, precision)


def test_inputs_keep_their_symbols_and_types(tmp_path: Path) -> None:
    image = _inspect(tmp_path, "conv_net_dynamic_size").inputs[0]
    assert (image.name, image.dtype, image.shape) == ("image", "float32", ("N", 3, "H", "W"))
    ids, mask = _inspect(tmp_path, "two_inputs").inputs
    assert (ids.dtype, mask.dtype) == ("int64", "float32")
    assert _inspect(tmp_path, "rank0_input").inputs[1].shape == ()


def test_weights_of_ir_3_are_no_inputs(tmp_path: Path) -> None:
    info = _inspect(tmp_path, "ir3_net")
    assert info.ir_version == 3
    assert [tensor.name for tensor in info.inputs] == ["image"]


def test_operators_are_counted_in_branches_too(tmp_path: Path) -> None:
    assert _inspect(tmp_path, "if_net").operators == {
        "Greater": 1,
        "If": 1,
        "MatMul": 1,
        "Neg": 1,
        "ReduceSum": 1,
    }
    assert list(_inspect(tmp_path, "conv_net").operators)[:2] == ["Conv", "Relu"]


def test_operators_of_other_domains_carry_their_domain(tmp_path: Path) -> None:
    proto = generate.conv_net()
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "QuickGelu", "com.microsoft"
    proto.opset_import.add(domain="com.microsoft", version=1)
    info = model.inspect(generate.save(proto, tmp_path / "m.onnx"))
    assert info.operators["com.microsoft::QuickGelu"] == 1
    assert info.opset == {"ai.onnx": 17, "com.microsoft": 1}


def test_matrix_work_without_a_formula_makes_macs_unknown(tmp_path: Path) -> None:
    proto = generate.matmul_net()
    node = proto.graph.node[0]
    node.op_type = "Einsum"
    equation = node.attribute.add()
    equation.name, equation.type, equation.s = "equation", 3, b"bij,jk->bik"
    assert model.inspect(generate.save(proto, tmp_path / "m.onnx")).macs is None


@pytest.mark.parametrize("name", ["conv_net", "constant_weights", "conv_net_qdq", "conv_net_fp16"])
def test_sparsity_counts_zeros_of_matrices_only(tmp_path: Path, name: str) -> None:
    assert _inspect(tmp_path, name).sparsity < 0.05
    proto = generate.GENERATED[name]()
    for tensor in proto.graph.initializer:
        if len(tensor.dims) >= 2:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 0, tensor.name))
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.name == "value" and len(attribute.t.dims) >= 2:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t) * 0))
    assert model.inspect(generate.save(proto, tmp_path / "m.onnx")).sparsity == 1.0


def test_a_quantized_zero_is_its_zero_point(tmp_path: Path) -> None:
    proto = generate.conv_net_qdq()
    for tensor in proto.graph.initializer:
        if tensor.name == "w1_zero":
            tensor.CopyFrom(numpy_helper.from_array(np.arange(8, dtype=np.int8), "w1_zero"))
        elif tensor.name.endswith("_q") and tensor.name.startswith("w"):
            weight = np.zeros(tuple(tensor.dims), np.int8)
            if tensor.name == "w1_q":
                weight += np.arange(8, dtype=np.int8).reshape(8, 1, 1, 1)
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    assert model.inspect(generate.save(proto, tmp_path / "m.onnx")).sparsity == 1.0


# --- name, variant, lineage -----------------------------------------------------------------------


def _with_metadata(tmp_path: Path, **told: str) -> model.ModelInfo:
    proto = generate.conv_net()
    for key, value in told.items():
        proto.metadata_props.add(key=f"edgebench.{key}", value=value)
    return model.inspect(generate.save(proto, tmp_path / "m.onnx"))


def test_the_name_is_the_files_where_it_tells_none(tmp_path: Path) -> None:
    info = _inspect(tmp_path, "conv_net")
    assert (info.name, info.variant, info.lineage) == ("conv_net", "fp32", ())


def test_the_file_may_tell_its_name_variant_and_lineage(tmp_path: Path) -> None:
    steps = [{"step": "prune", "settings": {"share": 0.5}, "input": "ab" * 32}]
    info = _with_metadata(tmp_path, model="digits", variant="pruned-50", lineage=json.dumps(steps))
    assert (info.name, info.variant) == ("digits", "pruned-50")
    assert info.lineage == ("prune share=0.5 from sha256:abababababab",)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a\nb", "x" * 500, "\x1b[31mred"])
def test_a_told_name_that_is_unfit_is_not_used(tmp_path: Path, name: str) -> None:
    assert _with_metadata(tmp_path, model=name, variant=name).name == "m"


@pytest.mark.parametrize(
    "lineage",
    [
        "",
        "no json",
        "{}",
        "[1, 2]",
        '[{"step": 3}]',
        "[" * 5000,
        json.dumps([{"step": "s"}] * 100),
        '"' + "x" * 70_000,
    ],
)
def test_damaged_lineage_counts_as_none(tmp_path: Path, lineage: str) -> None:
    assert _with_metadata(tmp_path, lineage=lineage).lineage == ()


# --- real networks --------------------------------------------------------------------------------


def test_the_demo_network() -> None:
    info = model.inspect(DEMO / "digits.onnx")
    assert (info.name, info.variant, info.precision) == ("digits", "fp32", "fp32")
    assert (info.parameters, info.macs) == (212_970, 11_295_360)
    assert info.inputs[0].shape == ("batch", 1, 8, 8)
    assert info.size_bytes < 1_000_000
    pruned = model.inspect(DEMO / "digits-pruned.onnx")
    assert (pruned.name, pruned.variant) == ("digits", "pruned-50")
    assert pruned.sparsity == pytest.approx(0.5, abs=0.001)


# SqueezeNet 1.1, VGG-19, AlexNet (BVLC): parameter counts as published; ResNet-50 with BatchNorm's statistics
@pytest.mark.models
@pytest.mark.parametrize(
    ("name", "parameters", "million_macs"),
    [("squeezenet", 1_235_496, 349), ("vgg19", 143_667_240, 19_632), ("bvlc_alexnet", 60_965_224, 655)],
)
def test_published_counts(name: str, parameters: int, million_macs: int) -> None:
    info = model.inspect(light(name))
    assert info.parameters == parameters
    assert info.macs is not None
    assert round(info.macs / 1e6) == million_macs


@pytest.mark.models
@pytest.mark.parametrize(
    ("name", "precision", "operator"),
    [("ppocr-cls", "fp32", "HardSigmoid"), ("silero-vad-16k", "fp32", "LSTM"), ("akiki-vad", "fp32", "GRU")],
)
def test_published_networks(name: str, precision: str, operator: str) -> None:
    info = model.inspect(published(name))
    assert info.precision == precision
    assert operator in info.operators
    assert info.parameters > 100_000
