"""A stand-in for a probe on a device of somebody hostile: it answers whatever a test wants, over a channel.

Only for tests. Its files are real files below its own folder; its clock runs as fast as a test lets it.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from edgebench.device.session import Session
from edgebench.errors import DeviceError
from edgebench.records import Device
from edgebench.transport.base import Channel, Completed

WORK = "/home/edge/.edgebench"
HELLO = {"event": "hello", "protocol": 1, "pid": 7, "python": "3.11.2", "work": WORK}
NANO = Device(name="nano", target="linux-x86_64", transport="ssh", address="10.0.0.9")

Answer = Callable[[dict[str, Any]], Iterable[dict[str, Any] | bytes]]


def result(value: object) -> Answer:
    """Answers every request with this result."""
    return lambda request: [{"id": request["id"], "ok": True, "result": value}]


def refusal(error: object) -> Answer:
    """Answers every request with this error."""
    return lambda request: [{"id": request["id"], "ok": False, "error": error}]


class Hostile:
    """The transport and the channel at once; `clock_s` moves by `step_s` with every read.

    Where it `hurries` it does not wait for a request: its clock moves by the whole time instead.
    """

    def __init__(self, answer: Answer, *, hello: object = None, files: Path | None = None) -> None:
        self._answer = answer
        self._waiting: list[bytes] = [_line(HELLO if hello is None else hello)]
        self._endless: Iterable[dict[str, Any] | bytes] | None = None
        self._files = files
        self.clock_s = 0.0
        self.step_s = 1.0
        self.hurries = False
        self._asked = threading.Event()
        self.fetched: list[str] = []

    def session(self, home: Path) -> Session:
        """A session with it."""
        return Session(NANO, self, self, home)

    # --- the channel ---

    def send(self, data: bytes, *, timeout_s: float) -> None:
        """Take one request and prepare its answers."""
        request = json.loads(data)
        if "id" in request and request["op"] != "end":
            self._endless = iter(self._answer(request))
            self._asked.set()

    def receive(self, *, timeout_s: float) -> bytes | None:
        """The next answer; nothing, after the whole time, when there is none."""
        self.clock_s += self.step_s
        if self._waiting:
            return self._waiting.pop(0)
        for message in self._endless or ():
            return _line(message)
        self.clock_s += timeout_s
        if not self.hurries and self._asked.wait(timeout_s):
            self._asked.clear()
        return None

    def stderr_tail(self) -> str:
        """What its log ends with: escapes, too."""
        return "\x1b]0;owned\x07the last words"

    def exit_status(self) -> int | None:
        """It runs."""
        return None

    # --- the transport ---

    def connect(self) -> None:
        """It is there."""

    def run(
        self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"", max_output_bytes: int = 1 << 20
    ) -> Completed:
        """No command is known."""
        return Completed(127, b"", b"")

    def open(self, argv: Sequence[str]) -> Channel:
        """The channel."""
        return self

    def put(
        self,
        source: Path,
        destination: str,
        *,
        offset: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Swallow a file."""
        return source.stat().st_size - offset

    def get(self, source: str, destination: Path, *, max_bytes: int) -> int:
        """One of its files, by the last part of the path."""
        self.fetched.append(source)
        file = (self._files or Path("/nowhere")) / source.rpartition("/")[2]
        if not file.is_file():
            raise DeviceError(f"nano: {source} is not there")
        shutil.copyfile(file, destination)
        return file.stat().st_size

    def close(self) -> None:
        """Nothing is held."""


def _line(message: object) -> bytes:
    return message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
