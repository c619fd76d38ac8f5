"""What a network is, for tests that look at its inputs alone."""

from __future__ import annotations

from edgebench.records import ModelInfo, Tensor


def network(*inputs: Tensor) -> ModelInfo:
    """A network of which nothing but its inputs matters."""
    return ModelInfo(
        name="net",
        variant="fp32",
        digest="",
        size_bytes=0,
        ir_version=8,
        opset={"ai.onnx": 17},
        inputs=inputs,
        outputs=(),
        parameters=0,
        macs=None,
        operators={},
        precision="fp32",
        sparsity=0.0,
    )
