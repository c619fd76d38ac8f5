"""The process in which one converter runs: `main RUNTIME HOME MEMORY_BYTES TASK`.

It limits its own memory first (tools that it starts inherit that), imports the SDK, and reads the file TASK
as soon as a line comes on stdin. Stdout is for its answer alone, one line of JSON. When stdin ends, edgebench
itself is gone: the worker then ends with everything it started.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import sys
import threading
from pathlib import Path

from edgebench.convert.base import Answer, Task, converter
from edgebench.errors import EdgebenchError
from edgebench.records import decode, encode


def main() -> None:
    """Convert what the task asks for, answer on the real stdout, then wait to be ended."""
    runtime, home, memory_bytes, task = sys.argv[1:]
    _limit_memory(int(memory_bytes))
    faulthandler.enable()  # a crash in an SDK leaves the Python lines that led to it in the log
    answer_to = _keep_stdout()
    answer = _answer(runtime, Path(home) if home else None, Path(task))
    os.write(answer_to, encode(answer) + b"\n")
    threading.Event().wait()


def _answer(runtime: str, home: Path | None, task_file: Path) -> Answer:
    """What the conversion gave; every error becomes data, an unexpected one with its traceback."""
    try:
        maker = converter(runtime, home)
        maker.warm_up()
        os.read(0, 1)
        _end_with_parent()
        task = decode(Task, task_file.read_bytes(), source="the conversion task")
        return Answer(produced=maker.convert(task.request, Path(task.folder)))
    except EdgebenchError as error:
        return Answer(owner=error.owner, message=error.message, hint=error.hint, detail=error.detail)
    except Exception as error:  # noqa: BLE001 - reported as a bug with its traceback by the parent process
        import traceback

        return Answer(
            owner="bug",
            message=f"the {runtime} converter failed: {type(error).__name__}: {error}",
            detail=traceback.format_exc()[-4000:],
        )


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


def _end_with_parent() -> None:
    threading.Thread(target=_watch_stdin, daemon=True).start()


def _watch_stdin() -> None:
    os.read(0, 1)  # nothing more is ever sent: this returns at end of file
    os.killpg(0, signal.SIGKILL)
