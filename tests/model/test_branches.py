"""An If that is decided beforehand becomes its branch, wherever it stands; inputs can be made constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

from edgebench import model
from edgebench.errors import UserError
from edgebench.records import ModelInfo
from tests.model.running import run
from tests.models.published import published

HEAD = '<ir_version: 8, opset_import: ["": 17]>\n'

# What exporters make of `if x.shape[0] == 1: ... else: ...` inside of one more such choice, by an input.
NESTED = """
agraph (float[n, 4] x, int64 mode) => (float[n, 4] y)
{
  one = Constant <value = int64 {1}> ()
  first = Equal (mode, one)
  y = If (first) <
    then_branch = yes () => (float[n, 4] a) {
      shape = Shape (x)
      at = Constant <value = int64 {0}> ()
      rows = Gather (shape, at)
      small = Equal (rows, one)
      inner = If (small) <
        then_branch = small_yes () => (float[n, 4] b) { b = Relu (x) },
        else_branch = small_no () => (float[n, 4] c) { c = Neg (x) }
      >
      a = Add (inner, x)
    },
    else_branch = no () => (float[n, 4] d) { inner = Abs (x) d = Sub (x, inner) }
  >
}
"""

# The second branch can be computed for two columns only, which shows once the sizes are folded.
PICKY = """
agraph (float[n, 4] x, bool flag) => (float[p, q] y)
{
  y = If (flag) <
    then_branch = yes () => (float[n, 4] a) {
      shape = Shape (x)
      a = Reshape (x, shape)
    },
    else_branch = no () => (float[k, l] b) {
      sizes = Shape (x)
      same = Neg (sizes)
      back = Neg (same)
      again = Reshape (x, back)
      weight = Constant <value = float[2, 1] {1, 1}> ()
      b = MatMul (again, weight)
    }
  >
}
"""


def _written(folder: Path, text: str) -> Path:
    path = folder / "in.onnx"
    onnx.save(parser.parse_model(HEAD + text), path)
    return path


def _prepared(path: Path, rows: int, **constants: float) -> ModelInfo:
    out = path.with_name("out.onnx")
    return model.prepare(path, shapes={"x": (rows, 4)}, constants=constants, out=out)


def _fed(rows: int, mode: int) -> dict[str, np.ndarray]:
    x = np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float32)
    return {"x": x, "mode": np.array(mode, np.int64)}


@pytest.mark.parametrize("rows", [1, 3])
def test_inside_a_branch_that_is_chosen_later_everything_known_is_decided(tmp_path: Path, rows: int) -> None:
    path = _written(tmp_path, NESTED)
    info = _prepared(path, rows)
    assert info.operators["If"] == 1
    assert ("Relu" in info.operators, "Neg" in info.operators) == (rows == 1, rows != 1)
    assert "Shape" not in info.operators
    assert info.outputs[0].shape == (rows, 4)
    for mode in (0, 1):
        feed = _fed(rows, mode)
        np.testing.assert_array_equal(run(path, feed)["y"], run(tmp_path / "out.onnx", feed)["y"])


@pytest.mark.parametrize(("mode", "left"), [(1, {"Relu", "Add"}), (0, {"Abs", "Sub"})])
def test_an_input_that_is_set_decides_and_is_none_any_more(tmp_path: Path, mode: int, left: set[str]) -> None:
    path = _written(tmp_path, NESTED)
    info = _prepared(path, 1, mode=mode)
    assert set(info.operators) == left
    assert [each.name for each in info.inputs] == ["x"]
    assert info.lineage[-1].startswith(f"set mode={mode} from sha256:")
    feed = _fed(1, mode)
    given = run(path, feed)["y"]
    np.testing.assert_array_equal(run(tmp_path / "out.onnx", {"x": feed["x"]})["y"], given)
    told = model.fixed_inputs(path, shapes={"x": (1, 4)}, constants={"mode": mode})
    np.testing.assert_array_equal(run(path, {"x": feed["x"], **told})["y"], given)


@pytest.mark.parametrize(
    ("constants", "said"),
    [
        ({"mood": 1}, 'no input "mood"'),
        ({"mode": 1.5}, "int64"),
        ({"mode": 1e30}, "int64"),
        ({"x": 0, "mode": 1}, "without an input"),
    ],
)
def test_what_cannot_be_set_is_refused(tmp_path: Path, constants: dict[str, float], said: str) -> None:
    path = _written(tmp_path, NESTED)
    with pytest.raises(UserError, match=said):
        _prepared(path, 1, **constants)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [("sr=16000", ("sr", 16000)), ("a=b = -0.5", ("a=b", -0.5)), ("train=False", ("train", 0))],
)
def test_a_constant_is_written_as_name_and_number(text: str, told: tuple[str, float]) -> None:
    assert model.parse_constant(text) == told


@pytest.mark.parametrize("text", ["sr", "=1", "sr=", "sr=fast", "sr=nan", "sr=1,2"])
def test_what_is_no_constant_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="gives no input a number"):
        model.parse_constant(text)


def test_branches_stay_where_one_of_them_is_impossible_in_these_shapes(tmp_path: Path) -> None:
    """A runtime that can see the contradiction refuses the file, though that branch may never be taken."""
    path = _written(tmp_path, PICKY)
    info = _prepared(path, 3)
    assert info.operators["Shape"] == 2
    feed = {"x": _fed(3, 0)["x"], "flag": np.array(True)}
    np.testing.assert_array_equal(run(tmp_path / "out.onnx", feed)["y"], feed["x"])


@pytest.mark.models
def test_a_detector_of_voices_for_two_rates_loads_with_all_optimisations(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    shapes = {"input": (1, 288), "state": (2, 1, 128)}
    info = model.prepare(published("silero-vad"), shapes=shapes, out=out)
    assert info.operators["If"] == 1
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    for rate in (8000, 16000):
        feed = model.random_inputs(info, seed=5) | {"sr": np.array(rate, np.int64)}
        given = run(published("silero-vad"), feed)
        for name, values in zip(given, session.run(list(given), feed), strict=True):
            np.testing.assert_allclose(values, given[name], atol=1e-5)
    decided = model.prepare(published("silero-vad"), shapes=shapes, constants={"sr": 8000}, out=out)
    assert "If" not in decided.operators
