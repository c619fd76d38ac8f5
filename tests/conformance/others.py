"""What others offer from ONNX to Core ML, judged side by side with edgebench: onnx2coreml and onnxsim.

Both come from PyPI, pinned, into a virtual environment below the test cache that may be thrown away at any
time. They convert as their own documentation says, in float32 for iOS17, and give what they give: no parity.
What they write is evaluated by edgebench's interpreter, in a process of ours.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from edgebench.errors import InfrastructureError
from tests.conformance.cases import Case
from tests.conformance.child import Child
from tests.conformance.route import Outcome

ROUTES = ("onnx2coreml", "onnxsim")
# onnx2coreml folds constants where it finds ONNX Runtime, and passes a hundred cases more.
PINS = (
    "coremltools==9.0",
    "numpy==2.4.6",
    "onnx==1.23.2",
    "onnx2coreml==1.1.0",
    "onnxruntime==1.32.0",
    "onnxsim==0.8.1",
    "protobuf==7.36.2",
)
STAMP = "installed"  # written last: an environment without it is half made
LIMIT_S = 60.0
INSTALL_LIMIT_S = 1200.0
CONVERTER = Path(__file__).with_name("other_converter.py")


class Answer(msgspec.Struct, frozen=True):
    """What a process says of a package: "passed", "refused" or "wrong", and why."""

    verdict: str
    reason: str = ""


def installed(cache: Path) -> bool:
    """Whether the other makers' environment is there already."""
    return (_folder(cache) / STAMP).exists()


def environment(cache: Path) -> Path:
    """The Python of the other makers' environment below `cache`, made where there is none yet."""
    folder = _folder(cache)
    python = folder / "bin" / "python"
    if installed(cache):
        return python
    shutil.rmtree(folder, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINS],
    ):
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False, cwd=cache
        )
        if done.returncode != 0:
            raise InfrastructureError(
                "the environment of onnx2coreml and onnxsim cannot be made",
                hint="look at the network, or name edgebench's own runtimes with --runtime",
                detail=done.stderr[-2000:],
            )
    (folder / STAMP).touch()
    return python


def _folder(cache: Path) -> Path:
    digest = hashlib.sha256("\n".join((sys.version, *PINS)).encode()).hexdigest()[:12]
    return cache / f"other-converters-{digest}"


class OtherRoute:
    """One route: its converter in the other environment, its packages evaluated by a process of ours."""

    def __init__(self, name: str, python: Path, scratch: Path) -> None:
        self._name = name
        self._package = scratch / f"{name}.mlpackage"
        temporary = {"TMPDIR": str(scratch)}
        commands = {
            "converter": [str(python), "-P", str(CONVERTER), name],
            "evaluator": [sys.executable, "-m", "tests.conformance.other_evaluator"],
        }
        self._start = {who: (command, temporary) for who, command in commands.items()}
        self._running: dict[str, Child] = {}

    def judge(self, case: Case) -> Outcome:
        """What became of the case: a converter that dies or takes longer than its limit crashed."""
        started = time.monotonic()
        shutil.rmtree(self._package, ignore_errors=True)
        answer = self._ask("converter", {"model": str(case.folder / "model.onnx")})
        if answer.verdict == "passed":
            answer = self._ask("evaluator", {"folder": str(case.folder)})
        return Outcome(
            case=case.name,
            operator=case.operator,
            form=case.form,
            runtime=self._name,
            verdict=answer.verdict,
            reason=answer.reason[:1500],
            seconds=round(time.monotonic() - started, 3),
        )

    def end(self) -> None:
        """End both processes."""
        for child in self._running.values():
            child.end()
        self._running.clear()

    def _ask(self, who: str, task: dict[str, str]) -> Answer:
        if who not in self._running:
            self._running[who] = Child(*self._start[who])
        child = self._running[who]
        line = child.ask(json.dumps(task | {"package": str(self._package)}).encode(), LIMIT_S)
        if line is not None:
            return msgspec.json.decode(line, type=Answer)
        child.end()
        del self._running[who]
        return Answer("crashed", f"the {who} {child.fate}")
