"""INT8 with ranges measured beforehand on calibration inputs, as a QDQ graph."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgebench.compress.base import Made, Task, file_digest
from edgebench.compress.graph import raised
from edgebench.compress.qdq import (
    MIN_OPSET,
    Quantized,
    StaticOptions,
    Work,
    begin,
    quantized,
    settings_used,
    snr_db,
)
from edgebench.errors import BugError

if TYPE_CHECKING:
    from onnx import ModelProto

RUINOUS_DB = (
    12.0  # an error of a quarter of the signal: detectors of voices keep 4 dB, with weighted ones alone 22
)


class Int8StaticOptions(StaticOptions, frozen=True):
    """How to quantize; the fields are those of `StaticOptions`."""

    def label(self) -> str:
        """The variant's name."""
        return "int8-static"


class Int8Static:
    """float32 -> int8 weights and activations, by ONNX Runtime's quantize_static."""

    name = "int8-static"
    options = Int8StaticOptions
    takes: ClassVar[tuple[str, ...]] = ("fp32",)
    makes: ClassVar[tuple[str, ...]] = ("int8-qdq",)
    needs_calibration = True

    def run(self, model: ModelProto, task: Task) -> Made:
        """The QDQ model; UserError when the calibration inputs do not fit the model."""
        import onnx

        info, options, settings = task
        if settings.calibration is None:
            raise BugError("int8-static was started without calibration inputs")
        with tempfile.TemporaryDirectory(prefix="edgebench-") as folder:
            work = begin(raised(model, info, MIN_OPSET), info, options, settings, Path(folder))
            made = _quantize(work)
            network = onnx.load(made.path)
        used = settings_used(work) | ({"operators": made.operators} if made.operators != "all" else {})
        return Made(network, used, file_digest(settings.calibration))


def _quantize(work: Work) -> Quantized:
    """The QDQ file, of the operators that were asked for; or of those that cost least where all are ruin."""
    asked = "all" if work.options.operators == "auto" else work.options.operators
    made = quantized(work, asked)
    if work.options.operators == "auto" and work.options.preset == "onnxruntime":
        loss_db = snr_db(work, made.path)
        if loss_db < RUINOUS_DB:
            other = quantized(work, "weighted")
            made = max((loss_db, made), (snr_db(work, other.path), other), key=lambda tried: tried[0])[1]
    return made
