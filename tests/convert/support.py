"""Shared by the converter tests: prepared models, conversions, and artifacts run by their SDK alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgebench import model
from edgebench.artifacts import ArtifactStore
from edgebench.convert.run import Conversion, Limits, Prepared, Wanted, convert
from edgebench.errors import InfrastructureError
from edgebench.tools import find_pnnx, install_pnnx
from tests.models import generate

QUICK = Limits(time_s=60.0, memory_bytes=4 << 30)


def pnnx_home() -> Path:
    """A home folder with pnnx, installed once for all test runs; a skip where pip cannot get it."""
    cache = os.environ.get("EDGEBENCH_TEST_CACHE") or Path.home() / ".cache" / "edgebench-tests"
    home = Path(cache)
    try:
        find_pnnx(home)
    except InfrastructureError:
        try:
            install_pnnx(home)
        except InfrastructureError as error:
            pytest.skip(f"missing tool: pnnx ({error.message})")
    return home


def prepared(name: str, folder: Path) -> Prepared:
    """The canonical form of a generated model."""
    folder.mkdir(parents=True, exist_ok=True)
    path = generate.write(folder, name)
    out = folder / f"{name}-canonical.onnx"
    return Prepared(out, model.prepare(path, shapes={}, out=out))


def convert_model(
    name: str,
    runtime: str,
    precision: str,
    folder: Path,
    *,
    home: Path | None = None,
    limits: Limits = QUICK,
) -> tuple[Conversion, ArtifactStore, Prepared]:
    """The conversion of a generated model into a store below `folder`."""
    ready = prepared(name, folder / "model")
    store = ArtifactStore(folder / "store")
    wanted = Wanted(
        runtime=runtime, precision=precision, model=name, variant="test", model_digest=ready.info.digest
    )
    return convert(wanted, lambda: ready, store, home=home, limits=limits), store, ready


def reference(ready: Prepared, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes without any graph optimisation."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(ready.path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def run_artifact(
    conversion: Conversion, store: ArtifactStore, feeds: dict[str, np.ndarray], folder: Path
) -> dict[str, np.ndarray]:
    """What the artifact computes in its own runtime."""
    artifact = conversion.artifact
    np.savez(folder / "feeds.npz", **feeds)
    task = {
        "runtime": artifact.runtime,
        "files": {part: str(store.path(artifact.digest) / file) for part, file in artifact.entry.items()},
        "blobs": artifact.blobs,
        "options": artifact.options,
        "outputs": [tensor.name for tensor in artifact.outputs],
        "feeds": str(folder / "feeds.npz"),
        "result": str(folder / "result.npz"),
    }
    script = str(Path(__file__).with_name("run_artifact.py"))
    command = [sys.executable, "-P", script, json.dumps(task)]  # -P: the folder ncnn here is not the package
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    with np.load(folder / "result.npz") as result:
        return {name: result[name] for name in result.files}
