"""One worker process, replaced when it crashes or hangs: its case is judged again in isolation."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

import msgspec

from tests.conformance.cases import Case
from tests.conformance.route import Outcome
from tests.conformance.worker import Task

LIMIT_S = 60.0
ISOLATED_LIMIT_S = 180.0
ROOT = Path(__file__).parents[2]


class Pool:
    """Judges cases in a worker; `tools` is a home folder with pnnx."""

    def __init__(self, tools: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="edgebench-conformance-")
        self._home = Path(self._folder.name) / "home"
        self._home.mkdir()
        if (tools / "tools").is_dir():
            (self._home / "tools").symlink_to(tools / "tools")
        self._worker: subprocess.Popen[bytes] | None = None
        self.deaths = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._folder.cleanup()

    def judge(self, case: Case, runtime: str) -> Outcome:
        """The outcome of a case; a worker that dies or hangs over it makes way for the isolated route."""
        task = Task(case.name, case.operator, case.form, str(case.folder), runtime)
        if self._worker is None:
            self._worker = self._start("quick")
        outcome = self._ask(self._worker, task, LIMIT_S)
        if outcome is not None:
            return outcome
        self.deaths += 1
        self._end()
        return self._in_isolation(task)

    def _in_isolation(self, task: Task) -> Outcome:
        """The same case as `edgebench convert` does it: every tool in a process of its own."""
        worker = self._start("isolated")
        try:
            outcome = self._ask(worker, task, ISOLATED_LIMIT_S)
        finally:
            _kill(worker)
        if outcome is not None:
            return outcome
        return Outcome(
            case=task.name,
            operator=task.operator,
            form=task.form,
            runtime=task.runtime,
            verdict="crashed",
            reason="edgebench itself died or hung",
        )

    def _start(self, mode: str) -> subprocess.Popen[bytes]:
        for name in ("artifacts", "inputs", "tmp"):
            shutil.rmtree(self._home / name, ignore_errors=True)
        return subprocess.Popen(
            [sys.executable, "-m", "tests.conformance.worker", str(self._home), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env=os.environ | {"EDGEBENCH_HOME": str(self._home), "TMPDIR": self._folder.name},
            start_new_session=True,
        )

    def _ask(self, worker: subprocess.Popen[bytes], task: Task, limit_s: float) -> Outcome | None:
        """The worker's answer, or None when it died or was too slow."""
        if worker.stdin is None or worker.stdout is None:
            return None
        try:
            worker.stdin.write(msgspec.json.encode(task) + b"\n")
            worker.stdin.flush()
        except BrokenPipeError:
            return None
        received = bytearray()
        deadline = time.monotonic() + limit_s
        with selectors.DefaultSelector() as selector:
            selector.register(worker.stdout, selectors.EVENT_READ)
            while not received.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return None
                chunk = os.read(worker.stdout.fileno(), 1 << 16)
                if not chunk:
                    return None
                received += chunk
        return msgspec.json.decode(received, type=Outcome)

    def _end(self) -> None:
        if self._worker is not None:
            _kill(self._worker)
            self._worker = None


def _kill(worker: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
