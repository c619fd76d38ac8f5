"""What no runtime could take is refused by every command before anything is made, by node and operator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgebench.records import RUNTIMES
from edgebench.tools import find_pnnx
from tests.commands import Cli
from tests.convert.support import pnnx_home
from tests.models import generate

ABSURD = {
    "cycle": 'Add "first"',
    "duplicate_names": 'Neg "second"',
    "missing_initializer": 'MatMul "matmul"',
    "huge_shape": '"x" has the absurd shape',
    "huge_constant": '"big" has the absurd shape',
    "huge_initializer": '"w" has the absurd shape',
    "custom_domain": 'com.example::Magic "magic"',
    "string_input": '"text" holds strings',
    "sequence_output": '"list" is a sequence',
    "sparse_initializer": '"w" is a sparse tensor',
}
TARGET = {"tensorrt": ("--target", "jetson-orin-nano")}


@pytest.mark.parametrize("name", ABSURD)
def test_every_command_refuses_it(fresh_cli: Cli, name: str) -> None:
    path = generate.write(fresh_cli.folder, name)
    asked = [("inspect", path), ("run", path, "--to", "onnxruntime")]
    asked += [("convert", path, "--to", each, *TARGET.get(each, ()), "-o", "out") for each in RUNTIMES]
    for arguments in asked:
        assert ABSURD[name] in fresh_cli.fails(4, "model", *arguments)
    assert fresh_cli.leftovers() == []
    assert not (fresh_cli.folder / "out").exists()


def unnamed(node: onnx.NodeProto, **weights: np.ndarray) -> onnx.ModelProto:
    return generate.build([node], [generate.tensor("x", [1, 4])], [generate.tensor("y", None)], weights)


BROKEN = {
    "shapes that do not fit": (
        unnamed(helper.make_node("MatMul", ["x", "w"], ["y"]), w=np.ones((5, 4), np.float32)),
        "MatMul",
    ),
    "types that do not fit": (
        unnamed(helper.make_node("Add", ["x", "w"], ["y"]), w=np.ones(4, np.int64)),
        "Add",
    ),
    "an attribute that is missing": (unnamed(helper.make_node("Concat", ["x", "x"], ["y"])), "Concat"),
    "a stride of nothing": (
        generate.build(
            [helper.make_node("MaxPool", ["x"], ["y"], name="pool", kernel_shape=[2, 2], strides=[0, 0])],
            [generate.tensor("x", [1, 1, 4, 4])],
            [generate.tensor("y", None)],
        ),
        'MaxPool "pool": Attribute strides',
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_onnxruntime_cannot_run_is_told_by_node_without_its_paths(fresh_cli: Cli, what: str) -> None:
    proto, told = BROKEN[what]
    path = generate.save(proto, fresh_cli.folder / "broken.onnx")
    for runtime in ("onnxruntime", "openvino"):
        said = fresh_cli.fails(4, "model", "convert", path, "--to", runtime, "-o", "out")
        assert said.startswith("broken: onnxruntime cannot run it: ")
        assert told in said
        assert "ONNXRuntimeError" not in said
        assert str(fresh_cli.home) not in said
    assert fresh_cli.leftovers() == []
    assert not (fresh_cli.folder / "out").exists()


def test_openvinos_words_without_the_lines_of_its_source(fresh_cli: Cli) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["text"], name="to_text", to=TensorProto.STRING),
        helper.make_node("Cast", ["text"], ["y"], name="back", to=TensorProto.FLOAT),
    ]
    made = generate.build(nodes, [generate.tensor("x", [1, 4])], [generate.tensor("y", [1, 4])])
    path = generate.save(made, fresh_cli.folder / "text.onnx")
    said = fresh_cli.fails(4, "model", "convert", path, "--to", "openvino")
    assert "to_text" in said
    assert "Exception from" not in said


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "ncnn", "coreml"])
def test_nothing_inside_a_network_is_computed_or_refused(
    fresh_cli: Cli, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values of size zero: ncnn crashes on them and Core ML has none, which must both be refusals."""
    if runtime == "ncnn":
        monkeypatch.setenv("EDGEBENCH_PNNX", str(find_pnnx(pnnx_home())))
    nodes = [
        helper.make_node("Slice", ["x", "zero", "zero"], ["none"], name="none"),
        helper.make_node("ReduceSum", ["none"], ["sum"], name="sum", keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"], name="add"),
    ]
    ends = [generate.tensor("x", [1, 4])], [generate.tensor("y", [1, 4])]
    path = generate.save(
        generate.build(nodes, *ends, {"zero": np.array([0])}), Path(fresh_cli.folder) / "nothing.onnx"
    )
    answer = fresh_cli("convert", path, "--to", runtime, code=None)
    assert answer.code in (0, 4)
    assert answer.code == 0 or "error (model): " in answer.err
    assert fresh_cli.leftovers() == []
