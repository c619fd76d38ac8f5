"""Questions for secrets, asked where a person is: one at a time, each once, answers kept in memory only.

What is typed is not shown. The terminal is set back whatever happens, and the progress display waits.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator

from edgebench.cli.output import clean
from edgebench.cli.progress import paused
from edgebench.errors import Interrupted
from edgebench.transport.base import Credentials

TERMINAL = "/dev/tty"
ANSWER_S = 100.0  # OpenSSH's servers wait for 120 s (LoginGraceTime)

_ENTER, _CANCEL, _END, _CLEAR = b"\r\n", b"\x03", b"\x04", b"\x15"
_ERASE = b"\x08\x7f"


class Prompts:
    """Asks for passphrases and passwords; the same one once for all threads."""

    def __init__(self, ask: Callable[[str], str | None] | None = None) -> None:
        self._ask = ask or ask_terminal
        self._lock = threading.Lock()
        self._answers: dict[str, str | None] = {}
        self._ended = False

    def credentials(self) -> Credentials:
        """What a transport asks with."""
        return Credentials(
            passphrase=lambda path: self._answer(path, f"Passphrase of the key {path}: "),
            password=lambda login: self._answer(login, f"Password of {login}: "),
            forget=self._forget,
        )

    def _answer(self, asked: str, question: str) -> str | None:
        with self._lock:
            if asked not in self._answers and not self._ended:
                try:
                    self._answers[asked] = self._ask(question)
                except Interrupted:
                    self._ended = True
            return self._answers.get(asked)

    def _forget(self, asked: str, answer: str) -> None:
        """Ask again, unless another thread has done so."""
        with self._lock:
            if self._answers.get(asked) == answer:
                del self._answers[asked]


def somebody_is_there() -> bool:
    """Whether a person can be asked: input and messages are a terminal's."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask_terminal(question: str) -> str | None:
    """What somebody typed, unseen; None where nobody is there, answers in time, or wants to go on."""
    if not somebody_is_there():
        return None
    with paused(), contextlib.suppress(OSError, termios.error):
        terminal = os.open(TERMINAL, os.O_RDWR | os.O_NOCTTY)
        try:
            with _unseen(terminal):
                os.write(terminal, clean(question).encode("utf-8", "replace"))
                return _line(terminal)
        finally:
            os.write(terminal, b"\n")
            os.close(terminal)
    return None


@contextlib.contextmanager
def _unseen(terminal: int) -> Iterator[None]:
    """No echo, and every key as it comes: also Ctrl-C, which would else leave the terminal mute."""
    before = termios.tcgetattr(terminal)
    mute = termios.tcgetattr(terminal)
    mute[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG)
    termios.tcsetattr(terminal, termios.TCSAFLUSH, mute)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)


def _line(terminal: int) -> str | None:
    typed = bytearray()
    end_s = time.monotonic() + ANSWER_S
    while (left_s := end_s - time.monotonic()) > 0:
        if not select.select([terminal], [], [], left_s)[0]:
            return None
        for key in os.read(terminal, 1024) or _END:
            if key in _ENTER:
                return typed.decode("utf-8", "replace")
            if key in _CANCEL:
                os.kill(os.getpid(), signal.SIGINT)
                raise Interrupted("interrupted")
            if key in _END:
                return None
            _edit(typed, key)
    return None


def _edit(typed: bytearray, key: int) -> None:
    if key in _CLEAR:
        typed.clear()
    elif key in _ERASE:
        while typed and typed.pop() & 0xC0 == 0x80:  # the bytes of one character
            pass
    else:
        typed.append(key)
