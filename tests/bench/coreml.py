"""Core ML: the other makers' converter as a person would run it, and the interpreter against ONNX Runtime."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from edgebench.convert.base import write_arrays
from edgebench.pipeline import Cell, Workbench, prepare
from tests.bench.measure import Ratio, paired, python, run
from tests.conformance import cases, others

HERE = Path(__file__).parent
PAIRS = 7
INFERENCES = 20
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def onnx2coreml(model: Path, folder: Path) -> list[str]:
    """The command of onnx2coreml, in an environment of its own, for a float32 package."""
    command = others.environment(cases.cache_folder()).with_name("onnx2coreml")
    out = str(folder / "m.mlpackage")
    return [str(command), "convert", str(model), "-o", out, "--precision", "fp32", "--target", "iOS17"]


def interpreter_against_inference(bench: Workbench, network: Path) -> Ratio:
    """Evaluating a package for parity over one inference of ONNX Runtime, one thread each."""
    cell = Cell(model_path=str(network), runtime="coreml", precision="fp32")
    artifact = prepare(cell, bench).artifact
    package = bench.artifacts.path(artifact.digest) / artifact.entry["package"]
    starting: list[float] = []
    with tempfile.TemporaryDirectory(dir=bench.home) as scratch:
        given, sample = Path(scratch) / "inputs.npz", Path(scratch) / "image.npy"
        image = np.random.default_rng(1).standard_normal((1, 3, 224, 224)).astype(np.float32)
        write_arrays(given, {"image": image})
        np.save(sample, image)
        evaluate = python(str(HERE / "interpreted.py"), str(package), str(given), str(given) + ".out")
        infer = python(
            str(HERE / "bare_loop.py"), "onnxruntime", str(network), str(sample), "image", str(INFERENCES)
        )

        def ours() -> float:
            started = time.perf_counter()
            evaluated_s = float(run(evaluate, **ONE_THREAD))
            starting.append(time.perf_counter() - started - evaluated_s)
            return evaluated_s

        line = paired(
            "interpreter parity run / ONNX Runtime inference",
            ours,
            lambda: float(run(infer, **ONE_THREAD)) / 1e9,
            pairs=PAIRS,
            limit=20.0,
        )
    start_s = statistics.median(starting)
    remark = f"{network.stem}, one sample, 1 thread; starting the process apart: {start_s:.2f} s"
    return line._replace(remark=remark)
