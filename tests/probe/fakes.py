"""Wheels of a make-believe onnxruntime that misbehaves on demand, and recordings for the replay runtime."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from tests.probe.harness import Probe, spec, wheel

FAKE = """
import os, signal, sys, time
__version__ = "9.9.9"
ON_IMPORT
class SessionOptions:
    intra_op_num_threads = 0
class GraphOptimizationLevel:
    ORT_ENABLE_ALL = 1
    ORT_DISABLE_ALL = 0
class Named:
    name = "y"
def set_default_logger_severity(level):
    pass
class InferenceSession:
    def __init__(self, path, options, providers):
        self.options = options
        ON_LOAD
    def get_outputs(self):
        return [Named()]
    def get_session_options(self):
        return self.options
    def get_providers(self):
        return ["FakeProvider"]
    def run(self, names, feeds):
        ON_RUN
        import numpy
        return [numpy.full((1, 2), float("nan"), numpy.float32)]
"""
HANG = "time.sleep(3600)"
SEGFAULT = "os.kill(os.getpid(), signal.SIGSEGV)"


def fake_wheel(*, on_import: str = "pass", on_load: str = "pass", on_run: str = "pass") -> bytes:
    """A wheel whose `onnxruntime` runs these statements at these moments."""
    text = FAKE.replace("ON_IMPORT", on_import).replace("ON_LOAD", on_load).replace("ON_RUN", on_run)
    return wheel({"onnxruntime/__init__.py": text})


def fake_spec(probe: Probe, **moments: str) -> dict[str, Any]:
    """A spec that runs the make-believe runtime; everything is pushed already."""
    artifact = probe.place({"model.onnx": b"no model"})
    bundle = probe.bundle(fake_wheel(**moments))
    return spec("onnxruntime", artifact, bundle=bundle, entry={"model": "model.onnx"})


def npy(array: np.ndarray[Any, Any]) -> bytes:
    """The bytes of a `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def recording(**changes: Any) -> bytes:
    """A recording for the replay runtime."""
    plain = {
        "import_ns": 11,
        "load_ns": 22,
        "first_ns": 33,
        "warmup_ns": [1000] * 20,
        "samples_ns": [900, 1000, 1100],
        "outputs": {"y": "y.npy"},
    }
    return json.dumps({**plain, **changes}).encode()


def replay_spec(probe: Probe, workload: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A spec that replays a recording; everything is pushed already."""
    files = {"model.json": recording(**changes), "y.npy": npy(np.ones((1, 3), np.float32))}
    plain = spec("replay", probe.place(files))
    return {**plain, "workload": {**plain["workload"], **(workload or {})}}
