"""What the parts of the ssh transport share: time-outs, logins, and the link that never hangs."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgebench.errors import DeviceError
from edgebench.transport.base import Deadline

if TYPE_CHECKING:
    import paramiko

KEY_TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
SLACK_S = 3.0  # how long the watchdog waits beyond an operation's own deadline
LEAVE_S = 15.0  # how long a jump host, which others use too, may take to hear that a channel is closed


def family(kind: str) -> str:
    """The key type, where all signature types of one RSA key are one."""
    return "rsa" if kind in ("ssh-rsa", "rsa-sha2-512", "rsa-sha2-256") else kind


def short_path(path: str | Path) -> str:
    """The path as people write it: with `~` for the home."""
    try:
        return f"~/{Path(path).expanduser().relative_to(Path.home())}"
    except (ValueError, RuntimeError):
        return str(path)


def pattern_matches(pattern: str, text: str) -> bool:
    """Whether a pattern of OpenSSH, with `*` and `?`, is about the whole text."""
    parts = {"*": ".*", "?": "."}
    stars = re.sub(r"\*+", "*", pattern)
    return re.fullmatch("".join(parts.get(c, re.escape(c)) for c in stars), text, re.DOTALL) is not None


def patterns_match(patterns: Iterable[str], text: str) -> bool:
    """Whether one of OpenSSH's patterns is about the text and none that begins with `!` is."""
    found = False
    for pattern in patterns:
        if pattern_matches(pattern.removeprefix("!"), text):
            if pattern.startswith("!"):
                return False
            found = True
    return found


@dataclass(frozen=True)
class Timeouts:
    """How long each step of a connection may take, in seconds.

    `dead_link_s` is how long sent bytes may stay unacknowledged: a longer outage ends the connection. A new
    attempt to connect waits `retry_s`, then longer. A transfer may take `transfer_min_s`, or longer where its
    size at `transfer_bytes_per_s` asks for it.
    """

    connect_s: float = 10.0
    banner_s: float = 20.0
    handshake_s: float = 15.0
    auth_s: float = 20.0
    channel_s: float = 20.0
    keepalive_s: int = 15
    retry_s: float = 0.2
    dead_link_s: float = 10.0
    transfer_min_s: float = 30.0
    transfer_bytes_per_s: int = 100_000

    def transfer_s(self, size_bytes: int) -> float:
        """The limit of one transfer."""
        return max(self.transfer_min_s, size_bytes / self.transfer_bytes_per_s)


class HostKey(NamedTuple):
    """One key of a server: its type ("ssh-ed25519") and its fingerprint ("SHA256:...")."""

    type: str
    fingerprint: str


@dataclass(frozen=True)
class Trusted:
    """The keys that a server may show, and where they are from: an inventory's `option`, or known_hosts.

    `types` are those of the keys, where they are known: they are asked for first. `told` is what messages
    call the keys.
    """

    fingerprints: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    revoked: tuple[str, ...] = ()
    told: str = ""
    option: str = "host_key"
    pinned: bool = True


@dataclass(frozen=True)
class Login:
    """Where to log in, as whom, with what, and what the server must prove to be.

    `name` is what messages call it. `agent` is the socket of an agent, "none" for no agent, and None for
    the one of the environment. Without `key_files` the agent's keys and, with `usual_files`, the usual files
    are tried; with `identities_only` the agent's keys only where a file names them.
    """

    name: str
    address: str
    port: int
    user: str = ""
    key_files: tuple[str, ...] = ()
    usual_files: bool = True
    identities_only: bool = False
    agent: str | None = None
    trusted: Trusted = Trusted()

    @property
    def where(self) -> str:
        """Address and port."""
        return f"{self.address}:{self.port}"


class Watchdog:
    """Calls `abort` once, when the earliest running deadline passes: only this ends a stuck write."""

    def __init__(self, abort: Callable[[], None]) -> None:
        self._abort = abort
        self._ends: dict[int, float] = {}
        self._changed = threading.Condition()
        self._next_key = 0
        self._stopped = False
        self._thread: threading.Thread | None = None
        self.fired = False

    @contextlib.contextmanager
    def within(self, limit_s: float) -> Iterator[None]:
        """What is inside must end within the limit."""
        key = self._add(time.monotonic() + limit_s)
        try:
            yield
        finally:
            with self._changed:
                del self._ends[key]

    def stop(self) -> None:
        """End the watching thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _add(self, end_s: float) -> int:
        with self._changed:
            self._next_key += 1
            earliest = all(end_s < other for other in self._ends.values())
            self._ends[self._next_key] = end_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="ssh watchdog", daemon=True)
                self._thread.start()
            elif earliest:
                self._changed.notify()
            return self._next_key

    def _watch(self) -> None:
        with self._changed:
            while not self._stopped:
                left_s = min(self._ends.values(), default=time.monotonic() + 3600.0) - time.monotonic()
                if left_s <= 0:
                    self.fired = True
                    break
                self._changed.wait(left_s)
        if self.fired:
            self._abort()


def too_slow(device: str, what: str) -> DeviceError:
    """An operation was not over in time, and its connection is closed."""
    return DeviceError(
        f"{device}: {what} took too long; the connection was closed",
        hint="the device or its network is stuck or very slow; look at it, then run again",
        retryable=True,
    )


class NoChannelError(DeviceError):
    """A jump host does not open a further channel over this connection; another one may do."""


class SessionRefusedError(DeviceError):
    """A server takes no further session over this connection (MaxSessions); another one may do."""


class Link:
    """A connection that speaks SSH, perhaps over another one (the jump host's), which others may use too.

    `when_closed` is called when it is closed, perhaps more than once: it gives the other connection back.
    """

    def __init__(
        self, wire: socket.socket | paramiko.Channel, transport: paramiko.Transport, via: Link | None
    ) -> None:
        self.transport = transport
        self.watchdog = Watchdog(self.close)
        self.when_closed: Callable[[], None] | None = None
        self._wire = wire
        self._via = via
        self._asking = threading.Lock()

    @property
    def alive(self) -> bool:
        """Whether nothing is known to have ended the connection."""
        return self.transport.is_active() and not self.watchdog.fired

    def settled_alive(self) -> bool:
        """Whether the link lives. paramiko wakes those who wait on a dead link a moment before it says so."""
        deadline = Deadline(0.1)
        while self.alive and not deadline.passed():
            time.sleep(0.02)
        return self.alive

    @contextlib.contextmanager
    def mapped_errors(self, device: str, what: str) -> Iterator[None]:
        """Every error of paramiko or of a socket inside comes out as a DeviceError."""
        import paramiko

        try:
            yield
        except (paramiko.SSHException, paramiko.SFTPError, EOFError, OSError) as error:
            raise self._explain(error, device, what) from error

    def _explain(self, error: Exception, device: str, what: str) -> DeviceError:
        import paramiko

        if self.watchdog.fired:
            return too_slow(device, what)
        if isinstance(error, paramiko.ChannelException):
            return SessionRefusedError(
                f"{device}: the server refused {what} ({error.text})",
                hint="too many sessions over one connection? raise MaxSessions in the device's sshd_config",
            )
        if str(error) == "Timeout opening channel.":
            return DeviceError(
                f"{device}: no answer to {what}: the link or the device is stuck",
                hint="look at the device and its network, then run again",
                retryable=True,
            )
        if self.alive and not isinstance(error, EOFError):
            return DeviceError(f"{device}: {what} failed: {error}", retryable=True)
        return DeviceError(
            f"{device}: the link dropped while {what}",
            hint="check the device's power and network, then run again",
            detail=str(error),
            retryable=True,
        )

    def answers(self, limit_s: float) -> bool:
        """Whether the other side still answers; a connection that does not is closed."""
        import paramiko

        with self._asking, self.watchdog.within(limit_s):
            if self.alive:
                with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                    self.transport.global_request("keepalive@openssh.com", wait=True)
        return self.alive

    def release(self) -> None:
        """Close this connection, and leave the one it runs over as it is; never raises."""
        self.watchdog.stop()
        self._cut()
        self._close_transport()

    def close(self) -> None:
        """Close this connection and give back the one it runs over; never raises.

        The wire is cut first: whoever is stuck in a write comes back then, also this method.
        """
        self.release()
        if self.when_closed is not None:
            self.when_closed()

    def _cut(self) -> None:
        if isinstance(self._wire, socket.socket):
            with contextlib.suppress(OSError):
                self._wire.shutdown(socket.SHUT_RDWR)
        elif self._via is not None:
            # Telling a jump host that hangs would hang: its own watchdog closes it then, for all.
            with self._via.watchdog.within(LEAVE_S), contextlib.suppress(Exception):
                self._wire.close()

    def _close_transport(self) -> None:
        with contextlib.suppress(Exception):
            self.transport.close()
        with contextlib.suppress(Exception):
            self._wire.close()  # a transport that has failed leaves it open
