"""The converter interface and the table of converters.

A converter is cheap to make and imports its SDK on first use. `convert` (in `edgebench.convert.run`) starts it in a
process of its own, with a time and a memory limit, and puts what comes out into the artifact store.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Protocol

from edgebench.errors import UserError, did_you_mean
from edgebench.records import ModelInfo, Record


class Form(Record, frozen=True):
    """How a runtime gets one precision: ONNX-level steps first, then the converter's own options.

    `steps` are names of `edgebench.compress`; `source` is the precision the steps start from ("fp32"), and a model
    that already has the wanted precision is taken as it is.
    """

    steps: tuple[str, ...] = ()
    options: dict[str, str] = {}


class Request(Record, frozen=True):
    """What a converter is asked for: an ONNX file, already in the form the runtime wants and fully static."""

    model_path: str
    precision: str
    options: dict[str, str] = {}


class Produced(Record, frozen=True):
    """What a converter made in its output folder: which file is what, blob names, runtime options, remarks."""

    entry: dict[str, str]
    blobs: dict[str, str] = {}
    options: dict[str, str] = {}
    notes: tuple[str, ...] = ()


class Refusal(Record, frozen=True):
    """Why a runtime cannot take a model, and what would work."""

    reason: str
    hint: str


class Converter(Protocol):
    """Variant -> files for one runtime."""

    runtime: str
    revision: int  # raised whenever the same input would give another output
    forms: Mapping[str, Form]  # precision -> how the runtime gets it; a missing precision is refused

    def refuse(self, info: ModelInfo, precision: str) -> Refusal | None:
        """The reason why this runtime cannot take the model, or None. Pure and quick: no conversion."""

    def tool_versions(self) -> dict[str, str]:
        """Versions of the tools that take part; InfrastructureError with what to type when one is missing."""

    def convert(self, request: Request, folder: Path) -> Produced:
        """Write the runtime's files into the empty `folder`; ModelError or InfrastructureError on failure."""


CONVERTERS = {
    "onnxruntime": "edgebench.convert.onnxruntime:OnnxRuntimeConverter",
    "ncnn": "edgebench.convert.ncnn:NcnnConverter",
    "openvino": "edgebench.convert.openvino:OpenVinoConverter",
}


def converter(runtime: str) -> Converter:
    """The converter for a runtime name; UserError for an unknown one."""
    if runtime not in CONVERTERS:
        raise UserError(f'no runtime "{runtime}"', hint=did_you_mean(runtime, CONVERTERS))
    module, _, name = CONVERTERS[runtime].partition(":")
    made: Converter = getattr(import_module(module), name)()
    return made
