"""What the parts of the ssh transport share: time-outs, logins, and the link that never hangs."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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


def family(kind: str) -> str:
    """The key type, where all signature types of one RSA key are one."""
    return "rsa" if kind in ("ssh-rsa", "rsa-sha2-512", "rsa-sha2-256") else kind


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
class Login:
    """Where to log in, as whom, and what the server must prove to be. `name` is what messages call it."""

    name: str
    address: str
    port: int
    user: str = ""
    key_file: str | None = None
    host_keys: tuple[str, ...] = ()
    option: str = "host_key"

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


class Link:
    """A connection that speaks SSH, perhaps over another one (the jump host's)."""

    def __init__(
        self, wire: socket.socket | paramiko.Channel, transport: paramiko.Transport, via: Link | None
    ) -> None:
        self.transport = transport
        self.watchdog = Watchdog(self.close)
        self._wire = wire
        self._via = via

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
            return DeviceError(
                f"{device}: {what} took too long; the connection was closed",
                hint="the device or its network is stuck or very slow; look at it, then run again",
                retryable=True,
            )
        if isinstance(error, paramiko.ChannelException):
            return DeviceError(
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

    def release(self) -> None:
        """Close this connection, and leave the one it runs over as it is."""
        self.watchdog.stop()
        with self._via.watchdog.within(SLACK_S) if self._via is not None else contextlib.nullcontext():
            self._close_transport()

    def close(self) -> None:
        """Close this connection and those it runs over; never raises.

        The wire is cut first: whoever is stuck in a write comes back then, also this method.
        """
        self.watchdog.stop()
        self._cut()
        self._close_transport()
        if self._via is not None:
            self._via.close()

    def _cut(self) -> None:
        if self._via is not None:
            self._via._cut()
        elif isinstance(self._wire, socket.socket):
            with contextlib.suppress(OSError):
                self._wire.shutdown(socket.SHUT_RDWR)

    def _close_transport(self) -> None:
        with contextlib.suppress(Exception):
            self.transport.close()
        with contextlib.suppress(Exception):
            self._wire.close()  # a transport that has failed leaves it open
