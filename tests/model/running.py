"""ONNX Runtime without optimisations: what the tests of this folder compare with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx


def run(source: Path | onnx.ModelProto, feed: dict[str, Any]) -> dict[str, np.ndarray]:
    """Output name -> value of one inference."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    what = str(source) if isinstance(source, Path) else source.SerializeToString()
    session = onnxruntime.InferenceSession(what, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))
