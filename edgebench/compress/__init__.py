"""Compression steps on ONNX files: a model and a list of steps in, a variant with its lineage out."""

from edgebench.compress.base import (
    SENSITIVITY_FILE,
    STEPS,
    Chosen,
    Sensitivity,
    Settings,
    apply,
    file_digest,
    revision,
    step,
)

__all__ = [
    "SENSITIVITY_FILE",
    "STEPS",
    "Chosen",
    "Sensitivity",
    "Settings",
    "apply",
    "file_digest",
    "revision",
    "step",
]
