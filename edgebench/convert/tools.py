"""Which runtimes this controller can convert for: their versions, or what to type to get them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgebench.convert.base import CONVERTERS, converter
from edgebench.errors import InfrastructureError
from edgebench.records import Record
from edgebench.tools import find_pnnx, install_pnnx, pnnx_version

__all__ = ["RuntimeStatus", "available", "find_pnnx", "install_pnnx", "pnnx_version"]

_PACKAGES = {name: name for name in ("onnxruntime", "ncnn", "openvino")} | {
    "coreml": "coremltools",
    "tensorrt": "onnx",
}


class RuntimeStatus(Record, frozen=True):
    """One runtime on the controller. `missing` says what to type to get the rest; empty when it is ready."""

    runtime: str
    versions: dict[str, str]
    precisions: tuple[str, ...]
    ready: bool
    missing: str = ""


def available(home: Path | None) -> list[RuntimeStatus]:
    """The status of every runtime, in the order of the table; no SDK is imported."""
    return [_status(runtime, home) for runtime in CONVERTERS]


def _status(runtime: str, home: Path | None) -> RuntimeStatus:
    made = converter(runtime, home)
    precisions = tuple(made.forms)
    try:
        versions = made.tool_versions()
    except InfrastructureError as error:
        found = _package_version(_PACKAGES[runtime])
        return RuntimeStatus(
            runtime=runtime, versions=found, precisions=precisions, ready=False, missing=error.hint
        )
    return RuntimeStatus(runtime=runtime, versions=versions, precisions=precisions, ready=True)


def _package_version(package: str) -> dict[str, str]:
    try:
        return {package: version(package)}
    except PackageNotFoundError:
        return {}
