"""Halving finds the first layer that departs, whatever cannot be tried; verify tells what it found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgebench.bisection import halve
from edgebench.cli.main import run
from edgebench.model.cut import Layer


def chain(count: int) -> list[Layer]:
    """So many layers, by number."""
    return [Layer(f"v{number}", f"n{number}", "Relu") for number in range(count)]


@given(st.integers(1, 200), st.data())
def test_the_first_departing_layer_is_found(count: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, count))
    found = halve(chain(count), lambda layer: "differs" if int(layer.value[1:]) >= first else "")
    if first == count:
        assert found.layer is None
    else:
        assert found.layer is not None
        assert found.layer.value == f"v{first}"
        assert (found.before is None) == (first == 0)
    assert found.tried <= count.bit_length() + 1


@given(st.integers(1, 60), st.data())
def test_layers_that_cannot_be_tried_are_told_and_passed_over(count: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, count - 1))
    closed = data.draw(st.sets(st.integers(0, count - 1).filter(lambda number: number != first), max_size=5))

    def reason(layer: Layer) -> str | None:
        number = int(layer.value[1:])
        if number in closed:
            return None
        return "differs" if number >= first else ""

    found = halve(chain(count), reason)
    assert found.layer is not None
    assert found.layer.value == f"v{first}"
    assert {int(layer.value[1:]) for layer in found.untried} <= closed


def network(path: Path, slope: float) -> Path:
    """x -> MatMul -> LeakyRelu(slope) -> MatMul, with weights that do not depend on the slope."""
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.standard_normal((8, 8)).astype(np.float32), name)
        for name in ("w1", "w2")
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], name="first"),
        helper.make_node("LeakyRelu", ["a"], ["b"], name="bend", alpha=slope),
        helper.make_node("MatMul", ["b", "w2"], ["y"], name="second"),
    ]
    tensor = helper.make_tensor_value_info
    ends = ([tensor("x", TensorProto.FLOAT, [1, 8])], [tensor("y", TensorProto.FLOAT, [1, 8])])
    graph = helper.make_graph(nodes, "g", *ends, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_verify_bisects_when_parity_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGEBENCH_HOME", str(tmp_path / "home"))
    made, other = network(tmp_path / "made.onnx", 0.1), network(tmp_path / "other.onnx", 0.3)
    assert run(["convert", str(made), "--to", "onnxruntime", "-o", str(tmp_path / "out"), "--json"]) == 0
    (folder,) = (tmp_path / "out").iterdir()
    capsys.readouterr()
    assert run(["verify", str(other), str(folder), "--bisect", "--json"]) == 4
    told = json.loads(capsys.readouterr().out)
    assert not told["parity"]["passed"]
    assert (
        told["departure"]["layer"] is None
    )  # converted afresh, the other model holds: the artifact is not its own
    assert told["departure"]["tried"] > 0
