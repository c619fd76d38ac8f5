"""A device behind OpenSSH (or another SSH 2 server), through paramiko.

Host keys are pinned: a server is talked to only when the SHA256 fingerprint of its key is in the inventory.
No known_hosts file is read or written, and nothing is ever accepted on first use.

No wait is without an end. paramiko's own time-outs do not cover a write into a dead link, so every operation
also runs under a watchdog that closes the socket, and the kernel is told to give up on unacknowledged bytes
(TCP_USER_TIMEOUT, Linux).

Failures are `DeviceError`; those that may pass by themselves are `retryable`: unreachable, refused port,
closed before the greeting, time-outs, a dropped link. Never retryable: wrong or unpinned host key, refused
login, a name that does not resolve, a full disk. Secrets (passphrases, passwords, keys) appear in no message.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgebench.errors import BugError, DeviceError, UserError
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
from edgebench.transport.ssh.auth import authenticate
from edgebench.transport.ssh.base import SLACK_S, HostKey, Link, Login, Timeouts
from edgebench.transport.ssh.channel import SLICE_S, Exchange, SshChannel, send_signal
from edgebench.transport.ssh.reach import scan_host_keys, verified_link
from edgebench.transport.ssh.transfer import Transfers

if TYPE_CHECKING:
    import paramiko

__all__ = ["HostKey", "SshTransport", "Timeouts", "parse_jump", "scan_host_keys"]

CONNECT_ATTEMPTS = 3

_PLAIN = re.compile(r"(?P<address>[^\s:\[\]]+)(:(?P<port>[0-9]{1,5}))?")
_BRACKETED = re.compile(r"\[(?P<address>[^\s\[\]]+)\](:(?P<port>[0-9]{1,5}))?")
_IPV6 = re.compile(r"(?P<address>[0-9A-Fa-f.:]*:[0-9A-Fa-f.:]*:[0-9A-Fa-f.:%\w]*)(?P<port>)")


class SshTransport:
    """One login at one device: `connect` first. `timeouts` can be given for very slow devices."""

    def __init__(
        self, device: Device, *, credentials: Credentials | None = None, timeouts: Timeouts | None = None
    ) -> None:
        self._device = device
        self._credentials = credentials or Credentials()
        self._timeouts = timeouts or Timeouts()
        self._link: Link | None = None
        self._transfers = Transfers(self)

    @property
    def name(self) -> str:
        """What messages call the device."""
        return self._device.name

    @property
    def timeouts(self) -> Timeouts:
        """How long each step may take."""
        return self._timeouts

    def connect(self) -> None:
        """Log in, unless that is done; up to three attempts where another one may help."""
        if self._link is not None and self._link.alive:
            return
        self.close()
        route = route_to(self._device)
        for attempt in range(1, CONNECT_ATTEMPTS + 1):
            try:
                self._link = _log_in(route, self._credentials, self._timeouts)
            except DeviceError as error:
                if not error.retryable or attempt == CONNECT_ATTEMPTS:
                    raise
                time.sleep(attempt * self._timeouts.retry_s * _jitter())
            else:
                return

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
        with self._operation(f"starting {named(argv)}", self._timeouts.channel_s) as link:
            return SshChannel(self._device.name, link, self._start(link, argv))

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
        link, self._link = self._link, None
        if link is not None:
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
        with self._operation(what or f"running {named(argv)}", deadline.limit_s) as link:
            channel = self._start(link, argv)
            try:
                status = Exchange(channel, stdin, stdout, stderr).finish(deadline)
                if status is None:
                    send_signal(channel, "KILL")
            finally:
                channel.close()
            if status is None:
                raise DeviceError(
                    f"{self._device.name}: {what or named(argv)} did not end within {deadline.limit_s:g} s",
                    hint="the board may be overloaded or hung; look at it, then run again",
                )
            if status == -1 and not channel.eof_received:
                raise EOFError
            return status

    def _start(self, link: Link, argv: Sequence[str]) -> paramiko.Channel:
        command = command_line(argv).encode("utf-8", "surrogateescape")
        channel = link.transport.open_session(timeout=self._timeouts.channel_s)
        channel.settimeout(SLICE_S)
        channel.exec_command(command)
        return channel

    # --- errors ---

    @contextlib.contextmanager
    def _operation(self, what: str, limit_s: float) -> Iterator[Link]:
        """The link, watched until the operation ends; all errors of the library come out as DeviceError."""
        link = self._link
        if link is None:
            raise BugError(f"{self._device.name} is not connected")
        with link.mapped_errors(self._device.name, what), link.watchdog.within(limit_s + SLACK_S):
            if not link.alive:
                raise EOFError
            yield link


def _pieces(data: bytes) -> Iterator[bytes]:
    return (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))


def _jitter() -> float:
    """A factor between 1 and 3, so that workers who failed together come back apart."""
    return 1 + secrets.randbelow(2000) / 1000


def route_to(device: Device) -> tuple[Login, ...]:
    """The logins on the way to the device, the device's own last; DeviceError where nothing is pinned."""
    ssh = device.ssh
    user = ssh.user or _own_name(device)
    last = Login(device.name, device.address, ssh.port, user, ssh.key_file, device.host_keys)
    if ssh.jump is None:
        return (_pinned(last),)
    jump_user, address, port = parse_jump(ssh.jump)
    jump = Login(
        f"jump host {address} of {device.name}",
        address,
        port,
        jump_user or user,
        ssh.key_file,
        ssh.jump_host_keys,
        option="ssh.jump_host_key",
    )
    return (_pinned(jump), _pinned(last))


def _own_name(device: Device) -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise UserError(f"{device.name}: as whom to log in?", hint="set ssh.user in the inventory") from error


def parse_jump(text: str) -> tuple[str | None, str, int]:
    """User, address and port of "[user@]host[:port]"; an IPv6 address with a port stands in brackets."""
    user, _, host = text.rpartition("@")
    match = _BRACKETED.fullmatch(host) or _PLAIN.fullmatch(host) or _IPV6.fullmatch(host)
    port = int(match["port"] or 22) if match else 0
    if match is None or not 0 < port < 65536:
        raise UserError(f'"{text}" is no jump host', hint="write it as user@host or user@host:port")
    return user or None, match["address"], port


def _pinned(login: Login) -> Login:
    if not login.host_keys:
        raise DeviceError(
            f"{login.name}: no host key is pinned for {login.address}",
            hint=f"edgebench devices scan {login.address} shows it; compare, then write it as {login.option}",
        )
    return login


def _log_in(route: Sequence[Login], credentials: Credentials, timeouts: Timeouts) -> Link:
    """A link to the last stop of the route, logged in at each."""
    link: Link | None = None
    for login in route:
        via, link = link, None
        try:
            link = verified_link(login, via, timeouts)
            with link.watchdog.within(2 * timeouts.auth_s + SLACK_S):
                authenticate(link, login, credentials)
        except BaseException:
            for opened in (link, via):
                if opened is not None:
                    opened.close()
            raise
        link.transport.set_keepalive(timeouts.keepalive_s)
    if link is None:
        raise BugError("a route without a stop")
    return link
