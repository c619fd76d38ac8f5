"""The generated architectures are valid, small, the same each time, and compute something worth comparing."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgebench import model
from tests.models.architectures import ARCHITECTURES
from tests.models.generate import save

MAX_BYTES = 3_000_000


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture(name, tmp_path):
    import onnxruntime as ort

    network = ARCHITECTURES[name]()
    onnx.checker.check_model(network, full_check=True)
    path = save(network, tmp_path / f"{name}.onnx")
    assert path.stat().st_size < MAX_BYTES
    assert path.read_bytes() == ARCHITECTURES[name]().SerializeToString(deterministic=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    info = model.inspect(path)
    first, other = (session.run(None, model.random_inputs(info, seed)) for seed in (1, 2))
    for tensor, one, two in zip(info.outputs, first, other, strict=True):
        assert one.shape == tensor.shape
        assert np.isfinite(one).all()
        assert 0.1 < np.abs(one).max() < 1000, "a range that a parity test can use"
        assert np.abs(one - two).max() > 1e-3 * np.abs(one).max(), "other inputs, other outputs"
