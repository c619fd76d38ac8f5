"""Commands of controllers, each a process of its own, watched by what they print."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

FINISHED = re.compile(r"^board: launch (\d+)/\d+ ", re.MULTILINE)
RUN = re.compile(r"^run (\S+): ", re.MULTILINE)


class Command:
    """One started command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pid = 0
        self.status: int | None = None
        self.started = threading.Event()
        self.ended = threading.Event()
        self.began_s = time.monotonic()

    @property
    def err(self) -> str:
        """What it has printed on stderr so far."""
        return _text(self.folder / "err")

    @property
    def out(self) -> str:
        """What it has printed on stdout so far."""
        return _text(self.folder / "out")

    @property
    def document(self) -> Any:
        """The JSON document on stdout; None where there is none."""
        try:
            return json.loads(self.out)
        except ValueError:
            return None

    @property
    def run(self) -> str | None:
        """The id of the run that it announced."""
        found = RUN.search(self.err)
        return found[1] if found else None

    def finished_launches(self) -> int:
        """How many launches it has announced as done: those before the last one that it began."""
        begun = [int(number) for number in FINISHED.findall(self.err)]
        return max(begun, default=1) - 1

    def send(self, number: int) -> None:
        """A signal to the command alone."""
        if not self.ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, seconds: float) -> bool:
        """Whether it ended in time; it is killed otherwise."""
        if self.ended.wait(seconds):
            return True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.ended.wait(5)
        return False


class Controllers:
    """A context manager that starts commands through one forker."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._environ = environ
        self._commands: dict[str, Command] = {}
        self._lock = threading.Lock()
        self._ready: queue.Queue[bool] = queue.Queue()
        self._process: subprocess.Popen[bytes]
        self._listener: threading.Thread

    def __enter__(self) -> Controllers:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **self._environ},
        )
        self._listener = threading.Thread(target=self._listen, name="forker", daemon=True)
        self._listener.start()
        self._ready.get(timeout=120)
        return self

    def __exit__(self, *_exception: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)
        self._listener.join(10)
        assert self._process.stdout
        self._process.stdout.close()

    def start(self, folder: Path, *argv: str, **environ: str) -> Command:
        """Start a command in a folder of its own."""
        folder.mkdir(parents=True)
        command = Command(folder)
        key = str(folder)
        request = {
            "key": key,
            "argv": list(argv),
            "environ": {**self._environ, **environ},
            "folder": key,
        }
        with self._lock:
            self._commands[key] = command
            assert self._process.stdin
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        assert command.started.wait(60)
        return command

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            message = json.loads(line)
            if "ready" in message:
                self._ready.put(True)
                continue
            with self._lock:
                command = self._commands[message["key"]]
            if "pid" in message:
                command.pid = message["pid"]
                command.started.set()
            else:
                command.status = message["status"]
                command.ended.set()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
