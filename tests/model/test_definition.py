"""The second reference: ONNX's own definition, where ONNX Runtime has no kernel or errs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from edgebench.errors import ModelError
from edgebench.model import definition


def test_it_computes_what_onnx_defines() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Add(x, x) }'
    )
    first, second = definition.outputs(model, [{"x": np.float32([1, 2])}, {"x": np.float32([3, 4])}])
    assert first["y"].tolist() == [2, 4]
    assert second["y"].tolist() == [6, 8]


def test_what_it_cannot_compute_is_the_models_error() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[3] y) { y = Nonsense(x) }'
    )
    with pytest.raises(ModelError, match="reference implementation"):
        definition.outputs(model, [{"x": np.float32([1, 2])}])


@pytest.mark.parametrize(("operator", "doubtful"), [("Relu", False), ("Resize", True)])
def test_doubtful_operators_are_found(operator: str, doubtful: bool, tmp_path: Path) -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 10]> '
        f"g (float[2] x, float[1] s) => (float y) {{ y = {operator}(x, s) }}"
    )
    onnx.save(model, tmp_path / "m.onnx")
    assert definition.is_doubtful(tmp_path / "m.onnx") is doubtful


def saved(folder: Path, **arrays: object) -> dict[str, Path]:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return {name: folder / f"{name}.npy" for name in arrays}


def test_a_process_of_its_own_computes_the_same(tmp_path: Path) -> None:
    made = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y, bool[2] z) '
        "{ y = Add(x, x)  z = IsNaN(x) }"
    )
    onnx.save(made, tmp_path / "m.onnx")
    (sample,) = definition.computed(tmp_path / "m.onnx", [saved(tmp_path, x=np.float32([1, 2]))])
    assert sample["y"].tolist() == [2, 4]
    assert sample["z"].dtype == np.bool_


HEAD = '<ir_version: 8, opset_import: ["": 17]> g (int64 trips, float[4] x) => '
LOOP = """(float[4] y) {
    go = Constant<value = bool {1}>()
    y = Loop(trips, go, x)<body = body (int64 number, bool on, float[4] held) => (bool still, float[4] turned)
        { still = Identity(on)  turned = Neg(held) }>
}"""
HUGE = "(float[N, M] y) { a = Constant<value_ints=[4294967296, 4]>() b = Expand(x, a) y = CumSum(b, trips) }"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (LOOP, "was not done after 4 s"),
        ("(float y) { y = Nope(x) }", "Nope"),
        (HUGE, "Unable to allocate 64"),
    ],
    ids=["endless", "unknown operator", "huge"],
)
def test_what_does_not_end_or_takes_all_memory_is_the_models_error(
    tmp_path: Path, text: str, told: str
) -> None:
    onnx.save(parser.parse_model(HEAD + text), tmp_path / "m.onnx")
    sample = saved(tmp_path, trips=np.int64(1 << 40), x=np.ones(4, np.float32))
    with pytest.raises(ModelError, match=told) as caught:
        definition.computed(tmp_path / "m.onnx", [sample], time_s=4.0)
    assert caught.value.hint
