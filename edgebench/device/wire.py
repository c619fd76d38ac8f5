"""JSON lines over a channel, bounded in size and time: everything a probe prints is untrusted."""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec

from edgebench.errors import DeviceError, printable
from edgebench.transport.base import Channel

MAX_LINE_BYTES = 16 << 20
HELLO = b'"hello"'  # in a line that is no message: a first message that was damaged
MAX_NOISE_BYTES = 64 << 10  # what a login shell may print before the probe's first line
SEND_TIMEOUT_S = 20.0


class Wire:
    """Messages to and from a probe session. Any thread may send, one receives."""

    def __init__(self, channel: Channel, device: str) -> None:
        self._channel = channel
        self._device = device
        self._buffer = bytearray()
        self._sending = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """Write one message; DeviceError when the session is gone."""
        line = msgspec.json.encode(message) + b"\n"
        with self._sending:
            try:
                self._channel.send(line, timeout_s=SEND_TIMEOUT_S)
            except DeviceError as error:
                said = self._channel.stderr_tail()
                if _reason(said):
                    raise self._ended(said) from error
                raise

    def receive_hello(self, *, timeout_s: float) -> dict[str, Any]:
        """The probe's first message, past whatever a login shell printed before it."""
        deadline = time.monotonic() + timeout_s
        noise = 0
        while noise <= MAX_NOISE_BYTES:
            line = self._line(deadline)
            message = _parse(line)
            if message is not None and message.get("event") == "hello":
                return message
            if message is None and HELLO in line:
                raise self._garbled(f"it sent {_excerpt(line)}")
            noise += len(line) + 1
        raise self._garbled("its login prints more than 64 KiB before the probe speaks")

    def receive(self, *, timeout_s: float) -> dict[str, Any]:
        """The next message; DeviceError past `timeout_s`, at the session's end, for what is no message."""
        line = self._line(time.monotonic() + timeout_s)
        message = _parse(line)
        if message is None:
            raise self._garbled(f"it sent {_excerpt(line)}")
        return message

    def _line(self, deadline: float) -> bytes:
        searched = 0
        while True:
            end = self._buffer.find(b"\n", searched)
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                return line
            searched = len(self._buffer)
            if searched > MAX_LINE_BYTES:
                raise self._garbled(f"it sent a line of more than {MAX_LINE_BYTES >> 20} MiB")
            self._receive_more(deadline)

    def _receive_more(self, deadline: float) -> None:
        left_s = deadline - time.monotonic()
        chunk = self._channel.receive(timeout_s=left_s) if left_s > 0 else None
        if chunk is None:
            raise DeviceError(
                f"{self._device}: the probe did not answer in time",
                hint="the board may be overloaded or hung; look at it, then run again",
                detail=self._log(),
                retryable=True,
            )
        if chunk == b"":
            raise self._ended(self._channel.stderr_tail())
        self._buffer += chunk

    def _ended(self, said: str) -> DeviceError:
        return DeviceError(
            f"{self._device}: the probe session ended unexpectedly{_reason(said)}",
            hint="the connection dropped or the probe was killed; look at the board, then run again",
            detail=printable(said, lines=True),
            retryable=True,
        )

    def _log(self) -> str:
        return printable(self._channel.stderr_tail(), lines=True)

    def _garbled(self, what: str) -> DeviceError:
        return DeviceError(
            f"{self._device}: what came from the device is not the probe's protocol: {what}",
            hint="something else writes to the login's output (a forced command, a broken .bashrc?)",
            detail=self._log(),
        )


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        message = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _reason(stderr: str) -> str:
    """Why a probe ended, where its last words say so."""
    words = [line.removeprefix("probe: ") for line in stderr.splitlines() if line.startswith("probe: ")]
    return f": {printable(words[-1][:200])}" if words else ""


def _excerpt(line: bytes) -> str:
    text = line[:80].decode("utf-8", "replace")
    return f'"{printable(text)}"'
