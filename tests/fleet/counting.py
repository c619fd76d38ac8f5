"""An SSH transport that counts how often it waits for the device: requests, commands and files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgebench.transport.base import Channel, Completed
from edgebench.transport.connect import TRANSPORTS
from edgebench.transport.ssh import SshTransport

_counts: list[Counter[str]] = []


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """While this is open, what ssh transports wait for is counted: request, run, open, put and get."""
    real = TRANSPORTS["ssh"]
    _counts.append(Counter())
    TRANSPORTS["ssh"] = "tests.fleet.counting:CountingTransport"
    try:
        yield _counts[-1]
    finally:
        TRANSPORTS["ssh"] = real
        _counts.pop()


def _count(kind: str) -> None:
    for counter in _counts:
        counter[kind] += 1


class CountingTransport(SshTransport):
    """The real one, counted."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        max_output_bytes: int = 1 << 20,
    ) -> Completed:
        """One command is one round trip at least."""
        _count("run")
        return super().run(argv, timeout_s=timeout_s, stdin=stdin, max_output_bytes=max_output_bytes)

    def open(self, argv: Sequence[str]) -> Channel:
        """What is sent over the channel is counted too."""
        _count("open")
        return _CountingChannel(super().open(argv))

    def put(
        self,
        source: Path,
        destination: str,
        *,
        offset: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """One file."""
        _count("put")
        return super().put(source, destination, offset=offset, progress=progress)

    def get(self, source: str, destination: Path, *, max_bytes: int) -> int:
        """One file."""
        _count("get")
        return super().get(source, destination, max_bytes=max_bytes)


class _CountingChannel(Channel):
    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def send(self, data: bytes, *, timeout_s: float) -> None:
        if b'"op":"beat"' not in data:
            _count("request")
        self._channel.send(data, timeout_s=timeout_s)

    def receive(self, *, timeout_s: float) -> bytes | None:
        return self._channel.receive(timeout_s=timeout_s)

    def stderr_tail(self) -> str:
        return self._channel.stderr_tail()

    def exit_status(self) -> int | None:
        return self._channel.exit_status()

    def close(self) -> None:
        self._channel.close()
