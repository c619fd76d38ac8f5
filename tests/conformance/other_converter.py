"""Runs in the other makers' environment: a line {"model", "package"} in, a line {"verdict", "reason"} out.

    python -P other_converter.py onnx2coreml|onnxsim

It imports the standard library and what is installed there, nothing of ours.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable

Convert = Callable[[str, str], None]


def main() -> None:
    """Convert until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print is no answer
    warnings.simplefilter("ignore")
    convert = {"onnx2coreml": _onnx2coreml, "onnxsim": _onnxsim}[sys.argv[1]]()
    for line in sys.stdin.buffer:
        task = json.loads(line)
        try:
            convert(task["model"], task["package"])
            answer = {"verdict": "passed"}
        except Exception as error:  # noqa: BLE001 - whatever it raises is its refusal
            answer = {"verdict": "refused", "reason": f"{type(error).__name__}: {error}"[:1500]}
        answers.write(json.dumps(answer).encode() + b"\n")


def _onnx2coreml() -> Convert:
    import onnx2coreml

    def convert(model: str, package: str) -> None:
        made = onnx2coreml.convert(model, minimum_deployment_target="iOS17", compute_precision="fp32")
        made.save(package)

    return convert


def _onnxsim() -> Convert:
    import coremltools
    import onnx
    import onnxsim

    def convert(model: str, package: str) -> None:
        simplified, _same = onnxsim.simplify(onnx.load(model))
        onnxsim.export_coreml(
            simplified,
            package,
            minimum_deployment_target="iOS17",
            compute_precision=coremltools.precision.FLOAT32,
        )

    return convert


if __name__ == "__main__":
    main()
