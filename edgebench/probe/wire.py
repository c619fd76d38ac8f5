"""Messages: one JSON object a line, ASCII, bounded; and the failure that every part of the probe raises."""

import json
import os
import select
import sys
import threading
from typing import Any, Dict, List, Optional

Json = Dict[str, Any]
MAX_LINE_BYTES = 16 << 20
MAX_INTEGER_DIGITS = 32
TAIL_BYTES = 16 << 10


class ProbeError(Exception):
    """A failure for the controller: a kind of docs/probe-protocol.md, a message, a log's tail."""

    def __init__(self, kind: str, message: str, detail: str = "", holder: Optional[Json] = None) -> None:
        Exception.__init__(self, message)
        self.kind = kind
        self.message = message
        self.detail = detail
        self.holder = holder

    def to_json(self) -> Json:
        """The value of `error` in a reply."""
        plain: Json = {
            "kind": self.kind,
            "message": self.message,
            "detail": self.detail[-TAIL_BYTES:],
        }
        if self.kind == "busy":
            plain["holder"] = self.holder
        return plain


def encode(message: Json) -> bytes:
    """The line of a message, with its line end."""
    return (
        json.dumps(message, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"
    )


class Output:
    """The real stdout, for messages only; safe from several threads."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def send(self, message: Json) -> None:
        """Write one message; OSError when the reader is gone."""
        data = encode(message)
        with self._lock:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]

    def send_if_ready(self, message: Json) -> None:
        """Write a short message, unless that would wait for a reader; OSError when the reader is gone."""
        if not self._lock.acquire(False):
            return
        try:
            if select.select([], [self._descriptor], [], 0)[1]:
                os.write(self._descriptor, encode(message))
        finally:
            self._lock.release()


def take_stdout() -> Output:
    """The Output on file descriptor 1, which from then on is stderr: what a library prints is no message."""
    sys.stdout.flush()
    mine = os.dup(1)  # not inherited by children (PEP 446)
    os.dup2(2, 1)
    return Output(mine)


class LineReader:
    """Lines out of chunks, bounded: a line over the limit comes out as None and is skipped to its end."""

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._skipping = False

    def feed(self, chunk: bytes) -> List[Optional[bytes]]:
        """The complete lines that `chunk` ends, without their line ends."""
        lines: List[Optional[bytes]] = []
        pieces = chunk.split(b"\n")
        for piece in pieces[:-1]:
            self._take(piece, lines)
            if not self._skipping:
                lines.append(bytes(self._buffer))
            self._buffer = bytearray()
            self._skipping = False
        self._take(pieces[-1], lines)
        return lines

    def _take(self, piece: bytes, lines: List[Optional[bytes]]) -> None:
        if self._skipping:
            return
        if len(self._buffer) + len(piece) > self._limit:
            self._skipping = True
            self._buffer = bytearray()
            lines.append(None)
        else:
            self._buffer += piece


def parse(line: bytes) -> Json:
    """The JSON object in a line; ValueError for anything else."""
    try:
        message = json.loads(line.decode("utf-8"), parse_int=_integer, parse_constant=_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(message, dict):
        raise ValueError("it is no JSON object")
    return message


def _integer(text: str) -> int:
    if len(text) > MAX_INTEGER_DIGITS:
        raise ValueError("an integer has %d digits" % len(text))
    return int(text)


def _constant(text: str) -> Any:
    raise ValueError("%s is no JSON number" % text)
