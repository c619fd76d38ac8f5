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
