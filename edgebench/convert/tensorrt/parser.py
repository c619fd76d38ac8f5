"""A second opinion on TensorRT 10 and 11: TensorRT RTX's own ONNX parser, by the extra [trt-check].

It knows no Jetson GPU, and says nothing about 8.x. What it rejects, the full TensorRT rejects too, but for
operators that the full one has as a plugin.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from edgebench.convert.tensorrt.base import Board, Finding, Severity
from edgebench.records import Record

PACKAGE = "tensorrt-rtx-cu12-bindings"
LIBRARIES = "tensorrt-rtx-cu12-libs"
OLDEST = (10, 0, 0)
TIME_S = 120.0
_MAX_ANSWER_BYTES = 4 << 20
_HINT = "it needs neither board nor GPU: change the model, and convert again"


class _Error(Record, frozen=True):
    node: str
    operator: str
    description: str


class _Answer(Record, frozen=True):
    supported: bool
    errors: tuple[_Error, ...]


def installed() -> str:
    """The version of the parser; empty without the extra [trt-check]."""
    try:
        version(LIBRARIES)
        return version(PACKAGE)
    except PackageNotFoundError:
        return ""


def second_opinion(model: Path, board: Board, time_s: float = TIME_S) -> tuple[Finding, ...]:
    """What the parser rejects; () for TensorRT 8, without the extra, and where the parser itself broke."""
    if board.version < OLDEST or not installed():
        return ()
    script = Path(__file__).with_name("rtx.py")
    command = [sys.executable, "-P", str(script), str(model)]
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=time_s, check=False
        )
        answer = msgspec.json.decode(done.stdout[:_MAX_ANSWER_BYTES], type=_Answer)
    except (subprocess.TimeoutExpired, msgspec.DecodeError):
        return (_broken(),)
    return () if answer.supported else tuple(map(_finding, answer.errors)) or (_broken(),)


def _finding(error: _Error) -> Finding:
    """A rejection; only a warning where the words show that RTX has no such operator or plugin."""
    text = " ".join(error.description.split()) or "no reason given"
    unsure = text == "false" or "lugin" in error.description
    severity: Severity = "warning" if unsure else "refusal"
    said = "it has no such operator; the full TensorRT may" if unsure else text
    return Finding(
        severity=severity,
        rule="parser",
        node=error.node,
        operator=error.operator,
        message=f"TensorRT RTX's parser rejects it: {said}"[:600],
        hint="the build on the device decides" if unsure else _HINT,
    )


def _broken() -> Finding:
    return Finding(
        severity="warning",
        rule="parser",
        node="",
        operator="",
        message="TensorRT RTX's parser gave no answer about this model",
        hint="the build on the device decides",
    )
