"""The optional second opinion: TensorRT RTX's own parser, in a process of its own."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from edgebench.convert.tensorrt import parser
from edgebench.convert.tensorrt.prepare import prepared
from edgebench.model import base
from tests.convert.tensorrt.nets import board, net, quantized
from tests.models import generate

LATEST = board("11.0.0")


@pytest.fixture
def rtx() -> None:
    if not parser.installed():
        # NVIDIA's own licence, 220 MB: whoever wants it installs it, CI does not
        pytest.skip("without the optional extra: pip install 'edgebench[trt-check]'")


def opinion(model: onnx.ModelProto, folder: Path, precision: str = "fp32") -> tuple[parser.Finding, ...]:
    model.ir_version = 8
    made, _ = prepared(base.inferred(model, "net"), LATEST, precision)
    base.sort(made.graph, "net")
    return parser.second_opinion(generate.save(made, folder / "model.onnx"), LATEST)


def test_it_says_nothing_about_8(tmp_path):
    assert parser.second_opinion(tmp_path / "none.onnx", board("8.6.2")) == ()


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("name", ["conv_net", "lstm_net", "matmul_net", "deconv_net", "two_inputs"])
def test_what_we_prepare_it_takes(name, tmp_path):
    assert opinion(generate.GENERATED[name](), tmp_path) == ()


@pytest.mark.usefixtures("rtx")
def test_int8_as_we_prepare_it_it_takes(tmp_path):
    import numpy as np

    model = quantized(stored=True, zero=np.uint8(128), bias=np.full(8, 50, np.int32))
    assert opinion(model, tmp_path, "int8") == ()


@pytest.mark.usefixtures("rtx")
def test_the_float16_file_for_11_it_takes(tmp_path):
    assert opinion(generate.conv_net(), tmp_path, "fp16") == ()


@pytest.mark.usefixtures("rtx")
def test_what_it_rejects_is_told_with_the_node(tmp_path):
    path = generate.save(generate.conv_net_qdq(), tmp_path / "model.onnx")
    (told,) = parser.second_opinion(path, LATEST)
    assert told.refuses
    assert (told.operator, told.node) == ("DequantizeLinear", "b1_dequantize")


@pytest.mark.usefixtures("rtx")
def test_an_operator_it_lacks_is_a_warning(tmp_path):
    path = generate.save(net("Unique"), tmp_path / "model.onnx")
    (told,) = parser.second_opinion(path, LATEST)
    assert not told.refuses


@pytest.mark.usefixtures("rtx")
def test_a_parser_that_gives_no_answer_is_a_warning(tmp_path):
    (told,) = parser.second_opinion(tmp_path / "missing.onnx", LATEST)
    assert not told.refuses
    assert "no answer" in told.message


# ONNX's own cases that RTX refuses and the preflight lets pass: operators that RTX has no plugin for, and
# what is known only while building
ONLY_RTX = {"Celu", "DeformConv", "Loop", "MatMul", "RoiAlign", "ScatterElements", "TensorScatter"}


@pytest.mark.usefixtures("rtx")
@pytest.mark.filterwarnings("ignore")  # the generators of ONNX's cases overflow on purpose
def test_what_the_preflight_lets_pass_the_parser_takes(tmp_path):
    from onnx.backend.test.case.node import collect_testcases

    from edgebench import model
    from edgebench.convert.tensorrt.preflight import preflight
    from edgebench.errors import EdgebenchError

    surprises = {}
    for case in collect_testcases(None)[::61]:
        path = generate.save(case.model, tmp_path / "case.onnx")
        try:
            model.prepare(path, shapes={}, out=path)
            proto = model.load(path)
        except EdgebenchError:
            continue
        operators = {node.op_type for node in proto.graph.node}
        precision = "int8" if "DequantizeLinear" in operators or "QuantizeLinear" in operators else "fp32"
        proto, _ = prepared(proto, LATEST, precision)
        if not any(each.refuses for each in preflight(proto, LATEST, precision)) and not operators & ONLY_RTX:
            base.sort(proto.graph, "case")
            refused = [
                each for each in parser.second_opinion(generate.save(proto, path), LATEST) if each.refuses
            ]
            if refused:
                surprises[case.name] = refused[0].message
    assert surprises == {}
