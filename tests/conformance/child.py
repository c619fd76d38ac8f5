"""A process that answers lines: one in, one out, and the end of it when it takes too long."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Child:
    """The process, in a session of its own, so that its children end with it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env=os.environ | environment,
            start_new_session=True,
        )
        self.fate = ""

    def ask(self, line: bytes, limit_s: float) -> bytes | None:
        """The answer to a line; None when the process died or was too slow, and `fate` says which."""
        writing, reading = self._process.stdin, self._process.stdout
        if writing is None or reading is None:
            return None
        try:
            writing.write(line + b"\n")
            writing.flush()
        except BrokenPipeError:
            self.fate = self._how_it_ended()
            return None
        received = bytearray()
        deadline = time.monotonic() + limit_s
        with selectors.DefaultSelector() as selector:
            selector.register(reading, selectors.EVENT_READ)
            while not received.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.fate = f"took longer than {limit_s:g} s"
                    return None
                chunk = os.read(reading.fileno(), 1 << 16)
                if not chunk:
                    self.fate = self._how_it_ended()
                    return None
                received += chunk
        return bytes(received)

    def end(self) -> None:
        """Kill the process and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        return f"died by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
