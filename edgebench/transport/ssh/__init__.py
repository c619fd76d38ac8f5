"""A device behind OpenSSH (or another SSH 2 server), through paramiko.

A server is talked to only when its host key is known before: pinned in the inventory, or, where nothing is
pinned, in known_hosts. Nothing is ever written there or accepted on first use.

No wait is without an end. paramiko's own time-outs do not cover a write into a dead link, so every operation
also runs under a watchdog that closes the socket, and the kernel is told to give up on unacknowledged bytes
(TCP_USER_TIMEOUT, Linux).

Failures are `DeviceError`; those that may pass by themselves are `retryable`: unreachable, refused port,
closed before the greeting, time-outs, a dropped link. Never retryable: wrong or unpinned host key, refused
login, a name that does not resolve, a full disk. Secrets (passphrases, passwords, keys) appear in no message.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgebench.errors import BugError, DeviceError
from edgebench.records import Device
from edgebench.transport.base import (
    CHUNK_BYTES,
    Bounded,
    Channel,
    Completed,
    Credentials,
    Deadline,
    Sink,
    command_line,
    named,
)
from edgebench.transport.ssh import bastions
from edgebench.transport.ssh.base import SLACK_S, HostKey, Link, SessionRefusedError, Timeouts, too_slow
from edgebench.transport.ssh.channel import SLICE_S, Exchange, SshChannel, send_signal
from edgebench.transport.ssh.reach import scan_host_keys
from edgebench.transport.ssh.route import explained, known, parse_jump, route_to, unverified_route
from edgebench.transport.ssh.transfer import Transfers

if TYPE_CHECKING:
    import paramiko

__all__ = [
    "HostKey",
    "SshTransport",
    "Timeouts",
    "explained",
    "known_keys",
    "parse_jump",
    "route_to",
    "scan_device",
    "scan_host_keys",
]

FREED_S = 0.2  # how long a server may take to free the place of a session that has just ended
MAX_FREED_S = 2.0  # and where that is the last chance
MAX_LINKS = 4  # connections to one device: further ones only where its server takes too few sessions over one


class SshTransport:
    """One login at one device: `connect` first. `timeouts` can be given for very slow devices."""

    def __init__(
        self, device: Device, *, credentials: Credentials | None = None, timeouts: Timeouts | None = None
    ) -> None:
        self._device = device
        self._credentials = credentials or Credentials()
        self._timeouts = timeouts or Timeouts()
        self._links: list[Link] = []
        self._latest: Link | None = None
        self._starting = threading.Lock()
        self._transfers = Transfers(self)

    @property
    def name(self) -> str:
        """What messages call the device."""
        return self._device.name

    @property
    def timeouts(self) -> Timeouts:
        """How long each step may take."""
        return self._timeouts

    @property
    def links(self) -> tuple[Link, ...]:
        """The open connections, the first one first."""
        return tuple(self._links)

    def connect(self) -> None:
        """Log in, unless that is done; up to three attempts where another one may help."""
        if self._links and self._links[0].alive:
            return
        self.close()
        self._links = [self._further_link()]

    def _further_link(self) -> Link:
        return bastions.connect(route_to(self._device), self._credentials, self._timeouts)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        max_output_bytes: int = 1 << 20,
    ) -> Completed:
        """What the command left; see `Transport.run`."""
        stdout, stderr = Bounded(max_output_bytes), Bounded(max_output_bytes)
        status = self.execute(argv, Deadline(timeout_s), _pieces(stdin), stdout, stderr)
        return Completed(status, stdout.value(), stderr.value())

    def open(self, argv: Sequence[str]) -> Channel:
        """A channel to the started process."""
        what = f"starting {named(argv)}"
        command = _command(argv)
        link, channel = self._session(what)
        with self._watching(link, what, self._timeouts.channel_s):
            channel.exec_command(command)
            return SshChannel(self._device.name, link, channel)

    def put(
        self,
        source: Path,
        destination: str,
        *,
        offset: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Bytes moved; see `Transport.put`."""
        return self._transfers.put(source, destination, offset=offset, progress=progress)

    def get(self, source: str, destination: Path, *, max_bytes: int) -> int:
        """Bytes moved; see `Transport.get`."""
        return self._transfers.get(source, destination, max_bytes=max_bytes)

    def close(self) -> None:
        """Close the connection and everything opened over it; never raises."""
        links, self._links, self._latest = self._links, [], None
        for link in links:
            link.close()

    # --- commands ---

    def execute(
        self,
        argv: Sequence[str],
        deadline: Deadline,
        stdin: Iterator[bytes],
        stdout: Sink,
        stderr: Sink,
        what: str | None = None,
    ) -> int:
        """The exit status of a command whose output went to the sinks; `what`: how messages call it."""
        doing = what or f"running {named(argv)}"
        command = _command(argv)
        link, channel = self._session(doing)
        with self._watching(link, doing, deadline.limit_s):
            try:
                channel.exec_command(command)
                status = Exchange(channel, stdin, stdout, stderr).finish(deadline)
                if status is None:
                    send_signal(channel, "KILL")
            finally:
                channel.close()
            if status is None and what is not None:
                link.close()  # a transfer has time enough: its link hangs
                raise too_slow(self._device.name, what)
            if status is None:
                raise DeviceError(
                    f"{self._device.name}: {named(argv)} did not end within {deadline.limit_s:g} s",
                    hint="the board may be overloaded or hung; look at it, then run again",
                )
            if status == -1 and not channel.eof_received:
                raise EOFError
            return status

    # --- sessions ---

    def _session(self, what: str) -> tuple[Link, paramiko.Channel]:
        """A session channel and its connection: a further one where the server takes no more on those."""
        if not self._links:
            raise BugError(f"{self._device.name} is not connected")
        with self._starting:
            waits_s = FREED_S if len(self._links) < MAX_LINKS else MAX_FREED_S
            found = self._free_session(what, Deadline(waits_s))
            if found is None:
                link = self._further_link()
                self._links.append(link)
                found = link, self._session_on(link, what)
            self._latest = found[0]
            return found

    def _free_session(self, what: str, deadline: Deadline) -> tuple[Link, paramiko.Channel] | None:
        """A session on a connection that is there; None where a further one should be made.

        A server frees the place of a session a moment after its end, hence the deadline.
        """
        while True:
            self._links = [self._links[0], *(link for link in self._links[1:] if link.alive)]
            for link in sorted(self._links, key=lambda link: link is not self._latest):
                try:
                    return link, self._session_on(link, what)
                except SessionRefusedError as error:
                    refused = error
            if deadline.passed():
                if len(self._links) >= MAX_LINKS:
                    raise refused
                return None
            time.sleep(0.05)

    def _session_on(self, link: Link, what: str) -> paramiko.Channel:
        with self._watching(link, what, self._timeouts.channel_s):
            channel = link.transport.open_session(timeout=self._timeouts.channel_s)
            channel.settimeout(SLICE_S)
            return channel

    @contextlib.contextmanager
    def _watching(self, link: Link, what: str, limit_s: float) -> Iterator[None]:
        """What is inside is watched to its end; all errors of the library come out as DeviceError."""
        with link.mapped_errors(self._device.name, what), link.watchdog.within(limit_s + SLACK_S):
            if not link.alive:
                raise EOFError
            yield


def _command(argv: Sequence[str]) -> bytes:
    return command_line(argv).encode("utf-8", "surrogateescape")


def _pieces(data: bytes) -> Iterator[bytes]:
    return (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))


def known_keys(device: Device) -> tuple[str, ...]:
    """The fingerprints that the inventory or known_hosts has of a device; none where it is unknown."""
    return unverified_route(device)[-1].trusted.fingerprints


def scan_device(
    device: Device, credentials: Credentials | None = None, timeouts: Timeouts | None = None
) -> tuple[HostKey, ...]:
    """All host keys that a device shows, behind its jump hosts, which must be known; DeviceError for none."""
    *jumps, last = unverified_route(device)
    route = (*map(known, jumps), last)
    return bastions.scan(route, credentials or Credentials(), timeouts or Timeouts())
