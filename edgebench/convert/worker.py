"""The process in which one converter runs: `main RUNTIME HOME MEMORY_BYTES TASK`.

It limits its own memory first (tools that it starts inherit that). Then two things happen at once: one thread
imports the SDK, the other waits for a line on stdin, which says that the file TASK is written, and starts the
outside tool that TASK names. Stdout is for the answer alone, one line of JSON. When stdin ends, edgebench
itself is gone: the worker then ends with everything it started.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    """Convert what the task asks for, answer on the real stdout, then wait to be ended."""
    runtime, home, memory_bytes, task = sys.argv[1:]
    _limit_memory(int(memory_bytes))
    faulthandler.enable()  # a crash in an SDK leaves the Python lines that led to it in the log
    answer_to = _keep_stdout()
    listener = _Listener(Path(task))
    listener.start()
    os.write(answer_to, _answer(runtime, Path(home) if home else None, listener) + b"\n")
    threading.Event().wait()


class _Listener(threading.Thread):
    """Waits for the task, starts its tool, and then watches whether edgebench still lives."""

    def __init__(self, task: Path) -> None:
        super().__init__(daemon=True)
        self.task = b""
        self.tool: subprocess.Popen[bytes] | None = None
        self.started_s = 0.0
        self.error: OSError | None = None
        self._file = task
        self._is_there = threading.Event()

    def run(self) -> None:
        """One byte on stdin: the task is written. End of file, at any time: edgebench is gone."""
        if os.read(0, 1):
            try:
                self._begin()
            except OSError as error:
                self.error = error
            self._is_there.set()
            os.read(0, 1)
        os.killpg(0, signal.SIGKILL)

    def wait(self) -> None:
        """Return when the task is there and its tool runs."""
        self._is_there.wait()

    def _begin(self) -> None:
        self.task = self._file.read_bytes()
        command = json.loads(self.task)["command"]
        if command:
            self.started_s = time.perf_counter()
            self.tool = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )


def _answer(runtime: str, home: Path | None, listener: _Listener) -> bytes:
    """What the conversion gave; every error becomes data, an unexpected one with its traceback."""
    # imported here, so that the listener can start the tool before
    from edgebench.convert.base import Answer, Place, Task, converter
    from edgebench.errors import EdgebenchError, InfrastructureError
    from edgebench.records import decode, encode

    try:
        maker = converter(runtime, home)
        maker.warm_up()
        listener.wait()
        if listener.error is not None:
            what = f"{listener.error.filename or runtime} cannot be started"
            raise InfrastructureError(f"{what}: {listener.error.strerror}", hint="edgebench runtimes")
        task = decode(Task, listener.task, source="the conversion task")
        place = Place(Path(task.folder), Path.cwd(), listener.tool, listener.started_s)
        answer = Answer(produced=maker.convert(task.request, place))
    except EdgebenchError as error:
        answer = Answer(owner=error.owner, message=error.message, hint=error.hint, detail=error.detail)
    except OSError as error:
        answer = Answer(owner="infrastructure", message=f"{runtime} conversion: {error}", hint="make room")
    except ImportError as error:
        what = str(error).strip().partition("\n")[0]
        answer = Answer(
            owner="infrastructure",
            message=f"{runtime} cannot be imported: {what}",
            hint=f"pip install 'edgebench[{runtime}]'",
        )
    except Exception as error:  # noqa: BLE001 - reported as a bug with its traceback by the parent process
        import traceback

        answer = Answer(
            owner="bug",
            message=f"the {runtime} converter failed: {type(error).__name__}: {error}",
            detail=traceback.format_exc()[-4000:],
        )
    return encode(answer)


def _limit_memory(memory_bytes: int) -> None:
    """Bound private writable memory; what is only reserved or shared with files does not count.

    RLIMIT_AS would count the address space that thread pools and mapped weights reserve without using it.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or memory_bytes < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


def _keep_stdout() -> int:
    """A descriptor of the real stdout; whatever libraries print goes to stderr, which is the log."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return kept
