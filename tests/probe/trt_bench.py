"""TensorRT for tests of the probe: a stand-in trtexec and artifacts with a real plan."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgebench.convert.tensorrt.base import Board, parse_capability, parse_version
from edgebench.convert.tensorrt.plan import build_plan
from edgebench.records import ModelInfo, Tensor, encode
from tests.probe.harness import Probe, spec
from tests.standins import trtexec

MODEL = b"not looked into"
X = Tensor(name="x", dtype="float32", shape=(1, 4))
Y = Tensor(name="y", dtype="float32", shape=(1, 3))
NUMBERS = {"8.0.1": 8001, "8.2.1": 8201, "8.5.2": 8502, "10.3.0": 100300, "10.16.2": 101602, "11.0.0": 110000}


class Bench(NamedTuple):
    """An installed stand-in beside a leased session with one artifact."""

    probe: Probe
    folder: Path
    artifact: str

    def spec(self, **changes: Any) -> dict[str, Any]:
        """The spec of a launch of the artifact."""
        entry = {"model": "model.onnx", "plan": "plan.json"}
        return spec("tensorrt", self.artifact, entry=entry, **changes)

    def builds(self) -> int:
        """How many engines were built."""
        return sum(any(word.startswith("--onnx") for word in call) for call in trtexec.calls(self.folder))


def info(inputs: tuple[Tensor, ...] = (X,), outputs: tuple[Tensor, ...] = (Y,)) -> ModelInfo:
    """A model with these inputs and outputs."""
    return ModelInfo(
        name="net",
        variant="fp32",
        digest=hashlib.sha256(MODEL).hexdigest(),
        size_bytes=len(MODEL),
        ir_version=8,
        opset={"": 13},
        inputs=inputs,
        outputs=outputs,
        parameters=1,
        macs=1,
        operators={"Relu": 1},
        precision="fp32",
        sparsity=0.0,
    )


def plan(
    version: str, capability: str = "5.3", precision: str = "fp16", model: ModelInfo | None = None
) -> bytes:
    """The plan that the controller makes."""
    board = Board(parse_version(version), parse_capability(capability))
    return encode(build_plan(model or info(), board, precision, nodes=("Conv_0", "Relu_1")))


def npy(array: np.ndarray) -> bytes:
    """The bytes of a `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def place(probe: Probe, version: str = "8.2.1", **options: Any) -> str:
    """The folder of an artifact."""
    return probe.place({"model.onnx": MODEL, "plan.json": plan(version, **options)})
