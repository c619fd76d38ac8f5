"""ONNX Runtime runs ONNX as it is: the artifact is the prepared model, once it was seen to load."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from edgebench.convert.base import (
    NUMBERS,
    Form,
    Place,
    Produced,
    Refusal,
    Request,
    Way,
    refuse_precision,
    refuse_types,
)
from edgebench.errors import ModelError
from edgebench.records import ModelInfo
from edgebench.tools import package_version


class OnnxRuntimeConverter:
    """ONNX -> `model.onnx`, in every precision; compressed precisions are ONNX-level steps."""

    runtime = "onnxruntime"
    revision = 1
    forms: ClassVar[Mapping[str, Form]] = {
        "fp32": Form(
            what="the canonical ONNX file as it is; operators that it has no kernel for are written out",
            ways=(Way(), Way(natively=frozenset())),
        ),
        "fp16": Form(
            what="weights and values in float16, inputs and outputs as they were; CPUs compute in float32",
            steps=("fp16",),
        ),
        "int8": Form(
            what="static QDQ, per channel, ranges from calibration; uint8 activations on x86, int8 on ARM",
            steps=("int8-static",),
            ways=(Way(), Way(natively=frozenset({"DynamicQuantizeLinear"}))),
        ),
        "int8-dynamic": Form(
            what="int8 weights of linear layers, ranges of activations found at each inference",
            steps=("int8-dynamic",),
        ),
    }

    def __init__(self, home: Path | None = None) -> None:
        self._home = home

    def refuse(self, info: ModelInfo, precision: str) -> Refusal | None:
        """The reason why ONNX Runtime cannot take the model, or None."""
        return refuse_precision(self.runtime, self.forms, info, precision) or refuse_types(
            self.runtime, info, NUMBERS
        )

    def tool_versions(self) -> dict[str, str]:
        """The version of onnxruntime, which also made the compressed forms."""
        return {
            "onnxruntime": package_version("onnxruntime", "dev"),
            "onnx": package_version("onnx", "dev"),
        }

    def command(self, request: Request, work: Path) -> tuple[str, ...]:  # noqa: ARG002
        """None: the SDK does it in the worker."""
        return ()

    def warm_up(self) -> None:
        """Import onnxruntime."""
        import onnxruntime  # noqa: F401

    def convert(self, request: Request, place: Place) -> Produced:
        """`model.onnx`; ModelError with ONNX Runtime's own words when it cannot load it."""
        model = place.output / "model.onnx"
        shutil.copyfile(request.model_path, model)
        started = time.perf_counter()
        _check_loads(model)
        return Produced(
            entry={"model": model.name},
            options={"graph_optimization": "all"},
            notes=_notes(request.info),
            check_s=time.perf_counter() - started,
        )


def _check_loads(model: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    try:
        onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # onnxruntime's errors share no base class below Exception
        raise ModelError(
            f"ONNX Runtime cannot load the model: {_first_line(error)}",
            hint="the message names the node or operator; try another runtime, or change the model",
            detail=str(error)[-4000:],
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:500] if lines else type(error).__name__


def _notes(info: ModelInfo) -> tuple[str, ...]:
    """What one should know before measuring; measured on x86."""
    if info.precision == "int8-dynamic" and any("ConvInteger" in name for name in info.operators):
        return ("dynamic int8 convolutions are slower than float in ONNX Runtime (3x and more)",)
    if info.precision == "fp16":
        return ("ONNX Runtime's CPU provider computes fp16 models in float32: less disk, the same time",)
    return ()
