"""The interface of a transport: connect, run, open, put, get, close. Every wait has a deadline.

Failures are `DeviceError` (see each transport for which); a transport never retries by itself after connect.
Remote paths are absolute or relative to the login's home, POSIX style. No argument reaches a shell unquoted.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

from edgebench.errors import BugError, DeviceError, InfrastructureError, UserError
from edgebench.units import format_bytes

CHUNK_BYTES = 1 << 15
STDERR_TAIL_BYTES = 16 << 10
OUTPUT_GRACE_S = (
    0.5  # how long output may still come once the process ended but a child of it holds the pipes
)
MAX_COMMAND_BYTES = (
    100_000  # Linux takes at most 128 KiB in one argument, and a remote shell gets the command as one
)


class Completed(NamedTuple):
    """What a short command left: exit status (-1: killed by a signal) and both outputs, cut at the bound."""

    status: int
    stdout: bytes
    stderr: bytes


class Channel(Protocol):
    """A long-lived process on the device: bytes in, bytes out. Closing it ends its stdin."""

    def send(self, data: bytes, *, timeout_s: float) -> None:
        """Write all of `data` to the process's stdin; DeviceError when the process or link is gone."""

    def receive(self, *, timeout_s: float) -> bytes | None:
        """Some bytes of stdout; b"" at its end; None when nothing came within `timeout_s`."""

    def stderr_tail(self) -> str:
        """The last 16 KiB of stderr so far, decoded with replacement."""

    def exit_status(self) -> int | None:
        """The exit status, or None while the process runs or where it is unknown."""

    def close(self) -> None:
        """End stdin and release the channel; never raises."""


class Transport(Protocol):
    """One way to one device."""

    def connect(self) -> None:
        """Open the connection unless it is open; DeviceError when it cannot be (network, host key, login)."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        max_output_bytes: int = 1 << 20,
    ) -> Completed:
        """Run one short command to its end; DeviceError past `timeout_s`, and the command is ended then.

        A program that is not there is status 127, as a shell says it.
        """

    def open(self, argv: Sequence[str]) -> Channel:
        """Start a long-lived process and return the channel to it."""

    def put(
        self,
        source: Path,
        destination: str,
        *,
        offset: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Write the file's bytes from `offset` on to `destination` (appending when offset > 0); bytes moved.

        With an offset the destination must hold exactly so many bytes. `progress` gets each number of bytes
        just moved. After an error a partial file stays, to be continued or removed by whoever named it.
        """

    def get(self, source: str, destination: Path, *, max_bytes: int) -> int:
        """Fetch a file; bytes moved. DeviceError past `max_bytes`; nothing half-written stays."""

    def close(self) -> None:
        """Close the connection; never raises."""


def _no_answer(_asked: str) -> str | None:
    return None


def _no_memory(_asked: str, _answer: str) -> None:
    return


@dataclass(frozen=True)
class Credentials:
    """Who answers what a login asks. Answers stay in memory and reach no message.

    `passphrase` is asked with a key file's path, `password` with "user@address"; None means: no answer.
    `forget` is told what was asked and which answer was wrong. Without `passwords` none is sent, not even one
    of the environment: who answers there may be anybody.
    """

    passphrase: Callable[[str], str | None] = _no_answer
    password: Callable[[str], str | None] = _no_answer
    forget: Callable[[str, str], None] = _no_memory
    passwords: bool = True

    def without_passwords(self) -> Credentials:
        """The same, but no password is sent."""
        return replace(self, passwords=False)


class Deadline:
    """A moment after which an operation must be over, on the monotonic clock."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._end_s = time.monotonic() + limit_s

    def left_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end_s - time.monotonic())

    def passed(self) -> bool:
        """Whether it is too late."""
        return time.monotonic() >= self._end_s


class Sink(Protocol):
    """Takes a stream piece by piece."""

    def add(self, data: bytes) -> None:
        """Take one piece."""


class Tail:
    """The last bytes of a stream that nobody reads in full."""

    def __init__(self) -> None:
        self._bytes = b""

    def add(self, data: bytes) -> None:
        """Take more of the stream."""
        self._bytes = (self._bytes + data)[-STDERR_TAIL_BYTES:]

    def text(self) -> str:
        """The last 16 KiB, decoded with replacement."""
        return self._bytes.decode("utf-8", "replace")


class Bounded:
    """The first bytes of a stream; the rest is read and dropped, so that its writer never blocks."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._parts: list[bytes] = []

    def add(self, data: bytes) -> None:
        """Take more of the stream."""
        if self._left > 0:
            self._parts.append(data[: self._left])
            self._left -= len(self._parts[-1])

    def value(self) -> bytes:
        """What was kept."""
        return b"".join(self._parts)


def command_line(argv: Sequence[str]) -> str:
    """The arguments quoted for a POSIX shell; UserError for what no process can be given."""
    if not argv or not argv[0]:
        raise BugError("an empty command")
    if any("\0" in argument for argument in argv):
        raise UserError(
            "a command's argument holds a NUL byte", hint="remove it from the file or option it is in"
        )
    line = shlex.join(argv)
    try:
        size_bytes = len(line.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError as error:
        raise UserError(
            "a command's argument holds half a character", hint="look for a damaged name"
        ) from error
    if size_bytes > MAX_COMMAND_BYTES:
        raise BugError(f"a command of {size_bytes} bytes; at most {MAX_COMMAND_BYTES} are sure to be taken")
    return line


def named(argv: Sequence[str]) -> str:
    """The command as messages name it: short, on one line, printable."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(argv))
    return f"`{line[:60]}...`" if len(line) > 60 else f"`{line}`"


def check_offset(source: Path, offset: int) -> int:
    """The size of the file to send; InfrastructureError when it cannot be read."""
    try:
        size_bytes = source.stat().st_size
    except OSError as error:
        raise unreadable(source, error) from error
    if not 0 <= offset <= size_bytes:
        raise BugError(f"{source} has {size_bytes} bytes; it cannot be sent from byte {offset} on")
    return size_bytes


def read_chunks(source: Path, offset: int, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The file's bytes from `offset` on, in pieces; InfrastructureError when it cannot be read."""
    try:
        with source.open("rb") as file:
            file.seek(offset)
            while piece := file.read(chunk_bytes):
                yield piece
    except OSError as error:
        raise unreadable(source, error) from error


def unreadable(source: Path, error: OSError) -> InfrastructureError:
    """A file of the controller that cannot be sent."""
    return InfrastructureError(f"cannot read {source}: {error.strerror or error}")


def unwritable(destination: Path, error: OSError) -> InfrastructureError:
    """A file of the controller that cannot be written."""
    return InfrastructureError(
        f"cannot write {destination}: {error.strerror or error}",
        hint="check the folder and the disk of this computer",
    )


def wrong_offset(device: str, destination: str, offset: int, there_bytes: int) -> DeviceError:
    """A transfer was to be continued, but the device's file is not as long as it was said to be."""
    return DeviceError(
        f"{device}: {destination} has {there_bytes} bytes, so nothing can be appended at byte {offset}",
        hint="somebody else writes there; remove the file, then run again",
        retryable=True,
    )


def cut_short(device: str, destination: str, wanted_bytes: int, there_bytes: int) -> DeviceError:
    """A transfer ended without an error, but the device's file is not as long as what was sent."""
    return DeviceError(
        f"{device}: {destination} has {there_bytes} bytes after a transfer, not {wanted_bytes}",
        hint="check the device's storage (dmesg, fsck), then run again",
        retryable=True,
    )


def ended_there(device: str, destination: str) -> DeviceError:
    """The process that takes a transfer was killed: by the session's guard, or for want of memory."""
    return DeviceError(
        f"{device}: what wrote {destination} was ended there",
        hint="run again; where it stays so, look for want of memory (dmesg)",
        retryable=True,
    )


def too_large(device: str, source: str, max_bytes: int) -> DeviceError:
    """A file on the device is larger than what was agreed to be fetched."""
    return DeviceError(
        f"{device}: {source} is larger than {format_bytes(max_bytes)}, the most that is fetched"
    )


def disk_full(device: str, folder: str, *, needs_bytes: int, has_bytes: int) -> DeviceError:
    """The device has no room for a transfer."""
    return DeviceError(
        f"disk full on {device}: needs {format_bytes(needs_bytes)}, has {format_bytes(has_bytes)} ({folder})",
        hint=f"free space on the device, or: edgebench devices clean {device}",
    )


def df_available_bytes(text: str) -> int | None:
    """Free bytes from the output of `df -Pk FOLDER` (KiB: size, used, available); None where unclear."""
    match = re.search(r"\s(\d{1,18})\s+(\d{1,18})\s+(-?\d{1,18})\s+(\d{1,3}%|-)\s", text)
    return None if match is None else max(0, int(match[3])) * 1024
