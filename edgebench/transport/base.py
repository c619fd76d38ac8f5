"""The interface of a transport: connect, run, open, put, get, close. Every wait has a deadline.

Failures are `DeviceError` (see each transport for which); a transport never retries by itself after connect.
Remote paths are absolute or relative to the login's home, POSIX style. No argument ever reaches a shell unquoted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol


class Completed(NamedTuple):
    """What a short command left: exit status (-1: killed by a signal), stdout and stderr, both cut at the bound."""

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
        """Open the connection; DeviceError when it cannot be (unreachable, host key, login)."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        max_output_bytes: int = 1 << 20,
    ) -> Completed:
        """Run one short command to its end; DeviceError past `timeout_s`."""

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
        """Write the file's bytes from `offset` on to `destination` (appending when offset > 0); bytes moved."""

    def get(self, source: str, destination: Path, *, max_bytes: int) -> int:
        """Fetch a file; bytes moved. DeviceError when it is larger than `max_bytes`."""

    def close(self) -> None:
        """Close the connection; never raises."""
