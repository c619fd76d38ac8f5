"""Starts edgebench commands as processes of their own, quickly: everything is imported once, then forked.

What a forked process runs is the command line as users have it. Requests come as JSON lines on stdin, what
happened goes out as JSON lines: {"key", "pid"} at the start, {"key", "status"} at the end.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import sys
import traceback
from pathlib import Path
from typing import Any

MODULES = (
    "numpy",
    "onnx",
    "paramiko",
    "rich.progress",
    "sqlite3",
    "edgebench.cli.main",
    "edgebench.cli.run",
    "edgebench.convert.onnxruntime",
    "edgebench.report.terminal",
    "edgebench.transport.ssh",
    "edgebench.store.rows",
)


def main() -> None:
    """Serve until stdin ends; then the commands that still run are killed."""
    for name in MODULES:
        importlib.import_module(name)
    running: dict[int, str] = {}
    buffer = b""
    tell({"ready": True})
    while True:
        if select.select([0], [], [], 0.02)[0]:
            chunk = os.read(0, 65536)
            if not chunk:
                break
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                request = json.loads(line)
                pid = start(request)
                running[pid] = request["key"]
                tell({"key": request["key"], "pid": pid})
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            tell({"key": running.pop(pid), "status": os.waitstatus_to_exitcode(status)})
    for pid in running:
        os.kill(pid, 9)


def tell(message: dict[str, Any]) -> None:
    """One line to whoever started this."""
    os.write(1, json.dumps(message).encode() + b"\n")


def start(request: dict[str, Any]) -> int:
    """The process of a command: {"argv", "environ", "folder"}; its output lies in `folder`/out and err."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.setsid()
        folder = Path(request["folder"])
        os.chdir(folder)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(request["environ"])
        from edgebench.cli.main import run

        status = run(request["argv"])
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - the last door of this process
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
